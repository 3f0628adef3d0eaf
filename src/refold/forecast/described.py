"""The covariates of a panel's series, from rows: beside their values, and ahead of their ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from .absent import refuse_unread
from .calendar import Frequency
from .covariates import PREFIX, Column, Values, encoded, refuse_changing, with_future
from .series import Series
from .stamps import as_array


def beside_of(series: Sequence[Series]) -> list[Values]:
    """The covariates of those that have any."""
    return [one.beside for one in series if one.beside]


def read_covariates(frame: pl.DataFrame, columns: Sequence[Column], where: str) -> pl.DataFrame:
    """Rows with their covariates as numbers.

    Errors  DataError for a cell that cannot be read, one that is missing where none may be, and a static covariate that
    changes.
    """
    read = encoded(frame, columns)
    refuse_unread(frame, read, columns, where)
    refuse_changing(read, columns, where)
    return read


def further(
    series: Sequence[Series],
    frame: pl.DataFrame,
    columns: Sequence[Column],
    frequency: Frequency,
    where: str,
) -> tuple[Series, ...]:
    """Series with what is known ahead, from the rows behind their ends."""
    known = tuple(c for c in columns if c.role == "known")
    last = np.stack([s.stamps[-1] for s in series])
    ends = pl.DataFrame({"unique_id": [s.name for s in series], "_end": last})
    later = frame.join(ends, on="unique_id", maintain_order="left")
    later = later.filter(pl.col("ds") > pl.col("_end"))
    read = encoded(later, known)
    refuse_unread(later, read, known, where)
    rows = {g["unique_id"][0]: g for g in read.partition_by("unique_id", maintain_order=True)}
    names = [PREFIX + c.name for c in known]
    found = []
    for one in series:
        group = rows.get(one.name)
        if group is not None and one.beside:
            cells, stamps = group.select(names).to_numpy(), as_array(group["ds"])
            start, length = one.stamps[0], len(one)
            beside = with_future(one.beside, stamps, cells, frequency, start, length)
            one = replace(one, beside=beside)
        found.append(one)
    return tuple(found)
