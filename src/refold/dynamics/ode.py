"""The network as a differential equation, and back.

A step h -> W h + u, the network's own where it is linear and its linearisation elsewhere, is compared with h' = M h + c
over one unit of time:

    exact    M = log W              c = phi(M)^-1 u             one unit of flow is one step;  phi(M) = (e^M - I) / M
    tustin   M = 2 (W - I)(W + I)^-1    c = 2 (W + I)^-1 u      stable exactly where |mu| < 1
    taylor   M = I - W^-1           c = W^-1 u                  first order, the delay expanded; too strict
    euler    M = W - I              c = u                       first order, for any f: h' = F(h, x) - h; too lax

All share the fixed points of the map. (The common text's h' = W h + W^-1 u does not, and grows where the map falls.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from refold.errors import DataError, RefoldError
from refold.ir.graph import SLOT

from .folded import Folded
from .logarithm import logarithm
from .system import System

METHODS = ("exact", "tustin", "taylor", "euler")

# Pieces of these are straight: between the kinks the step is W h + u.
STRAIGHT = {
    "add", "sub", "neg", "relu", "abs", "minimum", "maximum", "where", "matvec", "sum", "expand", "concat", "slice",
    "pad", "lt", "le", "eq", "and", "or", "not", "const", "size", "mul",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Ode:
    """h' = M h + c, in time units of which a step takes dt.

    Shapes  matrix (N, N), forcing (N,), eigenvalues (N,) complex; step_matrix (N, N) and step_forcing (N,): the W and u
            that it was made of; at (N,): the state where
    Units   time_constants -1 / Re lambda (below 0 where it grows), periods 2 pi / |Im lambda|, in units of time

    valid   where the equation holds; agrees: whether it is stable in just the directions in which the map is
    """

    method: str
    matrix: Tensor
    forcing: Tensor
    step_matrix: Tensor
    step_forcing: Tensor
    at: Tensor
    dt: float
    eigenvalues: Tensor
    time_constants: Tensor
    periods: Tensor
    agrees: bool
    valid: str

    def field(self, h: Tensor) -> Tensor:
        """h' at states (..., N)."""
        return h @ self.matrix.mT + self.forcing

    def flow(self, h: Tensor, time: float) -> Tensor:
        """The state after a time, from states (..., N), exactly."""
        whole, moved = _flow(self.matrix * time, self.forcing * time)
        return h @ whole.mT + moved

    @property
    def fixed_point(self) -> Tensor:
        """-M^-1 c, (N,); it is that of the map."""
        return torch.linalg.solve(self.matrix, -self.forcing)

    def back(self) -> tuple[Tensor, Tensor]:
        """The way back: the step's W (N, N) and u (N,) from M and c, by the same method."""
        return as_step(self.matrix, self.forcing, self.method, self.dt)

    def __str__(self) -> str:
        lines = [f"h' = M h + c by {self.method}, {len(self.at)} number(s), {self.valid}"]
        columns = (self.eigenvalues, self.time_constants, self.periods)
        lines.append(f"{'eigenvalue':>24} {'time constant':>14} {'period':>9}")
        for value, constant, period in zip(*(c.tolist() for c in columns), strict=True):
            told = f"{value.real:+.6f} {value.imag:+.6f}i"
            lines.append(f"{told:>24} {constant:14.4g} {period:9.4g}")
        if not self.agrees:
            lines.append(
                "its stability is not that of the map: some direction grows in one and falls in the other"
            )
        return "\n".join(lines)


def ode(system: System, at: Tensor, x: Tensor, method: str, dt: float) -> Ode:
    """The equation at a state (N,) and a constant input (1, m).

    Errors  RefoldError with the reason where a method gives none; DataError for an unknown method
    """
    if method not in METHODS:
        fact = f"there is no method {method!r}"
        raise DataError(fact, f"choose one of {', '.join(METHODS)}", "ode(method=...)")
    after, jacobian = system.linear(at[None], x)
    step = jacobian[0]
    forcing = after[0] - step @ at
    matrix, constant = _from_step(step, forcing, method)
    values = torch.linalg.eigvals(matrix / dt)
    values = values[values.real.argsort(descending=True, stable=True)]
    moduli = torch.linalg.eigvals(step).abs()
    agrees = int((values.real < -1e-12).sum()) == int((moduli < 1 - 1e-12).sum())
    return Ode(
        method,
        matrix / dt,
        constant / dt,
        step,
        forcing,
        at,
        dt,
        values,
        -1 / values.real + 0.0,
        2 * math.pi / values.imag.abs(),
        agrees,
        _valid(system, method),
    )


def as_step(matrix: Tensor, forcing: Tensor, method: str, dt: float = 1.0) -> tuple[Tensor, Tensor]:
    """From h' = M h + c to the step h -> W h + u over dt, by the inverse of each method."""
    m, c = matrix * dt, forcing * dt
    one = torch.eye(len(m), dtype=m.dtype)
    if method == "exact":
        return _flow(m, c)
    if method == "tustin":
        half = torch.linalg.inv(one - m / 2)
        return half @ (one + m / 2), half @ c
    if method == "taylor":
        whole = torch.linalg.inv(one - m)
        return whole, whole @ c
    return one + m, c


def _from_step(step: Tensor, forcing: Tensor, method: str) -> tuple[Tensor, Tensor]:
    one = torch.eye(len(step), dtype=step.dtype)
    if method == "exact":
        log = logarithm(step)
        return log, torch.linalg.solve(_phi(log), forcing)
    if method == "euler":
        return step - one, forcing
    if method == "taylor":
        inverse = _inverse(step, 'ode(method="taylor")', "0", "it is not invertible")
        return one - inverse, inverse @ forcing
    inverse = _inverse(step + one, 'ode(method="tustin")', "-1", "it alternates for ever")
    return 2 * (step - one) @ inverse, 2 * inverse @ forcing


def _inverse(matrix: Tensor, where: str, eigenvalue: str, why: str) -> Tensor:
    singular = torch.linalg.svdvals(matrix)
    if float(singular[-1]) <= 1e-14 * float(singular[0]):
        fact = f"the step's Jacobian has an eigenvalue {eigenvalue}: {why}"
        raise RefoldError(fact, "take method='euler', which needs no inverse", where)
    return torch.linalg.inv(matrix)


def _phi(log: Tensor) -> Tensor:
    """(e^A - I) / A, also where A has an eigenvalue 0."""
    size = len(log)
    block = torch.zeros(2 * size, 2 * size, dtype=log.dtype)
    block[:size, :size] = log
    block[:size, size:] = torch.eye(size, dtype=log.dtype)
    return torch.linalg.matrix_exp(block)[:size, size:]


def _flow(matrix: Tensor, forcing: Tensor) -> tuple[Tensor, Tensor]:
    return torch.linalg.matrix_exp(matrix), _phi(matrix) @ forcing


def _valid(system: System, method: str) -> str:
    if isinstance(system, Folded) and system.constant:
        return "everywhere: the network is linear"
    if isinstance(system, Folded) and system.head is None and _is_straight(system):
        return "as long as the same units are active"
    more = "; for any state take h' = F(h, x) - h" if method == "euler" else ""
    return f"near the state that it was made at{more}"


def _is_straight(system: Folded) -> bool:
    """Whether each step is W h + u between kinks: no product of two values that both go with the state."""
    for level in system.levels:
        graph = level.graph
        reached = graph.after(graph.reading("state"))
        for i in reached:
            node = graph.nodes[i]
            if node.op == SLOT:
                continue
            if node.op not in STRAIGHT or (node.op == "mul" and set(node.args) <= reached):
                return False
    return True
