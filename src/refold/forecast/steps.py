"""A recurrence over single steps, and all steps ahead from its last state: the classical recurrent forecaster.

    e(t) = tanh(w x(t) + b)                     x(t), relative to the last value of the window
    q    = recurrence over e                    one layer, or a residual stack with dilations
    y    = V dropout([q(T), series]) + c        all of the horizon at once

What covariates add is in along.py: to e, beside the series, and a correction of every step ahead.

Layers above the first add to what is below, and may look further back than one step: a layer with the dilation of a
season reads the state of one season ago.

Source  Chang et al. 2017, arXiv:1710.02224 (dilations); Smyl 2020 for stacks of them in forecasting.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refold.data.beside import Beside

from .along import Along, along_windows
from .chance import Chance
from .heads import window_head
from .lookback import Lookback
from .recurrence import recurrence
from .segments import SMALL, vectors
from .settings import Settings

# Numbers that say which series it is.
OWN = 8


class StepNetwork(nn.Module):
    """The whole horizon from windows.

    Shapes  windows (W, S, back), own (S,): which series' vector, -1 for their mean -> (W, S, horizon), and with a
    head (W, S, horizon, 1 + spreads): what `WindowHead` makes parameters of
    """

    def __init__(self, course: Lookback, settings: Settings, beside: Beside | None = None) -> None:
        super().__init__()
        hidden, own = course.hidden, OWN if course.names else 0
        self.embed = nn.Linear(1, hidden)
        self.recurrence = recurrence(settings, hidden, course.dilations)
        self.series = nn.Parameter(SMALL * torch.randn(len(course.names), own))
        self.chance = Chance(course.dropout, noise=0.0)
        features, horizon = self.recurrence.output_features, course.horizon
        still = 0
        self.covariates = along_windows(beside, course, features)
        if self.covariates is not None:
            still = self.covariates.size
        self.head = nn.Linear(features + own + still, horizon)
        self.spreads = window_head(settings.head, features + own + still, horizon, horizon)

    def forward(self, windows: Tensor, own: Tensor, along: Along | None = None) -> Tensor:
        lead = windows.shape[:2]
        y, _ = self.recurrence(self.reads(windows, along))
        last = self.chance.dropped(y[-1]).unflatten(0, lead)
        q = self._whose(last, own, along)
        found = self.head(q)
        if self.covariates is not None and along is not None:
            found = found + self.covariates.correction(last, along)
        if self.spreads is None:
            return found
        return torch.cat([found[..., None], self.spreads.raw_of(q)], dim=-1)

    def _whose(self, last: Tensor, own: Tensor, along: Along | None) -> Tensor:
        """The last output (W, S, features), and beside it which series it is of."""
        parts, lead = [last], last.shape[:2]
        if len(self.series):
            parts.append(vectors(self.series, own).expand(*lead, -1))
        if self.covariates is not None and along is not None:
            parts.append(self.covariates.still(along).expand(*lead, -1))
        return torch.cat(parts, dim=-1)

    def reads(self, windows: Tensor, along: Along | None = None) -> Tensor:
        """What the recurrence reads of each value: (back, W S, hidden)."""
        x = windows.reshape(windows.shape[:2].numel(), -1, 1).transpose(0, 1)
        e = self.embed(x)
        if self.covariates is not None and along is not None:
            e = e + self.covariates.reads(along)
        return torch.tanh(e)
