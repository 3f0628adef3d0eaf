"""`refold tune`: settings that suit the series of a file, looked for before a held-out part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from . import folder, given, settings_file, telling
from .given import Given

if TYPE_CHECKING:
    from refold.forecast import Evaluation, Tuned

_FILES = ("trials.csv", "settings.json", "tuning.png", "report.html")


def tune(
    file: given.File = None,
    horizon: given.Horizon = None,
    trials: Annotated[int, typer.Option(help="How many choices of settings are tried.")] = 20,
    seconds: Annotated[float | None, typer.Option(help="After these, no new trial begins.")] = None,
    windows: Annotated[int, typer.Option(help="From how many origins each is measured.")] = 3,
    study: Annotated[
        Path | None, typer.Option(help="A file that keeps all trials; another run goes on from it.")
    ] = None,
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
    out: given.Out = Path("refold-tuning"),
    plot: given.Plot = True,
) -> None:
    """Look for settings that suit the series of a FILE. The last horizon is held out of the search.

    Writes trials.csv, settings.json (for --settings), tuning.png and report.html.
    """
    from refold import report
    from refold.forecast import check_length, evaluate, tune_panel

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
        over=over,
        head=head,
        scaling=scaling,
        seed=seed,
        beside=beside,
    )
    said = given.read(words, "tune", holdout=(1 + max(1, windows)) * (horizon or 1))
    check_length(said.panel, said.horizon, held_out=said.horizon)
    folder.check(out, _FILES if plot else [n for n in _FILES if n != "tuning.png"], said.source)

    console = Console()
    telling.tell_data(console, said.table, said.panel)
    with telling.progress() as advance:
        found = tune_panel(
            said.panel,
            said.horizon,
            said.settings,
            trials=trials,
            seconds=seconds,
            windows=windows,
            study=study,
            progress=advance("trying settings"),
        )
        pair = [
            evaluate(said.panel, said.horizon, settings, advance("comparing on the held-out part"))
            for settings in (said.settings, found.settings)
        ]
    sentences = [*found.told(), _held_out(pair)]
    console.print(f"\n{sentences[0]}", style="bold", highlight=False)
    console.print(" ".join(sentences[1:]), highlight=False)
    shown = report.trials_table(found)
    telling.tell_rows(console, shown.names, shown.rows, most=5)
    contents = _contents(said, found, sentences, pair[1], plot)
    former = [n for n in _FILES if n not in contents and report.is_own_png(out / n)]
    folder.write(out, contents, former)
    told = f"\nWritten to {out}: {', '.join(contents)}   ({found.seconds:.0f} s)\n"
    told += f"Use them: refold fit ... --settings {out / 'settings.json'}"
    console.print(told, highlight=False, markup=False, soft_wrap=True)


def _held_out(pair: list[Evaluation]) -> str:
    """What the settings are worth where no trial has looked."""
    given_, found = pair
    by = given_.ranked_by
    before, after = (each.score(each.model) for each in pair)
    told = (
        f"On {found.part}, {by} is {after:.4g} with the settings found and {before:.4g} with those "
    )
    told += "that were given"
    return told + (": they are no better there." if after >= before else ".")


def _contents(
    said: Given, found: Tuned, sentences: list[str], held: Evaluation, plot: bool
) -> dict[str, bytes]:
    """What is to stand in each file. Nothing is written before all of it is there."""
    from refold import report
    from refold.forecast import trials_frame

    title = f"{said.table.name}: settings from {len(found.trials)} trials"
    kept = json.dumps(settings_file.spelled(found.settings, said.words.cell), indent=1) + "\n"
    contents = {
        "trials.csv": trials_frame(found).write_csv().encode(),
        "settings.json": kept.encode(),
    }
    figures = []
    if plot:
        picture = report.tuning_figure(found)
        contents["tuning.png"] = report.to_png(picture)
        figures.append((report.to_svg(picture, "tuning", title), "The error of each trial."))
    settings = telling.settings_told(held.fitted, held.fitted.panel, said.table, found.seconds)
    settings["Settings"] = "the best of the trials; none was chosen on the held-out part"
    more = ["--trials", str(len(found.trials)), "--windows", str(found.windows)]
    page = report.plain_page(
        sentences,
        title=title,
        about=telling.about(said.table, said.panel),
        figures=figures,
        tables=[report.trials_table(found)],
        settings=settings,
        command=said.command("tune", *more),
    )
    return contents | {"report.html": page.encode()}
