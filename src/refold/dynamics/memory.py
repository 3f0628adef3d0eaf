"""How long the network remembers: what a change of the state, or a gradient, comes to after so many steps.

P(lag) = dh(t) / dh(t - lag) is a product of Jacobians along the run. Its root mean square over all directions is what a
random gradient is multiplied with on its way back; it is no larger than the product of the largest singular values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from refold.errors import DataError
from refold.train.gradients.lags import LagCurve

from .folded import Folded
from .gains import gains
from .gates import Gate, gates
from .spectrum import Spectrum, spectrum
from .system import System, jacobians

ROWS = 8  # of the data that products are worked out for, at most


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What is left after each lag, over the rows of the data, at their last step.

    Shapes  lags, median, largest, bound, guaranteed (L + 1,); rows (L + 1, R): the root mean square of |P v| over unit
            vectors v, for each row, median and largest over them; bound: the product of the largest singular values of
            the Jacobians, the largest over the rows; guaranteed: the bound for any state and input, inf where there is
            none; units (N,): how much a change of each number of the state matters `lag` steps later

    Units   half_life in steps: the first lag at which the median is below one half, inf where it is not; growth in nats
            per step, +- growth_error (one standard error, over rows and blocks of lags)

    directions  the mean Jacobian along the run, taken apart: which directions keep, and for how long
    error       the gradients of the user's own error against the lag, where a target was given
    """

    lags: Tensor
    rows: Tensor
    bound: Tensor
    guaranteed: Tensor
    half_life: float
    growth: float
    growth_error: float
    units: Tensor
    lag: int
    labels: tuple[str, ...]
    directions: Spectrum
    gates: tuple[Gate, ...]
    error: LagCurve | None

    @property
    def median(self) -> Tensor:
        return self.rows.median(1).values

    @property
    def largest(self) -> Tensor:
        return self.rows.amax(1)

    def __str__(self) -> str:
        last = int(self.lags[-1])
        marks = sorted({k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500) if k < last} | {last})
        lines = [f"{'lag':>5} {'median':>10} {'largest':>10} {'bound':>10}"]
        for k in marks:
            values = (self.median[k], self.largest[k], self.bound[k])
            lines.append(f"{k:5} " + " ".join(f"{float(v):10.3g}" for v in values))
        lines.append(
            f"half-life {self.half_life:g} steps, growth {self.growth:+.3g} +- {self.growth_error:.2g} nats a step"
        )
        best = self.units.argsort(descending=True)[:3].tolist()
        told = ", ".join(f"{self.labels[u]} ({float(self.units[u]):.2g})" for u in best)
        lines.append(f"most is kept, {self.lag} step(s) on, of {told}")
        longest = float(self.directions.time_constants[0])
        lines.append(f"longest time constant of the mean Jacobian {longest:.3g} steps")
        lines += [str(gate) for gate in self.gates]
        lines += [f"error: {line}" for line in str(self.error).splitlines()] if self.error else []
        return "\n".join(lines)


def memory(system: System, states: Tensor, x: Tensor, lags: int, error: LagCurve | None) -> Memory:
    """Along a run: states (T, R, N) before each step, and the inputs (T, R, m)."""
    if isinstance(lags, bool) or not isinstance(lags, int) or not 1 <= lags <= len(states):
        fact = f"lags is {lags!r}, and the run has {len(states)} step(s)"
        raise DataError(fact, f"give a whole number from 1 to {len(states)}", "memory(lags)")
    h, given = states[-lags:, :ROWS], x[-lags:, :ROWS]
    rows, bound, products, mean = _products(system, h, given)
    median = rows.median(1).values
    below = (median < 0.5).nonzero()
    half = int(below[0]) if len(below) else 0
    growth, spread = _growth(rows)
    lag = half or lags
    at = products[lag] if lag in products else products[lags]
    single = gains(system) if isinstance(system, Folded) else (math.inf,)
    steps = torch.arange(lags + 1)
    alone = single[0] if len(single) == 1 else math.inf
    guaranteed = torch.full((lags + 1,), math.inf) if math.isinf(alone) else alone**steps
    folded = isinstance(system, Folded)
    return Memory(
        steps,
        rows,
        bound,
        guaranteed,
        float(half or math.inf),
        growth,
        spread,
        at,
        lag,
        labels(system),
        spectrum(mean, h.mean((0, 1))),
        gates(system, h.flatten(0, 1), given.flatten(0, 1)) if folded else (),
        error,
    )


def labels(system: System) -> tuple[str, ...]:
    """The name of each number of the state: "c[3]"."""
    return tuple(f"{p.label}[{k}]" for p in system.parts for k in range(p.size))


def _products(
    system: System, h: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, dict[int, Tensor], Tensor]:
    """By lag the root mean square (L + 1, R) and the bound (L + 1,); at some what each unit matters; the mean J."""
    steps, rows, size = h.shape
    product = torch.eye(size, dtype=h.dtype).expand(rows, size, size)
    mean, limit = h.new_zeros(size, size), h.new_ones(rows)
    measured, bound = [h.new_ones(rows)], [1.0]
    units: dict[int, Tensor] = {}
    for lag in range(1, steps + 1):
        jacobian = jacobians(system, h[-lag], x[-lag])
        product = product @ jacobian
        mean += jacobian.mean(0) / steps
        limit = limit * torch.linalg.eigvalsh(jacobian.mT @ jacobian)[:, -1].clamp(min=0).sqrt()
        measured.append(product.flatten(1).norm(dim=1) / math.sqrt(size))
        bound.append(float(limit.max()))
        first = float(measured[-1].median()) < 0.5 and not units
        if first or lag == steps:
            units[lag] = product.square().sum(1).mean(0).sqrt()
    return torch.stack(measured), torch.tensor(bound, dtype=h.dtype), units, mean


def _growth(rows: Tensor) -> tuple[float, float]:
    """Nats per step over all lags, and its standard error from rows and blocks of lags.

    What has fallen to nothing (0 where all units are off, or below what float64 has) counts up to there.
    """
    logs = rows.clamp(min=1e-300).log()
    felt = (rows > 1e-300).all(1).nonzero()[:, 0]
    last = max(1, int(felt[-1]))
    steps = logs[1 : last + 1] - logs[:last]
    blocks = torch.stack([part.mean(0) for part in steps.tensor_split(min(5, last))]).flatten()
    spread = float(blocks.std()) / math.sqrt(len(blocks)) if len(blocks) > 1 else math.nan
    return float((logs[last].median() - logs[0].median()) / last), spread
