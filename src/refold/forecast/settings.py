"""How the forecaster is built and trained. Every default stands here once, with its reason.

All were chosen on the last points of training parts (several origins, six series of monthly,
weekly and half-hourly spacing together), never on a held-out test part and for no single series.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from refold import cells
from refold.errors import DataError
from refold.ir.trace import Cell


@dataclass(frozen=True, slots=True)
class Settings:
    """A frozen record of the model and its training."""

    # The GRU and the LSTM came out level on validation; the GRU has fewer weights.
    cell: str | Cell = "gru"
    # Every further size that a cell asks for, beside m and n, is `hidden` as well.
    hidden: int = 48
    # Enough to carry a slow cycle (100 are no better), and few enough for a loop in Python.
    origins: int = 64
    # Single values seen directly; further back the network sees means over whole widths.
    recent: int = 48
    blocks: int = 6
    # One series has few origins: without these two, the network learns them by heart.
    dropout: float = 0.2
    noise: float = 0.2
    # Steps of the optimiser, and the rate of each stage: fast, then finer.
    steps: tuple[int, ...] = (60, 30, 30)
    rates: tuple[float, ...] = (3e-3, 1e-3, 3e-4)
    batch: int = 16
    # Forecasts of networks from several starts are averaged: their errors differ in part.
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
        if isinstance(self.seed, bool) or not isinstance(self.seed, Integral):
            raise DataError(f"the seed is {self.seed!r}", "give a whole number", "Settings")
        for name in ("hidden", "origins", "recent", "blocks", "batch", "members"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}", "give at least 1", "Settings")
        if len(self.steps) != len(self.rates):
            fact = f"there are {len(self.steps)} stages of steps and {len(self.rates)} rates"
            raise DataError(fact, "give a rate for each stage", "Settings")

    @property
    def cell_name(self) -> str:
        """What to call the cell in a table."""
        return self.cell if isinstance(self.cell, str) else self.cell.name

    def stage_steps(self, points: int) -> tuple[int, ...]:
        """The steps of each stage for so many points in all series together.

        The steps above suit about 500 points; fewer are sooner known by heart.
        """
        factor = min(4.0, max(0.5, (points / 500) ** 0.5))
        return tuple(max(1, round(n * factor)) for n in self.steps)
