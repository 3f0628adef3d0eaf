"""From a data frame of any library to columns in polars: whose value, when, and the value.

The columns may have any names; what is told of them later, in errors and in forecasts, is told by these names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any
from zoneinfo import available_timezones

import narwhals as nw
import polars as pl

from refold.errors import DataError

from .covariates import PREFIX
from .table import PLAIN, Columns

# Columns that a forecast, a backtest or a search for anomalies adds beside those that were given.
_ADDED = ("y_hat", "cutoff", "path", "score", "p_value", "is_anomaly")


def named(
    known: Columns, id: str | None = None, time: str | None = None, target: str | None = None
) -> Columns:
    """What columns are called: as it is said, else as in `known`.

    Errors  DataError for a name that is no text, that is given twice, or that a forecast has for a column of its own.
    """
    found = Columns(target or known.target, time or known.time, id or known.id)
    given = {"id": found.id, "time": found.time, "target": found.target}
    for argument, name in given.items():
        if not isinstance(name, str):
            raise DataError(f"{argument} is {name!r}", "give the name of a column", "frame")
        if name in _ADDED or name.startswith("y_hat-"):
            fact = f"{argument} is column {name!r}, and a forecast has a column of that name"
            raise DataError(fact, "rename it", "frame")
    if len(set(given.values())) < len(given):
        fact = "id, time and target are " + ", ".join(repr(name) for name in given.values())
        raise DataError(fact, "name three columns, each once", "frame")
    return found


def framed(
    frame: Any, where: str, columns: Columns, covariates: Sequence[str], valued: bool = True
) -> pl.DataFrame:
    """The columns of a frame as unique_id, ds, y, row, and covariates under a prefix of their own.

    valued: is there a target among them? A frame without ids, whose name is the usual one, is one series, named after
    its target.

    Errors  DataError for what is no frame, a column that is missing, and cells of no type that tables have.
    """
    given = _opened(frame, where)
    _check_columns(given.columns, columns, covariates, where, valued)
    own = dict(zip(("y", "ds", "unique_id"), astuple(columns), strict=True))
    kept = {ours: name for ours, name in own.items() if name in given.columns}
    if not valued:
        kept.pop("y", None)
    read = {ours: _column(given[name], name, ours) for ours, name in kept.items()}
    beside = {PREFIX + name: _column(given[name], name, "covariate") for name in covariates}
    table = pl.DataFrame(read | beside)
    if "unique_id" not in kept:
        table = table.with_columns(unique_id=pl.lit(columns.target))
    table = table.with_columns(
        pl.col("unique_id").cast(pl.String), row=pl.int_range(table.height, dtype=pl.Int64)
    )
    if not table.height:
        raise DataError("there are no rows", "give at least one series", where)
    return table.with_columns(_wall(given[kept["ds"]]))


def _opened(frame: Any, where: str) -> nw.DataFrame[Any]:
    try:
        found = nw.from_native(frame)
    except TypeError as error:
        fact = f"a {type(frame).__name__} is no data frame"
        raise DataError(fact, "give a pandas, polars or Arrow frame", where) from error
    except nw.exceptions.DuplicateError as error:
        fact = "two columns have the same name"
        raise DataError(fact, "give each column a name of its own", where) from error
    return found.collect() if isinstance(found, nw.LazyFrame) else found


def _check_columns(
    there: Sequence[str], columns: Columns, covariates: Sequence[str], where: str, valued: bool
) -> None:
    """Errors  DataError for the first column that is missing, and for a covariate that is something else too."""
    needed = [columns.time, *[columns.target] * valued, *covariates]
    if columns.id != PLAIN.id:
        needed.insert(0, columns.id)
    absent = [name for name in needed if name not in there]
    if absent:
        fact = f"there is no column {absent[0]!r}; there are: {', '.join(there)}"
        remedy = "rename: unique_id, ds, y, or say what they are called: id=, time=, target="
        raise DataError(fact, "add the covariate" if absent[0] in covariates else remedy, where)
    twice = [name for name in covariates if name in astuple(columns)]
    if twice:
        fact = f"column {twice[0]!r} is a covariate, and id, time or target"
        raise DataError(fact, "name it once", where)


def _column(column: nw.Series, name: str, ours: str) -> pl.Series:
    """The column in polars. ours: what it is.

    Errors  DataError for what polars has no type for, and for a column of mixed types.
    """
    try:
        zone = column.dtype.time_zone if isinstance(column.dtype, nw.Datetime) else None
        if zone is None:
            return _without_zone(column)
        utc = _without_zone(column.dt.convert_time_zone("UTC").dt.replace_time_zone(None))
        if zone not in available_timezones():
            zone = "UTC"  # polars knows no "UTC+01:00"; see `_wall`
        return utc.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        fact = f"its {column.dtype} cannot be read: {str(error).splitlines()[0]}"
        remedy = {"ds": "give dates, or whole numbers that count steps", "y": "give numbers"}
        told = remedy.get(ours, "give text or whole numbers")
        raise DataError(fact, told, f"frame, column {name}") from error


def _wall(column: nw.Series) -> list[pl.Series]:
    """What the clock showed where its zone is an offset without a name, as a column "wall"."""
    if not isinstance(column.dtype, nw.Datetime) or column.dtype.time_zone is None:
        return []
    if column.dtype.time_zone in available_timezones():
        return []
    return [_without_zone(column.dt.replace_time_zone(None)).alias("wall")]


def _without_zone(column: nw.Series) -> pl.Series:
    """From pandas by way of NumPy or of Python, since polars' own way asks for pyarrow."""
    if not column.implementation.is_pandas_like():
        return column.to_polars()
    if column.dtype.is_numeric() or column.dtype == nw.Datetime(time_zone=None):
        return pl.Series(column.to_numpy(), nan_to_null=True)
    # In a column of text pandas may write a missing value as NaN, the one value that is not itself.
    cells = pl.Series([None if v is None or v != v else v for v in column.to_list()], strict=False)
    if cells.dtype == pl.Object:
        raise TypeError(f"{type(column[0]).__name__} is not a kind of cell that tables have")
    return cells
