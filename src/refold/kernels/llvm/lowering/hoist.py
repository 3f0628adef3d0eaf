"""Input products taken out of the loop: one large product for all steps, whose results the loop reads.

Inside the loop the weights of the input are read once a step for each tile of rows. With few rows in a tile that is
the cost, and one product over all steps ahead of the loop reuses them over time. With full tiles it is the contrary:
a product in the loop needs no memory for its result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .program import Access, Accumulator, Buffer, Line, Product, Program, Sweep

# A single row gains 12 to 30 %; two gain nothing, and three lose (measured at T 1000).
FEW_ROWS = 2


@dataclass(frozen=True, slots=True)
class Ahead:
    """What to work out before the loop: the sum of these products, into `size` columns of the buffer `ahead`."""

    column: int
    size: int
    products: tuple[Product, ...]


def pays(program: Program, rows: int) -> bool:
    """Whether it is faster to have the input products ahead of the loop, for so many rows at a time."""
    inputs = sum(p.size for p in _inside(program, of_inputs=True))
    others = sum(p.size for p in _inside(program, of_inputs=False))
    return rows < FEW_ROWS and 2 * inputs >= others > 0


def _inside(program: Program, of_inputs: bool) -> list[Product]:
    sweeps = (one for one in program.passes if isinstance(one, Sweep))
    products = (p for s in sweeps for a in s.accumulators for p in a.products)
    return [p for p in products if _reads_input(program, p) == of_inputs]


def _reads_input(program: Program, product: Product) -> bool:
    return program.buffers[product.operand.buffer].role == "input"


def hoisted(program: Program) -> tuple[Program, tuple[Ahead, ...]]:
    """The program without its input products, and what has to be worked out for it."""
    buffer = len(program.buffers)
    ahead: list[Ahead] = []
    passes = []
    for one in program.passes:
        if isinstance(one, Sweep):
            one = _without_inputs(program, one, buffer, ahead)
        passes.append(one)
    width = sum(a.size for a in ahead)
    buffers = (*program.buffers, Buffer("ahead", "", "steps", width))
    return replace(program, buffers=buffers, passes=tuple(passes)), tuple(ahead)


def _without_inputs(program: Program, sweep: Sweep, buffer: int, ahead: list[Ahead]) -> Sweep:
    staying: list[Accumulator] = []
    before: dict[int, list[Line]] = {}  # for each accumulator, the lines whose sum takes its place
    for number, accumulator in enumerate(sweep.accumulators):
        out = tuple(p for p in accumulator.products if _reads_input(program, p))
        rest = tuple(p for p in accumulator.products if p not in out)
        parts: list[Line] = []
        if out:
            column = sum(a.size for a in ahead)
            ahead.append(Ahead(column, sweep.size, out))
            parts.append(Line("read", (), Access(buffer, column)))
        if rest:
            parts.append(Line("acc", (), len(staying)))
            staying.append(replace(accumulator, products=rest))
        else:
            parts += [Line("read", (), bias) for bias in accumulator.biases]
        before[number] = parts
    return _rewritten(sweep, tuple(staying), before)


def _rewritten(
    sweep: Sweep, accumulators: tuple[Accumulator, ...], before: dict[int, list[Line]]
) -> Sweep:
    """Each line that reads an accumulator becomes the sum of some lines."""
    lines: list[Line] = []
    moved: list[int] = []
    for line in sweep.lines:
        if line.op == "acc":
            assert isinstance(line.attr, int)
            moved.append(_sum(lines, before[line.attr]))
        else:
            lines.append(replace(line, args=tuple(moved[a] for a in line.args)))
            moved.append(len(lines) - 1)
    stores = tuple(replace(store, line=moved[store.line]) for store in sweep.stores)
    return Sweep(sweep.size, accumulators, tuple(lines), stores)


def _sum(lines: list[Line], parts: list[Line]) -> int:
    """Write lines down, and their sum; its number."""
    total = -1
    for part in parts:
        lines.append(part)
        if total >= 0:
            lines.append(Line("add", (total, len(lines) - 1)))
        total = len(lines) - 1
    return total
