"""What is analysed: a map of a state that holds everything a step carries, in float64, with its exact Jacobian.

    State     one row for each state: the states of all layers side by side, (R, N)
    Function  a function of the user's, by torch.func
    Repeated  another system, so many steps at once

`folded` has the system of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import vmap

from refold.errors import DataError

# Numbers in the Jacobians of one go: 4 MB in float64, so that they stay near the processor: twice as fast as 8.
CHUNK = 2**19


@dataclass(frozen=True, slots=True)
class Part:
    """One state among those that are carried: its layer ("" for a function), its name, where it lies."""

    layer: str
    name: str
    start: int
    size: int

    @property
    def label(self) -> str:
        return f"{self.layer}.{self.name}" if self.layer else self.name

    @property
    def place(self) -> slice:
        return slice(self.start, self.start + self.size)


class System(Protocol):
    """A map F(h, x).

    Shapes  h (R, N); x (R, m), or (1, m) for all rows; N = size, m = inputs
    """

    @property
    def name(self) -> str: ...

    @property
    def parts(self) -> tuple[Part, ...]: ...

    @property
    def inputs(self) -> int: ...

    @property
    def size(self) -> int: ...

    def step(self, h: Tensor, x: Tensor) -> Tensor:
        """F(h, x), (R, N)."""
        ...

    def linear(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """F(h, x) and dF/dh, (R, N, N): row i holds the derivative of what state i becomes."""
        ...

    def run(self, start: Tensor, x: Tensor) -> Tensor:
        """The states after each step, (T, R, N), for x (T, R, m)."""
        ...


class Stepping:
    """What every system does that only knows its step."""

    parts: tuple[Part, ...]
    step: Callable[[Tensor, Tensor], Tensor]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def run(self, start: Tensor, x: Tensor) -> Tensor:
        h, states = start, []
        for given in x:
            h = self.step(h, given)
            states.append(h)
        return torch.stack(states) if states else start.new_zeros(0, *start.shape)


class Function(Stepping):
    """A function of the state, h -> h or (h, x) -> h, both (N,) tensors.

    Errors  DataError where it does not give a state of the same size
    """

    def __init__(self, function: Callable[..., Any], size: int, inputs: int, name: str):
        self.name, self.inputs, self._function = name, inputs, function
        self.parts = (Part("", "h", 0, size),)
        self._check(size)
        self._mapped = self._can_be_mapped(size)

    def one(self, h: Tensor, x: Tensor) -> Tensor:
        """F of one state, (N,)."""
        return self._function(h, x) if self.inputs else self._function(h)

    def step(self, h: Tensor, x: Tensor) -> Tensor:
        if len(h) == 1:
            return self.one(h[0], x[0]).unsqueeze(0)
        given = x.expand(len(h), -1)
        if self._mapped:
            return vmap(self.one)(h, given)
        return torch.stack([self.one(*row) for row in zip(h, given, strict=True)])

    def linear(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return with_jacobian(lambda h: self.step(h, x), h)

    def _check(self, size: int) -> None:
        zero = torch.zeros(size, dtype=torch.float64)
        found = self.one(zero, zero.new_zeros(self.inputs))
        if not isinstance(found, Tensor) or found.shape != (size,):
            told = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            fact = f"the state has {size} number(s), and the function gives {told} for it"
            remedy = "return a tensor of the state's own shape, by torch.stack([...]) say"
            raise DataError(fact, remedy, f"rf.dynamics({self.name})")

    def _can_be_mapped(self, size: int) -> bool:
        """Whether it takes many states at once; a function that looks at a number (`if h[0] > 0`) does not."""
        two = torch.zeros(2, size, dtype=torch.float64)
        try:
            vmap(self.one)(two, two.new_zeros(2, self.inputs))
        except RuntimeError:
            return False
        return True


class Repeated(Stepping):
    """p steps of a system as one; the Jacobian is the product along the way."""

    def __init__(self, system: System, times: int):
        self.name, self.parts, self.inputs = system.name, system.parts, system.inputs
        self._system, self._times = system, times

    def step(self, h: Tensor, x: Tensor) -> Tensor:
        for _ in range(self._times):
            h = self._system.step(h, x)
        return h

    def linear(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        h, product = self._system.linear(h, x)
        for _ in range(self._times - 1):
            h, jacobian = self._system.linear(h, x)
            product = jacobian @ product
        return h, product


def flow_map(field: Callable[..., Any], dt: float, substeps: int = 4) -> Callable[..., Tensor]:
    """The map over a time dt of dh/dt = field(h), by the classical Runge-Kutta method in so many steps."""
    s = dt / substeps

    def step(h: Tensor, *x: Tensor) -> Tensor:
        for _ in range(substeps):
            k1 = field(h, *x)
            k2 = field(h + s / 2 * k1, *x)
            k3 = field(h + s / 2 * k2, *x)
            h = h + s / 6 * (k1 + 2 * k2 + 2 * k3 + field(h + s * k3, *x))
        return h

    return step


def with_jacobian(function: Callable[[Tensor], Tensor], h: Tensor) -> tuple[Tensor, Tensor]:
    """A function of rows, (R, N) -> (R, K), each of its own row only, and its derivative (R, K, N), by autograd.

    torch.func would do it in one go, and load torch's compiler for it: three seconds.
    """
    with torch.enable_grad():
        given = h.detach().requires_grad_()
        after = function(given)
        if not after.requires_grad:
            return after, h.new_zeros(*after.shape, h.shape[-1])
        rows = [
            torch.autograd.grad(column.sum(), given, retain_graph=True, materialize_grads=True)[0]
            for column in after.unbind(-1)
        ]
    return after.detach(), torch.stack(rows, 1)


def jacobians(system: System, h: Tensor, x: Tensor) -> Tensor:
    """dF/dh at many states, (R, N, N), worked out in pieces that fit the cache."""
    rows = max(1, CHUNK // max(1, system.size) ** 2)
    out = h.new_empty(len(h), system.size, system.size)
    for begin in range(0, len(h), rows):
        piece = slice(begin, begin + rows)
        out[piece] = system.linear(h[piece], x[piece] if len(x) > 1 else x)[1]
    return out


def side_by_side(names: Sequence[tuple[str, str, int]]) -> tuple[Part, ...]:
    """(layer, name, size) of each state, laid one after the other."""
    parts, start = [], 0
    for layer, name, size in names:
        parts.append(Part(layer, name, start, size))
        start += size
    return tuple(parts)
