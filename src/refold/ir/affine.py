"""Affine parameters: a function of vectors, with a weight for each and one bias."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from refold.shapes import Shape, shape_of, shape_text

from .declare import Affine, named
from .graph import SLOT, Leaf, Place
from .symbol import Reading, Symbol


class AffineSymbol:
    """An Affine inside a cell: call it on the vectors that it should read."""

    def __init__(self, reading: Reading, name: str, declared: Affine, place: Place):
        self.reading, self.name, self.declared, self.place = reading, name, declared, place
        self.weights: list[Symbol] = []
        self.bias: Symbol | None = None

    def __call__(self, *arguments: object) -> Symbol:
        """W_1 @ v_1 + ... + b. Called again on as many vectors of the same sizes, it uses the same weights."""
        vectors = [self.reading.symbol(a) for a in arguments]
        if not vectors:
            self.reading.refuse(
                f"{self.name}() has nothing to read.",
                f"Call it on vectors, as in {self.name}(x, h).",
            )
        if not self.weights:
            self._declare(vectors)
        expected = [w.shape[-1:] for w in self.weights]
        if [v.shape for v in vectors] != expected:
            self.reading.refuse(
                f"{self.name} reads {_shapes(expected)} and is called here with {_shapes(v.shape for v in vectors)}.",
                "Call it with as many vectors of the same sizes each time, or declare a second Affine.",
            )
        result = self.weights[0] @ vectors[0]
        for weight, vector in zip(self.weights[1:], vectors[1:], strict=True):
            result = result + weight @ vector
        result = result if self.bias is None else result + self.bias
        if result.node.label is None and result.node.op != SLOT:
            self.reading.builder.name(result.index, self.name)
        return result

    def _declare(self, vectors: list[Symbol]) -> None:
        rows = shape_of(self.declared.size)
        names: list[str] = []
        for position, vector in enumerate(vectors, 1):
            if len(vector.shape) != 1:
                self.reading.refuse(
                    f"{vector.described}, and {self.name} reads vectors.",
                    "Multiply matrices with @; an Affine takes one vector for each of its weights.",
                )
            name = f"{self.name}.W_{vector.node.label or position}"
            if name in names:
                self.reading.refuse(
                    f"the name {name} is used twice: {self.name} reads {vector.node.label} in two places.",
                    "Add the vector once, or give each product a Weight of its own.",
                )
            names.append(name)
            shape = (rows[0], vector.shape[0])
            leaf = Leaf("param", name, shape, named(self.declared.init), place=self.place)
            self.weights.append(self.reading.declare(leaf))
        if self.declared.bias:
            leaf = Leaf(
                "param", f"{self.name}.b", rows, named(self.declared.bias_init), place=self.place
            )
            self.bias = self.reading.declare(leaf)

    def __getattr__(self, name: str) -> NoReturn:
        self.misused()

    def misused(self, *args: object) -> NoReturn:
        self.reading.refuse(
            f"{self.name} is an Affine, a function of vectors, and not a value.",
            f"Call it: {self.name}(x, h) is W_x @ x + W_h @ h + b.",
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = misused
    __matmul__ = __rmatmul__ = __truediv__ = __rtruediv__ = __pow__ = __rpow__ = __neg__ = misused
    __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __float__ = __iter__ = __getitem__ = misused


def _shapes(shapes: Iterable[Shape]) -> str:
    return " and ".join(map(shape_text, shapes))
