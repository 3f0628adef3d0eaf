"""A few newer rows, as one who forecasts step by step has them: read without a query engine.

Everything that has to be interpreted, sorted or refused is left to `panel.from_frame`, which takes
a hundred times as long.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import narwhals as nw
import numpy as np

from .calendar import Stamps
from .panel import Panel, Series
from .table import PLAIN, Columns

# Rows are told apart one by one.
_FEW = 1000


def plain_rows(frame: Any, like: Panel, columns: Columns = PLAIN) -> Panel | None:
    """Rows that say plainly what they are, as `from_frame(frame, like=like, columns=columns)` reads them.

    They have stamps without a time zone or whole numbers, numbers that are finite, names that are
    text, and stand in the order of time. None for all others: they may be right or wrong.
    """
    if like.columns or like.frequency.kind == "irregular":
        return None
    try:
        found = nw.from_native(frame, eager_only=True)
    except (TypeError, nw.exceptions.DuplicateError):
        return None
    needed, time = {columns.target, columns.time}, str(columns.time)
    if not needed <= set(found.columns) <= needed | {columns.id} or not 0 < len(found) <= _FEW:
        return None
    names = _names(found, columns)
    stamps, values = _stamps(found[time], like), _values(found[columns.target])
    if names is None or stamps is None or values is None:
        return None
    series = tuple(_series(names, stamps, values))
    return replace(like, series=series, notes=()) if _are_spaced(series, like) else None


def _names(frame: nw.DataFrame[Any], columns: Columns) -> list[str] | None:
    if columns.id not in frame.columns:
        # Where another name was given, `from_frame` says that there is no such column.
        return [columns.target] * len(frame) if columns.id == PLAIN.id else None
    column = frame[columns.id]
    if not (column.dtype == nw.String or column.dtype.is_integer()) or column.null_count():
        return None
    return [str(name) for name in column.to_list()]


def _stamps(column: nw.Series[Any], like: Panel) -> Stamps | None:
    kind, numbered = column.dtype, like.series[0].stamps.dtype.kind == "i"
    if column.null_count() or like.clock is not None:
        return None
    if numbered:
        return column.to_numpy().astype(np.int64) if kind.is_integer() else None
    if kind != nw.Date and not (isinstance(kind, nw.Datetime) and kind.time_zone is None):
        return None
    return column.to_numpy().astype("datetime64[us]")


def _values(column: nw.Series[Any]) -> np.ndarray | None:
    if not column.dtype.is_numeric() or column.null_count():
        return None
    values = column.to_numpy().astype(np.float64)
    return values if np.isfinite(values).all() else None


def _series(names: list[str], stamps: Stamps, values: np.ndarray) -> list[Series]:
    """Rows by name, in order of appearance."""
    if len(set(names)) == 1:
        return [Series(names[0], stamps, values)]
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return [Series(name, stamps[own], values[own]) for name, own in rows.items()]


def _are_spaced(series: tuple[Series, ...], like: Panel) -> bool:
    grids = (like.frequency.grid(s.stamps, s.stamps[0]) for s in series)
    return all((at == np.arange(len(at))).all() for at in grids)
