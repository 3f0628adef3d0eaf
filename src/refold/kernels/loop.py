"""One half of a plan over all steps of a batch: ahead of the loop, the loop, behind it.

The forward step and the reverse step run through the same code: the one carries states, the other their adjoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from refold.ir.graph import SLOT, Graph, Slot
from refold.plan.plan import Half
from refold.plan.stages import Stage
from refold.shapes import Size

from .rows import Rows
from .spellings import spelled

Values = dict[int, Tensor]
Change = Callable[[int, list[Tensor]], list[Tensor]]


class Lines:
    """A graph with numbers for its letters, ready to be worked out line by line."""

    def __init__(self, graph: Graph, sizes: Mapping[str, int]):
        self.graph = graph
        self.sizes = dict(sizes)
        self.varying = graph.varying()
        self.slots = graph.slots()
        self._functions = [
            None if n.op in (SLOT, "const", "size") else spelled(n, sizes) for n in graph.nodes
        ]
        self._args = [n.args for n in graph.nodes]

    def numbers(self, like: Tensor) -> Values:
        """The constants, in the dtype and on the device of `like`."""
        values: Values = {}
        for i, node in enumerate(self.graph.nodes):
            if node.op in ("const", "size"):
                number = node.attr.at(self.sizes) if isinstance(node.attr, Size) else node.attr
                values[i] = like.new_full((1,), number)  # type: ignore[arg-type]
        return values

    def work_out(self, lines: Iterable[int], values: Values) -> Values:
        """Add the values of `lines`, in order, to `values`, where all that they read stands."""
        return follow(self.program(lines), values)

    def program(self, lines: Iterable[int], packs: Iterable[Pack] = ()) -> Program:
        """What to call for each line; the products of a pack are one call, at the first of them."""
        first = {pack.lines[0]: pack for pack in packs}
        packed = {i for pack in packs for i in pack.lines}
        program: Program = []
        for i in lines:
            if i in first:
                program.append((first[i].lines, first[i].products, (first[i].vector,)))
            elif i not in packed and (function := self._functions[i]) is not None:
                program.append((i, function, self._args[i]))
        return program

    def packs(self, stages: Iterable[Stage], values: Values) -> list[Pack]:
        """The products of each stage that read the same vector, as one product each."""
        args = self._args
        return [
            Pack(vector, group, [values[args[i][0]] for i in group])
            for stage in stages
            for vector, group in stage.products
            if len(group) > 1
        ]

    def width(self, line: int) -> int:
        """Features of a row's value; a scalar takes one."""
        shape = self.graph.nodes[line].shape
        return shape[0].at(self.sizes) if shape else 1


class Pack:
    """Products with one vector: their matrices are joined once, and each step multiplies once."""

    def __init__(self, vector: int, lines: tuple[int, ...], matrices: list[Tensor]):
        self.vector, self.lines = vector, lines
        self._rows = [matrix.shape[0] for matrix in matrices]
        self._joined = torch.cat(matrices).T

    def products(self, vector: Tensor) -> tuple[Tensor, ...]:
        return (vector @ self._joined).split(self._rows, -1)


# (the line or lines that a call gives, the call, the lines that it reads)
Program = list[tuple[int | tuple[int, ...], Callable[..., Any], tuple[int, ...]]]


def follow(program: Program, values: Values) -> Values:
    """Make the calls of a program, in order."""
    for target, function, args in program:
        result = function(*[values[a] for a in args])
        if isinstance(target, tuple):
            values.update(zip(target, result, strict=True))
        else:
            values[target] = result
    return values


class Loop:
    """A half of a plan, run once.

    sources  what the slots hold: packed for all steps, or a parameter's own shape
    states   the slots that are carried; nexts: the lines that take their place
    wanted   the lines that the caller will ask for, packed for all steps
    """

    def __init__(
        self,
        lines: Lines,
        half: Half,
        rows: Rows,
        sources: Mapping[Slot, Tensor],
        states: list[Slot],
        nexts: list[int],
        wanted: Iterable[int],
        like: Tensor,
    ):
        self.lines, self.half, self.rows, self.like = lines, half, rows, like
        self.nexts = nexts
        self._places = [lines.slots.get(slot) for slot in states]
        values = lines.numbers(like)
        values |= {i: sources[slot] for slot, i in lines.slots.items() if slot in sources}
        self.values = lines.work_out(half.split.ahead, values)
        # Behind the loop a new state is read as it was carried on; a line that is two states, as the first of them.
        self._new = {
            i: k for k, i in reversed(list(enumerate(nexts))) if lines.graph.nodes[i].op != SLOT
        }
        self._plan_records(set(wanted))
        self._news: list[list[Tensor]] = [[] for _ in range(rows.steps)]

    def _plan_records(self, wanted: set[int]) -> None:
        """Which of the loop's values are needed after it."""
        graph = self.lines.graph
        self.behind = sorted(set(self.half.split.behind) & graph.before(wanted))
        inside = {*self.half.split.loop, *self._new, *(i for i in self._places if i is not None)}
        asked = wanted | {a for i in self.behind for a in graph.nodes[i].args}
        self._records: dict[int, list[Tensor]] = {
            i: [self.like] * self.rows.steps for i in sorted(inside & asked)
        }

    def run(
        self,
        carried: list[Tensor],
        backwards: bool,
        before: Change | None = None,
        after: Change | None = None,
    ) -> list[Tensor]:
        """Carry the states over all steps, changing them where asked: before the step reads them, after it."""
        fixed = {i: v for i, v in self.values.items() if i not in self.lines.varying}
        parts = {i: self.rows.steps_of(self.values[i]) for i in self._read_by_steps()}
        places = [(k, i) for k, i in enumerate(self._places) if i is not None]
        packs = self.lines.packs(self.half.stages, self.values)
        program = self.lines.program(self.half.split.loop, packs)
        for t in self.rows.times(backwards):
            count = self.rows.counts[t]
            active = carried if count == self.rows.batch else [s[:count] for s in carried]
            if before is not None:
                active = before(t, active)
            values = fixed | {i: part[t] for i, part in parts.items()}
            values |= {i: active[k] for k, i in places}
            follow(program, values)
            new = [self._each_row(values[i], i, count) for i in self.nexts]
            if after is not None:
                new = after(t, new)
            values |= {i: new[k] for i, k in self._new.items()}
            self._news[t] = new
            for i, record in self._records.items():
                record[t] = values[i]
            if count < self.rows.batch:
                new = [torch.cat([n, s[count:]]) for n, s in zip(new, carried, strict=True)]
            carried = new
        return carried

    def finish(self) -> Values:
        """Work out what is behind the loop; every wanted line is among the values now."""
        for i, record in self._records.items():
            self.values[i] = self._joined(record, self.lines.width(i))
        return self.lines.work_out(self.behind, self.values)

    def history(self, k: int) -> Tensor:
        """State k after each step, packed."""
        return self._joined([new[k] for new in self._news], self.lines.width(self.nexts[k]))

    def each_row(self, line: int) -> Tensor:
        """A finished line, packed; what is made of parameters alone is repeated for every row."""
        return self._each_row(self.values[line], line, sum(self.rows.counts))

    def _each_row(self, value: Tensor, line: int, count: int) -> Tensor:
        return value if line in self.lines.varying else value.expand(count, value.shape[-1])

    def _read_by_steps(self) -> list[int]:
        """What is known ahead for all steps, and read step by step."""
        graph = self.lines.graph
        read = {a for i in self.half.split.loop for a in graph.nodes[i].args} | set(self.nexts)
        return sorted(i for i in read if i in self.values and i in self.lines.varying)

    def _joined(self, parts: list[Tensor], width: int) -> Tensor:
        return torch.cat(parts) if parts else self.like.new_zeros(0, width)
