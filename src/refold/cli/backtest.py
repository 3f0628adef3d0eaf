"""`refold backtest`: how good forecasts would have been, from several origins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from . import folder, given, parted, telling
from .given import Given

if TYPE_CHECKING:
    from refold.forecast import Backtest

_FILES = ("backtest.csv", "backtest.png", "report.html")


def backtest(
    file: given.File = None,
    horizon: given.Horizon = None,
    windows: Annotated[int, typer.Option(help="From how many origins.")] = 5,
    step: Annotated[
        int | None, typer.Option(help="Steps between origins. Else the horizon.")
    ] = None,
    refit: Annotated[bool, typer.Option(help="Train anew for each origin.")] = False,
    example_name: given.Example = None,
    target: given.Target = None,
    time: given.Time = None,
    id: given.Id = None,
    freq: given.Freq = None,
    season: given.Season = None,
    level: given.Level = None,
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
    ray: given.Ray = False,
    workers: given.Workers = None,
    out: given.Out = Path("refold-backtest"),
    plot: given.Plot = True,
) -> None:
    """Forecast the end of every series of a FILE again and again, as if it were not known.

    Writes backtest.csv (unique_id, ds, cutoff, y, y_hat), backtest.png and report.html.
    """
    from refold import report
    from refold.forecast import backtest_panel, check_windows, interval_note

    if plot:
        report.require_plots()
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
        level=level,
        cell=cell,
        settings=tuned,
        over=over,
        head=head,
        scaling=scaling,
        seed=seed,
        beside=beside,
    )
    # What is measured takes no part in the search for seasons.
    back = max(0, windows - 1) * max(1, step or horizon or 1) + (horizon or 1)
    said = given.read(words, "backtest", holdout=back)
    check_windows(said.panel, said.horizon, windows, said.horizon if step is None else step)
    folder.check(out, _FILES if plot else [n for n in _FILES if n != "backtest.png"], said.source)

    spread = None
    if ray:
        parted.refuse_refit(refit)
        spread = parted.begun(out, workers, said, "backtest", windows, step)
    console = Console()
    telling.tell_data(console, said.table, said.panel)
    with telling.progress() as advance:
        found = backtest_panel(
            said.panel,
            said.horizon,
            said.settings,
            windows=windows,
            step=step,
            refit=refit,
            levels=said.levels,
            progress=advance("forecasting from each origin"),
            many=None if spread is None else parted.many(spread, advance("chunks of series")),
        )
    if found.left_out:
        console.print(f"  {found.left_out_note}", style="dim", highlight=False, markup=False)
    telling.tell_ranking(console, f"On {found.part}", found, found.names)
    note = interval_note(said.settings, found.calibration, found.levels)
    if found.levels:
        console.print(f"Intervals: {note}.", highlight=False)
    contents = _contents(said, found, note, plot)
    former = [n for n in _FILES if n not in contents and report.is_own_png(out / n)]
    folder.write(out, contents, former)
    if spread is not None:
        spread.end()
    told = f"\nWritten to {out}: {', '.join(contents)}   ({found.seconds:.0f} s)"
    console.print(told, highlight=False, markup=False, soft_wrap=True)


def _contents(said: Given, found: Backtest, note: str, plot: bool) -> dict[str, bytes]:
    """What is to stand in each file. Nothing is written before all of it is there."""
    from refold import report
    from refold.forecast import backtest_csv, needs_calibration, reliability

    panel = said.panel
    title = f"{said.table.name}: {found.part}"
    contents = {"backtest.csv": backtest_csv(found).encode()}
    figures = {}
    if plot:
        picture = report.backtest_figure(found)
        contents["backtest.png"] = report.to_png(picture)
        figures["windows"] = report.to_svg(picture, "windows", title)
        picture = report.errors_figure(found)
        figures["errors"] = report.to_svg(picture, "errors", "Error by step ahead")
        if found.calibration or not needs_calibration(said.settings):
            picture = report.reliability_figure(reliability(found.windows, found.calibration))
            figures["reliability"] = report.to_svg(picture, "reliability", "Values inside by level")
    fitted = found.windows[-1].fitted
    settings = telling.settings_told(fitted, panel, said.table, found.seconds)
    settings["Training"] += f"; {found.how}"
    if found.left_out:
        settings["Series"] = found.left_out_note
    if found.levels:
        settings["Intervals"] = note
    more = ["--windows", str(len(found.windows)), "--step", str(found.step)]
    page = report.backtest_page(
        found,
        title=title,
        about=telling.about(said.table, panel),
        settings=settings,
        command=said.command("backtest", *more, *["--refit"] * found.refit),
        figures=figures,
    )
    return contents | {"report.html": page.encode()}
