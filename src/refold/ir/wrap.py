"""A cell made into another one that does more at each step: drops units, keeps old ones, leaves steps out, starts anew.

Each transformation takes a cell's graph and gives one with further inputs, which the layer feeds; states, their order
and their sizes stay. So whatever runs a cell runs these, and their gradients are derived as any other.

    dropped    a product of a weight with an old state reads  state * keep         (Gal & Ghahramani, arXiv:1512.05287)
    zoned      a new state is  where(zone, old, new)                               (Krueger et al., arXiv:1606.01305)
    blended    what `zoned` gives on average:  rate * old + (1 - rate) * new
    masked     a step that is left out: every state stays, the output is 0
    resettable the step reads  where(reset, start, state)
    measured   the reverse step also gives Omega, and its gradient (see `refold.plan.omega`)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from refold.errors import EquationError
from refold.shapes import Shape

from .check import check
from .graph import SLOT, Builder, Graph, Leaf, Node, Output, Slot
from .ops import Term, constant
from .trace import Cell, Norms


@dataclass(frozen=True, slots=True)
class Form:
    """What is done to a cell: which states are dropped, zoned or blended (with their rates), and what else.

    resets  "" for none, or where the start comes from: "declared" by the cell, "learned", "given" with each call
    omega   "" for none, or the form of Pascanu's regulariser: "ratio", "squared"
    """

    dropped: tuple[str, ...] = ()
    zoned: tuple[str, ...] = ()
    blended: tuple[tuple[str, float], ...] = ()
    masked: bool = False
    resets: str = ""
    omega: str = ""


AS_IT_IS = Form()


class Extra(NamedTuple):
    """What a further input holds: keep, zone, mask, reset, start or omega, and the state that it is about."""

    kind: str
    state: str = ""


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A cell with further inputs behind its own, and further parameters: their names and the states they start."""

    cell: Cell
    inputs: tuple[Extra, ...] = ()
    starts: tuple[tuple[str, str], ...] = ()

    def input(self, extra: Extra, shape: Shape) -> tuple[Wrapped, Leaf]:
        """One input more."""
        leaf = self._leaf("input", "_".join(filter(None, extra)), shape)
        return replace(self._with(leaf), inputs=(*self.inputs, extra)), leaf

    def start(self, state: Leaf) -> tuple[Wrapped, Leaf]:
        """A learned start more."""
        leaf = self._leaf("param", f"start_{state.name}", state.shape)
        return replace(self._with(leaf), starts=(*self.starts, (leaf.name, state.name))), leaf

    def _leaf(self, kind: str, name: str, shape: Shape) -> Leaf:
        graph = self.cell.graph
        taken = {leaf.name for leaf in graph.leaves} | {o.slot.name for o in graph.outputs}
        while name in taken:
            name += "_"
        return Leaf(kind, name, shape)

    def _with(self, leaf: Leaf) -> Wrapped:
        graph = self.cell.graph
        return self.having(replace(graph, leaves=(*graph.leaves, leaf)))

    def having(self, graph: Graph) -> Wrapped:
        """The same with another graph. It is no longer what the function says, so the function is left out."""
        cell = self.cell
        return replace(self, cell=Cell(cell.name, graph, cell.source, cell.about, cell.starts))


@lru_cache(maxsize=256)
def wrapped(cell: Cell, form: Form) -> Wrapped:
    """A cell with everything that a form asks for.

    A flagged step starts anew even where it is left out, and zoneout keeps what the step has started from.
    """
    made = Wrapped(cell)
    if form.dropped:
        made = dropped(made, form.dropped)
    if form.zoned:
        made = zoned(made, form.zoned)
    if form.blended:
        made = blended(made, dict(form.blended))
    if form.masked:
        made = masked(made)
    if form.resets:
        made = resettable(made, form.resets)
    if form.omega:
        made = measured(made, form.omega)
    if made.cell is not cell:
        check(made.cell.graph)
    return made


# The transformations --------------------------------------------------------------------------------------------------


def dropped(made: Wrapped, states: Sequence[str]) -> Wrapped:
    """Each product of a weight with one of these states reads the state times an input of its size."""
    reads = recurrent_reads(made.cell.graph)
    keeps: dict[int, Leaf] = {}
    for leaf in _states(made, states):
        made, keep = made.input(Extra("keep", leaf.name), leaf.shape)
        keeps[made.cell.graph.slots()[leaf.slot]] = keep
    graph, builder = made.cell.graph, Builder()
    moved: list[int] = []
    for i, node in enumerate(graph.nodes):
        args = [
            _kept(builder, moved[a], keeps[a]) if a in keeps and (i, a) in reads.edges else moved[a]
            for a in node.args
        ]
        moved.append(builder.add(node.reading(tuple(args))))
    outputs = [Output(o.slot, moved[o.node]) for o in graph.outputs]
    return made.having(builder.graph(graph.name, graph.leaves, outputs))


def _kept(builder: Builder, state: int, keep: Leaf) -> int:
    return (Term(builder, state) * _slot(builder, keep)).index


def zoned(made: Wrapped, states: Sequence[str]) -> Wrapped:
    """Where an input of the state's size is 1, a unit keeps its old value."""
    inputs: dict[str, Leaf] = {}
    for leaf in _states(made, states):
        made, inputs[leaf.name] = made.input(Extra("zone", leaf.name), leaf.shape)

    def after(name: str, old: Term, new: Term) -> Term:
        if name not in inputs:
            return new
        return _true(_slot(new.builder, inputs[name])).do("where", old, new)

    return _rebuilt(made, after=after)


def blended(made: Wrapped, rates: Mapping[str, float]) -> Wrapped:
    """Each unit moves by what it would on average, were it kept at this rate."""

    def after(name: str, old: Term, new: Term) -> Term:
        rate = rates.get(name, 0.0)
        return rate * old + (1.0 - rate) * new if rate else new

    return _rebuilt(made, after=after)


def masked(made: Wrapped) -> Wrapped:
    """An input of one number a step: where it is 0 the states stay, and the output is 0."""
    made, mask = made.input(Extra("mask"), ())

    def after(name: str, old: Term, new: Term) -> Term:
        return _true(_slot(new.builder, mask)).do("where", new, old)

    def output(value: Term) -> Term:
        return _true(_slot(value.builder, mask)).do("where", value, 0.0)

    return _rebuilt(made, after=after, output=output)


def resettable(made: Wrapped, start: str) -> Wrapped:
    """An input of one number a step: where it is 1 the step reads the start instead of the states."""
    made, flag = made.input(Extra("reset"), ())
    leaves: dict[str, Leaf] = {}
    for leaf in made.cell.graph.leaves_of("state"):
        if start == "learned":
            made, leaves[leaf.name] = made.start(leaf)
        elif start == "given":
            made, leaves[leaf.name] = made.input(Extra("start", leaf.name), leaf.shape)
    declared = dict(
        zip((s.name for s in made.cell.graph.leaves_of("state")), made.cell.starts, strict=True)
    )

    def before(name: str, state: Term) -> Term:
        builder, leaf = state.builder, leaves.get(name)
        first = _slot(builder, leaf) if leaf else constant(builder, declared[name])
        return _true(_slot(builder, flag)).do("where", first, state)

    return _rebuilt(made, before=before)


def measured(made: Wrapped, form: str) -> Wrapped:
    """An input of one number a step, the weight of Omega there. The step does not read it: nothing forward changes."""
    made, weight = made.input(Extra("omega"), ())
    return replace(made, cell=replace(made.cell, norms=Norms(weight.name, form)))


def _states(made: Wrapped, names: Sequence[str]) -> list[Leaf]:
    return [leaf for leaf in made.cell.graph.leaves_of("state") if leaf.name in names]


def _slot(builder: Builder, leaf: Leaf) -> Term:
    return Term(builder, builder.slot(leaf.slot, leaf.shape))


def _true(flag: Term) -> Term:
    return constant(flag.builder, 0.5).do("lt", flag)


def _as_it_is(name: str, state: Term) -> Term:
    return state


def _newest(name: str, old: Term, new: Term) -> Term:
    return new


def _rebuilt(
    made: Wrapped,
    before: Callable[[str, Term], Term] = _as_it_is,
    after: Callable[[str, Term, Term], Term] = _newest,
    output: Callable[[Term], Term] | None = None,
) -> Wrapped:
    """The graph with something between the states and the step (before), behind it (after), and at the output.

    An output that is a state is the state that the step ends with, unless `output` makes another value of it.
    """
    graph, builder = made.cell.graph, Builder()
    moved: list[int] = []
    for node in graph.nodes:
        index = builder.add(node.reading(tuple([moved[a] for a in node.args])))
        if node.op == SLOT and isinstance(node.attr, Slot) and node.attr.kind == "state":
            index = before(node.attr.name, Term(builder, index)).index
        moved.append(index)
    shapes = {leaf.name: leaf for leaf in graph.leaves_of("state")}
    outputs: dict[Slot, int] = {}
    for o in graph.outputs_of("state"):
        old = before(o.slot.name, _slot(builder, shapes[o.slot.name]))
        outputs[o.slot] = after(o.slot.name, old, Term(builder, moved[o.node])).index
    (given,) = graph.outputs_of("output")
    index = outputs.get(Slot("state", given.slot.name), moved[given.node])
    name = given.slot.name
    if output is not None:
        index = output(Term(builder, index)).index
        name = _not_among(shapes, "y")
    leaving = [
        *(Output(slot, i) for slot, i in outputs.items()),
        Output(Slot("output", name), index),
    ]
    return made.having(builder.graph(graph.name, graph.leaves, leaving))


def _not_among(taken: Mapping[str, object], name: str) -> str:
    while name in taken:
        name += "_"
    return name


# Where a cell multiplies its past -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reads:
    """The recurrent products of a cell.

    edges    (line, the state's line that it reads) on the way into such a product
    states   the states that are so read
    weights  the learned parameters that multiply them
    """

    edges: frozenset[tuple[int, int]]
    states: tuple[str, ...]
    weights: tuple[str, ...]


@lru_cache(maxsize=256)
def recurrent_reads(graph: Graph) -> Reads:
    """Where old states go into a product with a weight, and nowhere else: W @ h, and W @ (r * h).

    Matrices count; in a cell that multiplies no state by a matrix, vectors of weights do (u * h). What a gate keeps of
    a state, z * h, is no such product: a mask there would act again at every step.

    Errors  EquationError: there is no such product
    """
    found = _reads(graph, _by_matrix(graph)) or _reads(graph, _by_vector(graph))
    if found is None:
        raise EquationError(
            f"cell '{graph.name}' multiplies none of its states by a learned weight.",
            "There is nothing to drop in its recurrence: use zoneout, or variational dropout of the inputs.",
        )
    return found


# Given a line, for each of its arguments the weight that multiplies it; None where it is no product.
Weigh = Callable[[Node, int], int | None]


def _by_matrix(graph: Graph) -> Weigh:
    def weigh(node: Node, argument: int) -> int | None:
        return node.args[0] if node.op == "matvec" and node.args[1] == argument else None

    return weigh


def _by_vector(graph: Graph) -> Weigh:
    varying = graph.varying()

    def weigh(node: Node, argument: int) -> int | None:
        if node.op != "mul":
            return None
        other = node.args[1] if node.args[0] == argument else node.args[0]
        return other if other not in varying and graph.nodes[other].shape else None

    return weigh


def _reads(graph: Graph, weigh: Weigh) -> Reads | None:
    uses, leaving = graph.uses(), {o.node for o in graph.outputs}
    weights: dict[int, set[int]] = {}  # for a line that goes into products only: their weights

    def into(i: int) -> set[int]:
        """The weights that multiply all that is made of line i; nothing if some of it goes elsewhere."""
        found: set[int] = set()
        for user in uses[i]:
            weight = weigh(graph.nodes[user], i)
            behind = {weight} if weight is not None else weights.get(user, set())
            if not behind:
                return set()
            found |= behind
        return set() if i in leaving else found

    for i in reversed(range(len(graph.nodes))):
        weights[i] = into(i)
    edges, states, multiply = set(), [], set()
    for leaf in graph.leaves_of("state"):
        i = graph.slots().get(leaf.slot)
        for user in uses.get(i, []) if i is not None else []:
            weight = weigh(graph.nodes[user], i)  # type: ignore[arg-type]
            behind = {weight} if weight is not None else weights[user]
            if behind:
                edges.add((user, i))
                multiply |= behind
                states += [leaf.name] * (leaf.name not in states)
    read, slots = graph.before(multiply), graph.slots()
    learned = [p.name for p in graph.leaves_of("param") if p.learn and p.shape]
    names = [name for name in learned if slots.get(Slot("param", name)) in read]
    return Reads(frozenset(edges), tuple(states), tuple(names)) if edges and names else None
