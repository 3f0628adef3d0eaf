"""Columns of kept values that the reverse step has read for the last time take its own results.

Liveness by passes: a result may lie where a kept value was when no later pass reads that value, and no pass multiplies
it across units while the result is being stored. What is left over stays in the buffer `more`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from .program import (
    Access,
    Accumulator,
    Carry,
    Column,
    Fold,
    Folds,
    Line,
    Product,
    Program,
    Store,
    Sweep,
    Total,
)

Move = Callable[[Access], Access]
Span = tuple[int, int]  # first column, columns

LINE = 16  # numbers in a cache line of float32: vectors of whole lines begin at one, wherever a single number lies


def begin(column: int, size: int) -> int:
    """Where a vector of a size lies, when columns are free from `column` on."""
    return padded(column) if size % LINE == 0 else column


def padded(width: int) -> int:
    """The numbers in a row, so that the next row begins at a line too; short rows stay as they are."""
    return -(-width // LINE) * LINE if width >= LINE else width


def take_over(program: Program, kept: tuple[Span, ...]) -> Program:
    """Move columns of `more` into columns of `kept` that nobody reads any more, and close the gaps left behind."""
    more, into = program.find("more"), program.find("kept")
    if more is None:
        return program
    results = _results(program, more)
    moves: dict[int, Access] = {}
    free = _last_reads(program, into, kept) if into is not None else {}
    for (start, size), stored in results.items():
        for span, (last, last_product) in free.items():
            if span[1] == size and last <= stored and last_product < stored:
                moves[start] = Access(into or 0, span[0])
                del free[span]
                break
    column = 0
    for start, size in results:
        if start not in moves:
            moves[start] = Access(more, begin(column, size))
            column = begin(column, size) + size
    width = padded(column)
    buffers = tuple(replace(b, width=width) if b.role == "more" else b for b in program.buffers)
    moved = _moved(replace(program, buffers=buffers), _mover(more, results, moves))
    return _without(moved, more) if column == 0 else moved


def _results(program: Program, more: int) -> dict[Span, int]:
    """The columns of `more`, in the order in which products read them, and the pass that stores each."""
    stored: dict[Span, int] = {}
    for p, one in enumerate(program.passes):
        size = one.size if isinstance(one, Sweep) else 1
        for store in one.stores:
            if store.access.buffer == more:
                stored[store.access.column, size] = p
    return dict(sorted(stored.items(), key=lambda item: (item[1], item[0])))


def _last_reads(
    program: Program, kept: int, columns: tuple[Span, ...]
) -> dict[Span, tuple[int, int]]:
    """For each kept column that nothing reads behind the loop: the last pass that reads it, and that multiplies it."""
    last: dict[Span, tuple[int, int]] = dict.fromkeys(columns, (-1, -1))

    def note(access: Access, p: int, product: bool) -> None:
        if access.buffer == kept:
            span = next(s for s in columns if s[0] <= access.column < s[0] + s[1])
            before = last.get(span, (-1, -1))
            last[span] = (max(before[0], p), max(before[1], p if product else -1))

    for p, one in enumerate(program.passes):
        for access in _reads(one):
            note(access, p, False)
        if isinstance(one, Sweep):
            for accumulator in one.accumulators:
                for product in accumulator.products:
                    note(product.operand, p, True)
    for total in program.totals:
        for column in (total.left, total.right):
            if column is not None:
                note(column.access, len(program.passes), True)
    return last


def _reads(one: Sweep | Folds) -> Iterator[Access]:
    lines = [*one.lines]
    if isinstance(one, Folds):
        lines += [line for fold in one.folds for line in fold.lines]
    for line in lines:
        if isinstance(line.attr, Access):
            yield line.attr


def _mover(more: int, results: dict[Span, int], moves: dict[int, Access]) -> Move:
    def move(access: Access) -> Access:
        if access.buffer != more:
            return access
        start = next(s for s, size in results if s <= access.column < s + size)
        target = moves[start]
        column = target.column + access.column - start
        return Access(target.buffer, column, access.when, access.otherwise)

    return move


def _without(program: Program, buffer: int) -> Program:
    """The program without a buffer that nothing touches."""

    def move(access: Access) -> Access:
        other = access.otherwise and move(access.otherwise)
        if access.buffer < buffer and other is access.otherwise:
            return access
        number = access.buffer - (access.buffer > buffer)
        return Access(number, access.column, access.when, other)

    buffers = program.buffers[:buffer] + program.buffers[buffer + 1 :]
    return _moved(replace(program, buffers=buffers), move)


# A program with its accesses changed ----------------------------------------------------------------------------------


def _moved(program: Program, move: Move) -> Program:
    return replace(
        program,
        passes=tuple(_moved_pass(one, move) for one in program.passes),
        totals=tuple(_moved_total(total, move) for total in program.totals),
        carries=tuple(_moved_carry(carry, move) for carry in program.carries),
    )


def _moved_pass(one: Sweep | Folds, move: Move) -> Sweep | Folds:
    lines, stores = _moved_lines(one.lines, move), _moved_stores(one.stores, move)
    if isinstance(one, Sweep):
        accumulators = tuple(_moved_accumulator(a, move) for a in one.accumulators)
        return replace(one, accumulators=accumulators, lines=lines, stores=stores)
    folds = tuple(Fold(f.size, _moved_lines(f.lines, move), f.results) for f in one.folds)
    return Folds(folds, lines, stores)


def _moved_lines(lines: tuple[Line, ...], move: Move) -> tuple[Line, ...]:
    return tuple([_moved_line(line, move) for line in lines])


def _moved_line(line: Line, move: Move) -> Line:
    if not isinstance(line.attr, Access):
        return line
    access = move(line.attr)
    return line if access is line.attr else Line(line.op, line.args, access, line.scalar)


def _moved_stores(stores: tuple[Store, ...], move: Move) -> tuple[Store, ...]:
    return tuple([Store(s.line, move(s.access), s.add) for s in stores])


def _moved_accumulator(accumulator: Accumulator, move: Move) -> Accumulator:
    products = _moved_products(accumulator.products, move)
    # In order of columns: operands side by side become one loop.
    products = tuple(sorted(products, key=lambda p: (p.operand.buffer, p.operand.column)))
    biases = tuple(move(bias) for bias in accumulator.biases)
    return Accumulator(products, biases, accumulator.start and move(accumulator.start))


def _moved_products(products: tuple[Product, ...], move: Move) -> tuple[Product, ...]:
    return tuple([Product(p.matrix, move(p.operand), p.size, p.sign) for p in products])


def _moved_column(column: Column, move: Move) -> Column:
    return Column(move(column.access), column.size)


def _moved_total(total: Total, move: Move) -> Total:
    right = total.right and _moved_column(total.right, move)
    return Total(total.slot, _moved_column(total.left, move), right)


def _moved_carry(carry: Carry, move: Move) -> Carry:
    rest = carry.rest and _moved_column(carry.rest, move)
    return replace(carry, products=_moved_products(carry.products, move), rest=rest)
