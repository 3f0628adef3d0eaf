"""Lines of a program as LLVM instructions, and the vectors of memory that they read and write.

`work_out` is the only place that maps a line to instructions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llvmlite import ir

from refold.kernels.llvm.arithmetic.lanes import constant
from refold.kernels.llvm.arithmetic.vmath import MATH
from refold.kernels.llvm.lowering.program import Access, Line

I1, I32, I64, PTR = ir.IntType(1), ir.IntType(32), ir.IntType(64), ir.PointerType()


@dataclass(frozen=True, slots=True)
class Kind:
    """The numbers of a kernel, and how many of them are a vector."""

    number: Any
    bytes: int
    lanes: int

    @property
    def vector(self) -> Any:
        return ir.VectorType(self.number, self.lanes)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an access finds row 0, and the bytes from one row to the next."""

    base: Any
    column: int
    stride: Any  # an int, or a value where two buffers are possible


@dataclass(frozen=True, slots=True)
class Part:
    """Which units a vector holds: from number `first` on; `mask` where some of them do not exist."""

    first: Any
    mask: Any = None


# Memory ---------------------------------------------------------------------------------------------------------------


def offset(b: ir.IRBuilder, pointer: Any, bytes_on: Any) -> Any:
    """A pointer some bytes further on."""
    if isinstance(bytes_on, int):
        if bytes_on == 0:
            return pointer
        bytes_on = I64(bytes_on)
    return b.gep(pointer, [bytes_on], source_etype=ir.IntType(8))


def scaled(b: ir.IRBuilder, number: Any, step: Any) -> Any:
    """number * step, as a number where both are numbers."""
    if isinstance(step, int):
        if isinstance(number, int) or step == 0:
            return number * step if isinstance(number, int) else 0
        step = I64(step)
    return b.mul(number, step)


def row_of(b: ir.IRBuilder, place: Place, row: Any) -> Any:
    """Where a row of an access begins, its column not counted."""
    return offset(b, place.base, scaled(b, row, place.stride))


def load(b: ir.IRBuilder, kind: Kind, pointer: Any, part: Part) -> Any:
    """A vector of units from memory; 0 for those that do not exist."""
    at = b.gep(pointer, [part.first], source_etype=kind.number)
    if part.mask is None:
        return b.load(at, align=kind.bytes, typ=kind.vector)
    function = masked(b, kind, "load")
    return b.call(function, [at, I32(kind.bytes), part.mask, constant(kind.vector, 0.0)])


def fetch(b: ir.IRBuilder, kind: Kind, pointer: Any, part: Part) -> None:
    """Ask for a vector of units that will be read soon."""
    function = b.module.globals.get("llvm.prefetch.p0")
    if function is None:
        signature = ir.FunctionType(ir.VoidType(), [PTR, I32, I32, I32])
        function = ir.Function(b.module, signature, "llvm.prefetch.p0")
    at = b.gep(pointer, [part.first], source_etype=kind.number)
    b.call(function, [at, I32(0), I32(2), I32(1)])  # to be read, into the second cache, data


def store(b: ir.IRBuilder, kind: Kind, value: Any, pointer: Any, part: Part) -> None:
    """Write the units that exist, and nothing beside them."""
    at = b.gep(pointer, [part.first], source_etype=kind.number)
    if part.mask is None:
        b.store(value, at, align=kind.bytes)
    else:
        b.call(masked(b, kind, "store"), [value, at, I32(kind.bytes), part.mask])


def masked(b: ir.IRBuilder, kind: Kind, verb: str) -> Any:
    """llvm.masked.load or store."""
    name = f"llvm.masked.{verb}.v{kind.lanes}f{8 * kind.bytes}.p0"
    function = b.module.globals.get(name)
    if function is None:
        mask = ir.VectorType(I1, kind.lanes)
        if verb == "load":
            signature = ir.FunctionType(kind.vector, [PTR, I32, mask, kind.vector])
        else:
            signature = ir.FunctionType(ir.VoidType(), [kind.vector, PTR, I32, mask])
        function = ir.Function(b.module, signature, name)
    return function


def units(b: ir.IRBuilder, kind: Kind, size: int, vector: Any) -> Part:
    """The units of one vector, of `size` in all; the mask only where the last vector is not full."""
    first = b.mul(vector, I64(kind.lanes))
    if size % kind.lanes == 0:
        return Part(first)
    left = b.trunc(b.sub(I64(size), first), I32)
    numbers = ir.Constant(ir.VectorType(I32, kind.lanes), list(range(kind.lanes)))
    return Part(first, b.icmp_signed("<", numbers, splat(b, left, kind.lanes)))


def splat(b: ir.IRBuilder, value: Any, lanes: int) -> Any:
    """One number in every lane."""
    if isinstance(value, ir.Constant) and not isinstance(value.type, ir.IntType):
        return constant(ir.VectorType(value.type, lanes), value.constant)
    vector = ir.VectorType(value.type, lanes)
    poison = ir.Constant(vector, ir.Undefined)
    one = b.insert_element(poison, value, I32(0))
    return b.shuffle_vector(one, poison, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


# Lines ----------------------------------------------------------------------------------------------------------------


class Stream(Protocol):
    """One set of values of the lines: those of one row and vector of units, or of one row."""

    known: dict[int, Any]

    def read(self, access: Access, scalar: bool) -> Any:
        """A vector of units, or one number, from memory."""
        ...

    def given(self, number: int) -> Any:
        """An accumulator of a sweep, or a result of a fold."""
        ...


def work_out(
    b: ir.IRBuilder,
    kind: Kind,
    lines: Sequence[Line],
    wanted: Iterable[int],
    streams: Sequence[Stream],
) -> None:
    """Add to what each stream knows the wanted lines, and all that they need. Numbers meet vectors in every lane.

    Each line is written for all streams before the next: a processor looks a few hundred instructions ahead, and finds
    there what does not wait for each other.
    """
    for i in needed_lines(lines, wanted, streams[0].known):
        line = lines[i]
        for stream in streams:
            stream.known[i] = value_of(b, kind, line, stream)


def value_of(b: ir.IRBuilder, kind: Kind, line: Line, stream: Stream) -> Any:
    """One line."""
    if line.op == "read":
        assert isinstance(line.attr, Access)
        return stream.read(line.attr, line.scalar)
    if line.op == "const":
        assert isinstance(line.attr, (int, float))
        return constant(kind.number, float(line.attr))
    if line.op in ("acc", "fold"):
        assert isinstance(line.attr, int)
        return stream.given(line.attr)
    args = alike(b, kind, [stream.known[a] for a in line.args])
    return MATH[line.op](b, *args, *([line.attr] if line.op == "pow" else []))


def needed_lines(lines: Sequence[Line], wanted: Iterable[int], known: Collection[int]) -> list[int]:
    """The wanted lines and what they need, without what is known, in order."""
    needed = set(wanted)
    for i in range(len(lines) - 1, -1, -1):
        if i in needed and i not in known:
            needed.update(lines[i].args)
    return [i for i in sorted(needed) if i not in known]


def alike(b: ir.IRBuilder, kind: Kind, values: list[Any]) -> list[Any]:
    """All as vectors when one of them is."""
    if not any(isinstance(v.type, ir.VectorType) for v in values):
        return values
    return [vector_of(b, kind, v) for v in values]


def vector_of(b: ir.IRBuilder, kind: Kind, value: Any) -> Any:
    return value if isinstance(value.type, ir.VectorType) else splat(b, value, kind.lanes)


# Sums over lanes ------------------------------------------------------------------------------------------------------

NEUTRAL = {"sum": 0.0, "max": float("-inf")}


def joined(b: ir.IRBuilder, how: str, left: Any, right: Any) -> Any:
    if how == "sum":
        return MATH["add"](b, left, right)
    return MATH["maximum"](b, left, right)


def across(b: ir.IRBuilder, kind: Kind, how: str, value: Any) -> Any:
    """All lanes joined to one number: halves, quarters, ..."""
    lanes = kind.lanes
    while lanes > 1:
        lanes //= 2
        half = ir.VectorType(I32, lanes)
        low = b.shuffle_vector(value, value, ir.Constant(half, list(range(lanes))))
        high = b.shuffle_vector(value, value, ir.Constant(half, list(range(lanes, 2 * lanes))))
        value = joined(b, how, low, high)
    return b.extract_element(value, I32(0))
