"""Where states rest, looked for from many starts: by Newton's method, by running the system itself, and down the speed.

Each start is tried by Newton's method first. Where that fails, it is tried from the place where the system's own run
from the start was first slow, near a saddle as a rule, and from there down the speed, to a slow point. All runs are
followed to their ends, so that a state of rest that a start runs into is found whatever Newton's method does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .solve import Box, Ends, descend, newton
from .system import Repeated, System

BLOCK = 50  # steps of the runs at a time
NUMBERS = 2**22  # that are held of them at a time


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """Where each start ended.

    Shapes  states (R, N); speeds (R,): |F(h) - h|; root, slow (R,): whether it is a root, or another minimum of the
            speed; after (R, N): where the runs themselves ended; rested: roots that lie there, (K, N)
    """

    states: Tensor
    speeds: Tensor
    root: Tensor
    slow: Tensor
    after: Tensor
    rested: Tensor


def search(
    system: System,
    starts: Tensor,
    x: Tensor,
    *,
    period: int,
    tolerance: float,
    iterations: int,
    follow: int,
    distance: float,
) -> Search:
    """From starts (R, N), at a constant input (1, m), for states that return after `period` steps."""
    repeated = Repeated(system, period) if period > 1 else system
    passed, after = runs(system, starts, x, follow, period)
    ends = newton(repeated, starts, x, tolerance, iterations)
    states, speeds, root = ends.states.clone(), ends.speeds.clone(), ends.arrived.clone()
    slow = torch.zeros_like(root)

    def take(rows: Tensor, found: Ends) -> Tensor:
        """Write down what has arrived at a root, and give back the rows that have not."""
        new = rows[found.arrived]
        states[new], speeds[new], root[new] = (
            found.states[found.arrived],
            found.speeds[found.arrived],
            True,
        )
        return rows[~found.arrived]

    rows = (~root).nonzero()[:, 0]
    rows = take(rows, newton(repeated, passed[rows], x, tolerance, iterations))
    low = descend(repeated, passed[rows], x, _box(starts, passed))
    states[rows], speeds[rows], slow[rows] = low.states, low.speeds, low.arrived
    take(rows, newton(repeated, low.states, x, tolerance, iterations))
    rows = (~root & ~slow).nonzero()[:, 0]
    take(rows, newton(repeated, after[rows], x, tolerance, iterations))
    rested = newton(repeated, distinct(after, distance), x, tolerance, iterations)
    return Search(states, speeds, root, slow & ~root, after, rested.states[rested.arrived])


def runs(
    system: System, starts: Tensor, x: Tensor, steps: int, period: int
) -> tuple[Tensor, Tensor]:
    """(where the run from each start was first slower than before and after, where it was after so many steps).

    Without such a place it is the end of a run that slows down, and the start of one that does not.
    """
    rows = max(1, NUMBERS // ((BLOCK + period + 2) * max(1, system.size)))
    found = [_runs(system, some, x, steps, period) for some in starts.split(rows)]
    return torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found])


def _runs(
    system: System, starts: Tensor, x: Tensor, steps: int, period: int
) -> tuple[Tensor, Tensor]:
    passed, known = starts.clone(), torch.zeros(len(starts), dtype=torch.bool)
    states = starts.unsqueeze(0)
    fastest = torch.zeros_like(starts[:, 0])
    for begin in range(0, steps, BLOCK):
        number = min(BLOCK, steps - begin)
        gone = system.run(states[-1], x.expand(number, len(starts), -1))
        states = torch.cat([states[-period - 2 :], gone])
        if len(states) <= period:
            continue
        speeds = (states[period:] - states[:-period]).norm(dim=-1)
        slow = (speeds[1:-1] < speeds[:-2]) & (speeds[1:-1] <= speeds[2:])
        rows = (slow.any(0) & ~known).nonzero()[:, 0]
        if len(rows):
            passed[rows] = states[1 + slow.int().argmax(0)[rows], rows]
            known[rows] = True
        fastest = torch.maximum(fastest, speeds.amax(0))
        if bool(((speeds[-1] == 0) | ~speeds[-1].isfinite()).all()):
            break
        slows = speeds[-1] < fastest
        passed = torch.where((~known & slows).unsqueeze(-1), states[-1], passed)
    return passed, states[-1]


def distinct(states: Tensor, distance: float) -> Tensor:
    """Each state once, those that are nearer to each other than the distance, relative to 1 + |h|, as one."""
    left, kept = states[states.isfinite().all(-1)], []
    while len(left):
        kept.append(left[0])
        near = (left - left[0]).norm(dim=-1) <= distance * (1 + float(left[0].norm()))
        left = left[~near]
    return torch.stack(kept) if kept else states[:0]


def _box(starts: Tensor, passed: Tensor) -> Box:
    """All of them, widened by the box's own size on all sides."""
    states = torch.cat([starts, passed])
    states = states[states.isfinite().all(-1)]
    low, high = states.amin(0), states.amax(0)
    return low - (high - low), high + (high - low)
