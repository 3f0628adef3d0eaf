"""What a network has to beat: the naive forecasts and a linear autoregression.

Each takes the known values of one series (N,) and returns the next `horizon` (H,).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refold.data.scale import Scale, choose_transform

Floats = NDArray[np.float64]

# More lags than this cost more time than they have been seen to bring.
_MOST_LAGS = 400
# Two numbers are fitted at least, and something has to be left to judge them by.
_FEWEST = 4


def naive(values: Floats, horizon: int) -> Floats:
    """The last value, for every step."""
    return np.repeat(values[-1], horizon)


def seasonal_naive(values: Floats, horizon: int, season: int) -> Floats:
    """The last season, again and again; the last value where there is no whole season."""
    if len(values) < season:
        return naive(values, horizon)
    return values[len(values) - season + np.arange(horizon) % season]


@dataclass(frozen=True, slots=True, eq=False)
class Autoregression:
    """z(t) = intercept + sum_i weights[i] z(t - 1 - i), fitted to one series.

    z is the scaled series: its logarithm where all values are positive (see data/scale.py), as
    the network sees it.
    """

    scale: Scale
    intercept: float
    weights: Floats
    recent: Floats

    @property
    def order(self) -> int:
        """The number of lags."""
        return len(self.weights)

    def predict(self, horizon: int) -> Floats:
        """Recursively: each forecast is a lag of the next.

        A recursion that diverges is cut off at the scale's limits.
        """
        return self.scale.invert(self.ahead(self.recent[None, ::-1], horizon)[0])

    def ahead(self, lags: Floats, horizon: int) -> Floats:
        """Scaled forecasts from many origins: lags (T, order), newest first -> (T, horizon)."""
        found = np.empty((len(lags), horizon))
        lags = lags.copy()
        for k in range(horizon):
            z = self.intercept + lags @ self.weights
            found[:, k] = z.clip(self.scale.low, self.scale.high)
            lags[:, 1:] = lags[:, :-1].copy()
            lags[:, 0] = found[:, k]
        return found


def autoregression(
    values: Floats,
    seasons: tuple[int, ...],
    scale: Scale | None = None,
    missing: NDArray[np.bool_] | None = None,
) -> Autoregression:
    """A linear autoregression by least squares, its order chosen by the Bayesian criterion.

    Orders tried: 1, 2, 3, 4, 6, 8, 12, 24, and each season s as s, s + 1, 2 s, 2 s + 1, up to a
    quarter of the length. All are compared on the same rows; the best is fitted again on all.

    Without a scale, the series gets its own. Of fewer than 4 points, the last one goes on. missing
    (N,): values that were filled in, which it does not have to explain.

    Source  Schwarz 1978 for the criterion, n log(mean squared error) + (p + 1) log n.
    """
    scale = scale or Scale.fit(values, choose_transform([values]))
    z = scale.apply(values)
    if len(z) < _FEWEST:
        return Autoregression(scale, 0.0, np.ones(1), z[-1:])
    seen = np.ones(len(z), dtype=bool) if missing is None else ~missing
    order = _best_order(z, seasons, seen)
    design, goal = _observed(z, order, seen)
    solution = np.linalg.lstsq(design, goal, rcond=None)[0].astype(np.float64)
    return Autoregression(scale, float(solution[0]), solution[1:], z[-order:])


def _best_order(z: Floats, seasons: tuple[int, ...], seen: NDArray[np.bool_]) -> int:
    seasonal = [p for s in seasons for p in (s, s + 1, 2 * s, 2 * s + 1)]
    most = min(_MOST_LAGS, max(1, len(z) // 4))
    orders = sorted({p for p in [1, 2, 3, 4, 6, 8, 12, 24, *seasonal] if p <= most})
    design, known = _observed(z, orders[-1], seen)
    gram, moment, power = design.T @ design, design.T @ known, float(known @ known)
    n = len(known)

    def criterion(p: int) -> float:
        part = slice(0, p + 1)
        solution = np.linalg.lstsq(gram[part, part], moment[part], rcond=None)[0]
        error = max(power - float(moment[part] @ solution), 1e-12 * max(power, 1.0))
        return n * np.log(error / n) + (p + 1) * np.log(n)

    return min(orders, key=criterion)


def _observed(z: Floats, order: int, seen: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The rows whose value was observed, all where none was, and these values."""
    design, goal, rows = _lagged(z, order), z[order:], seen[order:]
    return (design, goal) if rows.all() or not rows.any() else (design[rows], goal[rows])


def _lagged(z: Floats, order: int) -> Floats:
    """Rows (1, z(t-1), ..., z(t-order)) for t = order .. N-1."""
    lags = [z[order - i : len(z) - i] for i in range(1, order + 1)]
    return np.stack([np.ones(len(z) - order), *lags], axis=1)
