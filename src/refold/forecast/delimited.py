"""Cells of a text file, whatever stands between them; all of them as text.

Polars reads them. Where it cannot, the file is gone through once more, for the row that is to blame.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from refold.errors import DataError

from .stamps import as_numbers

_SEPARATORS = ",;\t|"
# A first line with more numbers than this is no row of data whose header is missing.
_FEW = 10


def read_delimited(path: Path) -> tuple[pl.DataFrame, int]:
    """The rows, without blank ones at the end, and the number of the first as an editor counts lines.

    Errors  DataError with the row that cannot be read, and for a header that names no columns.
    """
    text = _whole_text(path)
    lines = enumerate(io.BytesIO(text))
    above, header = next(((i, line.decode()) for i, line in lines if line.strip()), (0, ""))
    separator = max(_SEPARATORS, key=header.count)
    names = [cell.strip() for cell in next(csv.reader([header], delimiter=separator), [])]
    _refuse_headless(names, path.name)
    _refuse_twice(names, path.name)
    try:
        frame = pl.read_csv(text, separator=separator, infer_schema=False)
    except pl.exceptions.NoDataError as error:
        raise DataError("it is empty", "give a table with rows", path.name) from error
    except pl.exceptions.PolarsError as error:
        raise _fault(text.decode(), separator, path.name) from error
    frame = frame.rename({name: name.strip() for name in frame.columns})
    frame = frame.with_columns(pl.all().str.strip_chars())
    # Blank lines at the end of a file are no rows.
    held = ~blank(frame)
    kept = frame.head(int(held.arg_true()[-1]) + 1) if held.any() else frame.clear()
    return kept, above + 2


def blank(frame: pl.DataFrame) -> pl.Series:
    """Which rows hold nothing?"""
    cells = [
        pl.col(name).is_null() | (pl.col(name) == "" if dtype == pl.String else pl.lit(False))
        for name, dtype in frame.schema.items()
    ]
    return frame.select(pl.all_horizontal(cells)).to_series()


def _whole_text(path: Path) -> bytes:
    """What is in the file, without a mark in front.

    Errors  DataError with the first row that is not UTF-8.
    """
    held = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        held.decode()
    except UnicodeDecodeError as error:
        row = held[: error.start].count(b"\n") + 1
        fact = f"row {row} is not text in UTF-8"
        raise DataError(fact, "save the file as UTF-8 (Excel: CSV UTF-8)", path.name) from error
    return held


def _fault(text: str, separator: str, where: str) -> DataError:
    """The first row that is to blame."""
    rows, count = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True), 0
    try:
        for cells in rows:
            count = count or len(cells)
            if len(cells) > count:
                fact = f"row {rows.line_num} has {len(cells)} cells, and the header names {count}"
                remedy = f'put a cell that holds {separator!r} in quotes ("), or mend that row'
                return DataError(fact, remedy, where)
    except csv.Error:
        pass
    fact = f"row {rows.line_num} cannot be split into cells: it may hold half a pair of quotes"
    return DataError(fact, 'close the quote, or write "" for a quote inside of a cell', where)


def _refuse_headless(names: Sequence[str], where: str) -> None:
    """A header of fractions is a first row of data: the wide form, or a lost header."""
    numbers = as_numbers(pl.Series(names, dtype=pl.String))
    found = [name for name, y in zip(names, numbers, strict=True) if y is not None and "." in name]
    if not found:
        return
    fact = f"the first line should name the columns, but holds the number {found[0]}"
    remedy = "add a header; one row per time, and a column that names the series if several"
    if len(found) > _FEW:
        fact = f"the first line should name the columns, but holds {len(found)} numbers, as "
        fact += f"{found[0]} and {found[1]}: a row seems to be a whole series"
        remedy = "turn it: one row per time, and one column per series under a header (then give "
        remedy += "--target all), or a column that names the series"
    raise DataError(fact, remedy, where)


def _refuse_twice(names: Sequence[str], where: str) -> None:
    for name in names:
        if name and names.count(name) > 1:
            fact = f"{names.count(name)} columns have the name {name!r}"
            raise DataError(fact, "give each column a name of its own", where)
