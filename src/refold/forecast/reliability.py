"""Do intervals hold what they say? The share of values inside, at every level, beside the level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refold.errors import DataError

from .evaluate import Evaluation
from .intervals import Calibration
from .metrics import coverage

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


def reliability(windows: Sequence[Evaluation], calibration: Calibration) -> Reliability:
    """Of all held-out values of some comparisons; levels that there are too few errors for are left out."""
    levels = [level for level in _LEVELS if _is_held(calibration, level)]
    found = []
    for window in windows:
        bands = calibration.bands(window.known, window.model.forecasts, levels)
        parts = window.held_out.series
        found.append(
            [
                np.mean(
                    [coverage(s.values, *b) for s, *b in zip(parts, one.low, one.high, strict=True)]
                )
                for one in bands
            ]
        )
    number = sum(sum(map(len, window.held_out.series)) for window in windows)
    return Reliability(np.array(levels, dtype=np.float64), 100 * np.mean(found, axis=0), number)


def _is_held(calibration: Calibration, level: float) -> bool:
    try:
        calibration.reach(level)
    except DataError:
        return False
    return True
