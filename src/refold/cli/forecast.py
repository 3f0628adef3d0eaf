"""`refold forecast`: from a file of series to a forecast, beside what it has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from . import folder, given, telling
from .given import Given

if TYPE_CHECKING:
    from refold.forecast import Calibration, Evaluation, Predicted

_FILES = ("forecast.csv", "forecast.png", "report.html")


def forecast(
    file: given.File = None,
    horizon: given.Horizon = None,
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
    future: given.Future = None,
    out: given.Out = Path("refold-forecast"),
    plot: given.Plot = True,
) -> None:
    """Forecast every series of a FILE, and say whether the network was worth it.

    Writes forecast.csv (unique_id, ds, y_hat), forecast.png and report.html.
    """
    from refold import report
    from refold.forecast import (
        calibrate,
        check_future,
        check_length,
        evaluate,
        fit_panel,
        interval_note,
        needs_calibration,
        predicted,
        recalibrated,
    )

    if plot:
        report.require_plots()
    beside = given.Beside(static, known, historical, categorical, resample, aggregate, future)
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
    said = given.read(words, "forecast")
    panel, steps, levels, settings = said.panel, said.horizon, said.levels, said.settings
    check_length(panel, steps, held_out=steps)
    check_future(panel, steps)
    folder.check(out, _FILES if plot else [n for n in _FILES if n != "forecast.png"], said.source)

    console = Console()
    telling.tell_data(console, said.table, panel)
    with telling.progress() as advance:
        calibration = None
        if levels and needs_calibration(settings):
            early = panel.split(steps)[0]
            calibration = calibrate(
                early,
                steps,
                settings,
                levels=levels,
                progress=advance("measuring errors for the intervals"),
            )
        found = evaluate(
            panel, steps, settings, advance("comparing on the held-out part"), calibration, levels
        )
        title = f"On the held-out last {steps} {panel.frequency.unit}"
        telling.tell_ranking(console, title, found, found.names)
        final = fit_panel(panel, steps, settings, advance("training on everything"))
        measured = calibration  # before the held-out part, which its intervals are measured on
        if calibration:
            calibration = recalibrated(found, panel, calibration, advance("measuring errors again"))
        if levels:
            note = interval_note(settings, calibration, levels)
            console.print(f"Intervals: {note}.", highlight=False)
        ahead = predicted(final, calibration, levels)

    seconds = found.fitted.seconds + final.seconds
    contents = _contents(said, found, ahead, calibration, measured, seconds, plot)
    # An older picture beside a new forecast would be taken for its own.
    former = [n for n in _FILES if n not in contents and report.is_own_png(out / n)]
    folder.write(out, contents, former)
    told = f"\nWritten to {out}: {', '.join(contents)}   ({seconds:.0f} s of training)"
    console.print(told, highlight=False, markup=False, soft_wrap=True)


def _contents(
    said: Given,
    found: Evaluation,
    ahead: Predicted,
    calibration: Calibration | None,
    measured: Calibration | None,
    seconds: float,
    plot: bool,
) -> dict[str, bytes]:
    """What is to stand in each file. Nothing is written before all of it is there."""
    from refold import report
    from refold.forecast import forecast_csv, interval_note, needs_calibration, reliability

    panel, steps = said.panel, said.horizon
    forecasts, bands = ahead.values, ahead.bands
    title = f"{said.table.name}: the next {steps} {panel.frequency.unit}"
    contents = {"forecast.csv": forecast_csv(panel, forecasts, bands).encode()}
    figures = {}
    if plot:
        picture = report.forecast_figure(found, panel, forecasts, bands)
        contents["forecast.png"] = report.to_png(picture)
        figures["forecast"] = report.to_svg(picture, "forecast", title)
        picture = report.errors_figure(found)
        figures["errors"] = report.to_svg(picture, "errors", "Error by step ahead")
        if measured or not needs_calibration(said.settings):
            picture = report.reliability_figure(reliability([found], measured))
            figures["reliability"] = report.to_svg(picture, "reliability", "Values inside by level")
    settings = telling.settings_told(found.fitted, panel, said.table, seconds)
    settings["Training"] += (
        "; once without the held-out part for the table, then from the start on everything for the "
        "forecast"
    )
    if bands:
        settings["Intervals"] = interval_note(said.settings, calibration, said.levels)
    page = report.forecast_page(
        found,
        panel,
        forecasts,
        title=title,
        about=telling.about(said.table, panel),
        settings=settings,
        command=said.command("forecast"),
        figures=figures,
        bands=bands,
    )
    return contents | {"report.html": page.encode()}
