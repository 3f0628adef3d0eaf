"""From a network to its rows and columns: folded, with loops, or unfolded over steps."""

from __future__ import annotations

from itertools import pairwise

from .flow import Flows
from .grid import Grid, Wire
from .parts import Wired, shown
from .weaver import Column, Weaver


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
    weaver.column(Column(at, number, step, text, bool(told), writes), told)


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
            name = weaver.named(state, layer, 1)
            weaver.wires.append(Wire(f"h{layer}{state}", start, end, name, track=k))
    weaver.notes.append("The decoder starts from the final states of both directions, joined.")


def _read_both(weaver: Weaver) -> None:
    """Of the reverse direction the head reads what it makes of the first step, where it ends."""
    layer = weaver.wired.parts[0].layers - 1
    first, last = weaver.columns[0], weaver.columns[-1]
    start = (weaver.rows.units[layer, 1][-1], first.at)
    end = (weaver.rows.joins[layer], last.at)
    if first is last:
        weaver.up("b", start, end, first)
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
        weaver.column(Column(number, number, None, "t", bool(told), not encodes), told)
    for column in weaver.columns:
        _loops(weaver, column)
    if len(wired.parts) > 1:
        _hand_over(weaver)
    if wired.shape == "many-to-one":
        _note_last(weaver)
    return weaver.grid(title_of(wired))


def _loops(weaver: Weaver, column: Column) -> None:
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
                weight = weaver.state_weight(column.part, layer, direction, state)
                start, end = (rows[-1], column.at), (rows[0], column.at)
                name = weaver.named(state, layer, direction)
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
        weaver.up("b", start, (weaver.rows.joins[layer], 0), weaver.columns[0])


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
