"""Sweeps: in tiles of rows and blocks of units the products, then the lines for each vector of units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from refold.kernels.llvm.arithmetic.lanes import constant
from refold.kernels.llvm.lowering.program import Accumulator, Line, Sweep
from refold.kernels.llvm.lowering.schedule import ABREAST, Group, Tile

from .frame import VOID, Frame, Row, Vector, counted
from .products import Loop, product_loop
from .values import I64, PTR, Kind, Part, joined, offset, scaled, store, units, vector_of, work_out

# The lines of a sweep -------------------------------------------------------------------------------------------------


def numbers_of(f: Frame, lines: Sequence[Line], rows: Sequence[Row]) -> None:
    """The lines that are one number for a row."""
    scalars = [i for i, line in enumerate(lines) if line.scalar and line.op != "const"]
    work_out(f.b, f.kind, lines, scalars, rows)


def finish(f: Frame, sweep: Sweep, vectors: Sequence[Vector]) -> None:
    """Vectors of units: every value first, then the stores, since these may overwrite what was read."""
    b, kind = f.b, f.kind
    work_out(b, kind, sweep.lines, [s.line for s in sweep.stores], vectors)
    ready = []
    for v in vectors:
        for s in sweep.stores:
            value = vector_of(b, kind, v.known[s.line])
            if s.add:
                value = joined(b, "sum", v.read(s.access, False), value)
            ready.append((value, v.row.pointer(s.access), v.part))
    for value, pointer, part in ready:
        store(b, kind, value, pointer, part)


def plain_pass(f: Frame, sweep: Sweep) -> None:
    """A sweep without products: the lines, row by row."""
    first, last = f.rows
    with counted(f.b, last, first) as number:
        row = Row(f, number)
        numbers_of(f, sweep.lines, [row])
        row.find(sweep.lines, sweep.stores)
        with counted(f.b, -(-sweep.size // f.kind.lanes)) as vector:
            finish(f, sweep, [Vector(row, units(f.b, f.kind, sweep.size, vector))])


# Sweeps with products -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sums:
    """Where the sums of a tile lie on the stack: for each group [row or block][accumulator][vector].

    high   rows or blocks that there is room for
    """

    tile: Tile
    kind: Kind
    at: Any
    high: int

    def group(self, group: Group) -> int:
        """Bytes to a group's sums."""
        before = 0
        for other in self.tile.groups:
            if other is group:
                break
            before += len(other.accumulators)
        return before * self.high * self.one

    @property
    def one(self) -> int:
        """Bytes of one accumulator."""
        return self.tile.vectors * self.kind.lanes * self.kind.bytes

    def pointer(self, b: ir.IRBuilder, accumulator: int, high: Any, vector: Any) -> Any:
        group = next(g for g in self.tile.groups if accumulator in g.accumulators)
        at = self.group(group) + group.accumulators.index(accumulator) * self.one
        row = scaled(b, high, len(group.accumulators) * self.one)
        column = scaled(b, vector, self.kind.lanes * self.kind.bytes)
        return offset(b, offset(b, offset(b, self.at, at), row), column)

    def load(self, b: ir.IRBuilder, accumulator: int, high: Any, vector: Any) -> Any:
        at = self.pointer(b, accumulator, high, vector)
        return b.load(at, align=self.kind.bytes, typ=self.kind.vector)

    def store(self, b: ir.IRBuilder, value: Any, accumulator: int, high: Any, vector: Any) -> None:
        b.store(value, self.pointer(b, accumulator, high, vector), align=self.kind.bytes)


def tiled_pass(f: Frame, sweep: Sweep, tile: Tile) -> None:
    """A sweep with products: tiles of rows, or a single row by itself."""
    b = f.b
    packed = f.packed
    first, last = f.rows
    if tile.together:
        alone = b.icmp_signed("==", b.sub(last, first), I64(1))
        with b.if_else(alone) as (then, otherwise):
            with then:
                single_row(f, sweep, tile, packed, first)
            with otherwise:
                row_tiles(f, sweep, tile, packed)
    else:
        row_tiles(f, sweep, tile, packed)


def row_tiles(f: Frame, sweep: Sweep, tile: Tile, packed: Any) -> None:
    """For each block of units, for each tile of rows: the products of each group, then the lines."""
    b, kind = f.b, f.kind
    first, last = f.rows
    sums = Sums(tile, kind, f.array(elements(sweep, tile, kind) * tile.rows), tile.rows)
    begins = Sums(tile, kind, f.array(elements(sweep, tile, kind)), 1)
    rows = b.sub(last, first)
    sets = b.udiv(b.add(rows, I64(ABREAST - 1)), I64(ABREAST))
    most = tile.rows // ABREAST
    count = b.udiv(b.add(sets, I64(most - 1)), I64(most))
    share, longer = b.udiv(sets, count), b.urem(sets, count)
    with counted(b, tile.blocks) as turn:
        block = block_of(f, turn, tile.blocks)
        for a, u, value in bias_sums(f, sweep, tile, block):
            begins.store(b, value, a, 0, u)
        with counted(b, count) as number:
            extra = b.icmp_signed("<", number, longer)
            before = b.select(extra, number, longer)
            begun = b.mul(b.add(b.mul(number, share), before), I64(ABREAST))
            row = b.add(first, begun)
            height = b.mul(b.add(share, b.zext(extra, I64)), I64(ABREAST))
            left = b.sub(rows, begun)
            height = b.select(b.icmp_signed("<", left, height), left, height)
            fresh = starts(f, sweep, tile, sums, begins, block, row, height)
            for group in tile.groups:
                begin, stride = begin_of(b, group, sums, begins, fresh)
                out = offset(b, sums.at, sums.group(group))
                weights = weights_of(b, kind, packed, group, block)
                operands = operands_of(f, group, Row(f, row))
                heights(f, tile, group, height, [out, begin, stride, weights, *operands])
            finish_tile(f, sweep, tile, sums, block, row, height)


def block_of(f: Frame, turn: Any, count: int) -> Any:
    """From the first block to the last in one step, and back in the next: the weights used last are still near."""
    if count == 1:
        return turn
    b, back = f.b, f.back
    return b.select(back, b.sub(I64(count - 1), turn), turn)


def elements(sweep: Sweep, tile: Tile, kind: Kind) -> int:
    """Sums of one row and block."""
    return len(sweep.accumulators) * tile.vectors * kind.lanes


def bias_sums(f: Frame, sweep: Sweep, tile: Tile, block: Any) -> Iterator[tuple[int, int, Any]]:
    """What each accumulator begins with: (accumulator, vector, value)."""
    row = Row(f, I64(0))
    for u in range(tile.vectors):
        part = inner_part(f, sweep, tile, block, u)
        for a, accumulator in enumerate(sweep.accumulators):
            yield a, u, bias_sum(row, accumulator, part)


def bias_sum(row: Row, accumulator: Accumulator, part: Part) -> Any:
    total = None
    for bias in accumulator.biases:
        value = Vector(row, part).read(bias, False)
        total = value if total is None else joined(row.frame.b, "sum", total, value)
    return constant(row.frame.kind.vector, 0.0) if total is None else total


def inner_part(f: Frame, sweep: Sweep, tile: Tile, block: Any, u: Any) -> Part:
    """A vector of a block, as the products see it: it may lie past the last unit altogether."""
    b, kind = f.b, f.kind
    vector = b.add(b.mul(block, I64(tile.vectors)), I64(u) if isinstance(u, int) else u)
    size = sweep.size
    if size % (kind.lanes * tile.vectors) and size % kind.lanes == 0:
        # Whole vectors are missing: begin with the last that exists, which keeps the address inside.
        last = I64(size // kind.lanes - 1)
        vector = b.select(b.icmp_signed("<", vector, last), vector, last)
    return units(b, kind, size, vector)


def starts(
    f: Frame,
    sweep: Sweep,
    tile: Tile,
    sums: Sums,
    begins: Sums,
    block: Any,
    row: Any,
    height: Any,
) -> Any:
    """In rows without a step after this one, put what the sums begin with where they will lie. Gives whether so."""
    if all(a.start is None for a in sweep.accumulators):
        return None
    b = f.b
    fresh = b.not_(f.has("after"))
    with b.if_then(fresh), counted(b, height) as i:
        here = Row(f, b.add(row, i))
        for u in range(tile.vectors):
            part = inner_part(f, sweep, tile, block, u)
            for a, accumulator in enumerate(sweep.accumulators):
                if accumulator.start is None:
                    value = begins.load(b, a, 0, u)
                else:
                    value = Vector(here, part).read(accumulator.start, False)
                sums.store(b, value, a, i, u)
    return fresh


def begin_of(
    b: ir.IRBuilder, group: Group, sums: Sums, begins: Sums, fresh: Any
) -> tuple[Any, Any]:
    """Where the sums of a group begin, and the bytes from row to row."""
    biases = offset(b, begins.at, begins.group(group))
    if fresh is None:
        return biases, I64(0)
    own = offset(b, sums.at, sums.group(group))
    stride = I64(len(group.accumulators) * sums.one)
    return b.select(fresh, own, biases), b.select(fresh, stride, I64(0))


def weights_of(b: ir.IRBuilder, kind: Kind, packed: Any, group: Group, block: Any) -> Any:
    at = b.mul(block, I64(group.block * kind.bytes))
    return offset(b, offset(b, packed, at), group.offset * kind.bytes)


def operands_of(f: Frame, group: Group, row: Row) -> list[Any]:
    """For each segment the first row of its operand, and the bytes from row to row."""
    values = []
    for segment in group.segments:
        pointer = row.pointer(segment.operand)
        if segment.skipped:
            pointer = f.b.select(f.has(segment.operand.when), pointer, ir.Constant(PTR, None))
        stride = f.places[segment.operand].stride
        values += [pointer, I64(stride) if isinstance(stride, int) else stride]
    return values


def heights(f: Frame, tile: Tile, group: Group, height: Any, args: list[Any]) -> None:
    """Call the product loop for the height of this tile."""
    b = f.b
    # Tiles are as equal as can be, so where three sets of rows fit in one, none is left with less than two.
    least = 2 if tile.together and tile.rows >= 3 * ABREAST else 1
    functions = {n: loop_of(f, tile, group, n, 1, False) for n in range(least, tile.rows + 1)}
    after = b.append_basic_block("finish")
    blocks = {n: b.append_basic_block(f"rows{n}") for n in functions}
    choice = b.switch(height, blocks[tile.rows])
    for n, block in blocks.items():
        if n != tile.rows:
            choice.add_case(I64(n), block)
        b.position_at_end(block)
        b.call(functions[n], args)
        b.branch(after)
    b.position_at_end(after)


def loop_of(
    f: Frame, tile: Tile, group: Group, rows: int, blocks: int, inline: bool
) -> ir.Function:
    """The product loop of a tile, written when it is first asked for."""
    number = tile.groups.index(group)
    name = f"products{f.number}_{number}_{rows}x{blocks}" + ("_inline" if inline else "")
    module = f.module
    if name not in f.loops:
        kind = f.kind
        spelled = str(kind.number)
        loop = Loop(name, tile, group, rows, blocks, inline, spelled, kind.bytes, kind.lanes)
        f.loops[name] = product_loop(loop)
        places = [PTR, I64] * len(group.segments)
        ir.Function(module, ir.FunctionType(VOID, [PTR, PTR, I64, PTR, *places]), name)
    return module.globals[name]


def finish_tile(
    f: Frame, sweep: Sweep, tile: Tile, sums: Sums, block: Any, row: Any, height: Any
) -> None:
    """The lines of a sweep, for two rows of a tile at a time and each vector of a block.

    Where the last row has no other it is worked out twice: both times from the same numbers, all of which are read
    before the first is written.
    """
    b = f.b
    with counted(b, height, step=ABREAST) as i:
        places = [i]
        for _ in range(1, ABREAST):
            following = b.add(places[-1], I64(1))
            inside = b.icmp_signed("<", following, height)
            places.append(b.select(inside, following, places[-1]))
        rows = [Row(f, b.add(row, at)) for at in places]
        numbers_of(f, sweep.lines, rows)
        for here in rows:
            here.find(sweep.lines, sweep.stores)
        with counted(b, vectors_in(f, sweep, tile, block)) as u:
            vector = b.add(b.mul(block, I64(tile.vectors)), u)
            part = units(b, f.kind, sweep.size, vector)
            finish(
                f,
                sweep,
                [
                    Vector(here, part, lambda a, at=at: sums.load(b, a, at, u))
                    for here, at in zip(rows, places, strict=True)
                ],
            )


def vectors_in(f: Frame, sweep: Sweep, tile: Tile, block: Any) -> Any:
    """How many vectors of a block exist."""
    needed = -(-sweep.size // f.kind.lanes)
    if needed % tile.vectors == 0:
        return tile.vectors
    b = f.b
    left = b.sub(I64(needed), b.mul(block, I64(tile.vectors)))
    full = b.icmp_signed("<", I64(tile.vectors), left)
    return b.select(full, I64(tile.vectors), left)


# A single row ---------------------------------------------------------------------------------------------------------


def single_row(f: Frame, sweep: Sweep, tile: Tile, packed: Any, row: Any) -> None:
    """Some blocks at a time, their sums in registers: LLVM keeps no array in memory that only constants index."""
    b = f.b
    whole, rest = divmod(tile.blocks, tile.together)
    with counted(b, whole) as turn:
        first = b.mul(block_of(f, turn, whole), I64(tile.together))
        single_blocks(f, sweep, tile, packed, row, first, tile.together)
    if rest:
        single_blocks(f, sweep, tile, packed, row, I64(whole * tile.together), rest)


def single_blocks(
    f: Frame, sweep: Sweep, tile: Tile, packed: Any, row: Any, first: Any, count: int
) -> None:
    """`count` blocks of a single row, from block `first` on."""
    b, kind = f.b, f.kind
    here = Row(f, row)
    sums = Sums(tile, kind, f.array(elements(sweep, tile, kind) * count), count)
    blocks = [b.add(first, I64(n)) for n in range(count)]
    for n, block in enumerate(blocks):
        single_begins(f, sweep, tile, sums, here, block, n)
    for group in tile.groups:
        at = offset(b, sums.at, sums.group(group))
        weights = weights_of(b, kind, packed, group, first)
        loop = loop_of(f, tile, group, 1, count, True)
        b.call(loop, [at, at, I64(0), weights, *operands_of(f, group, here)])
    numbers_of(f, sweep.lines, [here])
    here.find(sweep.lines, sweep.stores)
    parts = []
    for n, block in enumerate(blocks):
        for u in range(tile.vectors):
            vector = b.add(b.mul(block, I64(tile.vectors)), I64(u))
            part = units(b, kind, sweep.size, vector)
            parts.append((vector, Vector(here, part, lambda a, n=n, u=u: sums.load(b, a, n, u))))
    needed = -(-sweep.size // kind.lanes)
    if needed % tile.vectors == 0:
        finish(f, sweep, [v for _, v in parts])
    else:
        for vector, v in parts:
            with b.if_then(b.icmp_signed("<", vector, I64(needed))):
                finish(f, sweep, [v])


def single_begins(
    f: Frame, sweep: Sweep, tile: Tile, sums: Sums, row: Row, block: Any, n: int
) -> None:
    """What the sums of one block begin with."""
    b = f.b
    for a, u, value in bias_sums(f, sweep, tile, block):
        sums.store(b, value, a, n, u)
    started = [(a, s.start) for a, s in enumerate(sweep.accumulators) if s.start is not None]
    if started:
        with b.if_then(b.not_(f.has("after"))):
            for u in range(tile.vectors):
                part = inner_part(f, sweep, tile, block, u)
                for a, start in started:
                    sums.store(b, Vector(Row(f, row.number), part).read(start, False), a, n, u)
