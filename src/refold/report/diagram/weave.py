"""Where the nodes and wires of a grid stand: rows from below, columns from the left, no overlaps by construction.

Wires keep to three places that no node takes: straight between neighbours, lanes beside a column, and tracks above a
row. What is written on a wire stands where no lane or track leads: in the middle between two columns, or under a node.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .flow import norm_of
from .grid import Grid, Node, Place, Wire
from .layout import Layout, Line, Point, Shape, Text
from .measure import FONT, MARGIN, SMALL_FONT, TITLE_FONT, Rect
from .text import width

_PORT = 20.0  # between wires at the side of a node; more where a delay has to fit
_LOOPED = 27.0
_DELAY = (44.0, 22.0)
_LANE, _TRACK, _WRITTEN = 11.0, 10.0, 19.0
_UNDER = 22.0  # under a node, for what is written on the wires that enter it
_KINDS = {"unit": "gate", "head": "function", "join": "join", "plain": "plain", "ends": "plain"}


@dataclass
class _Gap:
    """What stands between two columns, from the left: texts and delays of the loops of the one, its lanes, texts of
    what leads to the other, lanes of the other, delays and texts of its loops."""

    near: list[str] = field(default_factory=list)
    far: list[str] = field(default_factory=list)
    written: float = 16.0
    leads: bool = False
    loops: set[str] = field(default_factory=set)  # the sides on which the columns have loops
    left: float = 0.0

    def looped(self, side: str) -> float:
        """The room of the loops on one side, up to their lanes."""
        return self.written + _DELAY[0] + 12 if side in self.loops else 0.0

    @property
    def middle(self) -> float:
        """Where the texts of what leads on begin."""
        return self.left + 8 + self.looped("right") + _LANE * len(self.near)

    @property
    def wide(self) -> float:
        lanes = _LANE * (len(self.near) + len(self.far))
        leads = self.written if self.leads else 0.0
        return 16 + lanes + leads + self.looped("right") + self.looped("left")

    def lane(self, key: str, near: bool) -> float:
        if near:
            return self.left + 8 + self.looped("right") + _LANE * (self.near.index(key) + 0.5)
        right = self.left + self.wide - 8 - self.looped("left")
        return right - _LANE * (self.far.index(key) + 0.5)


def woven(grid: Grid) -> Layout:
    """Routes, measures, places, lines, in this order."""
    return _Weave(grid).made()


class _Weave:
    def __init__(self, grid: Grid):
        self.grid = grid
        self.at = {node.place: node for node in grid.nodes}
        self.index = {node.place: k for k, node in enumerate(grid.nodes)}
        self.columns = 1 + max(column for _, column in self.at)
        self.rows = 1 + max(row for row, _ in self.at)
        self.ports: dict[int, list[str]] = {}
        self.tops: dict[
            tuple[int, str], list[str]
        ] = {}  # (row, side) to keys that bend at a node's top
        self.feet: dict[tuple[int, str], list[str]] = {}
        self.tracks: dict[int, dict[str, float]] = {}
        self.gaps = [_Gap() for _ in range(self.columns + 1)]
        self.texts: list[Text] = []
        self.shapes: list[Shape] = []
        self.lines: list[Line] = []
        looped = any(wire.delay for wire in grid.wires)
        self.pitch = _LOOPED if looped else _PORT

    def made(self) -> Layout:
        for wire in self.grid.wires:
            self._route(wire)
        self._measure()
        self._place()
        for number, node in enumerate(self.grid.nodes):
            self._draw(number, node)
        for number, wire in enumerate(self.grid.wires):
            self._wire(number, wire)
        return self._finished()

    # Routes -----------------------------------------------------------------------------------------------------------

    def way(self, wire: Wire) -> str:
        """loop, straight (up), bent (up, past other nodes), beside (to a neighbour), near or far (along time)."""
        (a, s), (b, e) = wire.start, wire.end
        if wire.delay:
            return "loop"
        if s == e:
            return "bent" if any((row, s) in self.at for row in range(a + 1, b)) else "straight"
        between = range(min(s, e) + 1, max(s, e))
        if a == b and not any((a, column) in self.at for column in between):
            return "beside"
        return "far" if len(between) else "near"

    def _route(self, wire: Wire) -> None:
        (a, s), (b, e) = wire.start, wire.end
        right = e > s
        match self.way(wire):
            case "straight":
                pass
            case "bent":
                self._bend(wire)
            case "beside":
                _add(self.ports.setdefault(a, []), wire.key)
                self._write(wire, s + 1 if right else s)
            case "loop":
                right = wire.side == "right"
                _add(self.ports.setdefault(a, []), wire.key + ">")
                _add(self.ports.setdefault(b, []), wire.key)
                self._write(wire, s + 1 if right else s)
                gap = self.gaps[s + 1 if right else s]
                gap.loops.add(wire.side)
                _add(gap.near if right else gap.far, wire.key)
            case "near":
                _add(self.ports.setdefault(a, []), wire.key + ">")
                _add(self.ports.setdefault(b, []), wire.key)
                self._leave(wire, s, right)
                self._write(wire, s + 1 if right else s)
            case "far":
                _add(self.ports.setdefault(a, []), wire.key if a == b else wire.key + ">")
                _add(self.ports.setdefault(b, []), wire.key)
                self._leave(wire, s, right)
                self._arrive(wire, e, right)
                wide = wire.flow.width if wire.flow else 0.0
                tracks = self.tracks.setdefault(a, {})
                key = f"{wire.key}@{wire.track}"
                tracks[key] = max(tracks.get(key, 0.0), _WRITTEN + wide)
                self._write(wire, s + 1 if right else s)

    def _bend(self, wire: Wire) -> None:
        (a, column), (b, _) = wire.start, wire.end
        _add(self.tops.setdefault((a, wire.side), []), wire.key)
        _add(self.feet.setdefault((b, wire.side), []), wire.key)
        self.tracks.setdefault(a, {})[wire.key + ">"] = _TRACK
        self.tracks.setdefault(b - 1, {})[wire.key] = _TRACK
        if wire.side == "left":
            _add(self.gaps[column].far, wire.key)
        else:
            _add(self.gaps[column + 1].near, wire.key)

    def _leave(self, wire: Wire, column: int, right: bool) -> None:
        _add(self.gaps[column + 1].near if right else self.gaps[column].far, wire.key + ">")

    def _arrive(self, wire: Wire, column: int, right: bool) -> None:
        _add(self.gaps[column].far if right else self.gaps[column + 1].near, wire.key)

    def _write(self, wire: Wire, gap: int) -> None:
        name, letter = self._words(wire)
        wide = sum(width(word, SMALL_FONT) + 8 for word in (name, letter) if word)
        self.gaps[gap].written = max(self.gaps[gap].written, wide + 8)
        self.gaps[gap].leads |= not wire.delay

    def _words(self, wire: Wire) -> tuple[str, str]:
        """What is written on a wire: its name, unless the node at its end says it, and its weight or its norm."""
        if wire.flow is not None:
            return "", norm_of(wire.flow.norm)
        ends = {self.at[place].kind for place in (wire.start, wire.end)}
        named = wire.name if "ends" not in ends else ""
        return named, self.grid.weights[wire.weight].letter if wire.weight >= 0 else ""

    # Measures ---------------------------------------------------------------------------------------------------------

    def _measure(self) -> None:
        upward = [w for w in self.grid.wires if self.way(w) in ("straight", "bent")]
        letters = [width(self._words(w)[1], SMALL_FONT) for w in upward if w.flow is None]
        norms = [width(self._words(w)[1], SMALL_FONT) for w in upward if w.flow is not None]
        self.letter = max([*letters, 0.0]) + 12  # room at the left of an upward wire
        self.norm = max(norms) + 30 if norms else 12.0  # and at its right
        self.high = [self._row_height(row) for row in range(self.rows)]
        units = [self._own_width(node) for node in self.grid.nodes if node.kind == "unit"]
        self.unit = max(units)  # boxes of all layers are as wide as the widest
        self.wide = [
            max((self._node_width(n) for n in self.grid.nodes if n.place[1] == column), default=8.0)
            for column in range(self.columns)
        ]

    def _row_height(self, row: int) -> float:
        kinds = {node.kind for node in self.grid.nodes if node.place[0] == row}
        least = 38.0 if "unit" in kinds else 30.0 if kinds & {"head", "join"} else 22.0
        return max(least, self.pitch * len(self.ports.get(row, [])) + 6)

    def _node_width(self, node: Node) -> float:
        if node.kind == "ends":
            return max(width(text, FONT) for _, text in node.ends) + 8
        if node.kind == "unit":
            return self.unit
        return self._own_width(node)

    def _own_width(self, node: Node) -> float:
        row = node.place[0]
        bends = [abs(self._bent_at(row, key)) for key in self._bending(row)]
        least = {"unit": 46.0, "head": 40.0}.get(node.kind, 34.0)
        written = width(node.text, FONT) + (8 if node.kind == "plain" else 20)
        flows = self._flows(node.place)
        return max(least, written, *(2 * b + 14 for b in bends), 48.0 if flows else 0.0)

    def _flows(self, place: Place) -> bool:
        return any(w.flow is not None and place in (w.start, w.end) for w in self.grid.wires)

    def _bending(self, row: int) -> list[str]:
        sides = [self.tops.get((row, side), []) for side in ("left", "right")]
        sides += [self.feet.get((row, side), []) for side in ("left", "right")]
        return [key for keys in sides for key in keys]

    def _bent_at(self, row: int, key: str, foot: bool | None = None) -> float:
        """How far from a node's middle a wire that bends leaves it, or enters it."""
        for ends in (self.tops, self.feet) if foot is None else (self.feet if foot else self.tops,):
            for side, sign in (("left", -1), ("right", 1)):
                keys = ends.get((row, side), [])
                if key in keys:
                    beside = self.letter if side == "left" else self.norm
                    return sign * (beside + max(self.letter, 14.0) * keys.index(key))
        return 0.0

    def _place(self) -> None:
        """The middle of every row and column; rows from below, so that heights grow downwards from the top row."""
        x = 0.0
        self.centre: list[float] = []
        for column in range(self.columns + 1):
            gap = self.gaps[column]
            gap.left = x
            x += gap.wide
            if column < self.columns:
                self.centre.append(x + self.wide[column] / 2)
                x += self.wide[column]
        y = 0.0
        self.middle = [0.0] * self.rows
        self.track: dict[tuple[int, str], float] = {}
        for row in reversed(range(self.rows)):
            y = self._tracks_of(row, y)
            self.middle[row] = y + self.high[row] / 2
            y += self.high[row]

    def _tracks_of(self, row: int, y: float) -> float:
        """The tracks above a row, under what is written; the height below them."""
        if row == self.rows - 1 and not self.tracks.get(row):
            return y
        y += _UNDER if row < self.rows - 1 else 0.0
        for key, pitch in sorted(self.tracks.get(row, {}).items()):
            y += pitch
            self.track[row, key] = y
        return y + 10

    # Drawing ----------------------------------------------------------------------------------------------------------

    def _rect(self, node: Node) -> Rect:
        row, column = node.place
        wide = self._node_width(node)
        high = self.high[row]
        if node.kind in ("plain", "head", "join") and not self._ported(node.place):
            high = min(high, 22.0 if node.kind == "plain" else 30.0)
        if node.kind == "plain":
            flows = self._flows(node.place)
            wide, high = max(width(node.text, FONT) + 8, 48.0 if flows else 18.0), 22.0
        return Rect(self.centre[column] - wide / 2, self.middle[row] - high / 2, wide, high)

    def _ported(self, place: Place) -> bool:
        ways = ("beside", "near", "far", "loop")
        return any(place in (w.start, w.end) and self.way(w) in ways for w in self.grid.wires)

    def _draw(self, number: int, node: Node) -> None:
        rect = self._rect(node)
        self.shapes.append(Shape(number, _KINDS[node.kind], rect, rect))
        x = rect.x + rect.w / 2
        if node.kind == "ends":
            for key, text in node.ends:
                self._text(text, x, self._port(node.place[0], key) + 5, FONT, "middle", "text")
        elif node.text:
            self._text(node.text, x, self.middle[node.place[0]] + 5, FONT, "middle", "text")

    def _port(self, row: int, key: str) -> float:
        keys = self.ports[row]
        return self.middle[row] + self.pitch * (keys.index(key) - (len(keys) - 1) / 2)

    def _edge(self, place: Place, right: bool) -> float:
        rect = self._rect(self.at[place])
        return rect.x + rect.w if right else rect.x

    def _lane(self, gap: int, key: str, near: bool) -> float:
        return self.gaps[gap].lane(key, near)

    def _wire(self, number: int, wire: Wire) -> None:
        way = self.way(wire)
        points = {
            "straight": self._straight,
            "bent": self._bent,
            "beside": self._beside,
            "near": self._near,
            "far": self._far,
            "loop": self._loop,
        }[way](wire)
        if wire.flow is not None:
            points = points[::-1]
        tone = wire.flow.tone if wire.flow else f"w{wire.weight % 8}" if wire.weight >= 0 else ""
        wide = wire.flow.width if wire.flow else 0.0
        self.lines.append(Line(number, tuple(points), tone=tone, width=wide))

    def _straight(self, wire: Wire) -> list[Point]:
        low, high = self._rect(self.at[wire.start]), self._rect(self.at[wire.end])
        x = self.centre[wire.start[1]] + (16 if wire.flow else 0)
        foot = high.y + high.h
        self._beneath(wire, x, self._foot(wire.end[0]))
        return [(x, low.y), (x, foot)]

    def _foot(self, row: int) -> float:
        """Where what is written under the nodes of a row stands."""
        return self.middle[row] + self.high[row] / 2 + 15

    def _beneath(self, wire: Wire, x: float, y: float) -> None:
        word = self._words(wire)[1]
        if word and wire.flow is not None:
            self._text(word, x + 5 + wire.flow.width / 2, y, SMALL_FONT, "start", wire.flow.tone)
        elif word:
            self._text(word, x - 5, y, SMALL_FONT, "end", f"w{wire.weight % 8}")

    def _bent(self, wire: Wire) -> list[Point]:
        (a, column), (b, _) = wire.start, wire.end
        low, high = self._rect(self.at[wire.start]), self._rect(self.at[wire.end])
        out = self.centre[column] + self._bent_at(a, wire.key, False)
        if (
            self.at[wire.start].kind == "plain"
        ):  # a text is narrow: its wires leave close to each other
            out = self.centre[column] + (-8 if wire.side == "left" else 8)
        back = self.centre[column] + self._bent_at(b, wire.key, True)
        left = wire.side == "left"
        lane = self._lane(column if left else column + 1, wire.key, not left)
        first, second = self.track[a, wire.key + ">"], self.track[b - 1, wire.key]
        self._beneath(wire, back, self._foot(b))
        return [
            (out, low.y),
            (out, first),
            (lane, first),
            (lane, second),
            (back, second),
            (back, high.y + high.h),
        ]

    def _beside(self, wire: Wire) -> list[Point]:
        (row, s), (_, e) = wire.start, wire.end
        right, y = e > s, self._port(row, wire.key)
        self._along(wire, s + 1 if right else s, y, right)
        return [(self._edge(wire.start, right), y), (self._edge(wire.end, not right), y)]

    def _along(self, wire: Wire, gap: int, y: float, right: bool) -> None:
        """The name at the beginning of the free stretch, the weight at its end."""
        name, word = self._words(wire)
        found = self.gaps[gap]
        low = found.middle + 4
        high = low + found.written - 8
        if wire.flow is not None:
            above = y - 3 - wire.flow.width / 2
            self._text(word, (low + high) / 2, above, SMALL_FONT, "middle", wire.flow.tone)
            return
        if name:
            self._text(
                name,
                *((low, y - 4) if right else (high, y - 4)),
                SMALL_FONT,
                _anchor(right),
                "muted",
            )
        if word:
            at = (high, y - 4) if right else (low, y - 4)
            self._text(word, *at, SMALL_FONT, _anchor(not right), f"w{wire.weight % 8}")

    def _near(self, wire: Wire) -> list[Point]:
        (a, s), (b, e) = wire.start, wire.end
        right = e > s
        out, back = self._port(a, wire.key + ">"), self._port(b, wire.key)
        lane = self._lane(s + 1 if right else s, wire.key + ">", right)
        self._along(wire, s + 1 if right else s, back, right)
        start, end = self._edge(wire.start, right), self._edge(wire.end, not right)
        return [(start, out), (lane, out), (lane, back), (end, back)]

    def _far(self, wire: Wire) -> list[Point]:
        (a, s), (b, e) = wire.start, wire.end
        right = e > s
        out = self._port(a, wire.key if a == b else wire.key + ">")
        back = self._port(b, wire.key)
        leave = self._lane(s + 1 if right else s, wire.key + ">", right)
        arrive = self._lane(e if right else e + 1, wire.key, not right)
        track = self.track[a, f"{wire.key}@{wire.track}"]
        self._along(wire, s + 1 if right else s, track, right)
        start, end = self._edge(wire.start, right), self._edge(wire.end, not right)
        return [
            (start, out),
            (leave, out),
            (leave, track),
            (arrive, track),
            (arrive, back),
            (end, back),
        ]

    def _loop(self, wire: Wire) -> list[Point]:
        (a, column), (b, _) = wire.start, wire.end
        right = wire.side == "right"
        gap = column + 1 if right else column
        out, back = self._port(a, wire.key + ">"), self._port(b, wire.key)
        lane = self._lane(gap, wire.key, right)
        self._delayed(wire, gap, back, right)
        start, end = self._edge(wire.start, right), self._edge(wire.end, right)
        return [(start, out), (lane, out), (lane, back), (end, back)]

    def _delayed(self, wire: Wire, gap: int, y: float, right: bool) -> None:
        """The box of a delay on the way back, and what is written between it and the node."""
        found, (w, h) = self.gaps[gap], _DELAY
        edge = found.left + 8 if right else found.left + found.wide - 8
        x = edge + found.written + 6 if right else edge - found.written - 6 - w
        rect = Rect(x, y - h / 2, w, h)
        self.shapes.append(Shape(-1, "delay", rect, rect))
        self._text(wire.delay, x + w / 2, y + 5, FONT, "middle", "text")
        name, word = self._words(wire)
        near = edge + 4 if right else edge - 4
        out = near + (found.written - 8) * (1 if right else -1)
        if word:
            self._text(
                word,
                near + 6 * (1 if right else -1),
                y - 4,
                SMALL_FONT,
                _anchor(right),
                f"w{wire.weight % 8}",
            )
        if name:
            self._text(name, out, y - 4, SMALL_FONT, _anchor(not right), "muted")

    def _text(self, text: str, x: float, y: float, font: float, anchor: str, tone: str) -> None:
        wide = width(text.replace("_", "m"), font) if tone == "strong" else width(text, font)
        left = x - wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
        self.texts.append(
            Text(text, x, y, font, anchor, tone, Rect(left, y - 0.78 * font, wide, font))
        )

    # The whole --------------------------------------------------------------------------------------------------------

    def _finished(self) -> Layout:
        """The title above, the weights and notes below; all moved to positive places."""
        x0, y0, _, y1 = self._bounds()
        self._text(self.grid.title, x0, y0 - 20, TITLE_FONT, "start", "strong")
        y = y1 + 24
        for number, weight in enumerate(self.grid.weights):
            tone = f"w{number % 8}"
            self._text(weight.letter, x0, y, SMALL_FONT + 1, "start", tone)
            wide = max(width(w.letter, SMALL_FONT + 1) for w in self.grid.weights)
            self._text(
                weight.text,
                x0 + wide + 10,
                y,
                SMALL_FONT + 1,
                "start",
                "muted",
            )
            y += 17
        for note in self.grid.notes:
            self._text(note, x0, y, SMALL_FONT + 1, "start", "muted")
            y += 17
        x0, y0, x1, y1 = self._bounds()
        return _shifted(self, MARGIN - x0, MARGIN - y0, x1 - x0 + 2 * MARGIN, y1 - y0 + 2 * MARGIN)

    def _bounds(self) -> tuple[float, float, float, float]:
        rects = [shape.room for shape in self.shapes] + [text.rect for text in self.texts]
        points = [point for line in self.lines for point in line.points]
        return (
            min([r.x for r in rects] + [x for x, _ in points]),
            min([r.y for r in rects] + [y for _, y in points]),
            max([r.x + r.w for r in rects] + [x for x, _ in points]),
            max([r.y + r.h for r in rects] + [y for _, y in points]),
        )


def _add(keys: list[str], key: str) -> None:
    if key not in keys:
        keys.append(key)


def _anchor(start: bool) -> str:
    return "start" if start else "end"


def _shifted(weave: _Weave, dx: float, dy: float, w: float, h: float) -> Layout:
    def rect(r: Rect) -> Rect:
        return Rect(round(r.x + dx, 2), round(r.y + dy, 2), round(r.w, 2), round(r.h, 2))

    def point(p: Point) -> Point:
        return round(p[0] + dx, 2), round(p[1] + dy, 2)

    shapes = tuple(Shape(s.box, s.kind, rect(s.body), rect(s.room)) for s in weave.shapes)
    texts = tuple(
        Text(t.text, *point((t.x, t.y)), t.font, t.anchor, t.tone, rect(t.rect))
        for t in weave.texts
    )
    lines = tuple(
        Line(n.net, tuple(map(point, n.points)), tone=n.tone, width=n.width) for n in weave.lines
    )
    return Layout(round(w, 1), round(h, 1), shapes, texts, lines, ())
