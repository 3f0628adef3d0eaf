"""Elementwise functions as LLVM IR, for float32 and float64, vectors of any width and scalars.

`MATH[op](builder, *values) -> value` for every elementwise op of the language; `pow` takes its exponent as a number.
Emission is pure: into the current block, no branch, no call but of intrinsics that are instructions (sqrt; floor and
rint from SSE4.1 on), no state but one constant table that float64 sin and cos place in the module.

Accuracy: at most 4 units in the last place in float32 and 1e-14 relative in float64, everywhere: denormals, both zeros,
the edges of overflow and underflow. Infinities and NaN come out as from torch (so sign(NaN) is 0, pow(NaN, 0) 1).
The only fast-math flag is `contract`; where a formula needs a product to be exact, it is exact with and without fusing.

Source  exp: reduction by Cody and Waite; ln 2 in two parts from Cephes (float32) and fdlibm (float64).
        log: the reduction and the float64 form of fdlibm. pow in float64: as in fdlibm, in two parts.
        Angles: see turns.py. Coefficients: see polynomials.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .lanes import BIAS, MANTISSA, Formula, Lanes, polynomial
from .polynomials import ATAN, COS, ERF, ERF_TAIL, EXP, LOG, LOG_LONG, SIN, TANH
from .turns import quarters

LOG2_E = math.log2(math.e)
LN2 = math.log(2.0)
# ln 2 in two parts; the first has so few bits that its product with any exponent is exact.
LN2_HIGH = {32: 0.693359375, 64: 6.93147180369123816490e-01}
LN2_LOW = {32: -2.12194440e-4, 64: 1.90821492927058770002e-10}
TINIEST = {32: 2.0**-126, 64: 2.0**-1022}  # the smallest normal number
INF, NAN = math.inf, math.nan


# exp and what is made of it -------------------------------------------------------------------------------------------


def _reduced(x: Lanes, offset: int) -> tuple[Lanes, Lanes]:
    """x = n ln 2 + r with |r| <= ln(2)/2: (a pattern whose last bits are n + offset, r)."""
    size = x.size
    shift = 1.5 * 2.0 ** MANTISSA[size] + offset  # adding it rounds to an integer, in the last bits
    shifted = x * LOG2_E + shift
    n = shifted - shift
    return shifted.bits(), (x - n * LN2_HIGH[size]) - n * LN2_LOW[size]


def _two_to(pattern: Lanes) -> Lanes:
    """2^(k - bias) for the integer k in the last bits of a pattern."""
    return (pattern << MANTISSA[pattern.size]).number()


def _times_two_to(p: Lanes, pattern: Lanes) -> Lanes:
    """p 2^(k - 2 bias), as two factors, for k from 0 to 4 bias: rounds once, to denormals too, and overflows."""
    size = p.size
    exponents = ((1 << (size - 1)) - 1) & -(1 << MANTISSA[size])
    half = (pattern << (MANTISSA[size] - 1)) & exponents
    return p * half.number() * ((pattern << MANTISSA[size]) - half).number()


def _expm1_near_zero(r: Lanes) -> Lanes:
    return r + r * r * polynomial(r, EXP[r.size])


def exp(x: Lanes) -> Lanes:
    low, high = {32: (-105.0, 89.0), 64: (-746.0, 710.0)}[x.size]
    return _exp_of_sum(x.at_least(low).at_most(high))


def _exp_of_sum(x: Lanes, more: Lanes | None = None) -> Lanes:
    """exp(x + more): x as far as exp overflows and underflows, `more` small."""
    pattern, r = _reduced(x, 2 * BIAS[x.size])
    if more is not None:
        r = r + more
    return _times_two_to(polynomial(r, (1.0, 1.0, *EXP[x.size])), pattern)


def _exp_below_zero(x: Lanes) -> Lanes:
    """exp(x) for x <= 0: one factor 2^n is enough when the polynomial is scaled down beforehand."""
    size, spare = x.size, x.size
    low = {32: -105.0, 64: -746.0}[size]
    pattern, r = _reduced(x.at_least(low), BIAS[size] + spare)
    scaled = tuple(c * 2.0**-spare for c in (1.0, 1.0, *EXP[size]))
    return polynomial(r, scaled) * _two_to(pattern)


def expm1(x: Lanes) -> Lanes:
    """2^n (e^r - 1) + (2^n - 1), halved until the end so that 2^n cannot overflow; x itself where that is as good."""
    low, high = {32: (-25.0, 89.0), 64: (-50.0, 710.0)}[x.size]
    pattern, r = _reduced(x.at_least(low).at_most(high), BIAS[x.size] - 1)
    half = _two_to(pattern)
    result = (half * _expm1_near_zero(r) + (half - 0.5)) * 2.0
    small = x.magnitude() < 2.0 ** -(MANTISSA[x.size] + 3)
    return small.where(x, result)


def tanh(x: Lanes) -> Lanes:
    """With e = exp(-2|x|): (1 - e) / (1 + e), which near zero would have lost everything.

    float32 has an odd polynomial there, to be as exact as torch; it costs a third of the function. float64 has bits to
    spare, and takes e - 1 at full relative precision instead: fewer instructions, and 3 units in the last place.
    """
    size = x.size
    a = x.magnitude().at_most({32: 10.0, 64: 20.0}[size])
    pattern, r = _reduced(a * -2.0, BIAS[size])
    power = _two_to(pattern)
    if size == 64:
        t = power * _expm1_near_zero(r) + (power - 1.0)
        return (t / (t + 2.0)).magnitude().signed_as(x)
    e = polynomial(r, (1.0, 1.0, *EXP[size])) * power
    far = 1.0 - (e + e) / (e + 1.0)
    square = a * a
    near = a + a * square * polynomial(square, TANH[size])
    return (a < 0.625).where(near, far).signed_as(x)


def sigmoid(x: Lanes) -> Lanes:
    """1 / (1 + e) or e / (1 + e) with e = exp(-|x|): relative precision down to the denormals."""
    e = _exp_below_zero(-x.magnitude())
    return (x < 0.0).where(e, 1.0) / (e + 1.0)


def softplus(x: Lanes) -> Lanes:
    """max(x, 0) + log(1 + exp(-|x|))"""
    z = _exp_below_zero(-x.magnitude())
    # 1 + z is between 1 and 2: halved when it is above sqrt(2).
    large = z > math.sqrt(2.0) - 1.0
    f = large.where(z * 0.5 - 0.5, z)
    return x.at_least(0.0) + (large.where(z.like(LN2), 0.0) + (f - _log_rest(f)))


# Logarithms -----------------------------------------------------------------------------------------------------------

SQRT_HALF = {32: 0x3F3504F3, 64: 0x3FE6A09E667F3BCD}  # the pattern of sqrt(1/2)


def _log_rest(f: Lanes) -> Lanes:
    """f - log(1 + f) for 1 + f between sqrt(1/2) and sqrt(2)."""
    half = f * f * 0.5
    if f.size == 32:
        return half - f * f * f * polynomial(f, LOG[32])
    s = f / (f + 2.0)
    z = s * s
    return half - s * (half + z * polynomial(z, LOG[64]))


def _split(x: Lanes) -> tuple[Lanes, Lanes]:
    """x = 2^e m with sqrt(1/2) <= m < sqrt(2), for normal x: (e + bias in the first bits of a pattern, m)."""
    size = x.size
    pattern = x.bits() - SQRT_HALF[size] + (BIAS[size] << MANTISSA[size])
    fraction = (pattern & ((1 << MANTISSA[size]) - 1)) + SQRT_HALF[size]
    return pattern, fraction.number()


def _exponent(pattern: Lanes) -> Lanes:
    """e as a float: as the last bits of 2^23 or 2^52, since not every machine converts 64-bit integers."""
    size = pattern.size
    base = 2.0 ** MANTISSA[size]
    ones = (MANTISSA[size] + BIAS[size]) << MANTISSA[size]
    return ((pattern >> MANTISSA[size]) | ones).number() - (base + BIAS[size])


def _split_all(x: Lanes) -> tuple[Lanes, Lanes]:
    """(e, m - 1) for all x > 0, denormal ones too."""
    size = x.size
    steps = MANTISSA[size] + 1
    denormal = x < TINIEST[size]
    pattern, m = _split(denormal.where(x * 2.0**steps, x))
    return _exponent(pattern) - denormal.where(x.like(steps), 0.0), m - 1.0


def _log_joined(e: Lanes, f: Lanes) -> Lanes:
    """e ln 2 + log(1 + f), the small parts first."""
    size = f.size
    return e * LN2_HIGH[size] - ((_log_rest(f) - e * LN2_LOW[size]) - f)


def log(x: Lanes) -> Lanes:
    result = _log_joined(*_split_all(x))
    result = (x < INF).where(result, x)
    result = x.compared("==", 0.0).where(-INF, result)
    return (x < 0.0).where(NAN, result)


def log1p(x: Lanes) -> Lanes:
    """With 1 + x = 2^e m:  f = m - 1 = x 2^-e + (2^-e - 1), in which x keeps the bits that 1 + x would lose."""
    size = x.size
    pattern, m = _split(x + 1.0)
    exponents = ((1 << size) - 1) & -(1 << MANTISSA[size])
    shrink = ((pattern & exponents) * -1 + (2 * BIAS[size] << MANTISSA[size])).number()
    large = x > 2.0**100  # 1 + x is x, and 2^-e could be denormal
    f = large.where(m - 1.0, x * shrink + (shrink - 1.0))
    result = _log_joined(_exponent(pattern), f)
    result = ((x < INF) & x.compared("!=", 0.0)).where(result, x)
    result = x.compared("==", -1.0).where(-INF, result)
    return (x < -1.0).where(NAN, result)


# Powers ---------------------------------------------------------------------------------------------------------------


def power(x: Lanes, exponent: float) -> Lanes:
    """x ** exponent, as torch: C's pow, but sqrt for 1/2 (so that -inf gives NaN), and 1/sqrt for -1/2."""
    if exponent in POWERS:
        return POWERS[exponent](x)
    if not math.isfinite(exponent):
        return _power_without_end(x, exponent)
    a = x.magnitude()
    if x.size == 64:
        result = _power_wide(a, exponent)
    else:
        e, f = _split_all(a.wide())
        logarithm = _log_joined(e, f) * exponent
        result = exp(logarithm.at_least(-200.0).at_most(200.0)).narrow()
    whole = exponent == math.floor(exponent)
    if not whole:
        result = (x < 0.0).where(NAN, result)
    result = a.compared("==", 0.0).where(0.0 if exponent > 0 else INF, result)
    # Infinities, of which also -inf has powers that are not whole; and NaN.
    result = (a < INF).where(result, a if exponent > 0 else 1.0 / a)
    return result.signed_as(x) if whole and exponent % 2.0 == 1.0 else result


def _power_without_end(x: Lanes, exponent: float) -> Lanes:
    """Exponents inf, -inf and NaN."""
    a = x.magnitude()
    if math.isnan(exponent):
        return x.compared("==", 1.0).where(1.0, x.like(NAN))
    above, below = (INF, 0.0) if exponent > 0 else (0.0, INF)
    return (a > 1.0).where(above, (a < 1.0).where(x.like(below), a))


def _power_wide(a: Lanes, exponent: float) -> Lanes:
    """exp(exponent log(a)), a > 0 in float64: the logarithm as a sum of two, exact to 2^-57 of itself.

    The greatest finite and the smallest normal results, of exp(+-745), are thus right to 6e-15.
    """
    # Beyond 2^70, every a but 1 overflows or underflows anyway.
    exponent = max(min(exponent, 2.0**70), -(2.0**70))
    e, f = _split_all(a)
    high, low = _log_pair(e, f)
    front = _rounded(exponent, 26)
    product = high * front
    rest = low * exponent + high * (exponent - front)
    inside = product.magnitude() < 800.0
    return _exp_of_sum(product.at_least(-760.0).at_most(720.0), inside.where(rest, 0.0))


def _log_pair(e: Lanes, f: Lanes) -> tuple[Lanes, Lanes]:
    """e ln 2 + log(1 + f) in two parts, the first with 26 bits. Products of two numbers of 26 bits are exact."""
    # s = f / (2 + f) as s_high + s_low
    d = f + 2.0
    d_high = d.masked(27)
    d_low = (d - d_high) + (f - (d - 2.0))
    inverse = 1.0 / d
    s_high = (f * inverse).masked(27)
    s_low = ((f - s_high * d_high) - s_high * d_low) * inverse
    s = s_high + s_low
    z = s * s
    rest = s_low * 2.0 + s * z * polynomial(z, LOG_LONG[64]) + e * LN2_LOW[64]
    # The exponent's part is the greater, or zero: the rounding error of the sum is exact.
    whole, part = e * LN2_HIGH[64], s_high * 2.0
    total = whole + part
    rest = (part - (total - whole)) + rest
    high = (total + rest).masked(27)
    return high, (total - high) + rest


def _rounded(number: float, bits: int) -> float:
    """A number with its first bits only."""
    fraction, exponent = math.frexp(number)
    return math.ldexp(round(math.ldexp(fraction, bits)), exponent - bits)


POWERS: dict[float, Formula] = {
    0.0: lambda x: x.like(1.0),
    1.0: lambda x: x,
    2.0: lambda x: x * x,
    3.0: lambda x: x * x * x,
    4.0: lambda x: (x * x) * (x * x),
    0.5: lambda x: x.intrinsic("sqrt"),
    -0.5: lambda x: 1.0 / x.intrinsic("sqrt"),
    -1.0: lambda x: 1.0 / x,
    -2.0: lambda x: (1.0 / x) * (1.0 / x),
}


# Angles ---------------------------------------------------------------------------------------------------------------


def sin(x: Lanes) -> Lanes:
    pattern, r = quarters(x)
    result = _wave(x, pattern.bits(), r)
    # Keeps the sign of zero, and denormals.
    return (x.magnitude() < 2.0 ** -(MANTISSA[x.size] // 2 + 2)).where(x, result)


def cos(x: Lanes) -> Lanes:
    pattern, r = quarters(x)
    return _wave(x, pattern.bits() + 1, r)


def _wave(x: Lanes, quarter: Lanes, r: Lanes) -> Lanes:
    """sin(r + quarter π/2); NaN where x is infinite or NaN."""
    size = x.size
    z = r * r
    sine = r + r * z * polynomial(z, SIN[size])
    cosine = (1.0 - z * 0.5) + z * z * polynomial(z, COS[size])
    odd = (quarter & 1).compared("!=", 0)
    sign = (quarter & 2) << (size - 2)
    result = (odd.where(cosine, sine).bits() ^ sign).number()
    return (x.magnitude() < INF).where(result, NAN)


def atan(x: Lanes) -> Lanes:
    """Above tan(3π/8): π/2 - atan(1/x); above tan(π/8): π/4 + atan((x-1)/(x+1))."""
    size = x.size
    a = x.magnitude()
    middle, large = a > math.sqrt(2.0) - 1.0, a > math.sqrt(2.0) + 1.0
    above = large.where(-1.0, middle.where(a - 1.0, a))
    below = large.where(a, middle.where(a + 1.0, 1.0))
    z = above / below
    base = large.where(math.pi / 2, middle.where(a.like(math.pi / 4), 0.0))
    lost = {32: -2.782753437848454e-08, 64: 3.8981718325193755e-17}[
        size
    ]  # π/2 = its rounded value * (1 + lost)
    square = z * z
    rest = base * lost + z * square * polynomial(square, ATAN[size])
    return (base + (z + rest)).signed_as(x)


def erf(x: Lanes) -> Lanes:
    """Up to 1 an odd polynomial; above, 1 - exp of a polynomial."""
    size = x.size
    centre, limit = {32: (0.0, 4.0), 64: (2.5, 6.0)}[size]
    a = x.magnitude().at_most(limit)
    near = x + x * polynomial(a * a, ERF[size])
    tail = polynomial(a - centre, ERF_TAIL[size])
    far = 1.0 - _exp_below_zero(tail)
    return (a < 1.0).where(near, far.signed_as(x))


# Arithmetic and choice ------------------------------------------------------------------------------------------------


def minimum(a: Lanes, b: Lanes) -> Lanes:
    return ((a < b) | a.compared("!=", a)).where(a, b)


def maximum(a: Lanes, b: Lanes) -> Lanes:
    return ((a > b) | a.compared("!=", a)).where(a, b)


def sign(a: Lanes) -> Lanes:
    """As torch's: 0 for NaN."""
    one = a.like(1.0)
    return (a > 0.0).where(one, (a < 0.0).where(a.like(-1.0), 0.0))


def _emitter(formula: Formula) -> Callable[..., Any]:
    def emit(builder: Any, *values: Any) -> Any:
        wrapped = [v if isinstance(v, (int, float)) else Lanes(builder, v) for v in values]
        return formula(*wrapped).value

    return emit


FORMULAS: dict[str, Formula] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "pow": power,
    "exp": exp,
    "expm1": expm1,
    "log": log,
    "log1p": log1p,
    "sqrt": lambda a: a.intrinsic("sqrt"),
    "tanh": tanh,
    "sigmoid": sigmoid,
    "softplus": softplus,
    "relu": lambda a: a.at_least(0.0),
    "sin": sin,
    "cos": cos,
    "atan": atan,
    "erf": erf,
    "abs": lambda a: a.magnitude(),
    "sign": sign,
    "floor": lambda a: a.intrinsic("floor"),
    "round": lambda a: a.intrinsic("rint"),
    "stop_gradient": lambda a: a,
    "minimum": minimum,
    "maximum": maximum,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "eq": lambda a, b: a.compared("==", b),
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "not": lambda a: a ^ 1,
    "where": lambda c, a, b: c.where(a, b),
}

MATH: dict[str, Callable[..., Any]] = {op: _emitter(f) for op, f in FORMULAS.items()}
