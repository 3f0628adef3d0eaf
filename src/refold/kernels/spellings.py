"""How each op is said in torch.

A value with one number vector for each row is (..., size), a scalar for each row (..., 1). A parameter keeps its own
shape, except that a scalar is (1,): so a scalar always meets a vector by broadcasting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from refold.ir.graph import Node

Sizes = Mapping[str, int]
Function = Callable[..., Tensor]


def spelled(node: Node, sizes: Sizes) -> Function:
    """The torch function of a line, of its operands alone."""
    if node.op in PLAIN:
        return PLAIN[node.op]
    return WITH_SETTINGS[node.op](node, sizes)


def _axis(node: Node) -> int:
    """Vectors are cut and joined along their features, matrices along their rows."""
    return 0 if len(node.shape) == 2 else -1


def _pow(node: Node, sizes: Sizes) -> Function:
    return lambda a: torch.pow(a, node.attr)  # type: ignore[arg-type]


def _sum(node: Node, sizes: Sizes) -> Function:
    if node.attr == 2:
        return lambda a: a.sum().reshape(1)
    return lambda a: a.sum(-1, keepdim=True)


def _expand(node: Node, sizes: Sizes) -> Function:
    shape = [size.at(sizes) for size in node.shape]
    return lambda a: a.expand(*a.shape[:-1], *shape)


def _concat(node: Node, sizes: Sizes) -> Function:
    axis = _axis(node)

    def concat(*parts: Tensor) -> Tensor:
        if axis == 0:
            return torch.cat(parts)
        # A part made of parameters alone has no rows yet; one of several branches has one for all.
        lead = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
        return torch.cat([p.expand(*lead, p.shape[-1]) for p in parts], -1)

    return concat


def _slice(node: Node, sizes: Sizes) -> Function:
    assert isinstance(node.attr, tuple)
    start, rows = (size.at(sizes) for size in node.attr)
    axis = _axis(node)
    return lambda a: a.narrow(axis, start, rows)


def _pad(node: Node, sizes: Sizes) -> Function:
    assert isinstance(node.attr, tuple)
    front, whole = (size.at(sizes) for size in node.attr)
    axis = _axis(node)

    def padded(a: Tensor) -> Tensor:
        back = whole - front - a.shape[axis]
        return pad(a, (front, back) if axis == -1 else (0, 0, front, back))

    return padded


def _softplus(a: Tensor) -> Tensor:
    # torch's own softplus becomes x above its threshold, an error of 1e-9: too much in float64.
    return torch.logaddexp(a, torch.zeros_like(a))


def _outer(g: Tensor, v: Tensor) -> Tensor:
    """Summed over all rows and steps: one product."""
    rows = max(g.shape[:-1].numel(), v.shape[:-1].numel())
    return g.expand(rows, g.shape[-1]).T @ v.expand(rows, v.shape[-1])


PLAIN: dict[str, Function] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "neg": torch.neg,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": _softplus,
    "relu": torch.relu,
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.atan,
    "erf": torch.erf,
    "abs": torch.abs,
    "sign": torch.sign,
    "floor": torch.floor,
    "round": torch.round,
    "stop_gradient": torch.Tensor.detach,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "lt": torch.lt,
    "le": torch.le,
    "eq": torch.eq,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "not": torch.logical_not,
    "where": torch.where,
    "max": lambda a: torch.amax(a, -1, keepdim=True),
    "norm": lambda a: torch.linalg.vector_norm(a, dim=-1, keepdim=True),
    "matvec": lambda W, v: v @ W.T,
    "matmul": torch.matmul,
    "outer": _outer,
    "transpose": lambda W: W.T,
}

WITH_SETTINGS: dict[str, Callable[[Node, Sizes], Function]] = {
    "pow": _pow,
    "sum": _sum,
    "expand": _expand,
    "concat": _concat,
    "slice": _slice,
    "pad": _pad,
}
