"""Random well-typed cells: every op of the language, in equations that nobody would write.

An equation is first drawn as a tree, with its weights declared as they are needed; then a function that works the tree
out is given to `rf.cell`, as a user's function would be.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping
from typing import Any

import torch

import refold as rf
from refold.ir.graph import Leaf
from refold.kernels.base import Call, Kernel

Tree = tuple[Any, ...]  # ("leaf", name) | (op, *trees) | ("number", value)

_CURVES = (
    "tanh",
    "sigmoid",
    "softplus",
    "sin",
    "cos",
    "atan",
    "erf",
    "relu",
    "silu",
    "gelu",
    "elu",
    "softsign",
    "abs",
)
_TAMED: dict[str, Callable[[Any], Any]] = {
    # functions that need an argument in their domain, or grow fast, on a harmless one
    "exp": lambda v: rf.exp(rf.tanh(v)),
    "expm1": lambda v: rf.expm1(rf.sin(v)),
    "log": lambda v: rf.log(1.5 + rf.sin(v)),
    "log1p": lambda v: rf.log1p(v * v),
    "sqrt": lambda v: rf.sqrt(1 + v * v),
    "pow": lambda v: rf.tanh(v) ** 3,
    "power": lambda v: 2.0 ** rf.tanh(v),
    "divide": lambda v: v / (1 + v * v),
    "reciprocal": lambda v: 1 / (2 + rf.cos(v)),
    "clip": lambda v: rf.clip(v, -0.7, 0.6),
    "hard_sigmoid": rf.hard_sigmoid,
    "leaky_relu": rf.leaky_relu,
    "sign": lambda v: rf.stop_gradient(rf.sign(v)) * v,
    "neg": lambda v: -v,
}
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (1 + b * b),
    "minimum": rf.minimum,
    "maximum": rf.maximum,
    "where": lambda a, b: rf.where((a < b) | ~(b >= 0.3), a, 0.5 * b),
    "both": lambda a, b: rf.where((a > -0.2) & (b != 0), b, a),
}
_MATRICES: dict[str, Callable[[Any], Any]] = {
    "plain": lambda W: W,
    "transposed": lambda W: W.T,
    "squared": lambda W: W * W,
    "scaled": lambda W: 0.5 * rf.tanh(W),
}
_REDUCTIONS = ("sum", "mean", "max", "norm")


class Draw:
    """One random cell."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.declared: dict[str, Any] = {}
        r = self.random
        self.states = {f"s{i}": r.choice("nnk") for i in range(r.choice((1, 1, 2, 3)))}
        self.inputs = {"x": "m"} | ({"u": "k"} if r.random() < 0.3 else {})
        self.vectors = {**self.inputs, **self.states}
        trees = [self.new_state(name, size) for name, size in self.states.items()]
        output = self.vector(r.choice("nmk"), 2) if r.random() < 0.4 else None
        used = {leaf for tree in (*trees, *([output] if output else [])) for leaf in _leaves(tree)}
        # What was declared and never drawn is added, so that nothing is left unused.
        for name in self.vectors:
            if name not in used:
                size = next(iter(self.states.values()))
                trees[0] = ("add", trees[0], self.product(name, size))
        self.trees, self.output = trees, output

    def new_state(self, name: str, size: str) -> Tree:
        mix = ("binary", "mul", ("number", 0.5), ("leaf", name))
        return (
            ("add", ("curve", "tanh", self.vector(size, 3)), mix)
            if self.random.random() < 0.5
            else ("curve", "tanh", self.vector(size, 3))
        )

    def vector(self, size: str, depth: int) -> Tree:
        r = self.random
        if depth == 0:
            return self.atom(size)
        kind = r.choice(
            (
                "curve",
                "tamed",
                "binary",
                "binary",
                "product",
                "product",
                "affine",
                "along",
                "pieces",
                "scalar",
                "atom",
            )
        )
        if kind == "curve":
            return ("curve", r.choice(_CURVES), self.vector(size, depth - 1))
        if kind == "tamed":
            return ("tamed", r.choice(list(_TAMED)), self.vector(size, depth - 1))
        if kind == "binary":
            return (
                "binary",
                r.choice(list(_BINARY)),
                self.vector(size, depth - 1),
                self.vector(size, depth - 1),
            )
        if kind == "product":
            inner = r.choice("nmk")
            return self.weighted(size, inner, self.vector(inner, depth - 1))
        if kind == "affine":
            first = self.vector(r.choice("nmk"), depth - 1)
            second = (
                "tamed",
                "neg",
                self.vector(r.choice("nmk"), depth - 1),
            )  # never the same name twice
            return ("affine", self.declare(rf.Affine(size, bias=r.random() < 0.7)), first, second)
        if kind == "along":
            return ("along", r.choice(("softmax", "layer_norm")), self.vector(size, depth - 1))
        if kind == "pieces":
            other = r.choice("nmk")
            joined = ("concat", self.vector(size, depth - 1), self.vector(other, depth - 1))
            return ("piece", joined, size, other)
        if kind == "scalar":
            return (
                "binary",
                r.choice(("add", "mul", "sub", "maximum")),
                self.vector(size, depth - 1),
                self.scalar(depth),
            )
        return self.atom(size)

    def scalar(self, depth: int) -> Tree:
        r = self.random
        if r.random() < 0.3:
            return ("leaf", self.declare(rf.Scalar(0.7, learn=True)))
        return ("reduce", r.choice(_REDUCTIONS), self.vector(r.choice("nmk"), depth - 1))

    def atom(self, size: str) -> Tree:
        r = self.random
        fitting = [name for name, s in self.vectors.items() if s == size]
        if fitting and r.random() < 0.7:
            return ("leaf", r.choice(fitting))
        if r.random() < 0.2:
            return ("leaf", self.declare(rf.Bias(size, init=rf.Init("normal", std=0.5))))
        return self.product(r.choice(list(self.vectors)), size)

    def product(self, name: str, size: str) -> Tree:
        return self.weighted(size, self.vectors[name], ("leaf", name))

    def weighted(self, rows: str, columns: str, vector: Tree) -> Tree:
        kind = self.random.choice(("plain", "plain", *_MATRICES))
        sizes = f"{columns} {rows}" if kind == "transposed" else f"{rows} {columns}"
        init = rf.Init("normal", std=0.5)
        return ("matvec", kind, self.declare(rf.Weight(sizes, init=init)), vector)

    def declare(self, declaration: Any) -> str:
        name = f"w{len(self.declared)}"
        self.declared[name] = declaration
        return name

    def cell(self) -> rf.Cell:
        declared = {
            **{name: rf.Input(size) for name, size in self.inputs.items()},
            **{name: rf.State(size) for name, size in self.states.items()},
            **self.declared,
        }

        def equation(**arguments: Any) -> Any:
            new = tuple(_work_out(tree, arguments) for tree in self.trees)
            if self.output is None:
                return new
            return rf.Step(*new, output=_work_out(self.output, arguments))

        kind = inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter(n, kind, default=d) for n, d in declared.items()]
        equation.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return rf.cell(name="drawn")(equation)


def _leaves(tree: Tree) -> set[str]:
    if tree[0] == "leaf":
        return {tree[1]}
    return {name for part in tree[1:] if isinstance(part, tuple) for name in _leaves(part)}


def _work_out(tree: Tree, values: dict[str, Any]) -> Any:
    kind, *parts = tree
    trees = [_work_out(p, values) for p in parts if isinstance(p, tuple)]
    if kind == "leaf":
        return values[parts[0]]
    if kind == "number":
        return parts[0]
    if kind == "add":
        return trees[0] + trees[1]
    if kind in ("curve", "along", "reduce"):
        return getattr(rf, parts[0])(*trees)
    if kind == "tamed":
        return _TAMED[parts[0]](*trees)
    if kind == "binary":
        return _BINARY[parts[0]](*trees)
    if kind == "matvec":
        return _MATRICES[parts[0]](values[parts[1]]) @ trees[0]
    if kind == "affine":
        return values[parts[0]](*trees)
    if kind == "concat":
        return rf.concat(*trees)
    assert kind == "piece"
    first, second = rf.split(trees[0], parts[1], parts[2])
    return first * (1 + rf.mean(second) * 0.1)


def drawn_call(
    cell: rf.Cell,
    sizes: Mapping[str, int],
    steps: int,
    rows: int,
    seed: int,
    dtype: torch.dtype = torch.float64,
    ragged: bool = False,
    probes: bool = False,
) -> Call:
    """Arguments for one call of a kernel, all with gradients; sums of products stay about 1 at every size.

    The numbers are the same in both precisions. Every second seed runs backwards in time.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        numbers = torch.randn(shape, generator=generator) * scale
        return numbers.to(dtype).requires_grad_()

    def width(leaf: Leaf) -> int:
        return leaf.shape[0].at(sizes) if leaf.shape else 1

    graph = cell.graph
    params = {}
    for leaf in graph.leaves_of("param"):
        shape = [size.at(sizes) for size in leaf.shape]
        params[leaf.name] = normal(*shape, scale=1 / max(3, shape[-1] if shape else 1) ** 0.5)
    lengths = torch.randint(0, steps + 1, (rows,), generator=generator) if ragged else None
    states = tuple(normal(rows, width(leaf)) for leaf in graph.leaves_of("state"))
    zeros = tuple(torch.zeros(steps, *s.shape, dtype=dtype, requires_grad=True) for s in states)
    return Call(
        steps,
        tuple(normal(steps, rows, width(leaf)) for leaf in graph.leaves_of("input")),
        states,
        params,
        lengths,
        backwards=seed % 2 == 0,
        probes=zeros if probes else None,
    )


def outcome(kernel: Kernel, call: Call) -> dict[str, torch.Tensor]:
    """Everything a kernel gives for a call, and the gradient of one number made of it by every argument."""
    run = kernel(call)
    values = {"output": run.output}
    values |= {f"history {k}": h for k, h in enumerate(run.history)}
    values |= {f"final {k}": f for k, f in enumerate(run.final)}
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(v.shape, generator=generator).to(v.dtype) for v in values.values()]
    shares = [(v * f).sum() for v, f in zip(values.values(), factors, strict=True)]
    groups = (call.inputs, call.states, tuple(call.params.values()), call.probes or ())
    names = ("input", "state", "parameter", "probe")
    leaves = {
        f"dE/d {name} {k}": t
        for name, group in zip(names, groups, strict=True)
        for k, t in enumerate(group)
    }
    error = torch.stack(shares).sum()
    found = torch.autograd.grad(error, list(leaves.values()), materialize_grads=True)
    return {k: v.detach() for k, v in values.items()} | dict(zip(leaves, found, strict=True))
