"""In which column each box stands, and which loops run above the picture and which below."""

from __future__ import annotations

from .picture import Diagram


def ranks_of(diagram: Diagram) -> list[int]:
    """Columns: the longest way from a source; states and outputs stand in the last one."""
    ranks = [0] * len(diagram.boxes)
    ends = {loop.state for loop in diagram.loops} | {diagram.output}
    for i, box in enumerate(diagram.boxes):
        ranks[i] = max((ranks[p.source] + 1 for p in box.ports), default=0)
    last = max(ranks[i] for i in ends)
    return [last if i in ends else rank for i, rank in enumerate(ranks)]


def spines(diagram: Diagram, above: list[int], below: list[int]) -> dict[int, int]:
    """-1 for what has to stand above all else, 1 for what has to stand below: the ends of the loops on that side, and
    the way of a state through the picture, where that leads past no gate: an LSTM's c runs straight along the top."""
    found: dict[int, int] = {}
    for numbers, side in ((above, -1), (below, 1)):
        for number in numbers:
            loop = diagram.loops[number]
            found |= {loop.past: side, loop.state: side}
            for i in _way(diagram, loop.past, loop.state):
                found.setdefault(i, side)
    return found


def _way(diagram: Diagram, past: int, state: int) -> list[int]:
    """The boxes of the shortest way from one to the other through small signs alone."""
    way: dict[int, list[int]] = {past: []}
    for i, box in enumerate(diagram.boxes):
        before = [way[p.source] for p in box.ports if p.source in way]
        if before and (i == state or box.kind == "op"):
            way[i] = [*min(before, key=len), i]
    return way.get(state, [])


def sides_of(diagram: Diagram) -> tuple[list[int], list[int]]:
    """Which loops run above and which below: the first state's below, the others' above; of many, half of them."""
    numbers = list(range(len(diagram.loops)))
    half = (len(numbers) + 1) // 2
    return numbers[half:], numbers[:half]
