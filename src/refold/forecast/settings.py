"""What may be set of the forecaster. What is None follows from the panel: the rules are in course.py.

All were chosen on the last points of training parts, never on a held-out test part and for no
single series.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from refold import cells
from refold.errors import DataError
from refold.ir.trace import Cell

from .families import HEADS


@dataclass(frozen=True, slots=True)
class Settings:
    """A frozen record of the model and its training."""

    # The GRU and the LSTM came out level on validation; the GRU has fewer weights.
    cell: str | Cell = "gru"
    # Every further size that a cell asks for, beside m and n, is `hidden` as well.
    hidden: int | None = None
    # Origins in a chain whose error counts.
    origins: int | None = None
    # Single values seen directly; further back the network sees means over whole widths.
    recent: int = 48
    blocks: int = 6
    # Few series have few origins: without these two, a network learns them by heart.
    dropout: float | None = None
    noise: float | None = None
    # Steps of the optimiser. The rate rises to its height, then falls as a cosine.
    steps: int | None = None
    rate: float = 3e-3
    batch: int | None = None
    # What a forecast says of its certainty: "point" nothing, so that intervals are conformal alone;
    # else the family of its distributions, see `families`.
    head: str = "point"
    # Forecasts of networks that look at other windows, from other starts, are averaged.
    members: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.cell, str):
            cells.get(self.cell)  # an unknown name is an error now, not in training
        elif not isinstance(self.cell, Cell):
            fact = f"the cell is a {type(self.cell).__name__}"
            raise DataError(
                fact, "give the name of a cell, or a function under @rf.cell", "Settings"
            )
        if self.head not in HEADS:
            fact = f"there is no head {self.head!r}"
            raise DataError(fact, f"take one of {', '.join(HEADS)}", "Settings")
        if isinstance(self.seed, bool) or not isinstance(self.seed, Integral):
            raise DataError(f"the seed is {self.seed!r}", "give a whole number", "Settings")
        for name in ("hidden", "origins", "recent", "blocks", "steps", "batch", "members"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"{name} is {value}", "give at least 1", "Settings")

    @property
    def cell_name(self) -> str:
        """What to call the cell in a table."""
        return self.cell if isinstance(self.cell, str) else self.cell.name
