"""A cell with given parameters, as a layer: sizes are read from the parameters' shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from refold.errors import DataError
from refold.ir.graph import Leaf
from refold.ir.trace import Cell
from refold.nn.layer import Recurrent
from refold.plan.cost import letters

WHERE = "rf.dynamics(cell, parameters=...)"


def layer_of(cell: Cell, parameters: Mapping[str, Any] | None) -> Recurrent:
    """A layer of float64 that holds the parameters; scalars that are not given keep their declared values.

    Errors  DataError for a parameter that is missing, unknown, or of a shape that does not fit
    """
    given = {
        name: torch.as_tensor(value, dtype=torch.float64).detach()
        for name, value in (parameters or {}).items()
    }
    leaves = cell.graph.leaves_of("param")
    strange = [name for name in given if name not in {leaf.name for leaf in leaves}]
    missing = [leaf.name for leaf in leaves if leaf.shape and leaf.name not in given]
    if strange or missing:
        wrong = (
            f"no parameter {strange[0]}" if strange else f"a parameter {missing[0]} without a value"
        )
        known = ", ".join(leaf.name for leaf in leaves)
        raise DataError(f"cell '{cell.name}' has {wrong}", f"its parameters are {known}", WHERE)
    sizes = _sizes(cell, leaves, given)
    m, n = sizes.pop("m", 0), sizes.pop("n", 1)
    layer = Recurrent(cell, m, n, backend="reference", dtype=torch.float64, **sizes)
    named = layer._part(0, False).named()
    with torch.no_grad():
        for name, value in given.items():
            _fill(name, named[name], value, cell)
    return layer


def _sizes(cell: Cell, leaves: tuple[Leaf, ...], given: Mapping[str, Tensor]) -> dict[str, Any]:
    """The number of each letter, from a parameter that has an axis of that letter alone."""
    found: dict[str, Any] = {}
    for leaf in leaves:
        value = given.get(leaf.name)
        if value is None or value.ndim != len(leaf.shape):
            continue
        for size, number in zip(leaf.shape, value.shape, strict=True):
            if str(size) in letters(cell.graph):
                found.setdefault(str(size), number)
    unknown = sorted(letters(cell.graph) - set(found) - {"m", "n"})
    if unknown:
        fact = f"no parameter of cell '{cell.name}' says how large {unknown[0]} is"
        remedy = f"make a layer: rf.Recurrent(cell, m, n, {unknown[0]}=...)"
        raise DataError(fact, remedy, WHERE)
    return found


def _fill(name: str, place: Tensor, value: Tensor, cell: Cell) -> None:
    if place.shape != value.shape:
        fact = f"{name} of cell '{cell.name}' is given as {tuple(value.shape)}"
        raise DataError(fact, f"it has the shape {tuple(place.shape)}", WHERE)
    place.copy_(value)
