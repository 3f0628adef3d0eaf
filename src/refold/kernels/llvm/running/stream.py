"""Calls without gradients over batches of whole rows: what such a call needs is made ready once, and looked at again.

One step of a small layer takes a microsecond, and to check and prepare a call takes fifty. So all that does not change
from call to call is written down: shapes, where the parameters lie, the words that compiled code reads. A call that
differs in anything is left to the usual way.

For a single step the packed weights are written down as well: packing them would cost many times the step. They are
packed again when torch's counters say that a parameter has been written to, or after a call with gradients; a write
past the counters (through .data, or NumPy) is not seen. Longer calls pack their weights anew and see every write.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from refold.kernels.base import Call, Home, Kernel
from refold.kernels.llvm.machine import pool

from .code import PLAIN, TURNS, Code, Packed
from .kernel import Compiled
from .tables import LEAST, Table, uniform

ALONE = 2 * LEAST - 1  # rows up to which there is no second thread
SHAPES = 64  # shapes whose words are held


class Part(NamedTuple):
    """One layer of a stack: its code and weights, and which of the words that the code reads change with each call."""

    code: Code
    run: pool.Rows
    values: list[Tensor]
    packed: Packed
    x: int
    y: int  # an output that is no state
    before: tuple[int, ...]  # each state, before the first step and after each
    after: tuple[int, ...]


class Room(NamedTuple):
    """The words that one call's code reads, for each layer, and memory between its passes."""

    words: tuple[array[int], ...]
    addresses: tuple[int, ...]
    scratch: tuple[Tensor | None, ...]


@dataclass(slots=True, eq=False)
class Shapes:
    """What a call of one shape takes and gives; no table: such a call is none for here."""

    batch: int = 0
    turned: bool = (
        False  # the caller has the batch before the steps, and they do not lie as if it were not so
    )
    output: tuple[int, ...] = ()
    states: tuple[tuple[int, ...], ...] = ()
    strides: tuple[int, ...] = ()  # bytes of each state from layer to layer
    table: Table | None = None
    starts: tuple[Tensor, ...] | None = None  # where the caller gives no states
    rooms: list[Room] = field(default_factory=list)


class Stream:
    """A stack of layers in one direction.

    homes   for each layer, where its parameters are kept, in the order of its kernel's call
    starts  each state before the first step where none is given; None: they are learned
    """

    def __init__(
        self,
        kernels: Sequence[Compiled],
        calls: Sequence[Call],
        homes: Sequence[Sequence[Home]],
        starts: Sequence[float] | None,
        batch_first: bool,
    ):
        self.kernels, self.kernel = kernels, kernels[0]
        self.starts, self.batch_first = starts, batch_first
        self.dtype = calls[0].states[0].dtype
        self.features = self.kernel.input_widths[0]
        self.parts: list[Part] = []
        self.calls = [replace(call, inputs=()) for call in calls]
        tensors = [p for call in calls for p in call.params.values()]
        places = [(home.get, name) for kept in homes for home, name in kept]
        # Where each parameter is kept, and what told of it then.
        self.held = [
            (get, name, p, p.data_ptr(), p._version)
            for (get, name), p in zip(places, tensors, strict=True)
        ]
        for kernel, call in zip(kernels, calls, strict=True):
            code = kernel.forward_code(self.dtype, False, uniform(1, 1, False))
            values = kernel.values(call)
            self.parts.append(_part(kernel, code, values, code.packed(values)))
        self.shapes: dict[tuple[int, ...], Shapes] = {}

    @staticmethod
    def of(
        kernels: Sequence[Kernel],
        calls: Sequence[Call],
        homes: Sequence[Sequence[Home]],
        starts: Sequence[float] | None,
        batch_first: bool,
    ) -> Stream | None:
        """The stream after a first call; None where a call cannot be made ready like this."""
        compiled = [kernel for kernel in kernels if isinstance(kernel, Compiled)]
        params = [p for call in calls for p in call.params.values()]
        if (
            len(compiled) < len(kernels)
            or len(calls[0].inputs) != 1
            or any(p.is_inference() for p in params)
            or not _usual()
        ):
            return None
        return Stream(compiled, calls, homes, starts, batch_first)

    def __call__(self, x: Tensor, state: Any) -> tuple[Tensor, Any] | None:
        """A call in the caller's form; None: not here."""
        if type(x) is not Tensor or not _usual():
            return None
        shapes = self.shapes.get(x.shape)
        if shapes is None:
            shapes = self._shapes(x.shape)
        dtype = self.dtype
        table = shapes.table
        if table is None or x.dtype is not dtype or not x.is_cpu or x.is_neg():
            return None
        if state is None:
            states = shapes.starts
            if states is None:
                return None
        else:
            states = state if type(state) is tuple else (state,)
            if len(states) != len(shapes.states):
                return None
            for s, expected in zip(states, shapes.states):  # noqa: B905  (strict costs half a microsecond)
                if (
                    type(s) is not Tensor
                    or s.shape != expected
                    or s.dtype is not dtype
                    or not s.is_cpu
                    or s.layout is not torch.strided
                    or not s.is_contiguous()
                    or s.is_neg()
                ):
                    return None
        single = table.steps == 1
        for get, name, p, address, version in self.held:
            if get(name) is not p or p.data_ptr() != address:
                return None
            if single and p._version != version:
                return None
        if shapes.turned:
            x = x.transpose(0, 1)
        if x.layout is not torch.strided:
            return None
        if not x.is_contiguous():
            x = x.contiguous()
        rooms = shapes.rooms
        room = rooms.pop() if rooms else self._room(shapes)
        run = self._step if single else self._steps
        results = run(x, states, shapes, room)
        rooms.append(room)
        return results

    def _shapes(self, shape: tuple[int, ...]) -> Shapes:
        """What goes with an x of this shape."""
        kernel, layers, item = self.kernel, len(self.parts), self.dtype.itemsize
        found = Shapes()
        batched = len(shape) == 3
        if len(shape) in (2, 3) and shape[-1] == self.features:
            lead = shape[:-1] if batched else (shape[0], 1)
            steps, batch = reversed(lead) if batched and self.batch_first else lead
            rows = (batch,) if batched else ()
            found.turned = batched and self.batch_first and steps > 1 and batch > 1
            found.batch = batch
            found.output = (steps, batch) if found.turned else tuple(shape[:-1])
            found.output += (kernel.output_width,)
            found.states = tuple((layers, *rows, width) for width in kernel.state_widths)
            found.strides = tuple(batch * width * item for width in kernel.state_widths)
            if steps and batch:
                table = uniform(steps, batch, False)
                codes = [kernel.forward_code(self.dtype, False, table) for kernel in self.kernels]
                found.table = None if any(code.ahead for code in codes) else table
            if self.starts is not None:
                each = zip(found.states, self.starts, strict=True)
                found.starts = tuple(torch.full(s, v, dtype=self.dtype) for s, v in each)
        if len(self.shapes) >= SHAPES:
            self.shapes.clear()
        self.shapes[shape] = found
        return found

    def _step(
        self, x: Tensor, states: tuple[Tensor, ...], shapes: Shapes, room: Room
    ) -> tuple[Tensor, Any]:
        """One step: the states after it are written where they are given out."""
        dtype, same, last = self.dtype, self.kernel.same, len(self.parts) - 1
        after = [torch.empty_like(s) for s in states]
        froms = [s.data_ptr() for s in states]
        tos = [s.data_ptr() for s in after]
        own = torch.empty(shapes.output, dtype=dtype) if same is None else None
        reads = x.data_ptr()
        held = []
        for k, part in enumerate(self.parts):
            words = room.words[k]
            words[part.x] = reads
            for at, address in zip(part.before, froms):  # noqa: B905
                words[at] = address
            for at, address in zip(part.after, tos):  # noqa: B905
                words[at] = address
            if same is not None:
                reads = tos[same]
            else:
                assert own is not None
                held.append(own if k == last else torch.empty_like(own))
                reads = words[part.y] = held[-1].data_ptr()
            if shapes.batch <= ALONE and room.scratch[k] is None:
                part.run(room.addresses[k], 0, 1)
            else:
                self._run(part, room, k, shapes)
            if k < last:
                froms = [a + b for a, b in zip(froms, shapes.strides)]  # noqa: B905
                tos = [a + b for a, b in zip(tos, shapes.strides)]  # noqa: B905
        if own is None:
            assert same is not None
            own = after[same].clone() if last == 0 else after[same][last].clone()
            if own.shape != shapes.output:
                own = own.view(shapes.output)
        return own, after[0] if len(after) == 1 else tuple(after)

    def _steps(
        self, x: Tensor, states: tuple[Tensor, ...], shapes: Shapes, room: Room
    ) -> tuple[Tensor, Any]:
        """Several steps: of a state that is no output, two take turns."""
        dtype, same, item = self.dtype, self.kernel.same, self.dtype.itemsize
        table, widths = shapes.table, self.kernel.state_widths
        assert table is not None
        slot = (table.steps - 1) % 2
        finals: list[list[Tensor]] = [[] for _ in widths]
        froms = [s.data_ptr() for s in states]
        for k, part in enumerate(self.parts):
            words = room.words[k]
            held = self._weights(k, part, words)
            words[part.x] = x.data_ptr()
            y = torch.empty(shapes.output, dtype=dtype)
            words[part.y] = y.data_ptr()
            for i, width in enumerate(widths):
                words[part.before[i]] = froms[i] + k * shapes.batch * width * item
                if i == same:
                    words[part.after[i]] = y.data_ptr()
                    end = y.view(table.steps, shapes.batch, width)[-1]
                else:
                    turns = torch.empty(2, shapes.batch, width, dtype=dtype)
                    words[part.after[i]] = turns.data_ptr()
                    end = turns[slot]
                finals[i].append(end)
            self._run(part, room, k, shapes)
            del held
            x = y
        after = [
            torch.stack(ends).view(shape) for ends, shape in zip(finals, shapes.states, strict=True)
        ]
        y = x.transpose(0, 1) if shapes.turned else x
        return y, after[0] if len(after) == 1 else tuple(after)

    def _weights(self, k: int, part: Part, words: array[int]) -> tuple[list[Tensor], Packed]:
        """The parameters as they are now, told to the code; what has to stay in memory for it."""
        code, kernel = part.code, self.kernels[k]
        values = kernel.values(self.calls[k])
        packed = code.packed(values)
        for i, once in enumerate(code.once):
            if once >= 0:
                words[4 + 2 * i] = values[once].data_ptr()
        start = 4 + 2 * len(code.once)
        for i, address in enumerate(packed.addresses):
            words[start + i] = address
        return values, packed

    def _run(self, part: Part, room: Room, k: int, shapes: Shapes) -> None:
        scratch = room.scratch[k]
        if scratch is not None:
            scratch.zero_()
        if shapes.batch <= ALONE:
            part.run(room.addresses[k], 0, 1)
            return
        assert shapes.table is not None
        bounds = shapes.table.bounds(pool.threads())
        room.words[k][2] = bounds.address
        pool.run(part.code.run, room.addresses[k], 0, bounds.count - 1)

    def _room(self, shapes: Shapes) -> Room:
        table = shapes.table
        assert table is not None
        entries, bounds = table.entries(False), table.bounds(1)
        output = self.kernel.states[self.kernel.same] if self.kernel.same is not None else ""
        words, scratch = [], []
        for part in self.parts:
            width = part.code.width("scratch")
            scratch.append(torch.zeros(shapes.batch, width, dtype=self.dtype) if width else None)
            lines = [entries.count, entries.address, bounds.address, 0]
            for buffer, once in zip(part.code.program.buffers, part.code.once, strict=True):
                held = scratch[-1] if buffer.role == "scratch" else None
                held = part.values[once] if once >= 0 else held
                turns = buffer.role == "state" and buffer.name != output and table.steps > 1
                lines += (0 if held is None else held.data_ptr(), TURNS if turns else PLAIN)
            # One word more, which nobody reads: what a program does not touch is written there.
            words.append(array("q", [*lines, *part.packed.addresses, 0]))
        addresses = tuple(w.buffer_info()[0] for w in words)
        return Room(tuple(words), addresses, tuple(scratch))


def _usual() -> bool:
    """Whether torch is in no mode in which a tensor is more than its numbers."""
    return not (
        torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
    )


def _part(kernel: Compiled, code: Code, values: list[Tensor], packed: Packed) -> Part:
    buffers = code.program.buffers
    nowhere = 4 + 2 * len(buffers) + len(packed.addresses)

    def at(role: str, name: str) -> int:
        found = code.program.find(role, name)
        return nowhere if found is None else 4 + 2 * found

    return Part(
        code,
        pool.plain(code.run),
        values,
        packed,
        at("input", kernel.inputs[0]),
        at("output", kernel.output),
        tuple(at("first", name) for name in kernel.states),
        tuple(at("state", name) for name in kernel.states),
    )
