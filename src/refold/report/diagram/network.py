"""From a network to its rows and columns: folded, with loops, or unfolded over steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from .flow import Flows
from .grid import Grid, Node, Place, Weight, Wire
from .parts import Part, Wired, shown
from .shared import listed, marked

_RECURRENT = "WRQPSTKL"  # a letter for each set of weights that a state meets
_HEAD = ("head", 0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Column:
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
        self.columns: list[_Column] = []
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

    def put(self, row: int, column: _Column, kind: str, text: str) -> Place:
        place = (row, column.at)
        if column.step is None and column.text == "":
            kind, text = "plain", "⋯"
        self.nodes[place] = Node(place, kind, text)
        return place

    def column(self, column: _Column, told: str) -> None:
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
        self, column: _Column, part: Part, layer: int, below: Place | None, first: Place | None
    ) -> Place | None:
        outs = [self._unit(column, layer, d, below, first) for d in range(part.directions)]
        out = outs[-1]
        top = layer == part.layers - 1
        if part.directions == 2 and not (top and not column.writes):
            join = self.put(self.rows.joins[layer], column, "join", "[ , ]")
            if not (top and self.wired.shape == "many-to-one"):
                self._up(f"r{layer}", outs[1], join, column)
            self._up(f"f{layer}", outs[0], join, column, side="right")
            out = join
        if layer in self.rows.sums:
            text = "+" if part.stack == "residual" else part.stack
            place = self.put(self.rows.sums[layer], column, "join", text)
            self._up(f"q{layer}", out, place, column)
            if below is not None:
                self._up(f"p{layer}", below, place, column, side="right")
            out = place
        return out

    def _unit(
        self, column: _Column, layer: int, direction: int, below: Place | None, first: Place | None
    ) -> Place:
        part = self.wired.parts[column.part]
        rows = self.rows.units[layer, direction]
        texts = part.gates or (part.cell.name,)
        places = [self.put(r, column, "unit", text) for r, text in zip(rows, texts, strict=True)]
        key = f"{layer}{direction}"
        at = (column.part, layer, direction)
        if below is not None and part.inputs:
            self._up(f"u{key}", below, places[0], column, weight=self._reads(*at), flow="x")
        if layer and first is not None and len(part.inputs) > 1:
            self._up(f"o{key}", first, places[0], column)
        for k, (a, b) in enumerate(pairwise(places)):
            self._up(f"v{key}{k}", a, b, column, weight=self._of("V", *at))
        return places[-1]

    def _written(self, column: _Column, below: Place) -> None:
        if self.wired.head:
            head = self.put(self.rows.head, column, "head", self.wired.head)
            self._up("head", below, head, column, weight=self.multiplies.get(_HEAD, -1))
            below = head
        plain = self.wired.shape == "layer" and self.wired.parts[0].directions == 1
        name = self.wired.parts[0].output if plain else "y"
        once = self.wired.shape == "many-to-one"
        place = self.put(
            self.rows.output, column, "plain", name if once else f"{name}({column.text})"
        )
        self._up("y", below, place, column, flow="y")

    def _up(
        self,
        key: str,
        start: Place,
        end: Place,
        column: _Column,
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

    def _state_weight(self, part: int, layer: int, direction: int, state: str) -> int:
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
            weight = self._state_weight(column.part, layer, direction, state)
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

    def _name(self, state: str, layer: int, direction: int) -> str:
        return state + marked(None, layer, direction, self.wired.parts[0].layers)

    def _first(
        self, place: Place, key: str, layer: int, direction: int, state: str, number: int
    ) -> None:
        """A state before the first step, in the row of what reads it."""
        spread = self.wired.parts[0].dilations[layer]
        name = self._name(state, layer, direction)
        if direction == 0:
            text = f"{name}({number - spread + 1})".replace("-", "−")
        else:
            steps = max(c.step or 0 for c in self.columns if c.part == 0)
            text = f"{name}({steps + spread - number})"
        self.ends.setdefault(place, []).append((key, text))

    def _last(
        self,
        column: _Column,
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
        text = f"{self._name(state, layer, direction)}({column.text})"
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


# Whole pictures -------------------------------------------------------------------------------------------------------


def unfolded(
    wired: Wired, steps: int, written: int, *, teach: bool = False, flows: Flows | None = None
) -> Grid:
    """A network over so many steps; a decoder writes `written`."""
    weaver = Weaver(wired, teach, flows)
    at = 0
    for number in range(len(wired.parts)):
        decodes = number == 1
        visible = shown(written if decodes else steps, wired)
        for step in visible:
            _add(weaver, at, number, step, visible)
            at += 1
        at += wired.parts[0].directions - 1  # where the reverse states of an encoder begin
    weaver.along()
    if wired.fed_back and not teach:
        _feed_back(weaver)
    _join_ends(weaver)
    if wired.writes_once and wired.parts[0].directions == 2:
        _read_both(weaver)
    if flows is not None:
        weaver.notes += flows.told
    title = title_of(wired) + _over(wired, steps, written)
    return weaver.grid(title + (", with gradients" if flows is not None else ""))


def _over(wired: Wired, steps: int, written: int) -> str:
    both = f" and {written}" if len(wired.parts) > 1 else ""
    return f", unfolded over {steps}{both} step{'s' * (steps > 1 or bool(both))}"


def _add(weaver: Weaver, at: int, number: int, step: int | None, visible: list[int | None]) -> None:
    wired = weaver.wired
    part = wired.parts[number]
    encodes = len(wired.parts) > 1 and number == 0
    writes = not encodes and (not wired.writes_once or step == visible[-1])
    text = "" if step is None else str(step)
    told = ""
    if part.inputs:
        told = ", ".join(f"{name}({text})" for name in part.inputs)
    if wired.fed_back and not encodes:
        letter = "d" if weaver.teach else "y"
        if step == 1:
            told = "0" if number == 1 else f"{part.inputs[0]}(1)"
        elif step is not None:
            told = f"{letter}({step - 1})"
    weaver.column(_Column(at, number, step, text, bool(told), writes), told)


def _feed_back(weaver: Weaver) -> None:
    """Each output is the next step's input."""
    columns = [c for c in weaver.columns if c.part == len(weaver.wired.parts) - 1]
    for before, after in pairwise(columns):
        start, end = (weaver.rows.output, before.at), (0, after.at)
        weaver.wires.append(Wire("feedback", start, end))


def _join_ends(weaver: Weaver) -> None:
    """The reverse direction of an encoder ends at its first step; from there it goes to the decoder, too."""
    wired = weaver.wired
    if len(wired.parts) < 2 or wired.parts[0].directions == 1:
        return
    first = next(c for c in weaver.columns if c.part == 0)
    decoder = next(c for c in weaver.columns if c.part == 1)
    for layer in range(wired.parts[0].layers):
        for k, state in enumerate(wired.parts[0].states):
            start = (weaver.rows.units[layer, 1][-1], first.at)
            end = (weaver.rows.units[layer, 0][0], decoder.at)
            name = weaver._name(state, layer, 1)
            weaver.wires.append(Wire(f"h{layer}{state}", start, end, name, track=k))
    weaver.notes.append("The decoder starts from the final states of both directions, joined.")


def _read_both(weaver: Weaver) -> None:
    """Of the reverse direction the head reads what it makes of the first step, where it ends."""
    layer = weaver.wired.parts[0].layers - 1
    first, last = weaver.columns[0], weaver.columns[-1]
    start = (weaver.rows.units[layer, 1][-1], first.at)
    end = (weaver.rows.joins[layer], last.at)
    if first is last:
        weaver._up("b", start, end, first)
    else:
        weaver.wires.append(Wire("b", start, end))


def folded(wired: Wired) -> Grid:
    """A network with its loops: one column, or one for the encoder and one for the decoder."""
    weaver = Weaver(wired)
    for number in range(len(wired.parts)):
        encodes = len(wired.parts) > 1 and number == 0
        part = wired.parts[number]
        told = ", ".join(f"{name}(t)" for name in part.inputs)
        if wired.fed_back and not encodes:
            told = "y(t−1)"
            first = "zero" if number == 1 else f"{part.inputs[0]}(1)"
            weaver.notes.append(f"The first input is {first}, and each output the next input.")
        weaver.column(_Column(number, number, None, "t", bool(told), not encodes), told)
    for column in weaver.columns:
        _loops(weaver, column)
    if len(wired.parts) > 1:
        _hand_over(weaver)
    if wired.shape == "many-to-one":
        _note_last(weaver)
    return weaver.grid(title_of(wired))


def _loops(weaver: Weaver, column: _Column) -> None:
    part = weaver.wired.parts[column.part]
    if weaver.wired.fed_back and column.writes:
        start, end = (weaver.rows.output, column.at), (0, column.at)
        weaver.wires.append(Wire("feedback", start, end, side="right", delay="z^−1"))
    if weaver.wired.shape == "one-to-one":
        return
    for layer in range(part.layers):
        for direction in range(part.directions):
            rows, d = weaver.rows.units[layer, direction], part.dilations[layer]
            delay = ("z" if d == 1 else f"z^{d}") if direction else f"z^−{d}"
            for state in part.states:
                weight = weaver._state_weight(column.part, layer, direction, state)
                start, end = (rows[-1], column.at), (rows[0], column.at)
                name = weaver._name(state, layer, direction)
                side = "left" if direction else "right"
                key = f"s{layer}{direction}{state}"
                weaver.wires.append(Wire(key, start, end, name, weight, side, delay))


def _hand_over(weaver: Weaver) -> None:
    """The encoder's last states are the decoder's first."""
    for layer in range(weaver.wired.parts[0].layers):
        for direction in range(weaver.wired.parts[0].directions):
            start = (weaver.rows.units[layer, direction][-1], 0)
            end = (weaver.rows.units[layer, 0][0], 1)
            weaver.wires.append(Wire(f"h{layer}{direction}", start, end))
    weaver.notes.append("The encoder's final states are the decoder's first ones.")


def _note_last(weaver: Weaver) -> None:
    both = weaver.wired.parts[0].directions == 2
    of = "of the last step, in reverse of the first" if both else "of the last step"
    weaver.notes.append(f"y is read once, from the output {of}.")
    if both:
        layer = weaver.wired.parts[0].layers - 1
        start = (weaver.rows.units[layer, 1][-1], 0)
        weaver._up("b", start, (weaver.rows.joins[layer], 0), weaver.columns[0])


def title_of(wired: Wired) -> str:
    part = wired.parts[0]
    names = [" to ".join(dict.fromkeys(p.cell.name for p in wired.parts))]
    if wired.shape != "layer":
        names.append(wired.shape)
    if part.layers > 1:
        kind = "" if part.stack == "plain" else f"{part.stack} "
        names.append(f"{part.layers} {kind}layers")
    if part.directions == 2:
        names.append("both directions")
    if max(part.dilations) > 1:
        names.append("dilations " + " ".join(map(str, part.dilations)))
    return ", ".join(names)
