"""A forecast with its intervals: those of its own distributions, conformal ones, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .distribution import Distribution
from .forecaster import Fitted, mean_ahead, predict_distribution, predict_panel
from .intervals import Band, Calibration
from .panel import Panel
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
    fitted: Fitted,
    calibration: Calibration | None = None,
    levels: Sequence[float] = (),
    ahead: Tensor | None = None,
) -> Predicted:
    """The forecast after the end of the series, with an interval for each level.

    Intervals of a point forecast need a calibration: without one there are none. Those of a
    distribution are its own quantiles; a calibration moves them to where values came to lie. ahead:
    what `mean_ahead` gives, where it is there already.
    """
    ahead = mean_ahead(fitted) if ahead is None else ahead
    found = predict_distribution(fitted, ahead)
    values = predict_panel(fitted, ahead) if found is None else found.centre
    return Predicted(values, bands_of(fitted.panel, values, found, calibration, levels), found)


def bands_of(
    panel: Panel,
    values: Sequence[Floats],
    found: Distribution | None,
    calibration: Calibration | None,
    levels: Sequence[float],
) -> tuple[Band, ...]:
    """The intervals of a forecast of the series of a panel; found: its distribution, if it has one."""
    if found is not None:
        return tuple(_band(found, calibration, level) for level in levels)
    return calibration.bands(panel, values, levels) if calibration else ()


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
