"""A forecast with its intervals: those of its own distributions, conformal ones, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .distribution import Distribution
from .forecaster import Fitted, predict_distribution, predict_panel
from .intervals import Band, Calibration
from .settings import Settings

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """The next values of every series, one (H,) each, and how certain they are.

    distribution: None for a point forecast.
    """

    values: list[Floats]
    bands: tuple[Band, ...]
    distribution: Distribution | None


def predicted(
    fitted: Fitted, calibration: Calibration | None = None, levels: Sequence[float] = ()
) -> Predicted:
    """The forecast after the end of the series, with an interval for each level.

    Intervals of a point forecast need a calibration: without one there are none. Those of a
    distribution are its own quantiles; a calibration moves them to where values came to lie.
    """
    found = predict_distribution(fitted)
    if found is None:
        values = predict_panel(fitted)
        bands = calibration.bands(fitted.panel, values, levels) if calibration else ()
        return Predicted(values, bands, None)
    bands = tuple(_band(found, calibration, level) for level in levels)
    return Predicted(found.centre, bands, found)


def _band(found: Distribution, calibration: Calibration | None, level: float) -> Band:
    if calibration is None:
        low, high = (found.quantile(0.5 + side * level / 200) for side in (-1, 1))
    else:
        low, high = (found.at(reach) for reach in calibration.reach(level))
    return Band(level, tuple(low), tuple(high))


def needs_calibration(settings: Settings) -> bool:
    """Are there no intervals before errors have been measured?"""
    return settings.head == "point"


def interval_note(
    settings: Settings, calibration: Calibration | None, levels: Sequence[float]
) -> str:
    """Where intervals come from, in words."""
    own = f"quantiles of the forecast's own distribution ({settings.head.replace('_', ' ')})"
    if calibration is None:
        return own
    told = calibration.note(levels)
    return told if settings.head == "point" else f"{own}, moved: {told}"
