"""The exact reduction of an angle: x / 2π without its whole turns, for every finite x.

Payne and Hanek's idea in floating point. 1/2π is cut in chunks so short that a chunk times x is exact; a product minus
the nearest integer is exact too, and whole turns drop out without anyone knowing the exponent of x.

float32   In float64: 24 bits times 28 bits. 7 chunks reach from 2^0 to 2^-196, enough for every x: no table, no choice
          by size. Cost: about 35 operations of float64, two thirds of the time of sin; a Cody-Waite reduction,
          good for small x alone, takes 4 of float32. That is the price of having no branch.
float64   53 bits are two halves of 26 and 27, times 26 bits. 1200 bits would be 46 chunks, so each lane reads the
          seven that matter to its exponent from a constant table of 65 rows (4 KB, in the module): by plain loads, one
          for each lane and chunk, which every machine has.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir

from .lanes import FLOATS, Lanes

CHUNKS = 7
ROWS = 65  # the exponents of float64, in steps of 16
LEAD = 64  # zeros ahead of the point in the first row
SHORT, LONG = 26, 28  # bits of a chunk
TWO_PI = 6.283185307179586
ROUND = 6755399441055744.0  # 1.5 * 2^52: adding it rounds to an integer, in the last bits


def quarters(x: Lanes) -> tuple[Lanes, Lanes]:
    """x = q * π/2 + r with |r| <= π/4, rounded once: (a float whose last two bits of pattern are q modulo 4, r).

    The result for infinities and NaN has no meaning.
    """
    if x.size == 64:
        return _wide(x)
    q, r = _narrow(x.wide())
    # q is at most 10 in magnitude, and exact in float32.
    return (q - ROUND).narrow() + 12582912.0, r.narrow()


def _narrow(x: Lanes) -> tuple[Lanes, Lanes]:
    """x in float64 with 24 significant bits."""
    products = [x * c for c in _row(0, LONG)]
    # |x| < 2^128: from chunk 5 on, products are less than one turn, and count for nothing in rounding to quarters.
    turns = [_without_whole(p) for p in products[:5]]
    q = _sum(turns) * 4.0 + ROUND
    # Largest first, quarters taken away first: each sum is then exact, or so large that nothing later cancels it.
    rest = (q - ROUND) * -0.25
    for term in turns + products[5:]:
        rest = rest + term
    return q, rest * TWO_PI


def _wide(x: Lanes) -> tuple[Lanes, Lanes]:
    exponent = (x.bits() >> 52) & 2047
    row = exponent - (1023 + 53 - LEAD)
    row = (row > 0).where(row, 0) >> 4
    # Scaled so that the chunks of the row read as if they began at the point: 2^53 <= |x| < 2^69, or less in row 0.
    scaled = (x.bits() + (LEAD << 52) - (row << 56)).number()
    high = scaled.masked(27)
    low = scaled - high
    chunks = _chunks(row)
    # These can pass one turn. Without the whole turns they are multiples of 2^-51, and their sum is exact.
    large = [high * chunks[0], low * chunks[0], high * chunks[1], low * chunks[1], high * chunks[2]]
    first = _sum([_without_whole(p) for p in large])
    q = first * 4.0 + ROUND
    rest, small = first - (q - ROUND) * 0.25, high.like(0.0)
    # Near a multiple of π/2 these cancel the rest down to 2^-62: no rounding error may be lost.
    for part, i in ((high, 3), (low, 2), (high, 4), (low, 3)):
        rest, error = _two_sum(rest, part * chunks[i])
        small = small + error
    small = small + high * chunks[5] + low * chunks[4] + high * chunks[6] + low * chunks[5]
    near = x.magnitude() < 0.5  # x itself, in all its bits; q is 0 there
    return q, near.where(x, (rest + small) * TWO_PI)


def _without_whole(x: Lanes) -> Lanes:
    return x - x.intrinsic("rint")


def _sum(terms: list[Lanes]) -> Lanes:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _two_sum(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """a + b and its rounding error (Knuth). A contracted multiply-add changes nothing: the products are exact."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def _chunks(row: Lanes) -> list[Lanes]:
    """The chunks for each lane's row, read from the table."""
    builder, kind = row.builder, row.value.type
    table = _table(builder.module)
    zero = ir.Constant(ir.IntType(64), 0)

    def read(i: Any, k: int) -> Any:
        return builder.load(builder.gep(table, [zero, i, ir.Constant(zero.type, k)], inbounds=True))

    if not isinstance(kind, ir.VectorType):
        return [Lanes(builder, read(row.value, k)) for k in range(CHUNKS)]
    places = [ir.Constant(ir.IntType(32), lane) for lane in range(kind.count)]
    rows = [builder.extract_element(row.value, place) for place in places]
    found = []
    for k in range(CHUNKS):
        chunk = ir.Constant(ir.VectorType(FLOATS[64], kind.count), ir.Undefined)
        for place, i in zip(places, rows, strict=True):
            chunk = builder.insert_element(chunk, read(i, k), place)
        found.append(Lanes(builder, chunk))
    return found


def _table(module: Any) -> Any:
    """The table as a constant of the module, made at the first use."""
    name = "refold.turns"
    if name in module.globals:
        return module.globals[name]
    content = _content()
    table: Any = ir.GlobalVariable(module, content.type, name)
    table.linkage, table.global_constant, table.align = "internal", True, 64
    table.initializer = content
    return table


@cache
def _content() -> Any:
    kind = ir.ArrayType(ir.ArrayType(FLOATS[64], CHUNKS + 1), ROWS)  # rows of one cache line
    return ir.Constant(kind, [[*_row(16 * i - LEAD, SHORT), 0.0] for i in range(ROWS)])


@cache
def _row(start: int, bits: int) -> tuple[float, ...]:
    """1/2π from its bit `start` after the point on, in chunks, read as if start were 0.

    A negative start begins with zeros, ahead of the point.
    """
    total = bits * CHUNKS
    window = (_inverse() >> (PRECISION - start - total)) % (1 << total)
    return tuple(
        ((window >> (total - bits * (k + 1))) % (1 << bits)) * 2.0 ** (-bits * (k + 1))
        for k in range(CHUNKS)
    )


PRECISION = 1400


@cache
def _inverse() -> int:
    """1/2π times 2^PRECISION, from Machin's π = 16 atan(1/5) - 4 atan(1/239) in integers."""
    one = 1 << (PRECISION + 64)

    def atan_inverse(n: int) -> int:
        power, total, k = one // n, 0, 1
        while power:
            total += power // k if k % 4 == 1 else -(power // k)
            power //= n * n
            k += 2
        return total

    pi = 16 * atan_inverse(5) - 4 * atan_inverse(239)
    return (one << PRECISION) // (2 * pi)
