"""The forecaster's network: a recurrence over forecast origins.

At every origin a window of the series, relative to its level there and in its own units, is
embedded; a recurrent layer runs over the origins; and from its output all steps of the horizon are
forecast at once, as a weighted mean of naive continuations plus a correction:

    e(t) = tanh(W features(t))
    q    = recurrence over e
    u(t) = relu(V [q(t), e(t)])
    z(t + k) = level(t) + sum_b softmax_b(G u(t))[b, k] base(t)[b, k] + c(t)[k] (C u(t))[k]

c(t)[k] is what the better naive forecast is expected to err by, k steps ahead. At the start the
network is the plain mean of the continuations.

Source  forking sequences of Wen et al. 2017 (a multi-horizon quantile recurrent forecaster).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from refold import cells
from refold.data import window
from refold.data.window import Past
from refold.errors import DataError
from refold.nn.layer import Recurrent
from refold.plan.cost import letters

from .course import Course
from .heads import head_of, lifted
from .settings import Settings

# A forecast further from the level than this many expected errors, or a factor of e^5, is none: cut
# off before an exponential makes it rule the gradient.
_FURTHEST = 5.0


class OriginNetwork(nn.Module):
    """All steps ahead from every origin, of one panel of series.

    Shapes  rows (B,) and columns (T, B) of a Past -> (counted, B, horizon), relative to the level;
    with a head, the parameters of its distributions (counted, B, horizon, 1 + spreads).
    """

    def __init__(
        self, features: int, bases: int, horizon: int, course: Course, settings: Settings
    ) -> None:
        super().__init__()
        self.noise = course.noise
        hidden = course.hidden
        self.embed = nn.Linear(features, hidden)
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
        self.head = head_of(settings.head, hidden, horizon)

    def forward(self, features: Tensor, bases: Tensor, expected: Tensor) -> Tensor:
        if self.training and self.noise:
            features = features + self.noise * torch.randn_like(features)
        e = self.dropout(torch.tanh(self.embed(features)))
        q, _ = self.recurrence(e)
        counted = len(bases)
        mixed = self.mix(self.dropout(torch.cat([q[-counted:], e[-counted:]], dim=-1)))
        u = self.dropout(torch.relu(mixed))
        weights = self.gate(u).unflatten(-1, bases.shape[-2:]).softmax(dim=-2)
        centre = (weights * bases).sum(dim=-2) + expected * self.correction(u)
        return centre if self.head is None else self.head(centre, u, expected)


def forecast(
    network: OriginNetwork, past: Past, rows: Tensor, columns: Tensor, last: int
) -> Tensor:
    """z from the last origins of every chain: (last, B, horizon), or parameters of its head."""
    near = columns[-last:]
    found = network(
        window.seen(past, rows, columns),
        window.continuations(past, rows, near),
        window.expected(past, rows, near),
    )
    return lifted(found, window.at(past.level, rows, near)[..., None], network.head)


def _quiet(layer: nn.Linear, factor: float = 0.1) -> nn.Linear:
    """A layer that starts small: zero bias, weights times the factor."""
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight.mul_(factor)
    return layer
