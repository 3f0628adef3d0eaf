"""What becomes of fixed points and of long runs as a parameter moves, and where that changes in kind.

Source  Kuznetsov 2004, "Elements of Applied Bifurcation Theory", chapters 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .points import Point, Points

NEAR = 1e-3  # of the distance between two values: the points on both sides are told apart, and belong together
FINE = 1e-7


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Where the number or the stability of fixed points changes.

    value       of the parameter
    kind        "fold" (a pair appears or vanishes), "pitchfork" or "transcritical" (a point passes its stability on),
                "flip" (a multiplier at -1: a cycle of 2 steps), "neimark-sacker" (a pair of complex ones: a rotation)
    multiplier  the one nearest to the unit circle there
    """

    value: float
    kind: str
    multiplier: complex
    before: int
    after: int

    def __str__(self) -> str:
        return f"{self.kind} at {self.value:.6g}: {self.before} -> {self.after} fixed point(s)"


@dataclass(frozen=True, slots=True, eq=False)
class Bifurcation:
    """Shapes  values (V,); attractor (V, R, K, N): the last K states of each of R runs; exponents (V,): the largest
    Lyapunov exponent, in nats per step, where it was asked for, else NaN; points: one `Points` for each value
    """

    parameter: str
    values: Tensor
    points: tuple[Points, ...]
    attractor: Tensor
    exponents: Tensor
    events: tuple[Event, ...]

    def __str__(self) -> str:
        low, high = float(self.values[0]), float(self.values[-1])
        lines = [f"{self.parameter} from {low:g} to {high:g}, {len(self.values)} values"]
        lines += [str(event) for event in self.events] or ["no fixed point changes"]
        return "\n".join(lines)


Found = Callable[
    [float, Tensor | None], Points
]  # the fixed points at a value, near these states too


def events(values: Sequence[float], points: Sequence[Points], find: Found) -> tuple[Event, ...]:
    """Between neighbouring values whose points differ, where that happens, by halving.

    A value at which a point is neither stable nor unstable is where it happens, and is left out.
    """
    clear = [(v, p) for v, p in zip(values, points, strict=True) if not p.of("neutral")]
    found = [
        _between(*first, *second, find)
        for first, second in pairwise(clear)
        if not _same(first[1], second[1])
    ]
    return tuple(event for event in found if event is not None)


def _between(a: float, left: Points, b: float, right: Points, find: Found) -> Event | None:
    counts = len(left.points), len(right.points)
    a, left, b, right = _halved(a, left, b, right, find, NEAR * abs(b - a))
    if _same(left, right):  # the points had moved so far that they were taken for one another
        return None
    kind, multiplier = _kind(left, right)
    if kind == "fold":
        a, left, b, right = _halved(a, left, b, right, find, FINE * max(1.0, abs(a), abs(b)))
        return Event((a + b) / 2, kind, _critical((*left.points, *right.points)), *counts)
    return Event(_crossing(a, left, b, right, find), kind, multiplier, *counts)


def _halved(
    a: float, left: Points, b: float, right: Points, find: Found, width: float
) -> tuple[float, Points, float, Points]:
    while abs(b - a) > width:
        middle = a + 0.47 * (
            b - a
        )  # the half is where round numbers meet, as the change itself may
        points = find(middle, torch.cat([left.states, right.states]))
        if _same(left, points):
            a, left = middle, points
        else:
            b, right = middle, points
    return a, left, b, right


def _crossing(a: float, left: Points, b: float, right: Points, find: Found) -> float:
    """Where the critical multiplier of the branch that changes crosses the unit circle, by two secant steps."""
    value = (a + b) / 2
    point = next(p for p in left.points if _nearest(p, right).index != p.index)
    for _ in range(3):
        other = _nearest(point, right)
        first, second = (float(p.multipliers[_outermost(p)].abs()) - 1 for p in (point, other))
        value = a - first * (b - a) / (second - first)
        if abs(b - a) <= FINE * max(1.0, abs(a), abs(b)) or not min(a, b) < value < max(a, b):
            return value
        # Beside the crossing, where the points are still apart, on both sides.
        step = 0.05 * (b - a)
        nearer = find(value - step, left.states), find(value + step, right.states)
        if _same(*nearer):
            return value
        a, b, left, right = value - step, value + step, *nearer
        point = _nearest(point, left)
    return value


def _outermost(point: Point) -> int:
    return int((point.multipliers.abs() - 1).abs().argmin())


def _same(left: Points, right: Points) -> bool:
    """Whether the points on one side go on as those on the other."""
    if sorted(p.index for p in left.points) != sorted(p.index for p in right.points):
        return False
    return all(_nearest(p, right).index == p.index for p in left.points)


def _kind(left: Points, right: Points) -> tuple[str, complex]:
    few, many = sorted((left, right), key=lambda p: len(p.points))
    critical = _critical((*left.points, *right.points))
    kept = all(_nearest(p, many).index == p.index for p in few.points)
    if len(few.points) < len(many.points) and kept:
        return "fold", critical
    if abs(critical.imag) > 1e-3:
        return "neimark-sacker", critical
    if critical.real < 0:
        return "flip", critical
    equal = len(few.points) == len(many.points)
    return ("transcritical" if equal else "pitchfork"), critical


def _critical(points: Sequence[Point]) -> complex:
    """The multiplier that is nearest to the unit circle."""
    values = torch.cat([p.multipliers for p in points])
    return complex(values[(values.abs() - 1).abs().argmin()])


def _nearest(point: Point, among: Points) -> Point:
    return among.points[int((among.states - point.state).norm(dim=-1).argmin())]
