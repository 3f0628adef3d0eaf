"""The covariates of a panel on one scale, and as tensors beside a Past.

For a number that is missing stands the last one seen, before the first the mean of what was trained on; where any is
missing in what the model learned, a flag says so, a further number behind those of its kind. A category that is missing
has a level of its own, the last one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refold.data.beside import Beside, Held, Place
from refold.errors import DataError

from .covariates import Column, Role, Values
from .panel import Panel
from .series import Series

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Standard:
    """Centre and deviation of every column of numbers, in the order of the panel's columns, over what
    was trained on; 0 and 1 for categories."""

    centre: tuple[float, ...]
    unit: tuple[float, ...]


def standard(panel: Panel) -> Standard | None:
    """The scale of a panel's covariates, None without any."""
    if not panel.columns:
        return None
    pairs = [_measured(panel, column) for column in panel.columns]
    centre, unit = zip(*pairs, strict=True)
    return Standard(centre, unit)


def _measured(panel: Panel, column: Column) -> tuple[float, float]:
    if column.levels is not None:
        return 0.0, 1.0
    parts = [_of(s, panel, column)[: len(s)] for s in panel.series]
    values = np.concatenate(parts)
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    deviation = float(values.std())
    centre = float(values.mean())
    return centre, deviation if deviation > 1e-12 * abs(centre) else 1.0


def _of(series: Series, panel: Panel, column: Column) -> Floats:
    """The values of one column: (N + F,), (N,) or (1,), as its role has them."""
    values = _beside(series)
    place = [c.name for c in panel.columns if c.role == column.role].index(column.name)
    if column.role == "static":
        return values.static[place : place + 1]
    return (values.known if column.role == "known" else values.historical)[:, place]


def _beside(series: Series) -> Values:
    assert series.beside is not None
    return series.beside


def places(panel: Panel) -> dict[str, Place]:
    """Where each covariate of a panel stands in what `beside` gives, by name."""
    moving: tuple[Role, ...] = ("known", "historical")
    kinds: tuple[tuple[Held, tuple[Role, ...], bool], ...] = (
        ("numbers", moving, False),
        ("codes", moving, True),
        ("static", ("static",), False),
        ("static_codes", ("static",), True),
    )
    found = {}
    for held, roles, is_category in kinds:
        names = [c.name for role in roles for c, _ in _rows(panel, role, is_category)]
        for name in dict.fromkeys(names):
            found[name] = Place(held, tuple(i for i, own in enumerate(names) if own == name))
    return found


def _rows(panel: Panel, role: Role, is_category: bool) -> list[tuple[Column, bool]]:
    """The columns of one kind in the order of a `Beside`, and whether each is a flag of missing cells."""
    own = [c for c in panel.columns if c.role == role and (c.levels is not None) == is_category]
    flags = [(c, True) for c in own if c.absent and not is_category]
    return [*((c, False) for c in own), *flags]


def beside(panel: Panel, scale: Standard | None, columns: int, horizon: int) -> Beside | None:
    """Covariates beside a Past of so many columns, whose last one is the end of every series."""
    if scale is None:
        return None
    pairs = zip(panel.columns, scale.centre, scale.unit, strict=True)
    scales = {column.name: (centre, unit) for column, centre, unit in pairs}

    def held(role: Role, is_category: bool) -> list[Tensor]:
        found = []
        for column, is_flag in _rows(panel, role, is_category):
            rows = [_of(s, panel, column) for s in panel.series]
            rows = [_stood_in(row, column, is_flag, *scales[column.name]) for row in rows]
            if role != "static":
                pairs = zip(rows, panel.series, strict=True)
                rows = [_placed(row, len(s), columns, horizon) for row, s in pairs]
            found.append(torch.from_numpy(np.stack(rows)))
        return found

    known, known_codes = held("known", False), held("known", True)
    shape = (len(panel.series), columns + horizon)
    return Beside(
        _stack([*known, *held("historical", False)], shape).float(),
        _stack([*known_codes, *held("historical", True)], shape).long(),
        len(known),
        len(known_codes),
        _side([one[:, 0] for one in held("static", False)], len(panel.series)).float(),
        _side([one[:, 0] for one in held("static", True)], len(panel.series)).long(),
        _level_counts(panel),
    )


def _stood_in(row: Floats, column: Column, is_flag: bool, centre: float, unit: float) -> Floats:
    """One row on its scale, with what stands for missing cells; NaN stays where nothing is known."""
    gone = np.isinf(row)
    if is_flag:
        return np.where(np.isnan(row), np.nan, gone)
    if column.levels is not None:
        return np.where(gone, len(column.levels) + 1.0, row)
    row = (row - centre) / unit
    if not gone.any():
        return row
    last = np.maximum.accumulate(np.where(gone, -1, np.arange(len(row))))
    return np.where(last < 0, 0.0, row[last])


def _level_counts(panel: Panel) -> tuple[int, ...]:
    moving = [c for c in panel.columns if c.role != "static"]
    still = [c for c in panel.columns if c.role == "static"]
    each = [c for c in (*moving, *still) if c.levels is not None]
    return tuple(len(c.levels or ()) + 1 + c.absent for c in each)


def _stack(parts: list[Tensor], shape: tuple[int, int]) -> Tensor:
    return torch.stack(parts) if parts else torch.zeros(0, *shape)


def _side(parts: list[Tensor], number: int) -> Tensor:
    return torch.stack(parts, dim=-1) if parts else torch.zeros(number, 0)


def _placed(values: Floats, length: int, columns: int, horizon: int) -> Floats:
    """Values with their end, after `length` of them, at the last column: (columns + horizon,).

    Before the first and where nothing is known the nearest value stands; no error is counted there.
    """
    at = np.arange(length - columns, length + horizon).clip(0, len(values) - 1)
    found = values[at]
    return np.where(np.isnan(found), values[length - 1], found)


def check_future(panel: Panel, horizon: int) -> None:
    """Is all known that a forecast needs to know ahead?

    Errors  DataError with the first series, column and stamp that is not.
    """
    names = [c.name for c in panel.columns if c.role == "known"]
    if not names:
        return
    for series in panel.series:
        ahead = _beside(series).known[len(series) : len(series) + horizon]
        gone = np.isnan(
            np.concatenate([ahead, np.full((horizon - len(ahead), len(names)), np.nan)])
        )
        if gone.any():
            step, column = (int(i) for i in np.argwhere(gone)[0])
            stamp = panel.texts(panel.frequency.after(series.stamps[-1], horizon))[step]
            fact = (
                f"series {series.name}: known covariate {names[column]!r} has no value at {stamp}, "
            )
            fact += f"and {horizon} steps are to be forecast"
            remedy = "give rows behind the end with an empty target, or predict(future=), --future"
            raise DataError(fact, remedy)
