"""The gradients of matrices and biases: sums over all rows of all steps, worked out behind the loop of a backward half.

    Operand(size, stride, runs)   rows of `size` numbers; consecutive rows of a run are `stride` numbers apart
    Run(buffer, offset, rows)     row i begins at number offset + i * stride of a buffer; runs follow one another
    Output(buffer, offset, stride, add=False)   row n begins at number offset + n * stride; add: to what is there
    Term(left, right, out)        out[n, k] = sum over rows r of left[r, n] * right[r, k]
    Term(left, None, out)         out[n] = sum over rows r of left[r, n]

    work = arrange(terms, dtype, target)   once for given sizes, steps and lengths: there is no address in it
    run(work, addresses)                   addresses[b] is where buffer b lies (data_ptr())

All terms of a half belong in one `arrange`: what shares a left, or has adjacent left columns beside equal rights, is
read once. A left and its right have equally many rows in all, their runs need not match. The state before each step,
beside a left Operand(n, width, (Run(kept, column, T * B),)):  Operand(n, n, (Run(first, 0, B), Run(h, 0, (T - 1) * B)))
Terms with one output are added up; other outputs must not overlap. Every output is written, with zeros if no row is.

Threads split the columns of the outputs, never a sum: the results are the same bits for any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refold.errors import KernelError
from refold.kernels.llvm.emission import gradient_ir as emitted
from refold.kernels.llvm.machine import pool
from refold.kernels.llvm.machine.compile import Library, compile_module
from refold.kernels.llvm.machine.host import Host

WORTH = 500_000  # multiplications for which it pays to wake one more thread
TURN = 1.25  # the right's columns become the vectors when that takes so many times fewer operations
TABLE, SCRATCH = -1, -2  # buffers of a call's own


class Run(NamedTuple):
    """Consecutive rows in a buffer; `offset` in numbers."""

    buffer: int
    offset: int
    rows: int


class Operand(NamedTuple):
    """Rows of `size` numbers, `stride` numbers from row to row; the runs follow one another."""

    size: int
    stride: int
    runs: tuple[Run, ...]

    @property
    def rows(self) -> int:
        return sum(run.rows for run in self.runs)


class Output(NamedTuple):
    """Where a sum goes; `offset` and `stride`, from row to row, in numbers."""

    buffer: int
    offset: int
    stride: int
    add: bool = False


class Term(NamedTuple):
    """left^T right into a matrix, or, without a right, the sum of left's rows into a vector."""

    left: Operand
    right: Operand | None
    out: Output


@dataclass(frozen=True, slots=True)
class Part:
    """Where some columns of a group go."""

    right: int  # which right of the group; -1: none, the sum itself
    column: int  # the first one
    columns: int
    buffer: int
    offset: int
    over: int  # numbers from one of the group's columns to the next
    down: int  # ... from one of the right's columns to the next
    add: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Products with one operand in common: its columns fill the vectors, those of the rights are spread over them."""

    vectors: Operand
    rights: tuple[Operand, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Room:
    """The tables of one call, where the compiled code reads them, and behind them room for so many threads."""

    words: NDArray[np.int64]
    begin: int
    scratch: int  # its address
    threads: int
    memory: Tensor


@dataclass(frozen=True, slots=True)
class Phase:
    """Tables for one call of the compiled code: `words[places[i]]` is the address of `buffers[i]` and `offsets[i]`."""

    words: NDArray[np.int64]
    places: NDArray[np.intp]
    buffers: NDArray[np.intp]
    offsets: NDArray[np.int64]
    cost: int
    least: int
    scratch: int  # bytes for one thread
    rooms: list[Room] = field(default_factory=list)  # that no call is in


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Terms made ready to run, any number of times, from several threads at once."""

    library: Library
    phases: tuple[Phase, ...]


def arrange(terms: Iterable[Term], dtype: torch.dtype, target: Host) -> Work:
    """Decide how terms are worked out together.

    Errors  KernelError when a left and its right differ in rows, and for a type other than float32 and float64
    """
    kind = emitted.kind_of(target, dtype)
    terms = tuple(terms)
    for term in terms:
        check(term)
    phases = tuple(tables(list(groups(phase, kind)), kind) for phase in in_turn(terms))
    return Work(library(target, dtype), phases)


def run(work: Work, addresses: Sequence[int]) -> None:
    """Work all terms out. The memory at the addresses must stay until this returns."""
    function = work.library.address("run")
    for phase in work.phases:
        room = free_room(phase)
        # Counted from the end: SCRATCH is -2, TABLE -1.
        bases = np.array([*addresses, room.scratch, room.begin], dtype=np.int64)
        room.words[:] = phase.words  # among them how many threads have come: the code counts them
        room.words[phase.places] = phase.offsets + bases[phase.buffers]
        pool.run(function, room.begin, 0, phase.cost, least=phase.least)
        phase.rooms.append(room)


def free_room(phase: Phase) -> Room:
    """Room that no other call is in, for as many threads as there are now."""
    threads = pool.threads()
    try:
        room = phase.rooms.pop()
    except IndexError:
        return room_of(phase, threads)
    return room if room.threads >= threads else room_of(phase, threads)


def room_of(phase: Phase, threads: int) -> Room:
    """New room."""
    table = -(-phase.words.nbytes // emitted.LINE) * emitted.LINE
    size = table + phase.scratch * threads + emitted.LINE
    memory = torch.empty(size // 8, dtype=torch.int64)
    skipped = -memory.data_ptr() % emitted.LINE
    begin = memory.data_ptr() + skipped
    words = memory.numpy()[skipped // 8 : skipped // 8 + len(phase.words)]
    return Room(words, begin, begin + table, threads, memory)


@lru_cache(maxsize=16)
def library(target: Host, dtype: torch.dtype) -> Library:
    """The compiled code for one kind of vectors and of numbers: sizes are told to it at every call."""
    kind = emitted.kind_of(target, dtype)
    return compile_module(lambda: emitted.module(kind), target, f"gradient {kind}")


def check(term: Term) -> None:
    if term.right is not None and term.left.rows != term.right.rows:
        raise KernelError(
            f"the left of a product has {term.left.rows} rows, its right {term.right.rows}.",
            "Give both the same rows.",
        )


def in_turn(terms: Sequence[Term]) -> list[list[Term]]:
    """Terms with one output come one after the other, the later ones adding."""
    phases: list[list[Term]] = []
    seen: dict[tuple[int, int], int] = {}
    for term in terms:
        if not term.left.size or (term.right is not None and not term.right.size):
            continue
        place = (term.out.buffer, term.out.offset)
        turn = seen[place] = seen.get(place, -1) + 1
        if turn == len(phases):
            phases.append([])
        later = term._replace(out=term.out._replace(add=True)) if turn else term
        phases[turn].append(later)
    return phases


# Groups ---------------------------------------------------------------------------------------------------------------


def groups(terms: Sequence[Term], kind: emitted.Kind) -> Iterator[Group]:
    """Terms with lefts in the same rows, cut where the rights change."""
    lines: dict[tuple, list[Term]] = {}
    for term in terms:
        first = term.left.runs[0].offset if term.left.runs else 0
        runs = tuple(run._replace(offset=run.offset - first) for run in term.left.runs)
        lines.setdefault((term.left.stride, runs), []).append(term)
    for (stride, runs), found in lines.items():
        for start, end, rights in spans(found):
            moved = tuple(run._replace(offset=run.offset + start) for run in runs)
            yield from turned(Operand(end - start, stride, moved), start, rights, found, kind)


def first_column(term: Term) -> int:
    return term.left.runs[0].offset if term.left.runs else 0


def spans(terms: Sequence[Term]) -> list[tuple[int, int, tuple[Operand, ...]]]:
    """Runs of left columns (first, end) that are multiplied with the same rights."""
    ends = [(first_column(t), first_column(t) + t.left.size) for t in terms]
    cuts = sorted({cut for pair in ends for cut in pair})
    found: list[tuple[int, int, tuple[Operand, ...]]] = []
    for start, end in pairwise(cuts):
        over = [t for t, (a, b) in zip(terms, ends, strict=True) if a <= start and end <= b]
        if not over:
            continue
        rights = tuple(sorted({t.right for t in over if t.right is not None}, key=by_first_tile))
        if found and found[-1][1] == start and found[-1][2] == rights:
            found[-1] = (found[-1][0], end, found[-1][2])
        else:
            found.append((start, end, rights))
    return found


def by_first_tile(right: Operand) -> tuple[bool, Operand]:
    """Begin with one of which the first tile can fill the panel."""
    return cut(right.size)[0] != emitted.FIRST, right


def turned(
    left: Operand,
    start: int,
    rights: tuple[Operand, ...],
    terms: Sequence[Term],
    kind: emitted.Kind,
) -> Iterator[Group]:
    """A span of left columns as one group; where it is too narrow for vectors, a group for each right."""
    found = tuple(parts(left.size, start, rights, terms))
    turn = sum(price(right.size, left.size, kind) for right in rights)
    straight = sum(price(left.size, right.size, kind) for right in rights)
    if turn * TURN >= straight:
        yield Group(left, rights, found)
        return
    for number, right in enumerate(rights):
        mine = [p for p in found if p.right == number]
        lefts = tuple(narrowed(left, p.column, p.columns) for p in mine)
        yield Group(right, lefts, tuple(turned_part(p, i, right) for i, p in enumerate(mine)))
    sums = tuple(p for p in found if p.right < 0)
    if sums:
        yield Group(left, (), sums)


def price(vectors: int, spread: int, kind: emitted.Kind) -> int:
    """Operations for each row, when some columns fill vectors and others are spread over them."""
    wide = sum(width for _, _, width, _ in blocks(vectors, kind))
    return wide * sum(max(2, columns) for columns in cut(spread))  # one column waits for itself


def parts(
    size: int, start: int, rights: tuple[Operand, ...], terms: Sequence[Term]
) -> Iterator[Part]:
    """What of each term's output lies in the columns start..start+size-1 of its left."""
    for term in terms:
        own = first_column(term)
        low, high = max(own, start), min(own + term.left.size, start + size)
        if low >= high:
            continue
        right = -1 if term.right is None else rights.index(term.right)
        over = 1 if term.right is None else term.out.stride
        offset = term.out.offset + (low - own) * over
        yield Part(right, low - start, high - low, term.out.buffer, offset, over, 1, term.out.add)


def narrowed(operand: Operand, column: int, columns: int) -> Operand:
    """Some columns of an operand."""
    runs = tuple(run._replace(offset=run.offset + column) for run in operand.runs)
    return Operand(columns, operand.stride, runs)


def turned_part(part: Part, number: int, right: Operand) -> Part:
    return replace(part, right=number, column=0, columns=right.size, over=part.down, down=part.over)


# Tables ---------------------------------------------------------------------------------------------------------------


class Words:
    """Tables of int64 in one array; an address is written as a buffer and the bytes to add to where it lies."""

    def __init__(self) -> None:
        self.words: list[int] = [0] * emitted.CONTEXT
        self.buffers: dict[int, int] = {}

    def set(self, at: int, *words: int | tuple[int, int]) -> None:
        for i, word in enumerate(words, at):
            if isinstance(word, tuple):
                self.buffers[i], word = word
            self.words[i] = word

    def add_all(self, records: Sequence[tuple[int | tuple[int, int], ...]]) -> tuple[int, int]:
        """Append records; gives their address."""
        begin = len(self.words)
        for record in records:
            at = len(self.words)
            self.words += [0] * len(record)
            self.set(at, *record)
        return TABLE, 8 * begin


def tables(found: Sequence[Group], kind: emitted.Kind) -> Phase:
    """What the compiled code reads: see `gradient_ir`."""
    words = Words()
    stretches: list[tuple[int | tuple[int, int], ...]] = []
    widest = kind.widths[0] * kind.vector_bytes
    cost, held = 0, 0
    for group in found:
        runs, tiles = segments(group, kind.size), tiles_of(group, kind.size)
        chunks_at, tiles_at = words.add_all(runs), words.add_all(tiles)
        step, chunk = group.vectors.stride * kind.size, emitted.RUN + len(group.rights)
        columns = sum(right.size for right in group.rights)
        records: list[tuple[int | tuple[int, int], ...]] = []
        for start, count, width, shared in blocks(group.vectors.size, kind):
            outs = list(outputs(group, start, start + count, shared, kind.size))
            outs_at = words.add_all(outs)
            records.append((
                *(cost, len(tiles), width, count, start * kind.size, step),
                *(len(runs), chunks_at, chunk, tiles_at, len(outs), outs_at),
            ))  # fmt: skip
            cost += width * max(1, columns)
        together = max(1, min(emitted.BLOCKS, emitted.TOTALS // ((1 + columns) * widest)))
        for i in range(0, len(records), together):
            some = records[i : i + together]
            stretches.append((words.add_all(some), len(some), (1 + columns) * widest))
            held = max(held, len(some) * (1 + columns) * widest)
    least = WORTH // max(1, kind.lanes * max((g.vectors.rows for g in found), default=0))
    scratch = kind.panel_bytes + emitted.LIMITS + held
    scratch = -(-scratch // emitted.LINE) * emitted.LINE
    at = words.add_all(stretches)
    words.set(0, len(stretches), at, (SCRATCH, 0), scratch)
    array, places = np.array(words.words, dtype=np.int64), np.fromiter(words.buffers, dtype=np.intp)
    return Phase(
        array,
        places,
        np.fromiter(words.buffers.values(), dtype=np.intp),
        array[places],
        cost,
        max(1, least),
        scratch,
    )


def segments(group: Group, size: int) -> list[tuple[int | tuple[int, int], ...]]:
    """The rows cut where a run of any operand ends: rows, then where they begin in each operand."""
    operands = (group.vectors, *group.rights)
    cuts = sorted({0, *(end for operand in operands for end in ends_of(operand))})
    begins = [places(operand, cuts[:-1], size) for operand in operands]
    rows = (end - begin for begin, end in pairwise(cuts))
    return [(count, *found) for count, *found in zip(rows, *begins, strict=True)]


def ends_of(operand: Operand) -> Iterator[int]:
    return accumulate(run.rows for run in operand.runs)


def places(operand: Operand, rows: Iterable[int], size: int) -> Iterator[tuple[int, int]]:
    """Where rows, in order, begin: buffer and bytes."""
    runs = iter(operand.runs)
    first, run = 0, Run(0, 0, 0)
    for row in rows:
        while row >= first + run.rows:
            first += run.rows
            run = next(runs)
        yield run.buffer, (run.offset + (row - first) * operand.stride) * size


def tiles_of(group: Group, size: int) -> list[tuple[int, ...]]:
    """The rights' columns in runs as equal as can be. The sum alone is a tile without columns."""
    found, row = [], 1
    for number, right in enumerate(group.rights):
        begin = 0
        for columns in cut(right.size):
            step = right.stride * size
            found.append((number, begin * size, columns, step, row + begin))
            begin += columns
        row += right.size
    return found or [(-1, 0, 0, 0, 1)]


def cut(columns: int) -> list[int]:
    """A number of columns as tiles of 4, 6 and 1, the fours first: one of them can fill the panel."""
    even = columns - columns % 2
    fours = -even % 6 // 2 if even > 2 else 0
    sixes = (even - 4 * fours) // 6
    return [4] * fours + [6] * sixes + [1] * (columns - 4 * fours - 6 * sixes)


def blocks(columns: int, kind: emitted.Kind) -> Iterator[tuple[int, int, int, int]]:
    """Columns as blocks: the first one, how many, in how many vectors, and how many of them are another block's too."""
    start = 0
    while start < columns:
        rest = columns - start
        width = next((w for w in kind.widths if w * kind.lanes <= rest), kind.widths[-1])
        full = width * kind.lanes
        begin = max(
            0, min(start, columns - full)
        )  # rather read columns again than not fill a vector
        yield begin, min(full, columns), width, start - begin
        start += full


def outputs(
    group: Group, start: int, end: int, shared: int, size: int
) -> Iterator[tuple[int | tuple[int, int], ...]]:
    """What a block start..end-1 has of each part, without the columns that another block has too."""
    sizes = [right.size for right in group.rights]
    for part in group.parts:
        row, rows = (1 + sum(sizes[: part.right]), sizes[part.right]) if part.right >= 0 else (0, 1)
        low, high = max(part.column, start + shared), min(part.column + part.columns, end)
        if low < high:
            place = part.buffer, (part.offset + (low - part.column) * part.over) * size
            steps = part.over * size, part.down * size
            yield row, rows, low - start, high - low, place, *steps, int(part.add)
