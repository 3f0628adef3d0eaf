"""A half of a plan with numbers for its letters, ready to be emitted: passes over the batch, and the memory they touch.

Everything that has to be decided is decided here: what lies in memory and where, which lines run in which pass, which
products share accumulators. What is left to the emitter is to write each pass down for one kind of vectors.

A step is a list of passes, one after the other, over the rows of a batch that run at that step. A `Sweep` goes over
the units of one size: its products accumulate in registers, then its lines follow for each vector of units. A
`Folds` pass goes over the rows: it sums vectors up to numbers, then works out what is made of those numbers. What one
pass hands to another lies in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from refold.ir.graph import Slot


@dataclass(frozen=True, slots=True)
class Buffer:
    """A piece of memory: rows of `width` numbers, one after the other.

    role, name  what it holds:
                  input x, state h (after each step), first h (before the first step), output y (one that is no state),
                  kept (columns that forward keeps for backward), param b, once b', scratch (between passes)
                backward also: given y (dE/dy), direct h (what E says about h(t) itself), final h (about the last h),
                  rest h (see `Carry`), more (columns beside kept), sums (over steps), grad x (dE/dx), delta h
    span        steps: a row for each row of the batch at each step, packed (see `Rows`); for states in inference, and
                  for rest always, only two steps in turns; rows: one row for each row of the batch; once: one row
    """

    role: str
    name: str
    span: str
    width: int


@dataclass(frozen=True, slots=True)
class Access:
    """Where a vector, or a number, of a row starts.

    when       now: this step; before, after: the step before or after it in the order in which forward runs. Only for
               buffers that span steps
    otherwise  where to look instead in rows that have no step before or after this one; None: nothing is read there
    """

    buffer: int
    column: int = 0
    when: str = "now"
    otherwise: Access | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a pass: op(args), args being numbers of earlier lines.

    op      read (attr: Access), const (attr: the number), acc (attr: which accumulator of the sweep),
            fold (attr: which result of the pass's folds), or an elementwise op of the table
    scalar  one number for a row, not one for each unit; where both meet, the number goes to all units
    """

    op: str
    args: tuple[int, ...] = ()
    attr: Access | float | int | None = None
    scalar: bool = False


@dataclass(frozen=True, slots=True)
class Store:
    """Write a line to memory, or add it to what is there."""

    line: int
    access: Access
    add: bool = False


@dataclass(frozen=True, slots=True)
class Matrix:
    """A parameter, or what is made once of parameters, as a matrix."""

    slot: Slot
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class Product:
    """matrix @ operand, the operand being `size` numbers in memory.

    One that reads `after`, and nothing otherwise, is left out in rows that have no step after this one.
    """

    matrix: Matrix
    operand: Access
    size: int
    sign: float = 1.0


@dataclass(frozen=True, slots=True)
class Accumulator:
    """A sum of products; it begins with the biases, or, in rows that have no step after this one, with `start`."""

    products: tuple[Product, ...]
    biases: tuple[Access, ...] = ()
    start: Access | None = None


@dataclass(frozen=True, slots=True)
class Sweep:
    """For each vector of units: the products, then the lines, then the stores."""

    size: int
    accumulators: tuple[Accumulator, ...]
    lines: tuple[Line, ...]
    stores: tuple[Store, ...]


@dataclass(frozen=True, slots=True)
class Fold:
    """For each row: lines over the units of one size, and what is folded of them: ("sum" or "max", line)."""

    size: int
    lines: tuple[Line, ...]
    results: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Folds:
    """For each row: the folds, then lines on numbers; results are counted over all folds, in order."""

    folds: tuple[Fold, ...]
    lines: tuple[Line, ...]
    stores: tuple[Store, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A vector in memory: its place, and how many numbers it has."""

    access: Access
    size: int


@dataclass(frozen=True, slots=True)
class Total:
    """A term of a parameter's gradient.

    With `right`: left^T right, summed over all rows of all steps. Without: the sum of left's own rows, which are
    those of all steps, or (in the buffer `sums`) one for each row of the batch.
    """

    slot: Slot
    left: Column
    right: Column | None = None


@dataclass(frozen=True, slots=True)
class Carry:
    """What arrives at a state before the step: the products of stored vectors, and the rest, which lies in a buffer.

    The reverse step of t works its products out when it begins, from what the step after t has stored. What arrives
    at the initial states is worked out once, behind the loop, from what the first step has stored.
    """

    state: str
    size: int
    products: tuple[Product, ...]
    rest: Column | None


@dataclass(frozen=True, slots=True)
class Program:
    """A half of a plan, in passes.

    totals, carries  of a backward program only
    """

    name: str
    buffers: tuple[Buffer, ...]
    passes: tuple[Sweep | Folds, ...]
    totals: tuple[Total, ...] = ()
    carries: tuple[Carry, ...] = ()

    def find(self, role: str, name: str = "") -> int | None:
        """The number of a buffer, or None when no pass touches one."""
        for i, buffer in enumerate(self.buffers):
            if (buffer.role, buffer.name) == (role, name):
                return i
        return None
