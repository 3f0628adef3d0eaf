"""ONNX's recurrent operators: what each reads and gives, and its cell, built for the attributes of a node.

Weights are joined as ONNX joins them, gate below gate; the cell cuts them, so that the planner sees gates one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, reduce
from inspect import Parameter, Signature
from operator import add
from typing import Any

from refold.ir import language as rf
from refold.ir.trace import Cell

from .activations import Activation


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the equation of one direction of a node; `activations` are f, or f and g, or f, g and h."""

    op: str
    activations: tuple[Activation, ...]
    bias: bool
    peepholes: bool
    input_forget: bool
    linear_before_reset: bool


# Equations, in ONNX's letters; B and P are None where the node has none ----------------------------------------------


def _rnn(settings: Settings) -> Callable[..., Any]:
    (f,) = settings.activations

    def rnn(x: Any, h: Any, W: Any, R: Any, B: Any = None) -> Any:
        b = None if B is None else _both(B)
        return f(_total(W @ x, R @ h, b))

    return rnn


def _gru(settings: Settings) -> Callable[..., Any]:
    f, g = settings.activations

    def gru(x: Any, h: Any, W: Any, R: Any, B: Any = None) -> Any:
        W_z, W_r, W_h = rf.split(W, 3)
        R_z, R_r, R_h = rf.split(R, 3)
        b_z, b_r, b_h, d_z, d_r, d_h = (None,) * 6 if B is None else rf.split(B, 6)
        z = f(_total(W_z @ x, R_z @ h, b_z, d_z))
        r = f(_total(W_r @ x, R_r @ h, b_r, d_r))
        if settings.linear_before_reset:
            new = g(_total(W_h @ x, r * _total(R_h @ h, d_h), b_h))
        else:
            new = g(_total(W_h @ x, R_h @ (r * h), b_h, d_h))
        return (1 - z) * new + z * h

    return gru


def _lstm(settings: Settings) -> Callable[..., Any]:
    f, g, squash = settings.activations

    def lstm(x: Any, h: Any, c: Any, W: Any, R: Any, B: Any = None, P: Any = None) -> Any:
        W_i, W_o, W_f, W_c = rf.split(W, 4)
        R_i, R_o, R_f, R_c = rf.split(R, 4)
        b_i, b_o, b_f, b_c = (None,) * 4 if B is None else rf.split(_both(B), 4)
        p_i, p_o, p_f = (None,) * 3 if P is None else rf.split(P, 3)
        i = f(_total(W_i @ x, R_i @ h, b_i, _seen(p_i, c)))
        a_f = _total(W_f @ x, R_f @ h, b_f, _seen(p_f, c))
        forget = f(a_f) if not settings.input_forget else 1 - i
        c = forget * c + i * g(_total(W_c @ x, R_c @ h, b_c))
        o = f(_total(W_o @ x, R_o @ h, b_o, _seen(p_o, c)))
        return o * squash(c), c

    return lstm


def _both(bias: Any) -> Any:
    """ONNX has a bias beside W and one beside R, end to end; where nothing stands between them they are one."""
    beside_w, beside_r = rf.split(bias, 2)
    return beside_w + beside_r


def _seen(peephole: Any, c: Any) -> Any:
    return None if peephole is None else peephole * c


def _total(*terms: Any) -> Any:
    """The sum of the terms that there are."""
    return reduce(add, (term for term in terms if term is not None))


# Operators ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Operator:
    """A recurrent operator of ONNX.

    gates        rows of W for each hidden unit
    inputs       in ONNX's order; `states` are those of them that hold the states before the first step
    activations  where the node names none
    attributes   those that the other operators do not have
    """

    gates: int
    inputs: tuple[str, ...]
    states: tuple[str, ...]
    outputs: tuple[str, ...]
    activations: tuple[str, ...]
    attributes: tuple[str, ...]
    equation: Callable[[Settings], Callable[..., Any]]


_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h")
OPERATORS = {
    "RNN": Operator(1, _INPUTS, ("initial_h",), ("Y", "Y_h"), ("Tanh",), (), _rnn),
    "GRU": Operator(
        3,
        _INPUTS,
        ("initial_h",),
        ("Y", "Y_h"),
        ("Sigmoid", "Tanh"),
        ("linear_before_reset",),
        _gru,
    ),
    "LSTM": Operator(
        4,
        (*_INPUTS, "initial_c", "P"),
        ("initial_h", "initial_c"),
        ("Y", "Y_h", "Y_c"),
        ("Sigmoid", "Tanh", "Tanh"),
        ("input_forget",),
        _lstm,
    ),
}


@lru_cache(maxsize=256)
def cell_of(settings: Settings) -> Cell:
    """The cell of one direction: what ONNX's operator means with these settings."""
    operator = OPERATORS[settings.op]
    rows = operator.gates
    declared: dict[str, Any] = {"x": rf.Input("m"), "h": rf.State("n")}
    if "initial_c" in operator.states:
        declared["c"] = rf.State("n")
    declared |= {"W": rf.Weight(_times(rows, "n m")), "R": rf.Weight(_times(rows, "n n"))}
    if settings.bias:
        declared["B"] = rf.Bias(f"{2 * rows}n")
    if settings.peepholes:
        declared["P"] = rf.Weight("3n")
    equation = operator.equation(settings)
    # Which parameters there are depends on the node: the signature is made by hand.
    equation.__signature__ = Signature(  # type: ignore[attr-defined]
        [Parameter(name, Parameter.KEYWORD_ONLY, default=d) for name, d in declared.items()]
    )
    name = f"onnx_{settings.op.lower()}"
    return rf.cell(source=f"ONNX, operator {settings.op}", name=name)(equation)


def _times(number: int, sizes: str) -> str:
    return sizes if number == 1 else f"{number}{sizes}"
