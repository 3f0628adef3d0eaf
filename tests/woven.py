"""What holds for every picture of a network: nothing overlaps, and lines pass through nothing that is not theirs."""

from collections import Counter
from itertools import combinations, pairwise

from refold.report.diagram import Picture
from refold.report.diagram.grid import Grid
from refold.report.diagram.layout import Line
from refold.report.diagram.measure import Rect

NEAR = 3.0  # parallel lines that are closer look like one


def over(a: Rect, b: Rect, by: float = 0.01) -> bool:
    across = a.x < b.x + b.w - by and b.x < a.x + a.w - by
    return across and a.y < b.y + b.h - by and b.y < a.y + a.h - by


def within(a: Rect, b: Rect) -> bool:
    across = b.x - 0.02 <= a.x and a.x + a.w <= b.x + b.w + 0.02
    return across and b.y - 0.02 <= a.y and a.y + a.h <= b.y + b.h + 0.02


def pieces(line: Line) -> list[Rect]:
    """The pieces of a line as rectangles of its width."""
    found, half = [], max(line.width, 1.6) / 2
    for (ax, ay), (bx, by) in pairwise(line.points):
        assert ax == bx or ay == by, line
        x, y = min(ax, bx), min(ay, by)
        level = half if ay == by else 0.0
        aside = half if ax == bx else 0.0
        found.append(Rect(x - aside, y - level, abs(ax - bx) + 2 * aside, abs(ay - by) + 2 * level))
    return found


def check_woven(picture: Picture) -> None:
    """Errors  AssertionError names the two that overlap"""
    grid, layout = picture.diagram, picture.layout
    assert isinstance(grid, Grid)
    page = Rect(0, 0, layout.width, layout.height)
    for a, b in combinations(layout.shapes, 2):
        assert not over(a.room, b.room), (a, b)
    for a, b in combinations(layout.texts, 2):
        assert not over(a.rect, b.rect), (a, b)
    for text in layout.texts:
        assert within(text.rect, page), text
        for shape in layout.shapes:
            assert within(text.rect, shape.body) or not over(text.rect, shape.body), (text, shape)
    for line in layout.lines:
        _check_line(picture, line)
    for a, b in combinations(layout.lines, 2):
        _check_apart(a, b)


def _check_line(picture: Picture, line: Line) -> None:
    grid, layout = picture.diagram, picture.layout
    assert isinstance(grid, Grid)
    wire = grid.wires[line.net]
    delays = [s.body for s in layout.shapes if s.box < 0] if wire.delay else []
    for text in layout.texts:
        if any(within(text.rect, body) for body in delays):
            continue  # the box of a delay covers its own loop; that it is on no other is tested below
        for piece in pieces(line):
            assert not over(piece, text.rect, 0.3), (text, wire)
    for shape in layout.shapes:
        if shape.box < 0 and wire.delay:
            continue
        own = shape.box >= 0 and grid.nodes[shape.box].place in (wire.start, wire.end)
        # A line touches its own boxes at their edges, and passes through none.
        body = shape.body
        inner = Rect(body.x + 1, body.y + 1, body.w - 2, body.h - 2) if own else body
        for piece in pieces(line):
            assert not over(piece, inner, 0.3), (shape, wire)
    if wire.delay:
        on = [s for s in layout.shapes if s.box < 0 and any(over(p, s.body) for p in pieces(line))]
        assert len(on) == 1, wire
    for place, end in ((wire.start, 0), (wire.end, -1)):
        point = line.points[::-1][end] if wire.flow else line.points[end]
        body = next(
            s.body for s in layout.shapes if s.box >= 0 and grid.nodes[s.box].place == place
        )
        grown = Rect(body.x - 0.1, body.y - 0.1, body.w + 0.2, body.h + 0.2)
        assert within(Rect(*point, 0, 0), grown), (place, wire)


def _check_apart(a: Line, b: Line) -> None:
    """No piece of a line lies on a parallel piece of another."""
    for p, q in ((p, q) for p in pairwise(a.points) for q in pairwise(b.points)):
        for axis in (0, 1):
            if p[0][axis] == p[1][axis] and q[0][axis] == q[1][axis]:
                low_p, high_p = sorted((p[0][1 - axis], p[1][1 - axis]))
                low_q, high_q = sorted((q[0][1 - axis], q[1][1 - axis]))
                near = abs(p[0][axis] - q[0][axis]) < NEAR
                assert not near or min(high_p, high_q) - max(low_p, low_q) < 0.5, (a, b)


def degrees(grid: Grid) -> Counter[str]:
    """How many wires there are of each key."""
    return Counter(wire.key for wire in grid.wires)
