"""The inner loop: a tile's products, accumulated in registers. Written as text, which reads like the loop it becomes.

    void name(ptr out, ptr begin, i64 begin_stride, ptr weights, ptr operand, i64 stride, ...)

For each row, block, accumulator and vector of units: out = begin + sum over k of weights[k] * operand[row, k]. Operands
are given by their first row and the bytes from row to row; one that lies in a step that does not exist is null.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from refold.kernels.llvm.lowering.schedule import Group, Segment, Tile

Sums = dict[
    tuple[int, int, int, int], list[str]
]  # (row, block, accumulator, vector) -> partial sums


@dataclass(frozen=True, slots=True)
class Loop:
    """What one function is for.

    rows, blocks  of the tile; inline: the caller keeps the sums in registers
    """

    name: str
    tile: Tile
    group: Group
    rows: int
    blocks: int
    inline: bool
    number: str
    bytes: int
    lanes: int

    @property
    def vector(self) -> str:
        return f"<{self.lanes} x {self.number}>"

    @property
    def keys(self) -> list[tuple[int, int, int, int]]:
        """In the order in which `begin` and `out` hold them."""
        return [
            (row, block, a, v)
            for row in range(self.rows)
            for block in range(self.blocks)
            for a in self.group.accumulators
            for v in range(self.tile.vectors)
        ]


def product_loop(loop: Loop) -> str:
    """The function, as IR."""
    places = "".join(f", ptr %x{i}, i64 %s{i}" for i in range(len(loop.group.segments)))
    kind = "alwaysinline" if loop.inline else "noinline"
    text = [
        f"define internal void @{loop.name}(ptr %out, ptr %begin, i64 %bs, "
        f"ptr noalias %w{places}) {kind} nounwind {{",
        "entry:",
        *load_begin(loop),
    ]
    sums: Sums = {key: [f"%b{text_of(key)}"] for key in loop.keys}
    block = "entry"
    for i, segment in enumerate(loop.group.segments):
        text += segment_loop(loop, i, segment, sums, block)
        block = f"done{i}"
    text += store_sums(loop, sums)
    return "\n".join([*text, "  ret void", "}", ""])


def text_of(key: tuple[int, ...]) -> str:
    return "_".join(map(str, key))


def load_begin(loop: Loop) -> Iterator[str]:
    """What each sum begins with."""
    per_row = len(loop.keys) // loop.rows
    for n, key in enumerate(loop.keys):
        row, name = key[0], text_of(key)
        if n % per_row == 0:
            yield f"  %br{row}.o = mul i64 %bs, {row}"
            yield f"  %br{row} = getelementptr i8, ptr %begin, i64 %br{row}.o"
        yield f"  %ba{name} = getelementptr {loop.vector}, ptr %br{row}, i64 {n % per_row}"
        yield f"  %b{name} = load {loop.vector}, ptr %ba{name}, align {loop.bytes}"


def store_sums(loop: Loop, sums: Sums) -> Iterator[str]:
    for n, key in enumerate(loop.keys):
        name = text_of(key)
        yield f"  %oa{name} = getelementptr {loop.vector}, ptr %out, i64 {n}"
        yield f"  store {loop.vector} {sums[key][0]}, ptr %oa{name}, align {loop.bytes}"


def segment_loop(loop: Loop, i: int, segment: Segment, sums: Sums, before: str) -> list[str]:
    """One segment's products, added to its accumulators: `split` numbers of the operand in a round, then the rest."""
    split = loop.tile.split
    keys = [key for key in loop.keys if key[2] in segment.accumulators]
    step = (
        len(segment.accumulators) * loop.tile.vectors * loop.lanes * loop.bytes
    )  # bytes to the next k
    rounds, rest = divmod(segment.size, split)
    text = []
    if segment.skipped:
        text += [
            f"  %no{i} = icmp eq ptr %x{i}, null",
            f"  br i1 %no{i}, label %done{i}, label %first{i}",
            f"first{i}:",
        ]
    else:
        text += [f"  br label %first{i}", f"first{i}:"]
    for row in range(1, loop.rows):
        text.append(f"  %xo{i}_{row} = mul i64 %s{i}, {row}")
        text.append(f"  %x{i}_{row} = getelementptr i8, ptr %x{i}, i64 %xo{i}_{row}")
    begin = {key: [sums[key][0], *["zeroinitializer"] * (split - 1)] for key in keys}
    now, here = begin, f"first{i}"
    text.append(f"  %w{i} = getelementptr i8, ptr %w, i64 {segment.offset * loop.bytes}")
    k, weights = "0", f"%w{i}"
    if rounds:
        names = {key: [f"%c{i}_{text_of(key)}_{s}" for s in range(split)] for key in keys}
        body, after = multiply(loop, i, segment, keys, names, split, "%k" + str(i), f"%wk{i}", "l")
        text += [
            f"  br label %loop{i}",
            f"loop{i}:",
            f"  %k{i} = phi i64 [ 0, %first{i} ], [ %kn{i}, %loop{i} ]",
            f"  %wk{i} = phi ptr [ %w{i}, %first{i} ], [ %wn{i}, %loop{i} ]",
        ]
        for key in keys:
            for name, old, new in zip(names[key], begin[key], after[key], strict=True):
                text.append(
                    f"  {name} = phi {loop.vector} [ {old}, %first{i} ], [ {new}, %loop{i} ]"
                )
        text += body
        text += [
            f"  %kn{i} = add nuw nsw i64 %k{i}, {split}",
            f"  %wn{i} = getelementptr i8, ptr %wk{i}, i64 {step * split}",
            f"  %more{i} = icmp ult i64 %kn{i}, {rounds * split}",
            f"  br i1 %more{i}, label %loop{i}, label %rest{i}",
            f"rest{i}:",
        ]
        now, here, k, weights = after, f"rest{i}", str(rounds * split), f"%wn{i}"
    if rest:
        body, now = multiply(loop, i, segment, keys, now, rest, k, weights, "r")
        text += body
    for key in keys:
        text_added, total = added(loop, i, key, now[key])
        text += text_added
        now[key] = [total]
    text += [f"  br label %done{i}", f"done{i}:"]
    for key in keys:
        if segment.skipped:
            name = f"%d{i}_{text_of(key)}"
            text.append(
                f"  {name} = phi {loop.vector} [ {now[key][0]}, %{here} ], [ {sums[key][0]}, %{before} ]"
            )
            sums[key] = [name]
        else:
            sums[key] = now[key]
    return text


def multiply(
    loop: Loop,
    i: int,
    segment: Segment,
    keys: list[tuple[int, int, int, int]],
    sums: Sums,
    count: int,
    k: str,
    weights: str,
    tag: str,
) -> tuple[list[str], Sums]:
    """The multiply-adds of `count` numbers of the operand, the first at k, each into its own partial sum."""
    kind, text = loop.vector, []
    result = {key: list(sums[key]) for key in keys}
    width = len(segment.accumulators) * loop.tile.vectors
    for s in range(count):
        mark = f"{tag}{i}_{s}"
        for block in range(loop.blocks):
            for n in range(width):
                at = (
                    block * loop.group.block * loop.bytes
                    + (s * width + n) * loop.lanes * loop.bytes
                )
                name = f"{mark}_{block}_{n}"
                text.append(f"  %wa{name} = getelementptr i8, ptr {weights}, i64 {at}")
                text.append(f"  %wv{name} = load {kind}, ptr %wa{name}, align {loop.bytes}")
        for row in range(loop.rows):
            source = f"%x{i}_{row}" if row else f"%x{i}"
            name = f"{mark}_{row}"
            text += [
                f"  %xk{name} = getelementptr {loop.number}, ptr {source}, i64 {k}",
                f"  %xa{name} = getelementptr {loop.number}, ptr %xk{name}, i64 {s}",
                f"  %xs{name} = load {loop.number}, ptr %xa{name}, align {loop.bytes}",
                f"  %xi{name} = insertelement {kind} poison, {loop.number} %xs{name}, i32 0",
                f"  %xv{name} = shufflevector {kind} %xi{name}, {kind} poison, "
                f"<{loop.lanes} x i32> zeroinitializer",
            ]
            for key in keys:
                if key[0] == row:
                    n = segment.accumulators.index(key[2]) * loop.tile.vectors + key[3]
                    name = f"{mark}_{text_of(key)}"
                    text += [
                        f"  %m{name} = fmul contract {kind} %xv{mark}_{row}, %wv{mark}_{key[1]}_{n}",
                        f"  %a{name} = fadd contract {kind} %m{name}, {result[key][s]}",
                    ]
                    result[key][s] = f"%a{name}"
    return text, result


def added(loop: Loop, i: int, key: tuple[int, ...], parts: list[str]) -> tuple[list[str], str]:
    """The sum of partial sums, in pairs."""
    text, level = [], 0
    while len(parts) > 1:
        pairs = []
        for n in range(0, len(parts), 2):
            name = f"%t{i}_{text_of(key)}_{level}_{n}"
            text.append(f"  {name} = fadd {loop.vector} {parts[n]}, {parts[n + 1]}")
            pairs.append(name)
        parts, level = pairs, level + 1
    return text, parts[0]
