"""The functions of the equation language.

Each writes one op, or a few: `softmax`, `layer_norm` and the activations made of others are equations themselves, so
their derivatives need no rules and a backend no spelling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from refold.errors import EquationError
from refold.shapes import Size, shape_of, total

from .graph import Node
from .symbol import FUNCTIONS, Reading, Symbol, reading_of

_Function = TypeVar("_Function", bound=Callable[..., object])


def _function(function: _Function) -> _Function:
    FUNCTIONS[function.__name__] = function
    return function


def _one(op: str, value: object, name: str | None = None) -> Symbol:
    """Write a one-operand op on a symbol or a number."""
    reading = reading_of((value,), name or op)
    return reading.write(op, reading.symbol(value))


def _vector(value: object, function: str) -> Symbol:
    reading = reading_of((value,), function)
    symbol = reading.symbol(value)
    if len(symbol.shape) != 1:
        reading.refuse(
            f"{symbol.described}, and rf.{function} works along the features of a vector.",
            "A scalar has nothing to reduce; a matrix is multiplied with a vector first.",
        )
    return symbol


def _length(reading: Reading, size: Size) -> Symbol:
    """A size as a number in the equation."""
    return Symbol(reading, reading.builder.add(Node("size", (), (), size)))


# Elementary functions -------------------------------------------------------------------------------------------------


@_function
def exp(x: object) -> Symbol:
    """e to the power x."""
    return _one("exp", x)


@_function
def expm1(x: object) -> Symbol:
    """exp(x) - 1, exact near 0."""
    return _one("expm1", x)


@_function
def log(x: object) -> Symbol:
    """The natural logarithm; x > 0."""
    return _one("log", x)


@_function
def log1p(x: object) -> Symbol:
    """log(1 + x), exact near 0."""
    return _one("log1p", x)


@_function
def sqrt(x: object) -> Symbol:
    """The square root; x >= 0."""
    return _one("sqrt", x)


@_function
def square(x: object) -> Symbol:
    """x times x."""
    symbol = reading_of((x,), "square").symbol(x)
    return symbol * symbol


@_function
def sin(x: object) -> Symbol:
    """The sine of x, in radians."""
    return _one("sin", x)


@_function
def cos(x: object) -> Symbol:
    """The cosine of x, in radians."""
    return _one("cos", x)


@_function
def atan(x: object) -> Symbol:
    """The inverse tangent, in radians."""
    return _one("atan", x)


@_function
def erf(x: object) -> Symbol:
    """The error function."""
    return _one("erf", x)


@_function
def abs(x: object) -> Symbol:
    """The absolute value; its derivative at 0 is 0."""
    return _one("abs", x)


@_function
def sign(x: object) -> Symbol:
    """-1, 0 or 1. It has no derivative: wrap it in rf.stop_gradient."""
    return _one("sign", x)


@_function
def floor(x: object) -> Symbol:
    """The greatest whole number not above x. It has no derivative: wrap it in rf.stop_gradient."""
    return _one("floor", x)


@_function
def round(x: object) -> Symbol:
    """The nearest whole number, halves to even. It has no derivative: wrap it in rf.stop_gradient."""
    return _one("round", x)


@_function
def stop_gradient(x: object) -> Symbol:
    """x itself, through which no gradient passes."""
    return _one("stop_gradient", x)


# Activations ----------------------------------------------------------------------------------------------------------


@_function
def tanh(x: object) -> Symbol:
    """The hyperbolic tangent."""
    return _one("tanh", x)


@_function
def sigmoid(x: object) -> Symbol:
    """1 / (1 + exp(-x))"""
    return _one("sigmoid", x)


@_function
def relu(x: object) -> Symbol:
    """max(x, 0); its derivative at 0 is 0."""
    return _one("relu", x)


@_function
def softplus(x: object) -> Symbol:
    """log(1 + exp(x)), without overflow."""
    return _one("softplus", x)


@_function
def silu(x: object) -> Symbol:
    """x sigmoid(x), also called swish (Elfwing, Uchibe & Doya 2018)."""
    symbol = reading_of((x,), "silu").symbol(x)
    return symbol * sigmoid(symbol)


@_function
def gelu(x: object) -> Symbol:
    """x times the normal distribution function of x (Hendrycks & Gimpel 2016), in its exact form."""
    symbol = reading_of((x,), "gelu").symbol(x)
    return symbol * (0.5 * (1.0 + erf(symbol * 2.0**-0.5)))


@_function
def elu(x: object, alpha: float = 1.0) -> Symbol:
    """x above 0, alpha (exp(x) - 1) below (Clevert, Unterthiner & Hochreiter 2016)."""
    symbol = reading_of((x,), "elu").symbol(x)
    # The branch not taken must stay finite, or its zero gradient becomes 0 * inf.
    return where(symbol > 0, symbol, alpha * expm1(minimum(symbol, 0.0)))


@_function
def leaky_relu(x: object, slope: float = 0.01) -> Symbol:
    """x above 0, slope x below (Maas, Hannun & Ng 2013)."""
    symbol = reading_of((x,), "leaky_relu").symbol(x)
    return where(symbol > 0, symbol, slope * symbol)


@_function
def hard_sigmoid(x: object) -> Symbol:
    """x / 6 + 1/2, held between 0 and 1: torch.nn's Hardsigmoid."""
    return clip(reading_of((x,), "hard_sigmoid").symbol(x) / 6.0 + 0.5, 0.0, 1.0)


@_function
def hard_tanh(x: object) -> Symbol:
    """x held between -1 and 1."""
    return clip(x, -1.0, 1.0)


@_function
def softsign(x: object) -> Symbol:
    """x / (1 + |x|)"""
    symbol = reading_of((x,), "softsign").symbol(x)
    return symbol / (1.0 + abs(symbol))


# Choices --------------------------------------------------------------------------------------------------------------


@_function
def where(condition: object, a: object, b: object) -> Symbol:
    """a where the comparison holds, b elsewhere, element by element."""
    reading = reading_of((condition, a, b), "where")
    return reading.write("where", *(reading.symbol(v) for v in (condition, a, b)))


@_function
def minimum(a: object, b: object) -> Symbol:
    """The smaller of two, element by element; equal ones share the gradient."""
    reading = reading_of((a, b), "minimum")
    return reading.write("minimum", reading.symbol(a), reading.symbol(b))


@_function
def maximum(a: object, b: object) -> Symbol:
    """The greater of two, element by element; equal ones share the gradient."""
    reading = reading_of((a, b), "maximum")
    return reading.write("maximum", reading.symbol(a), reading.symbol(b))


@_function
def clip(x: object, low: object, high: object) -> Symbol:
    """x held between low and high."""
    return minimum(maximum(x, low), high)


# Along the features ---------------------------------------------------------------------------------------------------


@_function
def sum(x: object) -> Symbol:
    """The sum of a vector's elements: a scalar."""
    vector = _vector(x, "sum")
    return vector.reading.write("sum", vector, attr=1)


@_function
def mean(x: object) -> Symbol:
    """The mean of a vector's elements: a scalar."""
    vector = _vector(x, "mean")
    return sum(vector) / _length(vector.reading, vector.shape[0])


@_function
def max(x: object) -> Symbol:
    """The greatest element of a vector: a scalar."""
    return _one("max", _vector(x, "max"))


@_function
def norm(x: object) -> Symbol:
    """The Euclidean length of a vector: a scalar; its derivative at 0 is 0."""
    return _one("norm", _vector(x, "norm"))


@_function
def softmax(x: object) -> Symbol:
    """exp(x) divided by its sum, without overflow."""
    vector = _vector(x, "softmax")
    # Any shift gives the same result and the same derivative, so the shift itself needs none.
    weights = exp(vector - stop_gradient(max(vector)))
    return weights / sum(weights)


@_function
def layer_norm(x: object, weight: object = None, bias: object = None, eps: float = 1e-5) -> Symbol:
    """(x - mean) / sqrt(variance + eps), times weight, plus bias (Ba, Kiros & Hinton 2016)."""
    vector = _vector(x, "layer_norm")
    centred = vector - mean(vector)
    result = centred / sqrt(mean(centred * centred) + eps)
    if weight is not None:
        result = result * weight
    return result if bias is None else result + bias


# Joining and cutting --------------------------------------------------------------------------------------------------


@_function
def concat(*parts: object) -> Symbol:
    """Vectors end to end, or matrices of equal width one below the other."""
    reading = reading_of(parts, "concat")
    if not parts:
        reading.refuse(
            "rf.concat() has nothing to join.", "Give it vectors, as in rf.concat(x, h)."
        )
    return reading.write("concat", *(reading.symbol(p) for p in parts))


@_function
def split(x: object, *parts: int | str) -> tuple[Symbol, ...]:
    """A vector (or the rows of a matrix) cut into `split(v, 4)`: equal parts; `split(v, "n", "k")`: parts of sizes."""
    reading = reading_of((x,), "split")
    symbol = reading.symbol(x)
    if not symbol.shape:
        reading.refuse(f"{symbol.described}, and a scalar cannot be cut.", "Leave rf.split out.")
    sizes = _parts(reading, symbol, parts)
    names = reading.names(len(sizes))
    pieces, start = [], Size()
    for size, name in zip(sizes, names, strict=True):
        pieces.append(reading.write("slice", symbol, attr=(start, size), label=name))
        start = start + size
    return tuple(pieces)


def _parts(reading: Reading, symbol: Symbol, parts: tuple[int | str, ...]) -> list[Size]:
    whole = symbol.shape[0]
    if len(parts) == 1 and isinstance(parts[0], int) and parts[0] > 0:
        part = whole.divided(parts[0])
        if part is None:
            reading.refuse(
                f"{symbol.described}, and {whole} does not divide into {parts[0]} equal parts.",
                f'Declare what is cut with a size that divides, such as "{parts[0]}k", or name the size of each part.',
            )
        return [part] * parts[0]
    sizes = [_part(reading, p) for p in parts]
    if not sizes or total(sizes) != whole:
        reading.refuse(
            f"{symbol.described}, and the parts {', '.join(map(str, sizes)) or '(none)'} make {total(sizes)}.",
            f"Give parts that make {whole}, or a number of equal parts, as in rf.split(v, 2).",
        )
    return sizes


def _part(reading: Reading, part: int | str) -> Size:
    try:
        (size,) = shape_of(str(part))
    except (EquationError, ValueError):
        reading.refuse(
            f'"{part}" is not the size of a part.',
            'Write one size for each part, as in rf.split(v, "n", "2k").',
        )
    return size
