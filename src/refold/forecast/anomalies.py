"""Which values of a series are not what its past had led to expect.

The series are cut into three: networks learn from the first part, what they err by is measured on
the second, and the values of the third are judged. Each is forecast from the steps before it, by
networks that end before its part, and is an anomaly where it lies outside the conformal interval
of a level. A value that is one is taken for its forecast when later values are forecast, so that it
makes none of them look wrong; more than three in a row are a change of the series, and stand.

What is guaranteed. Where errors of the second and the third part are exchangeable, a value that is
none lies outside with a probability of at most 1 - level: of 1,000 at 99 %, up to 10 are expected
to be named without a reason. p_value is the share of measured errors that are as large, the judged
one among them (Bates et al. 2023).

Source  Vovk, Gammerman & Shafer 2005; Laxhammar & Falkman 2010 for conformal anomaly detection.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from refold.data.scale import Scale, choose_transform
from refold.errors import DataError

from .distribution import refuse_uncounted
from .forecaster import MARGIN, Fitted, Progress, check_length, fit_panel
from .intervals import Band, Calibration, check_levels, highest_level, scores_of, unit_of
from .panel import Panel, Series
from .rolled import rolled
from .settings import Settings

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Values that are forecast at once behind one that was no good: another may follow soon.
_PART = 32
# Percent, where none is given: one value in a hundred that is none is named. Of short series less is told.
_LEVEL = 99
# More than these in a row are no outliers: the series has changed, and forecasts have to follow it.
_IN_A_ROW = 3


@dataclass(frozen=True, slots=True, eq=False)
class Anomalies:
    """The judged values of a panel beside what was expected of them.

    Shapes  judged: the last (J,) values of each series. forecasts, scores, p_values, flags: one (J,)
            for each of them.
    Units   scores are in halves of the interval: 1 is its edge, above 1 is an anomaly. Of a value that
            was not observed score and p_value are NaN, and it is no anomaly.
    """

    panel: Panel
    judged: Panel
    forecasts: tuple[Floats, ...]
    band: Band
    scores: tuple[Floats, ...]
    p_values: tuple[Floats, ...]
    flags: tuple[Flags, ...]
    ahead: int
    fitted: Fitted
    calibration: Calibration
    seconds: float

    @property
    def count(self) -> int:
        """How many values are anomalies."""
        return sum(int(each.sum()) for each in self.flags)

    @property
    def number(self) -> int:
        """How many values were judged: those that were observed."""
        return sum(len(s.known) for s in self.judged.series)

    def told(self) -> list[str]:
        """What was found, in sentences; the first is the answer."""
        level, unit = self.band.level, self.judged.frequency.unit
        chance = self.number * (1 - level / 100)
        who = (
            f"{self.number:,} values"
            if len(self.flags) == 1
            else (f"{self.number:,} values of {len(self.flags):,} series")
        )
        first = f"{self.count:,} of {who} lie outside of the {level:g} % interval."
        second = f"So many would by chance alone: {chance:.3g}."
        steps = "the step" if self.ahead == 1 else f"{self.ahead} {unit}"
        third = (
            f"Each was forecast from {steps} before it, by networks trained on what came before "
        )
        third += f"the judged part; intervals are {self.calibration.note(())}."
        return [first, second, third]


def find_anomalies(
    panel: Panel,
    horizon: int,
    settings: Settings,
    *,
    level: float | None = None,
    last: int | None = None,
    ahead: int = 1,
    progress: Progress | None = None,
) -> Anomalies:
    """Judge the `last` values of every series (a third of the shortest, if None), each as forecast
    `ahead` steps before. As many values before them give the errors that intervals are made of.

    level: percent; None takes 99, or the highest that there are errors enough for.

    Networks are trained twice: without both parts, and without the judged one. Of a forecast with a
    distribution, its centre is what is expected.

    Errors  DataError for series that are too short, and for a level that there are too few errors
    for: before anything is trained.

    Example
        >>> found = find_anomalies(panel, 12, Settings(), level=95)
        >>> found.count, found.flags[0]
    """
    began = time.perf_counter()
    given = None if level is None else one_level(level)
    refuse_uncounted(panel, settings.head)
    last = _checked(panel, horizon, last, ahead)
    level = _measurable(panel, last, given)
    transform = choose_transform([s.values for s in panel.series])
    known, judged = panel.split(last)
    learned, measured = known.split(last)
    first = fit_panel(learned, horizon, settings, _stage(progress, 0), transform)
    transform = first.data.transform  # a head of counts has one of its own
    errors = scores_of(learned, measured, _expected(first, known, last, ahead), transform)
    errors = errors[~np.isnan(errors)]
    calibration = Calibration(errors[:, None], transform, "both", last, len(panel.series))
    fitted = fit_panel(known, horizon, settings, _stage(progress, 1), transform)
    far = float(calibration.reach(level)[1][0])
    forecasts, away = _cleaned(fitted, panel, last, ahead, far)
    return Anomalies(
        panel,
        judged,
        forecasts,
        calibration.bands(known, forecasts, [level])[0],
        tuple(_in_reaches(each, far) for each in away),
        tuple(_p_values(each, errors) for each in away),
        tuple(each > far for each in away),
        ahead,
        fitted,
        calibration,
        time.perf_counter() - began,
    )


def one_level(level: object) -> float:
    """A single level, in percent. Errors  DataError for none, and for several."""
    found = check_levels(level)
    if len(found) != 1:
        fact = f"{len(found)} levels are given"
        raise DataError(fact, "an anomaly is one at one level: give level=99", "level")
    return found[0]


def _stage(progress: Progress | None, stage: int) -> Progress | None:
    """What one of the two trainings is to tell its stages."""
    if progress is None:
        return None
    return lambda done, total: progress(stage * total + done, 2 * total)


def _measurable(panel: Panel, last: int, level: float | None) -> float:
    """A level that there will be errors enough for. Errors  DataError for one that is too high."""
    _, rest = panel.split(2 * last)
    errors = sum(len(s[:last].known) for s in rest.series)
    if level is None:
        level = min(_LEVEL, max(1, highest_level(errors, "both")))
    Calibration(np.zeros((errors, 1)), "none", "both", 0, 0).reach(level)
    return level


def _checked(panel: Panel, horizon: int, last: object, ahead: object) -> int:
    """How many values of each series are judged. Errors  DataError, see `find_anomalies`."""
    where, shortest = "anomalies", min(panel.series, key=len)
    last = len(shortest) // 3 if last is None else last
    for name, value, most in (("last", last, None), ("ahead", ahead, horizon)):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value < 1 or (most is not None and value > most):  # type: ignore[operator]
            remedy = "give a whole number of at least 1"
            remedy += f" and at most the horizon, {most}" * (most is not None)
            raise DataError(f"{name} is {value!r}", remedy, where)
    assert isinstance(last, int | np.integer)
    if len(shortest) < 2 * last + MARGIN:
        fact = f"series {shortest.name} has {len(shortest)} points; to judge the last {last} takes "
        fact += f"{2 * last + MARGIN}: as many to measure errors on, and {MARGIN} to learn from"
        most = (len(shortest) - MARGIN) // 2
        remedy = f"judge at most {most}" if most >= 1 else "give longer series"
        raise DataError(
            fact, remedy + ", or leave the short series out" * (len(panel.series) > 1), where
        )
    learned, _ = panel.split(2 * int(last))
    check_length(learned, horizon)
    return int(last)


def _expected(
    fitted: Fitted, panel: Panel, last: int, ahead: int, parts: Sequence[tuple[int, int]] = ()
) -> tuple[Floats, ...]:
    """Parts of the last values of every series, all of them if none are named, each forecast `ahead` steps before."""
    before = rolled(fitted, panel, last + ahead)
    parts = parts or [(0, last)] * len(panel.series)
    back = torch.cat([last - torch.arange(*part) + ahead - 1 for part in parts])
    sizes = [end - begin for begin, end in parts]
    rows = torch.arange(len(parts)).repeat_interleave(torch.tensor(sizes))
    z = before.ahead(rows, back)[:, ahead - 1]
    return tuple(before.values(i, part) for i, part in enumerate(z.split(sizes)))


def _cleaned(
    fitted: Fitted, panel: Panel, last: int, ahead: int, far: float
) -> tuple[tuple[Floats, ...], tuple[Floats, ...]]:
    """Forecasts of the last values, and how far off these are; each series is settled on its own.

    From the earliest value of a series that is too far off, later ones are forecast anew: so they are
    forecast in parts, small ones behind such a value, larger ones as long as there is none.
    """
    values = [s.values.copy() for s in panel.series]
    scales = [unit_of(s.observed, fitted.data.transform, panel.season) for s in fitted.panel.series]
    found = [np.zeros(last) for _ in values]
    settled, wide = [0] * len(values), [last] * len(values)
    while moved := [i for i, until in enumerate(settled) if until < last]:
        cleaned = replace(
            panel, series=tuple(replace(panel.series[i], values=values[i]) for i in moved)
        )
        parts = [(settled[i], min(last, settled[i] + wide[i])) for i in moved]
        forecasts = _expected(fitted, cleaned, last, ahead, parts)
        for i, (begin, end), part in zip(moved, parts, forecasts, strict=True):
            found[i][begin:end] = part
            flags = _away(panel.series[i], found[i], scales[i]) > far
            if not flags[begin:end].any():
                settled[i], wide[i] = end, 2 * wide[i]
                continue
            at = begin + int(flags[begin:end].argmax())
            own, late = panel.series[i].values[-last:], values[i][-last:]
            late[:] = _believed(late, own, found[i], flags, at)
            settled[i], wide[i] = at + 1, _PART
    away = [_away(*each) for each in zip(panel.series, found, scales, strict=True)]
    return tuple(found), tuple(away)


def _believed(late: Floats, own: Floats, expected: Floats, flags: Flags, at: int) -> Floats:
    """The judged values as later ones are forecast from them, once the flag at `at` is met.

    One that stands alone is replaced by what was expected; with too many in a row, all stand.
    """
    begin = max(0, at - _IN_A_ROW)
    if at >= _IN_A_ROW and flags[begin:at].all():
        return np.concatenate([late[:begin], own[begin : at + 1], late[at + 1 :]])
    return np.concatenate([late[:at], expected[at : at + 1], late[at + 1 :]])


def _away(series: Series, forecasts: Floats, scale: Scale) -> Floats:
    """How far the last values are off, in units of the series."""
    with np.errstate(divide="ignore"):
        return np.abs(scale.apply(series.observed[-len(forecasts) :]) - scale.apply(forecasts))


def _in_reaches(away: Floats, far: float) -> Floats:
    """In halves of an interval; one of no width leaves everything outside infinitely far."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(away == 0, 0.0, away / far)


def _p_values(away: Floats, errors: Floats) -> Floats:
    ordered = np.sort(np.abs(errors))
    as_large = len(ordered) - np.searchsorted(ordered, away, side="left")
    return np.where(np.isnan(away), np.nan, (1 + as_large) / (len(ordered) + 1))
