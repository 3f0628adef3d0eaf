"""What the verbs on series have in common: their arguments, and what these come to."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from refold import cells
from refold.data.examples import EXAMPLES, example
from refold.errors import DataError

from . import settings_file

if TYPE_CHECKING:
    from refold.forecast import Columns, Covariates, Panel, Resample, Settings, Table
    from refold.forecast.settings import Over as Recurring
    from refold.forecast.settings import Scaling

_NAMES = " or ".join(EXAMPLES)

File = Annotated[Path | None, typer.Argument(help="CSV or Parquet, one row per series and time.")]
Horizon = Annotated[int | None, typer.Option("--horizon", "-H", help="How many steps ahead.")]
Example = Annotated[str | None, typer.Option("--example", help=f"A bundled series: {_NAMES}.")]
Target = Annotated[
    str | None, typer.Option(help="Column to forecast; a,b,c or all where each is a series.")
]
Time = Annotated[str | None, typer.Option(help="Column of dates, or of whole steps.")]
Id = Annotated[str | None, typer.Option(help="Column that names the series.")]
Freq = Annotated[
    str | None, typer.Option(help="Spacing: MS, ME, W, D, B, h, 30min ... Else from the dates.")
]
Season = Annotated[str | None, typer.Option(help="Seasons in steps, as 48 or 48,336; 1 for none.")]
Level = Annotated[
    str | None, typer.Option(help="Intervals that hold so many percent, as 95 or 80,95.")
]
CellName = Annotated[
    str | None, typer.Option(help="Recurrent cell: a zoo name, or file.py:function.")
]
Over = Annotated[
    str | None,
    typer.Option(help="What the network recurs over: origins, segments, steps or times."),
]
Head = Annotated[
    str | None,
    typer.Option(
        help="What is said of certainty: point, quantiles, normal, student, negative_binomial, poisson."
    ),
]
ScalingName = Annotated[
    str | None,
    typer.Option(
        "--scaling",
        help="What values are relative to: their window, or a level and seasons: smoothing.",
    ),
]
Static = Annotated[
    str | None, typer.Option(help="Columns that stay the same in a series, as country,size.")
]
Known = Annotated[
    str | None, typer.Option(help="Columns known ahead, as promo,price; given behind the end too.")
]
Historical = Annotated[
    str | None, typer.Option(help="Columns known up to the last value, as temperature.")
]
Categorical = Annotated[
    str | None, typer.Option(help="Those of them whose numbers are names; text always is one.")
]
ResampleTo = Annotated[
    str | None,
    typer.Option("--resample", help="Bring irregular stamps to steps of D, h, W, MS ..."),
]
Aggregate = Annotated[
    str | None, typer.Option(help="What becomes of the values of a step: mean, sum or last.")
]
Future = Annotated[
    Path | None, typer.Option(help="A table of what is known ahead, behind the end of FILE.")
]
Seed = Annotated[int, typer.Option(help="Another seed, other starting weights.")]
SettingsFile = Annotated[
    Path | None, typer.Option("--settings", help="Settings that `refold tune` wrote.")
]
Ray = Annotated[
    bool, typer.Option("--ray", help="Share the series among Ray's workers (needs ray).")
]
Workers = Annotated[int | None, typer.Option(help="How many workers, with --ray. Else all cores.")]
Out = Annotated[Path, typer.Option(help="Folder for what is written.")]
Plot = Annotated[bool, typer.Option(help="Draw figures (needs matplotlib).")]


@dataclass(frozen=True, slots=True)
class Beside:
    """What is said of columns beside the target and of stamps, as it was written."""

    static: str | None = None
    known: str | None = None
    historical: str | None = None
    categorical: str | None = None
    resample: str | None = None
    aggregate: str | None = None
    future: Path | None = None

    def resampling(self) -> Resample | None:
        """What rows are to be brought to."""
        from refold.forecast import Resample

        if self.resample is None:
            if self.aggregate is not None:
                fact = "an aggregate is given, and no step"
                raise DataError(fact, "say which: --resample D", "--aggregate")
            return None
        return Resample(self.resample, self.aggregate or "mean")  # type: ignore[arg-type]

    def named(self) -> Covariates:
        """As names."""
        from refold.forecast import Covariates

        names = (self.static, self.known, self.historical, self.categorical)
        return Covariates(*(_listed(text) for text in names))

    def flags(self) -> list[str]:
        """As they are written in a command."""
        pairs = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [part for name, value in pairs if value for part in (f"--{name}", str(value))]


_NOTHING = Beside()


@dataclass(frozen=True, slots=True)
class Words:
    """The arguments of a verb on series, as they were written."""

    file: Path | None
    horizon: int | None
    example: str | None = None
    target: str | None = None
    time: str | None = None
    id: str | None = None
    freq: str | None = None
    season: str | None = None
    level: str | None = None
    cell: str | None = None
    seed: int = 0
    over: str | None = None
    head: str | None = None
    scaling: str | None = None
    beside: Beside = _NOTHING
    settings: Path | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """What they come to."""

    words: Words
    source: Path
    horizon: int
    levels: tuple[float, ...]
    settings: Settings
    table: Table
    panel: Panel

    def command(self, verb: str, *more: str) -> str:
        """The command that gives the same again, with nothing left to guess."""
        words, named = self.words, self.table.columns
        line = ["refold", verb]
        line += ["--example", words.example] if words.example else [str(words.file)]
        line += ["--horizon", str(self.horizon)]
        for flag, value in (("--target", named.target), ("--time", named.time), ("--id", named.id)):
            line += [flag, value] if value and not words.example else []
        for flag, value in (("--freq", words.freq), ("--season", words.season)):
            line += [flag, value] if value else []
        line += words.beside.flags()
        line += ["--level", words.level] if words.level else []
        for flag, value in (("--settings", words.settings), ("--over", words.over)):
            line += [flag, str(value)] if value else []
        for flag, value in (("--head", words.head), ("--scaling", words.scaling)):
            line += [flag, value] if value else []
        if words.cell or not words.settings:
            line += ["--cell", words.cell or self.settings.cell_name]
        line += ["--seed", str(words.seed), *more]
        return shlex.join(line)


def read(words: Words, verb: str, holdout: int | None = None) -> Given:
    """The table that is named, and the settings. holdout: points that take no part in the search for
    seasons; None takes the horizon.

    Errors  DataError and EquationError for whatever cannot be; nothing is trained before.
    """
    # Torch takes a second to load: not for --help, and not before a wrong argument is found.
    from refold.forecast import Settings, from_table, read_table

    source, steps = _source(words, verb), steps_of(words.horizon)
    settings = Settings(seed=words.seed)
    if words.settings is not None:
        settings = settings_file.read(words.settings, settings)
    if words.over is not None:
        settings = replace(settings, over=_over(words.over))
    if words.head is not None:
        settings = replace(settings, head=words.head)
    if words.scaling is not None:
        settings = replace(settings, scaling=_scaling(words.scaling))
    if words.cell is not None:
        settings = replace(settings, cell=cells.find(words.cell))
    levels = levels_of(words.level)
    table = read_table(source, words.target, words.time, words.id, words.beside.named())
    holdout = steps if holdout is None else holdout
    resample = words.beside.resampling()
    seasons = _seasons(words.season)
    apart = settings.over == "times"
    panel = from_table(
        table, words.freq, seasons, holdout=holdout, resample=resample, irregular=apart
    )
    if words.beside.future is not None:
        panel = with_future(panel, table.columns, words.beside.future)
    return Given(words, source, steps, levels, settings, table, panel)


def with_future(panel: Panel, columns: Columns, path: Path) -> Panel:
    """The panel with what a file says of its future. columns: what they are called there.

    Errors  DataError for a file that does not fit the panel.
    """
    from refold.forecast import read_future, with_future_table

    known = [c.name for c in panel.columns if c.role == "known"]
    table = read_future(path, columns, known)
    if columns.id is None:  # what is known ahead is the same for all series
        table = table.under(*(series.name for series in panel.series))
    return with_future_table(panel, table)


def _listed(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(part.strip() for part in text.split(","))


def _source(words: Words, verb: str) -> Path:
    if (words.file is None) == (words.example is None):
        fact = "neither a file nor an example is given"
        if words.file is not None:
            fact = "both a file and an example are given"
        raise DataError(fact, f"give one: refold {verb} FILE, or --example {_NAMES}", "FILE")
    return words.file if words.file is not None else example(str(words.example)).path


def steps_of(horizon: int | None) -> int:
    """A horizon that can be."""
    if horizon is None:
        raise DataError("no horizon is given", "say how many steps: --horizon 12", "--horizon")
    if horizon < 1:
        raise DataError(f"the horizon is {horizon}", "give at least 1", "--horizon")
    return horizon


def _over(text: str | None) -> Recurring:
    """Errors  DataError for what no network recurs over."""
    from refold.forecast.settings import Over, Settings

    kinds = get_args(Over)
    if text is None:
        return Settings().over
    if text not in kinds:
        fact = f"there is no recurrence over {text!r}"
        raise DataError(fact, f"choose one of {', '.join(kinds)}", "--over")
    return cast("Recurring", text)


def _scaling(text: str) -> Scaling:
    """Errors  DataError for what values cannot be relative to."""
    from refold.forecast.settings import Scaling

    if text not in get_args(Scaling):
        fact = f"there is no scaling {text!r}"
        raise DataError(fact, f"choose one of {', '.join(get_args(Scaling))}", "--scaling")
    return cast("Scaling", text)


def _seasons(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    seasons = tuple(_numbers(text, int, "whole numbers", "--season", "--season 48,336"))
    if min(seasons) < 1:
        raise DataError(f"{text!r} holds a number below 1", "1 stands for no season", "--season")
    return seasons


def levels_of(text: str | None) -> tuple[float, ...]:
    """Percents, in order; () where none are asked for."""
    from refold.forecast import check_levels

    if text is None:
        return ()
    return check_levels(_numbers(text, float, "percents", "--level", "--level 80,95"), "--level")


def _numbers(text: str, kind: type, what: str, flag: str, example: str) -> Sequence:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        fact = f"{text!r} is not a list of {what}"
        short = example.partition(",")[0]
        raise DataError(fact, f"write {short}, or {example}", flag) from error
