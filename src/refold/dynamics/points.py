"""Fixed points and cycles: where the state rests, or returns, and which way it leaves.

Source  Sussillo & Barak 2013, "Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural
networks", Neural Computation 25: fixed and slow points as minima of q; Golub & Sussillo 2018, FixedPointFinder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .search import search
from .system import Repeated, System, jacobians

ON_CIRCLE = 1e-6  # how far from 1 the modulus of a multiplier may be to count as neither growing nor falling


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

    tried, rooted, slowed, lost  how many starts there were, and how many of them ended at a root of F^period(h) - h, at
                                 a slow point, and nowhere
    """

    points: tuple[Point, ...]
    slow: Tensor
    slow_speeds: Tensor
    x: Tensor
    period: int
    tried: int
    rooted: int
    slowed: int

    @property
    def lost(self) -> int:
        """How many starts ended nowhere: neither at a root nor at another minimum of the speed."""
        return self.tried - self.rooted - self.slowed

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
        if self.rooted < self.tried:
            shares = (f"{n / self.tried:.1%}" for n in (self.rooted, self.slowed, self.lost))
            lines.append(
                "starts: {} ended at a root, {} at a slow point, {} at none".format(*shares)
            )
        return "\n".join(lines)


def points(
    system: System,
    starts: Tensor,
    x: Tensor,
    *,
    period: int = 1,
    tolerance: float = 1e-10,
    distance: float = 1e-4,
    iterations: int = 100,
    follow: int = 0,
) -> Points:
    """Look for the points of a period from starts (R, N), at a constant input (1, m).

    tolerance  of |F(h) - h|, relative to 1 + |h|; distance: states that are nearer to each other are one point
    follow     the system is run from every start for so many steps: what it comes to rest at is among the points
    """
    found = search(
        system,
        starts,
        x,
        period=period,
        tolerance=tolerance,
        iterations=iterations,
        follow=follow,
        distance=distance,
    )
    repeated = Repeated(system, period) if period > 1 else system
    groups = _grouped(found.states[found.root], found.speeds[found.root], distance)
    groups += _others(repeated, found.rested, groups, x, distance)
    made = [_point(system, repeated, g, x, period, len(starts)) for g in groups]
    kept = _different([p for p in made if _smallest(p, distance) == period], distance)
    if follow:
        kept = _with_basins(kept, found.after, distance)
    low = _grouped(found.states[found.slow], found.speeds[found.slow], max(distance, 1e-2))
    return Points(
        tuple(sorted(kept, key=lambda p: (p.index, p.kind, p.state.tolist()))),
        torch.stack([g[0] for g in low]) if low else starts[:0],
        torch.tensor([g[1] for g in low], dtype=starts.dtype),
        x[0],
        period,
        len(starts),
        int(found.root.sum()),
        int(found.slow.sum()),
    )


Group = tuple[Tensor, float, int]  # a state, its speed, how many came to it


def _others(
    repeated: System, rested: Tensor, known: list[Group], x: Tensor, distance: float
) -> list[Group]:
    """Roots where runs ended to which no start came by the solver."""
    for state, _, _ in known:
        away = (rested - state).norm(dim=-1)
        rested = rested[away > distance * (1 + float(state.norm()))]
    speeds = (repeated.step(rested, x) - rested).norm(dim=-1) if len(rested) else rested[:, 0]
    return [(state, speed, 0) for state, speed, _ in _grouped(rested, speeds, distance)]


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


def _with_basins(found: list[Point], after: Tensor, distance: float) -> list[Point]:
    """With the share of the runs that have ended at each."""
    near = max(distance, 1e-3)
    ended = [torch.cdist(after, p.orbit).amin(-1) <= near * (1 + p.state.norm()) for p in found]
    return [replace(p, basin=float(e.double().mean())) for p, e in zip(found, ended, strict=True)]


def _short(state: Tensor) -> str:
    told = ", ".join(f"{v:.4g}" for v in state[:4].tolist())
    return f"({told}{', ...' * (len(state) > 4)})"
