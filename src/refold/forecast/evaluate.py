"""The network beside the simple forecasts, on a last part that none of them has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from refold.data.scale import Transform, choose_transform

from . import baselines
from .distribution import Distribution
from .forecaster import Fitted, Progress, check_length, fit_panel, mean_ahead
from .intervals import Band, Calibration, calibrate
from .metrics import (
    NAMES,
    OF_SERIES,
    coverage,
    crps_of_quantiles,
    mase,
    mean_defined,
    mean_observed,
    measure,
    msis,
    owa,
    smape,
)
from .naive2 import naive2
from .panel import Panel
from .predicted import predicted
from .settings import Settings

Floats = NDArray[np.float64]

NAIVE = "Naive"
AUTOREGRESSION = "Linear autoregression"
# Quantiles that stand for a distribution in its CRPS.
_SHARES = 20


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
class Ranking:
    """Several methods on the same values.

    ranked_by is the metric that decides; part says of what, and basis of how much, in words; unit
    is what a step is called.
    """

    rows: tuple[Row, ...]
    ranked_by: str
    part: str
    basis: str
    unit: str

    @property
    def model(self) -> Row:
        """The network's row."""
        return next(row for row in self.rows if row.is_model)

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics of the rows, in the order of a table; those of certainty are the network's."""
        return (*NAMES, *(name for name in self.model.metrics if name not in NAMES))

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


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation(Ranking):
    """What a held-out comparison found.

    naive2: the mean sMAPE and MASE of Naive2, which OWA is relative to. bands: the network's
    intervals, where any were asked for; its row then has their coverage and score. distribution: of
    the network's forecast, where it has one.
    """

    known: Panel
    held_out: Panel
    fitted: Fitted
    naive2: tuple[float, float]
    bands: tuple[Band, ...] = ()
    distribution: Distribution | None = None


def evaluate(
    panel: Panel,
    horizon: int,
    settings: Settings,
    progress: Progress | None = None,
    calibration: Calibration | None = None,
    levels: Sequence[float] = (),
) -> Evaluation:
    """Hold the last `horizon` points of every series out, and forecast them in every way.

    One series is ranked by MAE; several, whose units may differ, by MASE (by sMAPE where a MASE
    is not defined). For intervals of `levels`, `calibration` is made on the part before.
    """
    check_length(panel, horizon, held_out=horizon)
    known, held_out = panel.split(horizon)
    return compare(fit_panel(known, horizon, settings, progress), held_out, calibration, levels)


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """Forecasts of every series in every way: by the simple methods, and by the networks.

    simple: by name. orders: the lowest and the highest order of the autoregressions. ahead: what
    `mean_ahead` gives.
    """

    simple: dict[str, list[Floats]]
    orders: tuple[int, int]
    ahead: Tensor


def made_at_end(fitted: Fitted, horizon: int) -> Made:
    """What follows the series that the networks have before them."""
    simple, orders = _simple_forecasts(fitted, horizon)
    return Made(simple, orders, mean_ahead(fitted))


def compare(
    fitted: Fitted,
    held_out: Panel,
    calibration: Calibration | None = None,
    levels: Sequence[float] = (),
    made: Made | None = None,
) -> Evaluation:
    """The network beside the simple forecasts, on the points that follow what it has before it.

    made: the forecasts, where they are there already.
    """
    known, horizon = fitted.panel, len(held_out.series[0])
    made = made or made_at_end(fitted, horizon)
    base, notes = _naive2(known, held_out), _notes(known, fitted.data.transform, made.orders)
    rows = [_row(known, held_out, base, name, notes[name], f) for name, f in made.simple.items()]
    count = len(fitted.networks)
    note = f"{count} network{'s' * (count > 1)} of {fitted.parameters:,} weights, one model for "
    note += "the series" if len(known.series) == 1 else f"all {len(known.series)} series"
    name = f"refold {fitted.settings.cell_name}"
    ahead = predicted(fitted, calibration, levels, made.ahead)
    bands = ahead.bands
    mine = _row(known, held_out, base, name, note, ahead.values, is_model=True)
    of_bands = [_of_band(known, held_out, band) for band in bands]
    if ahead.distribution is not None:
        of_bands.append({"CRPS": _crps(held_out, ahead.distribution)})
    rows.append(
        replace(mine, metrics={k: v for d in (mine.metrics, *of_bands) for k, v in d.items()})
    )
    by = ranked_by(rows, len(known.series))
    unit = known.frequency.unit
    part = f"the last {horizon} {unit}, held out"
    basis = f"{horizon * len(known.series):,} held-out values from one origin: another origin may "
    basis += "rank them otherwise"
    return Evaluation(
        tuple(rows), by, part, basis, unit, known, held_out, fitted, base, bands, ahead.distribution
    )


def recalibrated(
    found: Evaluation, panel: Panel, calibration: Calibration, progress: Progress | None = None
) -> Calibration:
    """For intervals after the end of the panel: the held-out part gives errors too.

    Where it has values that the transform has no place for, errors are measured anew.
    """
    of_points = found.fitted.settings.head == "point"
    if of_points and calibration.transform == choose_transform([s.values for s in panel.series]):
        return calibration.extended(found.known, found.held_out, found.model.forecasts)
    horizon, settings = len(found.model.forecasts[0]), found.fitted.settings
    return calibrate(panel, horizon, settings, sides=calibration.sides, progress=progress)


def ranked_by(rows: Sequence[Row], series: int) -> str:
    """The metric that decides: see `evaluate`."""
    by = "MAE" if series == 1 else "MASE"
    return by if any(np.isfinite(row.metrics[by]) for row in rows) else "sMAPE"


def interval_names(levels: Sequence[float]) -> tuple[str, ...]:
    """What the metrics of intervals are called in a row, in the order of a table."""
    return tuple(f"{level:g} % {what}" for level in levels for what in ("inside", "MSIS"))


def _crps(held_out: Panel, found: Distribution) -> float:
    shares = (np.arange(_SHARES) + 0.5) / _SHARES
    quantiles = np.stack([found.quantile(share) for share in shares])
    late = [s.values for s in held_out.series]
    own = [crps_of_quantiles(y, quantiles[:, i], shares.tolist()) for i, y in enumerate(late)]
    return mean_defined(own)


def _of_band(known: Panel, held_out: Panel, band: Band) -> dict[str, float]:
    parts = list(zip(known.series, held_out.series, band.low, band.high, strict=True))
    inside = [coverage(late.observed, low, high) for _, late, low, high in parts]
    scores = [
        msis(late.observed, low, high, band.level, early.observed, known.season)
        for early, late, low, high in parts
    ]
    return dict(
        zip(interval_names([band.level]), (mean_defined(inside), mean_defined(scores)), strict=True)
    )


def _naive2(known: Panel, held_out: Panel) -> tuple[float, float]:
    relative, scaled = [], []
    for early, late in zip(known.series, held_out.series, strict=True):
        f = naive2(early.values, len(late), known.season)
        relative.append(smape(late.observed, f))
        scaled.append(mase(late.observed, f, early.observed, known.season))
    return mean_defined(relative), mean_defined(scaled)


def _seasonal_names(seasons: tuple[int, ...]) -> dict[str, int]:
    """What the seasonal naive forecasts are called, and their seasons."""
    if len(seasons) < 2:
        return {"Seasonal naive": seasons[0] if seasons else 1}
    return {f"Seasonal ({season}) naive": season for season in seasons}


def _simple_forecasts(
    fitted: Fitted, horizon: int
) -> tuple[dict[str, list[Floats]], tuple[int, int]]:
    known = fitted.panel
    values = [s.values for s in known.series]
    found = {NAIVE: [baselines.naive(y, horizon) for y in values]}
    for name, season in _seasonal_names(known.seasons).items():
        found[name] = [baselines.seasonal_naive(y, horizon, season) for y in values]
    # The same that the network is given among its continuations.
    missing = [s.missing for s in known.series]
    linear = baselines.autoregressions(values, known.seasons, fitted.data.scales, missing)
    found[AUTOREGRESSION] = [m.predict(y, horizon) for m, y in zip(linear, values, strict=True)]
    orders = [model.order for model in linear]
    return found, (min(orders), max(orders))


def _notes(known: Panel, transform: Transform, orders: tuple[int, int]) -> dict[str, str]:
    """How each of the simple methods comes to its forecasts."""
    notes = {NAIVE: "the last value"}
    for name, season in _seasonal_names(known.seasons).items():
        notes[name] = f"the last {season} values again" if season > 1 else "no season: as Naive"
    low, high = orders
    told = str(low) if low == high else f"{low} to {high}"
    kind = {"log": "logarithms", "sqrt": "square roots", "none": "plain values"}[transform]
    notes[AUTOREGRESSION] = f"least squares, order {told} by BIC, recursive, of {kind}"
    return notes


def _row(
    known: Panel,
    held_out: Panel,
    base: tuple[float, float],
    name: str,
    note: str,
    forecasts: Sequence[Floats],
    is_model: bool = False,
) -> Row:
    pairs = list(zip(known.series, held_out.series, forecasts, strict=True))
    found = [measure(late.observed, f, early.observed, known.season) for early, late, f in pairs]
    metrics = {metric: mean_defined([one[metric] for one in found]) for metric in OF_SERIES}
    metrics["OWA"] = owa(metrics["sMAPE"], metrics["MASE"], base)
    away = np.stack([np.abs(late.observed - f) for _, late, f in pairs])
    if len(pairs) > 1:
        mase = np.array([one["MASE"] / one["MAE"] if one["MAE"] else np.nan for one in found])
        away = away * np.where(np.isfinite(mase), mase, 0.0)[:, None]
    return Row(name, note, tuple(forecasts), metrics, mean_observed(away), is_model)
