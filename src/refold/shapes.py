"""Sizes as letters: polynomials with whole coefficients.

A size in an equation is a letter (`n`), a number (`1`), or a sum of such (`2n + m`). The same numbers, multiplied,
count work: `2 B T n^2`. So one small polynomial serves the shapes of the language and the costs of the plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import total_ordering

from refold.errors import EquationError

_TERM = re.compile(r"(?:([1-9]\d*)\*?)?([A-Za-z_]\w*)|([1-9]\d*)", re.ASCII)
_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

Monomial = tuple[str, ...]


@total_ordering
@dataclass(frozen=True, slots=True)
class Size:
    """A polynomial in letters: ((letters of a product, whole coefficient), ...), sorted, without zeros."""

    terms: tuple[tuple[Monomial, int], ...] = ()

    def __hash__(self) -> int:
        return hash(self.terms)

    @staticmethod
    def of(value: Size | int | str) -> Size:
        """The size that a number or a text such as "2n+m" stands for."""
        if isinstance(value, Size):
            return value
        if isinstance(value, int):
            return _collect([((), value)])
        return _parse(value)

    def __add__(self, other: Size | int) -> Size:
        return _collect([*self.terms, *Size.of(other).terms])

    def __radd__(self, other: int) -> Size:
        return Size.of(other) + self

    def __sub__(self, other: Size | int) -> Size:
        return self + Size.of(other) * -1

    def __mul__(self, other: Size | int) -> Size:
        pairs = [(a, b) for a in self.terms for b in Size.of(other).terms]
        return _collect([(tuple(sorted(p + q)), i * j) for (p, i), (q, j) in pairs])

    __rmul__ = __mul__

    def __lt__(self, other: Size) -> bool:
        return self.terms < other.terms

    def divided(self, count: int) -> Size | None:
        """This size in `count` equal parts, or None where a coefficient does not divide."""
        if any(c % count for _, c in self.terms):
            return None
        return Size(tuple((letters, c // count) for letters, c in self.terms))

    @property
    def letters(self) -> frozenset[str]:
        return frozenset(letter for product, _ in self.terms for letter in product)

    def at(self, values: Mapping[str, int]) -> int:
        """The number, once every letter has one."""
        total = 0
        for product, coefficient in self.terms:
            for letter in product:
                coefficient *= values[letter]
            total += coefficient
        return total

    def __str__(self) -> str:
        return " + ".join(_term_text(p, c) for p, c in self.terms).replace("+ -", "- ") or "0"

    __repr__ = __str__


Shape = tuple[Size, ...]


def shape_of(text: str) -> Shape:
    """The shape that a declaration writes: sizes with blanks between them; "" is a scalar.

    Errors  EquationError when a word is not a size.
    """
    if not isinstance(text, str):
        raise EquationError(
            f"{text!r} is no text, and sizes are written as one.",
            'Write sizes in quotes with blanks between them, as in Weight("n m").',
        )
    return tuple(_parse(word) for word in text.split())


def shape_text(shape: Shape) -> str:
    """(n, m); a vector keeps Python's comma; a scalar says so."""
    if not shape:
        return "a scalar"
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def volume(shape: Shape) -> Size:
    """How many numbers an array of this shape holds."""
    total = Size.of(1)
    for size in shape:
        total = total * size
    return total


def total(sizes: Iterable[Size]) -> Size:
    """The sum of sizes."""
    result = Size()
    for size in sizes:
        result = result + size
    return result


def _collect(terms: Iterable[tuple[Monomial, int]]) -> Size:
    sums: dict[Monomial, int] = {}
    for product, coefficient in terms:
        sums[product] = sums.get(product, 0) + coefficient
    # The highest power first, so that a cost reads with its leading term in front; numbers come last.
    order = sorted(
        ((p, c) for p, c in sums.items() if c), key=lambda term: (-len(term[0]), term[0])
    )
    return Size(tuple(order))


def _parse(text: str) -> Size:
    result = Size()
    for word in text.replace("-", " ! ").split("+"):
        match = _TERM.fullmatch(word.strip())
        if not match:
            raise EquationError(
                f'"{text}" is not a size: a size is a letter, a number, or a sum such as "2n+m".',
                'Write sizes with blanks between them, as in Weight("n m").',
            )
        number, letter, alone = match.groups()
        if letter in ("T", "B"):
            raise EquationError(
                f'"{text}" uses {letter}, which stands for {"time" if letter == "T" else "the batch"}.',
                "An equation describes one step of one sequence; choose another letter.",
            )
        result = result + _collect([((letter,) if letter else (), int(number or alone or 1))])
    return result


def _term_text(product: Monomial, coefficient: int) -> str:
    letters = []
    for letter in dict.fromkeys(product):
        power = product.count(letter)
        letters.append(letter + (str(power).translate(_SUPERSCRIPT) if power > 1 else ""))
    if not letters:
        return str(coefficient)
    if abs(coefficient) == 1:
        return ("-" if coefficient < 0 else "") + " ".join(letters)
    return " ".join([str(coefficient), *letters])
