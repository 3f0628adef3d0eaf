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


def head_of(name: str, hidden: int, horizon: int) -> Head | None:
    """The head of this name; a point forecast has none."""
    return None if name == "point" else Head(name, hidden, horizon)


def lifted(found: Tensor, level: Tensor, head: Head | None) -> Tensor:
    """What a network found relative to a level (..., 1), on it: of parameters, only the centre moves."""
    if head is None:
        return level + found
    return torch.cat([found[..., :1] + level[..., None], found[..., 1:]], dim=-1)
