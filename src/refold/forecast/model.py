"""The forecaster's network: a recurrence over forecast origins.

At every origin a window of the series, relative to its last value, is embedded; a recurrent layer
runs over the origins; and from its output all horizons are forecast at once, as a weighted mean of
naive continuations plus a correction:

    e(t) = tanh(W features(t))
    q    = recurrence over e
    u(t) = relu(V [q(t), e(t)])
    z(t + k) = level(t) + sum_b softmax_b(G u(t))[b, k] base(t)[b, k]
                        + c (C u(t) + L features(t))[k]

Every origin is trained on, wherever its future is known, so one pass over a series gives as many
forecasts as it has origins. At the start the network is the plain mean of the continuations.

Source  forking sequences of Wen et al. 2017 (a multi-horizon quantile recurrent forecaster).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from refold import cells
from refold.data.batch import Batch
from refold.data.scale import Transform
from refold.errors import DataError
from refold.nn.layer import Recurrent
from refold.plan.cost import letters

from .sequences import Layout, measured
from .settings import Settings

# Errors beyond this many naive errors count by their logarithm: one broken week of data is not
# what a model should be made of.
_OUTLIER = 20.0


class OriginNetwork(nn.Module):
    """All horizons from every origin.

    Shapes  x (T, B, layout.size) -> z (T, B, horizon), T origins, B chains of them.
    """

    def __init__(self, layout: Layout, transform: Transform, settings: Settings) -> None:
        super().__init__()
        self.layout = layout
        self.transform: Transform = transform
        self.noise = settings.noise
        hidden = settings.hidden
        self.embed = nn.Linear(layout.features, hidden)
        cell = cells.get(settings.cell) if isinstance(settings.cell, str) else settings.cell
        further: dict[str, Any] = dict.fromkeys(letters(cell.graph) - {"m", "n"}, hidden)
        self.recurrence = Recurrent(cell, hidden, hidden, **further)
        if self.recurrence.input_features != hidden:
            told = ", ".join(leaf.name for leaf in cell.graph.leaves_of("input")) or "nothing"
            fact = f"cell {cell.name} reads {told}, and a forecast gives it one vector of any size"
            raise DataError(fact, 'declare one input, x=rf.Input("m")', "cell")
        self.mix = nn.Linear(self.recurrence.output_features + hidden, hidden)
        self.gate = _quiet(nn.Linear(hidden, layout.bases * layout.horizon), 0.1)
        self.correction = _quiet(nn.Linear(hidden, layout.horizon), 0.1)
        self.linear = _quiet(nn.Linear(layout.features, layout.horizon), 0.0)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        features, bases, singles = self.layout.split(x)
        level, unit = singles[..., 0:1], singles[..., 1:2]
        if self.training and self.noise:
            features = features + self.noise * torch.randn_like(features)
        e = self.dropout(torch.tanh(self.embed(features)))
        q, _ = self.recurrence(e, lengths=lengths)
        u = self.dropout(torch.relu(self.mix(torch.cat([q, e], dim=-1))))
        weights = self.gate(u).unflatten(-1, bases.shape[-2:]).softmax(dim=-2)
        correction = self.correction(u) + self.linear(features)
        return level + (weights * bases).sum(dim=-2) + unit * correction

    def error(self, batch: Batch) -> Tensor:
        """The mean error over all targets that exist: a scalar.

        Units  naive errors (MASE); for positive series the mean of that and of the sMAPE in units
        of the naive forecast's.
        """
        assert batch.d is not None and batch.mask is not None
        z = self(batch.x, None if _full(batch) else batch.lengths)
        _, _, singles = self.layout.split(batch.x)
        slope, offset, percent = (singles[..., i : i + 1] for i in (2, 3, 4))
        f = measured(z, self.transform, slope, offset)
        # An absent target may hold anything: it is replaced before it can reach a gradient.
        d = torch.where(batch.mask, batch.d, f.detach())
        away = (f - d).abs()
        error = torch.where(
            away > _OUTLIER, _OUTLIER + torch.log1p((away - _OUTLIER).clamp(min=0.0)), away
        )
        if self.transform == "log":
            relative = 200.0 * away / (f.abs() + d.abs()).clamp(min=1e-9)
            error = 0.5 * error + 0.5 * relative / percent.clamp(min=0.1)
        return (error * batch.mask).sum() / batch.mask.sum().clamp(min=1)


def _quiet(layer: nn.Linear, factor: float) -> nn.Linear:
    """A layer that starts small: zero bias, weights times the factor."""
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight.mul_(factor)
    return layer


def _full(batch: Batch) -> bool:
    return bool((batch.lengths == batch.x.shape[0]).all())
