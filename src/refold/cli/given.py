"""What the verbs on series have in common: their arguments, and what these come to."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args, get_type_hints

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

# The cell that reads the time between steps, where none is named.
_CONTINUOUS = "cfc"

# Options stand in groups in the help.
_of_table = partial(typer.Option, rich_help_panel="What the table holds")
_of_model = partial(typer.Option, rich_help_panel="The model")

File = Annotated[Path | None, typer.Argument(help="CSV or Parquet, one row per series and time.")]
Horizon = Annotated[int | None, typer.Option("--horizon", "-H", help="How many steps ahead.")]
Example = Annotated[str | None, typer.Option(help=f"A bundled series in place of FILE: {_NAMES}.")]
Level = Annotated[
    str | None, typer.Option(help="Intervals that hold so many percent, as 95 or 80,95.")
]
Target = Annotated[
    str | None, _of_table(help="Column to forecast; a,b,c or all where each is a series.")
]
Time = Annotated[str | None, _of_table(help="Column of dates, or of whole steps.")]
Id = Annotated[str | None, _of_table(help="Column that names the series.")]
Freq = Annotated[
    str | None, _of_table(help="Spacing: MS, ME, W, D, B, h, 30min ... Else from the dates.")
]
Season = Annotated[str | None, _of_table(help="Seasons in steps, as 48 or 48,336; 1 for none.")]
Static = Annotated[
    str | None, _of_table(help="Columns that stay the same in a series, as country,size.")
]
Known = Annotated[
    str | None, _of_table(help="Columns known ahead, as promo,price; given behind the end too.")
]
Historical = Annotated[
    str | None, _of_table(help="Columns known up to the last value, as temperature.")
]
Categorical = Annotated[
    str | None, _of_table(help="Those of them whose numbers are names; text always is one.")
]
ResampleTo = Annotated[
    str | None, _of_table(help="Bring irregular stamps to steps of D, h, W, MS ...")
]
Aggregate = Annotated[
    str | None, _of_table(help="What becomes of the values of a step: mean, sum or last.")
]
Future = Annotated[
    Path | None, _of_table(help="A table of what is known ahead, behind the end of FILE.")
]
CellName = Annotated[str | None, _of_model(help="Recurrent cell: a zoo name, or file.py:function.")]
SettingsFile = Annotated[Path | None, _of_model(help="Settings that `refold tune` wrote.")]
Over = Annotated[
    str | None, _of_model(help="What the network recurs over: origins, segments, steps or times.")
]
ScalingName = Annotated[
    str | None,
    _of_model(
        help="What values are relative to: window, or smoothing; over segments and steps mean, instance or standard."
    ),
]
Head = Annotated[
    str | None,
    _of_model(
        help="What is said of certainty: point, quantiles, normal, student, negative_binomial, poisson."
    ),
]
Seed = Annotated[int, _of_model(help="Another seed, other starting weights.")]
Ray = Annotated[
    bool, typer.Option("--ray", help="Share the series among Ray's workers (needs ray).")
]
Workers = Annotated[int | None, typer.Option(help="How many workers, with --ray. Else all cores.")]
Out = Annotated[Path, typer.Option(help="Folder for what is written.")]
Plot = Annotated[bool, typer.Option(help="Draw figures (needs matplotlib).")]


@dataclass(frozen=True, slots=True)
class Beside:
    """What is said of columns beside the target and of stamps, as it was written."""

    static: Static = None
    known: Known = None
    historical: Historical = None
    categorical: Categorical = None
    resample: ResampleTo = None
    aggregate: Aggregate = None

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

    file: File = None
    horizon: Horizon = None
    example: Example = None
    target: Target = None
    time: Time = None
    id: Id = None
    freq: Freq = None
    season: Season = None
    beside: Beside = _NOTHING
    cell: CellName = None
    settings: SettingsFile = None
    over: Over = None
    head: Head = None
    scaling: ScalingName = None
    seed: Seed = 0


def with_words(command: Callable[..., None]) -> Callable[..., None]:
    """A command that is given `words`, as typer wants it: with an argument or option for every field of
    `Words` and `Beside`, before its own ones.
    """
    apart = [field.name for field in fields(Beside)]
    said = {p.name: p for kind in (Words, Beside) for p in _options(kind)}
    signature = inspect.signature(command, eval_str=True)
    own = {name: p for name, p in signature.parameters.items() if name != "words"}

    @wraps(command)
    def run(**given: Any) -> None:
        beside = Beside(**{name: given.pop(name) for name in apart})
        words = {name: given.pop(name) for name in said if name not in apart}
        command(words=Words(**words, beside=beside), **given)

    every = [p.replace(kind=p.KEYWORD_ONLY) for p in (said | own).values()]
    run.__signature__ = signature.replace(parameters=every)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in every}
    return run


def _options(kind: type) -> list[inspect.Parameter]:
    """The fields of a record that somebody writes, as parameters."""
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)
        if hints[field.name] is not Beside
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """What they come to."""

    words: Words
    source: Path
    horizon: int
    level: str | None
    future: Path | None
    settings: Settings
    table: Table
    panel: Panel

    @property
    def levels(self) -> tuple[float, ...]:
        """Percents, in order; () where none are asked for."""
        return levels_of(self.level)

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
        for flag, value in (("--future", self.future), ("--level", self.level)):
            line += [flag, str(value)] if value else []
        for flag, value in (("--settings", words.settings), ("--over", words.over)):
            line += [flag, str(value)] if value else []
        for flag, value in (("--head", words.head), ("--scaling", words.scaling)):
            line += [flag, value] if value else []
        if words.cell or not words.settings:
            line += ["--cell", words.cell or self.settings.cell_name]
        line += ["--seed", str(words.seed), *more]
        return shlex.join(line)


def read(
    words: Words,
    verb: str,
    holdout: int | None = None,
    level: str | None = None,
    future: Path | None = None,
) -> Given:
    """The table that is named, and the settings. holdout: points that take no part in the search for
    seasons; None takes the horizon. level, future: of the verbs that have them.

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
    elif settings.over == "times" and words.settings is None:
        settings = replace(settings, cell=_CONTINUOUS)  # the usual cell reads no time step
    levels_of(level)  # refused before the table is read
    table = read_table(source, words.target, words.time, words.id, words.beside.named())
    holdout = steps if holdout is None else holdout
    resample = words.beside.resampling()
    seasons = _seasons(words.season)
    apart = settings.over == "times"
    panel = from_table(
        table, words.freq, seasons, holdout=holdout, resample=resample, irregular=apart
    )
    if future is not None:
        panel = with_future(panel, table.columns, future)
    return Given(words, source, steps, level, future, settings, table, panel)


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
