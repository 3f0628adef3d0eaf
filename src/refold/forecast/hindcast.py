"""Forecasts from origins that were trained on, beside what came: how scores of steps hang together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from refold.data import window
from refold.data.window import Past

from . import windows
from .course import Course
from .model import OriginNetwork, forecast
from .sequences import chain, first_origins

# Series whose past is forecast again at a time, from every origin of a chain.
_AT_ONCE = 512
# Origins of each series over windows at most: neighbours say much the same.
_ORIGINS = 64
# ... and windows at a time.
_WINDOWS = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Hindcast:
    """Some series from some origins.

    Shapes  rows (B,): which series. given (T, B, H, K): parameters. goal (T, B, H): what came. exists (T, B): was all
    of the horizon observed, from an origin whose error counts?
    Units   those of `Scaled.values`; a count's mean as networks give it
    """

    rows: Tensor
    given: Tensor
    goal: Tensor
    exists: Tensor


def of_origins(network: OriginNetwork, past: Past, course: Course) -> Iterator[Hindcast]:
    """The last chain of every series that ends a horizon before its end."""
    first = first_origins(past, course)
    for rows in torch.arange(len(past.z)).split(_AT_ONCE):
        columns = chain(torch.full_like(rows, past.columns - 1 - course.look.horizon), course)
        near = columns[-course.counted :]
        goal, exists = window.targets(past, rows, near)
        given = forecast(network, past, rows, columns, course.counted)
        yield Hindcast(rows, given, goal, exists.all(dim=-1) & (near >= first[rows]))


def of_windows(network: windows.OnWindows, past: windows.Windows) -> Iterator[Hindcast]:
    """Origins evenly spread over what was trained on, the last one a horizon before the end."""
    first, last = windows.first_origins(past), past.columns - 1 - past.horizon
    number = min(_ORIGINS, max(1, last - int(first.min()) + 1))
    ends = torch.linspace(int(first.min()), max(last, int(first.min())), number).long()
    for rows in torch.arange(len(past.z)).split(max(1, _WINDOWS // number)):
        columns = ends[:, None].expand(-1, len(rows))
        goal, exists = windows.targets(past, rows, columns)
        given = windows.forecast(network, past, rows, columns)
        unit = past.unit[rows, None]
        yield Hindcast(rows, given, goal * unit, exists.all(dim=-1) & (columns >= first[rows]))
