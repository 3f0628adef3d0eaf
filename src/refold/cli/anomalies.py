"""`refold anomalies`: which of the last values of each series its past had not led to expect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from . import folder, given, telling
from .given import Given

if TYPE_CHECKING:
    from refold.forecast import Anomalies

_FILES = ("anomalies.csv", "anomalies.png", "report.html")


def anomalies(
    file: given.File = None,
    horizon: given.Horizon = None,
    last: Annotated[
        int | None, typer.Option(help="Values of each series to judge. Else a third of them.")
    ] = None,
    ahead: Annotated[int, typer.Option(help="From how many steps before each is forecast.")] = 1,
    level: Annotated[
        str,
        typer.Option(help="An anomaly lies outside of the interval that holds so many percent."),
    ] = "99",
    example_name: given.Example = None,
    target: given.Target = None,
    time: given.Time = None,
    id: given.Id = None,
    freq: given.Freq = None,
    season: given.Season = None,
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
    out: given.Out = Path("refold-anomalies"),
    plot: given.Plot = True,
) -> None:
    """Find the values of a FILE that are not what the values before them had led to expect.

    Writes anomalies.csv (every judged value, with its interval), anomalies.png and report.html.
    """
    from refold import report
    from refold.forecast import find_anomalies
    from refold.forecast.anomalies import one_level

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
    said = given.read(words, "anomalies", holdout=0)
    percent = one_level(said.levels)
    folder.check(out, _FILES if plot else [n for n in _FILES if n != "anomalies.png"], said.source)

    console = Console()
    telling.tell_data(console, said.table, said.panel)
    with telling.progress() as advance:
        found = find_anomalies(
            said.panel,
            said.horizon,
            said.settings,
            level=percent,
            last=last,
            ahead=ahead,
            progress=advance("learning what is usual"),
        )
    _tell(console, found)
    contents = _contents(said, found, plot)
    former = [n for n in _FILES if n not in contents and report.is_own_png(out / n)]
    folder.write(out, contents, former)
    told = f"\nWritten to {out}: {', '.join(contents)}   ({found.seconds:.0f} s)"
    console.print(told, highlight=False, markup=False, soft_wrap=True)


def _tell(console: Console, found: Anomalies) -> None:
    """The answer, and the anomalies that are furthest out."""
    from refold import report

    first, *others = found.told()
    console.print(f"\n{first}", style="bold", highlight=False)
    console.print(" ".join(others), highlight=False)
    shown = report.anomalies_table(found)
    telling.tell_rows(console, shown.names, shown.rows, most=10)


def _contents(said: Given, found: Anomalies, plot: bool) -> dict[str, bytes]:
    """What is to stand in each file. Nothing is written before all of it is there."""
    from refold import report
    from refold.forecast import anomalies_csv

    title = f"{said.table.name}: anomalies in {found.number:,} values"
    contents, figures = {"anomalies.csv": anomalies_csv(found).encode()}, []
    if plot:
        picture = report.anomalies_figure(found)
        contents["anomalies.png"] = report.to_png(picture)
        caption = "Shaded: where the next value was expected, from the values before it."
        figures.append((report.to_svg(picture, "anomalies", title), caption))
    settings = telling.settings_told(found.fitted, found.fitted.panel, said.table, found.seconds)
    settings["Settings"] = "fixed beforehand: none was chosen on the judged part"
    settings["Intervals"] = found.calibration.note(())
    page = report.plain_page(
        found.told(),
        title=title,
        about=telling.about(said.table, said.panel),
        figures=figures,
        tables=[report.anomalies_table(found)],
        settings=settings,
        command=said.command(
            "anomalies", "--last", str(len(found.flags[0])), "--ahead", str(found.ahead)
        ),
    )
    return contents | {"report.html": page.encode()}
