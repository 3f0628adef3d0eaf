"""The recurrence of a model that `refold fit` kept, and what drives it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from refold.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from refold.forecast.forecaster import Fitted


@dataclass(frozen=True, slots=True)
class Kept:
    """One of the networks of a folder: its recurrence, what it reads (T, N, m), how many there are."""

    recurrence: nn.Module
    x: Tensor
    cell: str
    count: int


def kept(model: Path, data: Path | None, network: int, where: str) -> Kept:
    """Network number `network`, from 1, driven by the series it was kept with and newer rows of them.

    Errors  DataError for what is no such folder, a number that is not there, rows that do not fit
    """
    from refold.forecast import appended, on_panel, read_folder

    from .predict import newer_rows

    saved = read_folder(model)
    fitted, count = saved.fitted, len(saved.fitted.networks)
    if not 1 <= network <= count:
        fact = f"the model has {count} network(s), and network {network} is asked for"
        raise DataError(fact, f"give --network from 1 to {count}", where)
    if data is not None:
        newer = newer_rows(saved, data, None, None, None)
        fitted = on_panel(fitted, appended(fitted.panel, newer, saved.horizon))
    recurrence = cast(Any, fitted.networks[network - 1]).recurrence
    return Kept(recurrence, _read(fitted, network - 1), fitted.settings.cell_name, count)


def _read(fitted: Fitted, number: int) -> Tensor:
    """What the recurrence of a network reads for the forecast of each series, (T, N, m)."""
    import torch

    from refold.forecast.ways import way_of

    way = way_of(fitted.settings)
    with torch.no_grad():
        return way.reads(fitted.networks[number], fitted.pasts[number], fitted.courses[number])
