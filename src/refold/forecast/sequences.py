"""From a panel to what a network is trained on: chains of origins, drawn anew in every epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import softplus

from refold.data import window
from refold.data.batch import Batch, Sequences
from refold.data.scale import Scale, Transform, choose_transform
from refold.data.window import Past

from .baselines import Autoregression, autoregressions
from .beside import Standard, beside, standard
from .course import Course
from .metrics import mae, naive_error, smape
from .model import OriginNetwork, Told, answered, forecast, tell
from .panel import Panel, Series
from .smoothing import with_smoothing

Floats = NDArray[np.float64]

# Errors beyond this many naive errors count by their logarithm: one broken week of data is not
# what a model should be made of.
_OUTLIER = 20.0
# A root of counts that goes below zero bends towards it within a tenth of a root of a naive error.
_BEND = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """A panel as networks see it, and how its errors are measured.

    values: each series' logarithm, root or plain values, shifted, and divided by its deviation
    unless it is a logarithm, whose differences have no unit. slope, offset (N,): from there to
    naive errors. unit (N,): a naive error, in the series' own units. usual: the naive forecast's mean
    sMAPE and MASE over the last horizon. beside: the scale of covariates, where there are any. lines:
    of each series the linear autoregression that networks are given; () where they are given none.
    """

    values: tuple[Floats, ...]
    scales: tuple[Scale, ...]
    transform: Transform
    slope: Tensor
    offset: Tensor
    unit: Tensor
    usual: tuple[float, float]
    beside: Standard | None = None
    lines: tuple[Autoregression, ...] = ()

    def invert(self, i: int, z: Floats) -> Floats:
        """Of series i, back to its units."""
        scale = self.scales[i]
        return scale.invert(z / scale.unit if self.transform == "log" else z)

    def apply(self, i: int, y: Floats) -> Floats:
        """Values of series i as networks see them."""
        scale = self.scales[i]
        return scale.apply(y) * (scale.unit if self.transform == "log" else 1.0)


def scaled(
    panel: Panel,
    horizon: int,
    transform: Transform | None = None,
    scales: Mapping[str, Scale] = MappingProxyType({}),
    standard_: Standard | None = None,
) -> Scaled:
    """What is derived from all series once, before any origin is looked at.

    transform: None takes the one that suits the values. scales: those of series, by name, that have
    one already. standard_: that of the covariates, where they have one.
    """
    own = [s.values for s in panel.series]
    transform = transform or choose_transform(own)
    each = tuple(scales.get(s.name) or Scale.fit(s.known, transform) for s in panel.series)
    values = tuple(_seen(y, s) for y, s in zip(own, each, strict=True))
    lag = naive_lag(panel.seasons, horizon)
    errors = np.array([_naive_unit(s, lag) for s in panel.series])
    slope, offset = _into_errors(transform, each, errors)
    unit, usual = torch.from_numpy(errors).float(), _usual(panel.series, errors, horizon, lag)
    beside_ = standard_ or standard(panel)
    return Scaled(values, each, transform, slope, offset, unit, usual, beside_)


def with_lines(panel: Panel, data: Scaled) -> Scaled:
    """With the autoregression of every series, fitted to all of its values."""
    return replace(data, lines=tuple(_fitted(panel.series, panel.seasons, data.scales)))


def _fitted(
    series: Sequence[Series], seasons: tuple[int, ...], scales: Sequence[Scale]
) -> list[Autoregression]:
    values, missing = [s.values for s in series], [s.missing for s in series]
    return autoregressions(values, seasons, scales, missing)


def further_on(panel: Panel, data: Scaled, known: Panel, horizon: int, most: int) -> Scaled:
    """The ends of a panel's series, `most` steps, as networks see them that have learned `known`.

    A series of that name keeps its scale and its autoregression; a new one gets its own. How
    errors are measured in training stays as it was.
    """
    names = [s.name for s in known.series]
    scales = dict(zip(names, data.scales, strict=True))
    each = tuple(scales.get(s.name) or Scale.fit(s.known, data.transform) for s in panel.series)
    values = tuple(_seen(s.values[-most:], own) for s, own in zip(panel.series, each, strict=True))
    found = replace(data, values=values, scales=each)
    if [s.name for s in panel.series] == names:
        return found
    found = _with_units(panel, found, names, horizon)
    if not data.lines:
        return found
    lines = dict(zip(names, data.lines, strict=True))
    new = [(s, own) for s, own in zip(panel.series, each, strict=True) if s.name not in lines]
    fitted = _fitted([s for s, _ in new], panel.seasons, [own for _, own in new])
    lines.update({s.name: line for (s, _), line in zip(new, fitted, strict=True)})
    return replace(found, lines=tuple(lines[s.name] for s in panel.series))


def _with_units(panel: Panel, data: Scaled, names: list[str], horizon: int) -> Scaled:
    """With the naive errors of this panel's series: those of `names` as they were, new ones measured."""
    places = {name: i for i, name in enumerate(names)}
    lag, known = naive_lag(panel.seasons, horizon), data.unit.double().numpy()
    units = [
        known[places[s.name]] if s.name in places else _naive_unit(s, lag) for s in panel.series
    ]
    slope, offset = _into_errors(data.transform, data.scales, np.array(units))
    unit = torch.from_numpy(np.array(units)).float()
    return replace(data, slope=slope, offset=offset, unit=unit)


def _seen(values: Floats, scale: Scale) -> Floats:
    """Scaled; a logarithm keeps its unit."""
    return scale.apply(values) * (scale.unit if scale.transform == "log" else 1.0)


def naive_lag(seasons: tuple[int, ...], horizon: int) -> int:
    """The lag of the naive forecast that there is to beat: a season where one passes."""
    return seasons[0] if seasons and seasons[0] <= horizon else 1


def _naive_unit(series: Series, lag: int) -> float:
    """The in-sample naive error. A series that never changes still needs a unit."""
    level = float(np.abs(series.known).mean()) or 1.0
    return max(naive_error(series.observed, lag), 1e-3 * level)


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


def _usual(series: Sequence[Series], errors: Floats, horizon: int, lag: int) -> tuple[float, float]:
    """Mean sMAPE and MASE of the naive forecast of the last horizon, as far as it is there."""
    percent, scaled_ = [], []
    for one, error in zip(series, errors, strict=True):
        ahead = min(horizon, len(one) - lag)
        if ahead < 1:
            continue
        origin = len(one) - ahead
        y, f = one.observed[origin:], one.values[origin - lag + np.arange(ahead) % lag]
        if not np.isnan(y).all():
            percent.append(smape(y, f))
            scaled_.append(mae(y, f) / error)
    if not percent:
        return 1.0, 1.0
    return max(float(np.mean(percent)), 0.1), max(float(np.mean(scaled_)), 0.01)


def past_of(panel: Panel, data: Scaled, course: Course) -> Past:
    """The panel as tensors to be trained on: as far back as this course looks."""
    most = course.span + (course.origins + 1) * course.stride
    return _past(panel, data, course, most, _lines(panel, data, course, most))


def past_at_end(panel: Panel, data: Scaled, course: Course, usual: float, back: int = 0) -> Past:
    """The panel as tensors to forecast from the end of every series, and from `back` steps before it on.

    usual: the width that is usual in the panel that was trained on.
    """
    lines = _lines(panel, data, course, 1 + back)
    return _past(panel, data, course, reach_at_end(course) + back, lines, usual)


def _past(
    panel: Panel,
    data: Scaled,
    course: Course,
    most: int,
    lines: list[Floats] | None,
    usual: float | None = None,
) -> Past:
    missing = [s.missing for s in panel.series]
    if course.smoothed:
        most = max(map(len, data.values))  # a level and seasons hang on all that came before
    found = window.past(data.values, course.look, most, lines, usual, missing)
    covariates = beside(panel, data.beside, found.columns, course.look.horizon)
    found = found if covariates is None else replace(found, beside=covariates)
    if not course.smoothed:
        return found
    return with_smoothing(found, [s.name for s in panel.series], course.smoothed, usual is None)


def reach_at_end(course: Course) -> int:
    """How many steps before the end there are origins in a forecast."""
    return course.origins * course.stride


def _lines(panel: Panel, data: Scaled, course: Course, most: int) -> list[Floats] | None:
    """What the autoregressions forecast from the last steps of every series: (most, H) each."""
    if not course.lines:
        return None
    pairs = zip(panel.series, data.lines, strict=True)
    return [_ahead(s.values, line, most, course.look.horizon) for s, line in pairs]


def _ahead(values: Floats, line: Autoregression, most: int, horizon: int) -> Floats:
    scale, order = line.scale, line.order
    z = scale.apply(values[-(most + order) :])
    padded = np.concatenate([np.repeat(z[0], order), z])
    lags = sliding_window_view(padded, order)[1:][-most:]
    unit = scale.unit if scale.transform == "log" else 1.0
    return line.ahead(lags[:, ::-1], horizon) * unit


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
        measure, head = Measured(self._data, rows), self.network.head
        error = measure.errors(z, goal) if head is None else head.family.loss(z, goal, measure)
        return self._mean(error * exists, exists)


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Values of the series `rows` (B,) in other units than the network's: z (T, B, H), or (B, H)."""

    data: Scaled
    rows: Tensor

    def errors(self, z: Tensor, goal: Tensor) -> Tensor:
        """The error of every z, in the units of `Learner.error`; (T, B, H, K) beside goals of K 1."""
        data = self.data
        f, d = (self._in_errors(part) for part in (z, goal))
        away = (f - d).abs()
        beyond = _OUTLIER + torch.log1p((away - _OUTLIER).clamp(min=0.0))
        percent, errors = data.usual
        error = torch.where(away > _OUTLIER, beyond, away) / errors
        if data.transform == "log":
            relative = 200.0 * torch.tanh(0.5 * (z - goal).abs())
            error = 0.5 * error + 0.5 * relative / percent
        return error

    def _in_errors(self, z: Tensor) -> Tensor:
        lead = (-1, *(1,) * max(1, z.ndim - 2))
        slope, offset = (x[self.rows].view(lead) for x in (self.data.slope, self.data.offset))
        return measured(z, self.data.transform, slope, offset)

    def count(self, z: Tensor) -> Tensor:
        """The number of things that z stands for, above 0 and with a slope everywhere: (.., B, H)."""
        data = self.data
        slope, offset, unit = (x[self.rows][:, None] for x in (data.slope, data.offset, data.unit))
        g = slope * z + offset
        if data.transform == "log":
            return unit * torch.exp(g.clamp(max=20.0))
        return unit * softplus(g, beta=_BEND).square()


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


@torch.no_grad()
def mean_ahead(
    networks: Sequence[OriginNetwork],
    pasts: Sequence[Past],
    courses: Sequence[Course],
    rows: Tensor,
    back: Tensor,
) -> Tensor:
    """From origins with so many values behind them (B,), the mean of all networks: (B, H).

    Networks that look at the same are told once.
    """
    told: dict[tuple[int, ...], Told] = {}
    found = []
    for network, past, course in zip(networks, pasts, courses, strict=True):
        own = id(network) if network.smoothing else 0
        key = (id(past), own, course.stride, course.origins)
        if key not in told:
            columns = chain(past.columns - 1 - back, course)
            told[key] = tell(past, rows, columns, 1, network.smoothing)
        found.append(answered(network, told[key])[0])
    return torch.stack(found).mean(dim=0)


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
