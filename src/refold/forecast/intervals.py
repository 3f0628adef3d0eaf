"""Intervals of forecasts, from the errors that forecasts have made: split conformal calibration.

Networks are trained on the series without their last part. From every origin in that part they
forecast, and each error is kept, step by step, in units of its own series. An interval of a level
reaches as far from a forecast as errors of that share did.

What is guaranteed. If the n errors of a step and the next one are exchangeable, the next value lies
inside with a probability of at least the level, whatever the model and the distribution: the
error of rank ceil((n + 1) level) is taken, which for small n is further out than the quantile. It
is a probability over series and origins together, not for each. Errors of one series at
neighbouring origins resemble each other, and a series can change its ways: then the level holds
only roughly, and the table of a backtest says how it held.

Source  Vovk, Gammerman & Shafer 2005; Lei et al. 2018 for split conformal prediction, and its finite
        number of errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from refold.data.scale import Scale, Transform, choose_transform
from refold.errors import DataError

from .forecaster import (
    MARGIN,
    Fitted,
    Progress,
    fit_panel,
    on_panel,
    predict_distribution,
    predict_panel,
)
from .metrics import naive_error
from .origins import origins_for, rolling
from .panel import Panel
from .settings import Settings

Floats = NDArray[np.float64]
Sides = Literal["both", "each"]


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """The interval of one level, in percent: low and high, one (H,) for each series."""

    level: float
    low: tuple[Floats, ...]
    high: tuple[Floats, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Errors of forecasts of what the networks had not seen.

    Shapes  scores (n, H): value minus forecast, after `transform`, by steps ahead; NaN where no
            value was observed.
    Units   scores are in mean steps over a season of the transformed series (see `unit_of`); where
            forecasts have distributions, they are scores in these (see `families`), and an interval
            is what lies between two scores: wide where the distribution is.

    sides: "both" takes one distance for both sides; "each" one for each, which follows lopsided
    errors and needs twice as many. origins, series: where the n errors come from.
    """

    scores: Floats
    transform: Transform
    sides: Sides
    origins: int
    series: int

    def reach(self, level: float) -> tuple[Floats, Floats]:
        """How far the interval reaches below and above a forecast: (H,) twice.

        Where a step has too few errors for the level, those of all steps are taken together, and at
        least the largest of the step: the level then holds for the steps on average. A higher level
        never gives a smaller interval.

        Errors  DataError where all steps together have too few.
        """
        if self.sides == "both":
            far = self._far(np.abs(self.scores), level / 100, level)
            return -far, far
        share = 0.5 + level / 200
        return -self._far(-self.scores, share, level), self._far(self.scores, share, level)

    def _far(self, away: Floats, share: float, level: float) -> Floats:
        counts, each = self.counts, np.sort(away, axis=0)  # NaN comes last
        ranks = np.array([_rank(int(n), share) for n in counts])
        steps = np.arange(len(counts))
        enough = ranks <= counts
        found = each[np.where(enough, ranks, counts).clip(min=1) - 1, steps]
        if enough.all():
            return found
        total = int(counts.sum())
        of_all = _rank(total, share)
        if of_all > total:
            raise _too_few(total, share, level, self.sides)
        return np.where(enough, found, np.fmax(found, np.sort(away, axis=None)[of_all - 1]))

    @property
    def counts(self) -> NDArray[np.int64]:
        """The number of errors of each step: (H,)."""
        return (~np.isnan(self.scores)).sum(axis=0)

    def is_pooled(self, level: float) -> bool:
        """Are the errors of all steps taken together for this level, at some step at least?"""
        share = level / 100 if self.sides == "both" else 0.5 + level / 200
        return _rank(int(self.counts.min()), share) > self.counts.min()

    def bands(
        self, panel: Panel, forecasts: Sequence[Floats], levels: Iterable[float]
    ) -> tuple[Band, ...]:
        """The intervals around forecasts of the series of a panel, from its last points on."""
        scales = [unit_of(s.observed, self.transform, panel.season) for s in panel.series]
        found = []
        for level in levels:
            below, above = self.reach(level)
            pairs = [
                (moved(f, below, s), moved(f, above, s))
                for f, s in zip(forecasts, scales, strict=True)
            ]
            low, high = zip(*pairs, strict=True)
            found.append(Band(level, low, high))
        return tuple(found)

    def note(self, levels: Sequence[float]) -> str:
        """Where the intervals come from, in words."""
        n, total = int(self.counts.min()), int(self.counts.sum())
        who = "the series" if self.series == 1 else f"{self.series:,} series"
        where = "1 origin" if self.origins == 1 else f"each of {self.origins} origins"
        errors = "1 error" if n == 1 else f"{n:,} errors"
        told = f"conformal, from {errors} of each step, made on {who} from {where} that the "
        told += "networks had not seen"
        pooled = [f"{level:g} %" for level in levels if self.is_pooled(level)]
        if pooled:
            told += f"; for {' and '.join(pooled)} these are too few, so the {total:,} errors "
            told += (
                "of all steps are taken together: early steps get wider intervals than they need"
            )
        return told

    def extended(self, known: Panel, held_out: Panel, forecasts: Sequence[Floats]) -> Calibration:
        """With the errors of one more origin, at the ends of the known series."""
        more = scores_of(known, held_out, forecasts, self.transform)
        scores = np.concatenate([self.scores, more])
        return replace(self, scores=scores, origins=self.origins + 1)


def highest_level(n: int, sides: Sides) -> int:
    """The highest whole level, in percent, that n errors have an interval for; 0 and below for none."""
    share = n / (n + 1)
    return math.floor(100 * (share if sides == "both" else 2 * share - 1))


def _rank(n: int, share: float) -> int:
    """Which of n errors, in order of size, bounds the next one with this probability."""
    return math.ceil((n + 1) * share - 1e-9)


def _too_few(n: int, share: float, level: float, sides: Sides) -> DataError:
    need, most = math.ceil(share / (1 - share) - 1e-9), highest_level(n, sides)
    fact = f"an interval of {level:g} % needs {need} errors of the forecaster, and there are {n}"
    remedy = f"ask for a level of at most {most}, or give longer series"
    return DataError(fact, remedy if most >= 1 else "give longer series", "level")


def unit_of(values: Floats, transform: Transform, season: int) -> Scale:
    """What one unit of error is for a series: its mean step over a season, once transformed.

    A series that repeats itself exactly is measured by its steps from point to point, one that
    never changes by a thousandth of its level.
    """
    g = Scale(transform, 0.0, 1.0, -math.inf, math.inf).apply(values)
    level = 1e-3 * (float(np.abs(g).mean()) or 1.0)
    unit = naive_error(g, season) or naive_error(g, 1) or level
    return Scale(transform, 0.0, unit, -math.inf, math.inf)


def moved(f: Floats, by: Floats, scale: Scale) -> Floats:
    """A forecast, and an error in units of the scale on top of it: in the units of the series."""
    # A forecast of 0 has the logarithm minus infinity, and comes back as 0.
    with np.errstate(divide="ignore", over="ignore"):
        found = scale.invert(scale.apply(f) + by)
    # Rounding on the way there and back must not put a forecast outside of its interval.
    return np.where(by > 0, np.maximum(found, f), np.where(by < 0, np.minimum(found, f), f))


def scores_of(
    known: Panel, held_out: Panel, forecasts: Sequence[Floats], transform: Transform
) -> Floats:
    """Value minus forecast of what came after each known series, in its units: (series, H)."""
    found = []
    for early, late, f in zip(known.series, held_out.series, forecasts, strict=True):
        scale = unit_of(early.observed, transform, known.season)
        with np.errstate(divide="ignore"):
            found.append(scale.apply(late.observed) - scale.apply(f))
    return np.stack(found)


def calibrate(
    panel: Panel,
    horizon: int,
    settings: Settings,
    *,
    origins: int | None = None,
    sides: Sides = "both",
    levels: Sequence[float] = (),
    transform: Transform | None = None,
    progress: Progress | None = None,
    distributed: bool = False,
) -> Calibration:
    """Train without the last part of every series, forecast it from many origins, keep the errors.

    origins: how many, one step apart; None takes as many as give 100 errors of each step, in the
    last third of the longest series at most. Series too short for that take no part: their own
    intervals are in their own units all the same. levels: those that will be asked for. transform:
    None takes the one that suits all values, those to come too: networks that had learned
    logarithms could not go on from a 0. distributed: as in `fit_panel`.

    Errors  DataError where no series is long enough, or all together are too short for a level:
    before anything is trained.
    """
    if sides not in ("both", "each"):
        raise DataError(f"sides is {sides!r}", 'give "both" or "each"', "calibrate")
    origins = origins_for(panel, horizon, origins)
    back = horizon + origins - 1
    long = tuple(s for s in panel.series if len(s) >= back + horizon + MARGIN)
    _check_enough(origins * len(long), horizon, levels, sides)
    whole = replace(panel, series=long)
    transform = transform or choose_transform([s.values for s in panel.series])
    known = whole.split(back)[0]
    fitted = fit_panel(known, horizon, settings, progress, transform, distributed)
    scores = [
        _errors(on_panel(fitted, known), held_out, transform, seed)
        for seed, (known, held_out) in enumerate(rolling(whole, horizon, origins, step=1))
    ]
    return Calibration(np.concatenate(scores), transform, sides, origins, len(long))


def _errors(fitted: Fitted, held_out: Panel, transform: Transform, seed: int) -> Floats:
    """The errors at one origin, or the scores where forecasts have distributions: (series, H)."""
    found = predict_distribution(fitted)
    if found is not None:
        return found.scores([s.values for s in held_out.series], seed)
    return scores_of(fitted.panel, held_out, predict_panel(fitted), transform)


def _check_enough(n: int, horizon: int, levels: Sequence[float], sides: Sides) -> None:
    """Would so many errors of each step do for these levels?"""
    empty = Calibration(np.zeros((n, horizon)), "none", sides, 0, 0)
    for level in levels:
        empty.reach(level)


def check_levels(levels: object, where: str = "level") -> tuple[float, ...]:
    """Levels in percent, each once, in order.

    Errors  DataError for what is no such level.

    Example
        >>> check_levels([95, 80])
        (80.0, 95.0)
    """
    given = (levels,) if isinstance(levels, Real) else levels
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise DataError(f"the levels are {levels!r}", "give percents, such as [80, 95]", where)
    found = tuple(given)
    for level in found:
        real = isinstance(level, Real) and not isinstance(level, bool)
        if not real or not 1 <= float(level) < 100:
            fact = f"a level is {level!r}"
            remedy = "give percents from 1 to below 100, such as [80, 95]"
            raise DataError(fact, remedy, where)
    return tuple(sorted({float(level) for level in found}))
