"""Graphs worked out in plain Python, one vector at a time: for the tests of what needs no tensors."""

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

from refold.ir.graph import SLOT, Graph, Leaf, Slot
from refold.shapes import Size

Value = Any  # a number, or lists of them
SIZES = {"m": 2, "n": 3, "k": 2, "q": 2, "r": 2, "u": 2}

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "exp": math.exp,
    "expm1": math.expm1,
    "log": math.log,
    "softplus": lambda a: max(a, 0.0) + math.log1p(math.exp(-abs(a))),
    "abs": abs,
    "sign": lambda a: float((a > 0) - (a < 0)),
    "sqrt": math.sqrt,
    "tanh": math.tanh,
    "sigmoid": lambda a: 1 / (1 + math.exp(-a)),
    "sin": math.sin,
    "cos": math.cos,
    "relu": lambda a: max(a, 0.0),
    "stop_gradient": lambda a: a,
    "maximum": max,
    "minimum": min,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "eq": lambda a, b: a == b,
    "where": lambda c, a, b: a if c else b,
}


def each(function: Callable[..., Any], *values: Value) -> Value:
    """Element by element; numbers go with every element."""
    count = next((len(v) for v in values if isinstance(v, list)), None)
    if count is None:
        return function(*values)
    rows = zip(*(v if isinstance(v, list) else [v] * count for v in values), strict=True)
    return [each(function, *row) for row in rows]


def flat(value: Value) -> list[float]:
    return [e for part in value for e in flat(part)] if isinstance(value, list) else [value]


def filled(shape: list[int], number: Callable[[], float]) -> Value:
    return [filled(shape[1:], number) for _ in range(shape[0])] if shape else number()


def inner(a: list[float], b: list[float]) -> float:
    return math.fsum(p * q for p, q in zip(a, b, strict=True))


def work_out(graph: Graph, slots: Mapping[Slot, Value]) -> list[Value]:
    """The value of every line."""
    values: list[Value] = []
    for node in graph.nodes:
        args = [values[a] for a in node.args]
        shape = [size.at(SIZES) for size in node.shape]
        attr: Any = node.attr
        if node.op == SLOT:
            value = slots[attr]
        elif node.op in ("const", "size"):
            value = float(attr.at(SIZES) if isinstance(attr, Size) else attr)
        elif node.op in FUNCTIONS:
            value = each(FUNCTIONS[node.op], *args)
        elif node.op == "slice":
            start, rows = (size.at(SIZES) for size in attr)
            value = args[0][start : start + rows]
        elif node.op == "pad":
            value = filled(shape, lambda: 0.0)
            start = attr[0].at(SIZES)
            value[start : start + len(args[0])] = args[0]
        elif node.op == "concat":
            value = [row for part in args for row in part]
        elif node.op == "transpose":
            value = [list(column) for column in zip(*args[0], strict=True)]
        elif node.op == "matvec":
            value = [inner(row, args[1]) for row in args[0]]
        elif node.op == "outer":
            value = [[a * b for b in args[1]] for a in args[0]]
        elif node.op == "expand":
            number = args[0]
            value = filled(shape, lambda n=number: n)
        else:
            value = {"sum": math.fsum, "max": max}[node.op](flat(args[0]))
        values.append(value)
    return values


def numbers(leaves: tuple[Leaf, ...], seed: int) -> dict[Slot, Value]:
    """A random value for each leaf; a fixed scalar has its own, which an equation may rely on."""
    r = random.Random(seed)
    found = {
        leaf.slot: filled([s.at(SIZES) for s in leaf.shape], lambda: r.gauss(0.0, 0.7))
        for leaf in leaves
    }
    fixed = [leaf for leaf in leaves if not leaf.learn and not leaf.shape]
    constants = {leaf.slot: dict(leaf.init.settings)["value"] for leaf in fixed if leaf.init}
    return found | constants
