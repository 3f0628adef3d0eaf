"""`refold cells`: the zoo, a line for each cell."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from refold.cells import all as zoo
from refold.plan.plan import plan


def cells() -> None:
    """List the cells of the zoo: their states, weights, and the work of a step."""
    table = Table(box=None, pad_edge=False)
    for name in ("cell", "states", "weights", "FLOP per step and row"):
        table.add_column(name, no_wrap=name != "FLOP per step and row")
    table.add_column("what for")
    for name, cell in zoo().items():
        cost = plan(cell).cost
        states = ", ".join(f"{leaf.name}" for leaf in cell.graph.leaves_of("state"))
        table.add_row(
            name,
            states,
            str(cost.weights),
            str(cost.step),
            cell.about.partition(". ")[0].rstrip("."),
        )
    Console().print(table)
