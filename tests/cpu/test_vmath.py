"""Vector math of the compiler: accuracy over the whole range, what torch does at the edges, and how it is emitted."""

import ctypes
import math
import re
from functools import cache

import numpy as np
import pytest
import torch
from llvmlite import ir

from refold.errors import KernelError
from refold.ir.ops import OPS
from refold.kernels.llvm.arithmetic.vmath import MATH
from refold.kernels.llvm.machine.compile import assembly, compile_module
from refold.kernels.llvm.machine.host import host

FLOAT = {32: ir.FloatType(), 64: ir.DoubleType()}
DTYPE = {32: np.float32, 64: np.float64}
NARROW = ("avx2", "sse", "neon")

EXPONENTS = (1.7, 1 / 3, -3.0, 5.0, 4.0, 2.0, -2.0, -0.01, 5000.3)
POWERS = {f"pow {c:g}": c for c in EXPONENTS}
SMOOTH = (
    "exp",
    "expm1",
    "log",
    "log1p",
    "tanh",
    "sigmoid",
    "softplus",
    "sin",
    "cos",
    "atan",
    "erf",
)
EXACT = ("sqrt", "relu", "abs", "sign", "floor", "round")  # one right answer
NAMES = (*SMOOTH, *EXACT, *POWERS)


# Running one function over an array -----------------------------------------------------------------------------------


def emit_loop(module, name, kind, width, formula, operands=1):
    """void name(operands..., out, count): `formula` on `width` values at a time."""
    vector = ir.VectorType(kind, width) if width > 1 else kind
    pointer, index = ir.PointerType(kind), ir.IntType(64)
    arguments = [pointer] * (operands + 1) + [index]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
    entry, loop, end = (function.append_basic_block(n) for n in ("entry", "loop", "end"))
    ir.IRBuilder(entry).branch(loop)
    builder = ir.IRBuilder(loop)
    i = builder.phi(index)

    def at(array):
        return builder.bitcast(builder.gep(array, [i]), ir.PointerType(vector))

    size = 4 if kind == FLOAT[32] else 8
    *arrays, out, count = function.args
    result = formula(builder, *(builder.load(at(a), align=size) for a in arrays))
    builder.store(result, at(out), align=size)
    after = builder.add(i, index(width))
    i.add_incoming(index(0), entry)
    i.add_incoming(after, builder.block)
    builder.cbranch(builder.icmp_signed("<", after, count), loop, end)
    ir.IRBuilder(end).ret_void()


def formula_of(name):
    if name in POWERS:
        return lambda builder, x: MATH["pow"](builder, x, POWERS[name])
    return MATH[name]


def module_of(bits, width, names=NAMES):
    module = ir.Module()
    for name in names:
        emit_loop(module, name, FLOAT[bits], width, formula_of(name))
    return module


@cache
def library(bits, width, vectors=None):
    return compile_module(module_of(bits, width), host(vectors))


def call(compiled, name, *arrays):
    """One function of a library on arrays of equal type and length, which is a multiple of the width."""
    out = np.empty_like(arrays[0])
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (len(arrays) + 1), ctypes.c_int64)
    kind(compiled.address(name))(*(a.ctypes.data for a in arrays), out.ctypes.data, out.size)
    return out


def native(bits):
    return host().vector_bits // bits


# Arguments ------------------------------------------------------------------------------------------------------------

INF, NAN = math.inf, math.nan
EDGES = [
    *(0.0, 0.5, 1.0, 1.5, 2.5, 0.625, 4.0, 6.0, 1e30, INF, math.pi / 4, math.pi / 2, math.pi),
    *(math.sqrt(2) - 1, math.sqrt(2) + 1, math.sqrt(2), math.sqrt(0.5), math.log(2) / 2),
    *(2.0**-149, 2.0**-126, 2.0**-126 - 2.0**-149, 2.0**128 - 2.0**104),  # the ends of float32
    *(88.7228, 88.72284, 87.33655, 103.97, 104.0),  # where exp leaves them
    *(2.0**-1074, 2.0**-1022, 2.0**-1022 - 2.0**-1074, 2.0**1023 * (2 - 2.0**-52)),
    *(709.782712893384, 709.7827128933841, 745.1332191019411, 745.1332191019412, 708.4),
    16367173 * 2.0**72,  # of float32, the nearest to a multiple of π/2
    6381956970095103 * 2.0**797,  # of float64
]


def edges(bits):
    with np.errstate(over="ignore"):
        x = np.array(EDGES).astype(DTYPE[bits])
        around = [x, np.nextafter(x, DTYPE[bits](0)), np.nextafter(x, DTYPE[bits](INF))]
    x = np.concatenate(around)
    return np.concatenate([x, -x, np.full(2, NAN, DTYPE[bits])])


def patterns(bits, step):
    """Every step-th pattern of float32; as many random ones of float64."""
    if bits == 32:
        return np.arange(0, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)
    draw = np.random.default_rng(0).integers(0, 2**64, 2**32 // step, dtype=np.uint64)
    return draw.view(np.float64)


@cache
def arguments(bits, step, usual):
    """Patterns, edges, and `usual` numbers of each usual range, up to a multiple of 16."""
    g = np.random.default_rng(1)
    with np.errstate(invalid="ignore"):
        parts = [patterns(bits, step), edges(bits)]
        parts += [g.normal(size=usual) * scale for scale in (0.1, 1, 20, 300)]
        parts += [1 + g.normal(size=usual) * 1e-3, g.uniform(-2, 2, usual)]
        x = np.concatenate([part.astype(DTYPE[bits]) for part in parts])
    return np.concatenate([x, np.ones(-len(x) % 16, DTYPE[bits])])


# What is right --------------------------------------------------------------------------------------------------------

WIDE = np.finfo(np.longdouble).nmant >= 63
needs_wide = pytest.mark.skipif(
    not WIDE, reason="no 80-bit long double here to compare float64 with"
)


def sigmoid(x):
    return np.where(x < 0, np.exp(np.minimum(x, 0)), 1) / (1 + np.exp(-abs(x)))


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-abs(x)))


def erf(x):
    if x.dtype == np.float64:
        return torch.erf(torch.from_numpy(x)).numpy()
    return np.array([math.erf(v) for v in x]).astype(np.longdouble)


TRUE = {"sigmoid": sigmoid, "softplus": softplus, "erf": erf, "atan": np.arctan}


def true(name, x):
    """The value in the next wider format."""
    x = x.astype(np.float64 if x.dtype == np.float32 else np.longdouble)
    if name in POWERS:
        return np.power(x, x.dtype.type(POWERS[name]))
    return (TRUE[name] if name in TRUE else getattr(np, name))(x)


def error(result, right):
    """In units in the last place of `right`: (the largest, where). Infinity counts as the number after the largest."""
    lowest, bits, top = (-126, 23, 128) if result.dtype == np.float32 else (-1022, 52, 1024)
    end = np.ldexp(right.dtype.type(1), top)
    with np.errstate(invalid="ignore", over="ignore"):
        right = np.clip(right, -end, end)
        given = np.clip(result.astype(right.dtype), -end, end)
        exponent = np.maximum(np.frexp(right)[1] - 1, lowest)
        units = np.ldexp(abs(given - right), bits - exponent)
    wrong = np.isnan(given) != np.isnan(right)
    wrong |= ~np.isnan(right) & (np.signbit(given) != np.signbit(right))
    units = np.where(wrong, INF, np.where(np.isnan(right), 0, units))
    return float(units.max()), int(units.argmax())


def check(name, x, compiled, limit):
    with np.errstate(all="ignore"):
        right = true(name, x)
    result = call(compiled, name, x)
    largest, i = error(result, right)
    assert largest <= limit, (
        f"{name}({x[i]!r}) = {result[i]!r}, not {right[i]!r}: {largest:.2f} units"
    )


def exact(name, x):
    """torch's own bits; of sqrt numpy's, since torch may take one that is a unit off."""
    if name == "sqrt":
        with np.errstate(invalid="ignore"):
            return np.sqrt(x)
    return getattr(torch, name)(torch.from_numpy(x)).numpy()


def same_as(expected, result, name):
    """Equal in value, in the sign of zeros, and NaN where NaN is due."""
    np.testing.assert_array_equal(result, expected, err_msg=name)
    signs = np.signbit(result) == np.signbit(expected)
    assert (signs | np.isnan(expected)).all(), name


# Accuracy -------------------------------------------------------------------------------------------------------------

ULP = 4


def limit_64(name):
    """1e-14 relative is 45 units at worst; all but powers near the ends of the range do better, and are held to it."""
    return 45 if name in POWERS else 8


@pytest.mark.parametrize("name", [*SMOOTH, *POWERS])
def test_float32_is_right_to_4_units_everywhere(name):
    check(name, arguments(32, 1009, 100_000), library(32, native(32)), ULP)


@needs_wide
@pytest.mark.parametrize("name", [*SMOOTH, *POWERS])
def test_float64_is_right_to_1e_14_everywhere(name):
    check(name, arguments(64, 20011, 30_000), library(64, native(64)), limit_64(name))


def test_float64_meets_the_hardest_angle_without_a_wider_format():
    x = np.full(16, 6381956970095103 * 2.0**797)
    result = call(library(64, native(64)), "cos", x)
    np.testing.assert_allclose(result, -4.68716592425462761e-19, rtol=1e-15, atol=0)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("name", EXACT)
def test_simple_functions_are_exact(name, bits):
    x = arguments(bits, 20011, 10_000)
    same_as(exact(name, x), call(library(bits, native(bits)), name, x), name)


def test_the_check_itself_finds_errors():
    x = np.array([1.0, 2.0, -0.0, INF, NAN], np.float32)
    right = x.astype(np.float64)
    assert error(x, right) == (0.0, 0)
    five = (x.view(np.uint32) + np.array([0, 5, 0, 0, 0], np.uint32)).view(np.float32)
    assert error(five, right) == (5.0, 1)
    for i, bad in ((2, 0.0), (3, NAN), (4, 1.0), (3, -INF)):
        assert error(np.where(np.arange(5) == i, np.float32(bad), x), right) == (INF, i)
    largest = np.finfo(np.float32).max
    assert error(np.array([largest]), np.array([INF])) == (0.5, 0)  # half a unit of 2^128


# Every width and every machine ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [32, 64])
def test_every_width_gives_the_same_bits(bits):
    x = arguments(bits, 4_000_037, 2_000)
    for name in NAMES:
        expected = call(library(bits, native(bits)), name, x)
        for width in (1, 4, 8, 16):
            result = call(library(bits, width), name, x)
            np.testing.assert_array_equal(result, expected, err_msg=f"{name}, width {width}")


@pytest.mark.parametrize("bits", [32, pytest.param(64, marks=needs_wide)])
@pytest.mark.parametrize("vectors", NARROW)
def test_narrow_vectors_are_as_right(vectors, bits):
    try:
        width = host(vectors).vector_bits // bits
    except KernelError:
        pytest.skip(f"this machine has no {vectors}")
    x = arguments(bits, 200_003, 10_000)
    for name in (*SMOOTH, *POWERS):
        check(name, x, library(bits, width, vectors), ULP if bits == 32 else limit_64(name))
    for name in EXACT:
        same_as(exact(name, x), call(library(bits, width, vectors), name, x), name)


# As torch at the edges ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [32, 64])
def test_infinities_nan_and_zeros_are_torchs(bits):
    x = np.array([INF, -INF, NAN, 0.0, -0.0, 0.0, INF, NAN] * 2, DTYPE[bits])
    for name in SMOOTH:
        if name == "softplus":
            expected = np.array([INF, 0, NAN, *[math.log(2)] * 3, INF, NAN] * 2, DTYPE[bits])
        else:
            expected = getattr(torch, name)(torch.from_numpy(x)).numpy()
        same_as(expected, call(library(bits, native(bits)), name, x), name)


@pytest.mark.parametrize("bits", [32, 64])
def test_powers_at_the_edges_are_torchs(bits):
    edge = [
        INF,
        -INF,
        NAN,
        0.0,
        -0.0,
        1.0,
        -1.0,
        -2.0,
        2.0,
        0.5,
        -0.5,
        1e30,
        -1e-30,
        3.0,
        -3.0,
        8.0,
    ]
    x = np.array(edge, DTYPE[bits])
    exponents = [0.0, 1.0, 0.5, -0.5, 2.0, 3.0, -1.0, -2.0, -3.0, 1.5, -1.5, 7.0, 1e300, -1e300]
    exponents += [1e-300, INF, -INF, NAN]
    module = ir.Module()
    for c in exponents:
        formula = MATH["pow"]
        emit_loop(
            module, f"{c}", FLOAT[bits], 4, lambda b, v, c=c, formula=formula: formula(b, v, c)
        )
    compiled = compile_module(module, host())
    for c in exponents:
        expected = torch.pow(torch.from_numpy(x), c).numpy()
        result = call(compiled, f"{c}", x)
        special = ~np.isfinite(expected) | (expected == 0)
        same_as(expected[special], result[special], f"pow {c}")
        np.testing.assert_allclose(result, expected, rtol=4e-7 if bits == 32 else 1e-14)


def two(name):
    """Comparisons and choices as one function of two numbers."""
    if name in ("lt", "le", "eq"):
        return lambda b, x, y: MATH["where"](b, MATH[name](b, x, y), x, y)
    if name in ("and", "or"):
        return lambda b, x, y: MATH["where"](
            b, MATH[name](b, MATH["lt"](b, x, y), MATH["eq"](b, x, x)), x, y
        )
    if name == "not":
        return lambda b, x, y: MATH["where"](b, MATH["not"](b, MATH["lt"](b, x, y)), x, y)
    return MATH[name]


TWO = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "lt": lambda x, y: torch.where(x < y, x, y),
    "le": lambda x, y: torch.where(x <= y, x, y),
    "eq": lambda x, y: torch.where(x == y, x, y),
    "and": lambda x, y: torch.where((x < y) & (x == x), x, y),
    "or": lambda x, y: torch.where((x < y) | (x == x), x, y),
    "not": lambda x, y: torch.where(~(x < y), x, y),
}


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("bits", [32, 64])
def test_arithmetic_and_choices_are_torchs(bits, width):
    some = np.array([INF, -INF, NAN, 0.0, -0.0, 1.0, -2.5, 1e-30], DTYPE[bits])
    x, y = (np.ascontiguousarray(g).ravel() for g in np.meshgrid(some, some))
    module = ir.Module()
    for name in TWO:
        emit_loop(module, name, FLOAT[bits], width, two(name), operands=2)
    compiled = compile_module(module, host())
    for name, function in TWO.items():
        expected = function(torch.from_numpy(x), torch.from_numpy(y)).numpy()
        np.testing.assert_array_equal(call(compiled, name, x, y), expected, err_msg=name)


# What is emitted ------------------------------------------------------------------------------------------------------

OTHER = {"slot", "const", "size", "sum", "max", "norm", "expand", "concat", "slice", "pad"}
PRODUCTS = {"matvec", "outer", "transpose", "matmul"}


def test_every_elementwise_op_of_the_language_has_a_spelling():
    assert set(MATH) == set(OPS) - OTHER - PRODUCTS


@pytest.mark.parametrize("bits", [32, 64])
def test_emission_is_pure(bits):
    text = str(module_of(bits, 8))
    assert set(re.findall(r"f(?:add|sub|mul|div) ((?:[a-z]+ )*)<", text)) == {"contract "}
    assert set(re.findall(r"@\"?(llvm\.[a-z]+)", text)) == {"llvm.sqrt", "llvm.rint", "llvm.floor"}
    assert text.count("br ") == 2 * len(NAMES)  # of the loops above


@pytest.mark.parametrize("vectors", [None, *NARROW])
def test_nothing_is_called(vectors):
    try:
        machine = host(vectors)
    except KernelError:
        pytest.skip(f"this machine has no {vectors}")
    code = assembly(module_of(64, machine.vector_bits // 64, ("sin", "floor", "pow 1.7")), machine)
    assert not re.search(r"\b(call|bl|jmp)q?\s+[a-z]*(floor|rint|fma|exp|log|sin)", code)
