"""`refold predict`: a forecast by a model that was kept, after newer rows where there are any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from refold.errors import DataError

from . import folder, given, parted, telling

if TYPE_CHECKING:
    from refold.forecast import Columns, Panel, Saved, Table
    from refold.forecast.series import Series

_FILE = "forecast.csv"

Model = Annotated[Path, typer.Argument(help="A folder that `refold fit` wrote.")]
Newer = Annotated[
    Path | None, typer.Option(help="A table of newer rows; those known may be in it.")
]


def predict(
    model: Model,
    data: Newer = None,
    target: given.Target = None,
    time: given.Time = None,
    id: given.Id = None,
    level: given.Level = None,
    horizon: given.Horizon = None,
    future: given.Future = None,
    ray: given.Ray = False,
    workers: given.Workers = None,
    out: given.Out = Path("refold-forecast"),
) -> None:
    """Forecast with a MODEL of `refold fit`. Nothing is trained.

    Writes forecast.csv (unique_id, ds, y_hat).
    """
    from refold.forecast import (
        forecast_csv,
        interval_note,
        needs_calibration,
        predicted_longer,
    )
    from refold.forecast.saved import FILE

    levels = given.levels_of(level)
    saved, console = opened(model, data, target, time, id, future)
    folder.check(out, (_FILE,), data or model / FILE)
    fitted, calibration = saved.fitted, saved.calibration
    steps = saved.horizon if horizon is None else given.steps_of(horizon)
    if ray:
        parted.refuse_longer(steps, saved.horizon)
    measured = calibration is not None or not needs_calibration(fitted.settings)
    if not measured and (levels or steps > saved.horizon):
        raise unmeasured("--level" if levels else "--horizon")
    if levels:
        note = interval_note(fitted.settings, calibration, levels)
        console.print(f"Intervals: {note}.", highlight=False)
    spread, ahead = None, None
    if ray:
        spread = parted.begun_for(out, workers, fitted)
        with telling.progress() as advance:
            ahead = parted.predicted(spread, fitted, advance("chunks of series"))
    found = predicted_longer(fitted, steps, calibration, levels, fitted.settings.seed, ahead)
    folder.write(out, {_FILE: forecast_csv(fitted.panel, found.values, found.bands).encode()})
    if spread is not None:
        spread.end()
    console.print(f"Written to {out}: {_FILE}", highlight=False, markup=False, soft_wrap=True)


def unmeasured(flag: str) -> DataError:
    """A model of point forecasts whose errors are not known."""
    fact = "the model was kept without the errors that intervals are made of, and paths"
    return DataError(fact, "fit again, with longer series or without --no-intervals", flag)


def opened(
    model: Path,
    data: Path | None,
    target: str | None,
    time: str | None,
    id: str | None,
    future: Path | None = None,
) -> tuple[Saved, Console]:
    """The model that is kept there, before the newer rows of a table and what is known ahead, where they are given."""
    from refold.forecast import appended, on_panel, read_folder

    saved, console = read_folder(model), Console()
    before = panel = saved.fitted.panel
    if data is not None:
        panel = appended(before, newer_rows(saved, data, target, time, id), saved.horizon)
        _tell_newer(console, before, panel)
    if future is not None:
        panel = given.with_future(panel, _named(saved, target, time, id), future)
    if panel is before:
        return saved, console
    return replace(saved, fitted=on_panel(saved.fitted, panel)), console


def newer_rows(
    saved: Saved, data: Path, target: str | None, time: str | None, id: str | None
) -> Panel:
    """The newer rows; columns are called as in the table of `refold fit`, if nothing else is said."""
    from refold.forecast import from_table, of_columns, read_table

    panel, named = saved.fitted.panel, _named(saved, target, time, id)
    covariates = of_columns(panel.columns)
    table = read_table(data, named.target or None, named.time, named.id, covariates)
    if table.columns.time is None:
        fact = "its rows say no time, so it cannot be seen which of them are new"
        raise DataError(fact, "add a column of steps or dates, or name it: --time", table.source)
    return from_table(_under_its_name(table, panel), like=panel)


def _named(saved: Saved, target: str | None, time: str | None, id: str | None) -> Columns:
    """What columns are called: as in the table of `refold fit`, if nothing else is said."""
    from refold.forecast import Columns

    if saved.columns is None:
        return Columns(target or "", time, id)
    first = saved.columns
    return Columns(target or first.target, time or first.time, id or first.id)


def _under_its_name(table: Table, panel: Panel) -> Table:
    """A table of one series is named after its file; it is the one series that the model knows."""
    if table.columns.id is not None or len(panel.series) != 1:
        return table
    return table.under(panel.series[0].name)


def _tell_newer(console: Console, before: Panel, after: Panel) -> None:
    rows = sum(map(len, after.series)) - sum(map(len, before.series))
    new = len(after.series) - len(before.series)
    told = ("1 new row" if rows == 1 else f"{rows:,} new rows") + (
        f", {new:,} new series among them" if new else ""
    )
    late = _late(before, after)
    if late:
        told += f", {late:,} late for {'a row' if late == 1 else 'rows'} known as missing"
    console.print(f"  {told}", style="dim", highlight=False)


def _late(before: Panel, after: Panel) -> int:
    """How many values came for rows that were known as missing; new series stand behind the others."""
    pairs = zip(before.series, after.series, strict=False)
    return sum(_missing(old) - _missing(new[: len(old)]) for old, new in pairs)


def _missing(series: Series) -> int:
    return 0 if series.missing is None else int(series.missing.sum())
