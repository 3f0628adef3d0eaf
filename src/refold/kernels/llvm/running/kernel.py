"""The backend "llvm": a plan compiled for the processor at hand, and the parameters as its code reads them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from refold.collector import no_collection
from refold.errors import KernelError
from refold.ir.graph import Slot
from refold.kernels.base import BACKENDS, Call, Run, no_further
from refold.kernels.llvm.lowering import lower
from refold.kernels.llvm.lowering.hoist import FEW_ROWS, Ahead, hoisted, pays
from refold.kernels.llvm.lowering.program import (
    Access,
    Accumulator,
    Line,
    Product,
    Program,
    Store,
    Sweep,
)
from refold.kernels.llvm.machine.host import host
from refold.kernels.loop import Lines, Values, follow
from refold.kernels.loop import Program as ProgramOfLines
from refold.kernels.reference import Reference
from refold.kernels.rows import Rows
from refold.plan.plan import Plan
from refold.shapes import Shape

from .code import Code, compiled
from .sequence import Work, infer, plain, recorded, tensors_of
from .steps import OF_INPUTS, OF_NONE, OF_STATES
from .tables import Table

DTYPES = (torch.float32, torch.float64)
MANY_STEPS = 8  # from which on it may pay to work something out for all of them at once
PIECES = 8


class Once(NamedTuple):
    """How to work out what is made of parameters once: where each stands, the calls, the lines that are given out."""

    slots: list[tuple[int, int]]
    program: ProgramOfLines
    outputs: list[int]


class Spare:
    """Memory for what is kept, from one training step to the next: the system gives fresh pages only slowly.

    As many pieces as there were calls at once between their ways forward and back, none larger than twice what is
    asked for next, until a call comes that nobody will differentiate.
    """

    def __init__(self) -> None:
        self._pieces: list[Tensor] = []

    def take(self, rows: int, width: int, dtype: torch.dtype) -> Tensor:
        """Memory for rows of numbers, whatever they are."""
        needed = rows * width
        while self._pieces:
            try:
                piece = self._pieces.pop()
            except IndexError:  # another thread was faster
                break
            if piece.dtype is dtype and needed <= piece.numel() <= 2 * needed:
                return piece[:needed].view(rows, width)
        return torch.empty(rows, width, dtype=dtype)

    def give(self, memory: Tensor) -> None:
        """Hand memory back that nobody else holds."""
        if memory.numel() and len(self._pieces) < PIECES:
            numbers = memory.untyped_storage().nbytes() // memory.itemsize
            self._pieces.append(memory.as_strided((numbers,), (1,), 0))

    def drop(self) -> None:
        self._pieces.clear()


class Compiled:
    """A plan with numbers for its letters, in machine code; each program is built when a call first needs it.

    memory  "fast" keeps the plan's values of every step for the way back; "small" keeps only the states, at about the
            square root of T steps, and runs each stretch between two of them again when the way back comes to it
    """

    backend = "llvm"

    def __init__(self, plan: Plan, sizes: Mapping[str, int], reason: str, memory: str = "fast"):
        self.plan, self.sizes, self.reason, self.memory = plan, dict(sizes), reason, memory
        self.host = host()
        step = plan.forward.graph
        self.inputs = tuple(leaf.name for leaf in step.leaves_of("input"))
        self.states = tuple(leaf.name for leaf in step.leaves_of("state"))
        self.input_widths = tuple(self._width(leaf.shape) for leaf in step.leaves_of("input"))
        self.state_widths = tuple(self._width(leaf.shape) for leaf in step.leaves_of("state"))
        output = step.outputs_of("output")[0]
        self.output, self.same = output.slot.name, plan.output_state
        self.output_width = self._width(step.nodes[output.node].shape)
        graphs = (step, plan.once)
        leaves = {leaf.name: leaf for g in graphs for leaf in g.leaves_of("param")}
        self.shapes = {n: tuple(s.at(self.sizes) for s in x.shape) for n, x in leaves.items()}
        made = [o.slot for o in plan.once.outputs]
        slots = [*(Slot("param", name) for name in leaves), *made]
        self.order = {slot: i for i, slot in enumerate(slots)}
        read_back = plan.backward.graph.slots()
        self.read_back = tuple(
            Slot("state", s) in read_back or Slot("next", s) in read_back for s in self.states
        )
        self.once = Lines(plan.once, sizes)
        self.once_back = Lines(plan.once_back, sizes)
        self.feeds = self._feeds()
        self.places = self._places()
        self.works: dict[tuple[object, ...], Work] = {}
        self._made = self._ways_once()
        self._back: dict[tuple[str, ...], ProgramOfLines] = {}
        self._numbers: dict[tuple[bool, torch.dtype], Values] = {}
        self.spare = Spare()
        self._programs: dict[bool, Program] = {}
        self._codes: dict[tuple[object, ...], Code] = {}
        self._reference: Reference | None = None
        self._told: set[str] = set()

    def _width(self, shape: Shape) -> int:
        return shape[0].at(self.sizes) if shape else 1

    def _feeds(self) -> dict[str, frozenset[str]]:
        """For each parameter, the totals that its gradient is made of."""
        graph = self.plan.once_back
        feeds = {name: {name} for name in self.shapes}
        slots = graph.slots().items()
        for output in graph.outputs:
            needed = graph.before([output.node])
            found = {slot.name for slot, i in slots if slot.kind == "total" and i in needed}
            feeds.setdefault(output.slot.name, set()).update(found)
        return {name: frozenset(totals) for name, totals in feeds.items()}

    def _places(self) -> dict[tuple[str, str], int]:
        """Numbers for all buffers that a call may have, in the order of `steps.places_of`."""
        names = [(role, name) for role in OF_INPUTS for name in self.inputs]
        names += [(role, name) for role in OF_STATES for name in self.states]
        names += [("output", self.output), ("given", self.output), *((r, "") for r in OF_NONE)]
        return {name: i for i, name in enumerate(names)}

    def _ways_once(self) -> Once:
        """How what is made of parameters once is worked out."""
        lines = self.once
        slots = [(i, self.order[slot]) for slot, i in lines.slots.items()]
        program = lines.program(range(len(lines.graph.nodes)))
        return Once(slots, program, [o.node for o in lines.graph.outputs])

    # Programs ---------------------------------------------------------------------------------------------------------

    def forward_code(self, dtype: torch.dtype, keep: bool, table: Table) -> Code:
        """The step; `keep`: what the reverse step reads is stored."""
        few = table.batch if table.batch < FEW_ROWS and table.steps >= MANY_STEPS else 0
        key = (dtype, keep, few)
        if key not in self._codes:
            program, ahead = self._forward(keep), None
            if few and pays(program, few):
                program, parts = hoisted(program)
                ahead = self._compiled(_before_loop(program, parts), dtype)
            self._codes[key] = self._compiled(program, dtype, ahead)
        return self._codes[key]

    def _forward(self, keep: bool) -> Program:
        if keep not in self._programs:
            with no_collection():
                self._programs[keep] = lower.forward(self.plan, self.sizes, keep)
        return self._programs[keep]

    @cached_property
    def kept_width(self) -> int:
        """Numbers that are kept of each row."""
        program = self._forward(True)
        found = program.find("kept")
        return 0 if found is None else program.buffers[found].width

    def backward_code(
        self,
        dtype: torch.dtype,
        inputs: tuple[bool, ...],
        direct: tuple[bool, ...],
        deltas: bool,
    ) -> Code:
        """The reverse step (see `lower.backward`)."""
        key = (dtype, inputs, direct, deltas)
        if key not in self._codes:
            with no_collection():
                program = lower.backward(self.plan, self.sizes, inputs, direct, deltas)
            self._codes[key] = self._compiled(program, dtype)
        return self._codes[key]

    def _compiled(self, program: Program, dtype: torch.dtype, ahead: Code | None = None) -> Code:
        return compiled(program, dtype, self.order, self.host, self.places, ahead)

    # Parameters -------------------------------------------------------------------------------------------------------

    def values(self, call: Call) -> list[Tensor]:
        """The parameters, and what is made of them once, in the order in which programs number them."""
        params = call.params
        values = [plain(params[name]) for name in self.shapes]
        slots, program, outputs = self._made
        if outputs:
            numbers = self._constants(self.once, call.states[0])
            for i, at in slots:
                value = values[at]
                numbers[i] = value if value.dim() else value.reshape(1)
            follow(program, numbers)
            values += [plain(numbers[i]) for i in outputs]
        return values

    def _constants(self, lines: Lines, like: Tensor) -> Values:
        """The constants of lines, of the dtype of `like`; a copy to be filled."""
        key = lines is self.once, like.dtype
        if key not in self._numbers:
            self._numbers[key] = lines.numbers(like)
        return self._numbers[key].copy()

    def gradients(
        self,
        params: Mapping[str, Tensor],
        values: Sequence[Tensor],
        totals: dict[str, Tensor],
        names: tuple[str, ...],
    ) -> dict[str, Tensor]:
        """From the totals to the gradients of parameters: past what is computed from them once."""
        lines, found = self.once_back, dict(totals)
        graph = lines.graph
        outputs = [o for o in graph.outputs if o.slot.name in names]
        if outputs:
            numbers = self._constants(lines, values[0])
            for slot, i in lines.slots.items():
                if slot.kind != "total":
                    value = values[self.order[slot]]
                    numbers[i] = value.reshape(1) if value.dim() == 0 else value
                elif slot.name in totals:
                    numbers[i] = totals[slot.name]
                else:  # read only where no gradient passes: in a comparison, or under stop_gradient
                    numbers[i] = torch.zeros_like(values[self.order[Slot("once", slot.name)]])
            if names not in self._back:
                self._back[names] = lines.program(sorted(graph.before(o.node for o in outputs)))
            follow(self._back[names], numbers)
            for output in outputs:
                name, value = output.slot.name, numbers[output.node]
                found[name] = found[name] + value if name in found else value
        made = {}
        for name in names:
            p, gradient = params[name], found.get(name)
            if gradient is None:
                gradient = torch.zeros_like(p)
            if any(gradient is other for other in made.values()):
                gradient = gradient.clone()  # b_ih + b_hh: each has its own, as from torch
            made[name] = gradient if gradient.shape == p.shape else gradient.reshape(p.shape)
        return made

    # Calls ------------------------------------------------------------------------------------------------------------

    def __call__(self, call: Call) -> Run:
        if torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self(call)
        why = _elsewhere(call)
        if why:
            return self.by_reference(call, why)
        if torch._C._len_torch_dispatch_stack() and call.probes is None and call.rows is None:
            # A mode looks on, which may have tensors without numbers.
            from . import operator

            return operator.run(operator.name_of(self), call)
        self.check(call)
        work = Work.of(self, call)
        if torch.is_grad_enabled():
            tensors = tensors_of(call)
            if any(t.requires_grad for t in tensors):
                return recorded(work, call, tensors)
        return infer(work, call)

    def by_reference(self, call: Call, why: str) -> Run:
        """The same by the reference kernel, which can do what compiled code cannot; that it runs is said once."""
        if self.plan.norms:
            raise no_further()
        if why not in self._told:
            self._told.add(why)
            warnings.warn(
                f"{why}: the layer of '{self.plan.name}' is run by the reference kernel, which is slower. "
                'Build it with backend="reference" to have no compiled code and no warning.',
                UserWarning,
                stacklevel=2,
            )
        if self._reference is None:
            self._reference = Reference(self.plan, self.sizes, self.reason)
        run = (
            self._reference(call)
            if call.rows is None
            else _packed(self._reference, call, call.rows)
        )
        return run if call.histories else Run(run.output, (), run.final)

    def check(self, call: Call) -> None:
        """Whether tensors are what compiled code takes them for.

        Errors  KernelError when one is not
        """
        dtype, batch = call.states[0].dtype, call.states[0].shape[0]
        if dtype not in DTYPES:
            self.host.lanes(dtype)
        lead = (call.steps, batch) if call.rows is None else (sum(call.rows.counts),)
        for x, width in zip(call.inputs, self.input_widths, strict=True):
            if not _fits(x, (*lead, width), dtype):
                _refuse(x, (*lead, width), dtype, "an input")
        for state, width in zip(call.states, self.state_widths, strict=True):
            if not _fits(state, (batch, width), dtype):
                _refuse(state, (batch, width), dtype, "a state")
        params = call.params
        for name, shape in self.shapes.items():
            if not _fits(params[name], shape, dtype):
                _refuse(params[name], shape, dtype, name)


def _before_loop(program: Program, parts: Sequence[Ahead]) -> Program:
    """The program that works out what has been taken out of the loop."""
    result = program.find("ahead")
    assert result is not None
    read = sorted({p.operand.buffer for part in parts for p in part.products})
    place = {buffer: i for i, buffer in enumerate([*read, result])}

    def moved(product: Product) -> Product:
        operand = replace(product.operand, buffer=place[product.operand.buffer])
        return replace(product, operand=operand)

    passes = tuple(
        Sweep(
            part.size,
            (Accumulator(tuple(map(moved, part.products))),),
            (Line("acc", (), 0),),
            (Store(0, Access(place[result], part.column)),),
        )
        for part in parts
    )
    buffers = tuple(program.buffers[buffer] for buffer in place)
    return Program(f"{program.name}, ahead", buffers, passes)


def _fits(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    return (
        tensor.shape == shape
        and tensor.dtype is dtype
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and (tensor.data_ptr() != 0 or tensor.numel() == 0)
    )


def _refuse(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype, name: str) -> None:
    raise KernelError(
        f"{name} is {tuple(tensor.shape)} of {tensor.dtype} on {tensor.device}; compiled code reads "
        f"{shape} of {dtype} in the processor's memory.",
        'Convert it, or build the layer with backend="reference".',
    )


def _elsewhere(call: Call) -> str:
    """Why a call is none for compiled code, or nothing."""
    if torch._C._are_functorch_transforms_active():
        return "torch.func maps over the layer"
    if forward_ad._current_level >= 0 and any(
        forward_ad.unpack_dual(t).tangent is not None for t in tensors_of(call)
    ):
        return "forward-mode derivatives are asked for"
    return ""


def _packed(reference: Reference, call: Call, rows: Rows) -> Run:
    """A packed call by a kernel that takes batches only."""
    counts = torch.tensor(rows.counts, dtype=torch.int64)
    lengths = (counts[:, None] > torch.arange(rows.batch)).sum(0)
    inner = Rows.of(rows.steps, rows.batch, lengths, call.states[0].device)
    inputs = tuple(inner.unpack(x) for x in call.inputs)
    run = reference(
        Call(
            call.steps,
            inputs,
            call.states,
            call.params,
            lengths,
            call.backwards,
            call.probes,
            histories=call.histories,
        )
    )
    return Run(inner.pack(run.output), tuple(map(inner.pack, run.history)), run.final)


BACKENDS["llvm"] = Compiled
