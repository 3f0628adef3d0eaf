"""Whole sequences: the forward loop, the reverse loop, and what stands behind it. All is packed and sorted here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import isqrt
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from refold.kernels.llvm.lowering.program import Access, Carry, Column, Total

from . import gradient
from .code import Code, Packed, Used
from .tables import Table, uniform

if TYPE_CHECKING:
    from .kernel import Compiled

# The buffers of a call by role, in the order of `Whole.places`: for each input, for each state, and (behind those of
# the output, written and given) the rest.
OF_INPUTS = "input", "grad"
OF_STATES = "first", "state", "direct", "delta", "final", "rest"
OF_NONE = "kept", "scratch", "ahead", "more", "sums"

Some = Sequence[Tensor | None]


class Whole(NamedTuple):
    """A batch as the loops take it.

    Shapes  inputs (rows of all steps, size), starts (batch, size); values: see `Compiled.values`;
            packs: the weights packed so far;
            shaped: where all rows run at all steps, what is given out is (steps, batch, size)
    """

    kernel: Compiled
    table: Table
    dtype: torch.dtype
    inputs: Sequence[Tensor]
    starts: Sequence[Tensor]
    values: Sequence[Tensor]
    packs: dict[Code, Packed]
    shaped: bool = False

    def stretches(self) -> list[tuple[int, int]]:
        """The stretches of steps between which the states are stored, in the order in which forward runs them."""
        steps = self.table.steps
        if self.kernel.memory != "small":
            return [(0, steps)]
        length = isqrt(max(steps, 1) - 1) + 1
        found = list(pairwise([*range(0, steps, length), steps])) or [(0, 0)]
        return found[::-1] if self.table.backwards else found

    def part(self, begin: int, end: int, starts: Sequence[Tensor]) -> tuple[Whole, Cut]:
        """Some of the steps; and what cuts the same rows out of a tensor."""
        if begin == 0 and end == self.table.steps:
            return (self if starts is self.starts else self._replace(starts=starts)), _all
        first, last = int(self.table.offsets[begin]), int(self.table.offsets[end])

        def cut(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else rows_of(tensor)[first:last]

        inputs = [rows_of(x)[first:last] for x in self.inputs]
        return self._replace(table=self.table.part(begin, end), inputs=inputs, starts=starts), cut

    def empty(self, rows: int, width: int) -> Tensor:
        return torch.empty(rows, width, dtype=self.dtype)

    def packed(self, code: Code) -> Packed:
        """The weights of a program."""
        if code not in self.packs:
            self.packs[code] = code.packed(self.values)
        return self.packs[code]

    def record(self, width: int) -> Tensor:
        """Memory for a row of all steps, in the shape in which it is given out."""
        if self.shaped and self.table.uniform:
            return torch.empty(self.table.steps, self.table.batch, width, dtype=self.dtype)
        return self.empty(self.table.rows, width)

    def zeros(self, rows: int, width: int) -> Tensor:
        return torch.zeros(rows, width, dtype=self.dtype)

    def places(self, code: Code, own: Own) -> list[Tensor | None]:
        """All that programs read and write, with room between their passes: see `Compiled.places`."""
        width = code.width("scratch")
        scratch = self.zeros(self.table.batch, width) if width else None
        no_inputs, no_states = (None,) * len(self.inputs), (None,) * len(self.starts)
        return [
            *self.inputs,
            *(own.grad or no_inputs),
            *self.starts,
            *(own.state or no_states),
            *(own.direct or no_states),
            *(own.delta or no_states),
            *(own.final or no_states),
            *(own.rest or no_states),
            own.output,
            own.given,
            own.kept,
            scratch,
            own.ahead,
            own.more,
            own.sums,
            *self.values,
        ]


class Own(NamedTuple):
    """The buffers of one program, besides what all read; one for each state, or for each input (grad)."""

    state: Some = ()
    output: Tensor | None = None
    kept: Tensor | None = None
    ahead: Tensor | None = None
    grad: Some = ()
    direct: Some = ()
    delta: Some = ()
    final: Some = ()
    rest: Some = ()
    given: Tensor | None = None
    more: Tensor | None = None
    sums: Tensor | None = None


Cut = Callable[[Tensor | None], Tensor | None]


def _all(tensor: Tensor | None) -> Tensor | None:
    return tensor


def rows_of(tensor: Tensor) -> Tensor:
    """(rows, size), whether or not steps and batch lie apart."""
    return tensor if tensor.dim() == 2 else tensor.view(-1, tensor.shape[-1])


# Forward --------------------------------------------------------------------------------------------------------------


class Forward(NamedTuple):
    """What the forward loop gives: states after every step where they were asked for, and after each row's last.

    starts  for each stretch of steps, the states before it
    """

    output: Tensor
    histories: list[Tensor | None]
    final: list[Tensor]
    starts: list[Sequence[Tensor]]


def forward(whole: Whole, kept: Tensor | None, asked: Sequence[bool]) -> Forward:
    """All steps of all rows.

    kept   memory for what the reverse loop reads, if it is to be stored
    asked  for which states the values after every step are wanted, besides the one that is the output
    """
    kernel = whole.kernel
    histories = [
        whole.record(width) if ask or k == kernel.same else None
        for k, (ask, width) in enumerate(zip(asked, kernel.state_widths, strict=True))
    ]
    output = whole.record(kernel.output_width) if kernel.same is None else None
    starts: list[Sequence[Tensor]] = []
    carried = whole.starts
    for begin, end in whole.stretches():
        starts.append(carried)
        part, cut = whole.part(begin, end, carried)
        carried = run_forward(part, [cut(h) for h in histories], cut(output), cut(kept))
    result = output if kernel.same is None else histories[kernel.same]
    assert result is not None
    return Forward(result, histories, list(carried), starts)


def run_forward(
    whole: Whole,
    histories: Sequence[Tensor | None],
    output: Tensor | None,
    kept: Tensor | None,
) -> list[Tensor]:
    """Run the steps into the memory given; the states after each row's last.

    Without memory for its history, two steps of a state take turns; without any for what is to be kept, nothing is.
    """
    kernel, table = whole.kernel, whole.table
    code = kernel.forward_code(whole.dtype, kept is not None, table)
    ahead = _ahead(whole, code.ahead) if code.ahead is not None else None
    states = list(histories)
    turned = ()
    missing = [k for k, h in enumerate(histories) if h is None]
    if missing:
        turned = tuple([kernel.states[k] for k in missing])
        for k in missing:
            states[k] = whole.empty(2 * table.batch, kernel.state_widths[k])
    places = whole.places(code, Own(states, output, kept, ahead))
    code.over(table, False, places, whole.packed(code), turned)
    final = []
    for name, state, start in zip(kernel.states, states, whole.starts, strict=True):
        assert state is not None
        turns = name in turned
        final.append(_each_row(table.last(state, turns), start, copied=not turns))
    return final


def _ahead(whole: Whole, code: Code) -> Tensor:
    """What does not wait for any state, for all steps: to this program they are one step with many rows."""
    rows = whole.table.rows
    found = whole.empty(rows, code.width("ahead"))
    places = whole.places(code, Own(ahead=found))
    code.over(uniform(1, rows, False), False, places, whole.packed(code))
    return found


def _each_row(active: Tensor, otherwise: Tensor, copied: bool) -> Tensor:
    """The rows that have run, then those that have not. `copied`: nobody else holds the result."""
    count = active.shape[0]
    if count < otherwise.shape[0]:
        return torch.cat([active, otherwise[count:]])
    return active.clone() if copied else active


# Backward -------------------------------------------------------------------------------------------------------------


class Before(NamedTuple):
    """What forward has left: the states after every step, and before each stretch of steps, and what it kept.

    kept  as forward left it; None: it and the states are to be worked out again
    """

    histories: Sequence[Tensor | None]
    starts: Sequence[Sequence[Tensor]]
    kept: Tensor | None


class Given(NamedTuple):
    """What the error says; None: nothing.

    Shapes  output (rows, size), of an output that is no state; direct, one for each state, (rows, size);
            final, the same, (batch, size)
    """

    output: Tensor | None
    direct: Sequence[Tensor | None]
    final: Sequence[Tensor | None]


class Wanted(NamedTuple):
    """Which gradients are asked for: inputs by place, parameters (and what is made of them once) by name."""

    inputs: tuple[bool, ...]
    totals: frozenset[str]
    starts: bool
    deltas: bool


class Gradients(NamedTuple):
    """Packed and sorted; None: not asked for."""

    inputs: list[Tensor | None]
    starts: Sequence[Tensor]
    totals: dict[str, Tensor]
    deltas: list[Tensor | None]


def backward(whole: Whole, done: Before, given: Given, wanted: Wanted) -> Gradients:
    """The reverse loop and the sums behind it. Works in `done.kept`: it holds nothing of use afterwards."""
    kernel, table = whole.kernel, whole.table
    direct = tuple(d is not None for d in given.direct)
    code = kernel.backward_code(whole.dtype, wanted.inputs, direct, wanted.deltas)
    again = None if done.kept is not None else Again.of(whole)
    found = _room(whole, code, wanted)
    arrived = [_none(code, table, whole, k) if f is None else f for k, f in enumerate(given.final)]
    output, width = given.output, code.width("given", kernel.output)
    if output is None and width:
        output = whole.zeros(table.rows, width)
    stretches = list(zip(whole.stretches(), done.starts, strict=True))
    for turn, ((begin, end), starts) in enumerate(reversed(stretches)):
        part, cut = whole.part(begin, end, starts)
        kept, histories = cut(done.kept), list(map(cut, done.histories))
        if again is not None:
            kept, histories = again.run(part)
        own = Own(
            histories,
            kept=kept,
            grad=list(map(cut, found.inputs)),
            direct=list(map(cut, given.direct)),
            delta=list(map(cut, found.deltas)),
            final=arrived,
            given=cut(output),
            **_between(part, code),
        )
        used = code.over(part.table, True, part.places(code, own), part.packed(code))
        _sum_up(part, code, used, found.totals, add=turn > 0)
        if wanted.starts or turn + 1 < len(stretches):
            arrived = _before(part, code, used.tensors, arrived)
    return found._replace(starts=arrived)


def _none(code: Code, table: Table, whole: Whole, k: int) -> Tensor:
    """Zeros in place of what arrives at a state after the last step; they are only read."""
    memo = code.about(table)
    if ("none", k) not in memo:
        memo["none", k] = whole.zeros(table.batch, whole.kernel.state_widths[k])
    return memo["none", k]


def _room(whole: Whole, code: Code, wanted: Wanted) -> Gradients:
    """Memory for what is asked for; zeros for what the program says nothing about."""
    rows, kernel = whole.table.rows, whole.kernel

    def room(role: str, name: str, width: int) -> Tensor:
        return whole.record(width) if code.width(role, name) else whole.zeros(rows, width)

    return Gradients(
        inputs=[
            room("grad", name, width) if want else None
            for name, width, want in zip(
                kernel.inputs, kernel.input_widths, wanted.inputs, strict=True
            )
        ],
        starts=(),
        totals={
            name: torch.empty(shape, dtype=whole.dtype)
            for name, shape in _totals(code, wanted.totals)
        },
        deltas=[
            room("delta", name, width) if wanted.deltas else None
            for name, width in zip(kernel.states, kernel.state_widths, strict=True)
        ],
    )


def _totals(code: Code, names: frozenset[str]) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the totals that are asked for."""
    if names not in code.totals:
        shapes: dict[str, tuple[int, ...]] = {}
        for total in code.program.totals:
            right = (total.right.size,) if total.right else ()
            if total.slot.name in names:
                shapes.setdefault(total.slot.name, (total.left.size, *right))
        code.totals[names] = list(shapes.items())
    return code.totals[names]


class Again(NamedTuple):
    """Runs stretches of steps once more, into the same memory, to have what the reverse loop reads of them."""

    kept: Tensor
    histories: list[Tensor]

    @staticmethod
    def of(whole: Whole) -> Again:
        kernel, offsets = whole.kernel, whole.table.offsets
        rows = max(int(offsets[end] - offsets[begin]) for begin, end in whole.stretches())
        histories = [whole.empty(rows, width) for width in kernel.state_widths]
        return Again(whole.empty(rows, kernel.kept_width), histories)

    def run(self, part: Whole) -> tuple[Tensor, list[Tensor | None]]:
        """What forward keeps of a stretch, and its states."""
        rows, kernel = part.table.rows, part.kernel
        kept, histories = self.kept[:rows], [h[:rows] for h in self.histories]
        output = part.empty(rows, kernel.output_width) if kernel.same is None else None
        run_forward(part, histories, output, kept)
        return kept, list(histories)


def _between(whole: Whole, code: Code) -> dict[str, Any]:
    """Room between the passes of the reverse loop."""
    table = whole.table
    more, sums = code.width("more"), code.width("sums")
    rest = [code.width("rest", name) for name in whole.kernel.states]
    return {
        "more": whole.empty(table.rows, more) if more else None,
        "sums": whole.zeros(table.batch, sums) if sums else None,
        "rest": [whole.empty(2 * table.batch, width) if width else None for width in rest],
    }


def _before(
    whole: Whole, code: Code, used: Sequence[Tensor], arrived: Sequence[Tensor]
) -> list[Tensor]:
    """What arrives at the states before the steps; rows that run at none of them keep what has arrived."""
    carries = {carry.state: carry for carry in code.program.carries}
    return [
        _each_row(_at_first(whole, code, carries[name], used), a, copied=False)
        for name, a in zip(whole.kernel.states, arrived, strict=True)
    ]


def _at_first(whole: Whole, code: Code, carry: Carry, used: Sequence[Tensor]) -> Tensor:
    """What arrives at a state before each row's first step: (rows that run, size).

    The products are worked out as weight gradients are: with the same bits for any number of threads.
    """
    table, rows = whole.table, whole.table.active
    if carry.rest is None:
        total = whole.zeros(rows, carry.size)
    else:
        rest = carry.rest.access
        total = table.first(used[rest.buffer], turns=True)
        total = total[:, rest.column : rest.column + carry.size].clone()
    tensors = [total]
    terms = []
    for product in carry.products:
        access, size = product.operand, product.size
        operand = table.first(used[access.buffer], turns=False)
        matrix = whole.values[whole.kernel.order[product.matrix.slot]]
        matrix = matrix if product.matrix.transposed else matrix.T
        operand = operand[:, access.column : access.column + size].T
        tensors += ((operand if product.sign > 0 else -operand).contiguous(), matrix.contiguous())
        left, right = len(tensors) - 2, len(tensors) - 1
        terms.append(
            gradient.Term(
                gradient.Operand(rows, rows, (gradient.Run(left, 0, size),)),
                gradient.Operand(carry.size, carry.size, (gradient.Run(right, 0, size),)),
                gradient.Output(0, 0, carry.size, add=True),
            )
        )
    if terms and rows:
        key = ("before", carry.state)
        memo = code.about(table)
        if key not in memo:
            memo[key] = gradient.arrange(terms, whole.dtype, whole.kernel.host)
        gradient.run(memo[key], [t.data_ptr() for t in tensors])
    return total


# Sums behind the loop -------------------------------------------------------------------------------------------------


def _sum_up(
    whole: Whole,
    code: Code,
    used: Used,
    totals: dict[str, Tensor],
    add: bool,
) -> None:
    """The gradients of parameters from what the loop has stored; `add`: on top of what is there."""
    if not totals:
        return
    table = whole.table
    key = (tuple(totals), add)
    memo = code.about(table)
    if key not in memo:
        memo[key] = gradient.arrange(
            _terms(code, table, list(totals), add), whole.dtype, whole.kernel.host
        )
    gradient.run(memo[key], [*used.addresses, *[t.data_ptr() for t in totals.values()]])


def _terms(code: Code, table: Table, names: list[str], add: bool) -> list[gradient.Term]:
    first = len(code.program.buffers)  # outputs are numbered behind the program's own buffers
    terms = []
    for total in code.program.totals:
        if total.slot.name in names:
            number = first + names.index(total.slot.name)
            terms.append(_term(code, table, total, number, add))
    return terms


def _term(code: Code, table: Table, total: Total, number: int, add: bool) -> gradient.Term:
    right = total.right and _operand(code, table, total.right)
    stride = total.right.size if total.right else 1
    left = _operand(code, table, total.left)
    return gradient.Term(left, right, gradient.Output(number, 0, stride, add))


def _operand(code: Code, table: Table, column: Column) -> gradient.Operand:
    """The rows of a column: one for each row of all steps, or, where that is how it lies, for each row of the batch."""
    access, buffers = column.access, code.program.buffers
    width = buffers[access.buffer].width

    def run(at: Access, row: int, rows: int) -> gradient.Run:
        if buffers[at.buffer].width != width:
            raise AssertionError("a state and its start differ in width")
        return gradient.Run(at.buffer, row * width + at.column, rows)

    if buffers[access.buffer].span == "rows":
        runs = [run(access, 0, table.batch)]
    elif access.when == "now":
        runs = [run(access, 0, table.rows)]
    else:
        assert access.when == "before" and access.otherwise is not None
        runs = [
            run(access if inside else access.otherwise, row, rows)
            for inside, row, rows in table.before()
        ]
    return gradient.Operand(column.size, width, tuple(runs))
