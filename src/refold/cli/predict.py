"""`refold predict`: a forecast by a model that was kept, after newer rows where there are any."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from refold.errors import DataError

from . import folder, given

if TYPE_CHECKING:
    from refold.forecast import Band, Panel, Saved, Table

_FILE = "forecast.csv"


def predict(
    model: Annotated[Path, typer.Argument(help="A folder that `refold fit` wrote.")],
    data: Annotated[
        Path | None, typer.Option(help="A table of newer rows; those known may be in it.")
    ] = None,
    target: given.Target = None,
    time: given.Time = None,
    id: given.Id = None,
    level: given.Level = None,
    out: given.Out = Path("refold-forecast"),
) -> None:
    """Forecast with a MODEL of `refold fit`. Nothing is trained.

    Writes forecast.csv (unique_id, ds, y_hat).
    """
    from refold.forecast import appended, forecast_csv, on_panel, predict_panel, read_folder
    from refold.forecast.saved import FILE

    levels = given.levels_of(level)
    saved = read_folder(model)
    folder.check(out, (_FILE,), data or model / FILE)
    if levels and saved.calibration is None:
        fact = "the model was kept without the errors that intervals are made of"
        raise DataError(fact, "fit again, with longer series or without --no-intervals", "--level")
    fitted, console = saved.fitted, Console()
    if data is not None:
        newer = newer_rows(saved, data, target, time, id)
        fitted = on_panel(fitted, appended(fitted.panel, newer, saved.horizon))
        _tell_newer(console, saved.fitted.panel, fitted.panel)
    forecasts = predict_panel(fitted)
    bands: tuple[Band, ...] = ()
    if saved.calibration is not None:
        bands = saved.calibration.bands(fitted.panel, forecasts, levels)
        if levels:
            console.print(f"Intervals: {saved.calibration.note(levels)}.", highlight=False)
    folder.write(out, {_FILE: forecast_csv(fitted.panel, forecasts, bands).encode()})
    console.print(f"Written to {out}: {_FILE}", highlight=False, markup=False, soft_wrap=True)


def newer_rows(
    saved: Saved, data: Path, target: str | None, time: str | None, id: str | None
) -> Panel:
    """The newer rows; columns are called as in the table of `refold fit`, if nothing else is said."""
    from refold.forecast import from_table, read_table

    panel, columns = saved.fitted.panel, saved.columns
    if columns is not None:
        target, time, id = target or columns.target, time or columns.time, id or columns.id
    table = read_table(data, target, time, id)
    if table.columns.time is None:
        fact = "its rows say no time, so it cannot be seen which of them are new"
        raise DataError(fact, "add a column of steps or dates, or name it: --time", table.source)
    return from_table(_under_its_name(table, panel), like=panel)


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
    console.print(f"  {told}", style="dim", highlight=False)
