"""Backtests and predictions of many series on many machines: networks are shared, series are parted.

Training stays where it is: there is one model of all series. What grows with their number, forecasts
and the simple methods beside them, goes to the workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .evaluate import Made, made_at_end
from .forecaster import Fitted, Progress, mean_ahead, on_panel
from .origins import rolling
from .panel import Panel
from .spread import Arrays, Spread

_MODEL, _ORDERS = "model", "orders"


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Some series, and networks that know them.

    windows, step: of a backtest; 0 for a prediction from their ends.
    """

    fitted: Fitted
    panel: Panel
    windows: int = 0
    step: int = 0


def predict_many(
    fitted: Fitted, panel: Panel, spread: Spread, progress: Progress | None = None
) -> Tensor:
    """What `mean_ahead(on_panel(fitted, panel))` gives, made on Ray's workers."""
    parts = spread.run(predicted, _jobs(fitted, panel, spread), progress)
    return torch.from_numpy(np.concatenate([part[_MODEL] for part in parts]))


def backtest_many(
    fitted: Fitted,
    panel: Panel,
    windows: int,
    step: int,
    spread: Spread,
    progress: Progress | None = None,
) -> list[Made]:
    """Forecasts from each origin, the earliest first, made on Ray's workers."""
    jobs = [replace(job, windows=windows, step=step) for job in _jobs(fitted, panel, spread)]
    parts = spread.run(backtested, jobs, progress)
    return [_joined(parts, k) for k in range(windows)]


def _jobs(fitted: Fitted, panel: Panel, spread: Spread) -> list[Job]:
    known = {s.name: s for s in fitted.panel.series}
    jobs = []
    for start, end in spread.chunks(panel):
        series = panel.series[start:end]
        # A chunk of new series alone needs a known one: networks stand before some series always.
        own = tuple(known[s.name] for s in series if s.name in known) or fitted.panel.series[:1]
        narrow = on_panel(fitted, replace(fitted.panel, series=own))
        jobs.append(Job(replace(narrow, runs=()), replace(panel, series=series)))
    return jobs


# On a worker


def predicted(job: Any) -> Arrays:
    """Forecasts of a chunk as networks see them: "model" (series, H), with a head (series, H, K)."""
    return {_MODEL: mean_ahead(on_panel(job.fitted, job.panel)).numpy()}


def backtested(job: Any) -> Arrays:
    """Forecasts of a chunk: each method (windows, series, H); "orders" (windows, 2)."""
    horizon = job.fitted.horizon
    made = [
        made_at_end(on_panel(job.fitted, known), horizon)
        for known, _ in rolling(job.panel, horizon, job.windows, job.step)
    ]
    simple = {name: np.array([each.simple[name] for each in made]) for name in made[0].simple}
    orders = np.array([each.orders for each in made])
    return {**simple, _MODEL: np.stack([each.ahead.numpy() for each in made]), _ORDERS: orders}


# Here again


def _joined(parts: Sequence[Arrays], k: int) -> Made:
    """The forecasts from origin k, of all chunks."""
    simple = {
        name: [own for part in parts for own in part[name][k]]
        for name in parts[0]
        if name not in (_MODEL, _ORDERS)
    }
    orders = np.array([part[_ORDERS][k] for part in parts])
    ahead = torch.from_numpy(np.concatenate([part[_MODEL][k] for part in parts]))
    return Made(simple, (int(orders[:, 0].min()), int(orders[:, 1].max())), ahead)
