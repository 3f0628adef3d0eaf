"""What verbs on frames give back where it is more than one frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .backtest import Backtest
from .settings import Settings
from .tuning import Tuned


@dataclass(frozen=True, slots=True, eq=False)
class Backtested:
    """A backtest as tables, in the kind of frame that was given.

    frame: unique_id, ds, cutoff, y, y_hat, and y_hat-lo-95, y_hat-hi-95 for every level. metrics: a
    row for each method. by_horizon: a row for each step ahead, a column for each method. found: the
    same as records.
    """

    frame: Any
    metrics: Any
    by_horizon: Any
    found: Backtest


@dataclass(frozen=True, slots=True, eq=False)
class TunedFrames:
    """A search for settings as a table, in the kind of frame that was given.

    trials: a row for each, with its error and what it tried. settings: those of the best. found: the
    same as records.
    """

    trials: Any
    settings: Settings
    found: Tuned
