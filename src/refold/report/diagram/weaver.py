"""Nodes in rows and columns, and the wires between them: what pictures of networks are made with."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from .flow import Flows
from .grid import Grid, Node, Place, Weight, Wire
from .parts import Part, Wired
from .shared import listed, marked

_RECURRENT = "WRQPSTKL"  # a letter for each set of weights that a state meets
_HEAD = ("head", 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of boxes. step: its number, None for an ellipsis; text: how the step is written."""

    at: int
    part: int
    step: int | None
    text: str
    reads: bool
    writes: bool


@dataclass
class _Rows:
    """The row of each thing, counted from below; of a layer and direction, those of its gates."""

    units: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    joins: dict[int, int] = field(default_factory=dict)
    sums: dict[int, int] = field(default_factory=dict)
    head: int = -1
    output: int = -1

    @classmethod
    def of(cls, wired: Wired) -> _Rows:
        rows, part, at = cls(), wired.parts[0], 1
        for layer in range(part.layers):
            for direction in range(part.directions):
                count = max(len(part.gates), 1)
                rows.units[layer, direction] = tuple(range(at, at + count))
                at += count
            if part.directions == 2:
                rows.joins[layer], at = at, at + 1
            if layer and part.stack != "plain":
                rows.sums[layer], at = at, at + 1
        if wired.head:
            rows.head, at = at, at + 1
        rows.output = at
        return rows


class Weaver:
    """Puts nodes in their places and draws the wires between them, column by column, then along time."""

    def __init__(self, wired: Wired, teach: bool = False, flows: Flows | None = None):
        self.wired, self.teach, self.flows = wired, teach, flows
        self.rows = _Rows.of(wired)
        self.nodes: dict[Place, Node] = {}
        self.ends: dict[Place, list[tuple[str, str]]] = {}
        self.wires: list[Wire] = []
        self.weights: list[Weight] = []
        self.notes: list[str] = []
        self.columns: list[Column] = []
        self._letters()

    # Weights ----------------------------------------------------------------------------------------------------------

    def _letters(self) -> None:
        if self.wired.parts[0].stack == "highway":
            self.notes.append(
                "Highway: t f(y) + (1 − t) y, where y is the output below, and t a gate that reads it."
            )
        self.multiplies: dict[tuple[str, int, int, int], int] = {}
        for number, part in enumerate(self.wired.parts):
            for layer in range(part.layers):
                for direction in range(part.directions):
                    self._letters_of(number, part, layer, direction)
        if self.wired.head:
            inner = any(part.inner for part in self.wired.parts)
            if self.wired.weights:
                self._weight("V_y" if inner else "V", f"the head's, {self.wired.weights}", _HEAD)

    def _letters_of(self, number: int, part: Part, layer: int, direction: int) -> None:
        several = len(self.wired.parts) > 1
        mark = marked(number if several else None, layer, direction, part.layers)
        names = part.met
        inner = part.inner
        recurrent = zip(_RECURRENT, names.sets, strict=False)
        for letter, some in (("U", names.inputs), *recurrent, ("V", inner)):
            if some:
                text = listed(part.cell.graph, some, lambda size: part.number(size, layer))
                self._weight(letter + mark, text, (letter, number, layer, direction))
        rest = tuple(n for n in names.others if n not in inner)
        if rest and layer == 0 and direction == 0:
            text = listed(part.cell.graph, rest, lambda size: part.number(size, layer))
            where = f"the {('encoder', 'decoder')[number]}'s box" if several else "each box"
            self.notes.append(f"In {where}: {text}.")

    def _weight(self, letter: str, text: str, key: tuple[str, int, int, int]) -> None:
        self.multiplies[key] = len(self.weights)
        self.weights.append(Weight(letter, text))

    def _of(self, letter: str, part: int, layer: int, direction: int) -> int:
        return self.multiplies.get((letter, part, layer, direction), -1)

    def _reads(self, part: int, layer: int, direction: int) -> int:
        """What multiplies a layer's input: where states meet all that inputs do, the recurrent weight."""
        letter = "U" if self.wired.parts[part].met.inputs else "W"
        return self._of(letter, part, layer, direction)

    # Columns ----------------------------------------------------------------------------------------------------------

    def put(self, row: int, column: Column, kind: str, text: str) -> Place:
        place = (row, column.at)
        if column.step is None and column.text == "":
            kind, text = "plain", "⋯"
        self.nodes[place] = Node(place, kind, text)
        return place

    def column(self, column: Column, told: str) -> None:
        """The nodes of one column and its upward wires; told: what stands in the row of inputs, "" for nothing."""
        part = self.wired.parts[column.part]
        self.columns.append(column)
        below = self.put(0, column, "plain", told) if told and column.reads else None
        first = below
        for layer in range(part.layers):
            below = self._stacked(column, part, layer, below, first)
        if column.writes and below is not None:
            self._written(column, below)

    def _stacked(
        self, column: Column, part: Part, layer: int, below: Place | None, first: Place | None
    ) -> Place | None:
        outs = [self._unit(column, layer, d, below, first) for d in range(part.directions)]
        out = outs[-1]
        top = layer == part.layers - 1
        if part.directions == 2 and not (top and not column.writes):
            join = self.put(self.rows.joins[layer], column, "join", "[ , ]")
            if not (top and self.wired.shape == "many-to-one"):
                self.up(f"r{layer}", outs[1], join, column)
            self.up(f"f{layer}", outs[0], join, column, side="right")
            out = join
        if layer in self.rows.sums:
            text = "+" if part.stack == "residual" else part.stack
            place = self.put(self.rows.sums[layer], column, "join", text)
            self.up(f"q{layer}", out, place, column)
            if below is not None:
                self.up(f"p{layer}", below, place, column, side="right")
            out = place
        return out

    def _unit(
        self, column: Column, layer: int, direction: int, below: Place | None, first: Place | None
    ) -> Place:
        part = self.wired.parts[column.part]
        rows = self.rows.units[layer, direction]
        texts = part.gates or (part.cell.name,)
        places = [self.put(r, column, "unit", text) for r, text in zip(rows, texts, strict=True)]
        key = f"{layer}{direction}"
        at = (column.part, layer, direction)
        if below is not None and part.inputs:
            self.up(f"u{key}", below, places[0], column, weight=self._reads(*at), flow="x")
        if layer and first is not None and len(part.inputs) > 1:
            self.up(f"o{key}", first, places[0], column)
        for k, (a, b) in enumerate(pairwise(places)):
            self.up(f"v{key}{k}", a, b, column, weight=self._of("V", *at))
        return places[-1]

    def _written(self, column: Column, below: Place) -> None:
        if self.wired.head:
            head = self.put(self.rows.head, column, "head", self.wired.head)
            self.up("head", below, head, column, weight=self.multiplies.get(_HEAD, -1))
            below = head
        plain = self.wired.shape == "layer" and self.wired.parts[0].directions == 1
        name = self.wired.parts[0].output if plain else "y"
        once = self.wired.shape == "many-to-one"
        place = self.put(
            self.rows.output, column, "plain", name if once else f"{name}({column.text})"
        )
        self.up("y", below, place, column, flow="y")

    def up(
        self,
        key: str,
        start: Place,
        end: Place,
        column: Column,
        *,
        side: str = "left",
        weight: int = -1,
        flow: str = "",
    ) -> None:
        if column.step is None and column.text == "":
            return  # an ellipsis has no insides
        self.wires.append(Wire(key, start, end, weight=weight, side=side))
        if self.flows is None or not flow or column.step is None:
            return
        if flow == "x" and start[0] != 0:
            return
        found = self.flows.outside(flow, column.part, column.step)
        second = (
            key.endswith("1") and flow == "x"
        )  # the derivative with respect to x is one: drawn once
        if found is not None and not second:
            self.wires.append(Wire(f"{key}~", start, end, side=side, flow=found))

    # Along time -------------------------------------------------------------------------------------------------------

    def state_weight(self, part: int, layer: int, direction: int, state: str) -> int:
        met = self.wired.parts[part].met
        if not met.states[state]:
            return -1
        letter = _RECURRENT[met.sets.index(met.states[state])]
        return self._of(letter, part, layer, direction)

    def along(self) -> None:
        """The states from column to column, from their first values to their last."""
        part = self.wired.parts[0]
        for layer in range(part.layers):
            for direction in range(part.directions):
                for state in part.states:
                    self._state(layer, direction, state)

    def _state(self, layer: int, direction: int, state: str) -> None:
        spread = self.wired.parts[0].dilations[layer]
        columns = [c for c in self.columns if direction < self.wired.parts[c.part].directions]
        order = columns if direction == 0 else columns[::-1]
        step = spread if direction == 0 else -spread
        rows = self.rows.units[layer, direction]
        key = f"s{layer}{direction}{state}"
        for number, column in enumerate(order):
            end = (rows[0], column.at)
            if number < spread:
                start = (end[0], order[0].at - step + (number if direction == 0 else -number))
                self._first(start, key, layer, direction, state, number)
            else:
                start = (rows[-1], order[number - spread].at)
            weight = self.state_weight(column.part, layer, direction, state)
            track = number % spread
            self.wires.append(Wire(key, start, end, state, weight, track=track))
            self._flow(key, start, end, layer, direction, state, track)
        if self.flows is None:
            for number, column in enumerate(order[-spread:], max(len(order) - spread, 0)):
                track = number % spread
                self._last(column, step, key, layer, direction, state, track)

    def _flow(
        self, key: str, start: Place, end: Place, layer: int, direction: int, state: str, track: int
    ) -> None:
        source = next((c for c in self.columns if c.at == start[1]), None)
        if self.flows is None or source is None:
            return
        step = source.step
        if step is None:  # an ellipsis: the step next to it that the wire leads to
            reader = next(c for c in self.columns if c.at == end[1])
            assert reader.step is not None
            step = reader.step - 1 if direction == 0 else reader.step + 1
        found = self.flows.state(source.part, layer, direction, state, step)
        self.wires.append(Wire(f"{key}~", start, end, track=track, flow=found))

    def named(self, state: str, layer: int, direction: int) -> str:
        return state + marked(None, layer, direction, self.wired.parts[0].layers)

    def _first(
        self, place: Place, key: str, layer: int, direction: int, state: str, number: int
    ) -> None:
        """A state before the first step, in the row of what reads it."""
        spread = self.wired.parts[0].dilations[layer]
        name = self.named(state, layer, direction)
        if direction == 0:
            text = f"{name}({number - spread + 1})".replace("-", "−")
        else:
            steps = max(c.step or 0 for c in self.columns if c.part == 0)
            text = f"{name}({steps + spread - number})"
        self.ends.setdefault(place, []).append((key, text))

    def _last(
        self,
        column: Column,
        step: int,
        key: str,
        layer: int,
        direction: int,
        state: str,
        track: int,
    ) -> None:
        """A state after the last step."""
        handed = len(self.wired.parts) > 1 and self.wired.parts[0].directions == 2
        if handed and direction == 1:
            return  # it goes to the decoder
        rows = self.rows.units[layer, direction]
        key = (
            key if rows[0] == rows[-1] else key + ">"
        )  # it leaves where it leaves for the next step
        place = (rows[-1], column.at + step)
        text = f"{self.named(state, layer, direction)}({column.text})"
        self.ends.setdefault(place, []).append((key, text))
        self.wires.append(Wire(key, (rows[-1], column.at), place, track=track))

    def grid(self, title: str) -> Grid:
        places = {**self.nodes}
        for place, ends in self.ends.items():
            places[place] = Node(place, "ends", "", tuple(ends))
        left = min(at for _, at in places)
        nodes = tuple(
            Node((n.place[0], n.place[1] - left), n.kind, n.text, n.ends) for n in places.values()
        )
        wires = tuple(_moved(wire, -left) for wire in self.wires)
        used = {wire.weight for wire in wires}
        order = [k for k in range(len(self.weights)) if k in used]
        renumbered = {k: new for new, k in enumerate(order)} | {-1: -1}
        wires = tuple(
            Wire(
                w.key,
                w.start,
                w.end,
                w.name,
                renumbered[w.weight],
                w.side,
                w.delay,
                w.track,
                w.flow,
            )
            for w in wires
        )
        weights = tuple(self.weights[k] for k in order)
        return Grid(title, nodes, wires, weights, tuple(self.notes))


def _moved(w: Wire, by: int) -> Wire:
    start, end = (w.start[0], w.start[1] + by), (w.end[0], w.end[1] + by)
    return Wire(w.key, start, end, w.name, w.weight, w.side, w.delay, w.track, w.flow)
