"""All that a diagnosis reports, measured at once: what `refold diagnose` prints, draws and writes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .lyapunov import Lyapunov
from .memory import Memory
from .portrait import Portrait
from .record import Dynamics
from .unfolded import Unfolded
from .verdict import Verdict

GRID = 15
FREE = 1_000  # steps of a run without data: enough for exponents to a few percent


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """Shapes  held (m,): the constant input of the portrait and its fixed points, the mean of the data"""

    dynamics: Dynamics
    verdict: Verdict
    memory: Memory
    lyapunov: Lyapunov
    portrait: Portrait
    unfolded: Unfolded
    held: Tensor

    def __str__(self) -> str:
        return (
            f"{self.dynamics}\n\nMemory\n{self.memory}"
            f"\n\nLyapunov exponents, in nats per step\n{self.lyapunov}"
            f"\n\nFixed points\n{self.portrait.points}"
        )


def findings(dynamics: Dynamics, exponents: int = 4) -> Findings:
    """Measure all of it; `exponents`: how many Lyapunov exponents, at most as many as the state has numbers.

    Errors  DataError as the questions themselves raise it, for states that leave the finite numbers, say
    """
    system, x = dynamics.system, dynamics.x
    free = None if x is not None else FREE
    held = x.mean((0, 1)) if x is not None else torch.zeros(system.inputs, dtype=torch.float64)
    given = held if system.inputs else None
    return Findings(
        dynamics,
        dynamics.verdict(),
        dynamics.memory(),
        dynamics.lyapunov(min(exponents, system.size), steps=free),
        dynamics.phase_portrait(GRID, given),
        dynamics.unfolded(),
        held,
    )


def as_dict(found: Findings) -> dict[str, Any]:
    """Its numbers as JSON has them: a number that is not finite is None."""
    verdict, memory, lyapunov = found.verdict, found.memory, found.lyapunov
    names = ("kind", "certainty", "holds", "gain", "radius", "change", "lags", "sentence")
    return {
        "system": {
            "name": found.dynamics.system.name,
            "states": {part.label: part.size for part in found.dynamics.system.parts},
            "data": None if found.dynamics.x is None else list(found.dynamics.x.shape),
        },
        "verdict": {name: _plain(getattr(verdict, name)) for name in names},
        "memory": {
            "lags": memory.lags.tolist(),
            "half_life": _plain(memory.half_life),
            "growth": _plain(memory.growth),
            "growth_error": _plain(memory.growth_error),
            **{n: _plain(getattr(memory, n)) for n in ("median", "largest", "bound", "guaranteed")},
        },
        "eigenvalues_of_the_mean_jacobian": _plain(
            torch.view_as_real(memory.directions.eigenvalues)
        ),
        "gates": [
            {
                "name": g.name,
                "kind": g.kind,
                "low": g.low,
                "high": g.high,
                "shares": _plain(g.shares),
            }
            for g in memory.gates
        ],
        "lyapunov": {
            **{n: _plain(getattr(lyapunov, n)) for n in ("exponents", "errors", "dimension")},
            "entropy": _plain(lyapunov.entropy),
        },
        "fixed_points": [
            {
                "kind": p.kind,
                "index": p.index,
                "residual": p.residual,
                "state": _plain(p.state),
                "multipliers": _plain(torch.view_as_real(p.multipliers)),
            }
            for p in found.portrait.points.points
        ],
        "starts": {
            n: getattr(found.portrait.points, n) for n in ("tried", "rooted", "slowed", "lost")
        },
        "input_held_at": _plain(found.held),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
