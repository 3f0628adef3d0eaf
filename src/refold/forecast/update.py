"""New rows for series that are known: what follows them, and what is a new series."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from refold.errors import DataError

from .calendar import text
from .forecaster import check_length
from .panel import Panel, Series

_WHERE = "newer rows"


def appended(panel: Panel, newer: Panel, horizon: int) -> Panel:
    """The panel with newer rows behind those of each series, and with the series that are new.

    Rows that are known already are passed over where they say the same. Values that come late, for
    rows that were known as missing, are taken; what was filled in after them is filled in anew.

    Errors  DataError for a gap, a stamp off the grid, a known row with another value, and a new
    series that is too short.
    """
    came = {s.name: s for s in newer.series}
    old = [_longer(s, came.pop(s.name), panel) if s.name in came else s for s in panel.series]
    new = tuple(_begun(s).filled(panel.seasons) for s in came.values())
    for series in new:
        try:
            check_length(replace(panel, series=(series,)), horizon)
        except DataError as error:
            fact = f"{error.fact}; it is not among the {len(panel.series):,} that are known"
            remedy = "mend its name, give more points of it, or leave it out"
            raise DataError(fact, remedy, _WHERE) from error
    return replace(panel, series=(*old, *new))


def _longer(series: Series, newer: Series, panel: Panel) -> Series:
    at = _places(series, newer, panel)
    if (at % 1 != 0).any():
        stamp = newer.stamps[int((at % 1 != 0).argmax())]
        fact = (
            f"series {series.name}: {text(stamp)} does not fall on {panel.frequency.unit} counted "
        )
        fact += f"from {text(series.stamps[0])}"
        raise DataError(fact, "give stamps of the same spacing", _WHERE)
    known = at < len(series)
    places = at[known].astype(np.int64)
    _refuse_changed(series, newer, places)
    series = _with_late(series, newer.observed[: len(places)], places)
    fresh = newer[int(known.sum()) :]
    if len(fresh) and at[~known][0] > len(series):
        missing = panel.frequency.after(series.stamps[-1], 1)[0]
        fact = (
            f"series {series.name} is known up to {text(series.stamps[-1])}, and the next row is "
        )
        fact += f"of {text(newer.stamps[~known][0])}: {text(missing)} is missing"
        raise DataError(fact, "give every row from there on", _WHERE)
    return series.followed_by(fresh).filled(panel.seasons)


def _places(series: Series, newer: Series, panel: Panel) -> NDArray[np.float64]:
    """Where newer rows lie among those that are known: from 0 on, or behind them."""
    if panel.frequency.kind != "irregular":
        return panel.frequency.grid(newer.stamps, series.stamps[0])
    at = np.searchsorted(series.stamps, newer.stamps)
    fresh = newer.stamps > series.stamps[-1]
    strange = ~fresh & (series.stamps[np.minimum(at, len(series) - 1)] != newer.stamps)
    if strange.any():
        stamp = newer.stamps[int(strange.argmax())]
        fact = f"series {series.name} is known up to {text(series.stamps[-1])}, and a row of "
        fact += f"{text(stamp)} is given that it does not have"
        raise DataError(fact, "leave out the rows before its end, or fit again", _WHERE)
    return (at + np.where(fresh, fresh.cumsum() - 1, 0)).astype(np.float64)


def _begun(series: Series) -> Series:
    """From its first observed value on."""
    return series if series.missing is None else series[int(series.missing.argmin()) :]


def _with_late(series: Series, now: np.ndarray, at: np.ndarray) -> Series:
    """With the values among `now` whose places were missing."""
    if series.missing is None:
        return series
    late = series.missing[at] & ~np.isnan(now)
    if not late.any():
        return series
    values = series.observed
    values[at[late]] = now[late]
    missing = np.isnan(values)
    return replace(series, values=values, missing=missing if missing.any() else None)


def _refuse_changed(series: Series, newer: Series, at: np.ndarray) -> None:
    """Rows that are known have to say the same; what is before the first has no place."""
    if len(at) and at[0] < 0:
        fact = f"series {series.name} begins at {text(series.stamps[0])}, and a row of "
        fact += f"{text(newer.stamps[0])} is given"
        raise DataError(fact, "leave out the rows before it, or fit again", _WHERE)
    before, now = series.observed[at], newer.observed[: len(at)]
    changed = (before != now) & ~np.isnan(now) & ~np.isnan(before)
    if changed.any():
        i = int(changed.argmax())
        fact = f"series {series.name} is {before[i]:g} at {text(newer.stamps[i])}, and "
        fact += f"{newer.values[i]:g} is given"
        raise DataError(fact, "leave out the rows that are known, or fit again", _WHERE)
