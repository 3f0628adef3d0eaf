"""What is known at an origin: windows over one series, and naive continuations of it.

An *origin* t is the last observed step of a forecast; what is read here for an origin ends at t.
A series is padded in front with its own first season, so that early origins have a full window;
which origins count is for the caller to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Look:
    """How far back an origin looks.

    seasons: lengths of the seasons in steps, shortest first; () for none.
    recent: single values just before the origin. blocks: means over `width` steps before it.
    """

    seasons: tuple[int, ...]
    horizon: int
    recent: int
    blocks: int

    @property
    def season(self) -> int:
        """The first season, 1 without seasons."""
        return self.seasons[0] if self.seasons else 1

    @property
    def width(self) -> int:
        """Steps over which a level is taken: a season or a horizon, whichever is longer."""
        return max(self.season, self.horizon)

    @property
    def reach(self) -> int:
        """The furthest step before an origin that is read."""
        lags = [self.horizon + 2 * s + self.season for s in self.seasons]
        return max(self.recent, self.blocks * self.width, 2 * self.width, *lags, 1) + 1

    @property
    def names(self) -> tuple[str, ...]:
        """The naive continuations, in the order of `continuations`."""
        seasonal = [
            (f"season {s}", f"season {s} + level", f"two seasons {s}") for s in self.seasons
        ]
        return ("last value", *(name for three in seasonal for name in three), "drift", "mean")


def pad(z: Floats, look: Look) -> Floats:
    """z with `look.reach` values before it: its first season again and again.

    A series shorter than a season repeats its first value.
    """
    period = look.season if len(z) >= look.season else 1
    front = z[np.arange(-look.reach, 0) % period]
    return np.concatenate([front, z])


def continuations(padded: Floats, origins: Steps, look: Look) -> Floats:
    """Naive forecasts from every origin, in the order of `look.names`.

    Shapes  padded (N + reach,), origins (T,) as steps of the series -> (T, bases, horizon).
    """
    at = origins + look.reach
    ahead = np.arange(1, look.horizon + 1)
    level = _trailing_mean(padded, look.season)
    last = padded[at][:, None]
    slope = (padded[at] - padded[at - look.width]) / look.width
    bases = [np.repeat(last, look.horizon, axis=1)]
    for season in look.seasons:
        bases += _seasonal(padded, level, at, ahead, season)
    bases.append(last + ahead * slope[:, None])
    bases.append(np.repeat(_trailing_mean(padded, look.width)[at][:, None], look.horizon, axis=1))
    return np.stack(bases, axis=1)


def _seasonal(padded: Floats, level: Floats, at: Steps, ahead: Steps, season: int) -> list[Floats]:
    """The last season, the same moved to today's level, and the mean of two so moved."""
    back = -(-ahead // season) * season
    lag = at[:, None] + ahead - back
    now = level[at][:, None]
    moved = padded[lag] + now - level[at[:, None] - back]
    before = padded[lag - season] + now - level[at[:, None] - back - season]
    return [padded[lag], moved, 0.5 * (moved + before)]


def recent_values(padded: Floats, origins: Steps, count: int, look: Look) -> Floats:
    """The last `count` values, newest first: (T, count). Before the padding, its first value."""
    return padded[np.maximum(origins[:, None] + look.reach - np.arange(count), 0)]


def block_means(padded: Floats, origins: Steps, look: Look) -> Floats:
    """Means over the last `look.blocks` stretches of `look.width` steps, newest first."""
    ends = origins[:, None] + look.reach - look.width * np.arange(look.blocks)
    return _trailing_mean(padded, look.width)[ends]


def spread(padded: Floats, origins: Steps, look: Look) -> Floats:
    """Standard deviation over the last two widths before every origin: (T,)."""
    inside = np.arange(2 * look.width)
    return padded[origins[:, None] + look.reach - inside].std(axis=1)


def targets(z: Floats, origins: Steps, horizon: int) -> tuple[Floats, NDArray[np.bool_]]:
    """What followed every origin, and which of it exists: (T, horizon) twice; absent is 0."""
    steps = origins[:, None] + np.arange(1, horizon + 1)
    exists = (steps >= 0) & (steps < len(z))
    return np.where(exists, z[np.clip(steps, 0, len(z) - 1)], 0.0), exists


def origin_grid(length: int, stride: int, steps: int, first: int) -> list[Steps]:
    """Chains of origins that together visit every step from `first` on.

    Each chain has `steps` origins, `stride` apart; the first chain ends at the last step of the
    series, the others end earlier by offsets 0 .. stride - 1 and overlap by a third.
    Origins before `first` are there to keep the chains equally long: they are not to be counted.
    """
    hop = max(1, 2 * steps // 3) * stride
    reach = (steps - 1) * stride
    chains: list[Steps] = []
    for offset in range(min(stride, max(1, length - first))):
        end = length - 1 - offset
        chains.append(end - stride * np.arange(steps - 1, -1, -1))
        while end - reach > first:
            end -= hop
            chains.append(end - stride * np.arange(steps - 1, -1, -1))
    return chains


def seasons_within(candidates: Sequence[int], length: int) -> tuple[int, ...]:
    """The seasons that a series of this length holds at least twice, shortest first."""
    return tuple(sorted({s for s in candidates if s > 1 and 2 * s <= length}))


def _trailing_mean(padded: Floats, width: int) -> Floats:
    """Mean over the `width` values that end at each step (fewer at the very front)."""
    total = np.concatenate([[0.0], np.cumsum(padded)])
    ends = np.arange(1, len(padded) + 1)
    starts = np.maximum(ends - width, 0)
    return (total[ends] - total[starts]) / (ends - starts)
