"""Roots of F(h) - h from many starts at once: Newton's method with exact Jacobians, damped by its own next step.

A step is good where the next one, by the same Jacobian, is shorter (Deuflhard's natural test). The speed |F(h) - h| is
no measure of that: where gates shut, and far from where a network lives, everything all but rests, and a search that
goes down the speed alone ends nowhere. `descend` does go down it, from where Newton's method has failed and within the
box in which the network runs: to a slow point, a minimum of q = |F(h) - h|^2 / 2 that is no root.

Source  Deuflhard 2011, "Newton Methods for Nonlinear Problems", section 3.3.3 (NLEQ-ERR); Marquardt 1963.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .system import CHUNK, System

CERTAIN = (
    1e-7  # how long Newton's step from a root may still be, with rounding, relative to 1 + |h|
)
ROUNDING = torch.finfo(torch.float64).eps
SHORTEST = 1e-3  # share of Newton's step below which it is given up
DESCENT = 100  # steps down q at most
FLAT = 1e-6  # |gradient of q| / |F(h) - h| below which a row has arrived at a minimum
STIFF = 1e12  # damping above which no step is left

Box = tuple[Tensor, Tensor]  # the lowest and the highest state, (N,) each
Matrices = tuple[Tensor, Tensor]  # LU factors and pivots


@dataclass(frozen=True, slots=True, eq=False)
class Ends:
    """Where each start ended.

    Shapes  states (R, N); speeds (R,): |F(h) - h|; arrived (R,): whether that is a root, or of `descend` a minimum of q
    """

    states: Tensor
    speeds: Tensor
    arrived: Tensor


def newton(system: System, starts: Tensor, x: Tensor, tolerance: float, iterations: int) -> Ends:
    """Look for a root from each start, (R, N), at a constant input (1, m).

    tolerance  of |F(h) - h|, relative to 1 + |h|. Newton's step has to be short there, too: where units saturate a
               small speed alone means nothing
    """
    return _in_pieces(system, starts, lambda h: _newton(system, h, x, tolerance, iterations))


def descend(system: System, starts: Tensor, x: Tensor, box: Box) -> Ends:
    """Down q from each start, (R, N), by Levenberg's and Marquardt's steps, as far as they stay in the box."""
    return _in_pieces(system, starts, lambda h: _descend(system, h, x, box))


def _in_pieces(system: System, starts: Tensor, solve: Callable[[Tensor], Ends]) -> Ends:
    """As many starts at a time as their Jacobians fit the cache."""
    if not len(starts):
        return Ends(starts, starts.new_empty(0), torch.empty(0, dtype=torch.bool))
    pieces = starts.split(max(8, CHUNK // max(1, system.size) ** 2))
    ends = [solve(piece) for piece in pieces]
    states, speeds = torch.cat([e.states for e in ends]), torch.cat([e.speeds for e in ends])
    return Ends(states, speeds, torch.cat([e.arrived for e in ends]))


# Newton's method ------------------------------------------------------------------------------------------------------


def _newton(system: System, starts: Tensor, x: Tensor, tolerance: float, iterations: int) -> Ends:
    h = starts.clone()
    speeds = torch.full_like(h[:, 0], torch.inf)
    arrived = torch.zeros(len(h), dtype=torch.bool)
    share = torch.ones_like(speeds)
    active = h.isfinite().all(-1).nonzero()[:, 0]
    for number in range(iterations):
        if not len(active):
            break
        at = h[active]
        after, a = system.linear(at, x)
        miss, scale = after - at, 1 + at.norm(dim=-1)
        step, matrices = _solved(a, -miss)
        speeds[active] = miss.norm(dim=-1)
        # Far out F(h) = h may be rounding alone: what rounding makes of the step counts as well.
        unsure = step.norm(dim=-1) + _by(*matrices, ROUNDING * at.abs()).norm(dim=-1)
        root = (unsure <= CERTAIN * scale) & (speeds[active] <= tolerance * scale)
        if number == 0:  # a start that rests, among states that all rest
            root |= (miss == 0).all(-1) & step.isnan().any(-1)
        arrived[active[root]] = True
        active, at, step = active[~root], at[~root], step[~root]
        matrices = (matrices[0][~root], matrices[1][~root])
        moved, share[active], good = _damped(system, at, step, matrices, share[active], x)
        h[active], active = moved, active[good]
    return _polished(system, Ends(h, speeds, arrived), x)


def _solved(a: Tensor, right: Tensor) -> tuple[Tensor, Matrices]:
    """(a - I)^-1 right, NaN where there is no inverse, and the factors; `a` is used up."""
    a.diagonal(dim1=-2, dim2=-1).sub_(1)
    factors, pivots, info = torch.linalg.lu_factor_ex(a)
    step = _by(factors, pivots, right)
    return torch.where((info == 0).unsqueeze(-1), step, torch.nan), (factors, pivots)


def _by(factors: Tensor, pivots: Tensor, right: Tensor) -> Tensor:
    return torch.linalg.lu_solve(factors, pivots, right.unsqueeze(-1)).squeeze(-1)


def _damped(
    system: System, at: Tensor, step: Tensor, matrices: Matrices, share: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A share of each row's step: (states, shares to begin the next step with, whether one was good)."""
    moved, share = at.clone(), share.clone()
    good = torch.zeros(len(at), dtype=torch.bool)
    length = step.norm(dim=-1)
    waiting = step.isfinite().all(-1).nonzero()[:, 0]
    while len(waiting):
        part = share[waiting]
        tried = at[waiting] + part.unsqueeze(-1) * step[waiting]
        factors, pivots = matrices[0][waiting], matrices[1][waiting]
        following = _by(factors, pivots, tried - system.step(tried, x))
        fell = following.norm(dim=-1) <= (1 - part / 4) * length[waiting]
        bend = (following - (1 - part.unsqueeze(-1)) * step[waiting]).norm(dim=-1)
        fitting = 0.5 * length[waiting] * part.square() / bend.clamp(min=1e-300)
        rows = waiting[fell]
        moved[rows], good[rows] = tried[fell], True
        fitting = torch.where(fell, fitting.clamp(max=1), torch.minimum(fitting, part / 2))
        share[waiting] = fitting.nan_to_num(0.0, 0.0, 0.0)
        waiting = waiting[~fell & (share[waiting] >= SHORTEST)]
    return moved, share.clamp(min=SHORTEST), good


def _polished(system: System, ends: Ends, x: Tensor) -> Ends:
    """The roots after one step more, where that brings them nearer."""
    rows = (ends.arrived & (ends.speeds > 0)).nonzero()[:, 0]
    if not len(rows):
        return ends
    states, speeds = ends.states.clone(), ends.speeds.clone()
    after, a = system.linear(states[rows], x)
    tried = states[rows] + _solved(a, states[rows] - after)[0]
    found = (system.step(tried, x) - tried).norm(dim=-1)
    better = found < speeds[rows]
    states[rows[better]], speeds[rows[better]] = tried[better], found[better]
    return Ends(states, speeds, ends.arrived)


# Down the speed -------------------------------------------------------------------------------------------------------


def _descend(system: System, starts: Tensor, x: Tensor, box: Box) -> Ends:
    """Each row with a damping of its own."""
    h = starts.clone()
    speeds = (system.step(h, x) - h).norm(dim=-1)
    damping = torch.full_like(speeds, 1e-3)
    arrived = speeds == 0
    active = (speeds.isfinite() & ~arrived).nonzero()[:, 0]
    for _ in range(DESCENT):
        if not len(active):
            break
        step, flat = _downwards(system, h[active], damping[active], x)
        tried = h[active] - step
        found = (system.step(tried, x) - tried).norm(dim=-1)
        fell = found < speeds[active]
        outside = fell & ((tried < box[0]) | (tried > box[1])).any(-1)
        rows = active[fell]
        h[rows], speeds[rows] = tried[fell], found[fell]
        arrived[active] = flat
        damping[active] *= torch.where(fell, 0.2, 4.0)
        active = active[~flat & ~outside & (damping[active] < STIFF)]
    return Ends(h, torch.where(speeds.isfinite(), speeds, torch.inf), arrived)


def _downwards(system: System, h: Tensor, damping: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The damped Gauss-Newton step to be taken off, (R, N), and where q is flat, (R,)."""
    after, a = system.linear(h, x)
    miss = after - h
    a.diagonal(dim1=-2, dim2=-1).sub_(1)
    slope = (a.mT @ miss.unsqueeze(-1)).squeeze(-1)
    square = a.mT @ a
    size = square.diagonal(dim1=-2, dim2=-1)
    flat = slope.norm(dim=-1) <= FLAT * miss.norm(dim=-1)
    most = size.amax(-1).clamp(min=1e-30)
    size.add_((damping * most).unsqueeze(-1))
    factor, _ = torch.linalg.cholesky_ex(square)
    return torch.cholesky_solve(slope.unsqueeze(-1), factor).squeeze(-1), flat
