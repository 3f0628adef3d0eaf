"""Arithmetic on vectors under construction: each operator emits one LLVM instruction into the current block.

A formula is then written once, as it is read, for float32 and float64, for vectors of any width and for scalars.
Numbers in a formula become constants of the other operand's type. Arithmetic carries the flag `contract` and no other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from llvmlite import ir

Formula = Callable[..., "Lanes"]
CONTRACT = ("contract",)
BITS = {32: ir.IntType(32), 64: ir.IntType(64)}
MANTISSA = {32: 23, 64: 52}  # bits of the fraction
BIAS = {32: 127, 64: 1023}  # of the exponent
FLOATS = {32: ir.FloatType(), 64: ir.DoubleType()}


def shaped(like: Any, element: Any) -> Any:
    """The type with as many elements as `like`."""
    return ir.VectorType(element, like.count) if isinstance(like, ir.VectorType) else element


def constant(kind: Any, number: float) -> Any:
    """One number in every lane."""
    negative = math.copysign(1.0, number) < 0.0  # zeros of both signs are one key
    if isinstance(kind, ir.VectorType):
        return _constant(kind.element, kind.count, number, negative)
    return _constant(kind, 0, number, negative)


@lru_cache(maxsize=4096, typed=True)
def _constant(element: Any, count: int, number: float, negative: bool) -> Any:
    """Kept, since llvmlite keeps the text of a constant with it, and writing it takes longer than all else."""
    if count:
        return ir.Constant(ir.VectorType(element, count), [number] * count)
    return ir.Constant(element, number)


@dataclass(frozen=True, slots=True)
class Lanes:
    """A value of LLVM, and where to emit what is computed from it.

    Floats, integers of their size, or truth values.
    """

    builder: Any
    value: Any

    @property
    def element(self) -> Any:
        kind = self.value.type
        return kind.element if isinstance(kind, ir.VectorType) else kind

    @property
    def size(self) -> int:
        """Bits of one element: 32 or 64; 1 for truth values."""
        element = self.element
        if isinstance(element, ir.IntType):
            return element.width
        return 64 if isinstance(element, ir.DoubleType) else 32

    def like(self, number: float) -> Lanes:
        """A constant of this value's type."""
        return Lanes(self.builder, constant(self.value.type, number))

    def _raw(self, other: Lanes | float) -> Any:
        return other.value if isinstance(other, Lanes) else constant(self.value.type, other)

    def _do(self, floats: str, integers: str, left: Any, right: Any) -> Lanes:
        if isinstance(self.element, ir.IntType):
            return Lanes(self.builder, getattr(self.builder, integers)(left, right))
        return Lanes(self.builder, getattr(self.builder, floats)(left, right, flags=CONTRACT))

    def __add__(self, other: Lanes | float) -> Lanes:
        return self._do("fadd", "add", self.value, self._raw(other))

    def __radd__(self, other: float) -> Lanes:
        return self + other

    def __sub__(self, other: Lanes | float) -> Lanes:
        return self._do("fsub", "sub", self.value, self._raw(other))

    def __rsub__(self, other: float) -> Lanes:
        return self._do("fsub", "sub", self._raw(other), self.value)

    def __mul__(self, other: Lanes | float) -> Lanes:
        return self._do("fmul", "mul", self.value, self._raw(other))

    def __rmul__(self, other: float) -> Lanes:
        return self * other

    def __truediv__(self, other: Lanes | float) -> Lanes:
        return self._do("fdiv", "sdiv", self.value, self._raw(other))

    def __rtruediv__(self, other: float) -> Lanes:
        return self._do("fdiv", "sdiv", self._raw(other), self.value)

    def __neg__(self) -> Lanes:
        return Lanes(self.builder, self.builder.fneg(self.value))

    def __and__(self, other: Lanes | int) -> Lanes:
        return Lanes(self.builder, self.builder.and_(self.value, self._raw(other)))

    def __or__(self, other: Lanes | int) -> Lanes:
        return Lanes(self.builder, self.builder.or_(self.value, self._raw(other)))

    def __xor__(self, other: Lanes | int) -> Lanes:
        return Lanes(self.builder, self.builder.xor(self.value, self._raw(other)))

    def __lshift__(self, places: int) -> Lanes:
        return Lanes(self.builder, self.builder.shl(self.value, self._raw(places)))

    def __rshift__(self, places: int) -> Lanes:
        """Zeros come in from the left."""
        return Lanes(self.builder, self.builder.lshr(self.value, self._raw(places)))

    def compared(self, relation: str, other: Lanes | float) -> Lanes:
        """Truth values; false where either is NaN, except for !=."""
        right = self._raw(other)
        if isinstance(self.element, ir.IntType):
            return Lanes(self.builder, self.builder.icmp_signed(relation, self.value, right))
        ordered = self.builder.fcmp_unordered if relation == "!=" else self.builder.fcmp_ordered
        return Lanes(self.builder, ordered(relation, self.value, right))

    def __lt__(self, other: Lanes | float) -> Lanes:
        return self.compared("<", other)

    def __gt__(self, other: Lanes | float) -> Lanes:
        return self.compared(">", other)

    def __le__(self, other: Lanes | float) -> Lanes:
        return self.compared("<=", other)

    def where(self, yes: Lanes | float, no: Lanes | float) -> Lanes:
        """yes in the lanes in which this truth value holds, no in the others; one of both is not a number."""
        like = yes if isinstance(yes, Lanes) else no
        assert isinstance(like, Lanes)
        chosen = self.builder.select(self.value, like._raw(yes), like._raw(no))
        return Lanes(self.builder, chosen)

    def bits(self) -> Lanes:
        """The pattern of a float as an integer."""
        kind = shaped(self.value.type, BITS[self.size])
        return Lanes(self.builder, self.builder.bitcast(self.value, kind))

    def number(self) -> Lanes:
        """The float of a pattern."""
        kind = shaped(self.value.type, FLOATS[self.size])
        return Lanes(self.builder, self.builder.bitcast(self.value, kind))

    def narrow(self) -> Lanes:
        """float64 to float32, rounded to nearest."""
        kind = shaped(self.value.type, FLOATS[32])
        return Lanes(self.builder, self.builder.fptrunc(self.value, kind))

    def wide(self) -> Lanes:
        """float32 to float64."""
        kind = shaped(self.value.type, FLOATS[64])
        return Lanes(self.builder, self.builder.fpext(self.value, kind))

    def masked(self, low: int) -> Lanes:
        """The float without its `low` last bits."""
        return (self.bits() & -(1 << low)).number()

    def magnitude(self) -> Lanes:
        return (self.bits() & ((1 << (self.size - 1)) - 1)).number()

    def signed_as(self, other: Lanes) -> Lanes:
        """This value, which has no sign, with the sign of the other."""
        sign = other.bits() & (1 << (self.size - 1))
        return (self.bits() | sign).number()

    def at_least(self, bound: float) -> Lanes:
        """The greater of both; NaN stays, since the comparison asks for the bound."""
        return (self.like(bound) > self).where(bound, self)

    def at_most(self, bound: float) -> Lanes:
        return (self.like(bound) < self).where(bound, self)

    def intrinsic(self, name: str) -> Lanes:
        """An instruction that LLVM names llvm.<name>, of one operand."""
        kind = self.value.type
        lanes = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
        full = f"llvm.{name}.{lanes}f{self.size}"
        module = self.builder.module
        function = module.globals.get(full)
        if function is None:
            function = ir.Function(module, ir.FunctionType(kind, [kind]), full)
        return Lanes(self.builder, self.builder.call(function, [self.value]))


def polynomial(x: Lanes, coefficients: tuple[float, ...]) -> Lanes:
    """c[0] + c[1] x + c[2] x^2 + ...: Horner; long ones as even and odd powers, two chains of half the length."""
    if len(coefficients) > 7:
        square = x * x
        return polynomial(square, coefficients[1::2]) * x + polynomial(square, coefficients[::2])
    return _horner(x, coefficients)


def _horner(x: Lanes, coefficients: tuple[float, ...]) -> Lanes:
    *rest, last = coefficients
    result = x.like(last)
    for c in reversed(rest):
        result = result * x + c
    return result
