"""`refold fit`: train once, and keep the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from . import folder, given, telling


@given.with_words
def fit(
    words: given.Words,
    intervals: Annotated[
        bool, typer.Option(help="Measure errors too, so that predict --level has what it needs.")
    ] = True,
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
