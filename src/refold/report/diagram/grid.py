"""A network as rows and columns: a row for each layer, a column for each step, and the wires between them."""

from __future__ import annotations

from dataclasses import dataclass

Place = tuple[int, int]  # row, counted from below, and column, counted from the left


@dataclass(frozen=True, slots=True)
class Node:
    """What stands at one place.

    kind  plain (an input, an output, an ellipsis), unit, head, join, or ends: states before the first or after the
          last step, each (key of its wire, text) at the height of its wire
    """

    place: Place
    kind: str
    text: str
    ends: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Flow:
    """The gradient that runs against a wire: its norm, how wide it is drawn, and flow, explodes or vanishes."""

    norm: float
    width: float
    tone: str


@dataclass(frozen=True, slots=True)
class Wire:
    """One value on its way from a node to another.

    key     wires of one key leave and enter at the same height in every column
    name    of the value; weight: the number of what multiplies it, -1 for nothing
    side    by which side of a column it passes the nodes between its ends
    delay   of a loop in a folded network: what its box says. A loop starts and ends in one column.
    track   which of several tracks above its row it takes, where it passes columns
    """

    key: str
    start: Place
    end: Place
    name: str = ""
    weight: int = -1
    side: str = "left"
    delay: str = ""
    track: int = 0
    flow: Flow | None = None


@dataclass(frozen=True, slots=True)
class Weight:
    """What is shared by all wires of its colour: a letter, and what it stands for."""

    letter: str
    text: str


@dataclass(frozen=True, slots=True)
class Grid:
    """All of a picture of a network, without any measure."""

    title: str
    nodes: tuple[Node, ...]
    wires: tuple[Wire, ...]
    weights: tuple[Weight, ...]
    notes: tuple[str, ...] = ()
