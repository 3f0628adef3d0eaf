"""Irregular stamps brought to one spacing, where it is asked for: rows of one step become one value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import polars as pl

from refold.errors import DataError

from .covariates import PREFIX

Aggregate = Literal["mean", "sum", "last"]

# Steps that begin where they are named for: a month that ends is another one in every month.
_EVERY = {"s": "s", "min": "m", "h": "h", "D": "d", "W": "w", "MS": "mo", "QS": "q", "YS": "y"}
_ALIAS = re.compile(r"^(\d*)\s*([A-Za-z]+)$")


def every(alias: str) -> str:
    """The step that an alias names, as polars has it.

    Errors  DataError for an alias that is no such step.

    Example
        >>> every("30min")
        '30m'
    """
    found = _ALIAS.match(alias.strip())
    if not found or found[2] not in _EVERY or found[1] == "0":
        fact = f"{alias!r} is no step to resample to"
        remedy = f"give one of {' '.join(_EVERY)}, with a number in front for multiples"
        raise DataError(fact, remedy, "resample")
    return (found[1] or "1") + _EVERY[found[2]]


@dataclass(frozen=True, slots=True)
class Resample:
    """To which step, as pandas names it, and what becomes of the values of one.

    Errors  DataError for a step or an aggregate that is none.
    """

    step: str
    aggregate: Aggregate = "mean"

    def __post_init__(self) -> None:
        every(self.step)
        if self.aggregate not in get_args(Aggregate):
            remedy = f"give one of {', '.join(get_args(Aggregate))}"
            raise DataError(f"aggregate is {self.aggregate!r}", remedy, "resample")


def resampled(
    frame: pl.DataFrame, how: Resample, covariates: Sequence[str], where: str
) -> pl.DataFrame:
    """One row per series and step: stamped with the start of the step.

    The observed values of a step become their mean, sum or last; a step without any has no row, and is
    missing. Of covariates the last cell of a step that is not empty is taken. row is that of the step's first row.

    Errors  DataError for steps that are only numbered.
    """
    if frame["ds"].dtype.is_integer():
        fact = "the time column holds whole numbers, which cannot be brought to a step of dates"
        raise DataError(fact, "give dates, or leave the resampling out", where)
    y = pl.col("y").drop_nulls()
    of = {"mean": y.mean(), "sum": y.sum(), "last": y.last()}[how.aggregate]
    # The sum of no value at all is 0, and nothing was observed.
    value = pl.when(y.len() > 0).then(of).alias("y")
    last = [pl.col(PREFIX + name).drop_nulls().last() for name in covariates]
    placed = frame.sort("ds", maintain_order=True).with_columns(
        pl.col("ds").dt.truncate(every(how.step))
    )
    keys = ["unique_id", "ds"]
    return placed.group_by(keys, maintain_order=True).agg(value, pl.col("row").min(), *last)
