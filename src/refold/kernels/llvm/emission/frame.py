"""One pass's function while it is written: where its memory lies, its loops, and the rows and vectors it works on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from llvmlite import ir

from refold.kernels.llvm.lowering.program import Access, Folds, Line, Program, Store, Sweep

from .values import I1, I64, PTR, Kind, Part, Place, fetch, load, offset, row_of

HEAD = 4  # int64 in the context before the buffers
VOID = ir.VoidType()
PASS = ir.FunctionType(VOID, [PTR, PTR, I64, I64, I1])
# In an entry: whether there is such a step; and where the rows begin, for the first of the two modes.
FLAG = {"before": 2, "after": 3}
FIRST = {"now": 4, "before": 5, "after": 6}
# What a reverse step reads that nobody has touched since forward, or longer: it is asked for one step ahead.
FAR = {"direct": ("now",), "given": ("now",), "kept": ("now",), "state": ("before",)}
FOLLOWING = {"now": "before", "before": "twice before"}
MODE = 3  # from one mode's places to the other's


def word(b: ir.IRBuilder, base: Any, index: Any) -> Any:
    """An int64 of a table."""
    index = I64(index) if isinstance(index, int) else index
    return b.load(b.gep(base, [index], source_etype=I64), typ=I64)


@contextmanager
def counted(b: ir.IRBuilder, end: Any, begin: Any = 0, step: int = 1) -> Iterator[Any]:
    """A loop from begin to end - 1, at least once."""
    begin = I64(begin) if isinstance(begin, int) else begin
    before = b.block
    body = b.append_basic_block("loop")
    b.branch(body)
    b.position_at_end(body)
    i = b.phi(I64)
    i.add_incoming(begin, before)
    yield i
    following = b.add(i, I64(step))
    i.add_incoming(following, b.block)
    after = b.append_basic_block("after")
    end = I64(end) if isinstance(end, int) else end
    b.cbranch(b.icmp_signed("<", following, end), body, after)
    b.position_at_end(after)


@dataclass(slots=True)
class Frame:
    """A function `pass<number>(context, entry, first, last, back)`, which its caller ends with a return.

    loops  the text of product loops, by name: they are declared in the module and defined beside it
    """

    program: Program
    kind: Kind
    number: int
    module: ir.Module
    loops: dict[str, str]
    function: ir.Function = field(init=False)
    b: ir.IRBuilder = field(init=False)
    places: dict[Access, Place] = field(default_factory=dict)
    _bases: dict[tuple[int, str], Any] = field(default_factory=dict)
    _flags: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.function = ir.Function(self.module, PASS, f"pass{self.number}")
        self.function.linkage = "internal"
        for attribute in ("noinline", "nounwind"):
            self.function.attributes.add(attribute)
        self.b = ir.IRBuilder(self.function.append_basic_block("entry"))

    @property
    def context(self) -> Any:
        return self.function.args[0]

    @property
    def entry(self) -> Any:
        return self.function.args[1]

    @property
    def rows(self) -> tuple[Any, Any]:
        """The first row, and one past the last."""
        return self.function.args[2], self.function.args[3]

    @property
    def back(self) -> Any:
        """Whether the blocks of units are to be taken from the last to the first."""
        return self.function.args[4]

    @property
    def packed(self) -> Any:
        """The packed weights of the pass."""
        at = HEAD + 2 * len(self.program.buffers) + self.number
        return self.b.inttoptr(word(self.b, self.context, at), PTR)

    def find(self, step: Sweep | Folds) -> None:
        """Work out where row 0 of each access of a pass lies; done once, before its loops."""
        for access in accesses(step):
            for when in FLAG:
                self.has(when)
            for found in (access, self.next_of(access)):
                if found is not None and found not in self.places:
                    self.places[found] = self._place(found)

    def next_of(self, access: Access) -> Access | None:
        """Where the reverse step that follows will read the same, if that may be far from the processor by now.

        At the last of them that may be no place at all: to ask for memory that is not there does no harm.
        """
        if access.when not in FAR.get(self.program.buffers[access.buffer].role, ()):
            return None
        return Access(access.buffer, access.column, FOLLOWING[access.when])

    def has(self, when: str) -> Any:
        """Whether these rows have a step before, or after."""
        if when not in self._flags:
            flag = word(self.b, self.entry, FLAG[when])
            self._flags[when] = self.b.icmp_signed("!=", flag, I64(0))
        return self._flags[when]

    def array(self, elements: int) -> Any:
        """Numbers on the stack."""
        with self.b.goto_entry_block():
            at = self.b.alloca(ir.ArrayType(self.kind.number, elements))
            setattr(at, "align", 64)  # noqa: B010  (declared as None)
            at.type = PTR  # llvmlite gives it a pointer with a type
            return at

    def _place(self, access: Access) -> Place:
        other = access.otherwise
        stride = self._stride(access)
        base = self._base(access.buffer, access.when)
        column = access.column * self.kind.bytes
        if other is None or access.when == "now":
            return Place(base, column, stride)
        here, there = offset(self.b, base, column), self._place(other)
        exists = self.has(access.when)
        width = there.stride
        if not (isinstance(width, int) and width == stride):
            wide = I64(width) if isinstance(width, int) else width
            width = self.b.select(exists, I64(stride), wide)
        return Place(
            self.b.select(exists, here, offset(self.b, there.base, there.column)), 0, width
        )

    def _stride(self, access: Access) -> int:
        buffer = self.program.buffers[access.buffer]
        return 0 if buffer.span == "once" else buffer.width * self.kind.bytes

    def _base(self, number: int, when: str) -> Any:
        """Row 0 of a buffer at a step, column 0."""
        if (number, when) in self._bases:
            return self._bases[number, when]
        b, buffer = self.b, self.program.buffers[number]
        if when == "twice before":
            now, before = (b.ptrtoint(self._base(number, w), I64) for w in ("now", "before"))
            self._bases[number, when] = b.inttoptr(b.sub(b.add(before, before), now), PTR)
            return self._bases[number, when]
        base = b.inttoptr(word(b, self.context, HEAD + 2 * number), PTR)
        if buffer.span == "steps":
            mode = word(b, self.context, HEAD + 2 * number + 1)
            row = word(b, self.entry, b.add(b.mul(mode, I64(MODE)), I64(FIRST[when])))
            base = offset(b, base, b.mul(row, I64(buffer.width * self.kind.bytes)))
        self._bases[number, when] = base
        return base


@dataclass(slots=True)
class Row:
    """One row of the batch: where its numbers lie, and its lines that are one number."""

    frame: Frame
    number: Any
    known: dict[int, Any] = field(default_factory=dict)
    results: list[Any] = field(default_factory=list)  # of folds
    _bases: dict[tuple[int, int], Any] = field(default_factory=dict)

    def pointer(self, access: Access) -> Any:
        """Where an access begins in this row."""
        place = self.frame.places[access]
        stride = place.stride if isinstance(place.stride, int) else id(place.stride)
        key = (id(place.base), stride)
        if key not in self._bases:
            self._bases[key] = row_of(self.frame.b, place, self.number)
        return offset(self.frame.b, self._bases[key], place.column)

    def find(self, lines: Iterable[Line], stores: Iterable[Store] = ()) -> None:
        """Work out where lines read and what is stored goes, before a loop that does so."""
        for access in touched(lines, stores):
            for found in (access, self.frame.next_of(access)):
                if found is not None:
                    self.pointer(found)

    def read(self, access: Access, scalar: bool) -> Any:
        f = self.frame
        return f.b.load(self.pointer(access), align=f.kind.bytes, typ=f.kind.number)

    def given(self, number: int) -> Any:
        return self.results[number]


@dataclass(slots=True)
class Vector:
    """One vector of units of a row. `sum_of` gives the accumulators."""

    row: Row
    part: Part
    sum_of: Callable[[int], Any] | None = None
    known: dict[int, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.known = dict(self.row.known)

    def read(self, access: Access, scalar: bool) -> Any:
        if scalar:
            return self.row.read(access, scalar)
        f = self.row.frame
        following = f.next_of(access)
        if following is not None:
            fetch(f.b, f.kind, self.row.pointer(following), self.part)
        return load(f.b, f.kind, self.row.pointer(access), self.part)

    def given(self, number: int) -> Any:
        assert self.sum_of is not None
        return self.sum_of(number)


def accesses(step: Sweep | Folds) -> list[Access]:
    """Everything that a pass reads or writes."""
    found = touched(step.lines, step.stores)
    if isinstance(step, Folds):
        return found + [access for fold in step.folds for access in touched(fold.lines)]
    for accumulator in step.accumulators:
        found += [p.operand for p in accumulator.products]
        found += accumulator.biases
        found += [] if accumulator.start is None else [accumulator.start]
    return found


def touched(lines: Iterable[Line], stores: Iterable[Store] = ()) -> list[Access]:
    """What lines read, and where stores go."""
    read = [line.attr for line in lines if isinstance(line.attr, Access)]
    return read + [s.access for s in stores]
