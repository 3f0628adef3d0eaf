"""Classical decomposition: what a season adds to a series, phase by phase.

Source  Persons 1919; Hyndman & Athanasopoulos 2021, Forecasting: principles and practice, section 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def summands(values: Floats, seasons: Sequence[int]) -> list[Floats]:
    """What each season adds: (season,) each, the first for the phase of the first value; 0 on the mean.

    values (N,), NaN where none was observed. A longer season has what a shorter one leaves. A season that does not
    pass twice adds nothing.

    Example
        >>> summands(np.array([1.0, 5.0, 1.0, 5.0, 1.0, 5.0]), [2])
        [array([-2.,  2.])]
    """
    found, left = [], values
    for season in seasons:
        own = _summands(left, season)
        left = left - own[np.arange(len(left)) % season]
        found.append(own)
    return found


def _summands(values: Floats, season: int) -> Floats:
    """Means over what is above a centred moving average, phase by phase."""
    if len(values) < 2 * season:
        return np.zeros(season)
    weights = np.ones(season) / season
    if season % 2 == 0:
        weights = np.concatenate([[0.5], np.ones(season - 1), [0.5]]) / season
    half, known = len(weights) // 2, ~np.isnan(values)
    share = np.convolve(known, weights, mode="valid")
    trend = np.convolve(np.where(known, values, 0.0), weights, mode="valid")
    above = np.where(known & _inside(len(values), half), values, np.nan)
    above[half : len(values) - half] -= trend / np.where(share > 0, share, np.nan)
    counts = np.array([np.isfinite(above[phase::season]).sum() for phase in range(season)])
    sums = np.array([np.nansum(above[phase::season]) for phase in range(season)])
    means = sums / np.maximum(counts, 1)
    # A phase that was never observed adds nothing; the others are 0 on the mean.
    return np.where(counts > 0, means - means[counts > 0].mean() if counts.any() else 0.0, 0.0)


def _inside(length: int, half: int) -> NDArray[np.bool_]:
    places = np.arange(length)
    return (places >= half) & (places < length - half)
