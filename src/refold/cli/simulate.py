"""`refold simulate`: sampled paths of what may come, by a model that was kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import folder, given
from .predict import Model, Newer, opened, unmeasured

_FILE = "paths.csv"


def simulate(
    model: Model,
    paths: Annotated[int, typer.Option(help="How many, for each series.")] = 100,
    horizon: given.Horizon = None,
    data: Newer = None,
    target: given.Target = None,
    time: given.Time = None,
    id: given.Id = None,
    future: given.Future = None,
    seed: Annotated[int, typer.Option(help="Another seed, other paths.")] = 0,
    out: given.Out = Path("refold-paths"),
) -> None:
    """Draw paths of what may come from a MODEL of `refold fit`. Nothing is trained.

    Writes paths.csv (unique_id, ds, path, y_hat). Beyond the horizon of the model, what was drawn is
    fed back.
    """
    from refold.forecast import needs_calibration, paths_csv, simulate_panel
    from refold.forecast.saved import FILE
    from refold.forecast.simulate import check_paths

    check_paths(paths, 1 if horizon is None else horizon, seed)
    saved, console = opened(model, data, target, time, id, future)
    folder.check(out, (_FILE,), data or model / FILE)
    fitted, calibration = saved.fitted, saved.calibration
    if calibration is None and needs_calibration(fitted.settings):
        raise unmeasured("MODEL")
    found = simulate_panel(fitted, paths, horizon, seed, calibration)
    folder.write(out, {_FILE: paths_csv(fitted.panel, found).encode()})
    steps = found[0].shape[1]
    told = f"{paths:,} paths of {steps} {fitted.panel.frequency.unit} for each series"
    console.print(f"Written to {out}: {_FILE}   ({told})", highlight=False, markup=False)
