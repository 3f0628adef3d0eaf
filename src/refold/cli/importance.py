"""`refold importance`: what the forecasts of a file hang on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from . import folder, given, telling
from .given import Given

if TYPE_CHECKING:
    from refold.forecast import Importance

_FILES = ("importance.csv", "importance.png", "report.html")
_CAPTION = (
    "How far the error rises when a group of inputs is that of another origin; the whiskers are one "
    "deviation over the permutations. What one group says too, another is not missed for."
)


def importance(
    file: given.File = None,
    horizon: given.Horizon = None,
    origins: Annotated[
        int | None,
        typer.Option(help="Origins to measure from. Else as many as give 100 forecasts."),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Permutations of each group.")] = 10,
    example_name: given.Example = None,
    target: given.Target = None,
    time: given.Time = None,
    id: given.Id = None,
    freq: given.Freq = None,
    season: given.Season = None,
    cell: given.CellName = None,
    tuned: given.SettingsFile = None,
    head: given.Head = None,
    scaling: given.ScalingName = None,
    seed: given.Seed = 0,
    static: given.Static = None,
    known: given.Known = None,
    historical: given.Historical = None,
    categorical: given.Categorical = None,
    resample: given.ResampleTo = None,
    aggregate: given.Aggregate = None,
    out: given.Out = Path("refold-importance"),
    plot: given.Plot = True,
) -> None:
    """Say what the forecasts of a FILE hang on: recent values, each season, and so on.

    Writes importance.csv, importance.png and report.html. (`refold explain` explains a cell.)
    """
    from refold import report
    from refold.forecast import find_importance

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
        cell=cell,
        settings=tuned,
        head=head,
        scaling=scaling,
        seed=seed,
        beside=beside,
    )
    said = given.read(words, "importance", holdout=(horizon or 1) + (origins or 1) - 1)
    folder.check(out, _FILES if plot else [n for n in _FILES if n != "importance.png"], said.source)

    console = Console()
    telling.tell_data(console, said.table, said.panel)
    with telling.progress() as advance:
        found = find_importance(
            said.panel,
            said.horizon,
            said.settings,
            origins=origins,
            repeats=repeats,
            progress=advance("training, and exchanging inputs"),
        )
    first, *others = found.told()
    console.print(f"\n{first}", style="bold", highlight=False)
    console.print(" ".join(others), highlight=False)
    shown = report.importance_table(found)
    telling.tell_rows(console, shown.names, shown.rows, most=len(shown.rows))
    contents = _contents(said, found, plot)
    former = [n for n in _FILES if n not in contents and report.is_own_png(out / n)]
    folder.write(out, contents, former)
    told = f"\nWritten to {out}: {', '.join(contents)}   ({found.seconds:.0f} s)"
    console.print(told, highlight=False, markup=False, soft_wrap=True)


def _contents(said: Given, found: Importance, plot: bool) -> dict[str, bytes]:
    """What is to stand in each file. Nothing is written before all of it is there."""
    from refold import report
    from refold.forecast import importance_frame

    title = f"{said.table.name}: what forecasts hang on"
    contents, figures = {"importance.csv": importance_frame(found).write_csv().encode()}, []
    if plot:
        picture = report.importance_figure(found)
        contents["importance.png"] = report.to_png(picture)
        figures.append((report.to_svg(picture, "importance", title), _CAPTION))
    settings = telling.settings_told(found.fitted, found.fitted.panel, said.table, found.seconds)
    more = ["--origins", str(found.origins), "--repeats", str(found.rises.shape[1])]
    page = report.plain_page(
        found.told(),
        title=title,
        about=telling.about(said.table, said.panel),
        figures=figures,
        tables=[report.importance_table(found)],
        settings=settings,
        command=said.command("importance", *more),
    )
    return contents | {"report.html": page.encode()}
