"""How each sweep of a program is cut to fit the registers, and how its weights are packed for that.

A sweep goes over blocks of `vectors` vectors of units, and in each block over tiles of at most `rows` rows. In a tile
every accumulator of a group has a register for each row and vector; one number of a row's operand at a time is
multiplied with the weights of a whole block. The packer and the emitter read the same record, so they cannot disagree.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import torch

from refold.kernels.llvm.machine.host import Host

from .program import Access, Matrix, Product, Program, Sweep

# Multiply-adds that have to be under way at a time: two units, four cycles each.
CHAINS = 8
# Bytes of weights that stay in the nearest cache from step to step, beside all else.
NEAR = 1 << 15
# Rows whose lines are worked out together, instruction by instruction: more than one chain of operations at a time.
ABREAST = 2


@dataclass(frozen=True, slots=True)
class Pack:
    """Where one matrix goes in the packed weights of its pass. All in elements.

    packed[offset + block * block_stride + k * k_stride + lane] = sign * M[block * width + lane, k], and 0 past the
    last row; M is the matrix after `transposed`.
    """

    matrix: Matrix
    sign: float
    rows: int
    columns: int
    offset: int
    block_stride: int
    k_stride: int
    width: int


@dataclass(frozen=True, slots=True)
class Segment:
    """One K-loop: `size` numbers of a row, times a vector block of weights for each of some accumulators.

    offset  where its weights begin, from the beginning of the group's block
    skipped the operand lies in the step after this one: left out in rows that have none
    """

    operand: Access
    size: int
    accumulators: tuple[int, ...]
    offset: int

    @property
    def skipped(self) -> bool:
        return self.operand.when != "now" and self.operand.otherwise is None


@dataclass(frozen=True, slots=True)
class Group:
    """Accumulators of a sweep that are in registers together.

    offset, block  where its weights begin, and from one block to the next
    """

    accumulators: tuple[int, ...]
    segments: tuple[Segment, ...]
    offset: int
    block: int


@dataclass(frozen=True, slots=True)
class Tile:
    """How a sweep with accumulators is cut.

    vectors   of units in a block
    blocks    that the units take, the last one filled up with zeros
    rows      at most, in a tile
    split     partial sums that take turns along K, so that enough multiply-adds are under way
    together  blocks at a time where a single row is left; 0: such a row has no code of its own
    size      elements of the packed weights
    """

    vectors: int
    blocks: int
    rows: int
    split: int
    together: int
    groups: tuple[Group, ...]
    packs: tuple[Pack, ...]
    size: int


def tiles(program: Program, host: Host, dtype: torch.dtype) -> tuple[Tile | None, ...]:
    """How each pass of a program is cut; None for folds and for sweeps without products."""
    return tuple(
        tile(step, host, dtype) if isinstance(step, Sweep) and step.accumulators else None
        for step in program.passes
    )


def tile(sweep: Sweep, host: Host, dtype: torch.dtype) -> Tile:
    """Cut one sweep."""
    lanes, registers = host.lanes(dtype), host.vector_registers
    members = grouped(sweep, most_sums(registers))
    largest = max(map(len, members))
    vectors, rows, split = shape(-(-sweep.size // lanes), largest, registers)
    blocks = -(-sweep.size // (vectors * lanes))
    groups, packs, size = [], [], 0
    for accumulators in members:
        group, parts = packed(sweep, accumulators, size, vectors * lanes)
        groups.append(group)
        packs += parts
        size += group.block * blocks
    room = (registers - 6) // (len(sweep.accumulators) * vectors * split)
    enough = -(-CHAINS // (largest * vectors * split))
    together = alone(min(room, enough), blocks, size * dtype.itemsize)
    return Tile(vectors, blocks, rows, split, together, tuple(groups), tuple(packs), size)


def grouped(sweep: Sweep, most: int) -> list[tuple[int, ...]]:
    """The accumulators in groups as equal as can be, those that read the same operands together."""
    alike: dict[frozenset[Access], list[int]] = {}
    for i, accumulator in enumerate(sweep.accumulators):
        alike.setdefault(frozenset(p.operand for p in accumulator.products), []).append(i)
    order = [i for members in alike.values() for i in members]
    count = -(-len(order) // most)
    size, longer = divmod(len(order), count)
    groups, start = [], 0
    for number in range(count):
        end = start + size + (number < longer)
        groups.append(tuple(order[start:end]))
        start = end
    return groups


def shape(needed: int, largest: int, registers: int) -> tuple[int, int, int]:
    """(vectors in a block, rows in a tile, partial sums) for `needed` vectors of units."""
    sums = partial_sums(largest * needed)
    widest = max(1, most_sums(registers) // largest)
    found = {v: rows_for(largest * v, sums, registers) for v in range(1, min(widest, needed) + 1)}
    # A block of one vector has as many loads as multiply-adds; beyond that, what leaves room for all partial sums.
    roomy = [v for v, (_, split) in found.items() if split == sums and largest * v > 1]
    vectors = min(roomy or found, key=lambda v: (cost(needed, largest * v, v, found[v][0]), -v))
    return vectors, *found[vectors]


def cost(needed: int, wide: int, vectors: int, rows: int) -> float:
    """Of one row of a tile: the multiply-adds, or the loads where these are more, of all blocks.

    What fills up the last block counts too.
    """
    loads = wide + rows
    return -(-needed // vectors) * (max(wide * rows, loads) + loads / 4) / rows


def most_sums(registers: int) -> int:
    """Accumulators in a group, or vectors of one accumulator in a block."""
    return 4 if registers >= 32 else 3


def partial_sums(chains: int) -> int:
    """Into how many sums K is split where a single row has few chains of multiply-adds: 1, 2 or 4."""
    return 4 if chains == 1 else 2 if chains <= CHAINS // 2 else 1


def rows_for(wide: int, split: int, registers: int) -> tuple[int, int]:
    """(rows in a tile, partial sums) by the register rule: accumulators, one row of weights, one number of the operand.

    Partial sums are for single rows; where they would leave no room for two sets of rows, K is split into fewer.
    """
    sets = ((registers - 1) // wide - 1) // split // ABREAST
    if sets < 2 and split > 1:
        return rows_for(wide, split // 2, registers)
    most = (8 if wide <= 2 else 6) // ABREAST
    return ABREAST * max(1, min(most, sets)), split


def alone(most: int, blocks: int, size: int) -> int:
    """How many of the blocks, at most `most`, a single row takes at a time; 0 when not even one fits the registers."""
    if most < 1:
        return 0
    turns = -(-blocks // most)
    if turns == 1 and blocks > 1 and NEAR < size <= 3 * NEAR:
        turns = 2  # the half that one step used last is what the next begins with
    return -(-blocks // turns)


def packed(
    sweep: Sweep, accumulators: tuple[int, ...], offset: int, width: int
) -> tuple[Group, list[Pack]]:
    """The segments of a group, and where the matrices of each go."""
    runs = merged(operands(sweep, accumulators))
    segments, parts, start = [], [], 0
    for run in runs:
        members = tuple(run[0])
        begin = start
        for piece in run:
            for position, product in enumerate(piece.values()):
                parts.append((product, start + position * width, len(members) * width))
            start += next(iter(piece.values())).size * len(members) * width
        first = next(iter(run[0].values()))
        size = sum(next(iter(piece.values())).size for piece in run)
        segments.append(Segment(first.operand, size, members, begin))
    packs = [
        Pack(p.matrix, p.sign, sweep.size, p.size, offset + at, start, stride, width)
        for p, at, stride in parts
    ]
    return Group(accumulators, tuple(segments), offset, start), packs


Products = dict[int, Product]  # by accumulator


def operands(sweep: Sweep, accumulators: tuple[int, ...]) -> list[Products]:
    """The products of a group by what they read; first what does not wait for the step before."""
    found: dict[tuple[Access, int, int], Products] = {}
    for i in accumulators:
        seen: Counter[Access] = Counter()
        for product in sweep.accumulators[i].products:
            key = (product.operand, product.size, seen[product.operand])
            found.setdefault(key, {})[i] = product
            seen[product.operand] += 1
    return sorted(
        found.values(), key=lambda products: next(iter(products.values())).operand.when != "now"
    )


def merged(products: list[Products]) -> list[list[Products]]:
    """Runs of products of the same accumulators whose operands lie side by side in memory."""
    runs: list[list[Products]] = []
    for piece in products:
        if runs and follows(runs[-1][-1], piece):
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return runs


def follows(left: Products, right: Products) -> bool:
    """Whether the operand of `right` begins where that of `left` ends."""
    a, b = next(iter(left.values())), next(iter(right.values()))
    return tuple(left) == tuple(right) and shifted(a.operand, a.size) == b.operand


def shifted(access: Access, columns: int) -> Access:
    """The same access some columns further on."""
    other = access.otherwise
    return replace(
        access,
        column=access.column + columns,
        otherwise=None if other is None else shifted(other, columns),
    )
