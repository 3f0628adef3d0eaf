"""`refold forecast`: from a file of series to a forecast, beside what it has to beat."""

from __future__ import annotations

import shlex
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from refold import cells
from refold.data.examples import EXAMPLES, example
from refold.errors import DataError

from . import folder

if TYPE_CHECKING:
    from refold.forecast import Evaluation, Panel, Settings, Table

_NAMES = " or ".join(EXAMPLES)
_FILES = ("forecast.csv", "forecast.png", "report.html")


def forecast(
    file: Annotated[
        Path | None, typer.Argument(help="CSV or Parquet, one row per series and time.")
    ] = None,
    horizon: Annotated[
        int | None, typer.Option("--horizon", "-H", help="How many steps ahead.")
    ] = None,
    example_name: Annotated[
        str | None, typer.Option("--example", help=f"A bundled series: {_NAMES}.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Column to forecast.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of dates, or of whole steps.")] = None,
    id: Annotated[str | None, typer.Option(help="Column that names the series.")] = None,
    freq: Annotated[
        str | None, typer.Option(help="Spacing: MS, ME, W, D, B, h, 30min ... Else from the dates.")
    ] = None,
    season: Annotated[
        str | None, typer.Option(help="Seasons in steps, as 48 or 48,336; 1 for none.")
    ] = None,
    cell: Annotated[
        str | None, typer.Option(help="Recurrent cell: a zoo name, or file.py:function.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed, other starting weights.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for what is written.")] = Path(
        "refold-forecast"
    ),
    plot: Annotated[bool, typer.Option(help="Draw figures (needs matplotlib).")] = True,
) -> None:
    """Forecast every series of a FILE, and say whether the network was worth it.

    Writes forecast.csv (unique_id, ds, y_hat), forecast.png and report.html.
    """
    # Torch takes a second to load: not for --help, and not before a wrong argument is found.
    from refold import report
    from refold.forecast import (
        Settings,
        check_length,
        evaluate,
        fit_panel,
        from_table,
        predict_panel,
        read_table,
    )

    if plot:
        report.require_plots()
    source, steps = _source(file, example_name), _steps(horizon)
    settings = Settings(seed=seed)
    if cell is not None:
        settings = replace(settings, cell=cells.find(cell))
    table = read_table(source, target, time, id)
    panel = from_table(table, freq, _seasons(season), holdout=steps)
    check_length(panel, steps, held_out=steps)
    folder.check(out, _FILES if plot else [n for n in _FILES if n != "forecast.png"], source)

    console = Console()
    _tell_data(console, table, panel)
    with _progress() as advance:
        found = evaluate(panel, steps, settings, advance("comparing on the held-out part"))
        _tell(console, found)
        final = fit_panel(panel, steps, settings, advance("training on everything"))
        forecasts = predict_panel(final)

    command = _command(file, example_name, steps, panel, table, settings, cell, season, freq)
    seconds = found.fitted.seconds + final.seconds
    contents = _contents(found, panel, forecasts, table, command, seconds, plot)
    # An older picture beside a new forecast would be taken for its own.
    former = [n for n in _FILES if n not in contents and report.is_own_png(out / n)]
    folder.write(out, contents, former)
    told = f"\nWritten to {out}: {', '.join(contents)}   ({seconds:.0f} s of training)"
    console.print(told, highlight=False, markup=False, soft_wrap=True)


def _source(file: Path | None, example_name: str | None) -> Path:
    if (file is None) == (example_name is None):
        fact = "neither a file nor an example is given"
        if file is not None:
            fact = "both a file and an example are given"
        raise DataError(fact, f"give one: refold forecast FILE, or --example {_NAMES}", "FILE")
    return file if file is not None else example(str(example_name)).path


def _steps(horizon: int | None) -> int:
    if horizon is None:
        raise DataError("no horizon is given", "say how many steps: --horizon 12", "--horizon")
    if horizon < 1:
        raise DataError(f"the horizon is {horizon}", "give at least 1", "--horizon")
    return horizon


def _seasons(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        seasons = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        fact = f"{text!r} is not a list of whole numbers"
        raise DataError(fact, "write --season 12, or --season 48,336", "--season") from error
    if min(seasons) < 1:
        raise DataError(f"{text!r} holds a number below 1", "1 stands for no season", "--season")
    return seasons


# What is written.


def _contents(
    found: Evaluation,
    panel: Panel,
    forecasts: list,
    table: Table,
    command: str,
    seconds: float,
    plot: bool,
) -> dict[str, bytes]:
    """What is to stand in each file. Nothing is written before all of it is there."""
    from refold import report
    from refold.forecast import forecast_csv

    steps = len(forecasts[0])
    title = f"{table.name}: the next {steps} {panel.frequency.unit}"
    contents = {"forecast.csv": forecast_csv(panel, forecasts).encode()}
    figures = {}
    if plot:
        picture = report.forecast_figure(found, panel, forecasts)
        contents["forecast.png"] = report.to_png(picture)
        figures["forecast"] = report.to_svg(picture, "forecast", title)
        picture = report.errors_figure(found)
        figures["errors"] = report.to_svg(picture, "errors", "Error by step ahead")
    page = report.forecast_page(
        found,
        panel,
        forecasts,
        title=title,
        about=_about(table, panel),
        settings=_settings_told(found, panel, table, seconds),
        command=command,
        figures=figures,
    )
    return contents | {"report.html": page.encode()}


# What is said.


@contextmanager
def _progress():
    """A bar on stderr: stdout keeps the results."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:

        def advance(description: str):
            task = bar.add_task(description, total=None)

            def update(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total, visible=done < total)

            return update

        yield advance


def _about(table: Table, panel: Panel) -> str:
    lengths = sorted(len(s) for s in panel.series)
    if len(lengths) == 1:
        series = panel.series[0]
        span = " to ".join(panel.texts(series.stamps[[0, -1]]))
        told = f"{lengths[0]:,} {panel.frequency.unit}, {span}"
    else:
        told = (
            f"{len(lengths):,} series of {lengths[0]:,} to {lengths[-1]:,} {panel.frequency.unit}"
        )
    return f"{table.source}, column {table.columns.target}: {told}."


def _tell_data(console: Console, table: Table, panel: Panel) -> None:
    console.print(f"[bold]{table.name}[/]  {_about(table, panel)}", highlight=False)
    for note in panel.notes:
        console.print(f"  {note}", style="dim", highlight=False, markup=False)


def _tell(console: Console, found: Evaluation) -> None:
    from refold.forecast import verdict
    from refold.forecast.metrics import NAMES
    from refold.report.page import number

    horizon, unit = len(found.model.forecasts[0]), found.known.frequency.unit
    table = RichTable(title=f"\nOn the held-out last {horizon} {unit}", title_justify="left")
    table.add_column("method")
    for name in NAMES:
        table.add_column(name, justify="right")
    table.add_column("how", style="dim")
    for row in found.rows:
        cells_ = [number(row.metrics[name]) for name in NAMES]
        table.add_row(row.name, *cells_, row.note, style="bold" if row.is_model else "")
    console.print(table)
    lost = found.score(found.model) >= found.score(found.naive)
    first, *others = verdict(found)
    console.print(first, style="bold yellow" if lost else "bold", highlight=False)
    console.print(" ".join(others), highlight=False)


def _settings_told(found: Evaluation, panel: Panel, table: Table, seconds: float) -> dict[str, str]:
    settings = found.fitted.settings
    transform = found.fitted.series[0].scale.transform
    scaled = {"log": "logarithm", "sqrt": "square root", "none": "plain values"}[transform]
    columns = table.columns
    return {
        "Columns": f"target {columns.target}, time {columns.time or 'none'}, "
        f"id {columns.id or 'none'}",
        "Read as": "; ".join(panel.notes),
        "Network": f"{settings.cell_name} with {settings.hidden} units over forecast origins, "
        f"{found.fitted.parameters:,} weights; all steps at once, as a weighted mean of "
        f"{', '.join(found.fitted.look.names)} and the linear autoregression, plus a correction",
        "Scale": f"each series by its own mean and deviation; {scaled}",
        "Training": f"{settings.members} networks from different starts, "
        f"{sum(run.steps for run in found.fitted.runs) // settings.members} steps each, "
        "averaged; once without the held-out part for the table, then from the start on "
        "everything for the forecast",
        "Settings": "fixed beforehand: none was chosen on the held-out part",
        "Seed": str(settings.seed),
        "Time": f"{seconds:.0f} s of training",
        "Version": f"refold {version('refold')}",
    }


def _command(
    file: Path | None,
    example_name: str | None,
    steps: int,
    panel: Panel,
    table: Table,
    settings: Settings,
    cell: str | None,
    season: str | None,
    freq: str | None,
) -> str:
    """The command that gives this forecast again, with nothing left to guess."""
    words = ["refold", "forecast"]
    words += ["--example", example_name] if example_name else [str(file)]
    words += ["--horizon", str(steps)]
    named = table.columns
    for flag, value in (("--target", named.target), ("--time", named.time), ("--id", named.id)):
        words += [flag, value] if value and not example_name else []
    words += ["--freq", freq] if freq else []
    words += ["--season", season] if season else []
    words += ["--cell", cell or settings.cell_name, "--seed", str(settings.seed)]
    return shlex.join(words)
