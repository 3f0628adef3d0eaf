"""From a CSV or Parquet file to three columns: whose value, when, and the value.

Columns that are not named are guessed from what they hold, never from the order they stand in.
Everything is read as text first, so that an error can show a cell as it stands in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from refold.errors import DataError

from .covariates import NO_COVARIATES, PREFIX, Covariates
from .delimited import blank, read_delimited
from .stamps import (
    MISSING,
    NUMBERED_HINTS,
    are_compact,
    as_numbers,
    date_formats,
    is_temporal,
)

# A column belongs to a kind when this share of its cells does: one bad cell is then an error that
# names the row, and not a column of another kind.
_MOST = 0.8
_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column is which. None: there is none (one series; rows are numbered)."""

    target: str
    time: str | None = None
    id: str | None = None


# What the columns of a data frame are called where nothing is said.
PLAIN = Columns("y", "ds", "unique_id")


@dataclass(frozen=True, slots=True)
class Table:
    """A file's rows as (unique_id, ds, y, row), and how they came about.

    frame: unique_id text, ds as it stood in the file (text, a date or a number), y text or number,
    row the line in the file, and covariates under a prefix. name is the file's stem; notes say what was
    guessed.
    """

    frame: pl.DataFrame
    columns: Columns
    name: str
    source: str
    notes: tuple[str, ...]
    covariates: Covariates = NO_COVARIATES

    def under(self, *names: str) -> Table:
        """The same rows as those of each series of these names."""
        each = [self.frame.with_columns(unique_id=pl.lit(name)) for name in names]
        return replace(self, frame=pl.concat(each))


def read_table(
    path: str | Path,
    target: str | None = None,
    time: str | None = None,
    id: str | None = None,
    covariates: Covariates = NO_COVARIATES,
) -> Table:
    """The rows of a file in long form: one row per series and time.

    Columns that are named as covariates are no candidates for anything else. Where each column is a
    series (the wide form), target names several, "a,b,c", or "all": all of numbers that are left.

    Errors  DataError for a file that is not there or cannot be read, a column that does not exist,
    and a guess that is not unique; the text lists the candidates and the flag to give.
    """
    path = Path(path)
    raw, first_row = _read(path)
    wide = _wide(raw, Columns(target or "", time, id), path.name, covariates.names)
    given = Columns(wide[0] if wide else target or "", time, id)
    columns, notes = _choose(raw, given, path.name, (*covariates.names, *wide[1:]))
    if wide:
        _refuse_two_ids(id, wide, path.name)
        columns = replace(columns, id=None)  # a text beside them was only guessed to be one
    numbers = pl.int_range(first_row, first_row + raw.height, dtype=pl.Int64)
    ids = pl.lit(path.stem) if columns.id is None else pl.col(columns.id).cast(pl.String)
    steps = pl.int_range(1, pl.len() + 1, dtype=pl.Int64)
    if columns.id is not None:
        steps = steps.over(columns.id)
    stamps = steps if columns.time is None else pl.col(columns.time)
    # A blank line between rows is no row. Where rows are only numbered, it is a missing value.
    is_row = ~blank(raw) if columns.time is not None else pl.repeat(True, raw.height, eager=True)

    def rows_of(name: str, whose: pl.Expr) -> pl.DataFrame:
        return raw.select(
            whose.alias("unique_id"),
            stamps.alias("ds"),
            pl.col(name).alias("y"),
            numbers.alias("row"),
            *(pl.col(beside).alias(PREFIX + beside) for beside in covariates.names),
        ).filter(is_row)

    frame = rows_of(columns.target, ids)
    if wide:
        columns = replace(columns, target=str(target))
        frame = pl.concat([rows_of(name, pl.lit(name)) for name in wide], how="vertical_relaxed")
        notes.append(f"each of {len(wide)} columns is a series")
    return Table(frame, columns, path.stem, path.name, tuple(notes), covariates)


def _wide(raw: pl.DataFrame, given: Columns, where: str, beside: Sequence[str]) -> tuple[str, ...]:
    """The columns that are a series each, where the target names several, or all; else ()."""
    if given.target in raw.columns or not (given.target == "all" or "," in given.target):
        return ()
    if given.target != "all":
        found = tuple(name.strip() for name in given.target.split(","))
        for name in found:
            if name not in raw.columns or found.count(name) > 1:
                fact = f"there is no column {name!r}; there are: {_listed(raw.columns)}"
                if name in raw.columns:
                    fact = f"column {name!r} is named twice"
                raise DataError(fact, "name each series once, as --target a,b,c", where)
        return found
    kinds = {n: _kind(raw[n]) for n in raw.columns if n not in (given.time, given.id, *beside)}
    time = given.time or _guess_time(raw, kinds, True, where)
    found = tuple(n for n, kind in kinds.items() if kind in ("whole", "number") and n != time)
    if not found:
        fact = f"there is no column of numbers; there are: {_listed(raw.columns)}"
        raise DataError(fact, "name the columns to forecast: --target a,b,c", where)
    return found


def _refuse_two_ids(id: str | None, wide: Sequence[str], where: str) -> None:
    if id is not None:
        fact = f"column {id!r} names series, and so do the {len(wide)} columns to forecast"
        raise DataError(fact, "name one target, or leave that column out", where)


def read_future(path: str | Path, columns: Columns, known: Sequence[str]) -> Table:
    """The rows of a file of what is known ahead: the time, the series and these covariates.

    Errors  DataError for a file that cannot be read, and for a column that is not there.
    """
    path = Path(path)
    raw, first_row = _read(path)
    needed = [name for name in (columns.time, columns.id) if name]
    for name in (*needed, *known):
        if name not in raw.columns:
            fact = f"there is no column {name!r}; there are: {_listed(raw.columns)}"
            raise DataError(fact, "add it, named as in the first table", path.name)
    if columns.time is None:
        fact = "the rows of the first table say no time, so what is ahead of them has none"
        raise DataError(fact, "add a column of steps or dates to both", path.name)
    frame = raw.select(
        (pl.lit(path.stem) if columns.id is None else pl.col(columns.id).cast(pl.String)).alias(
            "unique_id"
        ),
        pl.col(columns.time).alias("ds"),
        pl.int_range(first_row, first_row + raw.height, dtype=pl.Int64).alias("row"),
        *(pl.col(name).alias(PREFIX + name) for name in known),
    )
    return Table(frame.filter(~blank(raw)), columns, path.stem, path.name, ())


def _read(path: Path) -> tuple[pl.DataFrame, int]:
    """The rows, and the number of the first one as an editor counts lines."""
    if not path.is_file():
        fact = f"{path} is a folder" if path.is_dir() else f"there is no file {path}"
        raise DataError(fact, "check the path", "FILE")
    if path.suffix.lower() not in _SUFFIXES:
        held = f"the extension {path.suffix!r}" if path.suffix else "a name without an extension"
        fact = f"{held} is not one of {' '.join(_SUFFIXES)}"
        raise DataError(fact, "save the table as CSV or Parquet", path.name)
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            # pandas writes its row labels along when they are not 0, 1, 2 ...
            labels = r"^__index_level_\d+__$"
            frame, first_row = pl.read_parquet(path).select(pl.exclude(labels)), 1
        else:
            frame, first_row = read_delimited(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        fact = f"it cannot be read: {str(error).splitlines()[0]}"
        raise DataError(fact, "open it and check that it is a whole table", path.name) from error
    if not frame.height:
        raise DataError("there are no rows below the header", "give a table with rows", path.name)
    return frame, first_row


def _choose(
    raw: pl.DataFrame, given: Columns, where: str, beside: Sequence[str] = ()
) -> tuple[Columns, list[str]]:
    """The named columns, and guesses for the others."""
    for flag, name in (("--target", given.target), ("--time", given.time), ("--id", given.id)):
        if name and name not in raw.columns:
            fact = f"there is no column {name!r}; there are: {_listed(raw.columns)}"
            raise DataError(fact, f"give one of them to {flag}", where)
    for name in beside:
        if name not in raw.columns or name in (given.target, given.time, given.id):
            fact = f"there is no column {name!r} for a covariate; there are: {_listed(raw.columns)}"
            raise DataError(fact, "name one that is neither target, time nor id", where)
    taken = (given.target, given.time, given.id, *beside)
    free = [name for name in raw.columns if name not in taken]
    kinds = {name: _kind(raw[name]) for name in free}
    time = given.time or _guess_time(raw, kinds, bool(given.target), where)
    kinds.pop(time or "", None)
    target = given.target or _guess_target(kinds, where)
    kinds.pop(target, None)
    ident = given.id or _guess_id(raw, kinds, time, where)
    chosen = Columns(target, time, ident)
    notes = []
    if time is None:
        notes.append("no column of dates or steps: rows are numbered 1, 2, 3 ...")
    unused = [name for name in raw.columns if name not in (target, time, ident, *beside)]
    if unused:
        notes.append(f"columns not used: {_listed(unused)}")
    return chosen, notes


def _kind(column: pl.Series) -> str:
    """ "time", "whole", "number", "text" or "empty"."""
    if is_temporal(column.dtype):
        return "time"
    known = column.drop_nulls()
    if column.dtype == pl.String:
        known = known.filter(~known.is_in(MISSING))
    if not len(known):
        return "empty"
    if column.dtype in (pl.Categorical, pl.Enum, pl.Boolean):
        return "text"
    numbers = as_numbers(known)
    if len(numbers) - numbers.null_count() >= _MOST * len(numbers):
        if are_compact(known):
            return "time"
        whole = (numbers.drop_nulls() % 1 == 0).fill_null(False).all()
        return "whole" if whole else "number"
    if column.dtype == pl.String and date_formats(known, _MOST):
        return "time"
    return "text"


def _guess_time(raw: pl.DataFrame, kinds: dict[str, str], has_target: bool, where: str):
    dates = [name for name, kind in kinds.items() if kind == "time"]
    if "ds" in kinds and kinds["ds"] in ("time", "whole"):
        return "ds"
    if len(dates) > 1:
        fact = f"{len(dates)} columns hold dates: {_listed(dates)}"
        raise DataError(fact, f"say which is the time: --time {_quoted(dates[0])}", where)
    if dates:
        return dates[0]
    whole = [name for name, kind in kinds.items() if kind == "whole"]
    numeric = [name for name, kind in kinds.items() if kind in ("whole", "number")]
    if not has_target and len(numeric) < 2:
        return None  # the only number is the target
    hinted = [name for name in whole if name.lower() in NUMBERED_HINTS]
    counting = hinted or [name for name in whole if _counts_up(raw[name])]
    if len(counting) > 1:
        fact = f"{len(counting)} columns could number the rows: {_listed(counting)}"
        raise DataError(fact, f"say which is the time: --time {_quoted(counting[0])}", where)
    return counting[0] if counting else None


def _counts_up(column: pl.Series) -> bool:
    steps = as_numbers(column).diff().drop_nulls().unique()
    return len(steps) == 1 and steps[0] != 0


def _guess_target(kinds: dict[str, str], where: str) -> str:
    numeric = [name for name, kind in kinds.items() if kind in ("whole", "number")]
    if "y" in numeric:
        return "y"
    if len(numeric) == 1:
        return numeric[0]
    if not numeric:
        held = ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "no other column"
        fact = f"no column of numbers is left for the target; there are: {held}"
        raise DataError(fact, "name the column to forecast: --target COLUMN", where)
    fact = f"{len(numeric)} columns hold numbers: {_listed(numeric)}"
    remedy = f"say which to forecast: --target {_quoted(numeric[0])}"
    if "whole" in kinds.values():
        remedy += ", and if one of them names the series: --id COLUMN"
    remedy += "; if each column is a series: --target all"
    raise DataError(fact, remedy, where)


def _guess_id(raw: pl.DataFrame, kinds: dict[str, str], time: str | None, where: str) -> str | None:
    if "unique_id" in kinds:
        return "unique_id"
    held = [name for name, kind in kinds.items() if kind == "text"]
    # A text that is another one in every row names no series: it is a remark, or a date.
    texts = [name for name in held if raw.height < 2 or raw[name].n_unique() < raw.height]
    if held and not texts and time is None:
        cell = raw[held[0]].drop_nulls()[0]
        fact = f"column {held[0]!r} has another text in every row, for example {cell!r}: it names "
        fact += "no series, and no date format fits it"
        raise DataError(fact, "write dates as YYYY-MM-DD, or leave the column out", where)
    if len(texts) > 1:
        fact = f"{len(texts)} columns hold text: {_listed(texts)}"
        raise DataError(fact, f"say which names the series: --id {_quoted(texts[0])}", where)
    return texts[0] if texts else None


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _quoted(name: str) -> str:
    return name if name.isidentifier() else f"'{name}'"
