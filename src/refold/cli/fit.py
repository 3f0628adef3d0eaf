"""`refold fit`: train once, and keep the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from . import folder, given, telling


def fit(
    file: given.File = None,
    horizon: given.Horizon = None,
    example_name: given.Example = None,
    target: given.Target = None,
    time: given.Time = None,
    id: given.Id = None,
    freq: given.Freq = None,
    season: given.Season = None,
    intervals: Annotated[
        bool, typer.Option(help="Measure errors too, so that predict --level has what it needs.")
    ] = True,
    cell: given.CellName = None,
    tuned: given.SettingsFile = None,
    over: given.Over = None,
    head: given.Head = None,
    scaling: given.ScalingName = None,
    seed: given.Seed = 0,
    static: given.Static = None,
    known: given.Known = None,
    historical: given.Historical = None,
    categorical: given.Categorical = None,
    resample: given.ResampleTo = None,
    aggregate: given.Aggregate = None,
    out: given.Out = Path("refold-model"),
) -> None:
    """Train on every series of a FILE, and keep the model in a folder for `refold predict`.

    Writes model.safetensors, which is all of it, and about.json, which is for people. Under torchrun,
    several processes train the same networks together; the first one tells and writes.
    """
    from refold.errors import DataError
    from refold.forecast import Saved, calibrate, check_length, fit_panel, write_folder
    from refold.forecast.processes import is_first, started
    from refold.forecast.saved import ABOUT, FILE

    beside = given.Beside(static, known, historical, categorical, resample, aggregate)
    words = given.Words(
        file=file,
        horizon=horizon,
        example=example_name,
        target=target,
        time=time,
        id=id,
        freq=freq,
        season=season,
        cell=cell,
        settings=tuned,
        over=over,
        head=head,
        scaling=scaling,
        seed=seed,
        beside=beside,
    )
    said = given.read(words, "fit", holdout=0)
    check_length(said.panel, said.horizon)
    folder.check(out, (FILE, ABOUT), said.source)

    console, several = Console(quiet=not is_first()), started() > 1
    telling.tell_data(console, said.table, said.panel)
    calibration, told = None, "no intervals: --no-intervals was given"
    with telling.progress(shown=is_first()) as advance:
        if intervals:
            try:
                measured = advance("measuring errors for the intervals")
                calibration = calibrate(
                    said.panel, said.horizon, said.settings, progress=measured, distributed=several
                )
                told = f"intervals: {calibration.note(())}"
            except DataError as error:  # a model without intervals is still one
                told = f"no intervals: {error.fact}"
        training = advance("training")
        fitted = fit_panel(said.panel, said.horizon, said.settings, training, distributed=several)
    if not is_first():
        return
    console.print(f"  {told}", style="dim", highlight=False, markup=False)
    saved = Saved(fitted, said.horizon, calibration, columns=said.table.columns)
    write_folder(out, saved)
    console.print(
        f"\nWritten to {out}: {FILE}, {ABOUT}   ({fitted.seconds:.0f} s of training)\n"
        f"Forecast with: refold predict {out}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
