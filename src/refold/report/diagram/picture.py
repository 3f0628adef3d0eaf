"""The folded picture of a cell as data: boxes, what each reads, and the loops that a state goes round."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Label:
    """What a line or a box is marked with: a name, or a short expression, and the sizes of what it names."""

    text: str
    size: str = ""


@dataclass(frozen=True, slots=True)
class Port:
    """One thing that a box reads: the number of another box, and the factor or sign on the way, if any."""

    source: int
    label: Label | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """One box, circle or bar.

    kind  input, past (a state as the step before left it), param (a parameter read as a value);
          gate (a weighted sum and its activation), op (a circle), function, bar (vectors joined or cut); state, output
    bias  what is added to the weighted sum besides what the ports bring
    """

    kind: str
    text: str
    ports: tuple[Port, ...] = ()
    name: str = ""
    size: str = ""
    bias: tuple[Label, ...] = ()


@dataclass(frozen=True, slots=True)
class Loop:
    """A delay of one step: what the box `state` holds now, the box `past` gives at the next step."""

    state: int
    past: int


@dataclass(frozen=True, slots=True)
class Diagram:
    """All boxes, each after what it reads, the loops, and where the output leaves."""

    title: str
    boxes: tuple[Box, ...]
    loops: tuple[Loop, ...]
    output: int
    notes: tuple[str, ...] = ()


def labels(diagram: Diagram) -> list[Label]:
    """Every mark of the picture that can name a parameter."""
    found = []
    for box in diagram.boxes:
        found += [port.label for port in box.ports if port.label is not None]
        found += box.bias
        if box.kind in ("param", "function", "gate"):
            found.append(Label(box.text, box.size))
    return found
