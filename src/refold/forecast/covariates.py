"""What is known beside a series: which columns, what kind each is, and their values on its grid.

static      the same in every row of a series: a country, a size
known       known ahead: a holiday, a price that is set; its values behind the end of a series stand in
            rows without a target
historical  known up to the last value of a series: a temperature, another series

Numbers stay as they are until a model is trained (`beside.py` has its scale). Text, booleans and what is
named as categorical become codes: 1, 2, ... in the order of the alphabet, 0 for a level that the model
does not know. A cell that is missing stays missing here: ABSENT. What stands for it is in `beside.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from refold.errors import DataError

from .calendar import Frequency, Stamps
from .stamps import MISSING, as_numbers

Floats = NDArray[np.float64]
Role = Literal["known", "historical", "static"]

# A cell that is missing: no number of a table is infinite. NaN is where nothing is known, behind what was given.
ABSENT = np.inf
# Columns of covariates in a frame of refold's own: apart from unique_id, ds, y, row.
PREFIX = "x:"
# A column of text is one of numbers where this share of its cells are: one bad cell is an error.
_MOST = 0.8
_ROLES: tuple[Role, ...] = ("known", "historical", "static")


@dataclass(frozen=True, slots=True)
class Covariates:
    """The names of columns beside the target, by what is known of them and when.

    categorical: those among them whose numbers are names, such as 7 for a shop; text always is.

    Errors  DataError for a column with two roles.

    Example
        >>> Covariates(static=("country",), known=("promo", "price"), historical=("temperature",))
    """

    static: Sequence[str] = ()
    known: Sequence[str] = ()
    historical: Sequence[str] = ()
    categorical: Sequence[str] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            given = getattr(self, field.name)
            if isinstance(given, str) or not all(isinstance(name, str) for name in given):
                fact = f"{field.name} is {given!r}"
                raise DataError(fact, 'give names of columns, such as ["promo"]', "Covariates")
            object.__setattr__(self, field.name, tuple(given))
        for name in self.names:
            if self.names.count(name) > 1:
                fact = f"column {name!r} is named {self.names.count(name)} times"
                raise DataError(fact, "name it once: static, known or historical", "Covariates")
        for name in self.categorical:
            if name not in self.names:
                fact = f"column {name!r} is named as categorical, and as nothing else"
                raise DataError(fact, "name it as static, known or historical too", "Covariates")

    @property
    def names(self) -> tuple[str, ...]:
        """All of them: known, historical, static."""
        return tuple(name for role in _ROLES for name in getattr(self, role))

    def __bool__(self) -> bool:
        return bool(self.names)


NO_COVARIATES = Covariates()


@dataclass(frozen=True, slots=True)
class Column:
    """One covariate. levels: of a category, those that there are; None for numbers. absent: were cells missing in what
    the model was trained on? In no other column may they be."""

    name: str
    role: Role
    levels: tuple[str, ...] | None = None
    absent: bool = False

    def __str__(self) -> str:
        kind = "numbers" if self.levels is None else f"{len(self.levels)} levels"
        return f"{self.name} ({self.role}, {kind}{', some missing' * self.absent})"

    def read(self, cells: pl.Series) -> pl.Series:
        """Numbers, or codes of levels: float64, ABSENT where nothing is given, null where it is no number."""
        if self.levels is None:
            numbers = as_numbers(cells)
            read = pl.when(_is_empty(cells)).then(ABSENT).when(numbers.is_finite()).then(numbers)
            return pl.select(read).to_series()
        codes = pl.Series(range(1, len(self.levels) + 1), dtype=pl.Float64)
        text = _texts(cells)
        found = text.replace_strict(list(self.levels), codes, default=0.0, return_dtype=pl.Float64)
        return pl.select(pl.when(text.is_null()).then(ABSENT).otherwise(found)).to_series()


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """The covariates of one series of N values.

    Shapes  known (N + F, K), where F rows are behind its end; historical (N, P); static (S,).
    """

    known: Floats
    historical: Floats
    static: Floats

    def part(self, start: int, stop: int) -> Values:
        """Beside values start to stop; what is known ahead stays known."""
        return Values(self.known[start:], self.historical[start:stop], self.static)

    def followed_by(self, later: Values, length: int) -> Values:
        """Beside N = length values and those that follow."""
        known = np.concatenate([self.known[:length], later.known])
        if len(self.known) > len(known):  # more was known ahead than has come
            known = np.concatenate([known, self.known[len(known) :]])
        return Values(known, np.concatenate([self.historical, later.historical]), self.static)


def _texts(cells: pl.Series) -> pl.Series:
    text = cells.cast(pl.String)
    return pl.select(pl.when(~text.is_in(MISSING)).then(text)).to_series()


def _is_empty(cells: pl.Series) -> pl.Series:
    if cells.dtype == pl.String:
        return cells.is_null() | cells.is_in(MISSING).fill_null(False)
    gone = cells.is_nan() if cells.dtype.is_float() else pl.Series([False] * len(cells))
    return cells.is_null() | gone.fill_null(False)


def columns_of(frame: pl.DataFrame, given: Covariates) -> tuple[Column, ...]:
    """What kind each column is, from what it holds; whether cells are missing is found out later."""
    return tuple(
        Column(name, role, _levels(frame[PREFIX + name], name in given.categorical), absent=True)
        for role in _ROLES
        for name in getattr(given, role)
    )


def _levels(cells: pl.Series, is_named: bool) -> tuple[str, ...] | None:
    known = _texts(cells).drop_nulls()
    numeric = cells.dtype.is_numeric()
    if cells.dtype == pl.String:
        numbers = as_numbers(known)
        numeric = len(numbers) - numbers.null_count() >= _MOST * len(numbers)
    return None if numeric and not is_named else tuple(known.unique().sort())


def of_columns(columns: Sequence[Column]) -> Covariates:
    """The names that these columns were given by."""
    names = {role: tuple(c.name for c in columns if c.role == role) for role in _ROLES}
    return Covariates(**names, categorical=tuple(c.name for c in columns if c.levels is not None))


def encoded(frame: pl.DataFrame, columns: Sequence[Column]) -> pl.DataFrame:
    """The frame with its covariates as numbers and codes; see `Column.read`."""
    return frame.with_columns(
        c.read(frame[PREFIX + c.name]).alias(PREFIX + c.name) for c in columns
    )


def refuse_changing(read: pl.DataFrame, columns: Sequence[Column], where: str) -> None:
    """Errors  DataError with the first static covariate that is not the same in all rows of a series."""
    for column in columns:
        if column.role != "static":
            continue
        cell = pl.col(PREFIX + column.name)
        first = cell.filter(cell.is_finite()).first().over("unique_id")
        away = read.select((cell.is_finite() & (cell != first)).fill_null(False)).to_series()
        if away.any():
            at = int(away.arg_max() or 0)
            fact = f"series {read['unique_id'][at]}, row {read['row'][at]}: static covariate "
            fact += f"{column.name!r} differs from the rows before"
            raise DataError(fact, "make it the same in all, or name it as known", where)


def values_of(group: pl.DataFrame, columns: Sequence[Column], places: NDArray[np.int64]) -> Values:
    """The covariates of one series, from its rows and their places on its grid. In gaps they are missing."""

    def of(role: Role) -> Floats:
        names = [PREFIX + c.name for c in columns if c.role == role]
        found = np.full((int(places[-1]) + 1, len(names)), ABSENT)
        found[places] = group.select(names).to_numpy().reshape(len(places), -1)
        return found

    return Values(of("known"), of("historical"), _first_given(of("static")))


def _first_given(static: Floats) -> Floats:
    """Of every column (N, S) the first cell that is not missing, or ABSENT: (S,)."""
    at = np.isfinite(static).argmax(axis=0)
    return static[at, np.arange(static.shape[1])]


def with_future(
    values: Values, stamps: Stamps, rows: Floats, frequency: Frequency, start: Stamps, length: int
) -> Values:
    """What is known ahead, from rows (F, K) at stamps; those that have passed are left out."""
    places = frequency.grid(stamps, start)
    kept = (places >= length) & (places % 1 == 0)
    places, rows = places[kept].astype(np.int64), rows[kept]
    if not len(places):
        return values
    known = np.full((max(len(values.known), int(places.max()) + 1), rows.shape[1]), np.nan)
    known[: len(values.known)] = values.known
    known[places] = rows
    return replace(values, known=known)
