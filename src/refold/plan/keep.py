"""What the forward step keeps for the reverse step, and what the reverse step works out again.

Kept in any case are the states after every step. Beyond them, memory="fast" keeps each value that the reverse step
reads and that is not cheap to rebuild from kept ones: gates, mostly. memory="small" keeps nothing more: the reverse
step repeats the forward step from x(t) and the states before it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from refold.ir.graph import SLOT, Builder, Graph, Leaf, Output, Slot
from refold.ir.ops import OPS
from refold.ir.rewrite import fold
from refold.shapes import Shape

Memory = Literal["fast", "small"]
MEMORY: tuple[Memory, ...] = get_args(Memory)


@dataclass(frozen=True, slots=True)
class Kept:
    """A forward value stored for every step: its name, its line in the forward graph, its shape."""

    name: str
    node: int
    shape: Shape


def keep(step: Graph, backward: Graph, memory: str) -> tuple[Graph, Graph, tuple[Kept, ...]]:
    """Cut the reverse step off the forward lines: (step that also gives what is kept, reverse step, what is kept)."""
    step_line = _forward_lines(step, backward)
    stored = _states_after(step)
    kept = _choose(step, _wanted(backward, step_line), stored) if memory == "fast" else set()
    names = _names(step, kept)
    slots = {i: Slot("kept", names[i]) for i in kept} | {
        i: Slot("next", s) for i, s in stored.items()
    }
    cut = _replaced(step, backward, step_line, slots)
    used = {slot.name for slot in cut.slots() if slot.kind == "kept"}
    records = tuple(
        Kept(names[i], i, step.nodes[i].shape) for i in sorted(kept) if names[i] in used
    )
    outputs = (*step.outputs, *(Output(Slot("kept", k.name), k.node) for k in records))
    return replace(step, outputs=outputs), cut, records


def _forward_lines(step: Graph, backward: Graph) -> dict[int, int]:
    """Lines of the reverse graph that are lines of the step: {line there: line here}."""
    builder = Builder(step.nodes)
    count = len(step.nodes)
    same: dict[int, int] = {}
    for i, node in enumerate(backward.nodes):
        if all(a in same for a in node.args):
            here = builder.add(node.reading(tuple([same[a] for a in node.args])))
            if here < count:
                same[i] = here
    return same


def _wanted(backward: Graph, step_line: dict[int, int]) -> list[int]:
    """The forward values that reverse lines read, in forward order; numbers and leaves are no question."""
    read = {a for i, node in enumerate(backward.nodes) if i not in step_line for a in node.args}
    read |= {o.node for o in backward.outputs}
    return sorted(
        {
            step_line[i]
            for i in read
            if i in step_line and backward.nodes[i].op not in (SLOT, "const", "size")
        }
    )


def _states_after(step: Graph) -> dict[int, str]:
    """The lines that are the states after the step; they are stored anyway."""
    stored: dict[int, str] = {}
    for output in step.outputs_of("state"):
        if step.nodes[output.node].op != SLOT:
            stored.setdefault(output.node, output.slot.name)
    return stored


def _choose(step: Graph, wanted: list[int], stored: dict[int, str]) -> set[int]:
    """Keep what cannot be rebuilt cheaply from leaves, stored states and what is kept so far."""
    kept: set[int] = set()
    known: dict[int, bool] = {}  # a line is asked about once for each way that leads to it

    def at_hand(i: int) -> bool:
        if i not in known:
            known[i] = found(i)
        return known[i]

    def found(i: int) -> bool:
        node = step.nodes[i]
        if node.op in (SLOT, "const", "size") or i in stored or i in kept:
            return True
        cost = OPS[node.op].cost
        if cost == "function" and len(node.args) == 1:
            # One call on a stored state: reading it back costs as much as computing it.
            return node.args[0] in stored or step.nodes[node.args[0]].op == SLOT
        # A quotient by a row's own number is worked out faster than a vector is read.
        by_number = node.op == "div" and bool(node.shape) and not step.nodes[node.args[1]].shape
        return (cost == "cheap" or by_number) and all(at_hand(a) for a in node.args)

    def hold(i: int) -> None:
        if at_hand(i):
            return
        if OPS[step.nodes[i].op].boolean:  # what is stored are numbers: those that were compared
            for a in step.nodes[i].args:
                hold(a)
        else:
            kept.add(i)
            known.clear()

    for i in wanted:
        hold(i)
    return kept


def _names(step: Graph, kept: set[int]) -> dict[int, str]:
    taken = {leaf.name for leaf in step.leaves}
    names: dict[int, str] = {}
    for i in sorted(kept):
        name = base = value_name(step, i)
        count = 2
        while name in taken:
            name, count = f"{base}_{count}", count + 1
        taken.add(name)
        names[i] = name
    return names


def value_name(graph: Graph, i: int) -> str:
    """What to call a value: the user's name; f of a named value: f_name; else a letter and its line."""
    node = graph.nodes[i]
    if node.label:
        return node.label
    if len(node.args) == 1 and graph.nodes[node.args[0]].label:
        return f"{node.op}_{graph.nodes[node.args[0]].label}"
    return f"v{i}"


def _replaced(
    step: Graph, backward: Graph, step_line: dict[int, int], slots: dict[int, Slot]
) -> Graph:
    builder = Builder()
    moved: list[int] = []
    leaves = {leaf.slot: leaf for leaf in backward.leaves}
    for i, node in enumerate(backward.nodes):
        slot = slots.get(step_line.get(i, -1))
        if slot is None:
            moved.append(builder.add(node.reading(tuple([moved[a] for a in node.args]))))
            continue
        leaves[slot] = Leaf(slot.kind, slot.name, node.shape)
        moved.append(builder.slot(slot, node.shape))
    outputs = tuple(Output(o.slot, moved[o.node]) for o in backward.outputs)
    cut = fold(builder.graph(backward.name, tuple(leaves.values()), outputs))
    read = set(cut.slots()) | {o.slot for o in cut.outputs}
    return replace(cut, leaves=tuple(leaf for leaf in cut.leaves if leaf.slot in read))
