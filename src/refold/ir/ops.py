"""The table of operations: name, shape rule, derivative rule, cost, and how each is printed.

A new operation is one line here and one spelling in each backend. Derivative rules are written with the operations
themselves, so the derived adjoint is a graph like any other: it prints, it is compiled, and it is differentiated again
by whoever needs to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from refold.shapes import Shape, Size, shape_text, total

from .graph import Builder, Node


class MisfitError(Exception):
    """Operands that an op cannot take. {0}, {1} in the texts stand for the operands; the tracer fills them in."""

    def __init__(self, fact: str, remedy: str):
        super().__init__(fact)
        self.fact, self.remedy = fact, remedy


@dataclass(frozen=True, eq=False)
class Term:
    """A node while a graph is being written: arithmetic on terms adds lines to the builder."""

    builder: Builder
    index: int

    @property
    def node(self) -> Node:
        return self.builder.nodes[self.index]

    @property
    def shape(self) -> Shape:
        return self.node.shape

    def do(self, op: str, *others: Term | float, attr: Hashable = None) -> Term:
        """Another line: op(self, *others)."""
        builder = self.builder
        terms = [o if isinstance(o, Term) else constant(builder, o) for o in others]
        args = (self.index, *[t.index for t in terms])
        shape = OPS[op].shape(tuple([builder.nodes[i].shape for i in args]), attr)
        return Term(builder, builder.add(Node(op, args, shape, attr)))

    def __add__(self, other: Term | float) -> Term:
        return self.do("add", other)

    def __sub__(self, other: Term | float) -> Term:
        return self.do("sub", other)

    def __mul__(self, other: Term | float) -> Term:
        return self.do("mul", other)

    def __truediv__(self, other: Term | float) -> Term:
        return self.do("div", other)

    def __neg__(self) -> Term:
        return self.do("neg")

    def __rsub__(self, other: float) -> Term:
        return constant(self.builder, other) - self

    def __rmul__(self, other: float) -> Term:
        return constant(self.builder, other) * self

    def __rtruediv__(self, other: float) -> Term:
        return constant(self.builder, other) / self


def constant(builder: Builder, value: float) -> Term:
    """A number in the equation."""
    return Term(builder, builder.add(Node("const", (), (), float(value))))


def summed(a: Term) -> Term:
    """The sum of all elements. The attribute is how many axes that is, so that backends know an array from a batch."""
    return a.do("sum", attr=len(a.shape))


def zeros(builder: Builder, shape: Shape) -> Term:
    """A number 0 for every element of a shape."""
    zero = constant(builder, 0.0)
    return zero.do("expand", attr=shape) if shape else zero


Gradients = tuple[Term | None, ...]


@dataclass(frozen=True, slots=True)
class Op:
    """One row of the table.

    shape       operand shapes and attribute -> shape; MisfitError where they do not fit
    derivative  (g, y, *operands) -> the gradient of each operand, given the gradient g of the result y;
                None in the tuple: no gradient by definition. None instead of the rule: not differentiable.
    cost        leaf, cheap (arithmetic), function (a call per element), product, reduction: what `keep` goes by
    boolean     the result is true or false, and only `where`, `and`, `or`, `not` read it
    """

    name: str
    arity: int | None
    shape: Callable[[tuple[Shape, ...], Hashable], Shape]
    derivative: Callable[..., Gradients] | None
    cost: str
    boolean: bool = False


OPS: dict[str, Op] = {}

_READS_COMPARISONS = {
    "where": (True, False, False),
    "and": (True, True),
    "or": (True, True),
    "not": (True,),
}


def reads_comparisons(op: str, count: int) -> tuple[bool, ...]:
    """For each of an op's `count` operands, whether it has to be a comparison; all others are numbers."""
    return _READS_COMPARISONS.get(op, (False,) * count)


def op(
    name: str,
    arity: int | None,
    shape: Callable[[tuple[Shape, ...], Hashable], Shape],
    derivative: Callable[..., Gradients] | None,
    cost: str,
    boolean: bool = False,
) -> None:
    OPS[name] = Op(name, arity, shape, derivative, cost, boolean)


# Shape rules ----------------------------------------------------------------------------------------------------------


def same(shapes: tuple[Shape, ...], attr: Hashable) -> Shape:
    """Elementwise: all operands of one shape, or scalars."""
    arrays = [(i, s) for i, s in enumerate(shapes) if s]
    for i, shape in arrays[1:]:
        first, expected = arrays[0]
        if shape != expected:
            remedy = "Bring one to the other's size with a Weight, or reduce it to a scalar with rf.sum or rf.mean."
            if len(shape) != len(expected):
                remedy = "The product of a matrix and a vector is written with @, as in W @ x."
            raise MisfitError(
                f"{{{first}}} and {{{i}}}: elementwise operations need equal sizes, "
                f"and {shape_text(expected)} is not {shape_text(shape)}.",
                remedy,
            )
    return arrays[0][1] if arrays else ()


def matvec(shapes: tuple[Shape, ...], attr: Hashable) -> Shape:
    matrix, vector = shapes
    if matrix[1] != vector[0]:
        raise MisfitError(
            f"{{0}} and {{1}}: the inner sizes {matrix[1]} and {vector[0]} differ.",
            f'To read {{1.name}}, declare  {{0.weight}}("{_word(matrix[0])} {_word(vector[0])}").',
        )
    return matrix[:1]


def matmul(shapes: tuple[Shape, ...], attr: Hashable) -> Shape:
    left, right = shapes
    if left[1] != right[0]:
        raise MisfitError(
            f"{{0}} and {{1}}: the inner sizes {left[1]} and {right[0]} differ.",
            f'To multiply them, declare  {{0.weight}}("{_word(left[0])} {_word(right[0])}").',
        )
    return (left[0], right[1])


def outer(shapes: tuple[Shape, ...], attr: Hashable) -> Shape:
    return (shapes[0][0], shapes[1][0])


def flipped(shapes: tuple[Shape, ...], attr: Hashable) -> Shape:
    return shapes[0][::-1]


def scalar(shapes: tuple[Shape, ...], attr: Hashable) -> Shape:
    return ()


def given(shapes: tuple[Shape, ...], attr: Hashable) -> Shape:
    """The attribute is the shape."""
    assert isinstance(attr, tuple)
    return attr


def joined(shapes: tuple[Shape, ...], attr: Hashable) -> Shape:
    for i, shape in enumerate(shapes):
        if not shape:
            raise MisfitError(
                f"{{{i}}}, and concat joins vectors.",
                'Declare it with size "1", as in Bias("1"), for a vector of one number.',
            )
        if shape[1:] != shapes[0][1:]:
            raise MisfitError(
                f"{{0}} and {{{i}}}: concat joins vectors, or matrices of equal width, end to end.",
                "Join what has equal widths, or multiply each matrix with its vector first: rf.concat(W @ x, h).",
            )
    return (total(shape[0] for shape in shapes), *shapes[0][1:])


def cut(shapes: tuple[Shape, ...], attr: Hashable) -> Shape:
    """attr = (first row, number of rows)."""
    assert isinstance(attr, tuple)
    return (attr[1], *shapes[0][1:])


def padded(shapes: tuple[Shape, ...], attr: Hashable) -> Shape:
    """attr = (rows of zeros in front, rows in all)."""
    assert isinstance(attr, tuple)
    return (attr[1], *shapes[0][1:])


def _word(size: Size) -> str:
    return str(size).replace(" ", "")


# Derivatives that take more than one line -----------------------------------------------------------------------------


def _pow(g: Term, y: Term, a: Term) -> Gradients:
    exponent = y.node.attr
    assert isinstance(exponent, float)
    return (g * (exponent * a.do("pow", attr=exponent - 1.0)),)


def _share(better: str) -> Callable[..., Gradients]:
    """minimum and maximum: the operand that was taken gets the gradient; equal ones share it, as in torch."""

    def rule(g: Term, y: Term, a: Term, b: Term) -> Gradients:
        tie = a.do("eq", b)
        first, second = (a, b) if better == "lt" else (b, a)
        half = g * 0.5
        to_a = tie.do("where", half, first.do("lt", second).do("where", g, 0.0))
        to_b = tie.do("where", half, second.do("lt", first).do("where", g, 0.0))
        return (to_a, to_b)

    return rule


def _greatest(g: Term, y: Term, a: Term) -> Gradients:
    """max over the features: equal greatest elements share the gradient."""
    hit = a.do("eq", y).do("where", 1.0, 0.0)
    return (hit * (g / summed(hit)),)


def _norm(g: Term, y: Term, a: Term) -> Gradients:
    """a / |a|, and 0 at a = 0, where no direction is better than another."""
    safe = y.do("eq", 0.0).do("where", 1.0, y)
    return (a * (g / safe),)


def _concat(g: Term, y: Term, *parts: Term) -> Gradients:
    gradients, start = [], Size()
    for part in parts:
        rows = part.shape[0]
        gradients.append(g.do("slice", attr=(start, rows)))
        start = start + rows
    return tuple(gradients)


def _slice(g: Term, y: Term, a: Term) -> Gradients:
    start, _ = y.node.attr  # type: ignore[misc]
    return (g.do("pad", attr=(start, a.shape[0])),)


def _pad(g: Term, y: Term, a: Term) -> Gradients:
    start, _ = y.node.attr  # type: ignore[misc]
    return (g.do("slice", attr=(start, a.shape[0])),)


# The table ------------------------------------------------------------------------------------------------------------
#  name        arity  shape      derivative: (g, y, *operands) -> one gradient for each operand           cost
op("slot", 0, scalar, lambda g, y: (), "leaf")
op("const", 0, scalar, lambda g, y: (), "leaf")
op("size", 0, scalar, lambda g, y: (), "leaf")  # a letter as a number, e.g. n in mean = sum / n

op("add", 2, same, lambda g, y, a, b: (g, g), "cheap")
op("sub", 2, same, lambda g, y, a, b: (g, -g), "cheap")
op("mul", 2, same, lambda g, y, a, b: (g * b, g * a), "cheap")
op("div", 2, same, lambda g, y, a, b: (g / b, -(g * y / b)), "function")
op("neg", 1, same, lambda g, y, a: (-g,), "cheap")
op("pow", 1, same, _pow, "function")  # attr: the constant exponent

op("exp", 1, same, lambda g, y, a: (g * y,), "function")
op("expm1", 1, same, lambda g, y, a: (g * (y + 1.0),), "function")
op("log", 1, same, lambda g, y, a: (g / a,), "function")
op("log1p", 1, same, lambda g, y, a: (g / (a + 1.0),), "function")
op("sqrt", 1, same, lambda g, y, a: (g * 0.5 / y,), "function")
op("tanh", 1, same, lambda g, y, a: (g * (1.0 - y * y),), "function")
op("sigmoid", 1, same, lambda g, y, a: (g * (y * (1.0 - y)),), "function")
op("softplus", 1, same, lambda g, y, a: (g * a.do("sigmoid"),), "function")
# y <= 0 where a <= 0, and the result is more often kept than the operand; NaN passes the gradient on, as in torch.
op("relu", 1, same, lambda g, y, a: (y.do("le", 0.0).do("where", 0.0, g),), "cheap")
op("sin", 1, same, lambda g, y, a: (g * a.do("cos"),), "function")
op("cos", 1, same, lambda g, y, a: (-(g * a.do("sin")),), "function")
op("atan", 1, same, lambda g, y, a: (g / (a * a + 1.0),), "function")
op(
    "erf",
    1,
    same,
    lambda g, y, a: (g * (2 / math.sqrt(math.pi) * (-(a * a)).do("exp")),),
    "function",
)
op("abs", 1, same, lambda g, y, a: (g * a.do("sign"),), "cheap")
op("sign", 1, same, None, "cheap")
op("floor", 1, same, None, "cheap")
op("round", 1, same, None, "cheap")
op("stop_gradient", 1, same, lambda g, y, a: (None,), "cheap")

op("minimum", 2, same, _share("lt"), "cheap")
op("maximum", 2, same, _share("gt"), "cheap")
op("lt", 2, same, lambda g, y, a, b: (None, None), "cheap", boolean=True)
op("le", 2, same, lambda g, y, a, b: (None, None), "cheap", boolean=True)
op("eq", 2, same, lambda g, y, a, b: (None, None), "cheap", boolean=True)
op("and", 2, same, lambda g, y, a, b: (None, None), "cheap", boolean=True)
op("or", 2, same, lambda g, y, a, b: (None, None), "cheap", boolean=True)
op("not", 1, same, lambda g, y, a: (None,), "cheap", boolean=True)
op(
    "where",
    3,
    same,
    lambda g, y, c, a, b: (None, c.do("where", g, 0.0), c.do("where", 0.0, g)),
    "cheap",
)

op("sum", 1, scalar, lambda g, y, a: (g.do("expand", attr=a.shape),), "reduction")  # attr: axes
op("max", 1, scalar, _greatest, "reduction")
op("norm", 1, scalar, _norm, "reduction")
op("expand", 1, given, lambda g, y, a: (summed(g),), "cheap")  # attr: the shape to fill

op("concat", None, joined, _concat, "cheap")
op("slice", 1, cut, _slice, "cheap")
op("pad", 1, padded, _pad, "cheap")

op(
    "matvec",
    2,
    matvec,
    lambda g, y, W, v: (g.do("outer", v), W.do("transpose").do("matvec", g)),
    "product",
)
op("outer", 2, outer, None, "product")  # only in sums over time: a weight's gradient
op("transpose", 1, flipped, lambda g, y, W: (g.do("transpose"),), "cheap")
op(
    "matmul",
    2,
    matmul,
    lambda g, y, A, M: (
        g.do("matmul", M.do("transpose")),
        A.do("transpose").do("matmul", g),
    ),
    "product",
)
