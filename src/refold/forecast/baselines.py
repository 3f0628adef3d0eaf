"""What a network has to beat: the naive forecasts and a linear autoregression.

Each takes the known values of one series (N,) and returns the next `horizon` (H,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refold.data.scale import Scale, choose_transform

from . import least_squares

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

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

    @property
    def order(self) -> int:
        """The number of lags."""
        return len(self.weights)

    def predict(self, values: Floats, horizon: int) -> Floats:
        """What follows these values, recursively: each forecast is a lag of the next.

        A recursion that diverges is cut off at the scale's limits.
        """
        recent = self.scale.apply(values[len(values) - self.order :])
        return self.scale.invert(self.ahead(recent[None, ::-1], horizon)[0])

    def ahead(self, lags: Floats, horizon: int) -> Floats:
        """Scaled forecasts from many origins: lags (T, order), newest first -> (T, horizon)."""
        order = self.order
        line = np.empty((len(lags), order + horizon))
        line[:, :order] = lags[:, ::-1]
        oldest_first = self.weights[::-1]
        for k in range(horizon):
            z = self.intercept + line[:, k : k + order] @ oldest_first
            line[:, order + k] = z.clip(self.scale.low, self.scale.high)
        return line[:, order:]


def autoregressions(
    values: Sequence[Floats],
    seasons: tuple[int, ...],
    scales: Sequence[Scale],
    missing: Sequence[Bools | None],
) -> list[Autoregression]:
    """`autoregression` of many series, those of equal length together. scales, missing: of each."""
    scaled = [scale.apply(y) for scale, y in zip(scales, values, strict=True)]
    found: dict[int, Autoregression] = {}
    for i, (z, absent) in enumerate(zip(scaled, missing, strict=True)):
        if absent is not None and absent.any():
            weights = _of_observed(z, seasons, ~absent)
            found[i] = Autoregression(scales[i], float(weights[0]), weights[1:])
    lengths = np.array([len(z) if i not in found else 0 for i, z in enumerate(scaled)])
    for length in np.unique(lengths[lengths > 0]):
        rows = np.flatnonzero(lengths == length)
        fitted = _of_length(np.stack([scaled[i] for i in rows.tolist()]), seasons)
        for i, weights in zip(rows.tolist(), fitted, strict=True):
            found[i] = Autoregression(scales[i], float(weights[0]), weights[1:])
    return [found[i] for i in range(len(scaled))]


def _of_length(z: Floats, seasons: tuple[int, ...]) -> list[Floats]:
    if z.shape[1] < _FEWEST:
        return [np.array([0.0, 1.0])] * len(z)
    return least_squares.autoregressions(z, _orders(z.shape[1], seasons))


def _of_observed(z: Floats, seasons: tuple[int, ...], observed: Bools) -> Floats:
    if len(z) < _FEWEST:
        return np.array([0.0, 1.0])
    return least_squares.of_rows(z, _orders(len(z), seasons), observed)


def _orders(n: int, seasons: tuple[int, ...]) -> list[int]:
    seasonal = [p for s in seasons for p in (s, s + 1, 2 * s, 2 * s + 1)]
    most = min(_MOST_LAGS, max(1, n // 4))
    return sorted({p for p in [1, 2, 3, 4, 6, 8, 12, 24, *seasonal] if p <= most})


def autoregression(
    values: Floats,
    seasons: tuple[int, ...],
    scale: Scale | None = None,
    missing: Bools | None = None,
) -> Autoregression:
    """A linear autoregression by least squares, its order chosen by the Bayesian criterion.

    Orders tried: 1, 2, 3, 4, 6, 8, 12, 24, and each season s as s, s + 1, 2 s, 2 s + 1, up to a
    quarter of the length. All are compared on the same rows; the best is fitted again on all: see
    least_squares.py.

    Without a scale, the series gets its own. Of fewer than 4 points, the last one goes on. missing
    (N,): values that were filled in, which it does not have to explain.
    """
    scale = scale or Scale.fit(values, choose_transform([values]))
    return autoregressions([values], seasons, [scale], [missing])[0]
