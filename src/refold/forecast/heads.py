"""What a network says beside the centre of a forecast: the spreads of a family of distributions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .families import FAMILIES


class Head(nn.Module):
    """The spreads of a family, from what the centre is made of too.

    Shapes  u (..., hidden), centre and expected (..., H) -> parameters (..., H, 1 + spreads).
    """

    def __init__(self, name: str, hidden: int, horizon: int) -> None:
        super().__init__()
        self.family = FAMILIES[name]()
        self.horizon = horizon
        self.raw = nn.Linear(hidden, horizon * self.family.spreads) if self.family.spreads else None
        if self.raw is not None:
            nn.init.zeros_(self.raw.bias)
            with torch.no_grad():
                self.raw.weight.mul_(0.1)  # the start is that of the family: see `families`

    def forward(self, centre: Tensor, u: Tensor, expected: Tensor) -> Tensor:
        if self.raw is None:
            return centre[..., None]
        raw = self.raw(u).unflatten(-1, (self.horizon, -1))
        return torch.cat([centre[..., None], self.family.spread(raw, expected)], dim=-1)


class WindowHead(nn.Module):
    """The spreads of a family over windows, from vectors that speak of `steps` steps each.

    expected: what the better naive forecast errs by, k steps ahead, in deviations of the series; spreads begin there.

    Shapes  q (..., features) -> numbers without limits (..., steps, spreads); centres and these (W, S, H, 1 + spreads)
    in deviations of the series, which are unit (S,) -> parameters (W, S, H, 1 + spreads). expected (H,).
    """

    expected: Tensor

    def __init__(self, name: str, features: int, steps: int, horizon: int) -> None:
        super().__init__()
        self.family, self.steps = FAMILIES[name](), steps
        self.register_buffer("expected", torch.ones(horizon))
        self.raw = nn.Linear(features, steps * self.family.spreads) if self.family.spreads else None
        if self.raw is not None:
            nn.init.zeros_(self.raw.bias)
            with torch.no_grad():
                self.raw.weight.mul_(0.1)

    def raw_of(self, q: Tensor) -> Tensor:
        """Numbers without limits, from vectors of steps."""
        if self.raw is None:
            return q.new_zeros(*q.shape[:-1], self.steps, 0)
        return self.raw(q).unflatten(-1, (self.steps, -1))

    def forward(self, found: Tensor, unit: Tensor) -> Tensor:
        centre = found[..., 0] * unit[:, None]
        spread = self.family.spread(found[..., 1:], self.expected * unit[:, None])
        return torch.cat([centre[..., None], spread], dim=-1)


def head_of(name: str, hidden: int, horizon: int) -> Head | None:
    """The head of this name; a point forecast has none."""
    return None if name == "point" else Head(name, hidden, horizon)


def window_head(name: str, features: int, steps: int, horizon: int) -> WindowHead | None:
    """The same over windows."""
    return None if name == "point" else WindowHead(name, features, steps, horizon)


def lifted(
    found: Tensor, level: Tensor, head: Head | WindowHead | None, width: Tensor | None = None
) -> Tensor:
    """What a network found relative to a level (..., 1), in a width (..., 1) or in 1, on it: of parameters, only the
    centre moves."""
    if head is None:
        return level + (found if width is None else width * found)
    centre = found[..., :1] if width is None else width[..., None] * found[..., :1]
    return torch.cat([centre + level[..., None], found[..., 1:]], dim=-1)
