"""The series of a table, checked: sorted, evenly spaced, finite.

A Panel is what every later step works on. Nothing is mended in silence: what cannot be forecast as
it stands is an error that names the series, the stamp and the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray

from refold.data.window import seasons_within
from refold.errors import DataError

from . import calendar
from .calendar import Frequency, Stamps
from .stamps import MISSING, as_numbers, is_temporal, parse_dates, refuse_cells
from .table import Table

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One series: stamps (N,) and values (N,), in order of time."""

    name: str
    stamps: Stamps
    values: Floats

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """Series of one frequency, of any lengths.

    seasons: in steps, shortest first, () for none. notes: what was inferred, in words.
    """

    series: tuple[Series, ...]
    frequency: Frequency
    seasons: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def season(self) -> int:
        """The shortest season; 1 without seasons."""
        return self.seasons[0] if self.seasons else 1

    def split(self, horizon: int) -> tuple[Panel, Panel]:
        """All but the last `horizon` points of every series, and those points."""
        early = tuple(Series(s.name, s.stamps[:-horizon], s.values[:-horizon]) for s in self.series)
        late = tuple(Series(s.name, s.stamps[-horizon:], s.values[-horizon:]) for s in self.series)
        return replace(self, series=early), replace(self, series=late)

    def future(self, horizon: int) -> list[Stamps]:
        """The next `horizon` stamps of every series."""
        return [self.frequency.after(s.stamps[-1], horizon) for s in self.series]


def from_table(
    table: Table, freq: str | None = None, seasons: Sequence[int] | None = None, holdout: int = 0
) -> Panel:
    """The panel of a file. The last `holdout` points of a series do not take part in the search
    for seasons."""
    where = table.source
    frame = table.frame
    frame = frame.with_columns(_values(frame, table.columns.target, where))
    stamps = frame["ds"]
    if stamps.dtype == pl.String:
        stamps = _text_stamps(frame, f"{where}, column {table.columns.time}")
    return _panel(
        frame.with_columns(stamps.alias("ds")), freq, seasons, holdout, where, table.notes
    )


def from_frame(
    frame: Any, freq: str | None = None, seasons: Sequence[int] | None = None, holdout: int = 0
) -> Panel:
    """The panel of a long data frame (pandas, polars, Arrow) with unique_id, ds, y.

    Errors: DataError for a frame that is not one, a column that is missing, and every fault of the
    data.
    """
    where = "frame"
    try:
        frame_ = nw.from_native(frame)
    except TypeError as error:
        fact = f"a {type(frame).__name__} is no data frame"
        raise DataError(fact, "give a pandas, polars or Arrow frame", where) from error
    if isinstance(frame_, nw.LazyFrame):
        frame_ = frame_.collect()
    absent = [name for name in ("ds", "y") if name not in frame_.columns]
    if absent:
        fact = f"there is no column {absent[0]!r}; there are: {', '.join(frame_.columns)}"
        raise DataError(fact, "rename: unique_id, ds, y", where)
    kept = [name for name in ("unique_id", "ds", "y") if name in frame_.columns]
    table = pl.DataFrame({name: _column(frame_[name]) for name in kept})
    if "unique_id" not in kept:
        table = table.with_columns(unique_id=pl.lit("y"))
    table = table.with_columns(
        pl.col("unique_id").cast(pl.String), row=pl.int_range(table.height, dtype=pl.Int64)
    )
    if not table.height:
        raise DataError("there are no rows", "give at least one series", where)
    table = table.with_columns(_values(table, "y", where))
    if table["ds"].dtype == pl.String:
        table = table.with_columns(_text_stamps(table, "frame, column ds").alias("ds"))
    return _panel(table, freq, seasons, holdout, where, ())


def _column(column: nw.Series) -> pl.Series:
    """The column in polars. From pandas by way of NumPy or of Python, since polars' own way asks for pyarrow."""
    if not column.implementation.is_pandas_like():
        return column.to_polars()
    if column.dtype.is_numeric() or column.dtype == nw.Datetime(time_zone=None):
        return pl.Series(column.to_numpy(), nan_to_null=True)
    # In a column of text pandas may write a missing value as NaN, the one value that is not itself.
    return pl.Series([None if v is None or v != v else v for v in column.to_list()], strict=False)


def _values(frame: pl.DataFrame, name: str, where: str) -> pl.Series:
    """y as finite numbers."""
    cells = frame["y"]
    numbers = as_numbers(cells)
    text = cells.dtype == pl.String
    absent = cells.is_null() | (cells.is_in(MISSING) if text else numbers.is_nan())
    for bad, what in (
        (absent.fill_null(True), "is missing"),
        (numbers.is_null(), "is no number"),
        (~numbers.is_finite().fill_null(False), "is not finite"),
    ):
        if bad.any():
            at = int(bad.arg_max() or 0)
            shown = "" if what == "is missing" else f" {cells[at]!r}"
            fact = f"row {frame['row'][at]}: the value{shown} of series "
            fact += f"{frame['unique_id'][at]} at {frame['ds'][at]} {what}"
            remedy = "fill it in, or leave out the rows up to it"
            if what == "is no number":
                remedy = "write numbers with a decimal point and without separators or units"
            raise DataError(fact, remedy, f"{where}, column {name}")
    return numbers.alias("y")


def _text_stamps(frame: pl.DataFrame, where: str) -> pl.Series:
    """Text as whole numbers where every cell is one, as dates otherwise."""
    cells = frame["ds"]
    numbers = cells.cast(pl.Int64, strict=False)
    if 2 * numbers.null_count() > len(cells):
        return parse_dates(cells, frame["unique_id"], frame["row"], where)
    refuse_cells(cells, frame["row"], numbers.is_null(), where, "it is no whole number")
    return numbers


def _panel(
    frame: pl.DataFrame,
    freq: str | None,
    seasons: Sequence[int] | None,
    holdout: int,
    where: str,
    notes: Sequence[str],
) -> Panel:
    frame, told = _ordered(frame, where)
    groups = frame.partition_by("unique_id", maintain_order=True)
    stamps = [_array(group["ds"]) for group in groups]
    frequency = (
        calendar.infer(stamps) if freq is None else calendar.parse(freq, np.concatenate(stamps))
    )
    for group, own in zip(groups, stamps, strict=True):
        _check_spacing(group, own, frequency, where)
    series = tuple(
        Series(group["unique_id"][0], own, group["y"].to_numpy().astype(np.float64))
        for group, own in zip(groups, stamps, strict=True)
    )
    found, how = _seasons(series, frequency, seasons, holdout)
    said = "given" if freq else "read off the stamps"
    notes = (*notes, *told, f"frequency {frequency.alias} ({frequency.unit}), {said}", how)
    return Panel(series, frequency, found, notes)


def _ordered(frame: pl.DataFrame, where: str) -> tuple[pl.DataFrame, list[str]]:
    """Rows by series (in order of appearance) and time."""
    ds = frame["ds"]
    if ds.null_count():
        at = int(ds.is_null().arg_max() or 0)
        fact = f"row {frame['row'][at]} has no time"
        raise DataError(fact, "fill it in, or leave the row out", where)
    if frame["unique_id"].null_count():
        at = int(frame["unique_id"].is_null().arg_max() or 0)
        fact = f"row {frame['row'][at]} does not say which series it belongs to"
        raise DataError(fact, "fill in its id, or leave the row out", where)
    if not (is_temporal(ds.dtype) or ds.dtype.is_integer()):
        whole = as_numbers(ds)
        if not ds.dtype.is_numeric() or (whole % 1 != 0).any():
            fact = f"the time column holds {ds.dtype}, for example {ds[0]!r}"
            raise DataError(fact, "give dates, or whole numbers that count steps", where)
        frame = frame.with_columns(whole.cast(pl.Int64).alias("ds"))
    notes = []
    if isinstance(ds.dtype, pl.Datetime) and ds.dtype.time_zone:
        utc = ds.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        frame, notes = frame.with_columns(utc.alias("ds")), ["times are in UTC"]
    first = frame["unique_id"].unique(maintain_order=True)
    keys = pl.DataFrame({"unique_id": first, "_order": range(len(first))})
    placed = frame.join(keys, on="unique_id", how="left", maintain_order="left")
    placed = placed.sort("_order", "ds", maintain_order=True).drop("_order")
    if not placed["row"].equals(frame["row"]):
        notes.append("rows were not in order of time: sorted")
    return placed, notes


def _array(stamps: pl.Series) -> Stamps:
    if stamps.dtype.is_integer():
        return stamps.cast(pl.Int64).to_numpy()
    return stamps.cast(pl.Datetime("us")).to_numpy().astype("datetime64[us]")


def _check_spacing(group: pl.DataFrame, stamps: Stamps, frequency: Frequency, where: str) -> None:
    name = group["unique_id"][0]
    position = frequency.grid(stamps, stamps[0])
    steps = np.diff(position)
    off = position % 1 != 0
    if (stamps[1:] == stamps[:-1]).any():
        at = int((stamps[1:] == stamps[:-1]).argmax())
        rows = f"rows {group['row'][at]} and {group['row'][at + 1]}"
        fact = f"series {name} has two values at {calendar.text(stamps[at])} ({rows})"
        remedy = "leave one out; if these are several series, say which column names them: --id"
        raise DataError(fact, remedy, where)
    if off.any():
        at = int(off.argmax())
        fact = f"series {name}, row {group['row'][at]}: {calendar.text(stamps[at])} does not fall "
        fact += f"on {frequency.unit} ({frequency.alias}) counted from {calendar.text(stamps[0])}"
        raise DataError(fact, "move that stamp, or name the spacing with --freq", where)
    if (steps > 1).any():
        at = int((steps > 1).argmax())
        missing = int(steps[at]) - 1
        expected = calendar.text(frequency.after(stamps[at], 1)[0])
        fact = f"series {name} has a gap: {expected} is missing"
        fact += f", the first of {missing} between" if missing > 1 else ", between"
        fact += f" {calendar.text(stamps[at])} and {calendar.text(stamps[at + 1])}"
        remedy = f"fill in the {frequency.unit}, or leave out the rows before the gap"
        raise DataError(fact, remedy, where)


def _seasons(
    series: Sequence[Series], frequency: Frequency, given: Sequence[int] | None, holdout: int
) -> tuple[tuple[int, ...], str]:
    longest = max(len(s) for s in series) - holdout
    if given is not None:
        found = seasons_within(given, longest)
        how = "given"
    elif frequency.kind == "number":
        found = seasons_within(
            _seen_seasons([s.values[: len(s) - holdout] for s in series]), longest
        )
        how = "found in the data"
    else:
        found = seasons_within(frequency.seasons, longest)
        how = "from the calendar"
    if not found:
        return (), "no season" + (" that fits twice into the series" if given else "")
    return found, f"season {' and '.join(map(str, found))} {frequency.unit}, {how}"


def _seen_seasons(series: Sequence[Floats]) -> tuple[int, ...]:
    """Up to two periods that stand out in the autocorrelation of the differences.

    The first is the shortest peak that comes near the highest one; the second a multiple of it
    that fits better still: a week over a day.
    """
    values = max(series, key=len)
    if len(values) < 12:
        return ()
    steps = np.diff(values)
    if not steps.std() > 0:
        return ()
    r = _autocorrelation(steps)[: min(len(steps) // 3, 1000)]
    inner = np.arange(2, len(r) - 1)
    peaks = inner[(r[inner] > r[inner - 1]) & (r[inner] >= r[inner + 1])]
    # Twice the standard error of white noise, and enough to be worth a model's attention.
    peaks = peaks[r[peaks] > max(0.3, 2 / np.sqrt(len(steps)))]
    if not len(peaks):
        return ()
    first = int(peaks[r[peaks] >= 0.8 * r[peaks].max()][0])
    longer = [int(p) for p in peaks if p >= 2 * first and r[p] > r[first] + 0.02 and p % first == 0]
    return (first, max(longer, key=lambda p: r[p])) if longer else (first,)


def _autocorrelation(x: Floats) -> Floats:
    centred = x - x.mean()
    spectrum = np.abs(np.fft.rfft(centred, 2 * len(x))) ** 2
    r = np.fft.irfft(spectrum)[: len(x)]
    # Each lag over the pairs it has: long lags would look weaker than they are.
    return r / r[0] * (len(x) / (len(x) - np.arange(len(x))))
