"""A program as LLVM IR: one function for each pass, and `run`, which calls them for every step and piece of the batch.

    void run(int64 *context, int64 begin, int64 end)      the pieces begin..end-1
    pass<p>(context, entry, r0, r1, back)                 the rows r0..r1-1 of one step, see `block_of`

context  number of entries; their address; the address of the first row of each piece, and one past the last; 0; then
         for each buffer its address and its mode; then for each pass the address of its packed weights
entry    ten int64: begin, end, has_before, has_after, now0, before0, after0, now1, before1, after1 (see `Field`)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from llvmlite import ir

from refold.kernels.llvm.arithmetic.lanes import FLOATS
from refold.kernels.llvm.lowering.program import Folds, Program
from refold.kernels.llvm.lowering.schedule import Tile
from refold.kernels.llvm.machine.host import Host

from .check import check
from .folds import folds_pass
from .frame import VOID, Frame, counted, word
from .sweep import plain_pass, tiled_pass
from .values import I1, I64, PTR, Kind, offset

ENTRY = 10  # int64 in an entry
RUN = ir.FunctionType(VOID, [PTR, I64, I64])


def module_of(
    program: Program, tiles: tuple[Tile | None, ...], host: Host, dtype: torch.dtype
) -> str:
    """The IR of a program, which defines `run`.

    Errors  KernelError when the program would touch what is not its own
    """
    check(program)
    kind = Kind(FLOATS[8 * dtype.itemsize], dtype.itemsize, host.lanes(dtype))
    module = ir.Module("refold")
    loops: dict[str, str] = {}
    passes = []
    for number, (step, tile) in enumerate(zip(program.passes, tiles, strict=True)):
        frame = Frame(program, kind, number, module, loops)
        frame.find(step)
        if isinstance(step, Folds):
            folds_pass(frame, step)
        elif tile is None:
            plain_pass(frame, step)
        else:
            tiled_pass(frame, step, tile)
        frame.b.ret_void()
        passes.append(frame.function)
    write_run(module, passes)
    # Product loops are declared for the builder, and defined as text.
    parts = [str(v) for name, v in module.globals.items() if name not in loops]
    return "\n".join([*parts, *loops.values()])


def write_run(module: ir.Module, passes: Sequence[ir.Function]) -> None:
    """For each piece, for each entry: the rows that both have, through all passes in order."""
    function = ir.Function(module, RUN, "run")
    context, begin, end = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    count = word(b, context, 0)
    entries = b.inttoptr(word(b, context, 1), PTR)
    bounds = b.inttoptr(word(b, context, 2), PTR)
    some = b.and_(b.icmp_signed("<", begin, end), b.icmp_signed("<", I64(0), count))
    with b.if_then(some), counted(b, end, begin) as piece:
        low, high = word(b, bounds, piece), word(b, bounds, b.add(piece, I64(1)))
        with counted(b, count) as number:
            entry = offset(b, entries, b.mul(number, I64(8 * ENTRY)))
            first, last = word(b, entry, 0), word(b, entry, 1)
            first = b.select(b.icmp_signed("<", first, low), low, first)
            last = b.select(b.icmp_signed("<", high, last), high, last)
            with b.if_then(b.icmp_signed("<", first, last)):
                back = b.trunc(number, I1)
                for step in passes:
                    b.call(step, [context, entry, first, last, back])
    b.ret_void()
