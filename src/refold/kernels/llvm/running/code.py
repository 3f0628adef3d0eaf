"""A program in machine code: how its weights are packed, and how it is run over a table of entries."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from refold.collector import no_collection
from refold.errors import KernelError
from refold.ir.graph import Slot
from refold.kernels.llvm import LOCK
from refold.kernels.llvm.emission.pack import JOB, packer
from refold.kernels.llvm.lowering.program import Program
from refold.kernels.llvm.lowering.schedule import Tile, tiles
from refold.kernels.llvm.machine import pool
from refold.kernels.llvm.machine.compile import FAULT, compile_module
from refold.kernels.llvm.machine.host import Host

from .tables import Table

LINE = 64  # bytes: the packed weights of each pass begin at a cache line
PACK_ALONE = (
    1 << 18
)  # bytes of packed weights below which a second thread costs more than it brings

PLAIN, TURNS = 0, 1  # modes of a buffer: all steps packed; two steps in turns
HEAD = 4  # words before those of the buffers
Places = Mapping[
    tuple[str, str], int
]  # role and name of a buffer -> its number in the list of a call's


class Packed(NamedTuple):
    """The weights of a program, each pass's in the order in which it reads them."""

    memory: Tensor
    addresses: tuple[int, ...]


class Jobs(NamedTuple):
    """The matrices to be packed: the words of all jobs without addresses, and for each which of the fixed values it is,
    and its place in the packed weights, in bytes."""

    words: array[int]
    values: tuple[int, ...]
    targets: tuple[int, ...]


class Ready(NamedTuple):
    """What the code reads for a table, but for addresses; and how many numbers each buffer holds at least."""

    words: array[int]
    least: tuple[int, ...]
    entries: int
    pieces: int


class Used(NamedTuple):
    """What lay behind each buffer of a program."""

    tensors: list[Tensor]
    addresses: array[int]


@dataclass(frozen=True, slots=True, eq=False)
class Code:
    """A program in machine code.

    run, pack  addresses of functions; libraries: what keeps them in memory
    places     for each pass, where its weights begin in `Packed.memory`; -1: it has none
    once       for each buffer that has one row for a whole call, which of the fixed values it is; -1: another buffer
    reads      for each buffer, its number in the list of a call's
    ahead      the program that works out beforehand what this one reads in the buffer `ahead`
    memo       what is made ready for a table; totals: names and shapes of those asked for
    """

    program: Program
    dtype: torch.dtype
    run: int
    pack: int
    libraries: tuple[Any, ...]
    jobs: Jobs
    places: tuple[int, ...]
    size: int
    once: tuple[int, ...]
    reads: tuple[int, ...]
    widths: dict[tuple[str, str], int]  # numbers in a row of each buffer, by role and name
    ahead: Code | None = None
    memo: WeakKeyDictionary[Table, dict[Any, Any]] = field(default_factory=WeakKeyDictionary)
    totals: dict[frozenset[str], list[tuple[str, tuple[int, ...]]]] = field(default_factory=dict)

    def width(self, role: str, name: str = "") -> int:
        """Numbers in a row of a buffer; 0 where no pass touches one."""
        return self.widths.get((role, name), 0)

    def packed(self, values: Sequence[Tensor]) -> Packed:
        """Bring the weights into the order in which the passes read them."""
        memory = torch.empty(self.size // self.dtype.itemsize, dtype=self.dtype)
        base = memory.data_ptr()
        jobs = self.jobs
        count = len(jobs.values)
        if count:
            words = jobs.words[:]
            words[0::JOB] = array("q", [values[i].data_ptr() for i in jobs.values])
            words[1::JOB] = array("q", [base + target for target in jobs.targets])
            address = words.buffer_info()[0]
            if self.size > PACK_ALONE:
                pool.run(self.pack, address, 0, count)
            else:
                pool.plain(self.pack)(address, 0, count)
        return Packed(memory, tuple([base + at if at >= 0 else 0 for at in self.places]))

    def over(
        self,
        table: Table,
        reverse: bool,
        memory: Sequence[Tensor | None],
        packed: Packed,
        turned: tuple[str, ...] = (),
    ) -> Used:
        """Run all steps of a table; what lay behind each buffer of the program.

        memory  where all buffers of a call lie, the fixed values last; those of the program are among them
        turned  the states of which two steps take turns

        Errors  KernelError when a piece of memory is not what the code would take it for
        """
        ready = self.ready(table, reverse, turned)
        used: list[Any] = [memory[i] for i in self.reads]
        # The last look before native code: whatever else has gone wrong, it must not reach beyond its memory.
        dtype = self.dtype
        for tensor, least in zip(used, ready.least):  # noqa: B905  (as long as each other, and faster)
            if (
                tensor is None
                or tensor.dtype is not dtype
                or not tensor.is_cpu
                or tensor.numel() < least
                or not tensor.is_contiguous()
            ):
                self._refuse(used, tensor)
        addresses = array("q", [tensor.data_ptr() for tensor in used])
        if ready.entries:
            words = ready.words[:]
            end = HEAD + 2 * len(addresses)
            words[HEAD:end:2] = addresses
            words[end:] = array("q", packed.addresses)
            address = words.buffer_info()[0]
            if ready.pieces == 1:
                pool.plain(self.run)(address, 0, 1)
            else:
                pool.run(self.run, address, 0, ready.pieces)
        return Used(used, addresses)

    def _refuse(self, used: Sequence[Tensor | None], wrong: Tensor | None) -> None:
        buffer = next(b for b, t in zip(self.program.buffers, used, strict=True) if t is wrong)
        raise KernelError(
            f"compiled code of '{self.program.name}' was to be handed memory that does not "
            f"fit {buffer.role} {buffer.name}.",
            FAULT,
        )

    def about(self, table: Table) -> dict[Any, Any]:
        """What is made ready for a table."""
        found = self.memo.get(table)
        return self.memo.setdefault(table, {}) if found is None else found

    def ready(self, table: Table, reverse: bool, turned: tuple[str, ...]) -> Ready:
        """What does not change from call to call over the steps of a table."""
        pieces = table.pieces(pool.threads())
        key = reverse, turned, pieces
        memo = self.about(table)
        if key not in memo:
            memo[key] = self._ready(table, reverse, turned, pieces)
        return memo[key]

    def _ready(self, table: Table, reverse: bool, turned: tuple[str, ...], pieces: int) -> Ready:
        bounds, entries = table.bounds(pieces), table.entries(reverse)
        words = array("q", (entries.count, entries.address, bounds.address, 0))
        rows, batch = table.rows, table.batch
        spans = {"steps": rows, "rows": batch, "once": 1}
        least = []
        for buffer in self.program.buffers:
            turns = buffer.role == "rest" or (buffer.role == "state" and buffer.name in turned)
            words.extend((0, TURNS if turns else PLAIN))
            some = spans[buffer.span]
            least.append((min(some, 2 * batch) if turns else some) * buffer.width)
        words.extend(0 for _ in self.places)
        return Ready(words, tuple(least), entries.count, bounds.count - 1)


def compiled(
    program: Program,
    dtype: torch.dtype,
    order: Mapping[Slot, int],
    target: Host,
    places: Places,
    ahead: Code | None = None,
) -> Code:
    """The code of a program, built or fetched from the cache.

    order   numbers the fixed values
    places  numbers all other buffers that a call may have; in the list of a call's the fixed values follow
    """
    cut = tiles(program, target, dtype)
    with LOCK, no_collection():
        library = compile_module(
            lambda: _ir(program, cut, target, dtype), target, repr((program, cut, dtype))
        )
        weights = packer(target, dtype)
    jobs, begins, size = _jobs(cut, dtype.itemsize, order)
    once = tuple(order[Slot(b.role, b.name)] if b.span == "once" else -1 for b in program.buffers)
    buffers = zip(program.buffers, once, strict=True)
    reads = tuple(places[b.role, b.name] if i < 0 else len(places) + i for b, i in buffers)
    return Code(
        program,
        dtype,
        library.address("run"),
        weights.address("pack"),
        (library, weights),
        jobs,
        begins,
        size,
        once,
        reads,
        {(b.role, b.name): b.width for b in program.buffers},
        ahead,
    )


def _ir(program: Program, cut: tuple[Tile | None, ...], target: Host, dtype: torch.dtype) -> Any:
    from refold.kernels.llvm.emission.emit import (
        module_of,
    )  # llvmlite's builder is loaded only when there is something to build

    return module_of(program, cut, target, dtype)


def _jobs(
    cut: tuple[Tile | None, ...], itemsize: int, order: Mapping[Slot, int]
) -> tuple[Jobs, tuple[int, ...], int]:
    """What has to be packed, where each pass's weights begin, and the bytes of all."""
    words = array("q")
    values: list[int] = []
    targets: list[int] = []
    places: list[int] = []
    size = 0
    for tile in cut:
        places.append(size if tile else -1)
        if tile is None:
            continue
        for p in tile.packs:
            values.append(order[p.matrix.slot])
            targets.append(size + p.offset * itemsize)
            strides = (1, p.rows) if p.matrix.transposed else (p.columns, 1)
            about = (p.rows, p.columns, p.block_stride, p.k_stride, p.width, int(p.sign))
            words.extend((0, 0, *strides, *about))
        size += -(-tile.size * itemsize // LINE) * LINE
    return Jobs(words, tuple(values), tuple(targets)), tuple(places), size
