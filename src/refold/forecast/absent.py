"""Cells of covariates that are missing: where they may be, how many there are, and what is said of them.

Where cells of a column are missing in what a model is trained on, it learns what that means: numbers go on from the
last one seen, before the first from the mean of what was trained on, and a further input says so; of a category
it is a level of its own (`beside.py`). In a column that had none, a missing cell later on is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from refold.errors import DataError

from . import calendar
from .calendar import Stamps
from .covariates import PREFIX, Column, Values


def settled(columns: Sequence[Column], held: Sequence[Values]) -> tuple[Column, ...]:
    """The columns, with whether cells are missing in the values of these series."""
    return tuple(replace(c, absent=bool(counted(columns, c, held)[0])) for c in columns)


def counted(columns: Sequence[Column], column: Column, held: Sequence[Values]) -> tuple[int, int]:
    """How many cells of a column are missing, and how many there are, up to the ends of series."""
    place = [c.name for c in columns if c.role == column.role].index(column.name)
    if column.role == "static":
        cells = [values.static[place : place + 1] for values in held]
    elif column.role == "historical":
        cells = [values.historical[:, place] for values in held]
    else:
        cells = [values.known[: len(values.historical), place] for values in held]
    return sum(int(np.isinf(one).sum()) for one in cells), sum(map(len, cells))


def note_of_absent(columns: Sequence[Column], held: Sequence[Values]) -> tuple[str, ...]:
    """In words how many cells are missing, and what stands for them."""
    told = []
    for column in columns:
        if column.absent:
            gone, of = counted(columns, column, held)
            told.append(f"{gone:,} of {of:,} of {column.name}")
    if not told:
        return ()
    what = "numbers go on from the last one seen, or else the mean, and a further input says so; "
    what += "of a category it is a level of its own"
    return (f"missing cells of covariates: {', '.join(told)}; {what}",)


def refuse_gaps(
    name: str, values: Values, columns: Sequence[Column], stamps: Stamps, where: str
) -> None:
    """Errors  DataError where a stamp has no row, so that its covariates are missing, and none was before."""
    length = len(values.historical)
    both = np.concatenate([values.known[:length], values.historical], axis=1)
    moving = [c for role in ("known", "historical") for c in columns if c.role == role]
    gone = np.isinf(both) & [not c.absent for c in moving]
    if gone.any():
        named = moving[int(gone.any(axis=0).argmax())].name
        gone = gone.any(axis=1)
        fact = f"series {name} has no row for {calendar.text(stamps[int(gone.argmax())])}, so "
        fact += f"covariate {named!r} is not known there"
        raise DataError(fact, "give the row, with an empty target where it was not observed", where)


def refuse_unread(
    raw: pl.DataFrame, read: pl.DataFrame, columns: Sequence[Column], where: str
) -> None:
    """Errors  DataError with the first cell that could not be read, or is missing where the model has seen none
    missing: series, column, row. raw: rows as they were given, among them all of read."""
    for column in columns:
        cells = read[PREFIX + column.name]
        bad = cells.is_null() | (cells.is_infinite().fill_null(False) & (not column.absent))
        if bad.any():
            at = int(bad.arg_max() or 0)
            row, stamp = read["row"][at], read["ds"][at]
            what, remedy = "is missing", "fill it in: none was missing before, so none was learned"
            if cells[at] is None:
                cell = raw.filter(pl.col("row") == row)[PREFIX + column.name][0]
                what = f"{cell!r} is no finite number"
                remedy = "mend it, leave the cell empty, or leave the covariate out"
            fact = f"series {read['unique_id'][at]}, row {row}: {column.role} covariate "
            fact += f"{column.name!r} at {stamp} {what}"
            raise DataError(fact, remedy, where)
