"""The series of a table, checked: sorted, on a grid, finite.

A Panel is what every later step works on. Nothing is mended in silence: values that are missing are
counted in a note, and what cannot be forecast as it stands is an error that names the series, the
stamp and the row.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from refold.errors import DataError

from . import calendar
from .absent import note_of_absent, settled
from .calendar import Frequency, Stamps
from .clock import Clock, offset_of, read_clock
from .covariates import (
    NO_COVARIATES,
    Column,
    Covariates,
    columns_of,
)
from .described import beside_of, further, read_covariates
from .framed import framed
from .gaps import observed_rows, on_grid
from .resample import Resample, resampled
from .seasons import find_seasons
from .series import Series
from .stamps import (
    MISSING,
    are_compact,
    as_array,
    as_numbers,
    compact_dates,
    is_temporal,
    on_the_wall,
    parse_dates,
    refuse_cells,
)
from .table import PLAIN, Columns, Table

Floats = NDArray[np.float64]

# Sums and quotients of values in between are numbers of full precision.
_LARGEST, _LEAST = 1e300, 1e-300


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """Series of one frequency, of any lengths.

    seasons: in steps, shortest first, () for none. clock: what the stamps mean where a time zone
    was given. notes: what was inferred, in words. columns: the covariates that every series has. resample:
    what rows were brought to, where they were.
    """

    series: tuple[Series, ...]
    frequency: Frequency
    seasons: tuple[int, ...]
    clock: Clock | None = None
    notes: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    resample: Resample | None = None

    @property
    def season(self) -> int:
        """The shortest season; 1 without seasons."""
        return self.seasons[0] if self.seasons else 1

    def split(self, horizon: int) -> tuple[Panel, Panel]:
        """All but the last `horizon` points of every series, and those points."""
        early = tuple(s[:-horizon] for s in self.series)
        late = tuple(s[-horizon:] for s in self.series)
        if self.frequency.kind == "irregular":  # asked for at the times of the rows that came
            pairs = zip(early, late, strict=True)
            early = tuple(replace(s, asked=rest.stamps) for s, rest in pairs)
        return replace(self, series=early), replace(self, series=late)

    def future(self, horizon: int) -> list[Stamps]:
        """The next `horizon` stamps of every series."""
        return [s.ahead(self.frequency, horizon) for s in self.series]

    def aware(self, stamps: Stamps) -> pl.Series:
        """Stamps of the panel with their time zone, where one was given by name."""
        plain = pl.Series("ds", stamps)
        return plain if self.clock is None else self.clock.aware(plain)

    def texts(self, stamps: Stamps, *, offsets: bool = False) -> list[str]:
        """Stamps as ISO text, by the clock they came from.

        Without a time of day where all are midnight. offsets: with their offsets from UTC, where
        there were any.
        """
        seen = self.aware(stamps)
        if seen.dtype.is_integer():
            return seen.cast(pl.String).to_list()
        named = offsets and _zone(seen) is not None
        fixed = self.clock.offset if self.clock and offsets else ""
        midnight = (seen.dt.time() == dt.time()).all()
        form = "%Y-%m-%d" if midnight and not named and not fixed else "%Y-%m-%d %H:%M:%S%.f"
        return (seen.dt.strftime(form + "%:z" * named) + fixed).to_list()


def from_table(
    table: Table,
    freq: str | None = None,
    seasons: Sequence[int] | None = None,
    holdout: int = 0,
    like: Panel | None = None,
    resample: Resample | None = None,
    irregular: bool = False,
) -> Panel:
    """The panel of a file. The last `holdout` points of a series do not take part in the search
    for seasons. With `like`, rows are read as those of that panel: its clock, its frequency. irregular:
    every row is a step, however far it is from the one before."""
    where = table.source
    frame = table.frame
    frame = frame.with_columns(_values(frame, table.columns.target, where))
    frame = _stamped(frame, f"{where}, column {table.columns.time}")
    how = (like, table.covariates, resample, irregular)
    return _panel(frame, freq, seasons, holdout, where, table.notes, *how)


def from_frame(
    frame: Any,
    freq: str | None = None,
    seasons: Sequence[int] | None = None,
    holdout: int = 0,
    like: Panel | None = None,
    covariates: Covariates = NO_COVARIATES,
    resample: Resample | None = None,
    columns: Columns = PLAIN,
    irregular: bool = False,
) -> Panel:
    """The panel of a long data frame (pandas, polars, Arrow) with unique_id, ds, y, or other names.

    With `like`, rows are read as those of that panel: its clock, its frequency. Covariates are columns
    of the frame beside these. columns: what these are called. irregular: as in `from_table`.

    Errors  DataError for a frame that is not one, a column that is missing, and every fault of the
    data.
    """
    where = "frame"
    names = tuple(c.name for c in like.columns) if like else covariates.names
    stamped = _read_frame(frame, where, columns, names)
    how = (like, covariates, resample, irregular)
    return _panel(stamped, freq, seasons, holdout, where, (), *how)


def with_future_frame(panel: Panel, frame: Any, columns: Columns = PLAIN) -> Panel:
    """The panel with what is known ahead: unique_id, ds and the known covariates, behind its end.
    columns: what the first two are called.

    Errors  DataError for a column that is missing, a series that is not known, an empty cell.
    """
    names = tuple(c.name for c in panel.columns if c.role == "known")
    read = _read_frame(frame, "future", columns, names, valued=False)
    return _with_future(panel, read, "future")


def with_future_table(panel: Panel, table: Table) -> Panel:
    """The same from a file; its target is not looked at."""
    stamped = _stamped(table.frame, f"{table.source}, column {table.columns.time}")
    return _with_future(panel, stamped, table.source)


def _read_frame(
    frame: Any, where: str, columns: Columns, covariates: Sequence[str], valued: bool = True
) -> pl.DataFrame:
    """The columns of a frame as unique_id, ds, y, row, and covariates under a prefix of their own.

    valued: there is a target among them.
    """
    table = framed(frame, where, columns, covariates, valued)
    if valued:
        table = table.with_columns(_values(table, columns.target, where))
    return _stamped(table, f"{where}, column {columns.time}")


def _values(frame: pl.DataFrame, name: str, where: str) -> pl.Series:
    """y as finite numbers, null where none is given."""
    cells = frame["y"]
    numbers = as_numbers(cells)
    text = cells.dtype == pl.String
    absent = cells.is_null() | (cells.is_in(MISSING) if text else numbers.is_nan())
    absent = absent.fill_null(True)
    for bad, what, remedy in (
        (
            numbers.is_null() & ~absent,
            "is no number",
            "write numbers with a decimal point and without separators or units",
        ),
        (
            ~(numbers.is_finite().fill_null(False) | absent),
            "is not finite",
            "give a number, or leave the cell empty where there was none",
        ),
        (
            (numbers.abs() > _LARGEST).fill_null(False) & ~absent,
            "is too large to reckon with",
            "write the column in larger units, as thousands or millions",
        ),
        (
            ((numbers.abs() < _LEAST) & (numbers != 0)).fill_null(False) & ~absent,
            "is too small to reckon with",
            "write 0, or the column in smaller units",
        ),
    ):
        if bad.any():
            at = int(bad.arg_max() or 0)
            fact = f"row {frame['row'][at]}: the value {cells[at]!r} of series "
            fact += f"{frame['unique_id'][at]} at {frame['ds'][at]} {what}"
            raise DataError(fact, remedy, f"{where}, column {name}")
    return pl.select(pl.when(~absent).then(numbers)).to_series().alias("y")


def _stamped(frame: pl.DataFrame, where: str) -> pl.DataFrame:
    """ds as whole numbers or datetimes; beside it, for text with offsets, what the clock showed."""
    cells = frame["ds"]
    if (cells.dtype == pl.String or cells.dtype.is_integer()) and are_compact(cells):
        return frame.with_columns(compact_dates(cells).alias("ds"))
    if cells.dtype != pl.String:
        return frame
    numbers = cells.cast(pl.Int64, strict=False)
    if 2 * numbers.null_count() <= len(cells):
        refuse_cells(cells, frame["row"], numbers.is_null(), where, "it is no whole number")
        return frame.with_columns(numbers.alias("ds"))
    read = parse_dates(cells, frame["unique_id"], frame["row"], where)
    frame = frame.with_columns(read.alias("ds"))
    if _zone(read) is None:
        return frame
    return frame.with_columns(on_the_wall(cells, read).alias("wall"))


def _zone(stamps: pl.Series) -> str | None:
    return stamps.dtype.time_zone if isinstance(stamps.dtype, pl.Datetime) else None


def _panel(
    frame: pl.DataFrame,
    freq: str | None,
    seasons: Sequence[int] | None,
    holdout: int,
    where: str,
    notes: Sequence[str],
    like: Panel | None,
    covariates: Covariates,
    resample: Resample | None,
    irregular: bool,
) -> Panel:
    frame, clock = _on_one_clock(_whole(frame, where), where, like)
    told = [] if clock is None else [clock.note]
    resample = like.resample if like else resample
    if resample:
        names = [c.name for c in like.columns] if like else covariates.names
        count, frame = frame.height, resampled(frame, resample, names, where)
        told.append(
            f"{count:,} rows brought to {frame.height:,} of {resample.step}: {resample.aggregate}"
        )
        freq = freq or resample.step
    placed = _ordered(frame)
    if not placed["row"].equals(frame["row"]):
        told.append("rows were not in order of time: sorted")
    # Rows before the first value of a series that is known already say that these are missing.
    frame = observed_rows(placed, where, leading=like is None)
    if like.frequency.kind == "irregular" if like else irregular:
        frame = frame.filter(pl.col("y").is_not_null())  # no grid, so nothing is missing on it
    columns = like.columns if like else columns_of(placed, covariates)
    if columns:
        frame = read_covariates(frame, columns, where)
    groups = frame.partition_by("unique_id", maintain_order=True)
    stamps = [as_array(group["ds"]) for group in groups]
    frequency = like.frequency if like else _frequency(stamps, freq, irregular)
    parts = zip(groups, stamps, strict=True)
    series = tuple(on_grid(group, own, frequency, where, columns) for group, own in parts)
    if columns and not like:
        columns = settled(columns, beside_of(series))
    if any(c.role == "known" for c in columns):
        series = further(series, placed, columns, frequency, where)
    if like:
        return replace(like, series=series, notes=(*notes, *told))
    # For the search, the last value goes on where one is missing.
    found, how = find_seasons([s.filled(()).values for s in series], frequency, seasons, holdout)
    notes = (*notes, *told, _spaced(frequency, freq), how)
    notes += (
        *_of_missing(series),
        *(["covariates: " + ", ".join(map(str, columns))] * bool(columns)),
        *note_of_absent(columns, beside_of(series)),
    )
    filled = tuple(s.filled(found) for s in series)
    return Panel(filled, frequency, found, clock, notes, columns, resample)


def _with_future(panel: Panel, frame: pl.DataFrame, where: str) -> Panel:
    """The panel with what rows say of its future."""
    if not any(c.role == "known" for c in panel.columns):
        fact = "the model has no covariate that is known ahead"
        raise DataError(fact, "leave the rows out, or fit again and name one as known", where)
    frame, _ = _on_one_clock(_whole(frame, where), where, panel)
    names = {s.name for s in panel.series}
    strange = frame.filter(~pl.col("unique_id").is_in(names))
    if strange.height:
        fact = f"row {strange['row'][0]}: series {strange['unique_id'][0]} is not known"
        raise DataError(fact, "mend its name, or leave the row out", where)
    series = further(panel.series, _ordered(frame), panel.columns, panel.frequency, where)
    return replace(panel, series=series)


def _of_missing(series: Sequence[Series]) -> tuple[str, ...]:
    counts = [0 if s.missing is None else int(s.missing.sum()) for s in series]
    if not any(counts):
        return ()
    of = f" of {sum(map(len, series)):,} values are missing"
    if len(series) > 1:
        of += f", in {np.count_nonzero(counts):,} of {len(series):,} series"
    filled = "filled in from those before them, and counted in no error"
    return (f"{sum(counts):,}{of}: {filled}",)


def _spaced(frequency: Frequency, freq: str | None) -> str:
    """The frequency in words."""
    if frequency.kind == "irregular":
        return "irregular stamps, taken as they are; what lies ahead is a median step apart"
    said = "given" if freq else "read off the stamps"
    return f"frequency {frequency.alias} ({frequency.unit}), {said}"


def _frequency(stamps: list[Stamps], freq: str | None, irregular: bool) -> Frequency:
    if irregular:
        return calendar.irregular(stamps)
    return calendar.infer(stamps) if freq is None else calendar.parse(freq, np.concatenate(stamps))


def _whole(frame: pl.DataFrame, where: str) -> pl.DataFrame:
    """Rows that all say when, and whose.

    Errors  DataError with the first that does not.
    """
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
    return frame


def _on_one_clock(
    frame: pl.DataFrame, where: str, like: Panel | None
) -> tuple[pl.DataFrame, Clock | None]:
    """Stamps without a zone, and what they then mean."""
    ds, zone = frame["ds"], _zone(frame["ds"])
    if like:
        _refuse_other_stamps(ds, like, where)
    if zone is None:
        return frame, None
    utc = ds.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    if "wall" in frame.columns:
        wall, zone = frame["wall"], offset_of(frame["wall"], utc)
    else:
        wall = ds.dt.replace_time_zone(None)
    if like and like.clock:
        if like.clock.zone and not like.clock.offset:  # the same moment by the clock of that place
            wall = ds.dt.convert_time_zone(like.clock.zone).dt.replace_time_zone(None)
        return frame.with_columns((utc if like.clock.utc else wall).alias("ds")), like.clock
    stamps, clock = read_clock(wall, utc, frame["unique_id"], zone)
    return frame.with_columns(stamps.alias("ds")), clock


def _refuse_other_stamps(ds: pl.Series, like: Panel, where: str) -> None:
    """Errors  DataError where dates meet numbers, or stamps with a zone those without."""
    numbered = like.series[0].stamps.dtype.kind == "i"
    if ds.dtype.is_integer() != numbered:
        kinds = ("whole numbers", "dates")
        here, known = kinds if ds.dtype.is_integer() else kinds[::-1]
        raise DataError(
            f"the time column holds {here}, the known rows {known}", f"give {known}", where
        )
    if (_zone(ds) is None) != (like.clock is None):
        here, known = ("no", "one") if _zone(ds) is None else ("one", "none")
        fact = f"the stamps have {here} time zone, the known rows have {known}"
        raise DataError(fact, "write them as the known rows are written", where)


def _ordered(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows by series (in order of appearance) and time."""
    first = frame["unique_id"].unique(maintain_order=True)
    keys = pl.DataFrame({"unique_id": first, "_order": range(len(first))})
    placed = frame.join(keys, on="unique_id", how="left", maintain_order="left")
    return placed.sort("_order", "ds", maintain_order=True).drop("_order")
