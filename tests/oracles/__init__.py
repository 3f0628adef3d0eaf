"""Hand-written steps of the papers for every cell of the zoo, family by family; see `oracle` for how they are run."""
