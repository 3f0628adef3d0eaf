"""How far forecasts are off. One definition each, over the horizon of one series.

Shapes  y, f (H,): what came, and what was forecast. history (N,): what was known.

Source  Hyndman & Koehler 2006 for MASE; Makridakis et al. 2020 (M4) for the sMAPE used here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NAMES = ("MAE", "RMSE", "sMAPE", "MASE")
DEFINITIONS = {
    "MAE": "mean |y - f|, in the units of the series",
    "RMSE": "square root of mean (y - f)², in the units of the series",
    "sMAPE": "mean 200 |y - f| / (|y| + |f|), in percent, 0 to 200; 0 where both are 0",
    "MASE": "MAE divided by mean |y(t) - y(t - season)| over the known part; below 1 is better "
    "than the seasonal naive forecast was there, one step ahead",
}


def mae(y: Floats, f: Floats) -> float:
    """Mean absolute error. Units: those of the series."""
    return float(np.abs(y - f).mean())


def rmse(y: Floats, f: Floats) -> float:
    """Root mean squared error. Units: those of the series."""
    away = np.abs(y - f)
    # The squares of very small or large errors are no longer numbers: their size comes first.
    size = float(away.max()) or 1.0
    return float(np.sqrt(np.square(away / size).mean())) * size


def smape(y: Floats, f: Floats) -> float:
    """Symmetric mean absolute percentage error. Units: percent, 0 to 200."""
    size = np.abs(y) + np.abs(f)
    return float((200 * np.abs(y - f) / np.where(size > 0, size, 1)).mean())


def naive_error(history: Floats, season: int) -> float:
    """Mean |y(t) - y(t - season)|: the in-sample error of the seasonal naive forecast.

    A history no longer than the season is measured with season 1. Units: those of the series.
    """
    lag = season if len(history) > season else 1
    return float(np.abs(history[lag:] - history[:-lag]).mean()) if len(history) > 1 else 0.0


def mase(y: Floats, f: Floats, history: Floats, season: int) -> float:
    """Mean absolute scaled error; NaN where the history never changed. Units: none."""
    scale = naive_error(history, season)
    return mae(y, f) / scale if scale > 0 else float("nan")


def measure(y: Floats, f: Floats, history: Floats, season: int) -> dict[str, float]:
    """All four, by name."""
    return {
        "MAE": mae(y, f),
        "RMSE": rmse(y, f),
        "sMAPE": smape(y, f),
        "MASE": mase(y, f, history, season),
    }
