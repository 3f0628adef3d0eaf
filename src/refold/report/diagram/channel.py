"""Tracks for the lines that bend between two columns: none lies on another, and few cross."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

_NEAR = 5.0  # lines at less than this distance look like one
_FEW = 6  # so many lines are tried in every order


@dataclass(frozen=True, slots=True)
class Net:
    """One value in a channel: the height at which it comes in from the left, and those at which it leaves."""

    source: int
    enters: float
    leaves: tuple[float, ...]

    @property
    def bends(self) -> bool:
        return any(abs(y - self.enters) > 0.01 for y in self.leaves)

    def spans(self, y: float) -> bool:
        low, high = min(self.enters, *self.leaves), max(self.enters, *self.leaves)
        return low - _NEAR < y < high + _NEAR


def tracks(nets: list[Net]) -> list[Net]:
    """The nets that bend, in the order of their tracks from left to right."""
    bending = [net for net in nets if net.bends]
    if len(bending) <= _FEW:
        return list(min(permutations(bending), key=_cost, default=()))
    order = sorted(bending, key=lambda net: net.enters)
    cost = _cost(order)
    improved = True
    while improved:
        improved = False
        for a in range(len(order)):
            for b in range(len(order)):
                trial = order[:a] + order[a + 1 :]
                trial.insert(b, order[a])
                found = _cost(trial)
                if found < cost:
                    order, cost, improved = trial, found, True
    return order


def _cost(order: list[Net] | tuple[Net, ...]) -> int:
    return sum(
        _pair(order[i], order[j]) for i in range(len(order)) for j in range(i + 1, len(order))
    )


def _pair(first: Net, second: Net) -> int:
    """Crossings of two nets, the first further left; much more where pieces would lie on each other."""
    # The first leaves to the right, over the second's track; the second comes in over the first's.
    cost = sum(second.spans(y) for y in first.leaves) + first.spans(second.enters)
    return cost + 1000 * sum(abs(y - second.enters) < _NEAR for y in first.leaves)
