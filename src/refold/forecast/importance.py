"""What a forecast hangs on: how much worse it gets when one group of inputs is another origin's.

Networks are trained without the last part of every series, and forecast it from many origins. Then
one group of what they are told, the recent values or a season, is exchanged among these origins by
chance, everything else staying where it is. The rise of the error is what the group was worth to
these networks on these values.

A group that says what another one says too is worth little by this measure, even where both together
are worth much: networks lean on the other one. Groups are exchanged whole, with the continuations
that are made of them, in the units of each series.

Source  Breiman 2001; Fisher, Rudin & Dominici 2019 for permutation importance of any model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refold.data import window
from refold.data.beside import Beside, Place, exchanged, is_seen
from refold.data.scale import choose_transform
from refold.data.window import Past
from refold.errors import DataError

from .beside import places
from .course import Course
from .distribution import is_counted, refuse_uncounted
from .forecaster import MARGIN, Fitted, Progress, fit_panel, one_thread
from .model import OriginNetwork, Told, answered, tell
from .origins import origins_for
from .panel import Panel
from .rolled import Rolled, rolled
from .sequences import Measured, chain, measured
from .settings import Settings

Floats = NDArray[np.float64]

LINE = "linear autoregression"
COVARIATE = "covariate "
# Pairs of a series and an origin that are looked at: more change the means by less than chance does.
_MOST = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Importance:
    """How much worse forecasts get without each group of inputs.

    Shapes  names (G,), the one that is worth most first; rises (G, repeats).
    Units   error and rises: mean absolute error, each series divided by its own naive error (MASE).
    """

    names: tuple[str, ...]
    rises: Floats
    error: float
    origins: int
    series: int
    fitted: Fitted
    seconds: float

    @property
    def means(self) -> Floats:
        """The mean rise of each group."""
        return self.rises.mean(axis=1)

    @property
    def deviations(self) -> Floats:
        """How much the rise differs from permutation to permutation."""
        return self.rises.std(axis=1, ddof=1)

    def told(self) -> list[str]:
        """What was found, in sentences; the first is the answer."""
        most, share = self.names[0], self.means[0] / self.error
        first = f"Forecasts hang most on the {most}: with those of another origin, the error rises "
        first += f"by {share:.0%}."
        lost = zip(self.names, self.means, self.deviations, strict=True)
        idle = [name for name, mean, deviation in lost if mean <= 2 * deviation]
        second = f"Not to be told from nothing: {', '.join(idle)}." if idle else ""
        who = "1 series" if self.series == 1 else f"{self.series:,} series"
        third = f"Measured on {who} from {self.origins} origins that the networks had not seen, "
        third += f"where their error is {self.error:.4g}, with {self.rises.shape[1]} permutations."
        return [sentence for sentence in (first, second, third) if sentence]


def find_importance(
    panel: Panel,
    horizon: int,
    settings: Settings,
    *,
    origins: int | None = None,
    repeats: int = 10,
    progress: Progress | None = None,
) -> Importance:
    """Train without the last part of every series, and permute what is told of it, group by group.

    origins: as many as are measured on, one step apart; None takes as many as give 100 forecasts,
    in the last third of the longest series at most. Series too short for that take no part.

    Errors  DataError where no series is long enough, or there is nothing to exchange.

    Example
        >>> found = find_importance(panel, 12, Settings())
        >>> found.names[0], found.means[0]
    """
    began = time.perf_counter()
    if settings.over != "origins":
        fact = f"a network over {settings.over} reads single values, which are no groups of inputs"
        raise DataError(fact, 'take over="origins"', "explain")
    if isinstance(repeats, bool) or not isinstance(repeats, int | np.integer) or repeats < 2:
        fact = f"repeats is {repeats!r}"
        raise DataError(fact, "give a whole number of at least 2: they differ by chance", "explain")
    origins = origins_for(panel, horizon, origins)
    back = horizon + origins - 1
    long = tuple(s for s in panel.series if len(s) >= back + horizon + MARGIN)
    if origins * len(long) < 2:
        fact = "there is one forecast to look at, so nothing can be exchanged"
        raise DataError(fact, "give longer series, or a smaller horizon", "explain")
    whole = replace(panel, series=long)
    refuse_uncounted(panel, settings.head)
    transform = choose_transform([s.values for s in panel.series])
    fitted = fit_panel(whole.split(back)[0], horizon, settings, progress, transform)
    with one_thread():
        names, error, rises = _permuted(fitted, whole, origins, int(repeats), settings.seed)
    order = np.argsort(-rises.mean(axis=1), kind="stable")
    return Importance(
        tuple(names[i] for i in order),
        rises[order],
        error,
        origins,
        len(long),
        fitted,
        time.perf_counter() - began,
    )


def _permuted(
    fitted: Fitted, panel: Panel, origins: int, repeats: int, seed: int
) -> tuple[list[str], float, Floats]:
    """The groups, the error as it is, and by how much it rises with each permutation of each."""
    draw = torch.Generator().manual_seed(seed)
    before = rolled(fitted, panel, fitted.horizon + origins)
    rows, back = _pairs(len(panel.series), origins, fitted.horizon, draw)
    views = _views(before, rows, back)
    names = list(dict.fromkeys(name for view in views for name in view.names))
    error = _error(before, views, rows, back)
    rises = np.empty((len(names), repeats))
    for repeat in range(repeats):
        order = torch.randperm(len(rows), generator=draw)
        for i, name in enumerate(names):
            moved = [view.exchanged(name, order) for view in views]
            rises[i, repeat] = _error(before, moved, rows, back) - error
    return names, error, rises


def _views(before: Rolled, rows: Tensor, back: Tensor) -> list[_View]:
    fitted = before.fitted
    named = places(fitted.panel)
    members = zip(fitted.networks, before.pasts, fitted.courses, strict=True)
    return [_View.of(*member, rows, back, named) for member in members]  # type: ignore[arg-type]


def _pairs(series: int, origins: int, horizon: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which series, and how many values are behind the origin: all, or as many by chance. (B,)."""
    rows = torch.arange(series).repeat_interleave(origins)
    back = (horizon + torch.arange(origins)).repeat(series)
    if len(rows) <= _MOST:
        return rows, back
    chosen = torch.randperm(len(rows), generator=draw)[:_MOST]
    return rows[chosen], back[chosen]


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """What one network is told at some origins.

    Shapes  groups (T, B, features of it) each; told: all of them, and what goes beside; of: which group
            each continuation is of; width (1, B, 1, 1), their unit. columns: where covariates stand in
            `seen`.
    """

    network: OriginNetwork
    groups: dict[str, Tensor]
    told: Told
    of_bases: tuple[str, ...]
    width: Tensor
    covariates: Beside | None
    places: dict[str, Place]

    @staticmethod
    def of(
        network: OriginNetwork,
        past: Past,
        course: Course,
        rows: Tensor,
        back: Tensor,
        named: dict[str, Place],
    ) -> _View:
        columns = chain(past.columns - 1 - back, course)
        told = tell(past, rows, columns, 1, network.smoothing)
        past = network.viewed(past)
        return _View(
            network,
            window.told(past, rows, columns),
            told,
            (*past.look.groups, *[LINE] * (past.line is not None)),
            window.unit(past, rows, columns[-1:])[..., None, None],
            past.beside,
            {COVARIATE + name: place for name, place in named.items()},
        )

    @property
    def names(self) -> Sequence[str]:
        """The groups of inputs, each once."""
        own = [name for name in self.groups if name not in (window.MOVES, window.COVARIATES)]
        return list(dict.fromkeys((*own, *self.of_bases, *self.places)))

    def exchanged(self, name: str, order: Tensor) -> _View:
        """One group as other origins have it."""
        if name in self.places:
            return self._other_covariate(self.places[name], order)
        groups = dict(self.groups)
        # What a walk's last moves were is said by its recent values too.
        for moved in (name, *[window.MOVES] * (name == window.RECENT)):
            if moved in groups:
                groups[moved] = groups[moved][:, order]
        own = torch.tensor([group == name for group in self.of_bases])
        there = (self.told.bases / self.width)[:, order] * self.width
        bases = torch.where(own[:, None], there, self.told.bases)
        return self._told_anew(groups, bases=bases)

    def _other_covariate(self, place: Place, order: Tensor) -> _View:
        assert self.covariates is not None and self.told.beside is not None
        seen = self.groups[window.COVARIATES]
        own = is_seen(self.covariates, place, seen.shape[-1])
        groups = {**self.groups, window.COVARIATES: torch.where(own, seen[:, order], seen)}
        beside = exchanged(self.covariates, self.told.beside, place, order)
        return self._told_anew(groups, beside=beside)

    def _told_anew(self, groups: dict[str, Tensor], **parts: Any) -> _View:
        told = self.told._replace(features=window.joined(groups), **parts)
        return replace(self, groups=groups, told=told)

    @torch.no_grad()
    def forecast(self) -> Tensor:
        """The centre of all steps ahead, z: (B, H)."""
        found = answered(self.network, self.told)[0]
        return found if self.network.head is None else found[..., 0]


def _error(before: Rolled, views: Sequence[_View], rows: Tensor, back: Tensor) -> float:
    """The mean error of the networks' mean, in naive errors of each series."""
    data, past = before.data, before.pasts[0]
    assert isinstance(past, Past)
    z = torch.stack([view.forecast() for view in views]).mean(dim=0)
    goal, exists = (one[0] for one in window.targets(past, rows, (past.columns - 1 - back)[None]))
    slope, offset, unit = (one[rows][:, None] for one in (data.slope, data.offset, data.unit))
    f, d = (measured(part, data.transform, slope, offset) for part in (z, goal))
    if is_counted(before.fitted.settings.head):
        f = Measured(data, rows).count(z) / unit
    return float((f - d).abs()[exists].mean())
