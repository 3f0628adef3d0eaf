"""What a legal graph is. Run after tracing and, in the tests, after every pass."""

from __future__ import annotations

from refold.errors import PlanError
from refold.shapes import shape_text

from .graph import SLOT, Graph, Node, Slot
from .ops import OPS, MisfitError, reads_comparisons

_SHAPED_BY_HAND = {SLOT}  # a leaf's shape is its declaration


def check(graph: Graph) -> Graph:
    """The same graph, if it is legal.

    Errors  PlanError names the first line that is not, and why:
            an argument comes later; an op is unknown or has another number of arguments; a shape is not what the op
            gives; a comparison meets arithmetic; a matrix changes with time; an output's shape is not its leaf's;
            a line is written twice; a line is read by nothing.
    """
    seen: set[Node] = set()
    for i, node in enumerate(graph.nodes):
        _line(graph, i, node)
        _require(node not in seen, graph, i, "the same line stands earlier")
        seen.add(node)
    _matrices_stay(graph)
    _outputs(graph)
    read = graph.before(o.node for o in graph.outputs)
    for i in range(len(graph.nodes)):
        _require(i in read, graph, i, "nothing reads this line")
    return graph


def _line(graph: Graph, i: int, node: Node) -> None:
    _require(node.op in OPS, graph, i, f"there is no op {node.op}")
    op = OPS[node.op]
    _require(all(0 <= a < i for a in node.args), graph, i, "an argument comes later")
    _require(op.arity in (None, len(node.args)), graph, i, f"{op.name} takes {op.arity} arguments")
    arguments = [graph.nodes[a] for a in node.args]
    if node.op == SLOT:
        _require(isinstance(node.attr, Slot), graph, i, "a slot names what it reads")
        return
    try:
        shape = op.shape(tuple(a.shape for a in arguments), node.attr)
    except MisfitError as misfit:
        named = misfit.fact.format(
            *(f"operand {k} is {shape_text(a.shape)}" for k, a in enumerate(arguments, 1))
        )
        _require(False, graph, i, named.rstrip("."))
        return
    _require(shape == node.shape, graph, i, f"{op.name} gives {shape_text(shape)}")
    for argument, boolean in zip(
        arguments, reads_comparisons(node.op, len(arguments)), strict=True
    ):
        _require(OPS[argument.op].boolean == boolean, graph, i, "a comparison meets arithmetic")


def _matrices_stay(graph: Graph) -> None:
    """A matrix with a value for each step may only leave as a term of a sum over time."""
    totals = {o.node for o in graph.outputs_of("total")}
    for i in graph.varying():
        matrix = len(graph.nodes[i].shape) == 2
        _require(not matrix or i in totals, graph, i, "a matrix changes with time")


def _outputs(graph: Graph) -> None:
    for output in graph.outputs:
        _require(0 <= output.node < len(graph.nodes), graph, output.node, "an output names no line")
        for leaf in graph.leaves:
            if leaf.slot == output.slot:
                same = graph.nodes[output.node].shape == leaf.shape
                _require(same, graph, output.node, f"{leaf.name} is {shape_text(leaf.shape)}")


def _require(condition: bool, graph: Graph, line: int, fact: str) -> None:
    if not condition:
        node = graph.nodes[line] if 0 <= line < len(graph.nodes) else None
        raise PlanError(
            f"graph {graph.name}, line {line}: {fact}.",
            "A pass wrote an illegal graph; this is a fault in refold, please report it.",
            f"    {node.op}{node.args} {shape_text(node.shape)}" if node else "",
        )
