"""The forecaster's network: a recurrence over forecast origins.

At every origin a window of the series, relative to its level there and in its own units, is
embedded; a recurrent layer runs over the origins; and from its output all steps of the horizon are
forecast at once, as a weighted mean of naive continuations plus a correction:

    e(t) = tanh(W features(t))
    q    = recurrence over e
    u(t) = relu(V [q(t), e(t)])
    z(t + k) = level(t) + sum_b softmax_b(G u(t))[b, k] base(t)[b, k] + c(t)[k] (C u(t))[k]

c(t)[k] is what the better naive forecast is expected to err by, k steps ahead. At the start the
network is the plain mean of the continuations. Where there is but one, the last value, nothing is
weighted. For walks of many series, the correction C is of two layers: on the training parts of M4's
yearly and weekly sets that was better, and dropout of u worse. What covariates add is in
conditioned.py.

Source  forking sequences of Wen et al. 2017 (a multi-horizon quantile recurrent forecaster).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from refold.data import window
from refold.data.beside import Beside
from refold.data.beside import Told as BesideTold
from refold.data.window import Past

from .chance import Chance
from .conditioned import Conditioned
from .course import Course
from .heads import head_of, lifted
from .recurrence import recurrence, stacked
from .settings import Settings
from .smoothing import Smoothing


class OriginNetwork(nn.Module):
    """All steps ahead from every origin, of one panel of series.

    Shapes  rows (B,) and columns (T, B) of a Past -> (counted, B, horizon), relative to the level;
    with a head, the parameters of its distributions (counted, B, horizon, 1 + spreads).
    """

    def __init__(
        self,
        features: int,
        bases: int,
        horizon: int,
        course: Course,
        settings: Settings,
        beside: Beside | None = None,
    ) -> None:
        super().__init__()
        self.chance = Chance(course.dropout, course.noise)
        hidden = course.hidden
        lags = course.look.lags
        self.covariates = None if beside is None else Conditioned(beside, horizon, lags, hidden)
        further_features = 0 if self.covariates is None else self.covariates.size
        self.embed = nn.Linear(features + further_features, hidden)
        self.recurrence = recurrence(settings, hidden, stacked(settings))
        self.mix = nn.Linear(self.recurrence.output_features + hidden, hidden)
        self.gate = _quiet(nn.Linear(hidden, bases * horizon)) if bases > 1 else None
        last, deep = _quiet(nn.Linear(hidden, horizon)), not (course.look.waves or course.lines)
        self.correction = _deeper(hidden, last) if deep else last
        self.head = head_of(settings.head, hidden, horizon)
        self.smoothing: Smoothing | None = None

    def forward(
        self, features: Tensor, bases: Tensor, expected: Tensor, beside: BesideTold | None = None
    ) -> Tensor:
        dropped = self.chance.dropped
        e = dropped(self.reads(self.chance.noisy(features), beside))
        q, _ = self.recurrence(e)
        counted = len(bases)
        mixed = self.mix(dropped(torch.cat([q[-counted:], e[-counted:]], dim=-1)))
        u = torch.relu(mixed)
        u = u if isinstance(self.correction, nn.Sequential) else dropped(u)
        centre = self._mixed(u, bases) + expected * self.correction(u)
        if self.covariates is not None and beside is not None:
            centre = centre + self.covariates.correction(u, beside, expected)
        return centre if self.head is None else self.head(centre, u, expected)

    def _mixed(self, u: Tensor, bases: Tensor) -> Tensor:
        """The weighted mean of the continuations (T, B, H)."""
        if self.gate is None:
            return bases.squeeze(-2)
        weights = self.gate(u).unflatten(-1, bases.shape[-2:]).softmax(dim=-2)
        return (weights * bases).sum(dim=-2)

    @torch.no_grad()
    def viewed(self, past: Past) -> Past:
        """The past as this network sees it: without what its smoothing accounts for."""
        return (
            past if self.smoothing is None else self.smoothing(past, torch.arange(len(past.z))).past
        )

    def reads(self, features: Tensor, beside: BesideTold | None) -> Tensor:
        """What the recurrence reads at every origin: (T, B, hidden)."""
        if self.covariates is not None and beside is not None:
            features = torch.cat([features, self.covariates.features(beside)], dim=-1)
        return torch.tanh(self.embed(features))


def forecast(
    network: OriginNetwork, past: Past, rows: Tensor, columns: Tensor, last: int
) -> Tensor:
    """z from the last origins of every chain: (last, B, horizon), or parameters of its head."""
    return answered(network, tell(past, rows, columns, last, network.smoothing))


class Told(NamedTuple):
    """What a network is given, and the level that its answer is relative to: (last, B, 1), or (last, B, H)."""

    features: Tensor
    bases: Tensor
    expected: Tensor
    level: Tensor
    beside: BesideTold | None


def tell(
    past: Past, rows: Tensor, columns: Tensor, last: int, smoothing: Smoothing | None = None
) -> Told:
    """Of every chain: all origins are seen, and the last ones forecast from. smoothing: the network's own."""
    near, season = columns[-last:], 0.0
    if smoothing is not None:
        of, rows = rows.unique(return_inverse=True)
        found = smoothing(past, of)
        past, season = found.past, found.ahead(rows, near)
    return Told(
        window.seen(past, rows, columns),
        window.continuations(past, rows, near),
        window.expected(past, rows, near),
        window.at(past.level, rows, near)[..., None] + season,
        window.covariates(past, rows, columns, last),
    )


def answered(network: OriginNetwork, told: Told) -> Tensor:
    """z from the last origins: (last, B, horizon), or parameters of its head (last, B, horizon, K)."""
    found = network(told.features, told.bases, told.expected, told.beside)
    return lifted(found, told.level, network.head)


def _deeper(hidden: int, last: nn.Linear) -> nn.Sequential:
    return nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), last)


def _quiet(layer: nn.Linear, factor: float = 0.1) -> nn.Linear:
    """A layer that starts small: zero bias, weights times the factor."""
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight.mul_(factor)
    return layer
