"""The network beside the simple forecasts, on a last part that none of them has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import baselines
from .forecaster import Fitted, Progress, check_length, fit_panel, predict_panel
from .metrics import NAMES, measure
from .panel import Panel
from .settings import Settings

Floats = NDArray[np.float64]

NAIVE = "Naive"
AUTOREGRESSION = "Linear autoregression"


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One method: its forecasts of the held-out part, and how far they are off.

    metrics are means over the series (NaN-free series only); by_horizon is the mean absolute
    error per step ahead, each series divided by its own naive error unless there is only one.
    """

    name: str
    note: str
    forecasts: tuple[Floats, ...]
    metrics: dict[str, float]
    by_horizon: Floats
    is_model: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What a held-out comparison found. ranked_by is the metric that decides."""

    known: Panel
    held_out: Panel
    rows: tuple[Row, ...]
    ranked_by: str
    fitted: Fitted

    @property
    def model(self) -> Row:
        """The network's row."""
        return next(row for row in self.rows if row.is_model)

    @property
    def naive(self) -> Row:
        """The better of the naive rows."""
        return min((r for r in self.rows if r.name.lower().endswith(NAIVE.lower())), key=self.score)

    @property
    def linear(self) -> Row:
        """The autoregression's row."""
        return next(row for row in self.rows if row.name == AUTOREGRESSION)

    def score(self, row: Row) -> float:
        """The deciding number: lower is better; infinite where it is not defined."""
        value = row.metrics[self.ranked_by]
        return value if np.isfinite(value) else float("inf")


def evaluate(
    panel: Panel, horizon: int, settings: Settings, progress: Progress | None = None
) -> Evaluation:
    """Hold the last `horizon` points of every series out, and forecast them in every way.

    One series is ranked by MAE; several, whose units may differ, by MASE (by sMAPE where a MASE
    is not defined).
    """
    check_length(panel, horizon, held_out=horizon)
    known, held_out = panel.split(horizon)
    fitted = fit_panel(known, horizon, settings, progress)
    rows = [_row(known, held_out, *simple) for simple in _simple_forecasts(fitted, horizon)]
    note = f"{len(fitted.networks)} networks of {fitted.parameters:,} weights, one model for "
    note += "the series" if len(known.series) == 1 else f"all {len(known.series)} series"
    name = f"refold {settings.cell_name}"
    rows.append(_row(known, held_out, name, note, predict_panel(fitted), is_model=True))
    by = "MAE" if len(known.series) == 1 else "MASE"
    if not any(np.isfinite(row.metrics[by]) for row in rows):
        by = "sMAPE"
    return Evaluation(known, held_out, tuple(rows), by, fitted)


def _simple_forecasts(fitted: Fitted, horizon: int) -> list[tuple[str, str, list[Floats]]]:
    known = fitted.panel
    values = [s.values for s in known.series]
    found = [(NAIVE, "the last value", [baselines.naive(y, horizon) for y in values])]
    for season in known.seasons or (1,):
        note = f"the last {season} values again" if season > 1 else "no season: as Naive"
        name = "Seasonal naive" if len(known.seasons) < 2 else f"Seasonal ({season}) naive"
        found.append((name, note, [baselines.seasonal_naive(y, horizon, season) for y in values]))
    # The same that the network is given among its continuations.
    linear = [own.line for own in fitted.series]
    orders = sorted({model.order for model in linear})
    told = str(orders[0]) if len(orders) == 1 else f"{orders[0]} to {orders[-1]}"
    note = f"least squares, order {told} by BIC, recursive, "
    note += {"log": "of logarithms", "sqrt": "of square roots", "none": "of plain values"}[
        linear[0].scale.transform
    ]
    found.append((AUTOREGRESSION, note, [model.predict(horizon) for model in linear]))
    return found


def _row(
    known: Panel,
    held_out: Panel,
    name: str,
    note: str,
    forecasts: Sequence[Floats],
    is_model: bool = False,
) -> Row:
    pairs = list(zip(known.series, held_out.series, forecasts, strict=True))
    found = [measure(late.values, f, early.values, known.season) for early, late, f in pairs]
    metrics = {metric: _mean([one[metric] for one in found]) for metric in NAMES}
    away = np.stack([np.abs(late.values - f) for _, late, f in pairs])
    if len(pairs) > 1:
        mase = np.array([one["MASE"] / one["MAE"] if one["MAE"] else np.nan for one in found])
        away = away * np.where(np.isfinite(mase), mase, 0.0)[:, None]
    return Row(name, note, tuple(forecasts), metrics, away.mean(axis=0), is_model)


def _mean(values: Sequence[float]) -> float:
    defined = [v for v in values if np.isfinite(v)]
    return float(np.mean(defined)) if defined else float("nan")


def verdict(found: Evaluation) -> list[str]:
    """What the comparison says, in sentences; the first is the answer."""
    model, naive, linear = found.model, found.naive, found.linear
    mine, theirs, line = (found.score(row) for row in (model, naive, linear))
    by = found.ranked_by
    horizon = len(model.forecasts[0])
    part = f"the last {horizon} {found.known.frequency.unit}, held out"
    if mine < theirs:
        first = (
            f"The network beats the naive forecasts: on {part}, its {by} is {_number(mine)}, "
            f"{_lower(mine, theirs)} than that of the better one ({naive.name}, {_number(theirs)})."
        )
    else:
        first = (
            f"The network does NOT beat the naive forecasts: on {part}, its {by} is "
            f"{_number(mine)}; {naive.name} has {_number(theirs)} and costs nothing. Use that one."
        )
    if mine < line:
        second = f"It is {_lower(mine, line)} than the linear autoregression's {_number(line)}."
    elif mine == line:
        second = "The linear autoregression is as good."
    else:
        second = (
            f"The linear autoregression is better: {_number(line)}. "
            "The series may be close to linear, or too short for a network."
        )
    count = horizon * len(found.known.series)
    third = f"This rests on {count} held-out values from one origin: another origin may "
    return [first, second, third + "rank them otherwise."]


def _lower(mine: float, theirs: float) -> str:
    if not np.isfinite(theirs) or theirs == 0:
        return "lower"
    share = 1 - mine / theirs
    return f"{share:.0%} lower" if share >= 0.01 else "less than 1% lower"


def _number(value: float) -> str:
    return f"{value:,.0f}" if 10000 <= abs(value) < 1e9 else f"{value:,.4g}"
