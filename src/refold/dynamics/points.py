"""Fixed points and cycles: where the state rests, or returns, and which way it leaves.

Source  Sussillo & Barak 2013, "Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural
networks", Neural Computation 25: fixed and slow points as minima of q; Golub & Sussillo 2018, FixedPointFinder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .solve import Roots, solve
from .system import Repeated, System, jacobians

ON_CIRCLE = 1e-6  # how far from 1 the modulus of a multiplier may be to count as neither growing nor falling
CERTAIN = 1e-7  # how far a root may still be from where the solver stopped, relative to 1 + |h|


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """A state that F leaves where it is, or brings back after `period` steps.

    Shapes  state (N,); orbit (period, N), all states of the cycle, state first; multipliers (N,) complex, the
            eigenvalues of the Jacobian along the whole cycle, largest first

    kind      "stable", "saddle", "unstable" (every direction grows) or "neutral" (none grows, one does not fall)
    index     how many directions grow
    residual  |F(h) - h|, of a cycle after its last step
    starts    the share of the starts from which the solver came here
    basin     the share of the starts from which the system itself runs here, where that was asked for; else NaN
    """

    state: Tensor
    orbit: Tensor
    multipliers: Tensor
    kind: str
    index: int
    residual: float
    starts: float
    basin: float

    @property
    def period(self) -> int:
        return len(self.orbit)


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """What was found: roots, stable ones first, then by their index; slow: minima of the speed that are no roots.

    Shapes  slow (S, N), slow_speeds (S,), x (m,): the constant input
    """

    points: tuple[Point, ...]
    slow: Tensor
    slow_speeds: Tensor
    x: Tensor
    period: int
    tried: int
    lost: int

    def of(self, kind: str) -> tuple[Point, ...]:
        """Those of a kind: "stable", "saddle", "unstable", "neutral"."""
        return tuple(p for p in self.points if p.kind == kind)

    @property
    def stable(self) -> tuple[Point, ...]:
        return self.of("stable")

    @property
    def saddles(self) -> tuple[Point, ...]:
        return self.of("saddle")

    @property
    def states(self) -> Tensor:
        """(P, N)"""
        rows = [p.state for p in self.points]
        return torch.stack(rows) if rows else self.slow.new_empty(0, self.slow.shape[-1])

    def __str__(self) -> str:
        what = "fixed point(s)" if self.period == 1 else f"cycle(s) of {self.period} steps"
        held = "" if not len(self.x) else f", input held at {_short(self.x)}"
        lines = [f"{len(self.points)} {what} from {self.tried} starts{held}"]
        for p in self.points:
            basin = "" if p.basin != p.basin else f", basin {p.basin:.1%}"
            lines.append(
                f"{p.kind:8} index {p.index}  largest |multiplier| {float(p.multipliers[0].abs()):.6f}  "
                f"residual {p.residual:.1e}{basin}  at {_short(p.state)}"
            )
        if len(self.slow):
            slowest = float(self.slow_speeds.min())
            lines.append(f"{len(self.slow)} slow point(s), the slowest moves {slowest:.2g} a step")
        if self.lost:
            lines.append(f"{self.lost} start(s) ended nowhere")
        return "\n".join(lines)


def points(
    system: System,
    starts: Tensor,
    x: Tensor,
    *,
    period: int = 1,
    tolerance: float = 1e-10,
    distance: float = 1e-4,
    slower: float = 1e-2,
    iterations: int = 200,
    follow: int = 0,
) -> Points:
    """Look for the points of a period from starts (R, N), at a constant input (1, m).

    tolerance  of |F(h) - h|, relative to 1 + |h|; distance: states that are nearer to each other are one point
    slower     minima of the speed below this are kept as slow points
    follow     the system is run from every start for so many steps, to see which stable point it comes to
    """
    repeated = Repeated(system, period) if period > 1 else system
    roots = solve(repeated, starts, x, tolerance, iterations)
    roots, exact = _settled(repeated, roots, x, tolerance)
    groups = _grouped(roots.states[exact], roots.speeds[exact], distance)
    found = [_point(system, repeated, g, x, period, len(starts)) for g in groups]
    kept = _different([p for p in found if _smallest(p, distance) == period], distance)
    if follow:
        kept = _with_basins(system, kept, starts, x, follow, distance)
    slow = ~exact & (roots.speeds <= slower) & _near(roots.states, starts)
    found_slow = _grouped(roots.states[slow], roots.speeds[slow], max(distance, 1e-2))
    rows = [g[0] for g in found_slow]
    empty = starts.new_empty(0, system.size)
    return Points(
        tuple(sorted(kept, key=lambda p: (p.index, p.kind, p.state.tolist()))),
        torch.stack(rows) if rows else empty,
        torch.tensor([g[1] for g in found_slow], dtype=starts.dtype),
        x[0],
        period,
        len(starts),
        int((~exact & ~slow).sum()),
    )


def _settled(system: System, roots: Roots, x: Tensor, tolerance: float) -> tuple[Roots, Tensor]:
    """The roots after one Newton step more, and which of them are roots.

    Where units saturate the state nearly rests everywhere, and a small speed alone means nothing: the step more has to
    be short, too.
    """
    states, speeds = roots.states.clone(), roots.speeds.clone()
    close = speeds <= tolerance * (1 + states.norm(dim=-1))
    rows = close.nonzero()[:, 0]
    if not len(rows):
        return roots, close
    h = states[rows]
    after, a = system.linear(h, x)
    a.diagonal(dim1=-2, dim2=-1).sub_(1)
    step = torch.linalg.solve_ex(a, h - after)[0]
    still = step.norm(dim=-1) <= CERTAIN * (1 + h.norm(dim=-1))
    close[rows] = still | (after == h).all(-1)
    found = (system.step(h + step, x) - h - step).norm(dim=-1)
    better = still & (found < speeds[rows])
    states[rows[better]], speeds[rows[better]] = (h + step)[better], found[better]
    return Roots(states, speeds), close


def _near(states: Tensor, starts: Tensor) -> Tensor:
    """Within the box of the starts, widened by its own size on all sides."""
    low, high = starts.amin(0), starts.amax(0)
    wide = high - low
    return ((states >= low - wide) & (states <= high + wide)).all(-1)


Group = tuple[Tensor, float, int]  # a state, its speed, how many came to it


def _grouped(states: Tensor, speeds: Tensor, distance: float) -> list[Group]:
    """Near states as one, the slowest of them."""
    left, groups = speeds.argsort(), []
    while len(left):
        best = states[left[0]]
        near = (states[left] - best).norm(dim=-1) <= distance * (1 + float(best.norm()))
        groups.append((best, float(speeds[left[0]]), int(near.sum())))
        left = left[~near]
    return groups


def _point(
    system: System, repeated: System, group: Group, x: Tensor, period: int, tried: int
) -> Point:
    state, speed, count = group
    orbit = [state]
    for _ in range(period - 1):
        orbit.append(system.step(orbit[-1][None], x)[0])
    values = torch.linalg.eigvals(jacobians(repeated, state[None], x)[0])
    values = values[values.abs().argsort(descending=True, stable=True)]
    kind, index = stability(values)
    share = count / tried
    return Point(state, torch.stack(orbit), values, kind, index, speed, share, float("nan"))


def stability(multipliers: Tensor) -> tuple[str, int]:
    """What a point is by its multipliers, and how many of them lie outside the unit circle."""
    moduli = multipliers.abs()
    index = int((moduli > 1 + ON_CIRCLE).sum())
    if index:
        return ("unstable" if index == len(moduli) else "saddle"), index
    return ("neutral" if bool((moduli > 1 - ON_CIRCLE).any()) else "stable"), 0


def _smallest(point: Point, distance: float) -> int:
    """After how many steps the state first returns: a divisor of the period."""
    for step in range(1, point.period):
        if point.period % step == 0:
            away = float((point.orbit[step] - point.state).norm())
            if away <= distance * (1 + float(point.state.norm())):
                return step
    return point.period


def _different(found: list[Point], distance: float) -> list[Point]:
    """Each cycle once, by whichever of its states."""
    kept: list[Point] = []
    for point in found:
        near = distance * (1 + float(point.state.norm()))
        if all(float((p.orbit - point.state).norm(dim=-1).min()) > near for p in kept):
            kept.append(point)
    return kept


def _with_basins(
    system: System, found: list[Point], starts: Tensor, x: Tensor, follow: int, distance: float
) -> list[Point]:
    h = starts
    for _ in range(follow):
        h = system.step(h, x)
    named = []
    for p in found:
        near = torch.cdist(h, p.orbit).amin(-1) <= max(distance, 1e-3) * (1 + p.state.norm())
        parts = (p.state, p.orbit, p.multipliers, p.kind, p.index, p.residual, p.starts)
        named.append(Point(*parts, float(near.double().mean())))
    return named


def _short(state: Tensor) -> str:
    told = ", ".join(f"{v:.4g}" for v in state[:4].tolist())
    return f"({told}{', ...' * (len(state) > 4)})"
