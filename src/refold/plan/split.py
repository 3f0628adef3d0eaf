"""Where each line of a step runs: once per call, ahead of the loop, in it, or behind it.

    once     made of parameters alone: A = W - W.T
    ahead    no state reaches it: W_x @ x + b, for all steps at once
    loop     between a state and the next
    behind   reads states, feeds none: a read-out; in the reverse step, the terms of every weight's gradient

The same split serves the reverse step, whose states are the adjoints (slot `carry`).
"""

from __future__ import annotations

from dataclasses import dataclass

from refold.ir.graph import SLOT, Builder, Graph, Leaf, Node, Output, Slot, trimmed
from refold.ir.ops import OPS

_STATES = ("state", "carry")


@dataclass(frozen=True, slots=True)
class Split:
    """The lines of a graph (leaves left out) by where they run, each part in order."""

    ahead: tuple[int, ...]
    loop: tuple[int, ...]
    behind: tuple[int, ...]


def split(graph: Graph) -> Split:
    """Part a step, or a reverse step, by what its states touch. Numbers go with whoever reads them: ahead."""
    touched = graph.after(graph.reading(*_STATES))
    feeding = graph.before(o.node for kind in _STATES for o in graph.outputs_of(kind))
    lines = [i for i, node in enumerate(graph.nodes) if node.op != SLOT]
    return Split(
        ahead=tuple(i for i in lines if i not in touched),
        loop=tuple(i for i in lines if i in touched and i in feeding),
        behind=tuple(i for i in lines if i in touched and i not in feeding),
    )


def hoist(graph: Graph) -> tuple[Graph, Graph]:
    """Take the arithmetic on parameters out of a step: (what runs once per call, the step that reads its results).

    The results become slots `once`. A parameter that the step itself reads stays a slot `param`.
    """
    made = _made_of_parameters(graph)
    builder = Builder()
    moved: dict[int, int] = {}
    results: list[tuple[str, int]] = []
    leaves = list(graph.leaves)
    for i, node in enumerate(graph.nodes):
        if i in made:
            name = _name(node, len(results), {leaf.name for leaf in leaves})
            results.append((name, i))
            leaves.append(Leaf("once", name, node.shape))
            moved[i] = builder.slot(Slot("once", name), node.shape)
        else:
            arguments = tuple(moved.get(a, -1) for a in node.args)
            moved[i] = builder.add(node.reading(arguments)) if -1 not in arguments else -1
    outputs = tuple(Output(o.slot, moved[o.node]) for o in graph.outputs)
    return _once(graph, results), trimmed(builder.graph(graph.name, leaves, outputs))


def _made_of_parameters(graph: Graph) -> set[int]:
    """Lines made of parameters alone that the step reads or returns."""
    staying = set(graph.varying())
    fixed = graph.after(graph.reading("param")) - staying
    uses = graph.uses()
    returned = {o.node for o in graph.outputs}
    made = set()
    for i in sorted(fixed, reverse=True):
        if graph.nodes[i].op == SLOT or not (i in returned or any(u in staying for u in uses[i])):
            continue
        if OPS[graph.nodes[i].op].boolean:
            staying.add(i)  # a result is made of numbers; what compares them stays with its reader
        else:
            made.add(i)
    return made


def _once(graph: Graph, results: list[tuple[str, int]]) -> Graph:
    builder = Builder(graph.nodes)
    outputs = tuple(Output(Slot("once", name), i) for name, i in results)
    return trimmed(builder.graph(graph.name, graph.leaves_of("param"), outputs))


def _name(node: Node, count: int, taken: set[str]) -> str:
    """A result's name: what the user called it, else a numbered one."""
    name = node.label or f"once_{count + 1}"
    while name in taken:
        name += "'"
    return name
