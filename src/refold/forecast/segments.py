"""A recurrence over segments, and all segments of the future at once: for long horizons.

The window x before an origin is cut into n segments of w values. Each is embedded, and a recurrent layer runs over
them; the state after the last one branches into the m segments of the future, each by one further step of the same cell
that reads where the segment lies, and of which series:

    e(i) = relu(W x(i) + b)                     i = 1 .. n
    s    = the state after recurrence over e
    q(j) = output of one step of the cell from s, with input [position(j), series]        j = 1 .. m
    y(j) = V dropout(q(j)) + c                  w values, relative to the last one of the window

A horizon of 720 hours is 30 segments of a day: no error is fed back, and none has to go through 720 steps. What
covariates add is in along.py: to e(i), to the input of q(j), and a correction of every step ahead.

Source  Lin et al. 2023, arXiv:2308.11200 (SegRNN).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refold.data.beside import Beside
from refold.nn.branch import branch

from .along import Along, along_windows
from .chance import Chance
from .heads import window_head
from .lookback import Lookback
from .recurrence import recurrence
from .settings import Settings

# Vectors of positions and series start this small: at first, all segments are forecast alike.
SMALL = 0.1


class SegmentNetwork(nn.Module):
    """The whole horizon from windows.

    Shapes  windows (W, S, back), own (S,): which series' vector, -1 for their mean -> (W, S, horizon), and with a
    head (W, S, horizon, 1 + spreads): what `WindowHead` makes parameters of
    """

    def __init__(self, course: Lookback, settings: Settings, beside: Beside | None = None) -> None:
        super().__init__()
        hidden, width = course.hidden, course.segment
        self.horizon, self.segment = course.horizon, width
        self.embed = nn.Linear(width, hidden)
        self.recurrence = recurrence(settings, hidden)
        own = hidden // 2 if course.names else 0
        later = -(-course.horizon // width)
        self.position = nn.Parameter(SMALL * torch.randn(later, hidden - own))
        self.series = nn.Parameter(SMALL * torch.randn(len(course.names), own))
        self.chance = Chance(course.dropout, noise=0.0)
        features = self.recurrence.output_features
        self.head = nn.Linear(features, width)
        self.spreads = window_head(settings.head, features, width, course.horizon)
        self.covariates = along_windows(beside, course, features, asks=True)

    def forward(self, windows: Tensor, own: Tensor, along: Along | None = None) -> Tensor:
        lead = windows.shape[:2]
        y, state = self.recurrence(self.reads(windows, along))
        states = state if isinstance(state, tuple) else (state,)
        states = tuple(s[0].reshape(*lead, 1, -1) for s in states)
        q = self.chance.dropped(branch(self.recurrence, self._asked(own, along), states))
        found = self.head(q).flatten(-2)[..., : self.horizon]
        if self.covariates is not None and along is not None:
            last = self.chance.dropped(y[-1]).unflatten(0, lead)
            found = found + self.covariates.correction(last, along)
        if self.spreads is None:
            return found
        spread = self.spreads.raw_of(q).flatten(2, 3)[..., : self.horizon, :]
        return torch.cat([found[..., None], spread], dim=-1)

    def reads(self, windows: Tensor, along: Along | None = None) -> Tensor:
        """What the recurrence reads of each segment: (segments, W S, hidden)."""
        x = windows.reshape(windows.shape[:2].numel(), -1, self.segment).transpose(0, 1)
        e = self.embed(x)
        if self.covariates is not None and along is not None:
            e = e + self.covariates.reads(along)
        return torch.relu(e)

    def _asked(self, own: Tensor, along: Along | None) -> Tensor:
        """What each segment of the future is asked for: (W, S, m, hidden), or less where it is the same for all."""
        asked = self._of_series(own)
        if self.covariates is not None and along is not None:
            return asked + self.covariates.asked(along)
        return asked

    def _of_series(self, own: Tensor) -> Tensor:
        """Where each segment lies and whose it is: (S, m, hidden), or (m, hidden) for all series."""
        if not len(self.series):
            return self.position
        of = vectors(self.series, own)
        segments = len(self.position)
        each = (self.position.expand(len(own), -1, -1), of[:, None].expand(-1, segments, -1))
        return torch.cat(each, dim=-1)


def vectors(series: Tensor, own: Tensor) -> Tensor:
    """Each series' vector: (S, k); a series that was not trained on has the mean of all."""
    known = series[own.clamp(min=0)]
    return torch.where((own >= 0)[:, None], known, series.mean(dim=0))
