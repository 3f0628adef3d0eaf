"""The order of boxes in their columns, and their heights: crossings are few and lines straight."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations, pairwise

_SWEEPS = 16


@dataclass(eq=False)
class Item:
    """A box in its column, or a line that passes. `pin` is where its value leaves; all heights grow downwards."""

    box: int
    h: float
    pin: float
    passes: bool = False
    side: int = 0  # -1 has to stand above, 1 below the others of its column
    y: float = 0.0
    left: list[tuple[float, Item, float]] = field(default_factory=list)  # own pin, other, its pin
    right: list[tuple[float, Item, float]] = field(default_factory=list)
    spine: set[int] = field(
        default_factory=set
    )  # the others to which a line should be straight before all

    def join(self, other: Item, pin: float, at: float, spine: bool = False) -> None:
        """A line from this one's pin to `at` of one in the next column."""
        if spine:
            self.spine.add(id(other))
            other.spine.add(id(self))
        self.right.append((pin, other, at))
        other.left.append((at, self, pin))


Column = list[Item]


def ordered(columns: list[Column]) -> None:
    """Barycentre sweeps to and fro; the order with the fewest crossings stays."""
    _sided(columns)
    best, fewest = [list(c) for c in columns], crossings(columns)
    for sweep in range(_SWEEPS):
        forth = sweep % 2 == 0
        for column in columns[1:] if forth else reversed(columns[:-1]):
            _sort(column, columns, forth)
        _sided(columns)
        _swapped(columns)
        count = crossings(columns)
        if count < fewest:
            best, fewest = [list(c) for c in columns], count
    for column, order in zip(columns, best, strict=True):
        column[:] = order


def _sided(columns: list[Column]) -> None:
    for column in columns:
        column.sort(key=lambda item: item.side)


def _sort(column: Column, columns: list[Column], forth: bool) -> None:
    place = {id(item): k / len(c) for c in columns for k, item in enumerate(c)}

    def barycentre(item: Item) -> float:
        ends = [(other, pin) for _, other, pin in (item.left if forth else item.right)]
        if not ends:
            return place[id(item)]
        return sum(place[id(o)] + pin * 1e-4 for o, pin in ends) / len(ends)

    column.sort(key=barycentre)


def _swapped(columns: list[Column]) -> None:
    """Neighbours change places while that takes crossings away."""
    for number, column in enumerate(columns):
        near = columns[max(number - 1, 0) : number + 2]
        fewest = crossings(near)
        for k in range(len(column) - 1):
            if column[k].side != column[k + 1].side:
                continue
            column[k], column[k + 1] = column[k + 1], column[k]
            count = crossings(near)
            if count < fewest:
                fewest = count
            else:
                column[k], column[k + 1] = column[k + 1], column[k]


def crossings(columns: list[Column]) -> int:
    """How many pairs of lines cross between neighbouring columns."""
    count = 0
    for a, b in pairwise(columns):
        place = {id(item): k for k, item in enumerate(b)}
        ends = [
            (i, place[id(o)] + at * 1e-4)
            for i, item in enumerate(a)
            for _, o, at in item.right
            if id(o) in place
        ]
        count += sum((i - j) * (y - z) < 0 for (i, y), (j, z) in combinations(ends, 2))
    return count


def placed(columns: list[Column]) -> None:
    """Heights at which lines are straight where that can be; items keep their order and their distance."""
    for column in columns:
        y = 0.0
        for item in column:
            item.y, y = y, y + item.h
    for sweep in range(_SWEEPS + 1):
        forth = sweep % 2 == 0
        for column in columns if forth else reversed(columns):
            _settle(column, forth, sweep >= _SWEEPS - 3)
    lowest = min(item.y for column in columns for item in column)
    for column in columns:
        for item in column:
            item.y -= lowest


def _settle(column: Column, forth: bool, last: bool) -> None:
    """The heights nearest to those wished for, in order and without overlap: pools of neighbours at their mean."""
    pools: list[tuple[float, float, list[Item]]] = []  # weight, wished start of the pool, items
    for item in column:
        wish, weight = _wish(item, forth, last)
        pools.append((weight, wish, [item]))
        while len(pools) > 1 and _end(pools[-2]) > pools[-1][1]:
            w2, y2, second = pools.pop()
            w1, y1, first = pools.pop()
            shift = sum(i.h for i in first)
            pools.append((w1 + w2, (w1 * y1 + w2 * (y2 - shift)) / (w1 + w2), first + second))
    for _, start, items in pools:
        for item in items:
            item.y, start = start, start + item.h


def _end(pool: tuple[float, float, list[Item]]) -> float:
    return pool[1] + sum(item.h for item in pool[2])


def _wish(item: Item, forth: bool, last: bool) -> tuple[float, float]:
    """Where a line would be straight: at the middle one of its ends in the column before; else in the one behind."""
    ends = (item.left or item.right) if forth else (item.right or item.left)
    if not ends:
        return item.y, 0.1
    straight = [end for end in ends if last and id(end[1]) in item.spine]
    wishes = sorted((other.y + pin - own, other.passes) for own, other, pin in straight or ends)
    weight = 1e6 if straight else 6.0 if item.passes else 1.0
    if last:
        return wishes[len(wishes) // 2][0], weight
    return sum(y for y, _ in wishes) / len(wishes), weight
