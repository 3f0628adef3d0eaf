"""--ray: the series of a verb parted among workers, and the folder of what is finished."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from refold.errors import DataError

from .given import Given

if TYPE_CHECKING:
    from torch import Tensor

    from refold.forecast import Fitted, Panel
    from refold.forecast.backtest import Many
    from refold.forecast.forecaster import Progress
    from refold.forecast.spread import Spread

_PARTS = "parts"


def refuse_refit(refit: bool) -> None:
    """Errors  DataError: trainings are not parted, each needs all series."""
    if refit:
        fact = "--refit trains at every origin, and --ray parts forecasts, not trainings"
        raise DataError(fact, "leave one of them out", "--ray")


def refuse_longer(steps: int, horizon: int) -> None:
    """Errors  DataError: paths, which steps beyond the trained ones are made of, are not parted."""
    if steps > horizon:
        fact = (
            f"{steps} steps are asked for, the networks forecast {horizon}, and --ray parts those"
        )
        raise DataError(fact, f"leave --ray out, or ask for at most {horizon}", "--ray")


def begun(
    out: Path, workers: int | None, said: Given, verb: str, windows: int, step: int | None
) -> Spread:
    """The folder of the parts of a backtest. Errors  DataError where other work is in it."""
    settings = (said.settings.cell_name, repr(said.settings), windows, step, said.horizon)
    return _begun(out, workers, {"verb": verb}, said.panel, settings)


def begun_for(out: Path, workers: int | None, fitted: Fitted) -> Spread:
    """The folder of the parts of a prediction by these networks."""
    weights = [float(p.detach().double().sum()) for p in fitted.networks[0].parameters()]
    return _begun(out, workers, {"verb": "predict"}, fitted.panel, tuple(weights))


def predicted(spread: Spread, fitted: Fitted, progress: Progress) -> Tensor:
    """What networks say of the next values of their panel."""
    from refold.forecast.many import predict_many

    return predict_many(fitted, fitted.panel, spread, progress)


def _begun(
    out: Path, workers: int | None, about: dict[str, Any], panel: Panel, others: tuple[Any, ...]
) -> Spread:
    from refold.forecast.digest import digest
    from refold.forecast.spread import Spread

    if workers is not None and workers < 1:
        raise DataError(f"workers is {workers}", "give at least 1", "--workers")
    spread = Spread(out / _PARTS, workers)
    spread.begin({**about, "workers": workers, "work": digest(panel, *others)})
    return spread


def many(spread: Spread, progress: Progress) -> Many:
    """How a backtest is to come by its forecasts."""
    from refold.forecast.many import backtest_many

    def made(fitted: Fitted, panel: Panel, windows: int, step: int) -> Any:
        return backtest_many(fitted, panel, windows, step, spread, progress)

    return made
