"""Roots of F(h) - h from many starts at once: Newton's method with exact Jacobians, damped where it overshoots.

A row that Newton's direction no longer improves goes on by Levenberg and Marquardt's steps, down q = |F(h) - h|^2 / 2,
to a root after all or to a slow point: a minimum of q where the state nearly rests.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .system import System

SHORTEST = (
    2.0**-4
)  # of a Newton step that is still tried: where less is needed, down q is the shorter way
AGAIN = 10  # Newton steps after the descent, for rows that it has brought near a root
ENOUGH = 1e-4  # of the decrease that the slope promises (Armijo)
DESCENT = 60  # steps down q at most
NEARLY = 1e-3  # a speed from which Newton's method is tried again
FLAT = 1e-7  # |gradient of q| / |F(h) - h| at which a row has arrived
LITTLE = 1e-3  # a relative fall of the speed that is little, and
PATIENCE = 5  # how many of these in a row are the end: what still falls so slowly comes to no root


@dataclass(frozen=True, slots=True, eq=False)
class Roots:
    """Where each start ended.

    Shapes  states (R, N), speeds (R,): |F(h) - h|
    """

    states: Tensor
    speeds: Tensor


def solve(system: System, starts: Tensor, x: Tensor, tolerance: float, iterations: int) -> Roots:
    """Look for a root from each start, (R, N), at a constant input (1, m)."""
    h = starts.clone()
    speeds = (system.step(h, x) - h).norm(dim=-1)
    active = _finite(speeds).nonzero()[:, 0]
    stuck: list[Tensor] = []
    for _ in range(iterations):
        active = active[speeds[active] > tolerance]
        if not len(active):
            break
        moved, found, better = _newton(system, h[active], x)
        h[active], speeds[active] = moved, found
        stuck.append(active[~better])
        active = active[better]
    rest = torch.cat([*stuck, active])
    if len(rest):
        h[rest], speeds[rest] = _slowly(system, h[rest], x, tolerance)
    return Roots(h, torch.where(_finite(speeds), speeds, torch.inf))


def _slowly(system: System, h: Tensor, x: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Down q, and by Newton's method again where that has come near a root."""
    h, speeds = _descend(system, h, x, tolerance)
    rows = ((speeds < NEARLY) & (speeds > 0)).nonzero()[:, 0]
    for _ in range(AGAIN):
        if not len(rows):
            break
        h[rows], speeds[rows], better = _newton(system, h[rows], x)
        rows = rows[better]
    return h, speeds


def _newton(system: System, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step for each row, halved until |F(h) - h| falls: (states, speeds, whether it fell)."""
    after, jacobian = system.linear(h, x)
    miss = after - h
    jacobian.diagonal(dim1=-2, dim2=-1).sub_(1)
    direction, info = torch.linalg.solve_ex(jacobian, -miss)
    speeds, best = miss.norm(dim=-1), h.clone()
    waiting = ((info == 0) & direction.isfinite().all(-1)).nonzero()[:, 0]
    better = torch.zeros(len(h), dtype=torch.bool)
    share = 1.0
    while len(waiting) and share >= SHORTEST:
        tried = h[waiting] + share * direction[waiting]
        found = (system.step(tried, x) - tried).norm(dim=-1)
        fell = found <= (1 - ENOUGH * share) * speeds[waiting]
        rows = waiting[fell]
        best[rows], speeds[rows], better[rows] = tried[fell], found[fell], True
        waiting, share = waiting[~fell], share / 2
    return best, speeds, better


def _descend(system: System, h: Tensor, x: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Levenberg-Marquardt, each row with a damping of its own."""
    h = h.clone()
    speeds = (system.step(h, x) - h).norm(dim=-1)
    damping = torch.full_like(speeds, 1e-3)
    active, waited = torch.arange(len(h)), torch.zeros(len(h), dtype=torch.int64)
    for _ in range(DESCENT):
        if not len(active):
            break
        after, a = system.linear(h[active], x)
        miss = after - h[active]
        a.diagonal(dim1=-2, dim2=-1).sub_(1)
        slope = (a.mT @ miss.unsqueeze(-1)).squeeze(-1)
        square = a.mT @ a
        size = square.diagonal(dim1=-2, dim2=-1).amax(-1).clamp(min=1e-30)
        square.diagonal(dim1=-2, dim2=-1).add_((damping[active] * size).unsqueeze(-1))
        factor, info = torch.linalg.cholesky_ex(square)
        step = torch.cholesky_solve(slope.unsqueeze(-1), factor).squeeze(-1)
        tried = h[active] - step
        found = (system.step(tried, x) - tried).norm(dim=-1)
        fell = (found < speeds[active]) & (info == 0)
        rows = active[fell]
        flat = slope.norm(dim=-1) <= FLAT * speeds[active]
        little = fell & (found >= (1 - LITTLE) * speeds[active])
        waited[active] = torch.where(
            little, waited[active] + 1, torch.where(fell, 0, waited[active])
        )
        flat |= waited[active] > PATIENCE
        h[rows], speeds[rows] = tried[fell], found[fell]
        damping[active] = torch.where(fell, damping[active] / 5, damping[active] * 4)
        done = (speeds[active] <= tolerance) | flat | (damping[active] > 1e12)
        active = active[~done]
    return h, speeds


def _finite(speeds: Tensor) -> Tensor:
    return speeds.isfinite()
