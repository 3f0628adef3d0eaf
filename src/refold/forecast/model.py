"""The forecaster's network: a recurrence over forecast origins.

At every origin a window of the series, relative to its level there and in its own units, is
embedded; a recurrent layer runs over the origins; and from its output all steps of the horizon are
forecast at once, as a weighted mean of naive continuations plus a correction:

    e(t) = tanh(W features(t))
    q    = recurrence over e
    u(t) = relu(V [q(t), e(t)])
    z(t + k) = level(t) + sum_b softmax_b(G u(t))[b, k] base(t)[b, k] + c(t)[k] (C u(t))[k]

c(t)[k] is what the better naive forecast is expected to err by, k steps ahead. At the start the
network is the plain mean of the continuations. What covariates add is in conditioned.py.

Source  forking sequences of Wen et al. 2017 (a multi-horizon quantile recurrent forecaster).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from refold import cells
from refold.data import window
from refold.data.beside import Beside, Told
from refold.data.window import Past
from refold.errors import DataError
from refold.nn.layer import Recurrent
from refold.plan.cost import letters

from .conditioned import Conditioned
from .course import Course
from .settings import Settings

# A forecast further from the level than this many expected errors, or a factor of e^5, is none: cut
# off before an exponential makes it rule the gradient.
_FURTHEST = 5.0


class OriginNetwork(nn.Module):
    """All steps ahead from every origin, of one panel of series.

    Shapes  rows (B,) and columns (T, B) of a Past -> (counted, B, horizon), relative to the level.
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
        self.noise = course.noise
        hidden = course.hidden
        self.covariates = None if beside is None else Conditioned(beside, course.look, hidden)
        further_features = 0 if self.covariates is None else self.covariates.size
        self.embed = nn.Linear(features + further_features, hidden)
        cell = cells.get(settings.cell) if isinstance(settings.cell, str) else settings.cell
        further: dict[str, Any] = dict.fromkeys(letters(cell.graph) - {"m", "n"}, hidden)
        self.recurrence = Recurrent(cell, hidden, hidden, **further)
        if self.recurrence.input_features != hidden:
            told = ", ".join(leaf.name for leaf in cell.graph.leaves_of("input")) or "nothing"
            fact = f"cell {cell.name} reads {told}, and a forecast gives it one vector of any size"
            raise DataError(fact, 'declare one input, x=rf.Input("m")', "cell")
        self.mix = nn.Linear(self.recurrence.output_features + hidden, hidden)
        self.gate = _quiet(nn.Linear(hidden, bases * horizon))
        self.correction = _quiet(nn.Linear(hidden, horizon))
        self.dropout = nn.Dropout(course.dropout)

    def forward(
        self, features: Tensor, bases: Tensor, expected: Tensor, told: Told | None = None
    ) -> Tensor:
        if self.training and self.noise:
            features = features + self.noise * torch.randn_like(features)
        if self.covariates is not None and told is not None:
            features = torch.cat([features, self.covariates.features(told)], dim=-1)
        e = self.dropout(torch.tanh(self.embed(features)))
        q, _ = self.recurrence(e)
        counted = len(bases)
        mixed = self.mix(self.dropout(torch.cat([q[-counted:], e[-counted:]], dim=-1)))
        u = self.dropout(torch.relu(mixed))
        weights = self.gate(u).unflatten(-1, bases.shape[-2:]).softmax(dim=-2)
        found = (weights * bases).sum(dim=-2) + expected * self.correction(u)
        if self.covariates is not None and told is not None:
            found = found + self.covariates.correction(u, told, expected)
        return found


def forecast(
    network: OriginNetwork, past: Past, rows: Tensor, columns: Tensor, last: int
) -> Tensor:
    """z from the last origins of every chain: (last, B, horizon)."""
    near = columns[-last:]
    found = network(
        window.seen(past, rows, columns),
        window.continuations(past, rows, near),
        window.expected(past, rows, near),
        window.told(past, rows, columns, last),
    )
    return window.at(past.level, rows, near)[..., None] + found


def _quiet(layer: nn.Linear, factor: float = 0.1) -> nn.Linear:
    """A layer that starts small: zero bias, weights times the factor."""
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight.mul_(factor)
    return layer
