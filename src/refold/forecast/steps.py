"""A recurrence over single steps, and all steps ahead from its last state: the classical recurrent forecaster.

    e(t) = tanh(w x(t) + b)                     x(t), relative to the last value of the window
    q    = recurrence over e                    one layer, or a residual stack with dilations
    y    = V dropout([q(T), series]) + c        all of the horizon at once

Layers above the first add to what is below, and may look further back than one step: a layer with the dilation of a
season reads the state of one season ago.

Source  Chang et al. 2017, arXiv:1710.02224 (dilations); Smyl 2020 for stacks of them in forecasting.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .chance import Chance
from .lookback import Lookback
from .recurrence import recurrence
from .segments import SMALL, vectors
from .settings import Settings

# Numbers that say which series it is.
OWN = 8


class StepNetwork(nn.Module):
    """The whole horizon from windows.

    Shapes  windows (W, S, back), own (S,): which series' vector, -1 for their mean -> (W, S, horizon)
    """

    def __init__(self, course: Lookback, settings: Settings) -> None:
        super().__init__()
        hidden, own = course.hidden, OWN if course.names else 0
        self.embed = nn.Linear(1, hidden)
        self.recurrence = recurrence(settings, hidden, course.dilations)
        self.series = nn.Parameter(SMALL * torch.randn(len(course.names), own))
        self.chance = Chance(course.dropout, noise=0.0)
        self.head = nn.Linear(self.recurrence.output_features + own, course.horizon)

    def forward(self, windows: Tensor, own: Tensor) -> Tensor:
        lead = windows.shape[:2]
        y, _ = self.recurrence(self.reads(windows))
        q = self.chance.dropped(y[-1]).unflatten(0, lead)
        if len(self.series):
            q = torch.cat([q, vectors(self.series, own).expand(*lead, -1)], dim=-1)
        return self.head(q)

    def reads(self, windows: Tensor) -> Tensor:
        """What the recurrence reads of each value: (back, W S, hidden)."""
        x = windows.reshape(windows.shape[:2].numel(), -1, 1).transpose(0, 1)
        return torch.tanh(self.embed(x))
