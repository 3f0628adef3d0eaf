"""The derivative of a step by its states: forward through the graph, exact, for many states at once.

The adjoint's rule of each op, given a gradient of 1, is the slope of a line by its operand. Slopes are carried forward
from the states. Between pointwise lines they stay diagonals, (R, n); a weight makes a matrix of one by scaling its
columns, W diag(d), and no product is worked out; after that they are matrices, (R, n, k), whose rows are scaled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from refold.errors import RefoldError
from refold.ir.graph import SLOT, Builder, Graph, Node, Output, Slot
from refold.ir.ops import OPS, Term, constant
from refold.ir.rewrite import fold
from refold.kernels.loop import Lines
from refold.shapes import Size

STRUCTURE = ("matvec", "slice", "concat", "pad", "expand")
REDUCTIONS = ("sum", "max", "norm")

# By name of a state: the slope (R, n) on the diagonal, or (R, n, k). A leading 1 stands for any number of rows.
Slopes = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class _Line:
    """One line that a seed reaches: `slots` name its slopes by each operand; None: a slope of 0."""

    index: int
    node: Node
    slots: tuple[Slot | None, ...]


class Derivative:
    """A step made ready to give its new values and their slopes.

    seeded  the kinds of slots that slopes come in by: "state", and "input" where a layer reads another's output

    Errors  RefoldError for a step that makes matrices of its states: `torch.func` has to be asked instead
    """

    def __init__(self, step: Graph, sizes: Mapping[str, int], seeded: Iterable[str] = ("state",)):
        reached = step.after(step.reading(*seeded))
        lines = [i for i in sorted(reached) if step.nodes[i].op != SLOT]
        if any(len(step.nodes[i].shape) == 2 for i in lines):
            fact = f"cell '{step.name}' makes a matrix of its states"
            raise RefoldError(fact, "take its derivative by torch.func", "dynamics")
        self._results = [o for o in step.outputs if o.slot.kind in ("state", "output")]
        self._step, self._sizes = step, sizes
        self.jumps = any(_jumps(step.nodes[i]) for i in lines)
        builder = Builder(step.nodes)
        local = [(i, _local(builder, i)) for i in lines]
        self._lines = [_Line(i, step.nodes[i], tuple(_slots(i, found))) for i, found in local]
        slopes = [
            Output(Slot("slope", f"{i}.{k}"), term.index)
            for i, found in local
            for k, term in enumerate(found)
            if term is not None
        ]
        self._graph = fold(builder.graph(step.name, step.leaves, (*self._results, *slopes)))
        self._run = Lines(self._graph, sizes)
        self._at = {o.slot: o.node for o in self._graph.outputs}
        self._needed = sorted(self._graph.before(self._at[o.slot] for o in self._results))

    def __call__(
        self, given: Mapping[Slot, Tensor], seeds: Mapping[Slot, Slopes], like: Tensor
    ) -> tuple[dict[Slot, Tensor], dict[Slot, Slopes]]:
        """The values and slopes of the new states and the output.

        Shapes  given: (R, size) for each state and input, a parameter's own; values (R, size)
        """
        values = self._values(given, like, range(len(self._graph.nodes)))
        found: dict[int, Slopes] = {
            i: dict(seeds[slot]) for slot, i in self._step.slots().items() if slot in seeds
        }
        for line in self._lines:
            slopes = self._slopes_of(line, found, values)
            if slopes:
                found[line.index] = slopes
        results = {o.slot: values[self._at[o.slot]] for o in self._results}
        return results, {o.slot: found.get(o.node, {}) for o in self._results}

    def values(self, given: Mapping[Slot, Tensor], like: Tensor) -> dict[Slot, Tensor]:
        """The new states and the output alone."""
        values = self._values(given, like, self._needed)
        return {o.slot: values[self._at[o.slot]] for o in self._results}

    def _values(
        self, given: Mapping[Slot, Tensor], like: Tensor, lines: Iterable[int]
    ) -> dict[int, Tensor]:
        values = self._run.numbers(like)
        values |= {i: given[slot] for slot, i in self._run.slots.items() if slot in given}
        return self._run.work_out(lines, values)

    def _slopes_of(
        self, line: _Line, found: Mapping[int, Slopes], values: Mapping[int, Tensor]
    ) -> Slopes:
        """By each state, what comes through all operands."""
        node = line.node
        if node.op == "concat":
            return self._joined(node, found)
        total: Slopes = {}
        for argument, slot in zip(node.args, line.slots, strict=True):
            if argument not in found or slot is None:
                continue
            slope = values[self._at[slot]]
            for name, inner in found[argument].items():
                term = self._through(node, slope, inner)
                total[name] = plus(total[name], term) if name in total else term
        return total

    def _through(self, node: Node, slope: Tensor, inner: Tensor) -> Tensor:
        if node.op == "matvec":  # the slope is the matrix
            return slope * inner.unsqueeze(-2) if inner.ndim == 2 else slope @ inner
        if node.op in REDUCTIONS:
            row = slope.unsqueeze(-2)
            return row * inner.unsqueeze(-2) if inner.ndim == 2 else row @ inner
        if node.op in STRUCTURE:
            return self._moved(node, _full(inner))
        if inner.ndim == 2:
            return slope * inner
        term, rows = slope.unsqueeze(-1) * inner, self._width(node)
        return term if term.shape[-2] == rows else term.expand(-1, rows, -1)

    def _moved(self, node: Node, inner: Tensor) -> Tensor:
        """Rows of a matrix taken, padded or repeated."""
        rows = self._width(node)
        if node.op == "expand":
            return inner.expand(-1, rows, -1)
        start = node.attr[0].at(self._sizes)  # type: ignore[index]
        if node.op == "slice":
            return inner.narrow(-2, start, rows)
        behind = rows - start - inner.shape[-2]
        return torch.nn.functional.pad(inner, (0, 0, start, behind))

    def _joined(self, node: Node, found: Mapping[int, Slopes]) -> Slopes:
        names = {name: inner for a in node.args for name, inner in found.get(a, {}).items()}
        joined: Slopes = {}
        for name, some in names.items():
            parts = [found.get(a, {}).get(name) for a in node.args]
            full = [None if p is None else _full(p) for p in parts]
            rows = max(p.shape[0] for p in full if p is not None)
            widths = [self._width(self._step.nodes[a]) for a in node.args]
            filled = [
                some.new_zeros(rows, width, some.shape[-1]) if p is None else p.expand(rows, -1, -1)
                for p, width in zip(full, widths, strict=True)
            ]
            joined[name] = torch.cat(filled, -2)
        return joined

    def _width(self, node: Node) -> int:
        return node.shape[0].at(self._sizes) if node.shape else 1


def _slots(i: int, local: Sequence[Term | None]) -> Iterable[Slot | None]:
    return (None if t is None else Slot("slope", f"{i}.{k}") for k, t in enumerate(local))


def _jumps(node: Node) -> bool:
    """Whether a line is flat but for jumps, or passes no slope on by its own word."""
    op = OPS[node.op]
    flat = op.boolean or node.op == "stop_gradient"
    return flat or (op.derivative is None and node.op not in STRUCTURE)


def _local(builder: Builder, i: int) -> list[Term | None]:
    """The slope of a line by each operand; None for 0, as of what jumps: sign, floor, comparisons."""
    node, one = builder.nodes[i], constant(builder, 1.0)
    operands = [Term(builder, a) for a in node.args]
    if node.op == "matvec":
        return [None, operands[0]]
    if node.op in STRUCTURE:
        return [one] * len(operands)
    rule = OPS[node.op].derivative
    return [None] * len(operands) if rule is None else list(rule(one, Term(builder, i), *operands))


# Slopes ---------------------------------------------------------------------------------------------------------------


def _full(slope: Tensor) -> Tensor:
    return torch.diag_embed(slope) if slope.ndim == 2 else slope


def plus(a: Tensor, b: Tensor) -> Tensor:
    """The sum of two slopes."""
    if a.ndim == b.ndim:
        return a + b
    full, diagonal = (a, b) if a.ndim == 3 else (b, a)
    rows = max(len(full), len(diagonal))
    total = full.expand(rows, -1, -1).clone()
    total.diagonal(dim1=-2, dim2=-1).add_(diagonal)
    return total


def width_of(shape: tuple[Size, ...], sizes: Mapping[str, int]) -> int:
    """The numbers in a row's value; a scalar takes one."""
    return shape[0].at(sizes) if shape else 1
