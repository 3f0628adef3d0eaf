"""What the wires of a cell multiply: the parameters that its inputs and its states meet first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from refold.ir.graph import Graph, Slot
from refold.shapes import Size

from .picture import Diagram

_PRODUCTS = ("matvec", "mul")
_MOST = 5  # names that are written out


@dataclass(frozen=True, slots=True)
class Met:
    """Names of parameters: what the inputs alone meet, what each state meets, and all others."""

    inputs: tuple[str, ...]
    states: dict[str, tuple[str, ...]]
    others: tuple[str, ...]

    @property
    def sets(self) -> tuple[tuple[str, ...], ...]:
        """What states meet, each set once."""
        return tuple(dict.fromkeys(names for names in self.states.values() if names))


def met(graph: Graph) -> Met:
    """The parameters of a cell by who multiplies them first, each in the order declared."""
    # A reservoir learns none of its weights; what is left out are numbers that are settings.
    learned = [leaf.name for leaf in graph.leaves_of("param") if leaf.learn or leaf.shape]
    states = {
        leaf.name: _ordered(learned, _first(graph, leaf.slot)) for leaf in graph.leaves_of("state")
    }
    found: set[str] = set()
    for leaf in graph.leaves_of("input"):
        found |= _first(graph, leaf.slot)
    taken = {name for names in states.values() for name in names}
    inputs = _ordered(learned, found - taken)
    others = tuple(name for name in learned if name not in taken and name not in inputs)
    return Met(inputs, states, others)


def _ordered(learned: list[str], found: set[str]) -> tuple[str, ...]:
    return tuple(name for name in learned if name in found)


def _first(graph: Graph, slot: Slot) -> set[str]:
    """The parameters in the first products on every way from an input or a state."""
    slots, readers, varying = graph.slots(), graph.uses(), graph.varying()
    found: set[str] = set()
    ahead, seen = [slots[slot]] if slot in slots else [], set()
    while ahead:
        i = ahead.pop()
        for reader in readers[i]:
            node = graph.nodes[reader]
            fixed = [a for a in node.args if a not in varying]
            if node.op in _PRODUCTS and fixed:
                before = graph.before(fixed)
                found |= {s.name for s, n in slots.items() if s.kind == "param" and n in before}
            elif reader not in seen:
                seen.add(reader)
                ahead.append(reader)
    return found


def listed(graph: Graph, names: tuple[str, ...], number: Callable[[Size], str]) -> str:
    """Parameters with their sizes: "W_x (64×8)"; of many the first ones."""
    shapes = {leaf.name: leaf.shape for leaf in graph.leaves_of("param")}
    sizes = ["×".join(number(size) for size in shapes[name]) for name in names]
    if len(names) > 1 and len(set(sizes)) == 1 and sizes[0]:
        shown = list(names[:_MOST])
        tail = f", each {sizes[0]}"
    else:
        shown = [
            f"{name} ({size})" if size else name
            for name, size in zip(names[:_MOST], sizes, strict=False)
        ]
        tail = ""
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(shown) + more + tail


def marked(part: int | None, layer: int, direction: int, layers: int) -> str:
    """What a letter has beside it: e or d for an encoder and a decoder, the layer of a stack, a dash in reverse."""
    low = ("" if part is None else "ed"[part]) + (str(layer + 1) if layers > 1 else "")
    return (f"_{low}" if low else "") + ("′" if direction else "")


def chain(diagram: Diagram) -> tuple[str, ...]:
    """The activations of a cell whose gates stand one behind the other, the last one being the state: Elman has one,
    Jordan two. Empty for all other cells, which are drawn as one box."""
    gates = [i for i, box in enumerate(diagram.boxes) if box.kind == "gate"]
    kinds = {box.kind for box in diagram.boxes}
    if not gates or not kinds <= {"input", "past", "gate", "state"} or len(diagram.loops) != 1:
        return ()
    for before, gate in pairwise(gates):
        if {port.source for port in diagram.boxes[gate].ports} != {before}:
            return ()
    (last,) = diagram.boxes[diagram.loops[0].state].ports
    first = {port.source for port in diagram.boxes[gates[0]].ports}
    if last.source != gates[-1] or diagram.loops[0].past not in first:
        return ()
    return tuple(diagram.boxes[i].text for i in gates)
