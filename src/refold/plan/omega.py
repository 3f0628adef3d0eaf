"""Pascanu's regulariser Omega, in the reverse step that is there anyway: the norm of the adjoint shall stay as it is.

With delta the adjoint of all states after a step, joined, and u = J^T delta what arrives at the states before it,

    "ratio"    Omega = (|u| / |delta| - 1)^2            equation 9
    "squared"  Omega = (|u|^2 / |delta|^2 - 1)^2        equation 10, and the code released with the paper

The derivative is the *immediate* one. u is made of delta, of forward values and of parameters that the reverse step
itself reads (W^T a, or p * a); delta and every forward value are held fixed, and only those parameters are
differentiated. So the gradient of Omega needs no second derivative of anything: it is lines behind the reverse loop,

    v = dOmega/du,  and for u = W^T a  the term outer(a, v), which joins the gradient's own:  outer(a, h + v)

What a step holds fixed is read off its lines: in p * (x * h) the reverse step reads p, in (p * x) * h it reads the
forward value p * x, and the immediate derivative with respect to p is none.

Source  Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063, section 3.3
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from refold.ir.graph import FIXED, Builder, Graph, Leaf, Node, Output, Slot
from refold.ir.ops import Term, constant, summed
from refold.ir.trace import Norms

from .adjoint import Further, add_to, backpropagate

# Below this sum of |delta| a step counts nothing: there is no ratio where no error arrives. The code released with the
# paper leaves out |delta|^2 < 1e-20. Gradients of a mean over a long batch are smaller than that for good reasons, and
# norms are taken here of what has been divided by the sum: what is left out is what single precision cannot hold.
LEAST = 1e-30


def measuring(norms: Norms, learned: Collection[Slot]) -> Further:
    """What a reverse step gives beside the adjoint: Omega for its weight, terms of the gradients of what is learned.

    The error is E + sum of weight(t) Omega(t). Its derivative with respect to a weight is Omega itself.
    """

    def further(builder: Builder, step: Graph, deltas: tuple[Output, ...]) -> Iterable[Output]:
        arrived = _arrived(builder, step, deltas)
        weight = Term(builder, builder.slot(Slot("input", norms.weight), ()))
        omega, pull = _omega(norms.form, [Term(builder, d.node) for d in deltas], arrived, weight)
        seeds: dict[int, Term] = {}
        for u in arrived:
            add_to(seeds, u.index, pull(u))
        graph = Graph(step.name, step.leaves, tuple(builder.nodes), step.outputs)
        found = backpropagate(builder, graph, seeds, _differentiated(graph, step, deltas))
        yield Output(Slot("input", norms.weight), omega.index)
        slots = ((slot, i) for slot, i in graph.slots().items() if slot in learned)
        for slot, i in slots:
            yield from (Output(Slot("total", slot.name), term.index) for term in found.get(i, ()))

    return further


def _arrived(builder: Builder, step: Graph, deltas: Sequence[Output]) -> list[Term]:
    """u = J^T delta, for each state before the step that is reached.

    These are the lines that the adjoint carries on, but where the error reaches a state past the states after the step:
    through an output that reads it. That is no part of J.
    """
    gradient: dict[int, Term] = {}
    for output, delta in zip(step.outputs_of("state"), deltas, strict=True):
        add_to(gradient, output.node, Term(builder, delta.node))
    found = backpropagate(builder, step, gradient, frozenset(range(len(step.nodes))))
    states = (step.slots().get(leaf.slot, -1) for leaf in step.leaves_of("state"))
    return [found[i][0] for i in states if i in found]


def _omega(
    form: str, deltas: Sequence[Term], arrived: Sequence[Term], weight: Term
) -> tuple[Term, Callable[[Term], Term]]:
    """Omega, and the derivative of weight * Omega with respect to a part of u."""
    builder = weight.builder
    size = _total(builder, (d.do("abs") for d in deltas))
    nothing = size.do("lt", LEAST)
    per = 1.0 / nothing.do("where", 1.0, size)
    # Of delta / size and u / size, so that no square leaves the range of the numbers.
    before = _total(builder, (_square(u * per) for u in arrived))
    after = _total(builder, (_square(d * per) for d in deltas))
    quotient = before / after
    if form == "squared":
        off = quotient - 1.0
        slope = 4.0 * off / after
    else:
        ratio = quotient.do("sqrt")
        off = ratio - 1.0
        slope = ratio.do("eq", 0.0).do("where", 0.0, 2.0 * (off / ratio)) / after
    omega = nothing.do("where", 0.0, _square(off))
    builder.name(omega.index, "Ω")
    factor = nothing.do("where", 0.0, per * (weight * slope))
    return omega, lambda u: (u * per) * factor


def _total(builder: Builder, parts: Iterable[Term]) -> Term:
    """The sum of all elements of some vectors and numbers."""
    total = constant(builder, 0.0)
    for part in parts:
        total = total + (summed(part) if part.shape else part)
    return total


def _square(a: Term) -> Term:
    return a * a


def _differentiated(graph: Graph, step: Graph, deltas: Iterable[Output]) -> frozenset[int]:
    """The lines between a parameter that the reverse step reads and u: all that is no forward value and not delta."""
    fixed = {d.node for d in deltas}
    reached = graph.after(fixed) - fixed
    varying = graph.varying()
    reverse = range(len(step.nodes), len(graph.nodes))
    return frozenset(
        [*(i for i in reverse if i in reached or i not in varying), *graph.reading(*FIXED)]
    )


def learned(once: Graph, leaves: Iterable[Leaf]) -> frozenset[Slot]:
    """What has a gradient that somebody wants: parameters that are learned, and what is made of them once."""
    slots = {leaf.slot for leaf in leaves if leaf.kind == "param" and leaf.learn}
    reached = once.after(i for slot, i in once.slots().items() if slot in slots)
    return frozenset(slots | {o.slot for o in once.outputs if o.node in reached})


# What the terms of a gradient have in common --------------------------------------------------------------------------


def gathered(graph: Graph) -> Graph:
    """Totals of one parameter as few lines: outer(a, h) and outer(a, v) are outer(a, h + v), vectors one sum.

    A matrix's gradient is a product over all steps, the largest part of a training step: Omega adds none.
    """
    builder = Builder(graph.nodes)
    totals: dict[tuple[Slot, int], int] = {}
    for output in graph.outputs_of("total"):
        node = graph.nodes[output.node]
        left = node.args[0] if node.op == "outer" else -1
        key = (output.slot, left)
        before = totals.get(key)
        totals[key] = output.node if before is None else _both(builder, before, node, output.node)
    others = tuple(o for o in graph.outputs if o.slot.kind != "total")
    outputs = (*others, *(Output(slot, line) for (slot, _), line in totals.items()))
    return builder.graph(graph.name, graph.leaves, outputs)


def _both(builder: Builder, before: int, node: Node, line: int) -> int:
    """The sum of two terms of a gradient."""
    if node.op != "outer":
        return (Term(builder, before) + Term(builder, line)).index
    right = Term(builder, builder.nodes[before].args[1]) + Term(builder, node.args[1])
    return Term(builder, node.args[0]).do("outer", right).index
