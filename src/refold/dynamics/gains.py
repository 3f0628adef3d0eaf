"""How much a step can enlarge a change at most, whatever the state and the input: a bound from the equation itself.

Two numbers are carried along the lines of a graph: between what a value lies, and by how much the norm of a change of a
state can have grown there. A product with a weight multiplies by its largest singular value, an activation by its
steepest slope (tanh 1, sigmoid 1/4), a gate by the largest value it takes; sums add.

Source  Pascanu, Mikolov & Bengio 2013, section 2: sigma_max(W) sup f' < 1 is sufficient for gradients to vanish.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from refold.ir.graph import SLOT, Node, Slot

from .folded import Folded, Level

Range = tuple[float, float]
ANY: Range = (-math.inf, math.inf)

# The steepest slope of an activation, and what it takes a range to.
STEEPEST = {
    "tanh": 1.0, "sigmoid": 0.25, "relu": 1.0, "softplus": 1.0, "sin": 1.0, "cos": 1.0, "atan": 1.0,
    "erf": 2 / math.sqrt(math.pi), "abs": 1.0, "neg": 1.0,
}  # fmt: skip
FLAT = ("stop_gradient", "sign", "floor", "round", "lt", "le", "eq", "and", "or", "not")
RISING: dict[str, Callable[[float], float]] = {
    "tanh": math.tanh,
    "sigmoid": lambda a: 0.5 * (1 + math.tanh(a / 2)),
    "relu": lambda a: max(a, 0.0),
    "atan": math.atan,
    "erf": math.erf,
    "softplus": lambda a: a if a > 30 else math.log1p(math.exp(a)),
}


def gains(system: Folded) -> tuple[float, ...]:
    """For each layer a bound of |dh(t)/dh(t-1)|_2 over all states and inputs; inf where there is none.

    With every one below 1, all gradients vanish: the Jacobian of a stack is block-triangular.
    """
    if system.head is not None:
        return (math.inf,)
    return tuple(_gain(level) for level in system.levels)


def _gain(level: Level) -> float:
    walk = _Walk(level)
    outputs = level.graph.outputs_of("state")
    names = [part.name for part in level.parts]
    rows = [[walk.growth[o.node].get(name, 0.0) for name in names] for o in outputs]
    blocks = torch.tensor(rows, dtype=torch.float64)
    if not bool(blocks.isfinite().all()):
        return math.inf
    return float(torch.linalg.matrix_norm(blocks, 2))


class _Walk:
    """The ranges of all lines of a graph, and by how much a change of each state has grown there."""

    def __init__(self, level: Level):
        self.level = level
        self.ranges: list[Range] = []
        self.growth: list[dict[str, float]] = []
        for node in level.graph.nodes:
            self.ranges.append(self._range(node))
            self.growth.append(self._grown(node))

    def _range(self, node: Node) -> Range:
        args = [self.ranges[a] for a in node.args]
        if node.op == SLOT:
            value = self._fixed(node)
            known = value is not None and value.numel() > 0
            return (float(value.min()), float(value.max())) if known else ANY  # type: ignore[union-attr]
        if node.op == "const":
            assert isinstance(node.attr, float)
            return (node.attr, node.attr)
        if node.op in ("sin", "cos"):
            return (-1.0, 1.0)
        if node.op in RISING:
            rising = RISING[node.op]
            return (rising(args[0][0]), rising(args[0][1]))
        if node.op in _ARITHMETIC:
            return _ARITHMETIC[node.op](*args)
        if node.op == "where":
            return (min(args[1][0], args[2][0]), max(args[1][1], args[2][1]))
        return args[0] if node.op in ("slice", "expand", "stop_gradient") else ANY

    def _fixed(self, node: Node) -> Tensor | None:
        """The numbers of a parameter, or of what is made of parameters."""
        slot = node.attr
        return self.level.fixed.get(slot) if isinstance(slot, Slot) else None

    def _grown(self, node: Node) -> dict[str, float]:
        if node.op == SLOT:
            slot = node.attr
            assert isinstance(slot, Slot)
            return {slot.name: 1.0} if slot.kind == "state" else {}
        found = [self.growth[a] for a in node.args]
        names = {name for growth in found for name in growth}
        return {name: self._one(node, [g.get(name, 0.0) for g in found]) for name in names}

    def _one(self, node: Node, grown: list[float]) -> float:
        """From the growth of the operands to that of the line."""
        op = node.op
        if op in ("add", "sub"):
            return grown[0] + grown[1]
        if op in ("mul", "div"):
            return self._product(node, grown)
        if op == "matvec":
            value = self._fixed(self.level.graph.nodes[node.args[0]])
            return math.inf if value is None else _norm(value) * grown[1]
        if op in ("where", "minimum", "maximum", "concat"):
            return math.hypot(*grown)
        if op in ("sum", "expand"):
            wide = self.level.graph.nodes[node.args[0]].shape if op == "sum" else node.shape
            size = wide[0].at(self.level.equation.letters) if wide else 1
            return math.sqrt(size) * grown[0]
        if op in ("slice", "pad", "max", "norm"):
            return grown[0]
        if op in FLAT or not any(grown):
            return 0.0
        return STEEPEST.get(op, math.inf) * grown[0]

    def _product(self, node: Node, grown: list[float]) -> float:
        first, second = (self.ranges[a] for a in node.args)
        if node.op == "mul":
            return _times(_largest(second), grown[0]) + _times(_largest(first), grown[1])
        if second[0] <= 0 <= second[1]:
            return math.inf
        least = min(map(abs, second))
        return _times(1 / least, grown[0]) + _times(_largest(first) / least**2, grown[1])


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2)) if matrix.numel() else 0.0


def _largest(range_: Range) -> float:
    return max(map(abs, range_))


def _times(a: float, b: float) -> float:
    """Nothing times what has no bound is nothing."""
    return 0.0 if 0.0 in (a, b) else a * b


def _add(a: Range, b: Range) -> Range:
    return (a[0] + b[0], a[1] + b[1])


def _sub(a: Range, b: Range) -> Range:
    return (a[0] - b[1], a[1] - b[0])


def _mul(a: Range, b: Range) -> Range:
    corners = [_times(p, q) for p in a for q in b]
    return (min(corners), max(corners))


_ARITHMETIC: Mapping[str, Callable[..., Range]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "neg": lambda a: (-a[1], -a[0]),
    "minimum": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "maximum": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
}
