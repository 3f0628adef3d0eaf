"""Do intervals hold what they say? The share of values inside, at every level, beside the level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refold.errors import DataError

from .evaluate import Evaluation
from .intervals import Band, Calibration
from .metrics import coverage, mean_defined
from .predicted import bands_of

Floats = NDArray[np.float64]

_LEVELS = (*range(5, 100, 5), 97, 99)


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Levels in percent (L,), and the share of measured values inside of their intervals (L,).

    number: how many values were measured. Neighbours of one series are alike, so they say less than
    as many independent ones would.
    """

    levels: Floats
    inside: Floats
    number: int


def reliability(
    windows: Sequence[Evaluation], calibration: Calibration | None = None
) -> Reliability:
    """Of all held-out values of some comparisons; levels that there are too few errors for are left out.

    calibration: None for forecasts with distributions, whose own quantiles are looked at.
    """
    levels = [level for level in _LEVELS if _is_held(calibration, level)]
    found = [
        [_inside(window, band) for band in _bands(window, calibration, levels)]
        for window in windows
    ]
    number = sum(len(s.known) for window in windows for s in window.held_out.series)
    inside = [mean_defined(each) for each in zip(*found, strict=True)]
    return Reliability(np.array(levels, dtype=np.float64), 100 * np.array(inside), number)


def _bands(
    window: Evaluation, calibration: Calibration | None, levels: Sequence[float]
) -> tuple[Band, ...]:
    forecasts = list(window.model.forecasts)
    return bands_of(window.known, forecasts, window.distribution, calibration, levels)


def _inside(window: Evaluation, band: Band) -> float:
    """The mean share over the series; NaN where no value was observed."""
    parts = zip(window.held_out.series, band.low, band.high, strict=True)
    return mean_defined([coverage(s.observed, low, high) for s, low, high in parts])


def _is_held(calibration: Calibration | None, level: float) -> bool:
    if calibration is None:
        return True
    try:
        calibration.reach(level)
    except DataError:
        return False
    return True
