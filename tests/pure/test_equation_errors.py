"""Every way to misuse the language, and what refold says about it.

Each case is a small cell. The line at fault ends in `# <-`; `under` is the text that the carets must stand under, and
`fact` and `remedy` are words that the error must have: what is so, and what to do. The tests stand at the end.
"""

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import refold as rf
from refold.errors import EquationError


@dataclass(frozen=True)
class Misuse:
    """A function that writes a faulty cell, and what its error must have."""

    write: Callable[[], object]
    under: str | None  # None: the fault is in no cell's source
    fact: str
    remedy: str


MISUSES: list[Misuse] = []


def misuse(under: str | None, fact: str, remedy: str) -> Callable[[Any], Any]:
    def note(write: Callable[[], object]) -> Callable[[], object]:
        MISUSES.append(Misuse(write, under, fact, remedy))
        return write

    return note


# Python's own control flow and numbers --------------------------------------------------------------------------------


@misuse("h", "h is (n,): it has no truth value", "rf.where(condition, a, b)")
def truth_of_a_state():
    @rf.cell
    def c(h=rf.State("n")):
        if h:  # <-
            return -h
        return h


@misuse(
    "h > 0",
    "no truth value while the equation is read, so Python's if,",
    "rf.where(condition, a, b)",
)
def if_on_a_comparison():
    @rf.cell
    def c(h=rf.State("n")):
        return -h if h > 0 else h  # <-


@misuse("h > 0", "no truth value", "& | ~ between comparisons")
def and_between_comparisons():
    @rf.cell
    def c(h=rf.State("n")):
        return rf.where(h > 0 and h < 1, h, -h)  # <-


@misuse("not (h > 0)", "no truth value", "& | ~ between comparisons")
def not_a_comparison():
    @rf.cell
    def c(h=rf.State("n")):
        return rf.where(not (h > 0), h, -h)  # <-


@misuse("0 < h < 1", "chained comparisons", "& | ~ between comparisons")
def chained_comparison():
    @rf.cell
    def c(h=rf.State("n")):
        return rf.where(0 < h < 1, h, -h)  # <-


@misuse("max(h, x)", "no truth value", "rf.where(condition, a, b)")
def builtin_max():
    @rf.cell
    def c(x=rf.Input("n"), h=rf.State("n")):
        return max(h, x)  # <-


@misuse("float(h)", "h is (n,): it has no number", "rf.tanh")
def float_of_a_state():
    @rf.cell
    def c(h=rf.State("n")):
        return 2.0 * float(h) * h  # <-


@misuse("int(a)", "a is a scalar: it has no number", "rf.tanh")
def int_of_a_scalar():
    @rf.cell
    def c(h=rf.State("n"), a=rf.Scalar(2.0)):
        return int(a) * h  # <-


@misuse("range(a)", "it has no number", "rf.tanh")
def range_of_a_scalar():
    @rf.cell
    def c(h=rf.State("n"), a=rf.Scalar(2.0)):
        for _ in range(a):  # <-
            h = rf.tanh(h)
        return h


@misuse("round(h)", "so Python's round() cannot be used on it", "Write rf.round instead")
def builtin_round():
    @rf.cell
    def c(h=rf.State("n")):
        return h - round(h)  # <-


@misuse("math.tanh(h)", "the math module cannot be used on it", "rf.tanh")
def math_function():
    @rf.cell
    def c(h=rf.State("n")):
        return math.tanh(h)  # <-


@misuse("numpy.tanh(h)", "NumPy cannot be used on it", "Write rf.tanh instead")
def numpy_function():
    numpy = pytest.importorskip("numpy")

    @rf.cell
    def c(h=rf.State("n")):
        return numpy.tanh(h)  # <-


@misuse("numpy.add(h, 1)", "NumPy cannot be used on it", "rf.tanh")
def numpy_function_of_two():
    numpy = pytest.importorskip("numpy")

    @rf.cell
    def c(h=rf.State("n")):
        return numpy.add(h, 1)  # <-


@misuse("numpy.concatenate([h, h])", "NumPy cannot be used on it", "docs/language.md lists them")
def numpy_array_function():
    numpy = pytest.importorskip("numpy")

    @rf.cell
    def c(h=rf.State("n")):
        return numpy.concatenate([h, h])  # <-


@misuse("numpy.ones(3) * h", "NumPy cannot be used on it", "rf.tanh")
def numpy_array_on_the_left():
    numpy = pytest.importorskip("numpy")

    @rf.cell
    def c(h=rf.State("n")):
        return numpy.ones(3) * h  # <-


@misuse("numpy.asarray(h)", "NumPy cannot be used on it", "rf.tanh")
def numpy_array_of_a_state():
    numpy = pytest.importorskip("numpy")

    @rf.cell
    def c(h=rf.State("n")):
        return numpy.asarray(h)  # <-


@misuse("torch.tanh(h)", "torch cannot be used on it", "Write rf.tanh instead")
def torch_function():
    torch = pytest.importorskip("torch")

    @rf.cell
    def c(h=rf.State("n")):
        return torch.tanh(h)  # <-


@misuse("torch.cat([h, h])", "torch cannot be used on it", "rf.tanh")
def torch_function_of_a_list():
    torch = pytest.importorskip("torch")

    @rf.cell
    def c(h=rf.State("n")):
        return torch.cat([h, h])  # <-


@misuse("torch.tanh(input=h)", "torch cannot be used on it", "Write rf.tanh instead")
def torch_function_by_keyword():
    torch = pytest.importorskip("torch")

    @rf.cell
    def c(h=rf.State("n")):
        return torch.tanh(input=h)  # <-


# Symbols as containers and objects ------------------------------------------------------------------------------------


@misuse("h", "h is (n,): its elements cannot be counted, indexed or looped over", "rf.split(v, 2)")
def loop_over_a_state():
    @rf.cell
    def c(h=rf.State("n")):
        for v in h:  # <-
            h = h + v
        return h


@misuse("len(h)", "its elements cannot be counted", "rf.split(v, 2)")
def length_of_a_state():
    @rf.cell
    def c(h=rf.State("n")):
        return h / len(h)  # <-


@misuse("h[:2]", "its elements cannot be counted, indexed", "rf.split(v, 2)")
def index_into_a_state():
    @rf.cell
    def c(h=rf.State("n")):
        return h[:2]  # <-


@misuse("h[0]", "its elements cannot be counted, indexed", "rf.split(v, 2)")
def assignment_to_an_element():
    @rf.cell
    def c(h=rf.State("n")):
        h[0] = 1.0  # <-
        return h


@misuse(
    "h // 2",
    "h is (n,): // % ^ << >> are no operators of an equation",
    "rf.floor for whole numbers",
)
def whole_division():
    @rf.cell
    def c(h=rf.State("n")):
        return h // 2  # <-


@misuse("7 % h", "// % ^ << >> are no operators of an equation", "Use + - * / ** @")
def remainder():
    @rf.cell
    def c(h=rf.State("n")):
        return 7 % h  # <-


@misuse("W(h)", "W is (n, n), an array and not a function", "Multiply with @, as in W @ x")
def call_of_a_weight():
    @rf.cell
    def c(h=rf.State("n"), W=rf.Weight("n n")):
        return rf.tanh(W(h))  # <-


@misuse("h.tanh", "h is (n,) and has no attribute tanh", "Write rf.tanh(h)")
def method_of_a_symbol():
    @rf.cell
    def c(h=rf.State("n")):
        return h.tanh()  # <-


@misuse("h.detach", "h is (n,) and has no attribute detach", "refold's own functions")
def method_of_a_tensor():
    @rf.cell
    def c(h=rf.State("n")):
        return h.detach()  # <-


# Sizes ----------------------------------------------------------------------------------------------------------------


@misuse(
    "W @ x", "W is (n, n) and x is (m,): the inner sizes n and m differ", 'declare  W=Weight("n m")'
)
def inner_sizes():
    @rf.cell
    def c(x=rf.Input("m"), h=rf.State("n"), W=rf.Weight("n n")):
        return rf.tanh(h + W @ x)  # <-


@misuse(
    "V @ W",
    "V is (m, n) and W is (2 n, n): the inner sizes n and 2 n differ",
    'declare  V=Weight("m 2n")',
)
def inner_sizes_of_matrices():
    @rf.cell
    def c(h=rf.State("n"), W=rf.Weight("2n n"), V=rf.Weight("m n")):
        return (V @ W) @ h  # <-


@misuse(
    "h + x", "h is (n,) and x is (m,): elementwise operations need equal sizes", "with a Weight"
)
def elementwise_sizes():
    @rf.cell
    def c(x=rf.Input("m"), h=rf.State("n")):
        return h + x  # <-


@misuse("rf.maximum(h, x)", "(n,) is not (m,)", "with a Weight, or reduce it to a scalar")
def elementwise_sizes_in_a_function():
    @rf.cell
    def c(x=rf.Input("m"), h=rf.State("n")):
        return rf.maximum(h, x)  # <-


@misuse(
    "W * x",
    "W is (n, m) and x is (m,): elementwise operations need equal sizes",
    "with @, as in W @ x",
)
def elementwise_sizes_of_matrix_and_vector():
    @rf.cell
    def c(x=rf.Input("m"), h=rf.State("n"), W=rf.Weight("n m")):
        return h + W * x  # <-


@misuse(
    "W.T @ x",
    "this value is (n, n) and x is (m,): the inner sizes n and m",
    'another Weight("n m")',
)
def inner_sizes_of_a_transpose():
    @rf.cell
    def c(x=rf.Input("m"), h=rf.State("n"), W=rf.Weight("n n")):
        return rf.tanh(h + W.T @ x)  # <-


@misuse("h.T", "h is (n,), and only a matrix has a transpose", "Leave .T out")
def transpose_of_a_vector():
    @rf.cell
    def c(h=rf.State("n"), W=rf.Weight("n n")):
        return h.T @ W  # <-


@misuse(
    "h @ a",
    "h is (n,) and a is a scalar: @ multiplies matrices and vectors",
    "write * instead of @",
)
def product_with_a_scalar():
    @rf.cell
    def c(h=rf.State("n"), a=rf.Scalar(0.5)):
        return h @ a  # <-


@misuse("2 @ h", "2.0 is a scalar and h is (n,): @ multiplies", "write * instead of @")
def product_with_a_number():
    @rf.cell
    def c(h=rf.State("n")):
        return 2 @ h  # <-


@misuse("rf.split(h, 2)", "h is (n,), and n does not divide into 2 equal parts", 'such as "2k"')
def split_that_does_not_divide():
    @rf.cell
    def c(h=rf.State("n")):
        a, b = rf.split(h, 2)  # <-
        return rf.concat(b, a)


@misuse(
    'rf.split(h, "n", "k")',
    "h is (2 n,), and the parts n, k make k + n",
    "Give parts that make 2 n",
)
def split_into_wrong_parts():
    @rf.cell
    def c(h=rf.State("2n")):
        a, b = rf.split(h, "n", "k")  # <-
        return rf.concat(b, a)


@misuse("rf.split(h)", "the parts (none) make 0", "rf.split(v, 2)")
def split_into_nothing():
    @rf.cell
    def c(h=rf.State("2n")):
        return rf.concat(*rf.split(h))  # <-


@misuse("rf.split(h, 0.5)", '"0.5" is not the size of a part', 'rf.split(v, "n", "2k")')
def split_by_a_fraction():
    @rf.cell
    def c(h=rf.State("2n")):
        return rf.concat(*rf.split(h, 0.5))  # type: ignore[arg-type]  # <-


@misuse('rf.split(h, "n n")', '"n n" is not the size of a part', "one size for each part")
def split_by_two_sizes_in_one_text():
    @rf.cell
    def c(h=rf.State("2n")):
        return rf.concat(*rf.split(h, "n n"))  # <-


@misuse("rf.split(a, 2)", "a is a scalar, and a scalar cannot be cut", "Leave rf.split out")
def split_of_a_scalar():
    @rf.cell
    def c(h=rf.State("n"), a=rf.Scalar(1.0)):
        return rf.split(a, 2)[0] * h  # <-


@misuse("rf.concat(h, a)", "a is a scalar, and concat joins vectors", 'Declare it with size "1"')
def concat_with_a_scalar():
    @rf.cell
    def c(h=rf.State("n"), a=rf.Scalar(1.0)):
        return rf.concat(h, a)  # <-


@misuse(
    "rf.concat(h, W)",
    "h is (n,) and W is (n, n): concat joins vectors, or matrices of equal",
    "W @ x, h",
)
def concat_of_a_vector_and_a_matrix():
    @rf.cell
    def c(h=rf.State("n"), W=rf.Weight("n n")):
        return rf.concat(h, W)  # <-


@misuse("rf.concat()", "rf.concat() has nothing to join", "rf.concat(x, h)")
def concat_of_nothing():
    @rf.cell
    def c(h=rf.State("n")):
        return h + rf.concat()  # <-


@misuse(
    "rf.sum(a)",
    "a is a scalar, and rf.sum works along the features of a vector",
    "nothing to reduce",
)
def sum_of_a_scalar():
    @rf.cell
    def c(h=rf.State("n"), a=rf.Scalar(1.0)):
        return rf.sum(a) * h  # <-


@misuse(
    "rf.softmax(W)",
    "W is (n, n), and rf.softmax works along",
    "a matrix is multiplied with a vector first",
)
def softmax_of_a_matrix():
    @rf.cell
    def c(h=rf.State("n"), W=rf.Weight("n n")):
        return rf.softmax(W) @ h  # <-


@misuse(
    "W * rf.sum(h)",
    "is a scalar, and changes from step to step",
    "Scale the vector instead: s * (W @ h)",
)
def matrix_that_changes_with_time():
    @rf.cell
    def c(h=rf.State("n"), W=rf.Weight("n n")):
        return (W * rf.sum(h)) @ h  # <-


# Comparisons ----------------------------------------------------------------------------------------------------------


@misuse(
    "(h > 0) * h",
    "this value is a comparison, true or false, and * needs numbers",
    "rf.where(comparison,",
)
def arithmetic_on_a_comparison():
    @rf.cell
    def c(h=rf.State("n")):
        return (h > 0) * h  # <-


@misuse(
    "rf.where(h, h, 0)",
    "h is a number, and where needs a comparison here",
    "Write a comparison, such as h > 0",
)
def number_as_a_condition():
    @rf.cell
    def c(h=rf.State("n")):
        return rf.where(h, h, 0)  # <-


@misuse("0 & h", "0.0 is a number, and & needs a comparison here", "in brackets: (h > 0) & (h < 1)")
def comparisons_without_brackets():
    @rf.cell
    def c(h=rf.State("n")):
        return rf.where(h > 0 & h < 1, h, 0)  # <-


@misuse("~h", "h is a number, and ~ needs a comparison here", "Write a comparison")
def inversion_of_a_number():
    @rf.cell
    def c(h=rf.State("n")):
        return rf.where(~h, h, 0)  # <-


@misuse(
    "rf.where(True, h, 0)",
    "a bool stands where the equation needs a symbol or a number",
    "float(...)",
)
def constant_condition():
    @rf.cell
    def c(h=rf.State("n")):
        return rf.where(True, h, 0)  # <-


# What is returned -----------------------------------------------------------------------------------------------------


@misuse(
    "return rf.tanh(h + s)",
    "the states are h, s, and 1 value came back: state s is not returned",
    "return h, s",
)
def state_not_returned():
    @rf.cell
    def c(h=rf.State("n"), s=rf.State("n")):
        return rf.tanh(h + s)  # <-


@misuse("return h, h", "the states are h, and 2 values came back", "rf.Step(..., output=y)")
def too_much_returned():
    @rf.cell
    def c(h=rf.State("n")):
        return h, h  # <-


@misuse("return [h, s]", "the states are h, s, and a list came back", "return h, s")
def list_returned():
    @rf.cell
    def c(h=rf.State("n"), s=rf.State("n")):
        return [h, s]  # <-


@misuse(
    "return rf.Step(h, output=s)",
    "1 value came back: state s is not returned",
    "in the order declared",
)
def state_missing_from_a_step():
    @rf.cell
    def c(h=rf.State("n"), s=rf.State("n")):
        return rf.Step(h, output=s)  # <-


@misuse(
    "return s, h", "state h is (n,), and what is returned for it is (k,)", "in the order declared"
)
def wrong_order():
    @rf.cell
    def c(h=rf.State("n"), s=rf.State("k")):
        return s, h  # <-


@misuse(
    "return rf.concat(h, h)",
    "state h is (n,), and what is returned for it is (2 n,)",
    "with its own size",
)
def another_size_returned():
    @rf.cell
    def c(h=rf.State("n")):
        return rf.concat(h, h)  # <-


@misuse(None, "the states are h, and nothing came back: state h is not returned", "return h;")
def nothing_returned():
    @rf.cell
    def c(h=rf.State("n")):  # <-
        rf.tanh(h)


@misuse("return 0.5", "state h comes back as a float", "a number alone is no state")
def number_returned():
    @rf.cell
    def c(h=rf.State("n")):
        return 0.5  # <-


@misuse("return h, None", "state s comes back as a NoneType", "Return what was computed")
def nothing_for_one_state():
    @rf.cell
    def c(h=rf.State("n"), s=rf.State("n")):
        return h, None  # <-


@misuse("return W", "state h comes back as a matrix, (n, n)", "States and outputs are vectors")
def matrix_returned():
    @rf.cell
    def c(h=rf.State("n"), W=rf.Weight("n n")):
        return W  # <-


@misuse("return h > 0", "state h comes back as a comparison", "Return what was computed")
def comparison_returned():
    @rf.cell
    def c(h=rf.State("n")):
        return h > 0  # <-


@misuse(
    "return rf.Step(h, output=h @ h > 1)",
    "the output comes back as a comparison",
    "Return what was computed",
)
def comparison_as_output():
    @rf.cell
    def c(h=rf.State("n")):
        return rf.Step(h, output=h @ h > 1)  # <-


@misuse(
    "return rf.Step(h, output=None)",
    "the output comes back as a NoneType",
    "Return what was computed",
)
def no_output():
    @rf.cell
    def c(h=rf.State("n")):
        return rf.Step(h, output=None)  # <-


@misuse(
    "return other[0]",
    "state h comes back as a value of another cell, 'first'",
    "Return what was computed",
)
def foreign_value_returned():
    other = []

    @rf.cell
    def first(h=rf.State("n")):
        other.append(h)
        return h

    @rf.cell
    def c(h=rf.State("n")):
        return other[0]  # <-


# Declarations ---------------------------------------------------------------------------------------------------------


@misuse(
    'W=rf.Weight("n n")',
    "W is declared and never used",
    "Use W in the equation, or take the parameter away",
)
def unused_weight():
    @rf.cell
    def c(
        h=rf.State("n"),
        W=rf.Weight("n n"),  # <-
    ):
        _ = W @ h  # needed by nothing
        return rf.tanh(h)


@misuse(
    'x=rf.Input("m")',
    "x is declared and never used",
    "Use x in the equation, or take the parameter away",
)
def unused_input():
    @rf.cell
    def c(x=rf.Input("m"), h=rf.State("n")):  # <-
        return rf.tanh(h)


@misuse(
    's=rf.State("k")',
    "s is declared and never used",
    "Use s in the equation, or take the parameter away",
)
def unused_state():
    @rf.cell
    def c(h=rf.State("n"), s=rf.State("k"), *, V=rf.Weight("k n")):  # <-
        return rf.tanh(h), V @ h


@misuse(
    'f=rf.Affine("n")',
    "f is declared and never used",
    "Use f in the equation, or take the parameter away",
)
def unused_affine():
    @rf.cell
    def c(h=rf.State("n"), f=rf.Affine("n")):  # <-
        return rf.tanh(h)


@misuse(
    "W",
    "the name W is used twice: it is declared as Weight(sizes='n n'",
    "Give the new value a name of its own",
)
def weight_bound_again():
    @rf.cell
    def c(h=rf.State("n"), W=rf.Weight("n n")):
        W = 2 * W  # <-
        return W @ h


@misuse(
    "x",
    "the name x is used twice: it is declared as Input(size='n')",
    "Give the new value a name of its own",
)
def input_bound_again():
    @rf.cell
    def c(x=rf.Input("n"), h=rf.State("n")):
        h, x = x, h  # <-
        return h + x


@misuse("a", "the name a is used twice", "Give the new value a name of its own")
def scalar_bound_again_in_a_loop():
    @rf.cell
    def c(h=rf.State("n"), a=rf.Scalar(1.0)):
        for a in (1, 2):  # <-
            h = a * h
        return h


@misuse("W", "the name W is used twice", "Give the new value a name of its own")
def weight_bound_again_and_captured():
    @rf.cell
    def c(h=rf.State("n"), W=rf.Weight("n n")):
        W = W.T  # <-
        return (lambda v: W @ v)(h)


@misuse("f(h, h)", "the name f.W_h is used twice: f reads h in two places", "a Weight of its own")
def affine_of_one_vector_twice():
    @rf.cell
    def c(h=rf.State("n"), f=rf.Affine("n")):
        return f(h, h)  # <-


@misuse("W", "parameter W declares nothing", 'W=rf.Weight("n m")')
def undeclared_parameter():
    @rf.cell
    def c(W, h=rf.State("n")):  # <-
        return W @ h


@misuse("W=3", "parameter W declares 3", 'W=rf.Weight("n m")')
def parameter_declared_as_a_number():
    @rf.cell
    def c(h=rf.State("n"), W=3):  # <-
        return W * h


@misuse("W=rf.Weight", "parameter W declares <class", 'W=rf.Weight("n m")')
def declaration_not_called():
    @rf.cell
    def c(h=rf.State("n"), W=rf.Weight):  # <-
        return h


@misuse(None, "cell 'c' declares no state, so nothing recurs", 'h=rf.State("n")')
def no_state():
    @rf.cell
    def c(x=rf.Input("m")):  # <-
        return x


@misuse(
    'W=rf.Weight("n 2.5m")',
    '"2.5m" is not a size: a size is a letter, a number, or a sum',
    'Weight("n m")',
)
def text_that_is_no_size():
    @rf.cell
    def c(h=rf.State("n"), W=rf.Weight("n 2.5m")):  # <-
        return W @ h


@misuse('h=rf.State("*")', '"*" is not a size', 'Weight("n m")')
def sign_that_is_no_size():
    @rf.cell
    def c(h=rf.State("*")):  # <-
        return h


@misuse('h=rf.State("0")', '"0" is not a size', 'Weight("n m")')
def size_of_nothing():
    @rf.cell
    def c(h=rf.State("0")):  # <-
        return h


@misuse('W=rf.Weight("n-1 n")', '"n-1" is not a size', 'Weight("n m")')
def difference_as_a_size():
    @rf.cell
    def c(h=rf.State("n"), W=rf.Weight("n-1 n")):  # <-
        return W @ h


@misuse('x=rf.Input("T")', '"T" uses T, which stands for time', "choose another letter")
def time_as_a_size():
    @rf.cell
    def c(x=rf.Input("T"), h=rf.State("n")):  # <-
        return h


@misuse('x=rf.Input("2B")', '"2B" uses B, which stands for the batch', "choose another letter")
def batch_as_a_size():
    @rf.cell
    def c(x=rf.Input("2B"), h=rf.State("n")):  # <-
        return h


@misuse(
    "h=rf.State(64)",
    "64 is no text, and sizes are written as one",
    "in quotes with blanks between them",
)
def number_instead_of_a_text():
    @rf.cell
    def c(h=rf.State(64)):  # <-
        return h


@misuse(
    'W=rf.Weight("n n n")',
    'W is declared with 3 sizes, "n n n"; here it can be a vector or a matrix',
    '("n m")',
)
def weight_of_three_sizes():
    @rf.cell
    def c(h=rf.State("n"), W=rf.Weight("n n n")):  # <-
        return W @ h


@misuse(
    'h=rf.State("n n")',
    'h is declared with 2 sizes, "n n"; here it can be a scalar or a vector',
    '("n")',
)
def state_of_two_sizes():
    @rf.cell
    def c(h=rf.State("n n")):  # <-
        return h


@misuse('f=rf.Affine("n m")', 'f is declared with 2 sizes, "n m"; here it can be a vector', '("n")')
def affine_of_two_sizes():
    @rf.cell
    def c(x=rf.Input("m"), h=rf.State("n"), f=rf.Affine("n m")):  # <-
        return f(x, h)


# Affine ---------------------------------------------------------------------------------------------------------------


@misuse("f @ h", "f is an Affine, a function of vectors, and not a value", "Call it: f(x, h)")
def affine_as_a_matrix():
    @rf.cell
    def c(h=rf.State("n"), f=rf.Affine("n")):
        return f @ h  # <-


@misuse("h + f", "f is an Affine, a function of vectors, and not a value", "Call it: f(x, h)")
def affine_as_an_operand():
    @rf.cell
    def c(h=rf.State("n"), f=rf.Affine("n")):
        return h + f  # <-


@misuse("rf.tanh(f)", "f is an Affine, a function of vectors, and not a value", "Call it: f(x, h)")
def affine_as_an_argument():
    @rf.cell
    def c(h=rf.State("n"), f=rf.Affine("n")):
        return h * rf.tanh(f)  # <-


@misuse("f.W_h", "f is an Affine, a function of vectors, and not a value", "Call it: f(x, h)")
def attribute_of_an_affine():
    @rf.cell
    def c(h=rf.State("n"), f=rf.Affine("n")):
        return f.W_h @ h  # <-


@misuse("f()", "f() has nothing to read", "as in f(x, h)")
def affine_of_nothing():
    @rf.cell
    def c(h=rf.State("n"), f=rf.Affine("n")):
        return h * f()  # <-


@misuse("f(h)", "f reads (n,) and (m,) and is called here with (n,)", "declare a second Affine")
def affine_with_another_number_of_vectors():
    @rf.cell
    def c(x=rf.Input("m"), h=rf.State("n"), f=rf.Affine("n")):
        s = f(h, x)
        return s * f(h)  # <-


@misuse("f(x)", "f reads (n,) and is called here with (m,)", "declare a second Affine")
def affine_with_another_size():
    @rf.cell
    def c(x=rf.Input("m"), h=rf.State("n"), f=rf.Affine("n")):
        return f(h) * f(x)  # <-


@misuse("f(W)", "W is (n, n), and f reads vectors", "one vector for each of its weights")
def affine_of_a_matrix():
    @rf.cell
    def c(h=rf.State("n"), W=rf.Weight("n n"), f=rf.Affine("n")):
        return f(W) * h  # <-


# Derivatives ----------------------------------------------------------------------------------------------------------


@misuse("rf.sign(h)", "rf.sign has no derivative", "rf.stop_gradient(rf.sign(...))")
def sign_without_stop_gradient():
    @rf.cell
    def c(h=rf.State("n")):
        s = rf.sign(h)  # <-
        return s * h


@misuse("rf.floor(rf.exp(h))", "rf.floor has no derivative", "rf.stop_gradient(rf.floor(...))")
def floor_without_stop_gradient():
    @rf.cell
    def c(h=rf.State("n")):
        return h - rf.floor(rf.exp(h))  # <-


@misuse("rf.round(h)", "rf.round has no derivative", "rf.stop_gradient(rf.round(...))")
def round_in_the_output():
    @rf.cell
    def c(h=rf.State("n")):
        return rf.Step(h, output=rf.round(h))  # <-


# What does not belong into an equation --------------------------------------------------------------------------------


@misuse(
    "h * [1, 2]",
    "a list stands where the equation needs a symbol or a number",
    "Declare it as a parameter",
)
def list_in_the_equation():
    @rf.cell
    def c(h=rf.State("n")):
        return h * [1, 2]  # <-


@misuse(
    'h ** "2"',
    "a str stands where the equation needs a symbol or a number",
    "Declare it as a parameter",
)
def text_in_the_equation():
    @rf.cell
    def c(h=rf.State("n")):
        return h ** "2"  # <-


@misuse(
    "h + numpy.ones(2)",
    "a numpy ndarray stands where the equation needs",
    "Declare it as a parameter",
)
def array_in_the_equation():
    numpy = pytest.importorskip("numpy")

    @rf.cell
    def c(h=rf.State("n")):
        return h + numpy.ones(2)  # <-


@misuse("h + weight", "a torch Tensor stands where the equation needs", "Declare it as a parameter")
def tensor_in_the_equation():
    weight = pytest.importorskip("torch").ones(2)

    @rf.cell
    def c(h=rf.State("n")):
        return h + weight  # <-


@misuse(
    "other[0] + h",
    "a value of another cell, 'first', is used here",
    "Use only this cell's own parameters",
)
def symbol_of_another_cell():
    other = []

    @rf.cell
    def first(s=rf.State("n")):
        other.append(s)
        return s

    @rf.cell
    def c(h=rf.State("n")):
        return rf.tanh(h + (other[0] + h))  # <-


@misuse(
    "-other[0]",
    "a value of another cell, 'first', is used here",
    "Use only this cell's own parameters",
)
def symbol_of_another_cell_alone():
    other = []

    @rf.cell
    def first(s=rf.State("n")):
        other.append(s)
        return s

    @rf.cell
    def c(h=rf.State("n")):
        return rf.tanh(-other[0])  # <-


@misuse(
    "first(h)",
    "cell 'first' was called like a function",
    "rf.Recurrent(first, input_size=..., hidden_size=...)",
)
def cell_called_in_a_cell():
    @rf.cell
    def first(h=rf.State("n")):
        return rf.tanh(h)

    @rf.cell
    def c(h=rf.State("n")):
        return first(h)  # <-


@misuse(
    None,
    "cell 'elman' was called like a function",
    "rf.Recurrent(elman, input_size=..., hidden_size=...)",
)
def cell_called():
    rf.cells.get("elman")(1.0)


@misuse(None, 'there is no cell "elmann"', "Choose one of elman, elman_relu")
def unknown_cell():
    rf.cells.get("elmann")


@misuse(None, "rf.tanh was called with a float, outside a cell", "inside a function under @rf.cell")
def function_outside_a_cell():
    rf.tanh(0.5)


@misuse(
    None,
    "rf.maximum was called with an int, a str, outside a cell",
    "inside a function under @rf.cell",
)
def function_of_two_outside_a_cell():
    rf.maximum(1, "x")


@misuse(
    None, "rf.concat was called with nothing, outside a cell", "inside a function under @rf.cell"
)
def function_of_nothing_outside_a_cell():
    rf.concat()


@misuse(None, "rf.cell was given a str, and a cell is read from a function", "@rf.cell(source=...)")
def source_given_by_position():
    rf.cell("Elman 1990")  # type: ignore[call-overload]


@misuse(
    None, "rf.cell was given a functools partial, and a cell is read from a function", "above a def"
)
def cell_of_a_partial():
    rf.cell(partial(lambda a, h: a * h, 2.0))


# Where the fault is ---------------------------------------------------------------------------------------------------


def gate(v):
    return v / (1 + rf.norm(v))


def faulty_gate(v, w):
    half = 0.5 * v
    return half * w


@misuse("W @ x", "the inner sizes n and m differ", 'W=Weight("n m")')
def second_line_of_a_long_equation():
    @rf.cell
    def c(x=rf.Input("m"), h=rf.State("n"), W=rf.Weight("n n")):
        return rf.tanh(
            W @ h
            + W @ x  # <-
            + 1.0
        )


@misuse("h  # <-", "(n,) is not (m,)", "with a Weight")
def fault_that_spans_lines():
    @rf.cell
    def c(x=rf.Input("m"), h=rf.State("n")):
        return rf.tanh(
            h  # <-
            + x
        )


@misuse("h + x", "(n,) is not (m,)", "with a Weight")
def non_ascii_text_before_the_fault():
    @rf.cell
    def c(x=rf.Input("m"), h=rf.State("n"), β=rf.Bias("n")):
        return rf.tanh(β) * ((h + x) / 2)  # <-


@misuse('größe=rf.Weight("n n")', "größe is declared and never used", "Use größe in the equation")
def non_ascii_text_in_a_declaration():
    @rf.cell
    def c(σ=rf.State("n"), größe=rf.Weight("n n")):  # <-
        return rf.tanh(σ)


# The tests ------------------------------------------------------------------------------------------------------------


def raised(write: Callable[[], object]) -> EquationError:
    with pytest.raises(EquationError) as caught:
        write()
    assert isinstance(caught.value, ValueError)
    return caught.value


def underlined(error: EquationError) -> str | None:
    """The part of the source that the carets stand under."""
    shown = str(error).splitlines()[: len(error.where.splitlines())]
    if len(shown) < 3:
        return None
    source, carets = shown[1:]
    start = carets.index("^")
    assert re.fullmatch(r" +\^+", carets)
    return source[start : len(carets)]


def marked_line(write: Callable[[], object]) -> int | None:
    lines, first = inspect.getsourcelines(write)
    return next((first + i for i, line in enumerate(lines) if line.endswith("# <-\n")), None)


@pytest.mark.parametrize("case", MISUSES, ids=lambda case: case.write.__name__)
def test_a_misuse_is_explained_where_it_stands(case: Misuse):
    error = raised(case.write)
    assert case.fact in error.fact
    assert case.remedy in error.remedy
    line = marked_line(case.write)
    if line is None:
        assert error.where == ""
    else:
        assert error.where.startswith("in cell 'c' (")
        assert f"{Path(__file__).name}:{line})" in error.where.splitlines()[0]
    assert underlined(error) == case.under


@pytest.mark.parametrize("case", MISUSES, ids=lambda case: case.write.__name__)
def test_an_error_text_is_where_fact_remedy(case: Misuse):
    error = raised(case.write)
    assert str(error) == "\n".join(part for part in (error.where, error.fact, error.remedy) if part)
    for text in (error.fact, error.remedy):
        assert text.rstrip(")").endswith((".", '"', "]")) and "\n" not in text
        assert not re.search(r"\b(\w+) is \S+ is\b", text)


def test_a_fault_in_a_helper_is_shown_there():
    def write():
        @rf.cell
        def c(x=rf.Input("m"), h=rf.State("n")):
            return gate(faulty_gate(h, x))

    error = raised(write)
    assert underlined(error) == "half * w"
    line = inspect.getsourcelines(faulty_gate)[1] + 2
    assert (
        error.where.startswith("in cell 'c' (") and f"{Path(__file__).name}:{line})" in error.where
    )
    assert "half is (n,) and x is (m,)" in error.fact


TEXT = """
import refold as rf

@rf.cell
def typed(x=rf.Input("m"), h=rf.State("n"){more}):
    s = rf.tanh(h)
    return {returned}
"""


@pytest.mark.parametrize(
    ("more", "returned", "line", "fact"),
    [
        ("", "s + x", 7, "(n,) is not (m,)"),
        ("", "s, x", 7, "2 values came back"),
        ("", "s", 4, "x is declared and never used"),
        (', W="n n"', "s", 4, "parameter W declares 'n n'"),
        (', W=rf.Weight("?")', "s", 4, '"?" is not a size'),
    ],
)
def test_an_error_without_source_names_cell_and_line(more, returned, line, fact):
    text = TEXT.format(more=more, returned=returned)
    error = raised(lambda: exec(compile(text, "<typed at a prompt>", "exec"), {}))
    assert error.where == f"in cell 'typed' (<typed at a prompt>:{line})"
    assert fact in error.fact


def test_numbers_of_numpy_are_numbers():
    numpy = pytest.importorskip("numpy")
    two = numpy.float64(2)

    @rf.cell
    def c(h=rf.State("n")):
        return rf.where((two > h) | (two <= -h), two * h + two / h - (two - h), two**h + (two + h))

    @rf.cell
    def plain(h=rf.State("n")):
        return rf.where((h < 2.0) | (-h >= 2.0), 2.0 * h + 2.0 / h - (2.0 - h), 2.0**h + (2.0 + h))

    assert c.graph.nodes == plain.graph.nodes


def test_a_derivative_that_is_stopped_is_no_error():
    @rf.cell
    def c(h=rf.State("n"), a=rf.Scalar(1.0)):
        s = rf.stop_gradient(rf.sign(h) + rf.floor(a) + rf.round(h))
        return rf.where(rf.sign(h) > 0, s * h, rf.sign(1.0) * h)

    assert {"sign", "floor", "round"} <= {node.op for node in c.graph.nodes}


def test_a_comprehension_has_names_of_its_own():
    @rf.cell
    def c(x=rf.Input("2n"), h=rf.State("2n")):
        return h + rf.concat(*[rf.tanh(x) for x in rf.split(x, 2)])

    assert sum(node.op == "tanh" for node in c.graph.nodes) == 2


@pytest.mark.parametrize(
    ("declaration", "words"),
    [
        (lambda: rf.Weight("n m", init=3.0), ["init=3.0", "orthogonal"]),
        (lambda: rf.Affine("n", bias_init=None), ["bias_init=None"]),
        (lambda: rf.Scalar("0.5"), ["value='0.5'", "finite number"]),
        (lambda: rf.State("n", start=float("nan")), ["start=nan", "finite number"]),
    ],
)
def test_settings_of_declarations_are_checked(declaration, words):
    def slip(x=rf.Input("m"), h=rf.State("n"), *, w=declaration()):
        return h

    with pytest.raises(rf.EquationError) as caught:
        rf.cell(slip)
    text = str(caught.value)
    assert [word for word in ("'slip'", "w is declared with", *words) if word not in text] == []
