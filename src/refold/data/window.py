"""What is known at an origin: a panel of series as tensors, and windows that end at any step of them.

An *origin* is the last observed step of a forecast; what is read here for an origin ends at it.
Series stand side by side with a common end. What lies before a series is filled with its own first
season, or its first value, so that early origins have a full window.

Series differ in what a good reference is. Where a whole season passes within the horizon, they are
*waves*: the level is a season's mean, the width that of the season's swing. Otherwise they are
*walks*: the level is the last value, and a move of k steps grows with the root of k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import beside
from .beside import Beside, Told

Floats = NDArray[np.float64]

# Features further out than this are outliers: cut, so that none rules a product.
_LIMIT = 6.0
# A series that has been still for a while gets a unit all the same: this part of what is usual.
_STILL = 0.1
# ... and one that repeats itself exactly is expected to err by this part.
_EXACT = 0.01
# The width of a walk, in mean moves of a step: what it moves by in ten steps or so.
_STEPS = 3.0

# What a network is told of, beside the seasons.
RECENT, BLOCKS = "recent values", "means further back"
# The differences of recent values, and what is told of other columns.
MOVES, COVARIATES = "recent moves", "covariates"


def lag_name(season: int, more: int) -> str:
    """What a season is called, `more` of them further back."""
    return f"{more + 1} seasons of {season} ago" if more else f"season of {season}"


@dataclass(frozen=True, slots=True)
class Look:
    """How far back an origin looks.

    seasons: lengths of the seasons in steps, shortest first; () for none. recent: single values
    just before the origin. blocks: means over `width` steps before it. back: how many of the
    longest seasons are continued. mixed: are there several naive continuations to mix, or the last
    value alone?
    """

    seasons: tuple[int, ...]
    horizon: int
    recent: int
    blocks: int
    back: int = 2
    mixed: bool = True

    @property
    def season(self) -> int:
        """The shortest season, 1 without seasons."""
        return self.seasons[0] if self.seasons else 1

    @property
    def waves(self) -> bool:
        """Does a whole season pass within the horizon?"""
        return 1 < self.season <= self.horizon

    @property
    def level(self) -> int:
        """Steps whose mean is the level."""
        return self.season if self.waves else 1

    @property
    def width(self) -> int:
        """Steps in a block, and of a drift: a season's or a horizon's, whichever is longer."""
        return max(self.season, self.horizon) if self.waves else self.horizon

    @property
    def memory(self) -> int:
        """Steps over which the size of moves is measured."""
        return max((*self.seasons, self.horizon, 8))

    @property
    def lags(self) -> tuple[tuple[int, int], ...]:
        """(season, how many more of it back) of each season that is continued."""
        if not self.seasons:
            return ()
        further = [(self.seasons[-1], more) for more in range(1, self.back)]
        return (*((s, 0) for s in self.seasons), *further)

    @property
    def reach(self) -> int:
        """The furthest step before an origin that is read."""
        lags = [(-(-self.horizon // s) + more) * s for s, more in self.lags]
        return max(self.recent, self.blocks * self.width, *lags, 1) + 1

    @property
    def drifts(self) -> tuple[int, ...]:
        """Steps over which a slope is taken that goes on."""
        if not self.mixed:
            return ()
        if self.waves:
            return (self.width,)
        return tuple(sorted({max(1, self.horizon // 3), self.horizon, self.memory}))

    @property
    def names(self) -> tuple[str, ...]:
        """The naive continuations, in the order of `continuations`."""
        seasonal = []
        for season, more in self.lags:
            of = f"{more + 1} seasons of {season} ago" if more else f"season {season}"
            seasonal += [of, f"{of} + level"] if self.waves else [f"{of} + level"]
        drifts = [f"drift of {width}" for width in self.drifts]
        return ("last value", *seasonal, *drifts, *["mean"] * self.mixed)

    @property
    def groups(self) -> tuple[str, ...]:
        """What each of the continuations hangs on, by the names of `told`."""
        per_lag = 2 if self.waves else 1
        seasonal = [lag_name(*lag) for lag in self.lags for _ in range(per_lag)]
        return (RECENT, *seasonal, *["drift"] * len(self.drifts), *[BLOCKS] * self.mixed)


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """Series with a common end, and what is measured at every step of them.

    Shapes  all (N, C) for N series, but first (N,), the column of each one's first value, and
    seasonal (S, N, C). step: mean |z(t) - z(t - 1)|; seasonal: the same over a season; spread: the
    deviation over `look.memory` steps; level and mean: over `look.level` and `look.width` steps.
    line: a linear forecast from every step (N, C, H) or from the last one (N, 1, H), where there is
    one. observed (N, C): where a value was observed and none filled in; None: everywhere. beside:
    covariates, where there are any.
    """

    look: Look
    z: Tensor
    first: Tensor
    level: Tensor
    mean: Tensor
    step: Tensor
    seasonal: Tensor
    spread: Tensor
    usual: float
    line: Tensor | None = None
    observed: Tensor | None = None
    beside: Beside | None = None

    @property
    def columns(self) -> int:
        """The number of columns; the last one is the end of every series."""
        return self.z.shape[1]

    @property
    def features(self) -> int:
        """How many numbers `seen` gives."""
        rows, at = torch.zeros(1, dtype=torch.long), torch.tensor([[self.columns - 1]])
        return seen(self, rows, at).shape[-1]

    @property
    def bases(self) -> int:
        """How many continuations there are."""
        return len(self.look.names) + (self.line is not None)


def past(
    series: Sequence[Floats],
    look: Look,
    most: int,
    lines: Sequence[Floats] | None = None,
    usual: float | None = None,
    missing: Sequence[NDArray[np.bool_] | None] = (),
) -> Past:
    """Series (each (n,)) as one panel; origins may lie up to `most` steps before the end.

    lines: forecasts (up to n, H) from the last steps of each, where there are any; from the last
    step only, if no series has more. usual: the width that is usual in the panel; None takes the
    median of these series at their end. missing: of each series (n,), which values were filled in;
    moves to and from these are not measured.
    """
    columns = min(max(map(len, series)), most) + look.reach
    z = torch.from_numpy(np.stack([_padded(one, look, columns) for one in series]))
    first = torch.tensor([max(0, columns - len(one)) for one in series])
    found = measured(look, z, first, where_observed(missing, columns), usual)
    return found if lines is None else replace(found, line=_ended(lines, columns, look.horizon))


def measured(
    look: Look, z: Tensor, first: Tensor, observed: Tensor | None, usual: float | None = None
) -> Past:
    """Series z (N, C), in double precision, with a common end, and what is measured at every step. As for `past`."""
    real = torch.arange(z.shape[1]) >= first[:, None]
    real = real if observed is None else real & observed
    step = _moves(z, real, 1, look.memory)
    seasonal = [_moves(z, real, s, max(s, look.memory)) for s in look.seasons]
    spread = _spread(z, look.memory)
    if usual is None:
        usual = float((spread if look.waves else _STEPS * step)[:, -1].median())
    return Past(
        look,
        z.float(),
        first,
        level=_trailing(z, look.level).float(),
        mean=_trailing(z, look.width).float(),
        step=step.float(),
        seasonal=(torch.stack(seasonal) if seasonal else z.new_zeros(0, *z.shape)).float(),
        spread=spread.float(),
        usual=max(usual, 1e-6),
        observed=observed,
    )


def where_observed(missing: Sequence[NDArray[np.bool_] | None], columns: int) -> Tensor | None:
    """Where no value was filled in: (N, columns); None where none was at all."""
    if all(one is None for one in missing):
        return None
    found = torch.ones(len(missing), columns, dtype=torch.bool)
    for own, one in zip(found, missing, strict=True):
        if one is not None:
            held = min(columns, len(one))
            own[columns - held :] = torch.from_numpy(~one[len(one) - held :])
    return found


def _ended(lines: Sequence[Floats], columns: int, horizon: int) -> Tensor:
    """Forecasts of each series with a common end; 0 before the series."""
    columns = columns if max(map(len, lines)) > 1 else 1
    found = torch.zeros(len(lines), columns, horizon)
    for own, given in zip(found, lines, strict=True):
        held = min(columns, len(given))
        own[columns - held :] = torch.from_numpy(given[len(given) - held :])
    return found


def _padded(z: Floats, look: Look, columns: int) -> Floats:
    """The last `columns` values, with the first season before them where there are fewer."""
    if len(z) >= columns:
        return z[len(z) - columns :]
    held = [s for s in look.seasons if s <= len(z)] if look.waves else []
    period = held[-1] if held else 1
    return np.concatenate([z[np.arange(len(z) - columns, 0) % period], z])


def _trailing(z: Tensor, width: int) -> Tensor:
    """Mean over the `width` values that end at each step (fewer at the very front)."""
    total = z.cumsum(1)
    sums = total.clone()
    sums[:, width:] -= total[:, :-width]
    return sums / torch.arange(1, z.shape[1] + 1).clamp(max=width)


def _moves(z: Tensor, real: Tensor, lag: int, width: int) -> Tensor:
    """Mean |z(t) - z(t - lag)| over the last `width` steps, as far as both exist; -1 where none."""
    if lag >= z.shape[1]:
        return torch.full_like(z, -1.0)
    exists = torch.nn.functional.pad((real[:, lag:] & real[:, :-lag]).double(), (lag, 0))
    moves = torch.nn.functional.pad((z[:, lag:] - z[:, :-lag]).abs(), (lag, 0)) * exists
    share = _trailing(exists, width)
    return torch.where(share > 0, _trailing(moves, width) / share.clamp(min=1e-9), -1.0)


def _spread(z: Tensor, width: int) -> Tensor:
    """The deviation over the `width` values that end at each step."""
    mean = _trailing(z, width)
    return (_trailing(z.square(), width) - mean.square()).clamp(min=0.0).sqrt()


# At origins: rows (B,) say which series, columns (T, B) which step.


def at(held: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """held (N, C) at some steps: (T, B), or (T, B, K) for columns (T, B, K)."""
    lead = rows[:, None] if columns.ndim == 3 else rows
    return held.flatten()[lead * held.shape[1] + columns.clamp(0, held.shape[1] - 1)]


def unit(past: Past, rows: Tensor, columns: Tensor) -> Tensor:
    """The width of a series at an origin: of its swing where it waves, else of some steps. (T, B)."""
    held = past.spread if past.look.waves else _STEPS * past.step
    return at(held, rows, columns).clamp(min=_STILL * past.usual)


def expected(past: Past, rows: Tensor, columns: Tensor) -> Tensor:
    """What the better naive forecast is expected to err by, k steps ahead: (T, B, H)."""
    look = past.look
    ahead = torch.arange(1, look.horizon + 1)
    step = at(past.step, rows, columns).clamp(min=0.0)[..., None] * ahead.sqrt()
    if look.waves:
        for season, held in zip(look.seasons, past.seasonal, strict=True):
            seasonal = at(held, rows, columns)[..., None]
            seasonal = seasonal * ((ahead - 1) // season + 1).sqrt()
            step = torch.where(seasonal > 0, torch.minimum(step, seasonal), step)
    return step.clamp(min=_EXACT * past.usual)


def continuations(past: Past, rows: Tensor, columns: Tensor) -> Tensor:
    """Naive forecasts in the order of `look.names`, relative to the level: (T, B, bases, H)."""
    look = past.look
    ahead = torch.arange(1, look.horizon + 1)
    level, last = at(past.level, rows, columns)[..., None], at(past.z, rows, columns)[..., None]
    count = (columns - past.first[rows]).clamp(min=1)
    found = [(last - level).expand(*columns.shape, look.horizon)]
    for season, more in look.lags:
        found += _seasonal(past, rows, columns, season, more, level)
    for width in look.drifts:
        over = count.clamp(max=width)
        slope = (at(past.z, rows, columns) - at(past.z, rows, columns - over)) / over
        found.append(last - level + slope[..., None] * ahead)
    if look.mixed:
        mean = at(past.mean, rows, columns)[..., None] - level
        found.append(mean.expand(*columns.shape, look.horizon))
    if past.line is not None:
        # Counted from the end: where there are forecasts of the last step only, others raise.
        found.append(past.line[rows, columns.clamp(min=0) - past.columns] - level)
    return torch.stack(found, dim=-2)


def _seasonal(
    past: Past, rows: Tensor, columns: Tensor, season: int, more: int, level: Tensor
) -> list[Tensor]:
    """A season again, as it was (waves only) and moved to today's level; both relative to it."""
    ahead = torch.arange(1, past.look.horizon + 1)
    back = (-(-ahead // season) + more) * season
    then = at(past.z, rows, columns[..., None] + ahead - back)
    moved = then - at(past.level, rows, columns[..., None] - back)
    return [then - level, moved] if past.look.waves else [moved]


def seen(past: Past, rows: Tensor, columns: Tensor) -> Tensor:
    """What a network is told at an origin, in the units of the series there: (T, B, features)."""
    return joined(told(past, rows, columns))


def joined(parts: dict[str, Tensor]) -> Tensor:
    """What `told` gives as one, outliers cut."""
    return torch.cat(list(parts.values()), dim=-1).clamp(-_LIMIT, _LIMIT)


def told(past: Past, rows: Tensor, columns: Tensor) -> dict[str, Tensor]:
    """The same by what it is of, in order: (T, B, features of it) each."""
    look, width = past.look, unit(past, rows, columns)[..., None]
    level = at(past.level, rows, columns)[..., None]
    near = at(past.z, rows, columns[..., None] - torch.arange(not look.waves, look.recent))
    blocks = at(past.mean, rows, columns[..., None] - look.width * torch.arange(look.blocks))
    count = columns - past.first[rows]
    parts = {
        "size and age": torch.cat([(width / past.usual).log(), _age(count, look)], dim=-1),
        RECENT: (near - level) / width,
        BLOCKS: (blocks - level) / width,
    }
    if not look.waves:
        parts[MOVES] = _last_moves(past, rows, columns)
    for season, more in look.lags:
        ago = season * (more + 1)
        change = level - at(past.level, rows, columns - ago)[..., None]
        usual = 1.0 if look.waves else ago**0.5 / _STEPS
        again = _seasonal(past, rows, columns, season, more, level)[0]
        known = (count >= ago).float()[..., None]
        each = [again / width, change / (usual * width), known]
        parts[lag_name(season, more)] = torch.cat(each, dim=-1)
    if past.beside is not None:
        parts[COVARIATES] = beside.seen(past.beside, look.recent, rows, columns)
    return parts


def _last_moves(past: Past, rows: Tensor, columns: Tensor) -> Tensor:
    """The last moves of a walk, in mean moves: sums of them hide what each was. (T, B, recent)."""
    near = at(past.z, rows, columns[..., None] - torch.arange(past.look.recent + 1))
    usual = at(past.step, rows, columns).clamp(min=_STILL * past.usual / _STEPS)
    return (near[..., :-1] - near[..., 1:]) / usual[..., None]


def _age(count: Tensor, look: Look) -> Tensor:
    """How much of a window exists, and on which scale the series is old."""
    full = (count + 1).float()
    share = (full / (look.recent + 1)).clamp(max=1.0)
    return torch.stack([share, (full / look.reach).clamp(0.01, 1.0).log()], dim=-1)


def covariates(past: Past, rows: Tensor, columns: Tensor, last: int) -> Told | None:
    """What goes beside the features of chains, of which the `last` origins are forecast from."""
    if past.beside is None:
        return None
    look = past.look
    how = (look.horizon, look.lags, look.level, past.usual)
    return beside.told(past.beside, rows, columns, last, *how)


def targets(past: Past, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """What followed every origin, and which of it exists: (T, B, H) twice."""
    steps = columns[..., None] + torch.arange(1, past.look.horizon + 1)
    exists = steps < past.columns
    if past.observed is not None:
        exists = exists & at(past.observed, rows, steps)
    return at(past.z, rows, steps), exists


def seasons_within(candidates: Sequence[int], length: int) -> tuple[int, ...]:
    """The seasons that a series of this length holds at least twice, shortest first."""
    return tuple(sorted({s for s in candidates if s > 1 and 2 * s <= length}))
