"""Naive2: the last value, with a seasonal adjustment where the series is seasonal.

It is what the overall weighted average (OWA) of the M4 competition is relative to. Where the test
finds a season, the series is divided by the indices of a multiplicative classical decomposition,
its last value goes on, and each step is multiplied by its index again.

Source  Makridakis et al. 2020, and the competition's code in R: Benchmarks and Evaluation.R. The
        seasonality test is the one of Assimakopoulos & Nikolopoulos 2000 at 90 percent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_NORMAL_90 = 1.645  # two-sided


def naive2(values: Floats, horizon: int, season: int) -> Floats:
    """The next `horizon` values. Shapes: values (N,) -> (horizon,).

    Example
        >>> naive2(np.array([1.0, 2.0, 3.0]), 2, 1)
        array([3., 3.])
    """
    last = np.repeat(values[-1], horizon)
    if not is_seasonal(values, season):
        return last
    indices = seasonal_indices(values, season)
    phases = np.arange(len(values) - 1, len(values) + horizon) % season
    return last / indices[phases[0]] * indices[phases[1:]]


def is_seasonal(values: Floats, season: int) -> bool:
    """Does the autocorrelation at the season stand out from that of a series without one?

    Only with three seasons, and where every value is positive: indices are factors.
    """
    n = len(values)
    if season < 2 or n < 3 * season or not values.min() > 0:
        return False
    r = _autocorrelation(values, season)
    limit = _NORMAL_90 * np.sqrt((1 + 2 * np.square(r[1:season]).sum()) / n)
    return bool(np.abs(r[season]) > limit)


def _autocorrelation(values: Floats, lags: int) -> Floats:
    """Lags 0 to `lags`, each a sum over N - lag products divided by the variance's sum over N."""
    size = float(np.abs(values).max()) or 1.0
    away = values / size - (values / size).mean()
    power = float(away @ away)
    if power < 1e-24 * len(values):  # a constant, and what rounding left of it
        return np.zeros(lags + 1)
    return np.array([away[lag:] @ away[: len(away) - lag] for lag in range(lags + 1)]) / power


def seasonal_indices(values: Floats, season: int) -> Floats:
    """One factor for each phase, the first for that of the first value; their mean is 1.

    The mean of values over a centred moving average, as `decompose(type="multiplicative")` in R.
    """
    weights = np.ones(season) / season
    if season % 2 == 0:
        weights = np.concatenate([[0.5], np.ones(season - 1), [0.5]]) / season
    half = len(weights) // 2
    ratios = np.full(len(values), np.nan)
    ratios[half : len(values) - half] = values[half : len(values) - half] / np.convolve(
        values, weights, mode="valid"
    )
    means = np.array([np.nanmean(ratios[phase::season]) for phase in range(season)])
    return means / means.mean()
