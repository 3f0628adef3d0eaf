"""The exact adjoint of a step: a graph that runs in reverse time.

With delta_h(t) the derivative of the whole error with respect to state h after step t,

    delta_h(t) = dE/dh(t) + sum over the states s that step t+1 gives:  (ds(t+1)/dh(t))^T delta_s(t+1)

The reverse step of step t reads what arrived from step t+1 (slot `carry`; whoever runs the loop adds what the error
says about the state itself) and dE/dy(t) for an output that is not a state (slot `given`). It gives delta (slot
`delta`), what arrives at the states before the step (`carry`), the derivative with respect to each input (`input`),
and the terms that step t adds to the gradient of each parameter (`total`: summed over all steps and rows).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from refold.errors import EquationError, PlanError
from refold.ir.graph import FIXED, SLOT, Builder, Graph, Leaf, Node, Output, Slot
from refold.ir.ops import OPS, Term, summed, zeros
from refold.ir.source import shown

from .split import split

# Given what is being written, the step, and the adjoint of each state: what else the reverse step is to give.
Further = Callable[[Builder, Graph, tuple[Output, ...]], Iterable[Output]]


def reverse(step: Graph, further: Further | None = None) -> Graph:
    """The reverse step of a step whose arithmetic on parameters has been taken out (see `split.hoist`).

    Forward values that it needs stand in it as forward lines; `keep` replaces them by slots. What is given `further`
    takes the place of what the adjoint gives under the same slot, a total stands beside it.
    """
    builder = Builder(step.nodes)
    leaves: list[Leaf] = list(step.leaves)
    behind = frozenset(split(step).behind)
    # First through the lines that only the output needs: what E(t) says about the new states and everything else.
    gradient = {
        output.node: _seed(builder, step, output, "given", leaves)
        for output in step.outputs_of("output")
        if not _is_state(step, output)
    }
    found = backpropagate(builder, step, gradient, behind)
    deltas = _deltas(builder, step, gradient, leaves)
    rest = frozenset(range(len(step.nodes))) - behind
    found = backpropagate(builder, step, gradient, rest, found)
    outputs = (*_outputs(builder, step, found), *deltas)
    if further is not None:
        more = tuple(further(builder, step, deltas))
        replaced = {o.slot for o in more if o.slot.kind != "total"}
        outputs = (*(o for o in outputs if o.slot not in replaced), *more)
    return builder.graph(step.name, leaves, outputs)


def _seed(builder: Builder, step: Graph, output: Output, kind: str, leaves: list[Leaf]) -> Term:
    """What comes into the reverse step for something that the step gave."""
    leaf = Leaf(kind, output.slot.name, step.nodes[output.node].shape)
    leaves.append(leaf)
    return Term(builder, builder.slot(leaf.slot, leaf.shape, f"δ_{leaf.name}"))


def _deltas(
    builder: Builder, step: Graph, gradient: dict[int, Term], leaves: list[Leaf]
) -> tuple[Output, ...]:
    """delta_s(t) of each state: what arrives from later steps, and what E(t) says through the output.

    A line that is two states counts what the output says for the first.
    """
    deltas: list[Output] = []
    claimed: set[int] = set()
    for output in step.outputs_of("state"):
        node = output.node
        delta = _seed(builder, step, output, "carry", leaves)
        if node in gradient and node not in claimed and step.nodes[node].op != SLOT:
            gradient[node] = delta = delta + gradient[node]
            builder.name(delta.index, f"δ_{output.slot.name}")
        else:
            add_to(gradient, node, delta)
        claimed.add(node)
        deltas.append(Output(Slot("delta", output.slot.name), delta.index))
    return tuple(deltas)


def reverse_once(once: Graph) -> Graph:
    """The adjoint of the arithmetic on parameters: from the totals of what it gave to those of the parameters."""
    builder = Builder(once.nodes)
    seeds: dict[int, Term] = {}
    leaves = list(once.leaves)
    for output in once.outputs:
        slot = Slot("total", output.slot.name)
        shape = once.nodes[output.node].shape
        leaves.append(Leaf("total", output.slot.name, shape))
        add_to(seeds, output.node, Term(builder, builder.slot(slot, shape, f"d{output.slot.name}")))
    found = backpropagate(builder, once, seeds, frozenset(range(len(once.nodes))))
    outputs = [Output(slot, found[i][0].index) for slot, i in once.slots().items() if found.get(i)]
    return builder.graph(once.name, leaves, outputs)


def backpropagate(
    builder: Builder,
    graph: Graph,
    gradient: dict[int, Term],
    lines: frozenset[int],
    found: dict[int, list[Term]] | None = None,
) -> dict[int, list[Term]]:
    """Walk some lines of a graph from its end, applying each op's derivative rule once; the gradients of its leaves.

    `gradient` holds the seeds and receives what the walk arrives at; `found` collects over several walks. A matrix that
    is read with a value for each step keeps its terms apart, so that each stays one product over time.

    Errors  EquationError where a gradient meets an op without a derivative.
    """
    found = {} if found is None else found
    varying = graph.varying()
    for i in sorted(lines, reverse=True):
        node = graph.nodes[i]
        if node.op == SLOT:
            if i in gradient:
                found.setdefault(i, []).append(gradient[i])
            continue
        if i not in gradient:
            continue
        _name(builder, gradient[i], node)
        for argument, term in zip(
            node.args, _pulled_back(builder, graph, i, gradient[i]), strict=True
        ):
            if term is None:
                continue
            term = fitted(term, graph.nodes[argument])
            apart = i in varying and argument not in varying and len(term.shape) == 2
            while apart and graph.nodes[argument].op == "transpose":
                argument, term = graph.nodes[argument].args[0], term.do("transpose")
            if apart and graph.nodes[argument].op == SLOT:
                found.setdefault(argument, []).append(term)
            else:
                add_to(gradient, argument, term)
    return found


def _name(builder: Builder, gradient: Term, node: Node) -> None:
    """The gradient of a value with a name is called after it."""
    if not node.label or gradient.node.label or gradient.node.op in (SLOT, "const"):
        return
    name = f"δ_{node.label}"
    taken = {n.label for n in builder.nodes}
    while (
        name in taken
    ):  # δ_c is what later steps say about c(t); δ_c' also what this step's other states say
        name += "'"
    builder.name(gradient.index, name)


def _pulled_back(builder: Builder, graph: Graph, i: int, gradient: Term) -> tuple[Term | None, ...]:
    node = graph.nodes[i]
    rule = OPS[node.op].derivative
    if rule is None:
        raise EquationError(
            f"rf.{node.op} has no derivative, and a gradient would have to pass through it.",
            f"Say that none should: rf.stop_gradient(rf.{node.op}(...)).",
            shown(node.place) if node.place else f"in cell '{graph.name}'",
        )
    return rule(gradient, Term(builder, i), *(Term(builder, a) for a in node.args))


def fitted(term: Term, operand: Node) -> Term:
    """A scalar that was read by every element gets the sum of their gradients."""
    if term.shape == operand.shape:
        return term
    if operand.shape == ():
        return summed(term)
    raise PlanError(f"a gradient of shape {term.shape} meets an operand of shape {operand.shape}.")


def add_to(gradient: dict[int, Term], index: int, term: Term) -> None:
    gradient[index] = gradient[index] + term if index in gradient else term


def _is_state(step: Graph, output: Output) -> bool:
    return Slot("state", output.slot.name) in {o.slot for o in step.outputs}


def _outputs(builder: Builder, step: Graph, found: dict[int, list[Term]]) -> Iterable[Output]:
    slots = step.slots()
    for leaf in step.leaves:
        terms = found.get(slots.get(leaf.slot, -1), [])
        if leaf.kind == "state":
            index = terms[0].index if terms else zeros(builder, leaf.shape).index
            yield Output(Slot("carry", leaf.name), index)
        elif leaf.kind == "input":
            index = terms[0].index if terms else zeros(builder, leaf.shape).index
            yield Output(leaf.slot, index)
        elif leaf.kind in FIXED:
            yield from (Output(Slot("total", leaf.name), term.index) for term in terms)
