"""Where a cell keeps its past: the gates that multiply an old state on its way to the new one.

They are found in the equation, whatever its letters are. In c' = sigmoid(f) * c + sigmoid(i) * g the addend with the
old c has the gate that keeps, the other one the gate that writes; in (1 - sigmoid(z)) * h the gate keeps where it is
small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from refold.errors import EquationError
from refold.shapes import Size

from .graph import SLOT, Graph, Slot


@dataclass(frozen=True, slots=True)
class Bias:
    """Some rows of a parameter that is added before a sigmoid; where sign is -1, the gate falls with it."""

    name: str
    start: Size
    rows: Size
    sign: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A gate on an old state, by the biases that are added in it, and those of the gates on what comes to the state."""

    state: str
    keep: tuple[Bias, ...]
    write: tuple[tuple[Bias, ...], ...]


@dataclass(frozen=True, slots=True)
class _Rows:
    """Some rows of a line, as a factor (sign 1) or as what is taken from one (sign -1)."""

    line: int
    start: Size
    rows: Size
    sign: int


@lru_cache(maxsize=256)
def keeping(graph: Graph) -> tuple[Kept, ...]:
    """The gates that keep a cell's states and have a bias.

    A gate that writes and shares a bias with the one that keeps, as in z * h + (1 - z) * new, is set with it and left
    out.

    Errors  EquationError: there is none
    """
    found = [k for o in graph.outputs_of("state") for k in _between(graph, o.slot, o.node)]
    if not found:
        raise EquationError(
            f"no sigmoid multiplies an old state of cell '{graph.name}' on its way to the new one.",
            "A time constant needs such a gate: lstm, gru and janet have one.",
        )
    biased = {kept.keep: kept for kept in found if kept.keep}
    if not biased:
        raise EquationError(
            f"the gate that keeps {found[0].state} in cell '{graph.name}' has no bias that is learned.",
            'Add one to the equation: rf.Bias("n"), or an rf.Affine("n").',
        )
    return tuple(biased.values())


def _between(graph: Graph, state: Slot, new: int) -> list[Kept]:
    """The gates between the old value of a state and its new one."""
    addends = [list(_factors(graph, i)) for i in _addends(graph, new)]
    old = graph.slots().get(state)
    past = [f for f in addends if old is not None and any(_is(graph, i, old) for i in f)]
    writing = [bs for f in addends if f not in past for bs in _gates(graph, f)]
    found = []
    for keep in (biases for factors in past for biases in _gates(graph, factors)):
        own = {(bias.name, bias.start) for bias in keep}
        apart = [w for w in writing if own.isdisjoint((bias.name, bias.start) for bias in w)]
        found.append(Kept(state.name, keep, tuple(w for w in apart if w)))
    return found


def _addends(graph: Graph, i: int) -> Iterator[int]:
    """What is summed to a line, through a squashing function around the sum and a division of it."""
    node = graph.nodes[i]
    if node.op in ("add", "sub"):
        for argument in node.args:
            yield from _addends(graph, argument)
    elif node.op in ("tanh", "neg", "div"):
        yield from _addends(graph, node.args[0])
    else:
        yield i


def _factors(graph: Graph, i: int) -> Iterator[int]:
    node = graph.nodes[i]
    if node.op != "mul":
        yield i
        return
    for argument in node.args:
        yield from _factors(graph, argument)


def _is(graph: Graph, i: int, old: int) -> bool:
    """Whether a line is the old state, or its tanh, which is nearly that around 0."""
    node = graph.nodes[i]
    return i == old or (node.op == "tanh" and node.args == (old,))


def _gates(graph: Graph, factors: Sequence[int]) -> list[tuple[Bias, ...]]:
    """The biases of each factor that is a gate; a vector before a scalar, which is one number for all units."""
    gates = [gate for i in factors if (gate := _gate(graph, _whole(graph, i))) is not None]
    found = [list(_biases(graph, gate)) for gate in gates]
    scalars = {leaf.name for leaf in graph.leaves_of("param") if not leaf.shape}
    return [tuple(sorted(biases, key=lambda bias: bias.name in scalars)) for biases in found]


def _whole(graph: Graph, i: int) -> _Rows:
    shape = graph.nodes[i].shape
    return _Rows(i, Size(), shape[0] if shape else Size.of(1), 1)


def _gate(graph: Graph, at: _Rows) -> _Rows | None:
    """What is in the sigmoid, where a line is a sigmoid, some rows of one, or 1 minus it."""
    node = graph.nodes[at.line]
    if node.op == "sigmoid":
        return _Rows(node.args[0], at.start, at.rows, at.sign)
    if node.op == "slice":
        return _gate(graph, _cut(graph, at))
    one = node.op == "sub" and graph.nodes[node.args[0]]
    if one and one.op == "const" and one.attr == 1.0:
        return _gate(graph, _Rows(node.args[1], at.start, at.rows, -at.sign))
    return None


def _biases(graph: Graph, at: _Rows) -> Iterator[Bias]:
    """The learned vectors and scalars among the summands of a line."""
    node = graph.nodes[at.line]
    if node.op in ("add", "sub"):
        signs = (at.sign, at.sign if node.op == "add" else -at.sign)
        for argument, sign in zip(node.args, signs, strict=True):
            yield from _biases(graph, _Rows(argument, at.start, at.rows, sign))
    elif node.op == "slice":
        yield from _biases(graph, _cut(graph, at))
    elif node.op == SLOT and len(node.shape) < 2 and node.attr in _learned(graph):
        assert isinstance(node.attr, Slot)
        yield Bias(node.attr.name, at.start, at.rows, at.sign)


def _cut(graph: Graph, at: _Rows) -> _Rows:
    """The same rows, counted in the line that a slice is cut from."""
    node = graph.nodes[at.line]
    start, _ = node.attr  # type: ignore[misc]
    return _Rows(node.args[0], at.start + start, at.rows, at.sign)


@lru_cache(maxsize=256)
def _learned(graph: Graph) -> frozenset[Slot]:
    return frozenset(leaf.slot for leaf in graph.leaves_of("param") if leaf.learn)
