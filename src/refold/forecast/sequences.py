"""From a panel to what a network is trained on: chains of origins, drawn anew in every epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from refold.data import window
from refold.data.batch import Batch, Sequences
from refold.data.scale import Scale, Transform, choose_transform
from refold.data.window import Past

from .baselines import autoregression
from .course import Course
from .metrics import naive_error, smape
from .model import OriginNetwork, forecast
from .panel import Panel

Floats = NDArray[np.float64]

# Errors beyond this many naive errors count by their logarithm: one broken week of data is not
# what a model should be made of.
_OUTLIER = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """A panel as networks see it, and how its errors are measured.

    values: each series' logarithm, root or plain values, shifted, and divided by its deviation
    unless it is a logarithm, whose differences have no unit. slope, offset (N,): from there to
    naive errors. usual: the naive forecast's mean sMAPE and MASE over the last horizon.
    """

    values: tuple[Floats, ...]
    scales: tuple[Scale, ...]
    transform: Transform
    slope: Tensor
    offset: Tensor
    usual: tuple[float, float]

    def invert(self, i: int, z: Floats) -> Floats:
        """Of series i, back to its units."""
        scale = self.scales[i]
        return scale.invert(z / scale.unit if self.transform == "log" else z)


def scaled(
    panel: Panel,
    horizon: int,
    transform: Transform | None = None,
    scales: Mapping[str, Scale] = MappingProxyType({}),
) -> Scaled:
    """What is derived from all series once, before any origin is looked at.

    transform: None takes the one that suits the values. scales: those of series, by name, that have
    one already.
    """
    own = [s.values for s in panel.series]
    transform = transform or choose_transform(own)
    each = tuple(scales.get(s.name) or Scale.fit(s.values, transform) for s in panel.series)
    units = [s.unit if transform == "log" else 1.0 for s in each]
    values = tuple(s.apply(y) * u for s, y, u in zip(each, own, units, strict=True))
    lag = naive_lag(panel.seasons, horizon)
    errors = np.array([_naive_unit(y, lag) for y in own])
    slope, offset = _into_errors(transform, each, errors)
    return Scaled(values, each, transform, slope, offset, _usual(own, errors, horizon, lag))


def naive_lag(seasons: tuple[int, ...], horizon: int) -> int:
    """The lag of the naive forecast that there is to beat: a season where one passes."""
    return seasons[0] if seasons and seasons[0] <= horizon else 1


def _naive_unit(values: Floats, lag: int) -> float:
    """The in-sample naive error. A series that never changes still needs a unit."""
    level = float(np.abs(values).mean()) or 1.0
    return max(naive_error(values, lag), 1e-3 * level)


def _into_errors(
    transform: Transform, scales: Sequence[Scale], errors: Floats
) -> tuple[Tensor, Tensor]:
    unit, centre = (np.array([getattr(s, name) for s in scales]) for name in ("unit", "centre"))
    if transform == "log":
        slope, offset = np.ones_like(unit), centre - np.log(errors)
    elif transform == "sqrt":
        slope, offset = unit / np.sqrt(errors), centre / np.sqrt(errors)
    else:
        slope, offset = unit / errors, np.zeros_like(unit)
    return torch.from_numpy(slope).float(), torch.from_numpy(offset).float()


def _usual(values: Sequence[Floats], errors: Floats, horizon: int, lag: int) -> tuple[float, float]:
    """Mean sMAPE and MASE of the naive forecast of the last horizon, as far as it is there."""
    percent, scaled_ = [], []
    for y, error in zip(values, errors, strict=True):
        ahead = min(horizon, len(y) - lag)
        if ahead < 1:
            continue
        origin = len(y) - ahead
        f = y[origin - lag + np.arange(ahead) % lag]
        percent.append(smape(y[origin:], f))
        scaled_.append(np.abs(y[origin:] - f).mean() / error)
    if not percent:
        return 1.0, 1.0
    return max(float(np.mean(percent)), 0.1), max(float(np.mean(scaled_)), 0.01)


def past_of(
    panel: Panel,
    data: Scaled,
    course: Course,
    most: int | None = None,
    usual: float | None = None,
    known: Panel | None = None,
) -> Past:
    """The panel as tensors, as far back as this course looks, or `most` steps.

    usual: the width that is usual in the panel that was trained on; None measures it here. known:
    the same series up to where linear autoregressions may look; None lets them have all.
    """
    if most is None:
        most = course.span + (course.origins + 1) * course.stride
    lines = None
    if course.lines:
        early = (known or panel).series
        lines = [
            _lines(s.values, data, i, course, most, early[i].values)
            for i, s in enumerate(panel.series)
        ]
    return window.past(data.values, course.look, most, lines, usual)


def _lines(
    values: Floats, data: Scaled, i: int, course: Course, most: int, known: Floats
) -> Floats:
    """The forecasts from the last steps of a series by its autoregression, fitted to `known`: (most, H)."""
    scale = data.scales[i]
    line = autoregression(known, course.look.seasons, scale)
    z = scale.apply(values)
    padded = np.concatenate([np.repeat(z[0], line.order), z])
    origins = np.arange(max(0, len(z) - most), len(z))
    lags = padded[origins[:, None] + line.order - np.arange(line.order)]
    unit = scale.unit if data.transform == "log" else 1.0
    return line.ahead(lags, course.look.horizon) * unit


# Errors (T, B, H), 0 where no target exists, and which exist -> the mean of a batch.
Mean = Callable[[Tensor, Tensor], Tensor]


def mean_of_own(error: Tensor, exists: Tensor) -> Tensor:
    """The mean over the targets of this process, which are all where it is the only one."""
    return error.sum() / exists.sum().clamp(min=1)


class Learner(nn.Module):
    """A network with the panel it learns from: what `fit` is given.

    Shapes  a batch is x (1, B, 2): of each chain the series, and the column of its last origin.
    """

    def __init__(
        self,
        network: OriginNetwork,
        past: Past,
        data: Scaled,
        course: Course,
        mean: Mean = mean_of_own,
    ) -> None:
        super().__init__()
        self._mean = mean
        self.network = network
        self._past, self._data, self._course = past, data, course
        self._first = first_origins(past, course)

    def error(self, batch: Batch) -> Tensor:
        """The mean error over all targets that exist: a scalar.

        Units  naive errors; for positive series the mean of that and of the sMAPE, each in units of
        what the naive forecast has on average.
        """
        past, course = self._past, self._course
        rows, ends = batch.x[0].long().unbind(-1)
        columns = chain(ends, course)
        near = columns[-course.counted :]
        z = forecast(self.network, past, rows, columns, course.counted)
        goal, exists = window.targets(past, rows, near)
        exists = exists & (near >= self._first[rows])[..., None]
        return self._measured(z, goal, exists, rows)

    def _measured(self, z: Tensor, goal: Tensor, exists: Tensor, rows: Tensor) -> Tensor:
        data = self._data
        slope, offset = data.slope[rows][:, None], data.offset[rows][:, None]
        f, d = (measured(part, data.transform, slope, offset) for part in (z, goal))
        away = (f - d).abs()
        beyond = _OUTLIER + torch.log1p((away - _OUTLIER).clamp(min=0.0))
        percent, errors = data.usual
        error = torch.where(away > _OUTLIER, beyond, away) / errors
        if data.transform == "log":
            relative = 200.0 * torch.tanh(0.5 * (z - goal).abs())
            error = 0.5 * error + 0.5 * relative / percent
        return self._mean(error * exists, exists)


def measured(z: Tensor, transform: Transform, slope: Tensor, offset: Tensor) -> Tensor:
    """z in units of the naive error: the series' own units, divided by its in-sample error.

    Without a transform, the centre of the series stays out of it: only differences are looked at.
    """
    g = slope * z + offset
    if transform == "log":
        # e^20 naive errors is far outside of any series; beyond it the exponential overflows.
        return torch.exp(g.clamp(max=20.0))
    return g.clamp(min=0.0).square() if transform == "sqrt" else g


def chain(ends: Tensor, course: Course) -> Tensor:
    """The origins of chains that end at these columns: (T, B)."""
    back = course.stride * torch.arange(course.origins - 1, -1, -1)
    return ends - back[:, None]


def first_origins(past: Past, course: Course) -> Tensor:
    """The first column whose error counts: after a season, or 6 points, where there are as many."""
    length = past.columns - past.first
    wait = torch.minimum(torch.tensor(max(course.look.season, 6)), (length // 3).clamp(min=1))
    return torch.maximum(past.first + wait - 1, torch.tensor(past.columns - course.span))


def draws(
    past: Past, course: Course, seed: int, processes: int = 1
) -> tuple[Callable[[int], Sequences], int]:
    """What an epoch trains on, and how many chains that are.

    For each series as many as cover it together; of few series, as many as fill a batch. Their ends
    are shifted by chance by less than a stride: in the course of the epochs every step is an origin.
    """
    apart = course.counted * course.stride
    length = torch.tensor(past.columns) - first_origins(past, course)
    pieces = [max(1, -(-int(n) // apart)) for n in length]
    again = min(course.stride, max(1, -(-course.batch // sum(pieces))))
    series = torch.tensor([i for i, n in enumerate(pieces) for _ in range(n)]).repeat(again)
    piece = torch.tensor([k for n in pieces for k in range(n)]).repeat(again)
    turn = torch.arange(again).repeat_interleave(sum(pieces))
    # No process may be without a chain in the last batch: where it is too small, the first come again.
    last = len(series) % (-(-course.batch // processes) * processes)
    more = processes - last if 0 < last < processes else 0
    even = torch.arange(len(series) + more) % len(series)
    series, piece, turn = series[even], piece[even], turn[even]

    def drawn(epoch: int) -> Sequences:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        chance = torch.randint(course.stride, (len(series),), generator=generator)
        shift = (chance + turn * course.stride // again) % course.stride
        ends = past.columns - 1 - shift - piece * apart
        both = torch.stack([series, ends], dim=-1).float()
        return Sequences([row[None] for row in both])

    return drawn, len(series)
