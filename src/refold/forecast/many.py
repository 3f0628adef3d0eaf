"""Backtests and predictions of many series on many machines: networks are shared, series are parted.

Training stays where it is: there is one model of all series. What grows with their number, forecasts
and the simple methods beside them, goes to the workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .evaluate import Made, made_at_end
from .forecaster import Fitted, Progress, on_panel, predict_panel
from .origins import rolling
from .panel import Panel
from .spread import Arrays, Spread

Floats = NDArray[np.float64]

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
) -> list[Floats]:
    """What `predict_panel(on_panel(fitted, panel))` gives, made on Ray's workers."""
    parts = spread.run(predicted, _jobs(fitted, panel, spread), progress)
    return [own for part in parts for own in part[_MODEL]]


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
    """Forecasts of a chunk: "model" (series, H)."""
    return {_MODEL: np.stack(predict_panel(on_panel(job.fitted, job.panel)))}


def backtested(job: Any) -> Arrays:
    """Forecasts of a chunk: each method (windows, series, H); "orders" (windows, 2)."""
    horizon = job.fitted.horizon
    made = [
        made_at_end(on_panel(job.fitted, known), horizon)
        for known, _ in rolling(job.panel, horizon, job.windows, job.step)
    ]
    simple = {name: np.array([each.simple[name] for each in made]) for name in made[0].simple}
    orders = np.array([each.orders for each in made])
    return {**simple, _MODEL: np.array([each.model for each in made]), _ORDERS: orders}


# Here again


def _joined(parts: Sequence[Arrays], k: int) -> Made:
    """The forecasts from origin k, of all chunks."""
    whole = {name: [own for part in parts for own in part[name][k]] for name in parts[0]}
    orders = np.array([part[_ORDERS][k] for part in parts])
    del whole[_ORDERS]
    model = whole.pop(_MODEL)
    return Made(whole, (int(orders[:, 0].min()), int(orders[:, 1].max())), model)
