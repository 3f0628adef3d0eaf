"""Between what each line of an equation lies, and how fast it can change with the state: interval arithmetic.

A range is exact for one operation and safe for several: h - h is taken to lie anywhere between low - high and high -
low. What gates do is the exception, (1 - z) u + z v is known to lie between u and v: `mixed`.

Source  Moore, Kearfott & Cloud 2009, "Introduction to Interval Analysis".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """Shapes  low, high (k,), of a number (1,); change (k, N): no less than |d line / d state|, None: it reads none"""

    low: Tensor
    high: Tensor
    change: Tensor | None = None

    def sized(self, size: int) -> Line:
        """With a number as so many equal ones."""
        change = None if self.change is None else self.change.expand(size, -1)
        return Line(self.low.expand(size), self.high.expand(size), change)

    @property
    def largest(self) -> Tensor:
        return torch.maximum(self.low.abs(), self.high.abs())

    @property
    def nearest(self) -> Tensor:
        """The number of the range that is nearest to 0."""
        return torch.minimum(self.low.clamp(min=0), self.high) + self.high.clamp(max=0) * (
            self.low > 0
        )


def anything(*read: Line) -> Line:
    """What is known of a result that no rule covers."""
    whole = torch.full((1,), math.inf, dtype=torch.float64)
    sizes = [line.change.shape[1] for line in read if line.change is not None]
    return Line(-whole, whole, whole.expand(1, sizes[0]) if sizes else None)


def times(a: Tensor, b: Tensor) -> Tensor:
    """a b, where nothing times what has no bound is nothing."""
    return torch.where((a == 0) | (b == 0), 0.0, a * b)


def plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def scaled(change: Tensor | None, factor: Tensor) -> Tensor | None:
    return None if change is None else times(factor.unsqueeze(-1), change)


def either(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The larger of two changes."""
    if a is None or b is None:
        return b if a is None else a
    return torch.maximum(a, b)


# Arithmetic -----------------------------------------------------------------------------------------------------------


def add(a: Line, b: Line) -> Line:
    return Line(a.low + b.low, a.high + b.high, plus(a.change, b.change))


def negative(a: Line) -> Line:
    return Line(-a.high, -a.low, a.change)


def product(a: Line, b: Line) -> Line:
    corners = [times(p, q) for p in (a.low, a.high) for q in (b.low, b.high)]
    low = torch.stack(corners).amin(0)
    if a is b:
        low = low.clamp(min=0)
    change = plus(scaled(a.change, b.largest), scaled(b.change, a.largest))
    return Line(low, torch.stack(corners).amax(0), change)


def quotient(a: Line, b: Line) -> Line:
    if bool(((b.low <= 0) & (b.high >= 0)).any()):
        return anything(a, b)
    least = torch.minimum(b.low.abs(), b.high.abs())
    return product(a, Line(1 / b.high, 1 / b.low, scaled(b.change, 1 / least.square())))


def mixed(gate: Line, u: Line, v: Line) -> Line:
    """(1 - z) u + z v for a gate z between 0 and 1."""

    def at(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return times(1 - z, a) + times(z, b)

    low = torch.minimum(at(gate.low, u.low, v.low), at(gate.high, u.low, v.low))
    high = torch.maximum(at(gate.low, u.high, v.high), at(gate.high, u.high, v.high))
    ends = [plus(scaled(u.change, 1 - z), scaled(v.change, z)) for z in (gate.low, gate.high)]
    apart = torch.maximum(v.high - u.low, u.high - v.low)
    return Line(low, high, plus(either(*ends), scaled(gate.change, apart)))


def one_of(a: Line, b: Line) -> Line:
    """Either of them, unit by unit."""
    low, high = torch.minimum(a.low, b.low), torch.maximum(a.high, b.high)
    return Line(low, high, either(a.change, b.change))


def smaller(a: Line, b: Line) -> Line:
    low, high = torch.minimum(a.low, b.low), torch.minimum(a.high, b.high)
    return Line(low, high, either(a.change, b.change))


def larger(a: Line, b: Line) -> Line:
    low, high = torch.maximum(a.low, b.low), torch.maximum(a.high, b.high)
    return Line(low, high, either(a.change, b.change))


def through(matrix: Tensor, v: Line) -> Line:
    """The product of a known matrix with a line."""
    parts = [times(matrix, end.unsqueeze(0)) for end in (v.low, v.high)]
    low, high = torch.minimum(*parts).sum(-1), torch.maximum(*parts).sum(-1)
    if v.change is None:
        return Line(low, high)
    if bool(v.change.isfinite().all()):
        return Line(low, high, matrix.abs() @ v.change)
    return Line(low, high, torch.full_like(v.change[:1], math.inf).expand(len(matrix), -1))


# Functions of one number: what each makes of a number, and the steepest slope in a range ------------------------------


def _logistic(a: Tensor) -> Tensor:
    return torch.sigmoid(a) * torch.sigmoid(-a)


RISING: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Line], Tensor]]] = {
    "tanh": (torch.tanh, lambda a: 1 - torch.tanh(a.nearest).square()),
    "sigmoid": (torch.sigmoid, lambda a: _logistic(a.nearest)),
    "atan": (torch.atan, lambda a: 1 / (1 + a.nearest.square())),
    "erf": (torch.erf, lambda a: 2 / math.sqrt(math.pi) * (-a.nearest.square()).exp()),
    "softplus": (softplus, lambda a: torch.sigmoid(a.high)),
    "relu": (torch.relu, lambda a: (a.high >= 0).double()),  # at 0 it begins
    "exp": (torch.exp, lambda a: a.high.exp()),
    "expm1": (torch.expm1, lambda a: a.high.exp()),
    "log": (lambda a: a.clamp(min=0).log(), lambda a: 1 / a.low.clamp(min=0)),
    "log1p": (lambda a: a.clamp(min=-1).log1p(), lambda a: 1 / (1 + a.low).clamp(min=0)),
    "sqrt": (lambda a: a.clamp(min=0).sqrt(), lambda a: 0.5 / a.low.clamp(min=0).sqrt()),
    "floor": (torch.floor, lambda a: torch.zeros_like(a.low)),
    "round": (torch.round, lambda a: torch.zeros_like(a.low)),
    "sign": (torch.sign, lambda a: torch.zeros_like(a.low)),
}


def rising(op: str, a: Line) -> Line:
    function, steepest = RISING[op]
    return Line(function(a.low), function(a.high), scaled(a.change, steepest(a)))


def magnitude(a: Line) -> Line:
    return Line(a.nearest.abs(), a.largest, a.change)


def wave(a: Line) -> Line:
    """A sine or cosine."""
    return Line(-torch.ones_like(a.low), torch.ones_like(a.low), a.change)


# Over the units -------------------------------------------------------------------------------------------------------


def total(a: Line) -> Line:
    change = None if a.change is None else a.change.sum(0, keepdim=True)
    return Line(a.low.sum(0, keepdim=True), a.high.sum(0, keepdim=True), change)


def greatest(a: Line) -> Line:
    change = None if a.change is None else a.change.amax(0, keepdim=True)
    return Line(a.low.amax(0, keepdim=True), a.high.amax(0, keepdim=True), change)


def length(a: Line) -> Line:
    """The Euclidean norm."""
    change = None if a.change is None else a.change.norm(dim=0, keepdim=True)
    return Line(a.nearest.norm()[None], a.largest.norm()[None], change)


def side_by_side(lines: list[Line]) -> Line:
    wide = next((x.change.shape[1] for x in lines if x.change is not None), 0)
    changes = [x.low.new_zeros(len(x.low), wide) if x.change is None else x.change for x in lines]
    low, high = torch.cat([x.low for x in lines]), torch.cat([x.high for x in lines])
    return Line(low, high, torch.cat(changes) if wide else None)


def rows(a: Line, start: int, number: int) -> Line:
    place = slice(start, start + number)
    change = None if a.change is None else a.change[place]
    return Line(a.low[place], a.high[place], change)


def padded(a: Line, start: int, size: int) -> Line:
    """Among so many numbers, of which the others are 0."""

    def wide(t: Tensor) -> Tensor:
        out = t.new_zeros(size, *t.shape[1:])
        out[start : start + len(t)] = t
        return out

    return Line(wide(a.low), wide(a.high), None if a.change is None else wide(a.change))
