"""Where the boxes and lines of a picture stand: pure geometry, from left to right, without overlaps by construction.

Boxes stand in columns, each to the right of what it reads. A line that passes a column has a place of its own in it,
so it crosses no box; between two columns lines bend in a channel, each on a track of its own. What marks a line stands
in front of the box that reads it, inside that box's own rectangle. Loops run around the whole, above and below.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .channel import Net, tracks
from .columns import ranks_of, sides_of, spines
from .measure import (
    DELAY,
    FONT,
    GAP,
    LINE,
    LOOP,
    MARGIN,
    SMALL_FONT,
    TITLE_FONT,
    TRACK,
    Frame,
    Rect,
    beneath,
    framed,
    marked,
    named,
    over,
)
from .picture import Box, Diagram
from .place import Item, ordered, placed
from .text import width

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Text:
    """A text: `rect` is what it takes at most. anchor is start, middle or end; tone is text, muted or strong, or one of
    a line's."""

    text: str
    x: float
    y: float  # of the baseline
    font: float
    anchor: str
    tone: str
    rect: Rect


@dataclass(frozen=True, slots=True)
class Shape:
    """What is drawn for a box; `room` is all it takes, its marks included. A delay belongs to no box: -1."""

    box: int
    kind: str
    body: Rect
    room: Rect


@dataclass(frozen=True, slots=True)
class Line:
    """A polyline with axis-parallel pieces, from one box's value; an arrow where it is read."""

    net: int
    points: tuple[Point, ...]
    reader: int = -1
    arrow: bool = True
    loop: bool = False  # a part of a loop: it leads to a delay or from one
    tone: str = (
        ""  # w0, w1 ...: the colour of a shared weight; flow, explodes, vanishes: a gradient
    )
    width: float = 0.0  # of a gradient


@dataclass(frozen=True, slots=True)
class Layout:
    """All that is drawn. dots: where a line forks."""

    width: float
    height: float
    shapes: tuple[Shape, ...]
    texts: tuple[Text, ...]
    lines: tuple[Line, ...]
    dots: tuple[Point, ...]


def layout(diagram: Diagram) -> Layout:
    """Measures, columns, order, places, lines, in this order."""
    return _Layout(diagram).made()


class _Layout:
    def __init__(self, diagram: Diagram):
        self.diagram = diagram
        gated = any(box.kind == "op" and box.text == "⊙" for box in diagram.boxes)
        self.frames = [framed(box, gated) for box in diagram.boxes]
        self.above, self.below = sides_of(diagram)
        self.ranks = ranks_of(diagram)
        self.columns = self._columns()
        self.lines: list[Line] = []
        self.texts: list[Text] = []
        self.shapes: list[Shape] = []
        self.dots: list[Point] = []

    def made(self) -> Layout:
        self._join()
        ordered(self.columns)
        for _ in range(3):
            placed(self.columns)
            self._sort_ports()
        placed(self.columns)
        self._set_columns()
        self._draw_boxes()
        right = self._loops()
        return self._finished(right)

    # Columns ----------------------------------------------------------------------------------------------------------

    def _columns(self) -> list[list[Item]]:
        """For each rank its boxes, and a place for each line that passes."""
        boxes = self.diagram.boxes
        last = max(self.ranks)
        columns: list[list[Item]] = [[] for _ in range(last + 1)]
        items = [
            Item(i, self.frames[i].h + GAP, self.frames[i].middle + GAP / 2)
            for i in range(len(boxes))
        ]
        sides = spines(self.diagram, self.above, self.below)
        for i, item in enumerate(items):
            item.side = sides.get(i, 0)
            columns[self.ranks[i]].append(item)
        self.items = items
        self.spine = {
            (p.source, i)
            for i, box in enumerate(boxes)
            for p in box.ports
            if i in sides and sides.get(p.source) == sides[i]
        }
        self.passing: dict[tuple[int, int], Item] = {}
        for i in range(len(boxes)):
            readers = [j for j, box in enumerate(boxes) if any(p.source == i for p in box.ports)]
            for rank in range(self.ranks[i] + 1, max([0, *(self.ranks[j] for j in readers)])):
                dummy = Item(i, GAP + 2, GAP / 2 + 1, passes=True)
                # A line to the next part of a state's way across the picture keeps to its side.
                on = [j for j in readers if (i, j) in self.spine and self.ranks[j] > rank]
                dummy.side = items[i].side if on else 0
                columns[rank].append(dummy)
                self.passing[i, rank] = dummy
        return columns

    def _sort_ports(self) -> None:
        """Ports in the order in which their lines arrive: they then cross less."""
        boxes = list(self.diagram.boxes)
        for i, box in enumerate(boxes):
            rank = self.ranks[i]
            arrive = {p.source: self._arrives(p.source, rank) for p in box.ports}
            ports = tuple(sorted(box.ports, key=lambda p: arrive[p.source]))
            boxes[i] = replace(box, ports=ports)
            self.frames[i].box = boxes[i]
        self.diagram = replace(self.diagram, boxes=tuple(boxes))
        for column in self.columns:
            for item in column:
                item.left.clear()
                item.right.clear()
                item.spine.clear()
        self._join()

    def _arrives(self, source: int, rank: int) -> float:
        item = self.passing.get((source, rank - 1), self.items[source])
        return item.y + item.pin

    def _join(self) -> None:
        for i, box in enumerate(self.diagram.boxes):
            on = [k for k, port in enumerate(box.ports) if (port.source, i) in self.spine]
            self.frames[i].main = on[0] if on else -1
        for (i, rank), dummy in self.passing.items():
            before = self.passing.get((i, rank - 1), self.items[i])
            before.join(dummy, before.pin, dummy.pin, dummy.side != 0)
        for j, box in enumerate(self.diagram.boxes):
            for k, port in enumerate(box.ports):
                before = self.passing.get((port.source, self.ranks[j] - 1), self.items[port.source])
                pin = self.frames[j].offsets()[k] + GAP / 2
                before.join(self.items[j], before.pin, pin, (port.source, j) in self.spine)

    # Places -----------------------------------------------------------------------------------------------------------

    def _set_columns(self) -> None:
        """The left edge of every column; between two of them as many tracks as lines bend there."""
        x = 0.0
        self.left: list[float] = []
        for rank, column in enumerate(self.columns):
            self.left.append(x)
            wide = max((self.frames[i.box].w for i in column if not i.passes), default=0.0)
            x += wide
            nets = self._nets(rank)
            order = tracks(nets)
            start = x + 10
            self._bend(rank, nets, {net.source: start + TRACK * k for k, net in enumerate(order)})
            x += 22 + TRACK * max(len(order) - 1, 0)
        self.right = x - 22

    def _nets(self, rank: int) -> list[Net]:
        """The lines in the channel to the right of a column: where each comes in, and where it leaves."""
        nets = []
        for item in self.columns[rank]:
            ends = [(j.y + pin, None if j.passes else j.box) for _, j, pin in item.right]
            if ends:
                nets.append(Net(item.box, item.y + item.pin, tuple(sorted({y for y, _ in ends}))))
        return nets

    def _bend(self, rank: int, nets: list[Net], track: dict[int, float]) -> None:
        """Keep the bends; they become lines once all columns have their places."""
        self.bends = getattr(self, "bends", {})
        for net in nets:
            self.bends[rank, net.source] = track.get(net.source)

    # Drawing ----------------------------------------------------------------------------------------------------------

    def _draw_boxes(self) -> None:
        for i, frame in enumerate(self.frames):
            item = self.items[i]
            x, y = self.left[self.ranks[i]], item.y + GAP / 2
            wide = max(self.frames[k.box].w for k in self.columns[self.ranks[i]] if not k.passes)
            # Sources stand at the left, all else in the middle of its column, its lines drawn up to it.
            x += 0 if self.ranks[i] == 0 else (wide - frame.w) / 2
            body = Rect(x + frame.body.x, y + frame.body.y, frame.body.w, frame.body.h)
            self.shapes.append(Shape(i, frame.kind, body, Rect(x, y, frame.w, frame.h)))
            self._write(i, frame, x, y, body)
        for j, box in enumerate(self.diagram.boxes):
            for k, port in enumerate(box.ports):
                self.lines.append(self._line(j, k, port.source))
        self._fork()

    def _line(self, reader: int, k: int, source: int) -> Line:
        """From the source's body through its bends to the reader's."""
        frame, item = self.frames[reader], self.items[reader]
        body = self.shapes[source].body
        y = self.items[source].y + self.items[source].pin
        points: list[Point] = [(body.x + body.w, y)]
        for rank in range(self.ranks[source], self.ranks[reader]):
            last = rank + 1 == self.ranks[reader]
            after = self.passing[source, rank + 1] if not last else item
            target = after.y + (after.pin if not last else frame.offsets()[k] + GAP / 2)
            track = self.bends[rank, source]
            if abs(target - y) > 0.01 and track is not None:
                points += [(track, y), (track, target)]
                y = target
        points.append((self._edge(self.shapes[reader], y), y))
        return Line(source, tuple(points), reader)

    def _edge(self, shape: Shape, y: float) -> float:
        """Where a horizontal line from the left meets a body."""
        body = shape.body
        if shape.kind not in ("circle", "unit"):
            return body.x
        r = body.w / 2
        return body.x + r - max(r * r - (y - body.y - r) ** 2, 0.0) ** 0.5

    def _fork(self) -> None:
        """A dot where lines of one value part."""
        for source in range(len(self.frames)):
            lines = [line for line in self.lines if line.net == source]
            steps = {
                _piece(a, b)
                for line in lines
                for a, b in zip(line.points, line.points[1:], strict=False)
            }
            corners = {p for line in lines for p in line.points[1:-1]}
            for p in sorted(corners):
                ways = sum(any(_leads(p, way, s) for s in steps) for way in range(4))
                if ways > 2:
                    self.dots.append(p)

    def _write(self, i: int, frame: Frame, x: float, y: float, body: Rect) -> None:
        box = frame.box
        centre = body.x + body.w / 2
        if box.kind in ("past", "input", "state", "output", "param"):
            self._text(named(box), centre, body.y + body.h / 2 + 5, FONT, "middle", "text")
            if box.size:
                self._text(box.size, centre, body.y + body.h + 12, SMALL_FONT, "middle", "muted")
        elif box.text and box.kind != "bar":
            big = FONT if len(box.text) > 1 else FONT + 3
            self._text(box.text, centre, body.y + body.h / 2 + big * 0.34, big, "middle", "text")
        if box.kind not in ("past", "input", "state", "output", "param"):
            self._captions(box, centre, body)
        if frame.apron:
            for port, offset in zip(box.ports, frame.offsets(), strict=True):
                if port.label is not None:
                    at = x + 4, y + offset - 4
                    self._text(marked(port.label), *at, SMALL_FONT, "start", "text")

    def _captions(self, box: Box, centre: float, body: Rect) -> None:
        if over(box):
            self._text(over(box), centre, body.y - 5, SMALL_FONT, "middle", "muted")
        for k, text in enumerate(beneath(box)):
            y = body.y + body.h + 13 + LINE * k
            self._text(text, centre, y, SMALL_FONT, "middle", "muted")

    def _text(self, text: str, x: float, y: float, font: float, anchor: str, tone: str) -> None:
        wide = width(text.replace("_", "m"), font) if tone == "strong" else width(text, font)
        left = x - wide / 2 if anchor == "middle" else x
        rect = Rect(left, y - 0.78 * font, wide, font)
        self.texts.append(Text(text, x, y, font, anchor, tone, rect))

    # Loops ------------------------------------------------------------------------------------------------------------

    def _loops(self) -> float:
        """Each loop around the picture, through its delay; the inner ones first. Then the arrow to the outside."""
        top = min(s.room.y for s in self.shapes)
        bottom = max(s.room.y + s.room.h for s in self.shapes)
        for item in (i for column in self.columns for i in column):
            top, bottom = min(top, item.y), max(bottom, item.y + item.h)
        tallest = DELAY[1] / 2
        sides = ((self.above, top - tallest, -LOOP), (self.below, bottom + tallest, LOOP))
        ways = max(len(self.above), len(self.below))
        for names, base, step in sides:
            outwards = sorted(
                names,
                key=lambda k: (
                    self.shapes[self.diagram.loops[k].state].body.y * (1 if step < 0 else -1)
                ),
            )
            for k, name in enumerate(outwards):
                self._loop(name, base + step * k + (6 if step > 0 else -6), k)
        right = self.right + 12 + 12 * ways
        self._leave(right)
        return right

    def _loop(self, number: int, y: float, k: int) -> None:
        loop = self.diagram.loops[number]
        state, past = self.shapes[loop.state], self.shapes[loop.past]
        right, left = self.right + 12 + 12 * k, -16 - 12 * k
        w, h = DELAY
        from_y, to_y = (s.body.y + s.body.h / 2 for s in (state, past))
        body = Rect((left + right - w) / 2, y - h / 2, w, h)
        self.shapes.append(Shape(-1, "delay", body, body))
        self._text("z^−1", body.x + w / 2, y + 5, FONT, "middle", "text")
        out = ((state.body.x + state.body.w, from_y), (right, from_y), (right, y), (body.x + w, y))
        back = ((body.x, y), (left, y), (left, to_y), (past.body.x, to_y))
        self.lines += [
            Line(loop.state, out, loop=True),
            Line(loop.state, back, loop.past, arrow=False, loop=True),
        ]

    def _leave(self, right: float) -> None:
        """The output's arrow; it goes on where its loop turns back."""
        shape = self.shapes[self.diagram.output]
        y = shape.body.y + shape.body.h / 2
        end = right + 26
        self.lines.append(Line(self.diagram.output, ((shape.body.x + shape.body.w, y), (end, y))))
        loops = [
            line
            for line in self.lines[:-1]
            if line.net == self.diagram.output and line.loop and line.reader < 0
        ]
        self.dots += [line.points[1] for line in loops]

    # The whole --------------------------------------------------------------------------------------------------------

    def _finished(self, right: float) -> Layout:
        """Move all to positive places, the title above and the notes below."""
        rects = [s.room for s in self.shapes] + [t.rect for t in self.texts]
        points = [p for line in self.lines for p in line.points]
        x0 = min([r.x for r in rects] + [p[0] for p in points])
        y0 = min([r.y for r in rects] + [p[1] for p in points])
        y1 = max([r.y + r.h for r in rects] + [p[1] for p in points])
        y = y0 - 18
        self._text(self.diagram.title, x0, y, TITLE_FONT, "start", "strong")
        for k, note in enumerate(self.diagram.notes):
            self._text(note, x0, y1 + 26 + 18 * k, SMALL_FONT + 1, "start", "muted")
        x1 = max(
            [t.rect.x + t.rect.w for t in self.texts]
            + [p[0] for p in points]
            + [r.x + r.w for r in rects]
        )
        y0 = min(t.rect.y for t in self.texts)
        y1 = max([t.rect.y + t.rect.h for t in self.texts] + [y1])
        dx, dy = MARGIN - x0, MARGIN - min(y0, y - TITLE_FONT)
        return Layout(
            round(x1 + dx + MARGIN, 1),
            round(y1 + dy + MARGIN, 1),
            tuple(
                Shape(s.box, s.kind, _moved(s.body, dx, dy), _moved(s.room, dx, dy))
                for s in self.shapes
            ),
            tuple(
                replace(t, x=round(t.x + dx, 2), y=round(t.y + dy, 2), rect=_moved(t.rect, dx, dy))
                for t in self.texts
            ),
            tuple(
                replace(
                    n, points=tuple((round(px + dx, 2), round(py + dy, 2)) for px, py in n.points)
                )
                for n in self.lines
            ),
            tuple((round(px + dx, 2), round(py + dy, 2)) for px, py in self.dots),
        )


def _moved(rect: Rect, dx: float, dy: float) -> Rect:
    return Rect(round(rect.x + dx, 2), round(rect.y + dy, 2), round(rect.w, 2), round(rect.h, 2))


def _piece(a: Point, b: Point) -> tuple[Point, Point]:
    return (a, b) if a <= b else (b, a)


def _leads(p: Point, way: int, piece: tuple[Point, Point]) -> bool:
    """Does a piece of a line lead from p to the right, left, down or up?"""
    (ax, ay), (bx, by) = piece
    if way < 2:
        return ay == by == p[1] and (ax <= p[0] < bx if way == 0 else ax < p[0] <= bx)
    return ax == bx == p[0] and (ay <= p[1] < by if way == 2 else ay < p[1] <= by)
