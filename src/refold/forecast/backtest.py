"""Rolling origins: how good forecasts would have been, had they been made again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from refold.data.scale import choose_transform
from refold.errors import DataError

from .evaluate import Evaluation, Made, Ranking, Row, compare, ranked_by
from .forecaster import MARGIN, Fitted, Progress, fit_panel, on_panel
from .intervals import Calibration, calibrate
from .metrics import mean_defined, mean_observed, owa
from .origins import rolling
from .panel import Panel
from .predicted import needs_calibration
from .settings import Settings

# Networks, the whole panel, windows and step -> the forecasts from each origin, the earliest first.
Many = Callable[[Fitted, Panel, int, int], Sequence[Made]]
# Names of series that are told; of more, only how many they are.
_TOLD = 5


@dataclass(frozen=True, slots=True, eq=False)
class Backtest(Ranking):
    """What forecasts from several origins have come to.

    windows are in order of time, each an origin with its comparison. A row holds the means over
    them, and its forecasts window by window. refit: were networks trained anew for each? panel: the
    series that are long enough for all windows; left_out: the names of the others.
    """

    panel: Panel
    windows: tuple[Evaluation, ...]
    step: int
    refit: bool
    levels: tuple[float, ...]
    calibration: Calibration | None
    seconds: float
    left_out: tuple[str, ...] = ()

    @property
    def left_out_note(self) -> str:
        """Which series take no part, in words; "" where all do."""
        if not self.left_out:
            return ""
        names = ", ".join(self.left_out[:_TOLD])
        more = f" and {len(self.left_out) - _TOLD:,} more" if len(self.left_out) > _TOLD else ""
        return f"left out, as too short for {len(self.windows)} windows: {names}{more}"

    @property
    def how(self) -> str:
        """How the networks came to their forecasts, in words."""
        if self.refit:
            return "networks were trained anew for each origin, on what was known there"
        return (
            "networks were trained once, on what was known at the first origin, and used again from "
            "the others with the values that had come"
        )


def backtest_panel(
    panel: Panel,
    horizon: int,
    settings: Settings,
    *,
    windows: int = 5,
    step: int | None = None,
    refit: bool = False,
    levels: Sequence[float] = (),
    progress: Progress | None = None,
    many: Many | None = None,
) -> Backtest:
    """Forecast from `windows` origins, `step` apart (a horizon, if None), the last one a horizon
    before the end of each series.

    Without `refit`, networks are trained once, on what was known at the first origin, so that none
    of the values they are measured on has been seen; with it, once more for each origin. The simple
    forecasts are made anew at each origin either way. Intervals of `levels` are calibrated on what
    was known at the first origin, at the cost of one more training, or the head's own. many:
    forecasts are made by other machines (see `spread`); without `refit` only.

    A series that is too short for all windows is left out, of the training too.

    Errors  DataError where all series are too short.

    Example
        >>> found = backtest_panel(panel, 12, Settings(), windows=3)
        >>> found.model.metrics["MASE"]
    """
    began = time.perf_counter()
    step = horizon if step is None else step
    check_windows(panel, horizon, windows, step)
    need = _needed(horizon, windows, step)
    left_out = tuple(s.name for s in panel.series if len(s) < need)
    panel = replace(panel, series=tuple(s for s in panel.series if len(s) >= need))
    measured = bool(levels) and needs_calibration(settings)
    told = _Stages(progress, (windows if refit else 1) + measured)
    # One for all origins: networks that had learned logarithms could not go on from a 0.
    transform = choose_transform([s.values for s in panel.series])
    fitted, calibration, found, made = None, None, [], None
    for known, came in rolling(panel, horizon, windows, step):
        if measured and calibration is None:
            calibration = calibrate(
                known,
                horizon,
                settings,
                levels=levels,
                transform=transform,
                progress=told.next(),
            )
        if fitted is None or refit:
            fitted = fit_panel(known, horizon, settings, told.next(), transform)
            made = iter(many(fitted, panel, windows, step)) if many and not refit else None
        if made is None:
            found.append(compare(on_panel(fitted, known), came, calibration, levels))
        else:
            here = replace(fitted, panel=known)
            found.append(compare(here, came, calibration, levels, next(made)))
    names = found[0].names
    rows = tuple(_pooled(found, i, names) for i in range(len(found[0].rows)))
    return Backtest(
        rows=rows,
        ranked_by=ranked_by(rows, len(panel.series)),
        part=f"{horizon} {panel.frequency.unit} from each of {windows} origins",
        basis=f"{windows * horizon * len(panel.series):,} values from {_origins(windows)}",
        unit=panel.frequency.unit,
        panel=panel,
        windows=tuple(found),
        step=step,
        refit=refit,
        levels=tuple(levels),
        calibration=calibration,
        seconds=time.perf_counter() - began,
        left_out=left_out,
    )


def _origins(windows: int) -> str:
    if windows == 1:
        return "one origin: another origin may rank them otherwise"
    return f"{windows} origins"


class _Stages:
    """Several trainings as one: each tells its own stages, the caller hears of all."""

    def __init__(self, progress: Progress | None, count: int) -> None:
        self.progress, self.count, self.begun = progress, count, 0

    def next(self) -> Progress | None:
        """What the next training is to tell its stages."""
        first, told = self.begun, self.progress
        self.begun += 1
        if told is None:
            return None
        return lambda done, total: told(first * total + done, self.count * total)


def check_windows(panel: Panel, horizon: int, windows: object, step: object) -> None:
    """Is there room for so many origins, and something to learn from before the first?

    Errors  DataError with the longest series, where that is too short.
    """
    if horizon < 1:
        raise DataError(f"the horizon is {horizon}", "give at least 1", "horizon")
    for name, value in (("windows", windows), ("step", step)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            fact = f"{name} is {value!r}"
            raise DataError(fact, "give a whole number of at least 1", "backtest")
    assert isinstance(windows, int | np.integer) and isinstance(step, int | np.integer)
    longest, need = max(panel.series, key=len), _needed(horizon, int(windows), int(step))
    if len(longest) < need:
        fact = f"series {longest.name} has {len(longest)} points"
        fact += ", the others no more" * (len(panel.series) > 1)
        fact += f"; {windows} windows {step} apart at horizon {horizon} need {need}"
        room = (len(longest) - _needed(horizon, 1, 1)) // int(step) + 1
        remedy = "give more points, or a smaller horizon"
        if room >= 1:
            remedy = f"take at most {room} windows, or a smaller step"
        raise DataError(fact, remedy, "backtest")


def _needed(horizon: int, windows: int, step: int) -> int:
    """Points of a series: something to learn from before the first origin, and what is measured."""
    return 2 * horizon + MARGIN + (windows - 1) * step


def _pooled(windows: Sequence[Evaluation], i: int, names: Sequence[str]) -> Row:
    """One method over all windows: means of its metrics and of its errors by step."""
    rows = [window.rows[i] for window in windows]
    metrics = {
        name: mean_defined([row.metrics[name] for row in rows])
        for name in names
        if name in rows[0].metrics
    }
    base = (
        mean_defined([w.naive2[0] for w in windows]),
        mean_defined([w.naive2[1] for w in windows]),
    )
    metrics["OWA"] = owa(metrics["sMAPE"], metrics["MASE"], base)
    forecasts = tuple(f for row in rows for f in row.forecasts)
    by_horizon = mean_observed(np.stack([row.by_horizon for row in rows]))
    last = rows[-1]
    return Row(last.name, last.note, forecasts, metrics, by_horizon, last.is_model)
