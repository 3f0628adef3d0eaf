"""A map of the state space in a line or a plane: where each state goes in a step. Data only; `report` draws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from refold.errors import DataError

from .points import Points
from .system import System


@dataclass(frozen=True, slots=True, eq=False)
class Portrait:
    """Shapes  axes (D, N), orthonormal, D = 1 or 2; center (N,); grid (G, D): coordinates from the center along the
    axes; change (G, D): F(h) - h along them; speed (G,): |F(h) - h| in all N; runs (T, R, D): the states of the runs;
    points: the fixed points, and at (P, D) where they lie; explained: the share of the runs' variance in the plane
    """

    axes: Tensor
    center: Tensor
    grid: Tensor
    change: Tensor
    speed: Tensor
    runs: Tensor
    points: Points
    at: Tensor
    explained: float

    def __str__(self) -> str:
        plane = (
            "the state's own axes" if self.axes.shape[0] == self.axes.shape[1] else "principal axes"
        )
        return (
            f"{len(self.grid)} states on {plane} ({self.explained:.1%} of the runs' variance), "
            f"speeds from {float(self.speed.min()):.3g} to {float(self.speed.max()):.3g}, "
            f"{len(self.points.points)} fixed point(s)"
        )


def portrait(
    system: System, runs: Tensor, points: Points, x: Tensor, size: int, margin: float
) -> Portrait:
    """On a grid of `size` states a side around the runs (T, R, N), at a constant input (1, m)."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 2:
        raise DataError(f"size is {size!r}", "give a whole number, at least 2", "phase_portrait()")
    along = torch.cat([runs.flatten(0, 1), points.states])
    center = along.mean(0)
    axes, explained = _axes(along - center)
    if len(axes) == len(center):
        center = torch.zeros_like(center)
    flat = (along - center) @ axes.mT
    low, high = flat.amin(0), flat.amax(0)
    wide = torch.where(high > low, high - low, 1.0) * margin
    sides = [
        torch.linspace(float(a), float(b), size, dtype=runs.dtype)
        for a, b in zip(low - wide, high + wide, strict=True)
    ]
    grid = torch.cartesian_prod(*sides).reshape(-1, len(axes))
    h = center + grid @ axes
    change = system.step(h, x) - h
    return Portrait(
        axes,
        center,
        grid,
        change @ axes.mT,
        change.norm(dim=-1),
        (runs - center) @ axes.mT,
        points,
        (points.states - center) @ axes.mT,
        explained,
    )


def _axes(centred: Tensor) -> tuple[Tensor, float]:
    """The state's own axes where it has one or two numbers, else the two principal ones."""
    size = centred.shape[1]
    if size <= 2:
        return torch.eye(size, dtype=centred.dtype), 1.0
    _, singular, right = torch.linalg.svd(centred, full_matrices=False)
    shares = singular.square() / singular.square().sum().clamp(min=1e-300)
    return right[:2], float(shares[:2].sum())
