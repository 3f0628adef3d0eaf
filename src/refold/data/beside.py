"""Covariates as tensors beside a Past: what a network is told of them at an origin, and step by step.

Columns are those of the Past, and behind its end as many more as the horizon has: there only covariates
that are known ahead have values. Numbers are standardised; categories are codes, 0 for a level that was
not there when the network was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

# Numbers of covariates in a window at most, for all of them together: the series' own are to prevail.
_MOST = 64
# Further out than this a standardised number is an outlier, as in window.py.
_LIMIT = 6.0


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """The covariates of N series.

    Shapes  numbers (V, N, C + H) and codes (W, N, C + H), those known ahead first: known_numbers,
            known_codes of them. static (N, S), static_codes (N, R).
    levels: how many codes each column has, 0 included: of codes, then of static_codes.
    """

    numbers: Tensor
    codes: Tensor
    known_numbers: int
    known_codes: int
    static: Tensor
    static_codes: Tensor
    levels: tuple[int, ...]

    def near(self, recent: int) -> int:
        """How many values of each number are seen directly."""
        return max(4, min(recent, _MOST // max(1, len(self.numbers))))


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What goes beside the features of origins.

    Shapes  codes (T, B, W + R). ahead (t, B, H, A): numbers of every step, of the last t origins.
            ahead_codes (t, B, H, 1 + L, known_codes): codes at the step, and where the level and the
            continuations take theirs from. usual: the width that is usual in the panel.
    """

    codes: Tensor
    ahead: Tensor
    ahead_codes: Tensor
    usual: float


def rows_of(beside: Beside, rows: Tensor) -> Beside:
    """The covariates of some series."""
    return replace(
        beside,
        numbers=beside.numbers[:, rows],
        codes=beside.codes[:, rows],
        static=beside.static[rows],
        static_codes=beside.static_codes[rows],
    )


Held = Literal["numbers", "codes", "static", "static_codes"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one covariate stands in a `Beside`: the name of the tensor, and which of its columns."""

    held: Held
    columns: tuple[int, ...]

    def among(self, at: Tensor) -> Tensor:
        """Which of these columns are its own."""
        return torch.isin(at, torch.tensor(self.columns, dtype=torch.long))


def gathered(held: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """held (V, N, C) at columns (T, B, ...) of rows (B,): (T, B, ..., V)."""
    lead = rows.reshape(1, -1, *[1] * (columns.ndim - 2))
    flat = lead * held.shape[2] + columns.clamp(0, held.shape[2] - 1)
    return held.flatten(1)[:, flat].movedim(0, -1)


def near(numbers: Tensor) -> Tensor:
    """Standardised numbers, outliers cut."""
    return numbers.clamp(-_LIMIT, _LIMIT)


def seen(beside: Beside, recent: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Numbers at and before origins, and those that never change: (T, B, V near + S)."""
    back = columns[..., None] - torch.arange(beside.near(recent))
    window = gathered(beside.numbers, rows, back).flatten(2)
    static = beside.static[rows].expand(len(columns), -1, -1)
    return torch.cat([window, static], dim=-1).clamp(-_LIMIT, _LIMIT)


def is_seen(beside: Beside, place: Place, width: int) -> Tensor:
    """Which of `width` numbers that `seen` gives are of one covariate: (width,)."""
    at = torch.arange(width)
    window = width - beside.static.shape[-1]
    if place.held == "numbers":
        return (at < window) & place.among(at % len(beside.numbers))
    return place.among(at - window) & (at >= window) & (place.held == "static")


def exchanged(beside: Beside, told: Told, place: Place, order: Tensor) -> Told:
    """The same, with one covariate as other chains have it: order (B,) says which."""
    if place.held == "numbers":
        every = torch.arange(told.ahead.shape[-1]) % max(1, beside.known_numbers)
        return replace(told, ahead=_moved(told.ahead, place.among(every), order))
    if place.held == "static":
        return told
    first = len(beside.codes) if place.held == "static_codes" else 0
    codes = place.among(torch.arange(told.codes.shape[-1]) - first)
    found = replace(told, codes=_moved(told.codes, codes, order))
    if place.held == "static_codes":
        return found
    ahead = place.among(torch.arange(beside.known_codes))
    return replace(found, ahead_codes=_moved(told.ahead_codes, ahead, order))


def with_columns_of(held: Tensor, other: Tensor, place: Place) -> Tensor:
    """held (..., columns), with those of one covariate from another."""
    return torch.where(place.among(torch.arange(held.shape[-1])), other, held)


def _moved(held: Tensor, own: Tensor, order: Tensor) -> Tensor:
    return torch.where(own, held[:, order], held)


def codes(beside: Beside, rows: Tensor, columns: Tensor) -> Tensor:
    """Categories at origins: (T, B, W + R)."""
    here = gathered(beside.codes, rows, columns)
    return torch.cat([here, beside.static_codes[rows].expand(len(columns), -1, -1)], dim=-1)


def sources(columns: Tensor, horizon: int, lags: tuple[tuple[int, int], ...]) -> Tensor:
    """Each step, and where what is continued there comes from: (t, B, H, 1 + 1 + lags).

    The step itself, the origin, and of each (season, further) the step that many seasons back.
    """
    ahead = torch.arange(1, horizon + 1)
    step = columns[..., None] + ahead
    back = [step - (-(-ahead // season) + further) * season for season, further in lags]
    return torch.stack([step, columns[..., None].expand_as(step), *back], dim=-1)


def ahead(beside: Beside, places: Tensor, level: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Numbers of every step, and how far they are from where the forecast takes its values: (t, B, H, A).

    level: steps over which the level of the series is a mean.
    """
    known = beside.numbers[: beside.known_numbers]
    held = gathered(known, rows, places)
    now, from_ = held[..., 0, :], held[..., 1:, :]
    mean = gathered(known, rows, columns[..., None] - torch.arange(level)).mean(dim=2)
    away = (now[..., None, :] - from_).flatten(3)
    return torch.cat([now, now - mean[..., None, :], away], dim=-1).clamp(-_LIMIT, _LIMIT)


def told(
    beside: Beside,
    rows: Tensor,
    columns: Tensor,
    last: int,
    horizon: int,
    lags: tuple[tuple[int, int], ...],
    level: int,
    usual: float,
) -> Told:
    """All of it for chains of origins, the last of which are forecast from."""
    near = columns[-last:]
    places = sources(near, horizon, lags)
    return Told(
        codes(beside, rows, columns),
        ahead(beside, places, level, rows, near),
        gathered(beside.codes[: beside.known_codes], rows, places),
        usual,
    )
