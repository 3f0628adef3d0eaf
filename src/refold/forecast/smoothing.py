"""Exponential smoothing that is learned with the network: each series relative to a level and seasons of its own.

A series z, once transformed, is run through the cell `holt_winters`: a level l(t) and summands s(t), u(t) of up to two
seasons, which follow it at rates of the series' own. What the network sees, and forecasts, is the series without its
seasons and relative to its level; both are put back:

    z'(t)  = z(t) - s(t) - u(t)
    z^(t + k) = network(z' up to t, relative to l(t)) + l(t) + s(t + k) + u(t + k)

where the summands of step t + k are those that the rings hold at t. Of a logarithm they are factors of the series, so
for positive series this is the multiplicative model. Rates and first summands are trained with the network, by
backpropagation through the whole of the series; they begin at those of a classical decomposition.

Source  Smyl 2020, International Journal of Forecasting 36:75-85 (ES-RNN).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from refold.data import window
from refold.data.beside import rows_of
from refold.data.decomposition import summands
from refold.data.window import Past
from refold.nn.layer import Recurrent

# The first summands are those of this many of the longest season: of more they would know how a series ends, and
# networks would learn from forecasts that are too good.
_SEASONS = 3
# A rate's logit, and a first summand in moves of the series, are trained in units of this size.
_RATE, _SUMMAND = 5.0, 1.0
# The logit of a rate of 0.
_NEVER = -200.0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Tracked(Past):
    """A Past whose series have a level and seasons that are learned.

    Shapes  own (N,): which of those that were trained a series is, -1 for none; start (N, n + k): the summands it
    begins with by decomposition; move (N,): its mean move.
    """

    own: Tensor
    start: Tensor
    move: Tensor


def tracked(past: Past, names: Sequence[str], trained: Sequence[str]) -> Tracked:
    """A whole past with what smoothing begins with. names: of its series; trained: of those that were."""
    places = {name: i for i, name in enumerate(trained)}
    own = torch.tensor([places.get(name, -1) for name in names])
    start = torch.stack([_start(past, i) for i in range(len(names))])
    held = {f.name: getattr(past, f.name) for f in fields(Past)}
    return Tracked(**held, own=own, start=start, move=past.step[:, -1].clamp(min=0.0))


def with_smoothing(
    past: Past, names: Sequence[str], trained: Sequence[str], to_train: bool
) -> Tracked:
    """`tracked`; where it is to be trained on, with the width that is usual without the seasons."""
    found = tracked(past, names, trained)
    if not to_train:
        return found
    with torch.no_grad():
        _, shorter, longer = Smoothing(found, len(trained)).followed(
            found, torch.arange(len(names))
        )
    seasons = shorter[:, : past.columns] + longer[:, : past.columns]
    z = (found.z - seasons).double()
    return replace(found, usual=window.measured(past.look, z, past.first, past.observed).usual)


def _start(past: Past, row: int) -> Tensor:
    """The summands of one series' first seasons, (n + k,)."""
    rings, first = rings_of(past.look.seasons), int(past.first[row])
    z = past.z[row, first : first + _SEASONS * max(rings) + 1].double()
    if past.observed is not None:
        z = torch.where(past.observed[row, first : first + len(z)], z, torch.nan)
    found = dict(zip(past.look.seasons, summands(z.numpy(), past.look.seasons), strict=True))
    parts = [torch.from_numpy(found[n]) if n in found else torch.zeros(n).double() for n in rings]
    return torch.cat(parts).float()


def rings_of(seasons: Sequence[int]) -> tuple[int, int]:
    """The lengths of the two rings: the shortest season and the longest. A ring that no season needs holds one 0."""
    return (seasons[0] if seasons else 1, seasons[-1] if len(seasons) > 1 else 1)


@dataclass(frozen=True, slots=True, eq=False)
class Smoothed:
    """Series without their seasons, and what the seasons add.

    past: as the network sees it, its level the smoothed one. shorter (B, C + n), longer (B, C + k): the summands of
    every column, and behind the last one those that the rings then hold.
    """

    past: Past
    shorter: Tensor
    longer: Tensor

    def ahead(self, rows: Tensor, columns: Tensor) -> Tensor:
        """What the seasons add to the steps after origins, as far as it is known there: (T, B, H)."""
        steps = torch.arange(self.past.look.horizon)
        held = [
            window.at(
                ring, rows, columns[..., None] + 1 + steps % (ring.shape[1] - self.past.columns)
            )
            for ring in (self.shorter, self.longer)
        ]
        return held[0] + held[1]


class Smoothing(nn.Module):
    """Levels and seasons of the series that are trained on.

    Shapes  a Tracked of N series, and rows (B,) of it, each once -> Smoothed of those.
    """

    classical: Tensor
    move: Tensor

    def __init__(self, past: Tracked, trained: int) -> None:
        super().__init__()
        self.rings = rings_of(past.look.seasons)
        short, long = self.rings
        self.recurrence = Recurrent("holt_winters", 1, short, k=long)
        self.rates = nn.Parameter(torch.zeros(trained, 3))
        self.moved = nn.Parameter(torch.zeros(trained, short + long))
        own = past.own >= 0
        for name, held in (("classical", past.start), ("move", past.move)):
            whole = held.new_zeros(trained, *held.shape[1:])
            whole[past.own[own]] = held[own]
            self.register_buffer(name, whole)
        # A ring that no season needs is of one 0, which nothing moves.
        idle = [0.0 if season in past.look.seasons else _NEVER for season in self.rings]
        self.idle = torch.tensor([0.0, *idle])
        self.used = (self.idle[1:] == 0).float().repeat_interleave(torch.tensor(self.rings))

    def forward(self, past: Tracked, rows: Tensor) -> Smoothed:
        level, shorter, longer = self.followed(past, rows)
        columns = past.columns
        z = past.z[rows] - shorter[:, :columns] - longer[:, :columns]
        observed = None if past.observed is None else past.observed[rows]
        beside = None if past.beside is None else rows_of(past.beside, rows)
        # Units and means are taken as they are found: only what they are of is trained.
        seen = window.measured(
            past.look, z.detach().double(), past.first[rows], observed, past.usual
        )
        found = Smoothed(replace(seen, z=z, level=level, beside=beside), shorter, longer)
        return found if past.line is None else found_with_lines(found, past.line[rows])

    def followed(self, past: Tracked, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The level at every column (B, C), and the summands of both rings, (B, C + n) and (B, C + k)."""
        z, first = past.z[rows], past.first[rows]
        seen = torch.arange(past.columns) >= first[:, None]
        if past.observed is not None:
            seen = seen & past.observed[rows]
        rates, start = self._begun(past, rows)
        begun = start.split(self.rings, dim=1)
        rings = [_turned(ring, first) for ring in begun]
        level = z.gather(1, first[:, None]) - begun[0][:, :1] - begun[1][:, :1]
        given = torch.stack([z, seen.float()], dim=-1).transpose(0, 1)
        x = torch.cat([given, rates.expand(past.columns, -1, -1)], dim=-1)
        y, (_, *ends) = self.recurrence(x, tuple(state[None] for state in (level, *rings)))
        level, *held = y.permute(2, 1, 0).contiguous()
        shorter, longer = (torch.cat([h, e[0]], dim=1) for h, e in zip(held, ends, strict=True))
        return level, shorter, longer

    def _begun(self, past: Tracked, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rates (B, 3) and first summands (B, n + k); a series that was not trained on has the mean of the rates."""
        own = past.own[rows]
        known, at = (own >= 0)[:, None], own.clamp(min=0)
        trained = self.classical[at] + _SUMMAND * self.move[at, None] * self.moved[at]
        rates = torch.where(known, self.rates[at], self.rates.mean(dim=0))
        return _RATE * rates + self.idle, self.used * torch.where(known, trained, past.start[rows])


def found_with_lines(found: Smoothed, line: Tensor) -> Smoothed:
    """With the forecasts of autoregressions (B, L, H) without the seasons that they hold too."""
    columns = torch.arange(found.past.columns - line.shape[1], found.past.columns)
    rows = torch.arange(len(line))
    ahead = found.ahead(rows, columns[:, None].expand(-1, len(line)))
    return replace(found, past=replace(found.past, line=line - ahead.transpose(0, 1)))


def _turned(ring: Tensor, first: Tensor) -> Tensor:
    """Rings (B, n) that begin at the first columns (B,), as they stand at column 0: a ring turns at every column."""
    period = ring.shape[1]
    return ring.gather(1, (torch.arange(period) - first[:, None]) % period)
