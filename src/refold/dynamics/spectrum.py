"""What one step does to small changes of a state: eigenvalues, singular values, and what they say in steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LONGEST = 1000  # powers of the Jacobian that are looked at for their largest norm
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """The Jacobian J at a state, taken apart.

    Shapes  state (N,), jacobian (N, N), eigenvalues (N,) complex, largest first, time_constants and periods (N,);
            directions (N, N): in column i the eigenvector of eigenvalue i; singular_values (N,)

    Units   time_constants -1 / ln |mu| in steps: a change along the direction falls to 1/e in so many, below 0 where
    it grows; periods 2 pi / |arg mu| in steps, inf for a positive real one. growth: the largest norm of J^t, reached
    at t = peak; inf where it has no bound. departure: Henrici's, sqrt(|J|_F^2 - sum |mu|^2) / |J|_F, 0 for a normal
    matrix.

    Source  Trefethen & Embree 2005, "Spectra and Pseudospectra" (transient growth, departure from normality).
    """

    state: Tensor
    jacobian: Tensor
    eigenvalues: Tensor
    directions: Tensor
    singular_values: Tensor
    time_constants: Tensor
    periods: Tensor
    radius: float
    growth: float
    peak: int
    departure: float

    def __str__(self) -> str:
        lines = [f"{'eigenvalue':>24} {'modulus':>9} {'time constant':>14} {'period':>9}"]
        columns = (self.eigenvalues, self.time_constants, self.periods)
        for mu, constant, period in zip(*(c.tolist() for c in columns[:3]), strict=True):
            told = f"{mu.real:+.6f} {mu.imag:+.6f}i"
            lines.append(f"{told:>24} {abs(mu):9.6f} {constant:14.4g} {period:9.4g}")
        largest = float(self.singular_values[0])
        reached = f"{self.growth:.4g} at step {self.peak}" if self.peak else "without bound"
        lines += [
            f"spectral radius {self.radius:.6g}, largest singular value {largest:.6g}",
            f"largest growth of a change: {reached}; departure from normality {self.departure:.3g}",
        ]
        return "\n".join(lines)


def spectrum(jacobian: Tensor, state: Tensor) -> Spectrum:
    """Take a Jacobian (N, N) apart."""
    values, vectors = torch.linalg.eig(jacobian)
    order = values.abs().argsort(descending=True, stable=True)
    values, vectors = values[order], vectors[:, order]
    radius = float(values[0].abs())
    growth, peak = _growth(jacobian, radius)
    whole = float(torch.linalg.matrix_norm(jacobian))
    lost = max(0.0, whole**2 - float(values.abs().square().sum()))
    departure = math.sqrt(lost) / whole if lost > ROUNDING * whole**2 else 0.0
    return Spectrum(
        state,
        jacobian,
        values,
        vectors,
        torch.linalg.svdvals(jacobian),
        time_constants(values),
        periods(values),
        radius,
        growth,
        peak,
        departure,
    )


def time_constants(multipliers: Tensor) -> Tensor:
    """-1 / ln |mu|: inf on the unit circle, 0 for mu = 0, below 0 outside."""
    return -1 / multipliers.abs().log() + 0.0


def periods(multipliers: Tensor) -> Tensor:
    """2 pi / |arg mu|: 2 for a negative real multiplier, inf for a positive one."""
    return 2 * math.pi / multipliers.angle().abs()


def _growth(jacobian: Tensor, radius: float) -> tuple[float, int]:
    """The largest norm of a power, and which. After a power of norm 1 or less none is larger than those before it."""
    if radius > 1 + ROUNDING:
        return math.inf, 0
    power, best, peak = jacobian, 0.0, 1
    for t in range(1, LONGEST + 1):
        norm = float(torch.linalg.matrix_norm(power, 2))
        if norm > best * (1 + ROUNDING):
            best, peak = norm, t
        if norm <= 1 + ROUNDING:
            break
        power = jacobian @ power
    return best, peak
