"""How far forecasts are off. One definition each, over the horizon of one series.

Shapes  y, f (H,): what came, and what was forecast. history (N,): what was known.
        quantiles (Q, H), samples (S, H); low, high (H,): the bounds of an interval.
        A NaN in y or history is a value that was not observed: it takes no part. Where none was
        observed, the error is NaN.

Source  Hyndman & Koehler 2006 for MASE and RMSSE; Makridakis et al. 2020 (M4) for sMAPE, OWA and
        MSIS; Gneiting & Raftery 2007 for the pinball loss, the CRPS and the interval score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Each is of one series. OWA compares tables, and is made of their means: see `owa`.
OF_SERIES = ("MAE", "RMSE", "sMAPE", "MASE", "RMSSE")
NAMES = (*OF_SERIES, "OWA")
DEFINITIONS = {
    "MAE": "mean |y - f|, in the units of the series",
    "RMSE": "square root of mean (y - f)², in the units of the series",
    "sMAPE": "mean 200 |y - f| / (|y| + |f|), in percent, 0 to 200; 0 where both are 0",
    "MASE": "MAE divided by mean |y(t) - y(t - season)| over the known part; below 1 is better "
    "than the seasonal naive forecast was there, one step ahead",
    "RMSSE": "RMSE divided by the square root of mean (y(t) - y(t - season))² over the known part",
    "OWA": "half of sMAPE / sMAPE of Naive2, plus half of MASE / MASE of Naive2, each a mean over "
    "the series; 1 is as good as Naive2, the last value with M4's seasonal adjustment",
    "pinball": "mean of q (y - f) where y is above the quantile f of level q, (1 - q) (f - y) where "
    "it is below, in the units of the series",
    "CRPS": "integral over all q of twice the pinball loss, in the units of the series; for a "
    "single forecast it is the MAE",
    "inside": "share of the values that lie in the interval, bounds included; the level is what "
    "it should be",
    "MSIS": "mean width of the interval, plus 2 / (1 - level) times what values lie outside of it, "
    "divided by mean |y(t) - y(t - season)| over the known part",
}

# Points


def mae(y: Floats, f: Floats) -> float:
    """Mean absolute error. Units: those of the series."""
    return _mean(np.abs(y - f))


def _mean(values: Floats) -> float:
    observed = values[~np.isnan(values)]
    return float(observed.mean()) if len(observed) else float("nan")


def rmse(y: Floats, f: Floats) -> float:
    """Root mean squared error. Units: those of the series."""
    return _root_mean_square(y - f)


def _root_mean_square(away: Floats) -> float:
    # The squares of very small or large errors are no longer numbers: their size comes first.
    size = float(np.fmax.reduce(np.abs(away))) or 1.0
    return float(np.sqrt(_mean(np.square(away / size)))) * size


def smape(y: Floats, f: Floats) -> float:
    """Symmetric mean absolute percentage error. Units: percent, 0 to 200."""
    size = np.abs(y) + np.abs(f)
    return _mean(200 * np.abs(y - f) / np.where(size > 0, size, 1))


def naive_steps(history: Floats, season: int) -> Floats:
    """y(t) - y(t - season): the in-sample errors of the seasonal naive forecast.

    A history no longer than the season is measured with season 1. Units: those of the series.
    """
    lag = season if len(history) > season else 1
    steps = history[lag:] - history[:-lag] if len(history) > 1 else np.zeros(1)
    observed = steps[~np.isnan(steps)]
    return observed if len(observed) else np.zeros(1)


def naive_error(history: Floats, season: int) -> float:
    """Mean |y(t) - y(t - season)|. Units: those of the series."""
    return float(np.abs(naive_steps(history, season)).mean())


def mase(y: Floats, f: Floats, history: Floats, season: int) -> float:
    """Mean absolute scaled error; NaN where the history never changed. Units: none."""
    return _ratio(mae(y, f), naive_error(history, season))


def rmsse(y: Floats, f: Floats, history: Floats, season: int) -> float:
    """Root mean squared scaled error; NaN where the history never changed. Units: none."""
    return _ratio(rmse(y, f), _root_mean_square(naive_steps(history, season)))


def owa(smape: float, mase: float, naive2: tuple[float, float]) -> float:
    """Overall weighted average, of means over the series. naive2: (sMAPE, MASE) of Naive2.

    Means come first, as in M4: it is no mean of ratios. NaN where Naive2 makes no error.

    Example
        >>> owa(9.0, 0.5, (18.0, 2.0))
        0.375
    """
    return 0.5 * (_ratio(smape, naive2[0]) + _ratio(mase, naive2[1]))


def _ratio(value: float, scale: float) -> float:
    return value / scale if scale > 0 else float("nan")


def measure(y: Floats, f: Floats, history: Floats, season: int) -> dict[str, float]:
    """All that one series has, by name."""
    return {
        "MAE": mae(y, f),
        "RMSE": rmse(y, f),
        "sMAPE": smape(y, f),
        "MASE": mase(y, f, history, season),
        "RMSSE": rmsse(y, f, history, season),
    }


def mean_defined(values: Sequence[float]) -> float:
    """The mean of what is finite; NaN where nothing is."""
    defined = [value for value in values if np.isfinite(value)]
    return float(np.mean(defined)) if defined else float("nan")


def mean_observed(errors: Floats) -> Floats:
    """The mean over the first axis of what is no NaN: (n, H) -> (H,); NaN where nothing is."""
    if not np.isnan(errors).any():
        return errors.mean(axis=0)
    return np.array([_mean(step) for step in errors.T])


# Distributions


def pinball(y: Floats, f: Floats, q: float) -> float:
    """The loss of f as the quantile of level q, 0 < q < 1. Units: those of the series."""
    return _mean(np.maximum(q * (y - f), (q - 1) * (y - f)))


def crps_of_quantiles(y: Floats, quantiles: Floats, levels: Sequence[float]) -> float:
    """Continuous ranked probability score of a few quantiles. Units: those of the series.

    Each level, in increasing order, stands for the part of (0, 1) that is nearest to it: for levels
    (k - 1/2) / K this is the midpoint rule.
    """
    q = np.asarray(levels, dtype=np.float64)
    edges = np.concatenate([[0.0], (q[1:] + q[:-1]) / 2, [1.0]])
    losses = [pinball(y, f, float(level)) for f, level in zip(quantiles, q, strict=True)]
    return float(2 * np.diff(edges) @ np.array(losses))


def crps_of_samples(y: Floats, samples: Floats) -> float:
    """The same of the distribution that puts equal weight on every sample, exactly.

    mean |X - y| - 1/2 mean |X - X'|, over all pairs of samples.
    """
    n = len(samples)
    ranks = 2 * np.arange(1, n + 1) - n - 1  # in order, sample i is the larger of i - 1 pairs
    apart = ranks @ np.sort(samples, axis=0) / n**2
    return _mean(np.abs(samples - y).mean(axis=0) - apart)


# Intervals


def coverage(y: Floats, low: Floats, high: Floats) -> float:
    """Share of values inside, 0 to 1, bounds included."""
    return _mean(np.where(np.isnan(y), np.nan, (low <= y) & (y <= high)))


def interval_score(y: Floats, low: Floats, high: Floats, level: float) -> float:
    """Mean width, plus 2 / (1 - level) times the distance of values outside.

    level is in percent, 0 < level < 100. Units: those of the series.
    """
    outside = np.maximum(low - y, 0) + np.maximum(y - high, 0)
    return _mean(high - low + 2 / (1 - level / 100) * outside)


def msis(y: Floats, low: Floats, high: Floats, level: float, history: Floats, season: int) -> float:
    """Mean scaled interval score; NaN where the history never changed. Units: none."""
    return _ratio(interval_score(y, low, high, level), naive_error(history, season))
