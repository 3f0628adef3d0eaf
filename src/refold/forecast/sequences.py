"""From a panel to what the network is trained on: one row of numbers per origin.

A row holds what is known at its origin, and what the error needs to be measured in the units of
the series. `Layout` says which columns are which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refold.data import window
from refold.data.batch import Sequences
from refold.data.scale import Scale, Transform
from refold.data.window import Look

from .baselines import Autoregression, autoregression
from .metrics import naive_error, smape
from .panel import Series
from .settings import Settings

Floats = NDArray[np.float64]

# Features further out than this are outliers: cut, so that none rules a product.
_LIMIT = 6.0
# A stride that grows with the length: chains then reach far back where there is much to see.
_SPREAD = 120


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a row: features, bases (bases x horizon), then single numbers.

    level: z at the origin. correction: the unit of the correction. slope, offset: z into the units
    of the error. percent: the in-sample sMAPE of the seasonal naive forecast.
    """

    features: int
    bases: int
    horizon: int

    @property
    def size(self) -> int:
        """The number of columns."""
        return self.features + self.bases * self.horizon + 5

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (..., size) as features (..., F), bases (..., B, H) and the singles (..., 5)."""
        parts = x.split([self.features, self.bases * self.horizon, 5], dim=-1)
        return parts[0], parts[1].unflatten(-1, (self.bases, self.horizon)), parts[2]


def look_for(seasons: tuple[int, ...], horizon: int, settings: Settings) -> Look:
    """How far back to look, from the seasons and the horizon."""
    season = seasons[0] if seasons else 1
    recent = min(max(season, horizon, 12), settings.recent)
    return Look(seasons, horizon, recent, settings.blocks)


def layout_for(look: Look) -> Layout:
    """The columns that `_rows` writes."""
    inner = len(look.names) - 1  # beside the last value and the mean, the autoregression
    return Layout(look.recent + look.blocks + inner * look.horizon + 1, inner + 2, look.horizon)


def stride_for(length: int, look: Look) -> int:
    """Steps between origins: a divisor of the season, so that all are at one phase of it.

    The smallest that makes at most 120 origins of a series; a season at most.
    """
    wanted = length / _SPREAD
    divisors = [s for s in range(1, look.season + 1) if look.season % s == 0]
    return next((s for s in divisors if s >= wanted), look.season)


def first_origin(length: int, look: Look) -> int:
    """The first origin that counts: after a season, or 6 points, where the series has them."""
    return min(max(look.season, 6), max(1, length // 3)) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """One series as the network sees it.

    z (N,) is the scaled series, padded the same with its first season in front; line its linear
    autoregression, one of the continuations; singles the numbers of Layout but the level.
    """

    z: Floats
    padded: Floats
    scale: Scale
    line: Autoregression
    singles: Floats


def known(series: Series, scale: Scale, look: Look) -> Known:
    """What is derived from a series once, before any origin is looked at."""
    z = scale.apply(series.values)
    line = autoregression(series.values, look.seasons, scale)
    return Known(z, window.pad(z, look), scale, line, _singles(series.values, scale, look))


def training_rows(
    own: Known, look: Look, settings: Settings
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Chains of origins over one series: x (T, size), d (T, H) and mask (T, H) for each.

    d is in the units of the error, see `measured`.
    """
    first, stride, steps = _grid(own, look, settings)
    slope, offset = _tensor(own.singles[1:3])
    xs, ds, masks = [], [], []
    for chain in window.origin_grid(len(own.z), stride, steps, first):
        origins = np.maximum(chain, first)
        goal, exists = window.targets(own.z, origins, look.horizon)
        exists &= (chain >= first)[:, None]
        if exists.any():
            xs.append(_tensor(_rows(own, origins, look)))
            ds.append(measured(_tensor(goal), own.scale.transform, slope, offset))
            masks.append(torch.from_numpy(exists))
    return xs, ds, masks


def last_row(own: Known, look: Look, settings: Settings) -> Tensor:
    """The chain that ends at the last point: x (T, size)."""
    first, stride, steps = _grid(own, look, settings)
    chain = len(own.z) - 1 - stride * np.arange(steps - 1, -1, -1)
    return _tensor(_rows(own, np.maximum(chain, first), look))


def _grid(own: Known, look: Look, settings: Settings) -> tuple[int, int, int]:
    """The first origin, the stride, and the number of origins in a chain."""
    first = first_origin(len(own.z), look)
    stride = stride_for(len(own.z), look)
    return first, stride, min(settings.origins, max(2, -(-(len(own.z) - first) // stride)))


def measured(z: Tensor, transform: Transform, slope: Tensor, offset: Tensor) -> Tensor:
    """z in units of the naive error: the series' own units, divided by its in-sample error.

    Without a transform, the centre of the series stays out of it: only differences are looked at.
    """
    g = slope * z + offset
    if transform == "log":
        # e^20 naive errors is far outside of any series; beyond it the exponential overflows.
        return torch.exp(g.clamp(max=20.0))
    return g.clamp(min=0.0).square() if transform == "sqrt" else g


def sequences(series: Sequence[Known], look: Look, settings: Settings) -> Sequences:
    """All chains of all series."""
    parts = [training_rows(own, look, settings) for own in series]
    xs, ds, masks = ([one for part in parts for one in part[i]] for i in range(3))
    return Sequences(xs, ds, masks)


def _rows(own: Known, origins: NDArray[np.int64], look: Look) -> Floats:
    padded, singles = own.padded, own.singles
    lags = window.recent_values(padded, origins, own.line.order, look)
    line = own.line.ahead(lags, look.horizon)[:, None]
    bases = np.concatenate([window.continuations(padded, origins, look), line], axis=1)
    level = own.z[origins][:, None]
    width = np.maximum(window.spread(padded, origins, look)[:, None], 0.5 * singles[0])
    near = np.concatenate(
        [
            window.recent_values(padded, origins, look.recent, look),
            window.block_means(padded, origins, look),
            # The last value and the mean are among the other features.
            np.delete(bases, [0, len(look.names) - 1], axis=1).reshape(len(origins), -1),
        ],
        axis=1,
    )
    features = np.concatenate([(near - level) / width, np.log(width)], axis=1)
    relative = (bases - level[:, None]).reshape(len(origins), -1)
    constant = np.broadcast_to(singles, (len(origins), len(singles)))
    return np.concatenate([features.clip(-_LIMIT, _LIMIT), relative, level, constant], axis=1)


def _singles(values: Floats, scale: Scale, look: Look) -> Floats:
    """(correction, slope, offset, percent) of one series; see Layout."""
    z = scale.apply(values)
    lag = look.season if len(z) > look.season else 1
    steps = (np.abs(np.diff(z)).mean(), np.abs(z[lag:] - z[:-lag]).mean())
    # A series that never changes, or repeats itself exactly, still needs a unit.
    correction = max(float(min(steps)), 1e-3)
    level = float(np.abs(values).mean()) or 1.0
    unit = max(naive_error(values, look.season), 1e-3 * level)
    percent = max(smape(values[lag:], values[:-lag]), 0.1)
    if scale.transform == "log":
        slope, offset = scale.unit, scale.centre - np.log(unit)
    elif scale.transform == "sqrt":
        slope, offset = scale.unit / np.sqrt(unit), scale.centre / np.sqrt(unit)
    else:
        slope, offset = scale.unit / unit, 0.0
    return np.array([correction, slope, offset, percent])


def _tensor(values: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(torch.float32)
