"""What covariates add to a network: vectors for categories, and a correction of every step ahead.

    e(t)       vectors of the categories at an origin; zeros for a level that was never trained on
    d(t)[k]    numbers and vectors of step t + k, and how far they are from where the level and the
               continuations were taken
    v(t)[k]    = relu(A [u(t), e(t)] + B d(t)[k] + s[k])
    w(t)       = W [u(t), e(t)] + w0, an effect of its own for every series and time
    correction = w(t) . d(t)[k] usual + v(t)[k] . (a usual + b c(t)[k])

usual is the width that is usual in the panel: an effect is as large on a quiet day as on another. c(t)
is what the naive forecast is expected to err by.

Source  Hastie & Tibshirani 1993 for w(t): a varying-coefficient model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refold.data.beside import Beside, Told

# Units between the state and a correction.
_UNITS = 32


class Conditioned(nn.Module):
    """Covariates of one panel, as a network is told of them.

    lags: where continuations take theirs from, as `Look.lags` has it. hidden: numbers of a state u.

    Shapes  told of origins (T, B) -> features (T, B, size) and corrections (t, B, horizon).
    """

    def __init__(
        self, beside: Beside, horizon: int, lags: tuple[tuple[int, int], ...], hidden: int
    ) -> None:
        super().__init__()
        self.known, self.horizon = beside.known_codes, horizon
        ended = beside.codes[..., : beside.codes.shape[-1] - horizon]
        held = [*ended, *beside.static_codes.T]
        pairs = zip(beside.levels, held, strict=True)
        self.vectors = nn.ModuleList(_vectors(levels, codes) for levels, codes in pairs)
        widths = [_width(levels) for levels in beside.levels]
        self.size = sum(widths)
        places = 2 + len(lags)
        inputs = self.inputs_ahead = (
            beside.known_numbers * (1 + places) + sum(widths[: self.known]) * places
        )
        if inputs:
            self.effects = nn.Linear(hidden + self.size, inputs)
            nn.init.zeros_(self.effects.weight)
            nn.init.zeros_(self.effects.bias)
            self.inputs = nn.Linear(inputs, _UNITS, bias=False)
            self.state = nn.Linear(hidden + self.size, _UNITS)
            self.step = nn.Parameter(torch.zeros(horizon, _UNITS))
            self.out = nn.Linear(_UNITS, 2, bias=False)
            with torch.no_grad():
                self.out.weight.mul_(0.1)

    def features(self, told: Told) -> Tensor:
        """The vectors of the categories at origins: (T, B, size)."""
        parts = [layer(told.codes[..., i]) for i, layer in enumerate(self.vectors)]
        return torch.cat(parts, dim=-1) if parts else told.ahead.new_zeros(*told.codes.shape[:2], 0)

    def correction(self, u: Tensor, told: Told, expected: Tensor) -> Tensor:
        """What covariates of each step change: (t, B, horizon), in the units of the values."""
        if not self.inputs_ahead:
            return torch.zeros_like(expected)
        d = self.ahead(told)
        state = torch.cat([u, self.features(told)[-len(u) :]], dim=-1)
        linear = (self.effects(state)[..., None, :] * d).sum(dim=-1)
        v = torch.relu(self.state(state)[..., None, :] + self.inputs(d) + self.step)
        often, sized = self.out(v).unbind(-1)
        return (linear + often) * told.usual + sized * expected

    def ahead(self, told: Told) -> Tensor:
        """What is known of each step, and how far it is from elsewhere: d, (t, B, horizon, inputs_ahead)."""
        return torch.cat([told.ahead, *self._steps(told.ahead_codes)], dim=-1)

    @property
    def tables(self) -> list[nn.Embedding]:
        """The vectors of each category, in the order of `Beside.levels`."""
        return [layer for layer in self.vectors if isinstance(layer, nn.Embedding)]

    def _steps(self, codes: Tensor) -> list[Tensor]:
        """Of each known category its vector at the step, and what it differs by from elsewhere."""
        found = []
        for i, layer in enumerate(self.vectors[: self.known]):
            vectors = layer(codes[..., i])
            here = vectors[..., :1, :]
            found.append(torch.cat([here, here - vectors[..., 1:, :]], dim=-2).flatten(-2))
        return found


def _width(levels: int) -> int:
    return min(8, max(2, levels // 2))


def _vectors(levels: int, trained: Tensor) -> nn.Embedding:
    """A level that is not trained on is zeros: it says as much as one that is not known."""
    layer = nn.Embedding(levels, _width(levels), padding_idx=0)
    absent = torch.ones(levels, dtype=torch.bool)
    absent[trained.flatten()] = False
    with torch.no_grad():
        layer.weight.mul_(0.5)
        layer.weight[absent] = 0.0
    return layer
