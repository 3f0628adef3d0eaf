"""A recurrence over single values and the time between them: for stamps that are irregular.

    e(i) = tanh(w x(i) + b)                     x(i), relative to the last value of the window
    s    = the state after recurrence over [e(i), dt(i)]            dt(i), the time since the value before
    q(k) = output of one step of the cell from s over the time tau(k), with a learned input
    y(k) = V dropout([q(k), series]) + c

The cell is one that reads a time step. It is carried on from the last state to each time that is asked for, all of them
side by side. Times are in median steps of the panel; in training they are those of the rows that followed, after the
end a median step apart.

Source  Rubanova, Chen & Duvenaud 2019, arXiv:1907.03907, for states that evolve between irregular observations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from refold.data import window
from refold.data.beside import Beside
from refold.nn.branch import branch

from .chance import Chance
from .lookback import Lookback
from .panel import Panel
from .recurrence import timed
from .segments import SMALL, vectors
from .series import Series
from .settings import Settings
from .steps import OWN


class Between(NamedTuple):
    """What goes with windows (W, S, back): the time before each value, and the times ahead (W, S, H), from the last."""

    gaps: Tensor
    ahead: Tensor


class TimeNetwork(nn.Module):
    """The values at times ahead, from windows.

    Shapes  windows (W, S, back), own (S,), as for steps -> (W, S, H)
    """

    def __init__(self, course: Lookback, settings: Settings, beside: Beside | None = None) -> None:
        super().__init__()
        assert beside is None  # refused by the way
        self.spreads = self.covariates = None
        hidden, own = course.hidden, OWN if course.names else 0
        self.embed = nn.Linear(1, hidden)
        self.recurrence = timed(settings, hidden)
        self.series = nn.Parameter(SMALL * torch.randn(len(course.names), own))
        self.asked = nn.Parameter(SMALL * torch.randn(hidden))
        self.chance = Chance(course.dropout, noise=0.0)
        self.head = nn.Linear(self.recurrence.output_features + own, 1)

    def forward(self, windows: Tensor, own: Tensor, along: Between) -> Tensor:
        lead, ahead = windows.shape[:2], along.ahead
        _, state = self.recurrence(self.reads(windows, along))
        states = state if isinstance(state, tuple) else (state,)
        states = tuple(s[0].reshape(*lead, 1, -1) for s in states)
        asked = torch.cat([self.asked.expand(*ahead.shape, -1), ahead[..., None]], dim=-1)
        q = self.chance.dropped(branch(self.recurrence, asked, states))
        if len(self.series):
            of = vectors(self.series, own)[:, None].expand(*ahead.shape, -1)
            q = torch.cat([q, of], dim=-1)
        return self.head(q)[..., 0]

    def reads(self, windows: Tensor, along: Between) -> Tensor:
        """What the recurrence reads of each value: (back, W S, hidden + 1)."""
        x, dt = (
            held.reshape(windows.shape[:2].numel(), -1, 1).transpose(0, 1)
            for held in (windows, along.gaps)
        )
        return torch.cat([torch.tanh(self.embed(x)), dt], dim=-1)


def times_of(panel: Panel, columns: int, horizon: int) -> Tensor:
    """The time of every column, of one before them and of `horizon` steps behind the end, in median steps.

    Before a series, columns are a step apart. Shapes  (N, 1 + columns + horizon)
    """
    return torch.stack([_times(s, panel, columns, horizon) for s in panel.series])


def _times(series: Series, panel: Panel, columns: int, horizon: int) -> Tensor:
    ahead = series.ahead(panel.frequency, horizon)
    stamps = np.concatenate([series.stamps[-columns - 1 :], ahead])
    since = (stamps - stamps[0]).astype(np.int64) / panel.frequency.count
    before = np.arange(len(stamps) - 1 - columns - horizon, 0, dtype=np.float64)
    return torch.from_numpy(np.concatenate([before, since]))


def between(times: Tensor, rows: Tensor, columns: Tensor, back: int, horizon: int) -> Between:
    """What goes with windows that end at columns (W, S)."""
    here = columns[..., None] + 1  # there is a time before the first column
    seen = window.at(times, rows, here + torch.arange(-back, 1))
    ahead = window.at(times, rows, here + torch.arange(1, horizon + 1))
    return Between(seen.diff(dim=-1).float(), (ahead - seen[..., -1:]).float())
