"""Symbols: what a cell's parameters are while its function runs once and is written down as a graph.

Arithmetic on symbols adds lines to the graph. Everything that a symbol cannot do raises an EquationError that shows
the source text with a caret under it, says what is so, and what to write instead.
"""

from __future__ import annotations

import numbers
import operator as o
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

from refold.errors import EquationError
from refold.shapes import Shape, shape_text

from .graph import SLOT, Builder, Leaf, Node, Place
from .ops import OPS, MisfitError, Term, constant, reads_comparisons
from .source import labels_in, place_in, shown, user_frame

# The functions of the language by name; `refold.ir.functions` fills it, and error texts list it.
FUNCTIONS: dict[str, Callable[..., object]] = {}
_OWN_FUNCTIONS = (
    "Use + - * / ** @ and refold's own functions, such as rf.tanh, rf.exp, rf.where, rf.sum; "
    "docs/language.md lists them."
)

# How an error text writes an op.
_SIGNS = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "and": "&",
    "or": "|",
    "not": "~",
    "neg": "-",
}
_SIGNS |= dict.fromkeys(("lt", "le", "eq"), "a comparison") | dict.fromkeys(
    ("matvec", "matmul"), "@"
)
# What numpy.float64(2) on the left of a symbol asks for, by the names of NumPy's functions.
_BY_NUMPY: dict[str, Callable[[float, Symbol], Symbol]] = {
    "add": o.add,
    "subtract": o.sub,
    "multiply": o.mul,
    "divide": o.truediv,
    "power": o.pow,
    "less": o.lt,
    "less_equal": o.le,
    "greater": o.gt,
    "greater_equal": o.ge,
    "equal": o.eq,
    "not_equal": o.ne,
}


@dataclass(frozen=True, slots=True, init=False)
class Step:
    """What a cell returns when its output is not its first state: Step(h, c, output=y)."""

    states: tuple[object, ...]
    output: object

    def __init__(self, *states: object, output: object):
        object.__setattr__(self, "states", states)
        object.__setattr__(self, "output", output)


class Reading:
    """One cell while its function runs: the graph so far, and the parameters met."""

    def __init__(self, cell: str):
        self.cell = cell
        self.builder = Builder()
        self.leaves: list[Leaf] = []
        self._named: dict[object, int] = {}
        self._varying: set[int] = set()  # what has one value for each step and row

    def refuse(self, fact: str, remedy: str) -> NoReturn:
        """Raise at the line of the equation that is being read."""
        raise EquationError(fact, remedy, self.here()) from None

    def here(self) -> str:
        """The source text that is being evaluated."""
        return shown(place_in(user_frame(), self.cell))

    def declare(self, leaf: Leaf) -> Symbol:
        self.leaves.append(leaf)
        symbol = Symbol(self, self.builder.slot(leaf.slot, leaf.shape))
        if leaf.kind != "param":
            self._varying.add(symbol.index)
        return symbol

    def adopt(self, term: Term) -> Symbol:
        """A value that was not written by the equation, such as what a solver makes of it, for the equation to read."""
        self._varying.add(term.index)
        return Symbol(self, term.index)

    def again(self) -> None:
        """The function is about to run once more, and the names of its lines are given once more."""
        self._named.clear()

    def names(self, count: int) -> tuple[str | None, ...]:
        """The local names that `count` values, returned together, are about to be bound to."""
        names = labels_in(user_frame())
        return names if len(names) == count else (None,) * count

    def write(
        self, op: str, *operands: Symbol, attr: Hashable = None, label: str | None = None
    ) -> Symbol:
        """One more line of the graph, at the place in the source that is being evaluated."""
        self.at_work()
        frame = user_frame()
        place = place_in(frame, self.cell)
        self._legal(op, operands)
        try:
            shape = OPS[op].shape(tuple(o.shape for o in operands), attr)
        except MisfitError as misfit:
            described = [_Described(o) for o in operands]
            raise EquationError(
                misfit.fact.format(*described), misfit.remedy.format(*described), shown(place)
            ) from None
        if any(o.index in self._varying for o in operands):
            self._still(shape, operands, place)
        index = self.builder.add(
            Node(op, tuple(o.index for o in operands), shape, attr, label, place)
        )
        if any(o.index in self._varying for o in operands):
            self._varying.add(index)
        self._label(index, frame.f_code, frame.f_lasti, labels_in(frame))
        return Symbol(self, index)

    def at_work(self) -> None:
        """Refuse when this is not the cell that is being read: one of its symbols got out."""
        current = READING.get()
        if current is not None and current is not self:
            current.refuse(
                f"a value of another cell, '{self.cell}', is used here.",
                "Use only this cell's own parameters and what is computed from them.",
            )

    def symbol(self, value: object) -> Symbol:
        """A number becomes a constant; a symbol must be of this cell."""
        misused = getattr(type(value), "misused", None)
        if misused is not None:  # an Affine: a function of vectors, which says so
            misused(value)
        self.at_work()
        if isinstance(value, Symbol):
            value.reading.at_work()
            return value
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            return Symbol(self, constant(self.builder, float(value)).index)
        self.refuse(
            f"{kind_of(value)} stands where the equation needs a symbol or a number.",
            "Declare it as a parameter (Weight, Bias, Scalar, Input), or convert it with float(...) first.",
        )

    def _legal(self, op: str, operands: tuple[Symbol, ...]) -> None:
        expected = reads_comparisons(op, len(operands))
        for operand, boolean in zip(operands, expected, strict=True):
            if operand.boolean and not boolean:
                self.refuse(
                    f"{operand.called} is a comparison, true or false, and {_SIGNS.get(op, op)} needs numbers.",
                    "Choose numbers with it: rf.where(comparison, value_if_true, value_if_false).",
                )
            if boolean and not operand.boolean:
                self.refuse(
                    f"{operand.called} is a number, and {_SIGNS.get(op, op)} needs a comparison here.",
                    "Write a comparison, such as h > 0; beside & and | in brackets: (h > 0) & (h < 1).",
                )

    def _still(self, shape: Shape, operands: tuple[Symbol, ...], place: Place) -> None:
        if len(shape) == 2:
            moving = next(o for o in operands if o.index in self._varying)
            raise EquationError(
                f"{moving.described}, and changes from step to step; a matrix made from it would, too.",
                "Matrices are made of parameters alone. Scale the vector instead: s * (W @ h).",
                shown(place),
            )

    def _label(self, index: int, code: object, offset: int, names: tuple[str, ...]) -> None:
        """A line that is assigned to a local name is called by it; of several lines in one call, the last is."""
        if len(names) != 1 or self.builder.nodes[index].op == SLOT:
            return
        key = (code, offset)
        earlier = self._named.get(key)
        if earlier is not None:
            self.builder.name(earlier, None)
        if self.builder.nodes[index].label is None:
            self.builder.name(index, names[0])
            self._named[key] = index


READING: ContextVar[Reading | None] = ContextVar("READING", default=None)


def reading_of(operands: tuple[object, ...], function: str) -> Reading:
    """The reading that a function call belongs to."""
    for operand in operands:
        if isinstance(operand, Symbol):
            return operand.reading
    current = READING.get()
    if current is None:
        raise EquationError(
            f"rf.{function} was called with {', '.join(map(kind_of, operands)) or 'nothing'}, outside a cell.",
            "It is part of the equation language: call it on symbols, inside a function under @rf.cell.",
        )
    return current


# Symbols --------------------------------------------------------------------------------------------------------------


class Symbol:
    """A value in an equation: a parameter, or something computed from parameters. It has a shape and no number."""

    __slots__ = ("index", "reading")
    __hash__ = object.__hash__

    def __init__(self, reading: Reading, index: int):
        self.reading = reading
        self.index = index

    @property
    def node(self) -> Node:
        return self.reading.builder.nodes[self.index]

    @property
    def shape(self) -> Shape:
        return self.node.shape

    @property
    def boolean(self) -> bool:
        return OPS[self.node.op].boolean

    @property
    def name(self) -> str:
        return self.node.label or ("the matrix" if len(self.shape) == 2 else "the value")

    @property
    def called(self) -> str:
        return self.node.label or (str(self.node.attr) if self.node.op == "const" else "this value")

    @property
    def described(self) -> str:
        return f"{self.called} is {shape_text(self.shape)}"

    @property
    def T(self) -> Symbol:
        """The transpose of a matrix."""
        if len(self.shape) != 2:
            self.reading.refuse(
                f"{self.described}, and only a matrix has a transpose.", "Leave .T out."
            )
        return self.reading.write("transpose", self)

    def _do(self, op: str) -> Symbol:
        return self.reading.write(op, self)

    def _with(self, op: str, other: object, swap: bool = False) -> Symbol:
        second = self.reading.symbol(other)
        return self.reading.write(op, *((second, self) if swap else (self, second)))

    def __add__(self, other: object) -> Symbol:
        return self._with("add", other)

    def __radd__(self, other: object) -> Symbol:
        return self._with("add", other, swap=True)

    def __sub__(self, other: object) -> Symbol:
        return self._with("sub", other)

    def __rsub__(self, other: object) -> Symbol:
        return self._with("sub", other, swap=True)

    def __mul__(self, other: object) -> Symbol:
        return self._with("mul", other)

    def __rmul__(self, other: object) -> Symbol:
        return self._with("mul", other, swap=True)

    def __truediv__(self, other: object) -> Symbol:
        return self._with("div", other)

    def __rtruediv__(self, other: object) -> Symbol:
        return self._with("div", other, swap=True)

    def __neg__(self) -> Symbol:
        return self.reading.write("neg", self)

    def __pos__(self) -> Symbol:
        return self

    def __abs__(self) -> Symbol:
        return self.reading.write("abs", self)

    def __pow__(self, exponent: object) -> Symbol:
        if isinstance(exponent, Symbol):
            return (exponent * self._do("log"))._do("exp")
        if not isinstance(exponent, numbers.Real):
            self.reading.symbol(exponent)
        value = float(exponent)  # type: ignore[arg-type]
        if value == 2.0:
            return self * self
        return self.reading.write("pow", self, attr=value)

    def __rpow__(self, base: object) -> Symbol:
        return (self * self.reading.symbol(base)._do("log"))._do("exp")

    def __matmul__(self, other: object) -> Symbol:
        right = self.reading.symbol(other)
        ranks = (len(self.shape), len(right.shape))
        if ranks == (2, 1):
            return self.reading.write("matvec", self, right)
        if ranks == (2, 2):
            return self.reading.write("matmul", self, right)
        if ranks == (1, 2):
            return self.reading.write("matvec", right.T, self)
        if ranks == (1, 1):
            return self.reading.write("sum", self * right, attr=1)
        self.reading.refuse(
            f"{self.described} and {right.described}: @ multiplies matrices and vectors.",
            "To scale by a scalar, write * instead of @.",
        )

    def __rmatmul__(self, other: object) -> Symbol:
        return self.reading.symbol(other) @ self

    def __lt__(self, other: object) -> Symbol:
        return self._with("lt", other)

    def __le__(self, other: object) -> Symbol:
        return self._with("le", other)

    def __gt__(self, other: object) -> Symbol:
        return self._with("lt", other, swap=True)

    def __ge__(self, other: object) -> Symbol:
        return self._with("le", other, swap=True)

    def __eq__(self, other: object) -> Symbol:  # type: ignore[override]
        return self._with("eq", other)

    def __ne__(self, other: object) -> Symbol:  # type: ignore[override]
        return self.reading.write("not", self._with("eq", other))

    def __and__(self, other: object) -> Symbol:
        return self._with("and", other)

    def __rand__(self, other: object) -> Symbol:
        return self._with("and", other, swap=True)

    def __or__(self, other: object) -> Symbol:
        return self._with("or", other)

    def __ror__(self, other: object) -> Symbol:
        return self._with("or", other, swap=True)

    def __invert__(self) -> Symbol:
        return self.reading.write("not", self)

    # What Python would like to do with a number, and a symbol cannot:

    def __bool__(self) -> NoReturn:
        self.reading.refuse(
            f"{self.described}: it has no truth value while the equation is read, so Python's "
            "if, and, or, not and chained comparisons cannot look at it.",
            "Write rf.where(condition, a, b) for a choice, and & | ~ between comparisons.",
        )

    def __float__(self) -> NoReturn:
        self._no_number("float(), int() and the math module")

    __int__ = __index__ = __complex__ = __float__

    def __array__(self, *args: object, **kwargs: object) -> NoReturn:
        self._no_number("NumPy")

    def __array_ufunc__(
        self, function: object, how: str, *args: object, **kwargs: object
    ) -> Symbol:
        left: Any = args[0] if args else None
        name = getattr(function, "__name__", "")
        # numpy.float64(2) * h arrives here, and is a number times h.
        if name in _BY_NUMPY and left is not self and getattr(left, "ndim", None) == 0:
            return _BY_NUMPY[name](float(left), self)
        self._no_number("NumPy", function)

    def __array_function__(self, function: object, *args: object, **kwargs: object) -> NoReturn:
        self._no_number("NumPy", function)

    @classmethod
    def __torch_function__(
        cls, function: object, types: object, args: tuple = (), kwargs: object = None
    ) -> NoReturn:
        # torch.cat([x, h]) has its symbols one level down, torch.tanh(input=h) by keyword.
        given = [*args, *(kwargs.values() if isinstance(kwargs, dict) else ())]
        given += [part for a in given if isinstance(a, list | tuple) for part in a]
        symbol = next(a for a in given if isinstance(a, Symbol))
        symbol._no_number("torch", function)

    def __round__(self, *args: object) -> NoReturn:
        self._no_number("Python's round()", round)

    def _no_number(self, who: str, function: object = None) -> NoReturn:
        name = getattr(function, "__name__", "")
        own = f"Write rf.{name} instead." if name in FUNCTIONS else _OWN_FUNCTIONS
        self.reading.refuse(
            f"{self.described}: it has no number while the equation is read, so {who} cannot be used on it.",
            own,
        )

    def __iter__(self) -> NoReturn:
        self._no_items()

    def __len__(self) -> NoReturn:
        self._no_items()

    def __getitem__(self, key: object) -> NoReturn:
        self._no_items()

    def __setitem__(self, key: object, value: object) -> NoReturn:
        self._no_items()

    def _no_items(self) -> NoReturn:
        self.reading.refuse(
            f"{self.described}: its elements cannot be counted, indexed or looped over.",
            "Cut a vector with rf.split(v, 2) or rf.split(v, 'n', 'k'); loop over constants only.",
        )

    def _no_operator(self, other: object) -> NoReturn:
        self.reading.refuse(
            f"{self.described}: // % ^ << >> are no operators of an equation.",
            "Use + - * / ** @, rf.floor for whole numbers, & | ~ between comparisons.",
        )

    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __divmod__ = __rdivmod__ = _no_operator
    __xor__ = __rxor__ = __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = _no_operator

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        self.reading.refuse(
            f"{self.described}, an array and not a function.",
            f"Multiply with @, as in {self.called} @ x; only what is declared as an Affine is called.",
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # what Python and NumPy ask of any object: it has none of it
            raise AttributeError(name)
        own = f"Write rf.{name}({self.called})." if name in FUNCTIONS else _OWN_FUNCTIONS
        self.reading.refuse(f"{self.described} and has no attribute {name}.", own)

    def __repr__(self) -> str:
        return f"<{self.described}>"


class _Described:
    """An operand in an error text: `{0}` prints "W is (n, m)", `{0.name}` its name, `{0.weight}` "W=Weight"."""

    def __init__(self, symbol: Symbol):
        self.name = symbol.name
        self.weight = f"{symbol.name}=Weight" if symbol.node.op == SLOT else "another Weight"
        self._text = symbol.described

    def __str__(self) -> str:
        return self._text


def kind_of(value: object) -> str:
    """ "a numpy ndarray", "an int", "a Symbol"."""
    package = type(value).__module__.partition(".")[0]
    prefix = "" if package in ("builtins", "refold") else f"{package} "
    text = f"{prefix}{type(value).__name__}"
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"
