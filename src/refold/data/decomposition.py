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

    values (N,), NaN where none was observed. A longer season has what a shorter one leaves. What chance alone would
    make of a season is taken off; one that does not pass three times, by which chance is told, adds nothing.

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
    return _shrunk([part[np.isfinite(part)] for part in (above[k::season] for k in range(season))])


def _shrunk(phases: Sequence[Floats]) -> Floats:
    """Means of phases, 0 on the mean, without the part that chance alone would make of them.

    Of series without a season means differ too. Their variance is that of the values of a phase among each other,
    divided by how many there are; what is left of the variance of the means is the season's (as James & Stein 1961).
    """
    counts = np.array([len(part) for part in phases])
    means = np.array([part.mean() if len(part) else 0.0 for part in phases])
    several = counts > 1
    if not several.any():
        return np.zeros(len(phases))
    # A phase that was never observed adds nothing.
    means = np.where(counts > 0, means - means[counts > 0].mean(), 0.0)
    chance = np.mean([part.var(ddof=1) / len(part) for part in phases if len(part) > 1])
    found = np.square(means[several]).mean()
    return means * max(0.0, 1.0 - chance / found) if found > 0 else means


def _inside(length: int, half: int) -> NDArray[np.bool_]:
    places = np.arange(length)
    return (places >= half) & (places < length - half)
