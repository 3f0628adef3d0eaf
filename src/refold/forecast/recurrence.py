"""The recurrent layer of a forecaster: of any cell, in one layer or in several that are joined residually."""

from __future__ import annotations

from typing import Any

from refold import cells
from refold.errors import DataError
from refold.ir.trace import Cell
from refold.nn.layer import Recurrent
from refold.nn.stacks import Stack
from refold.plan.cost import letters
from refold.shapes import shape_of

from .settings import Settings


def recurrence(settings: Settings, hidden: int, dilations: tuple[int, ...] = (1,)) -> Recurrent:
    """A layer for each dilation, over vectors of `hidden` numbers; those above the first add to what is below.

    Every further size that the cell asks for, beside m and n, is `hidden` as well.

    Errors  DataError for a cell that reads something else than one vector of any size.
    """
    cell = cells.of(settings.cell)
    further: dict[str, Any] = dict.fromkeys(letters(cell.graph) - {"m", "n"}, hidden)
    # One layer on every step is what Recurrent is by itself; compiled code takes it as it is.
    joined = Stack("residual", dilations) if len(dilations) > 1 else Stack("plain", dilations)
    stack = Stack() if dilations == (1,) else joined
    layer = Recurrent(cell, hidden, hidden, len(dilations), stack=stack, **further)
    if layer.input_features != hidden:
        told = ", ".join(leaf.name for leaf in cell.graph.leaves_of("input")) or "nothing"
        fact = f"cell {cell.name} reads {told}, and a forecast gives it one vector of any size"
        raise DataError(fact, 'declare one input, x=rf.Input("m")', "cell")
    return layer


def timed(settings: Settings, hidden: int) -> Recurrent:
    """A layer of a cell that reads a vector of `hidden` numbers and behind it a time step.

    Errors  DataError for a cell that reads something else.
    """
    cell = cells.of(settings.cell)
    if not _reads_time(cell):
        known = ", ".join(name for name, one in cells.all().items() if _reads_time(one))
        fact = f"cell {cell.name} reads no time step, and a network over times gives it one"
        remedy = f'take one of {known}, or declare two inputs, x=rf.Input("m") and dt=rf.Input("")'
        raise DataError(fact, remedy, "cell")
    further: dict[str, Any] = dict.fromkeys(letters(cell.graph) - {"m", "n"}, hidden)
    return Recurrent(cell, hidden, hidden, **further)


def _reads_time(cell: Cell) -> bool:
    inputs = cell.graph.leaves_of("input")
    return [leaf.shape for leaf in inputs] == [shape_of("m"), ()] and inputs[1].name == "dt"


def stacked(settings: Settings) -> tuple[int, ...]:
    """The dilations that settings name, where no season says more: one layer that reads the step before."""
    return settings.dilations or (1,) * (settings.layers or 1)
