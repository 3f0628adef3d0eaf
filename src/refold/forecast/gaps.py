"""From the rows of one series to its grid: every step has a place, whether it was observed or not."""

from __future__ import annotations

import numpy as np
import polars as pl

from refold.errors import DataError

from . import calendar
from .absent import refuse_gaps
from .calendar import Frequency, Stamps
from .covariates import Column, values_of
from .series import Series

# Observed values make up at least this share of a grid. With fewer, a stamp is wrong or the spacing is.
_FEWEST = 0.05


def observed_rows(frame: pl.DataFrame, where: str, leading: bool = True) -> pl.DataFrame:
    """The rows from the first observed value of each series to its last; leading: drop those before
    the first one.

    Errors  DataError for a series of which no value was observed.
    """
    if not frame["y"].null_count():
        return frame
    seen = frame.filter(pl.col("y").is_not_null()).group_by("unique_id")
    span = seen.agg(pl.col("ds").min().alias("_first"), pl.col("ds").max().alias("_last"))
    frame = frame.join(span, on="unique_id", how="left", maintain_order="left")
    empty = frame["_last"].is_null()
    if empty.any():
        at = int(empty.arg_max() or 0)
        rows = frame.filter(pl.col("unique_id") == frame["unique_id"][at])["row"]
        held = f"row {rows[0]}" if len(rows) == 1 else f"{len(rows)} rows, from {rows.min()} on"
        fact = f"series {frame['unique_id'][at]} has no observed value ({held}): each is missing"
        raise DataError(fact, "fill one in, or leave the series out", where)
    kept = pl.col("ds") <= pl.col("_last")
    if leading:
        kept &= pl.col("ds") >= pl.col("_first")
    return frame.filter(kept).drop("_first", "_last")


def on_grid(
    group: pl.DataFrame,
    stamps: Stamps,
    frequency: Frequency,
    where: str,
    covariates: tuple[Column, ...] = (),
) -> Series:
    """One series, NaN where nothing was observed. Rows are in order of time.

    Errors  DataError for two values at one stamp, a stamp off the grid, a grid nearly without values,
    and a gap where there are covariates that were nowhere missing before.
    """
    name, y = group["unique_id"][0], group["y"].cast(pl.Float64).to_numpy()
    places = _places(group, stamps, frequency, where)
    beside = values_of(group, covariates, places) if covariates else None
    if places[-1] + 1 == len(y) and not np.isnan(y).any():
        return Series(name, stamps, y.astype(np.float64), beside=beside)
    _refuse_sparse(group, stamps, places, frequency, where)
    values = np.full(places[-1] + 1, np.nan)
    values[places] = y
    every = np.concatenate([stamps[:1], frequency.after(stamps[0], places[-1])])
    if beside:
        refuse_gaps(name, beside, covariates, every, where)
    return Series(name, every, values, np.isnan(values), beside)


def _places(
    group: pl.DataFrame, stamps: Stamps, frequency: Frequency, where: str
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The place of every row on the grid."""
    name = group["unique_id"][0]
    position = frequency.grid(stamps, stamps[0])
    off = position % 1 != 0
    if (stamps[1:] == stamps[:-1]).any():
        at = int((stamps[1:] == stamps[:-1]).argmax())
        rows = f"rows {group['row'][at]} and {group['row'][at + 1]}"
        fact = f"series {name} has two values at {calendar.text(stamps[at])} ({rows})"
        remedy = "leave one out; if these are several series, say which column names them (--id)"
        raise DataError(fact, remedy, where)
    if off.any():
        at = int(off.argmax())
        fact = f"series {name}, row {group['row'][at]}: {calendar.text(stamps[at])} does not fall "
        fact += f"on {frequency.unit} ({frequency.alias}) counted from {calendar.text(stamps[0])}"
        raise DataError(
            fact,
            "move that stamp, name the spacing (--freq, freq=), or bring all to one (--resample)",
            where,
        )
    return position.astype(np.int64)


def _refuse_sparse(
    group: pl.DataFrame, stamps: Stamps, places: np.ndarray, frequency: Frequency, where: str
) -> None:
    seen = len(group) - group["y"].null_count()
    if seen >= _FEWEST * (places[-1] + 1):
        return
    at = int(np.diff(places).argmax())
    span = f"{calendar.text(stamps[at])} (row {group['row'][at]}) and "
    span += f"{calendar.text(stamps[at + 1])} (row {group['row'][at + 1]})"
    fact = f"series {group['unique_id'][0]} has {seen:,} values on {places[-1] + 1:,} "
    fact += f"{frequency.unit}; the widest gap is between {span}"
    raise DataError(fact, "mend that stamp, or name a wider spacing (--freq, --resample)", where)
