"""From a panel to windows: the last values before an origin, and what followed; every step is an origin.

Networks on windows see every value relative to the last one before the origin, in deviations of the series: a window
then says how a series has moved, whatever its level (Lin et al. 2023, SegRNN). Or relative to the window's mean, in its
deviations too (Kim et al. 2022, reversible instance normalisation), or to the series'. What a head says is in the units
of `Scaled.values`, as over origins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from refold.data import window
from refold.data.batch import Batch, Sequences
from refold.data.beside import Beside

from .along import Along, along
from .beside import beside
from .heads import WindowHead, lifted
from .lookback import Lookback
from .panel import Panel
from .sequences import Mean, Measured, Scaled, mean_of_own
from .settings import Scaling
from .times import Between, between

# Deviations of a series that a window which hardly moves counts as its own.
_STILL = 0.01
# Draws of windows in an epoch of `fit`: what happens between epochs then costs nothing.
_EPOCH = 50
# Series that are forecast together: enough to fill the products, few enough to fit a cache.
_ROWS = 512


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Series with a common end, each in its own deviations.

    Shapes  z (N, C) for N series; first (N,): the column of each one's first value, before which it is repeated;
    unit (N,): from there to `Scaled.values`; own (N,): which of the course's vectors is a series' own, -1 for none.
    apart: no series has one, and windows are drawn of any series; else an origin is drawn for all at once.
    observed (N, C): where no value was filled in; None: everywhere. beside: covariates, where there are any. seasons:
    those that pass within a window.
    """

    z: Tensor
    first: Tensor
    unit: Tensor
    own: Tensor
    back: int
    horizon: int
    apart: bool
    observed: Tensor | None
    beside: Beside | None = None
    seasons: tuple[int, ...] = ()
    # Nothing is relative to what is usual in the panel; see `data.window.Past.usual`.
    usual: float = 1.0
    # What windows are relative to.
    scaling: Scaling = "window"
    # Where stamps are irregular, the times of `times.times_of`.
    times: Tensor | None = None

    @property
    def columns(self) -> int:
        """The number of columns; the last one is the end of every series."""
        return self.z.shape[1]


class OnWindows(Protocol):
    """A network on windows.

    Shapes  windows (W, S, back) relative to their level, own (S,) -> (W, S, horizon), relative to the same; with
    spreads (W, S, horizon, 1 + spreads), see `WindowHead`
    """

    spreads: WindowHead | None

    def __call__(self, windows: Tensor, own: Tensor, along: Any) -> Tensor: ...


def windows_of(panel: Panel, data: Scaled, course: Lookback, back: int | None = None) -> Windows:
    """The panel as tensors: all of it, or what is seen from origins up to `back` steps before its end."""
    logs = data.transform == "log"
    unit = torch.tensor([s.unit if logs else 1.0 for s in data.scales], dtype=torch.float64)
    longest = max(map(len, data.values)) if back is None else course.back + back
    columns = max(longest, course.back)
    z = torch.stack([_ended(torch.from_numpy(y), columns) for y in data.values])
    first = torch.tensor([max(0, columns - len(y)) for y in data.values])
    places = {name: i for i, name in enumerate(course.names)}
    own = torch.tensor([places.get(s.name, -1) for s in panel.series])
    apart = not course.names
    scaled = (z / unit[:, None]).float()
    observed = window.where_observed([s.missing for s in panel.series], columns)
    held = beside(panel, data.beside, columns, course.horizon)
    return Windows(
        scaled,
        first,
        unit.float(),
        own,
        course.back,
        course.horizon,
        apart,
        observed,
        held,
        course.seasons,
        scaling=course.scaling,
    )


def _ended(y: Tensor, columns: int) -> Tensor:
    """The last `columns` values; the first one stands for those that are missing before it."""
    missing = max(0, columns - len(y))
    return torch.cat([y[:1].expand(missing), y[max(0, len(y) - columns) :]])


def forecast(network: OnWindows, past: Windows, rows: Tensor, columns: Tensor) -> Tensor:
    """z after origins: rows (S,) say which series, columns (W, S) which steps. (W, S, horizon).

    With a head, parameters in the units of `Scaled.values` (W, S, horizon, 1 + spreads).
    """
    return answered(network, past, tell(past, rows, columns))


class Told(NamedTuple):
    """What a network is given: windows (W, S, back) relative to their level (W, S, 1), in a width, of rows (S,)."""

    windows: Tensor
    level: Tensor
    width: Tensor
    rows: Tensor
    along: Along | None = None
    between: Between | None = None


def tell(past: Windows, rows: Tensor, columns: Tensor) -> Told:
    """What is seen from origins: rows (S,) say which series, columns (W, S) which steps."""
    steps = columns[..., None] + torch.arange(1 - past.back, 1)
    seen = window.at(past.z, rows, steps)
    level, width = _reference(seen, past.scaling)
    found = Told((seen - level) / width, level, width, rows)
    if past.times is not None:
        apart = between(past.times, rows, columns, past.back, past.horizon)
        return found._replace(between=apart)
    if past.beside is not None:
        held = along(past.beside, rows, columns, past.back, past.horizon, past.seasons)
        return found._replace(along=held)
    return found


def _reference(seen: Tensor, scaling: Scaling) -> tuple[Tensor, Tensor]:
    """The level of windows (W, S, back), and their width: (W, S, 1) each, in deviations of the series."""
    last = seen[..., -1:]
    width = torch.ones_like(last)
    if scaling == "standard":
        return torch.zeros_like(last), width
    if scaling == "window":
        return last, width
    if scaling == "instance":
        width = seen.std(dim=-1, correction=0, keepdim=True).clamp(min=_STILL)
    return seen.mean(dim=-1, keepdim=True), width


def answered(network: OnWindows, past: Windows, told: Told) -> Tensor:
    """What `forecast` gives."""
    found = network(told.windows, past.own[told.rows], told.between or told.along)
    found = lifted(found, told.level, network.spreads, told.width)
    return found if network.spreads is None else network.spreads(found, past.unit[told.rows])


def at_end(past: Windows) -> Told:
    """What a forecast from the end of all series is made of."""
    rows = torch.arange(len(past.z))
    return tell(past, rows, torch.full((1, len(rows)), past.columns - 1))


def in_values(network: OnWindows, found: Tensor, unit: Tensor) -> Tensor:
    """What `forecast` gives, in the units of `Scaled.values` with a head and without: unit (S,)."""
    return found * unit[:, None] if network.spreads is None else found


@torch.no_grad()
def ahead(network: OnWindows, past: Windows, columns: Tensor | None = None) -> Tensor:
    """From some columns (W,) of every series, the last one if None, in the units of `Scaled.values`: (W, N, H); with a
    head, parameters (W, N, H, K)."""
    if columns is None:
        columns = torch.tensor([past.columns - 1])
    found = []
    parts = torch.arange(len(past.z)).split(_ROWS)
    for ends in columns.split(max(1, _ROWS // len(past.z))):
        held = [
            forecast(network, past, rows, ends[:, None].expand(-1, len(rows))) for rows in parts
        ]
        found.append(torch.cat(held, dim=1))
    return in_values(network, torch.cat(found), past.unit)


@torch.no_grad()
def ahead_of(network: OnWindows, past: Windows, rows: Tensor, back: Tensor) -> Tensor:
    """From origins with so many values behind them (B,), in the units of `Scaled.values`: (B, H); with a head,
    parameters (B, H, K)."""
    columns = (past.columns - 1 - back)[None]
    return in_values(network, forecast(network, past, rows, columns)[0], past.unit[rows])


def targets(past: Windows, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """What followed every origin, and which of it exists: (W, S, horizon) twice."""
    steps = columns[..., None] + torch.arange(1, past.horizon + 1)
    exists = steps < past.columns
    if past.observed is not None:
        exists = exists & window.at(past.observed, rows, steps)
    return window.at(past.z, rows, steps), exists


# What a network learns from


class Learner(nn.Module):
    """A network with the windows that it learns from: what `fit` is given.

    Shapes  a batch is one draw (W, 1, 1) of origins that all series share, or (W, 1, 2) of series and origins.
    """

    def __init__(
        self,
        network: Any,
        past: Windows,
        squared: bool = False,
        mean: Mean = mean_of_own,
        data: Scaled | None = None,
    ) -> None:
        super().__init__()
        self.network, self._mean = network, mean
        self._past, self._squared, self._first = past, squared, first_origins(past)
        self._data = data

    def error(self, batch: Batch) -> Tensor:
        """The mean error over all targets that exist, in deviations of the series; with a head, its loss: a scalar."""
        past = self._past
        rows, columns = _drawn_origins(past, batch.x[:, 0].long())
        z = forecast(self.network, past, rows, columns)
        goal, exists = targets(past, rows, columns)
        exists = exists & (columns >= self._first[rows])[..., None]
        return self._mean(self._away(z, goal, rows) * exists, exists)

    def _away(self, z: Tensor, goal: Tensor, rows: Tensor) -> Tensor:
        head, unit = self.network.spreads, self._past.unit[rows]
        if not isinstance(head, WindowHead):
            away = z - goal
            return away.square() if self._squared else away.abs()
        assert self._data is not None
        return head.family.loss(z, goal * unit[:, None], _InDeviations(self._data, rows, unit))


@dataclass(frozen=True, slots=True, eq=False)
class _InDeviations:
    """Errors as they are counted over windows, in deviations of the series `rows` (S,); see `families.Measure`."""

    data: Scaled
    rows: Tensor
    unit: Tensor

    def errors(self, z: Tensor, goal: Tensor) -> Tensor:
        """The absolute error: (W, S, H), or (W, S, H, K) beside goals of K 1."""
        return (z - goal).abs() / self.unit.view(-1, *(1,) * (z.ndim - 2))

    def count(self, z: Tensor) -> Tensor:
        """The number of things that z stands for."""
        return Measured(self.data, self.rows).count(z)


@torch.no_grad()
def begin_by_errors(head: WindowHead, past: Windows) -> None:
    """Let spreads begin with what the better naive forecast errs by, k steps ahead, over what is trained on."""
    real = torch.arange(past.columns) >= past.first[:, None]
    real = real if past.observed is None else real & past.observed
    for k in range(1, past.horizon + 1):
        lags = [k, *(-(-k // season) * season for season in past.seasons)]
        errors = [_mean_move(past.z, real, lag) for lag in lags if lag < past.columns]
        head.expected[k - 1] = min([each for each in errors if each > 0], default=1.0)


def _mean_move(z: Tensor, real: Tensor, lag: int) -> float:
    both = real[:, lag:] & real[:, :-lag]
    return float((z[:, lag:] - z[:, :-lag]).abs()[both].mean()) if both.any() else 0.0


def _drawn_origins(past: Windows, drawn: Tensor) -> tuple[Tensor, Tensor]:
    if past.apart:
        return drawn[:, 0], drawn[None, :, 1]
    return torch.arange(len(past.z)), drawn.expand(-1, len(past.z))


def first_origins(past: Windows) -> Tensor:
    """The first column of each series that is an origin: with a full window, or a third of the series before it."""
    length = past.columns - past.first
    return past.first + torch.minimum(torch.tensor(past.back - 1), length // 3)


def draws(
    past: Windows, together: int, steps: int, seed: int, processes: int = 1
) -> tuple[Callable[[int], Sequences], int]:
    """What an epoch trains on, and how many draws that are: windows at all positions, by chance.

    processes: that share the windows of a step; each has a draw of its own, so much smaller.
    """
    first, last = first_origins(past), past.columns - 1
    count = (last - first).clamp(min=0)
    ends, number = count.cumsum(0), min(steps, _EPOCH) * processes
    together = -(-together // processes)

    def drawn(epoch: int) -> Sequences:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        if not past.apart:
            low = int(first.min())
            found = torch.randint(low, last, (number, together, 1), generator=generator)
            return Sequences(list(found.float()))
        place = torch.randint(int(ends[-1]), (number, together), generator=generator)
        rows = torch.searchsorted(ends, place, right=True)
        columns = last - (ends[rows] - place)
        return Sequences(list(torch.stack([rows, columns], dim=-1).float()))

    return drawn, number
