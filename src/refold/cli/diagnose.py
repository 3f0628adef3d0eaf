"""`refold diagnose`: what the recurrence of a model that was kept does on the series that it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from refold.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from refold.forecast.forecaster import Fitted

_WHERE = "refold diagnose"


def diagnose(
    model: Annotated[Path, typer.Argument(help="A folder that `refold fit` wrote.")],
    network: Annotated[int, typer.Option(help="Which of its networks, from 1.")] = 1,
    exponents: Annotated[int, typer.Option(help="How many Lyapunov exponents.")] = 4,
) -> None:
    """Say of a MODEL of `refold fit` how long it remembers, and whether its gradients vanish or explode.

    It is driven by what it reads of each series, up to the last values. Nothing is trained or written.
    """
    from refold.dynamics import dynamics
    from refold.forecast import read_folder

    fitted = read_folder(model).fitted
    count = len(fitted.networks)
    if not 1 <= network <= count:
        fact = f"the model has {count} network(s), and network {network} is asked for"
        raise DataError(fact, f"give --network from 1 to {count}", _WHERE)
    if exponents < 1:
        raise DataError(f"--exponents is {exponents}", "give a number of 1 or more", _WHERE)
    recurrence = cast(Any, fitted.networks[network - 1]).recurrence
    found = dynamics(recurrence, _read(fitted, network - 1))
    # Figures are not wrapped: they are piped and compared.
    typer.echo(str(found))
    typer.echo(f"\nMemory\n{found.memory()}")
    k = min(exponents, found.system.size)
    typer.echo(f"\nLyapunov exponents, in nats per step\n{found.lyapunov(k)}")


def _read(fitted: Fitted, number: int) -> Tensor:
    """What the recurrence of a network reads for the forecast of each series, (T, N, m)."""
    import torch

    from refold.forecast.ways import way_of

    way = way_of(fitted.settings)
    with torch.no_grad():
        return way.reads(fitted.networks[number], fitted.pasts[number], fitted.courses[number])
