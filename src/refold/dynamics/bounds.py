"""How a step can change a change of the state at most, where the states are that the network can reach.

The reach is a box that the step leads into itself, found by running the whole box with all inputs of their range at
once. Within it every entry of the Jacobian has a bound, |J| <= M, so that the product of Jacobians along any run is at
most M^lag. Where the spectral radius of M, which has no negative entries, is below 1, every gradient vanishes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from refold.ir.graph import SLOT, Graph, Node, Slot

from . import intervals
from .folded import Folded, Level
from .intervals import Line, anything

ROUNDS = 100  # steps of the box at most, for each of
WIDER = (
    0.01,
    0.001,
)  # these shares of its width by which it is widened after each (Rump's inflation)
NARROWER = 20  # steps of a box that has been found, which make it no larger

Box = tuple[Tensor, Tensor]  # (N,) each


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """What holds of one layer.

    Shapes  low, high (N,): the states that it can reach; matrix (N, N): no less than |J| there"""

    low: Tensor
    high: Tensor
    matrix: Tensor

    @property
    def radius(self) -> float:
        """The spectral radius of the matrix; inf where an entry has no bound."""
        if not bool(self.matrix.isfinite().all()):
            return math.inf
        return float(torch.linalg.eigvals(self.matrix).abs().max())

    def left(self, lag: int) -> float:
        """What may be left of a gradient after so many steps."""
        return float(torch.linalg.matrix_norm(torch.matrix_power(self.matrix, lag), 2))


def bounds(system: Folded, start: Tensor | None, inputs: Box) -> tuple[Bound, ...]:
    """The bounds of each layer for states from the start (R, N) on, and inputs within (low (m,), high (m,)).

    Without a start they hold for any state, from one step after it on. Nothing where there are none: the loop is closed
    by a head, or the reach has no end.
    """
    if system.head is not None:
        return ()
    widths = system.levels[0].equation.inputs
    given = [Line(*ends) for ends in zip(*(end.split(widths) for end in inputs), strict=True)]
    found = []
    for level in system.levels:
        columns = torch.cat([torch.arange(p.start, p.start + p.size) for p in level.parts])
        if start is None:
            every = torch.full((len(columns),), math.inf, dtype=torch.float64)
            first = _stepped(level, (-every, every), given)
        else:
            first = start[:, columns].amin(0), start[:, columns].amax(0)
        reach = _reach(level, first, given)
        if reach is None:
            return ()
        lines = walk(level, reach, given)
        news = [_at(lines, level, o.node) for o in level.graph.outputs_of("state")]
        matrix = intervals.side_by_side(news).change
        size = len(reach[0])
        found.append(Bound(*reach, torch.zeros(size, size).double() if matrix is None else matrix))
        output = _at(lines, level, level.graph.outputs_of("output")[0].node)
        below = Line(output.low, output.high)
        given = [intervals.add(below, given[0]) if level.equation.residual else below, *given[1:]]
    return tuple(found)


def _reach(level: Level, start: Box, given: list[Line]) -> Box | None:
    """A box around the start that the step leads into itself."""
    box = start
    for share in WIDER:
        for _ in range(ROUNDS):
            after = _stepped(level, box, given)
            if not bool(torch.cat(after).isfinite().all()):
                return None
            if _within(after, box):
                return _narrowed(level, start, box, given)
            box = _widened(_hull(start, after), share)
    return None


def _narrowed(level: Level, start: Box, box: Box, given: list[Line]) -> Box:
    """Where the step leads the box: a box that the step leads into itself, too."""
    for _ in range(NARROWER):
        box = _hull(start, _stepped(level, box, given))
    return box


def _widened(box: Box, share: float) -> Box:
    wide = share * (box[1] - box[0]) + share
    return box[0] - wide, box[1] + wide


def _stepped(level: Level, box: Box, given: list[Line]) -> Box:
    lines = walk(level, box, given, changes=False)
    news = [_at(lines, level, o.node) for o in level.graph.outputs_of("state")]
    return torch.cat([n.low for n in news]), torch.cat([n.high for n in news])


def _hull(a: Box, b: Box) -> Box:
    return torch.minimum(a[0], b[0]), torch.maximum(a[1], b[1])


def _within(a: Box, b: Box) -> bool:
    return bool((a[0] >= b[0]).all()) and bool((a[1] <= b[1]).all())


def _at(lines: list[Line | None], level: Level, node: int) -> Line:
    line = lines[node]
    assert line is not None
    shape = level.graph.nodes[node].shape
    return line.sized(shape[0].at(level.equation.letters) if shape else 1)


# Along the lines of a graph -------------------------------------------------------------------------------------------


def walk(level: Level, box: Box, given: list[Line], changes: bool = True) -> list[Line | None]:
    """Each line of the equation, for states within the box; None for a matrix."""
    slots = _leaves(level, box, given, changes)
    lines: list[Line | None] = []
    for node in level.graph.nodes:
        if len(node.shape) > 1:
            lines.append(None)
            continue
        size = node.shape[0].at(level.equation.letters) if node.shape else 1
        if node.op == SLOT:
            assert isinstance(node.attr, Slot)
            lines.append(slots[node.attr].sized(size) if node.attr in slots else anything())
        else:
            lines.append(_line(level, node, lines).sized(size))
    return lines


def _leaves(level: Level, box: Box, given: list[Line], changes: bool) -> dict[Slot, Line]:
    found = {
        slot: Line(value.reshape(-1), value.reshape(-1)) for slot, value in level.fixed.items()
    }
    inputs = [leaf.slot for leaf in level.graph.leaves_of("input")]
    found |= dict(zip(inputs, given, strict=True))
    eye = torch.eye(len(box[0]), dtype=torch.float64)
    at = 0
    for part in level.parts:
        place = slice(at, at + part.size)
        line = Line(box[0][place], box[1][place], eye[place] if changes else None)
        found[Slot("state", part.name)] = line
        at += part.size
    return found


def _line(level: Level, node: Node, lines: list[Line | None]) -> Line:
    op, letters = node.op, level.equation.letters
    if op == "const":
        return _number(node.attr)
    if op == "size":
        return _number(node.attr.at(letters))  # type: ignore[union-attr]
    if op == "matvec":
        matrix, vector = _matrix(level, node.args[0]), lines[node.args[1]]
        assert vector is not None
        return anything(vector) if matrix is None else intervals.through(matrix, vector)
    args = [lines[a] for a in node.args]
    known = [a for a in args if a is not None]
    if len(known) < len(args):
        return anything(*known)
    if op == "add" and (mix := _mix(level.graph, node)) is not None:
        gate, u, v = (lines[i] for i in mix)
        assert gate is not None and u is not None and v is not None
        if bool((gate.low >= 0).all()) and bool((gate.high <= 1).all()):
            return intervals.mixed(gate, u, v)
    if op in ("slice", "pad"):
        start, number = (s.at(letters) for s in node.attr)  # type: ignore[union-attr]
        return (intervals.rows if op == "slice" else intervals.padded)(known[0], start, number)
    return _of_values(op, known)


def _of_values(op: str, args: list[Line]) -> Line:
    if op in intervals.RISING:
        return intervals.rising(op, args[0])
    if op == "concat":
        return intervals.side_by_side(args)
    if op == "where":
        return intervals.one_of(args[1], args[2])
    if op == "stop_gradient":
        return Line(args[0].low, args[0].high)
    if op == "expand":
        return args[0]
    rule = _RULES.get(op)
    return anything(*args) if rule is None else rule(*args)


_RULES = {
    "add": intervals.add,
    "sub": lambda a, b: intervals.add(a, intervals.negative(b)),
    "neg": intervals.negative,
    "mul": intervals.product,
    "div": intervals.quotient,
    "abs": intervals.magnitude,
    "sin": intervals.wave,
    "cos": intervals.wave,
    "minimum": intervals.smaller,
    "maximum": intervals.larger,
    "sum": intervals.total,
    "max": intervals.greatest,
    "norm": intervals.length,
}


def _number(value: object) -> Line:
    number = torch.tensor([value], dtype=torch.float64)
    return Line(number, number)


def _matrix(level: Level, node: int) -> Tensor | None:
    """A matrix whose numbers are known."""
    line = level.graph.nodes[node]
    if line.op == "transpose":
        inner = _matrix(level, line.args[0])
        return None if inner is None else inner.mT
    value = level.fixed.get(line.attr) if isinstance(line.attr, Slot) else None
    return value if value is not None and value.ndim == 2 else None


def _mix(graph: Graph, node: Node) -> tuple[int, int, int] | None:
    """(z, u, v) of a sum (1 - z) u + z v, or u + z (v - u)."""
    nodes = graph.nodes
    for first, second in (node.args, node.args[::-1]):
        factors = nodes[second].args if nodes[second].op == "mul" else ()
        for z, v in (factors, factors[::-1]) if factors else ():
            if nodes[v].op == "sub" and nodes[v].args[1] == first:
                return z, first, nodes[v].args[0]
            others = nodes[first].args if nodes[first].op == "mul" else ()
            for rest, u in (others, others[::-1]) if others else ():
                if _is_rest(graph, rest, z):
                    return z, u, v
    return None


def _is_rest(graph: Graph, line: int, of: int) -> bool:
    """Whether a line is 1 minus another."""
    node = graph.nodes[line]
    if node.op != "sub" or node.args[1] != of:
        return False
    one = graph.nodes[node.args[0]]
    return one.op == "const" and one.attr == 1.0
