"""Reading dates and numbers from the cells of a table.

A column of dates is read with one format for all of its rows. Where two formats read every row
(02/03/2021: February or March?), the one that spaces the rows evenly is the one that is meant.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from refold.errors import DataError

from . import calendar
from .calendar import Frequency, Stamps

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?", "-")
NUMBERED_HINTS = ("ds", "t", "time", "step", "index", "year", "period", "timestamp")

# Later formats are tried only where an earlier one fails; "|" marks text to be added to a cell.
_FORMATS = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y-%m|-01",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y/%m|/01",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%m/%d/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%d/%m/%Y %H:%M",
    "%d.%m.%Y",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d-%m-%Y",
    "%m/%d/%y",
    "%d/%m/%y",
    "%m/%d/%y %H:%M",
    "%d/%m/%y %H:%M",
    "%d.%m.%y",
    "%d %b %Y",
    "%d-%b-%Y",
    "%d-%b-%y",
    "%b %d, %Y",
    "%b %d %Y",
    "%B %d, %Y",
    "%B %d %Y",
    "%b %Y| 01",
    "%b-%Y|-01",
    "%B %Y| 01",
    "Q",
)
_OFFSET = r"\s*(Z|[+-]\d{2}(:?\d{2})?)$"
_COMPACT = "%Y%m%d"
_ZONED = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z")


def is_temporal(dtype: pl.DataType) -> bool:
    """Is it a date or a date with a time?"""
    return dtype == pl.Date or isinstance(dtype, pl.Datetime)


def as_numbers(column: pl.Series) -> pl.Series:
    """The cells as float64, null where a cell is no number."""
    if column.dtype == pl.String:
        column = column.str.strip_chars()
    return column.cast(pl.Float64, strict=False)


def date_formats(known: pl.Series, share: float = 1.0) -> list[str]:
    """The formats that read at least this share of the cells, best first."""
    head = known.head(200)
    likely = [f for f in (*_FORMATS, *_ZONED) if _share(_parse(head, f)) >= share / 2]
    shares = {f: _share(_parse(known, f)) for f in likely}
    found = [f for f in likely if shares[f] >= share]
    best = max((shares[f] for f in found), default=0.0)
    return [f for f in found if shares[f] == best]


def _share(read: pl.Series) -> float:
    """The share of cells that could be read."""
    return 1.0 - read.null_count() / max(1, len(read))


def are_compact(column: pl.Series) -> bool:
    """Are these dates like 20200131? All of them have to be, since most numbers are not dates."""
    known = column.drop_nulls()
    whole = known.cast(pl.Int64, strict=False)
    if not len(known) or whole.null_count() or not whole.is_between(19000101, 21001231).all():
        return False
    return not _parse(whole.cast(pl.String), _COMPACT).null_count()


def compact_dates(column: pl.Series) -> pl.Series:
    """Dates like 20200131 as datetimes."""
    return _parse(column.cast(pl.Int64).cast(pl.String), _COMPACT)


def on_the_wall(column: pl.Series, utc: pl.Series) -> pl.Series:
    """What the clock showed: the text without its offset. utc: what the text was read as."""
    bare = column.str.replace(_OFFSET, "")
    read = [_parse(bare, form.replace("%#z", "")) for form in _ZONED]
    # The form that has read the column with its offset reads every cell without it.
    found = next(wall for wall in read if not wall.null_count())
    assert len(found) == len(utc)
    return found


def parse_dates(column: pl.Series, ids: pl.Series, rows: pl.Series, where: str) -> pl.Series:
    """A column of text as datetimes: in UTC where it gives offsets, else without a zone.

    Errors  DataError with the first row that cannot be read, or where two readings are possible.
    """
    formats = date_formats(column.drop_nulls(), 0.5)
    if not formats:
        refuse_cells(column, rows, column.is_null() | True, where, "no date format fits it")
    readings = {f: _parse(column, f) for f in formats}
    chosen = formats[0]
    if len({tuple(r.head(1000).to_list()) for r in readings.values()}) > 1:
        even = [f for f in formats if is_even(readings[f], ids)]
        if len(even) != 1:
            fact = f"{column.drop_nulls()[0]} can be read as " + " and as ".join(
                _shown(f) for f in formats[:2]
            )
            raise DataError(fact, "write the dates as YYYY-MM-DD", where)
        chosen = even[0]
    reading = readings[chosen]
    refuse_cells(
        column, rows, reading.is_null(), where, f"it is no date of the form {_shown(chosen)}"
    )
    return reading


def _parse(column: pl.Series, form: str) -> pl.Series:
    if form == "Q":
        parts = column.str.extract_groups(r"^(\d{4})[- ]?[Qq]([1-4])$").struct.unnest()
        year, quarter = (parts[name].cast(pl.Int64, strict=False) for name in parts.columns)
        months = (quarter * 3 - 2).cast(pl.String)
        column, form = year.cast(pl.String) + "-" + months + "-1", "%Y-%m-%d"
    form, _, added = form.partition("|")
    if added:
        column, form = column + added, form + added.replace("01", "%d")
    read = column.str.to_datetime(form, strict=False, time_unit="us", exact=True)
    # %Y takes "20" for the year 20.
    return pl.select(pl.when(read.dt.year().is_between(1000, 9999)).then(read)).to_series()


def spacing(reading: pl.Series, ids: pl.Series) -> Frequency:
    """The frequency of stamps that need not be in order.

    Errors  DataError when none can be seen.
    """
    return calendar.infer(_by_series(reading, ids))


def is_even(reading: pl.Series, ids: pl.Series) -> bool:
    """Do these stamps lie on a grid without duplicates or gaps?"""
    if reading.null_count():
        return False
    groups = _by_series(reading, ids)
    try:
        frequency = calendar.infer(groups)
    except DataError:
        return False
    return all((np.diff(frequency.grid(g, g[0])) == 1).all() for g in groups if len(g) > 1)


def _by_series(reading: pl.Series, ids: pl.Series) -> list[calendar.Stamps]:
    pairs = pl.DataFrame({"id": ids, "ds": reading.cast(pl.Datetime("us", _zone(reading)))})
    return [part["ds"].sort().to_numpy() for part in pairs.partition_by("id")]


def _zone(reading: pl.Series) -> str | None:
    return getattr(reading.dtype, "time_zone", None)


def refuse_cells(column: pl.Series, rows: pl.Series, bad: pl.Series, where: str, why: str) -> None:
    """Errors  DataError with the first cell of time that is bad, and why."""
    if bad.any():
        at = int(bad.arg_max() or 0)
        cell = column[at]
        what = "has no time" if cell is None or cell in MISSING else f"holds {cell!r}: {why}"
        raise DataError(f"row {rows[at]} {what}", "mend that cell, or leave the row out", where)


def _shown(form: str) -> str:
    names = {"%Y": "YYYY", "%m": "MM", "%d": "DD", "%H": "hh", "%M": "mm", "%S": "ss", "%y": "YY"}
    names |= {"%b": "Jan", "%B": "January", "%.f": "", "%#z": "+hh:mm", "Q": "YYYYQ1"}
    form = form.partition("|")[0]
    for code, name in names.items():
        form = form.replace(code, name)
    return form


def as_array(stamps: pl.Series) -> Stamps:
    """Whole numbers, or datetimes in microseconds: (N,)."""
    if stamps.dtype.is_integer():
        return stamps.cast(pl.Int64).to_numpy()
    return stamps.cast(pl.Datetime("us")).to_numpy().astype("datetime64[us]")
