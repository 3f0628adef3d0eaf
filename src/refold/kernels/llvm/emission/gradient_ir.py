"""The code behind `gradient`: sums of products over many rows, one library for each kind of vectors and of numbers.

A block is a run of adjacent left columns, a few vectors wide. Its rows are taken in chunks. A tile multiplies the
block's columns with up to six right columns, whose numbers are spread over vectors. The first tile of a chunk may copy
the block's columns into a panel on the way, which stays in the first cache for the other tiles. Every chunk's sums are
added to the totals of the block, [right column][left column], which go to the outputs in the end. Row 0 of the totals
has the sums of the left itself. A stretch is some blocks that have the same rights: they take a chunk one after the
other, while the rights' rows are in the second cache.

    void run(int64 *context, int64 begin, int64 end)      the tiles that begin at the costs begin..end-1

Tables of int64; addresses in them are absolute, strides in bytes:
    context  CONTEXT: stretches; address of them; memory; bytes of it for one thread; threads so far
    stretch  STRETCH: address of its first block; blocks; bytes of the totals of one
    block    BLOCK:   cost of the blocks before it; tiles; vectors; columns; bytes to the first one; left stride; runs;
                      address of the runs; words in a run; address of the tiles; outputs; address of the outputs
    run      RUN:     rows; left address; then the address of each right
    tile     TILE:    right (-1: none); bytes to its first column; columns; right stride; first row of the totals
    output   OUTPUT:  first row of the totals; rows; first column in the block; columns; address; bytes from column to
                      column; bytes from row to row; whether to add
A tile costs its columns times the block's vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from refold.kernels.llvm.machine.host import Host

from .gradient_text import Text

CONTEXT, STRETCH, BLOCK, RUN, TILE, OUTPUT = 5, 3, 12, 2, 5, 8
SIZES = (6, 4, 1)  # right columns of a tile: every even number from 4 on is made of sixes and fours
FIRST = 4  # ... of one that fills the panel, where the left's own sums need registers too
PANEL = 24 << 10  # bytes: within the first cache, beside a few lines of each right row
ROWS = 128  # of a chunk at most
BLOCKS = 8  # of a stretch at most
LIMITS = 16 * BLOCKS  # bytes in which a thread notes which tiles it has of each
TOTALS = 256 << 10  # bytes of the totals of a stretch, unless one block has more: the second cache
LINE = 64  # bytes; panels and totals begin at multiples of it


@dataclass(frozen=True, slots=True)
class Kind:
    """Vectors and numbers of one library.

    widths  how many vectors wide a block may be, widest first: with six columns, what the registers hold
    """

    widths: tuple[int, ...]
    lanes: int
    size: int  # bytes of a number

    @property
    def number(self) -> str:
        return "float" if self.size == 4 else "double"

    @property
    def vector(self) -> str:
        return f"<{self.lanes} x {self.number}>"

    @property
    def vector_bytes(self) -> int:
        return self.lanes * self.size

    @property
    def rows(self) -> int:
        """Rows of a chunk at most."""
        return min(ROWS, PANEL // (self.widths[0] * self.vector_bytes))

    @property
    def panel_bytes(self) -> int:
        return self.rows * self.widths[0] * self.vector_bytes


def kind_of(host: Host, dtype: torch.dtype) -> Kind:
    """What decides the code.

    Errors  KernelError for a type other than float32 and float64
    """
    widths = (4, 2) if host.vector_registers >= 32 else (2,)
    return Kind(widths, host.lanes(dtype), dtype.itemsize)


DECLARED = (
    "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)",
    "declare i64 @llvm.smax.i64(i64, i64)",
    "declare i64 @llvm.smin.i64(i64, i64)\n",
)


def module(kind: Kind) -> str:
    """All functions of one library; `run` is the one to call."""
    functions = [tile(kind, w, c, fill=False) for w in kind.widths for c in SIZES]
    functions += [tile(kind, w, c, fill=True) for w in kind.widths for c in (FIRST, 0)]
    functions += [stage(kind), settle(kind), begin_block(kind), chunk(kind), end_block(kind)]
    functions += [tiles_before(), run(kind)]
    return "\n".join([*DECLARED, table(kind), *map(str, functions)])


def table(kind: Kind) -> str:
    """The tiles by their vectors (as a number of pairs) and columns, as a constant."""
    has = {(w, c) for w in kind.widths for c in SIZES}
    names = [
        f"ptr @plain{w}.{c}" if (w, c) in has else "ptr null"
        for w in range(0, kind.widths[0] + 1, 2)
        for c in range(SIZES[0] + 1)
    ]
    return f"@tiles = internal constant [{len(names)} x ptr] [{', '.join(names)}]\n"


# Steps are bytes between rows.
TILE_ARGS = (
    *("ptr %left", "i64 %left.step", "i64 %rows", "ptr %right", "i64 %right.step"),
    *("ptr %totals", "ptr %panel", "ptr %ahead", "i64 %ahead.step"),
)


def tile(kind: Kind, width: int, columns: int, fill: bool) -> Text:
    """totals[right column][left column] += the sum over the rows; the left's columns are `width` vectors.

    `fill`: the left is copied to the panel, and its own sums are added at `ahead`. Without: the left is the panel, and
    at `ahead` lies what will be wanted soon, a line in each row.
    """
    code = Text(f"{'first' if fill else 'plain'}{width}.{columns}", ", ".join(TILE_ARGS))
    vector, wide, row_bytes = kind.vector, kind.vector_bytes, width * kind.vector_bytes
    code.run("br label %rows.loop")
    code.begin("rows.loop")
    carried = (
        *(("row", "i64", "0"), ("here", "ptr", "%left"), ("there", "ptr", "%right")),
        *(("target", "ptr", "%panel"), ("soon", "ptr", "%ahead")),
    )
    for name, type_, start in carried:
        code.run(f"%{name} = phi {type_} [ {start}, %entry ], [ %{name}.next, %rows.loop ]")
    sums = range((columns + fill) * width)
    for s in sums:
        code.run(f"%s{s} = phi {vector} [ zeroinitializer, %entry ], [ %t{s}, %rows.loop ]")
    aligned = kind.size if fill else wide
    values = [code.load(vector, code.at("%here", wide * v), aligned) for v in range(width)]
    if fill:
        for v, value in enumerate(values):
            code.store(vector, value, code.at("%target", wide * v), wide)
            code.run(f"%t{v} = fadd {vector} %s{v}, {value}")
    else:
        code.call("@llvm.prefetch.p0", ["ptr %soon", "i32 0", "i32 2", "i32 1"])
    for c in range(columns):
        spread = code.spread(kind.number, kind.lanes, code.at("%there", kind.size * c), kind.size)
        for v, value in enumerate(values):
            s = (c + fill) * width + v
            product = code.get(f"fmul contract {vector} {spread}, {value}")
            code.run(f"%t{s} = fadd contract {vector} %s{s}, {product}")
    code.run("%row.next = add i64 %row, 1")
    code.step("here", "%left.step" if fill else row_bytes)
    code.step("there", "%right.step")
    code.step("target", row_bytes)
    code.step("soon", "%ahead.step")
    code.run("%more = icmp slt i64 %row.next, %rows")
    code.run("br i1 %more, label %rows.loop, label %done")
    code.begin("done")
    for s in sums:
        own = fill and s < width
        place = (
            code.at("%ahead", wide * s) if own else code.at("%totals", wide * (s - fill * width))
        )
        old = code.load(vector, place, wide)
        code.store(vector, code.get(f"fadd {vector} {old}, %t{s}"), place, wide)
    return code


def stage(kind: Kind) -> Text:
    """Copy columns that do not fill the panel's vectors into it, zeros beside them."""
    code = Text("stage", "ptr %left, i64 %step, i64 %rows, i64 %bytes, ptr %panel, i64 %panel.step")
    with code.loop(0, "%rows") as r:
        source = code.at("%left", code.mul(r, "%step"))
        target = code.at("%panel", code.mul(r, "%panel.step"))
        with code.loop(0, "%panel.step", kind.vector_bytes) as c:
            code.store(kind.vector, "zeroinitializer", code.at(target, c), kind.vector_bytes)
        with code.loop(0, "%bytes", kind.size) as c:
            value = code.load(kind.number, code.at(source, c), kind.size)
            code.store(kind.number, value, code.at(target, c), kind.size)
    return code


def settle(kind: Kind) -> Text:
    """Bring rows of the totals to an output."""
    args = (
        "ptr %source, i64 %step, i64 %rows, i64 %columns, ptr %out, i64 %over, i64 %down, i64 %add"
    )
    code = Text("settle", args)
    square = min(kind.lanes, 8)
    adds = code.is_("ne", "%add", 0)
    near = code.is_("eq", "%down", kind.size)
    low_rows = code.choose(near, "i64", code.get(f"and i64 %rows, {-square}"), 0)
    low_columns = code.get(f"and i64 %columns, {-square}")
    with code.loop(0, low_columns, square) as c, code.loop(0, low_rows, square) as r:
        corner = code.at("%source", code.add(code.mul(r, "%step"), code.mul(c, kind.size)))
        to = code.at("%out", code.add(code.mul(c, "%over"), code.mul(r, kind.size)))
        vector = f"<{square} x {kind.number}>"
        rows = [code.at(corner, code.mul("%step", i)) for i in range(square)]
        values = [code.load(vector, row, kind.size) for row in rows]
        for i, value in enumerate(transposed(code, vector, values)):
            write(code, vector, kind.size, value, code.at(to, code.mul("%over", i)), adds)
    with code.loop(0, "%columns") as c:
        first = code.at("%source", code.mul(c, kind.size))
        to = code.at("%out", code.mul(c, "%over"))
        left = code.choose(code.is_("slt", c, low_columns), "i64", low_rows, 0)
        with code.loop(left, "%rows") as r:
            value = code.load(kind.number, code.at(first, code.mul(r, "%step")), kind.size)
            write(code, kind.number, kind.size, value, code.at(to, code.mul(r, "%down")), adds)
    return code


def write(code: Text, type_: str, align: int, value: str, place: str, adds: str) -> None:
    """Store a value, or add it to what is there."""
    old = code.load(type_, place, align)
    both = code.get(f"fadd {type_} {old}, {value}")
    code.store(type_, code.choose(adds, type_, both, value), place, align)


def transposed(code: Text, vector: str, rows: list[str]) -> list[str]:
    """The columns of a square of numbers: halves change places, then halves of halves, and so on."""
    count = len(rows)
    step = count // 2
    while step:
        new = list(rows)
        for i in (i for i in range(count) if not i & step):
            low = [j if not j & step else count + j - step for j in range(count)]
            high = [j + step if not j & step else count + j for j in range(count)]
            for k, lanes in ((i, low), (i + step, high)):
                order = ", ".join(f"i32 {lane}" for lane in lanes)
                both = f"{vector} {rows[i]}, {vector} {rows[i + step]}"
                new[k] = code.get(f"shufflevector {both}, <{count} x i32> <{order}>")
        rows, step = new, step // 2
    return rows


# What the parts of a block's work are given: its record, its tiles low..high-1, where its totals are.
BLOCK_ARGS = "ptr %record, i64 %low, i64 %high, ptr %totals"


def begin_block(kind: Kind) -> Text:
    """Totals of nothing."""
    code = Text("begin.block", BLOCK_ARGS)
    row_bytes = code.mul(code.word("%record", 2), kind.vector_bytes)
    first, end = covered(code)
    clear(code, kind, "%totals", row_bytes)
    top = code.at("%totals", code.mul(first, row_bytes))
    clear(code, kind, top, code.mul(code.sub(end, first), row_bytes))
    return code


def covered(code: Text) -> tuple[str, str]:
    """The rows of the totals that tiles low..high-1 have: the first, and the one behind the last."""
    tiles = code.address("%record", 9)
    last = Tile(code, tiles, code.sub("%high", 1))
    return Tile(code, tiles, "%low").row, code.add(last.row, last.columns)


def clear(code: Text, kind: Kind, place: str, count: str) -> None:
    """Fill some bytes, a multiple of a vector's, with zeros."""
    with code.loop(0, count, kind.vector_bytes) as i:
        code.store(kind.vector, "zeroinitializer", code.at(place, i), kind.vector_bytes)


def chunk(kind: Kind) -> Text:
    """Add the rows skipped..until-1 of a run to the totals."""
    code = Text("chunk", f"{BLOCK_ARGS}, ptr %panel, ptr %run, i64 %skipped, i64 %until")
    width, columns, shift, step = (code.word("%record", i) for i in range(2, 6))
    tiles = code.address("%record", 9)
    row_bytes = code.mul(width, kind.vector_bytes)
    top = code.at(code.address("%run", 1), shift)
    left = code.at(top, code.mul("%skipped", step))
    count = code.sub("%until", "%skipped")
    used = code.mul(columns, kind.size)
    partial = code.is_("slt", used, row_bytes)
    with code.when(partial):
        shape = [f"ptr {left}", f"i64 {step}", f"i64 {count}", f"i64 {used}"]
        code.call("@stage", [*shape, "ptr %panel", f"i64 {row_bytes}"])
    source = code.choose(partial, "ptr", "%panel", left)
    source_step = code.choose(partial, "i64", row_bytes, step)

    def with_tile(tile: Tile) -> list[str]:
        right, to = tile.right("%run", "%skipped"), tile.place("%totals", row_bytes)
        return [f"i64 {count}", f"ptr {right}", f"i64 {tile.step}", f"ptr {to}", "ptr %panel"]

    begin = Tile(code, tiles, "%low")
    fused, none = code.is_("eq", begin.columns, FIRST), code.is_("eq", begin.columns, 0)
    args = [f"ptr {source}", f"i64 {source_step}", *with_tile(begin), "ptr %totals", "i64 0"]
    for w in kind.widths:
        with code.when(code.is_("eq", width, w)):
            with code.when(fused):
                code.call(f"@first{w}.{FIRST}", args)
            with code.when(code.get(f"xor i1 {fused}, true")):
                code.call(f"@first{w}.0", args)
    # Each of the other tiles fetches one line of every row of the next chunk.
    following = code.at(top, code.mul("%until", step))
    known = code.is_("slt", "%until", code.word("%run", 0))
    lines = code.get(f"sdiv i64 {row_bytes}, {LINE}")
    pair = code.mul(code.get(f"sdiv i64 {width}, 2"), SIZES[0] + 1)
    second = code.add("%low", code.get(f"zext i1 {code.get(f'or i1 {fused}, {none}')} to i64"))
    with code.loop(second, "%high") as t:
        this, line = Tile(code, tiles, t), code.sub(t, second)
        wanted = code.get(f"and i1 {known}, {code.is_('slt', line, lines)}")
        place = code.at(following, code.mul(line, LINE))
        ahead = code.choose(wanted, "ptr", place, "%panel")
        ahead_step = code.choose(wanted, "i64", step, 0)
        function = code.address(code.record("@tiles", code.add(pair, this.columns), 1), 0)
        args = ["ptr %panel", f"i64 {row_bytes}", *with_tile(this)]
        code.call(function, [*args, f"ptr {ahead}", f"i64 {ahead_step}"])
    return code


def end_block(kind: Kind) -> Text:
    """The totals to the outputs. The first tile's share has the sums of the left, too."""
    code = Text("end.block", BLOCK_ARGS)
    row_bytes = code.mul(code.word("%record", 2), kind.vector_bytes)
    first, end = covered(code)
    first = code.choose(code.is_("eq", "%low", 0), "i64", 0, first)
    with code.loop(0, code.word("%record", 10)) as o:
        out = code.record(code.address("%record", 11), o, OUTPUT)
        row, rows, column, columns = (code.word(out, i) for i in range(4))
        address = code.address(out, 4)
        over, down, add = (code.word(out, i) for i in range(5, 8))
        from_row = code.get(f"call i64 @llvm.smax.i64(i64 {row}, i64 {first})")
        end_row = code.get(f"call i64 @llvm.smin.i64(i64 {code.add(row, rows)}, i64 {end})")
        count = code.get(f"call i64 @llvm.smax.i64(i64 {code.sub(end_row, from_row)}, i64 0)")
        source = code.add(code.mul(from_row, row_bytes), code.mul(column, kind.size))
        to = code.at(address, code.mul(code.sub(from_row, row), down))
        shape = [f"i64 {row_bytes}", f"i64 {count}", f"i64 {columns}"]
        steps = [f"i64 {over}", f"i64 {down}", f"i64 {add}"]
        code.call("@settle", [f"ptr {code.at('%totals', source)}", *shape, f"ptr {to}", *steps])
    return code


class Tile:
    """The fields of a tile, loaded."""

    def __init__(self, code: Text, tiles: str, number: str):
        self.code = code
        record = code.record(tiles, number, TILE)
        self.operand, self.shift, self.columns, self.step, self.row = (
            code.word(record, i) for i in range(TILE)
        )

    def right(self, run: str, skipped: str) -> str:
        """Where its columns begin in a run, some rows on."""
        first = self.code.load("ptr", self.code.record(run, self.code.add(self.operand, RUN), 1), 8)
        return self.code.at(first, self.code.add(self.shift, self.code.mul(skipped, self.step)))

    def place(self, totals: str, row_bytes: str) -> str:
        return self.code.at(totals, self.code.mul(self.row, row_bytes))


def run(kind: Kind) -> Text:
    """The tiles that begin at the costs begin..end-1, stretch by stretch."""
    code = Text("run", "ptr %context, i64 %begin, i64 %end", public=True)
    found = code.get("alloca i64")
    number = code.get(f"atomicrmw add ptr {code.at('%context', 8 * 4)}, i64 1 monotonic")
    memory = code.at(code.address("%context", 2), code.mul(number, code.word("%context", 3)))
    with code.loop(0, code.word("%context", 0)) as i:
        stretch = code.record(code.address("%context", 1), i, STRETCH)
        first, count, apart = code.address(stretch, 0), code.word(stretch, 1), code.word(stretch, 2)
        blocks = Blocks(code, kind, memory, first, count, apart)
        blocks.share(found)
        with code.when(code.is_("sgt", code.load("i64", found, 8), 0)):
            with blocks.each() as args:
                code.call("@begin.block", args)
            with code.loop(0, code.word(first, 6)) as r:
                run = code.record(code.address(first, 7), r, code.word(first, 8))
                whole = code.word(run, 0)
                parts = code.get(f"sdiv i64 {code.add(whole, kind.rows - 1)}, {kind.rows}")
                with code.loop(0, parts) as p:
                    skipped = code.get(f"sdiv i64 {code.mul(whole, p)}, {parts}")
                    until = code.get(f"sdiv i64 {code.mul(whole, code.add(p, 1))}, {parts}")
                    rows = [f"ptr {run}", f"i64 {skipped}", f"i64 {until}"]
                    with blocks.each() as args:
                        code.call("@chunk", [*args, f"ptr {memory}", *rows])
            with blocks.each() as args:
                code.call("@end.block", args)
    return code


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of a stretch, to one thread. In its memory lie the panel, the limits of its tiles, the totals."""

    code: Text
    kind: Kind
    memory: str
    first: str
    count: str
    apart: str  # bytes from totals to totals

    def share(self, found: str) -> None:
        """Find out which tiles are this thread's; their number goes to `found`."""
        code = self.code
        code.store("i64", "0", found, 8)
        with code.loop(0, self.count) as i:
            record, limits = code.record(self.first, i, BLOCK), self._limits(i)
            low, high = code.at(limits, 0), code.at(limits, 8)
            for edge, place in (("%begin", low), ("%end", high)):
                code.call("@tiles.before", [f"ptr {record}", f"i64 {edge}", f"ptr {place}"])
            own = code.sub(code.load("i64", high, 8), code.load("i64", low, 8))
            code.store("i64", code.add(code.load("i64", found, 8), own), found, 8)

    def _limits(self, number: str) -> str:
        return self.code.record(self.code.at(self.memory, self.kind.panel_bytes), number, 2)

    @contextmanager
    def each(self) -> Iterator[list[str]]:
        """What to call for every block of which tiles are this thread's."""
        code = self.code
        with code.loop(0, self.count) as i:
            limits = self._limits(i)
            low, high = code.word(limits, 0), code.word(limits, 1)
            with code.when(code.is_("slt", low, high)):
                record = code.record(self.first, i, BLOCK)
                skipped = code.mul(self.apart, i)
                start = code.at(self.memory, self.kind.panel_bytes + LIMITS)
                totals = code.at(start, skipped)
                yield [f"ptr {record}", f"i64 {low}", f"i64 {high}", f"ptr {totals}"]


def tiles_before() -> Text:
    """How many tiles of a block begin before some cost."""
    code = Text("tiles.before", "ptr %record, i64 %edge, ptr %found")
    before, count, width = (code.word("%record", i) for i in range(3))
    code.store("i64", "0", "%found", 8)
    with code.loop(0, count) as t:
        row = Tile(code, code.address("%record", 9), t).row
        begins = code.add(before, code.mul(width, code.sub(row, 1)))
        earlier = code.get(f"zext i1 {code.is_('slt', begins, '%edge')} to i64")
        code.store("i64", code.add(code.load("i64", "%found", 8), earlier), "%found", 8)
    return code
