"""What covariates add to a network over windows: read along with the values, asked of the future, and a correction.

    r(i)      = R [numbers and vectors of step or segment i, static ones]         beside the embedding of the values
    a(j)      = A [d(k) of the steps k of segment j] + S [static ones]            beside what segment j is asked for
    static    = their numbers and vectors                                         beside the vector of a series
    correction, from the last output of the recurrence and d(k), as in conditioned.py, and a linear one of every step
    from the last numbers of the window: distributed lags, which a recurrence is long in finding

d(k) is what is known ahead of step k, and how far that is from the mean over the window, from the origin and from where
a season that passes in the window takes it. Historical covariates are read up to the origin and no further.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from refold.data import beside as told
from refold.data.beside import Beside, Told

from .conditioned import Conditioned
from .lookback import Lookback


class Along(NamedTuple):
    """The covariates of windows (W, S).

    Shapes  numbers (W, S, back, V) and codes (W, S, back, C): at every step of them. static (S, n). told: at their
    origins and ahead of them.
    """

    numbers: Tensor
    codes: Tensor
    static: Tensor
    told: Told


def along(
    beside: Beside,
    rows: Tensor,
    columns: Tensor,
    back: int,
    horizon: int,
    seasons: tuple[int, ...],
) -> Along:
    """Of windows that end at columns (W, S) of rows (S,)."""
    steps = columns[..., None] + torch.arange(1 - back, 1)
    how = (len(columns), horizon, lags_of(seasons), back, 1.0)
    return Along(
        told.near(told.gathered(beside.numbers, rows, steps)),
        told.gathered(beside.codes, rows, steps),
        told.near(beside.static[rows]),
        told.told(beside, rows, columns, *how),
    )


def lags_of(seasons: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Seasons that pass within a window, as `Look.lags` has them."""
    return tuple((season, 0) for season in seasons)


class AlongWindows(nn.Module):
    """Covariates of one panel, as a network over windows is told of them.

    features: numbers of the recurrence's output. asks: are segments of the future asked one by one?

    Shapes  see the methods; `size` is the width of `still`.
    """

    def __init__(self, beside: Beside, course: Lookback, features: int, asks: bool = False) -> None:
        super().__init__()
        self.segment, self.moving = course.segment, len(beside.codes)
        static, lags = beside.static.shape[-1], lags_of(course.seasons)
        self.conditioned = Conditioned(beside, course.horizon, lags, features + static)
        widths = [layer.embedding_dim for layer in self.conditioned.tables]
        self.size = static + sum(widths[self.moving :])
        each = len(beside.numbers) + sum(widths[: self.moving])
        hidden = course.hidden
        self.read = nn.Linear(each * course.segment + self.size, hidden, bias=False)
        ahead = self.conditioned.inputs_ahead * course.segment + self.size
        self.ask = nn.Linear(ahead, hidden, bias=False) if asks and ahead else None
        self.near = min(beside.near(course.back), course.back)
        self.lags = None
        if len(beside.numbers):
            self.lags = nn.Linear(self.near * len(beside.numbers), course.horizon, bias=False)
            nn.init.zeros_(self.lags.weight)

    def still(self, told_: Along) -> Tensor:
        """What never changes in a series: (S, size)."""
        codes = told_.told.codes[0, :, self.moving :]
        layers = self.conditioned.tables[self.moving :]
        return torch.cat([told_.static, *_vectors(layers, codes)], dim=-1)

    def reads(self, told_: Along) -> Tensor:
        """What is read along with every step or segment of a window: (steps, W S, hidden)."""
        lead = told_.numbers.shape[:2]
        layers = self.conditioned.tables[: self.moving]
        x = torch.cat([told_.numbers, *_vectors(layers, told_.codes)], dim=-1)
        x = x.unflatten(2, (-1, self.segment)).flatten(3)
        still = self.still(told_)[:, None].expand(*lead, x.shape[2], -1)
        return self.read(torch.cat([x, still], dim=-1)).flatten(0, 1).transpose(0, 1)

    def asked(self, told_: Along) -> Tensor | float:
        """What is asked of every segment of the future: (W, S, segments, hidden); 0 where all are historical."""
        if self.ask is None:
            return 0.0
        d = self.conditioned.ahead(told_.told)
        d = pad(d, (0, 0, 0, -d.shape[2] % self.segment))
        d = d.unflatten(2, (-1, self.segment)).flatten(3)
        still = self.still(told_)[:, None].expand(*d.shape[:3], -1)
        return self.ask(torch.cat([d, still], dim=-1))

    def correction(self, q: Tensor, told_: Along) -> Tensor:
        """What is known of each step changes of it, by the last output q (W, S, features): (W, S, horizon)."""
        u = torch.cat([q, told_.static.expand(*q.shape[:2], -1)], dim=-1)
        ones = q.new_ones(*q.shape[:2], self.conditioned.horizon)
        found = self.conditioned.correction(u, told_.told, ones)
        if self.lags is None:
            return found
        return found + self.lags(told_.numbers[:, :, -self.near :].flatten(2))


def along_windows(
    beside: Beside | None, course: Lookback, features: int, asks: bool = False
) -> AlongWindows | None:
    """None where there are no covariates."""
    return None if beside is None else AlongWindows(beside, course, features, asks)


def _vectors(layers: list[nn.Embedding], codes: Tensor) -> list[Tensor]:
    return [layer(codes[..., i]) for i, layer in enumerate(layers)]
