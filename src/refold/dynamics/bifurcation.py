"""What becomes of fixed points and of long runs as a parameter moves, and where that changes in kind.

Source  Kuznetsov 2004, "Elements of Applied Bifurcation Theory", chapters 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .points import Point, Points

HALVINGS = 40


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Where the number or the stability of fixed points changes.

    value       of the parameter, within `width`
    kind        "fold" (a pair appears or vanishes), "pitchfork" or "transcritical" (a point passes its stability on),
                "flip" (a multiplier at -1: a cycle of 2 steps), "neimark-sacker" (a pair of complex ones: a rotation)
    multiplier  the one nearest to the unit circle there
    """

    value: float
    width: float
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


Found = Callable[[float, Tensor | None], Points]  # the fixed points at a value, near these states too


def events(values: Sequence[float], points: Sequence[Points], find: Found) -> tuple[Event, ...]:
    """Between neighbouring values whose points differ, where that happens, by halving."""
    found = []
    for (a, left), (b, right) in zip(
        zip(values[:-1], points[:-1], strict=True),
        zip(values[1:], points[1:], strict=True),
        strict=True,
    ):
        if _signature(left) != _signature(right):
            found.append(_halved(a, b, left, right, find))
    return tuple(found)


def _halved(a: float, b: float, left: Points, right: Points, find: Found) -> Event:
    first, last = left, right
    for _ in range(HALVINGS):
        if abs(b - a) <= 1e-9 * max(1.0, abs(a), abs(b)):
            break
        middle = (a + b) / 2
        points = find(middle, torch.cat([left.states, right.states]))
        if _signature(points) == _signature(first):
            a, left = middle, points
        else:
            b, right = middle, points
    kind, multiplier = _kind(left, right)
    return Event(
        (a + b) / 2, abs(b - a), kind, multiplier, len(first.points), len(last.points)
    )


def _signature(points: Points) -> list[int]:
    return sorted(p.index for p in points.points)


def _kind(left: Points, right: Points) -> tuple[str, complex]:
    few, many = sorted((left, right), key=lambda p: len(p.points))
    critical = _critical((*left.points, *right.points))
    if abs(critical.imag) > 1e-3:
        return "neimark-sacker", critical
    if critical.real < 0:
        return "flip", critical
    if len(few.points) == len(many.points):
        return "transcritical", critical
    kept = all(_nearest(p, many).index == p.index for p in few.points)
    return ("fold" if kept else "pitchfork"), critical


def _critical(points: Sequence[Point]) -> complex:
    """The multiplier that is nearest to the unit circle."""
    values = torch.cat([p.multipliers for p in points])
    return complex(values[(values.abs() - 1).abs().argmin()])


def _nearest(point: Point, among: Points) -> Point:
    return among.points[int((among.states - point.state).norm(dim=-1).argmin())]
