"""Lyapunov exponents: how fast neighbouring states part or meet, along each direction of the state.

Vectors Q, carried by the Jacobians and made orthonormal again after each step, J(t) Q(t-1) = Q(t) R(t), give the
exponents as the means of log |R_ii|. Over all N directions they sum to the mean of log |det J|, which is worked out by
itself and is the check on the whole.

Source  Benettin, Galgani, Giorgilli & Strelcyn 1980; Kaplan & Yorke 1979; Pesin 1977.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from refold.errors import DataError

from .system import CHUNK, System, jacobians

BLOCKS = 10  # of time in each row, whose means tell the standard error
TINY = 1e-300  # what a direction that is lost at once counts as; its logarithm is -690


@dataclass(frozen=True, slots=True, eq=False)
class Lyapunov:
    """The largest k exponents, first the greatest.

    Shapes  exponents, errors, rates (k,)

    Units   exponents in nats per step, rates in nats per unit of time (exponents / dt); errors: one standard error of
    an exponent, from the means of blocks of time; dimension: Kaplan-Yorke, NaN where the k exponents do not sum to
    less than 0; entropy: the sum of the positive exponents, in nats per step (Pesin: an upper bound of the entropy
    rate, and equal to it for a smooth invariant measure); residual: |sum of exponents - mean log |det J||, NaN for
    less than all exponents.
    """

    exponents: Tensor
    errors: Tensor
    rates: Tensor
    dimension: float
    entropy: float
    residual: float
    steps: int
    rows: int
    warm_up: int
    open_loop: bool

    def __str__(self) -> str:
        lines = [f"{'exponent':>12} {'error':>9} {'per time':>12}"]
        columns = (self.exponents, self.errors, self.rates)
        for exponent, error, rate in zip(*(c.tolist() for c in columns), strict=True):
            lines.append(f"{exponent:+12.5f} {error:9.2g} {rate:+12.5f}")
        known = not math.isnan(self.dimension)
        told = f"{self.dimension:.3f}" if known else "above the exponents asked for"
        checked = not math.isnan(self.residual)
        lines += [
            f"{self.rows} row(s) of {self.steps} steps after {self.warm_up}, "
            + ("driven by the data" if self.open_loop else "running free"),
            f"Kaplan-Yorke dimension {told}; entropy rate {self.entropy:.4g} nats a step",
            *([f"sum of exponents - mean log |det J|: {self.residual:.1e}"] * checked),
        ]
        return "\n".join(lines)


def lyapunov(
    system: System, start: Tensor, x: Tensor, k: int, warm_up: int, dt: float, open_loop: bool
) -> Lyapunov:
    """The spectrum along the run of a system from (R, N) states over inputs (T, R, m)."""
    _check(system, x, k, warm_up)
    gone = system.run(start, x)
    before = torch.cat([start.unsqueeze(0), gone[:-1]])
    if not bool(before.isfinite().all()):
        step = int((~before.isfinite()).flatten(1).any(1).nonzero()[0])
        fact = f"the states are no longer finite after step {step}"
        raise DataError(fact, "start elsewhere, or take fewer steps", "lyapunov()")
    logs, determinants = _carried(system, before, x, k, warm_up)
    exponents = logs.mean((0, 1))
    order = exponents.argsort(descending=True)
    exponents, errors = exponents[order], _errors(logs)[order]
    whole = k == system.size
    residual = abs(float(exponents.sum() - determinants.mean())) if whole else math.nan
    return Lyapunov(
        exponents,
        errors,
        exponents / dt,
        _kaplan_yorke(exponents.tolist(), whole),
        float(exponents.clamp(min=0).sum()),
        residual,
        len(x) - warm_up,
        len(start),
        warm_up,
        open_loop,
    )


def _carried(
    system: System, before: Tensor, x: Tensor, k: int, warm_up: int
) -> tuple[Tensor, Tensor]:
    """log |R_ii| (T, R, k) of each step after the warm-up, and log |det J| (T, R) where k is all."""
    rows, size = before.shape[1:]
    q = torch.eye(size, k, dtype=before.dtype).expand(rows, size, k)
    logs, determinants = [], []
    piece = max(1, CHUNK // (rows * size * size))
    for begin in range(0, len(before), piece):
        h, given = before[begin : begin + piece], x[begin : begin + piece]
        found = jacobians(system, h.flatten(0, 1), given.flatten(0, 1)).unflatten(0, h.shape[:2])
        if k == size:
            determinants.append(torch.linalg.slogdet(found).logabsdet)
        for jacobian in found:
            q, r = torch.linalg.qr(jacobian @ q)
            logs.append(r.diagonal(dim1=-2, dim2=-1))
    kept = torch.stack(logs[warm_up:]).abs().clamp(min=TINY).log()
    whole = torch.cat(determinants)[warm_up:] if determinants else kept.new_empty(0)
    return kept, whole.clamp(min=size * math.log(TINY))


def _errors(logs: Tensor) -> Tensor:
    """One standard error of each mean, from the means of blocks."""
    blocks = torch.stack([part.mean(0) for part in logs.tensor_split(min(BLOCKS, len(logs)))])
    means = blocks.flatten(0, 1)
    return means.std(0) / math.sqrt(len(means)) if len(means) > 1 else means[0] * math.nan


def _kaplan_yorke(exponents: list[float], whole: bool) -> float:
    total = 0.0
    for count, exponent in enumerate(exponents):
        if total + exponent < 0:
            return count + total / -exponent if count else 0.0
        total += exponent
    return float(len(exponents)) if whole else math.nan


def _check(system: System, x: Tensor, k: int, warm_up: int) -> None:
    where = "lyapunov()"
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= system.size:
        fact = f"k is {k!r}, and the state has {system.size} number(s)"
        raise DataError(fact, f"give k from 1 to {system.size}", where)
    if not 0 <= warm_up < len(x):
        fact = f"the warm-up is {warm_up} steps of {len(x)}"
        raise DataError(fact, "leave at least one step after it", where)
