"""What may be set of the forecaster. What is None follows from the panel: the rules are in course.py.

All were chosen on the last points of training parts, never on a held-out test part and for no
single series.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Literal, get_args

from refold import cells
from refold.errors import DataError
from refold.ir.trace import Cell

from .families import HEADS

Over = Literal["origins", "segments", "steps", "times"]
Measure = Literal["absolute", "squared"]
Scaling = Literal["window", "smoothing", "mean", "instance", "standard"]
# Those of networks over origins, and over windows.
_SCALINGS = (("window", "smoothing"), ("window", "mean", "instance", "standard"))


@dataclass(frozen=True, slots=True)
class Settings:
    """A frozen record of the model and its training."""

    # The GRU and the LSTM came out level on validation; the GRU has fewer weights.
    cell: str | Cell = "gru"
    # Every further size that a cell asks for, beside m and n, is `hidden` as well.
    hidden: int | None = None
    # What the recurrence runs over: forecast origins, with all of their past; or the last values
    # before one, in segments or one by one; or one by one with the time between them, where stamps are
    # irregular. Origins suit panels and short horizons, segments long ones.
    over: Over = "origins"
    # What a window is relative to: what is measured in it, or, over origins, a level and seasons that are
    # learned with the network by exponential smoothing of each series. Over segments, steps and times
    # "window" is its last value; there are its mean, its mean and deviation ("instance", reversible
    # instance normalisation), and those of the whole series ("standard") too.
    scaling: Scaling = "window"
    # Layers, each but the first added to the one below; how many of its steps each looks back.
    layers: int | None = None
    dilations: tuple[int, ...] | None = None
    # Over segments and steps: values before an origin, values of a segment, and what is minimised.
    look_back: int | None = None
    segment: int | None = None
    error: Measure = "absolute"
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
        numbers = ("hidden", "origins", "recent", "blocks", "steps", "batch", "members")
        for name in (*numbers, "layers", "look_back", "segment"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"{name} is {value}", "give at least 1", "Settings")
        for name, kind in (("over", Over), ("error", Measure), ("scaling", Scaling)):
            if getattr(self, name) not in get_args(kind):
                told = ", ".join(get_args(kind))
                fact = f"{name} is {getattr(self, name)!r}"
                raise DataError(fact, f"choose one of {told}", "Settings")
        known = _SCALINGS[self.over != "origins"]
        if self.scaling not in known:
            fact = f"scaling is {self.scaling}, and a network over {self.over} has no such one"
            raise DataError(fact, f"take one of {', '.join(known)}", "Settings")
        self._check_stack()

    def _check_stack(self) -> None:
        """Layers and dilations that cannot be, or that this recurrence has no place for."""
        given = self.dilations
        if given is not None:
            object.__setattr__(self, "dilations", tuple(given))
            whole = [isinstance(d, Integral) and not isinstance(d, bool) for d in given]
            if not given or not all(whole) or min(given) < 1:
                fact = f"dilations is {given!r}"
                raise DataError(fact, "give whole numbers, a step at least", "Settings")
            if self.layers not in (None, len(given)):
                fact = f"there are {self.layers} layers and {len(given)} dilations"
                raise DataError(fact, "give one for each layer", "Settings")
        branching = self.over in ("segments", "times")
        if branching and max(self.layers or 1, *(given or (1,))) > 1:
            fact = f"a recurrence over {self.over} has one layer, whose next step is the forecast"
            raise DataError(
                fact, 'leave layers and dilations out, or take over="steps"', "Settings"
            )

    @property
    def cell_name(self) -> str:
        """What to call the cell in a table."""
        return self.cell if isinstance(self.cell, str) else self.cell.name
