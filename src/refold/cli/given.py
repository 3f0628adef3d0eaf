"""What the verbs on series have in common: their arguments, and what these come to."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refold import cells
from refold.data.examples import EXAMPLES, example
from refold.errors import DataError

if TYPE_CHECKING:
    from refold.forecast import Panel, Settings, Table

_NAMES = " or ".join(EXAMPLES)

File = Annotated[Path | None, typer.Argument(help="CSV or Parquet, one row per series and time.")]
Horizon = Annotated[int | None, typer.Option("--horizon", "-H", help="How many steps ahead.")]
Example = Annotated[str | None, typer.Option("--example", help=f"A bundled series: {_NAMES}.")]
Target = Annotated[str | None, typer.Option(help="Column to forecast.")]
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
        line += ["--level", words.level] if words.level else []
        if words.settings:
            line += ["--settings", str(words.settings)]
            line += ["--cell", words.cell] if words.cell else []
        else:
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

    source, steps = _source(words, verb), _steps(words.horizon)
    settings = Settings(seed=words.seed)
    if words.settings is not None:
        settings = replace(settings, **_of_file(words.settings, settings))
    if words.cell is not None:
        settings = replace(settings, cell=cells.find(words.cell))
    levels = levels_of(words.level)
    table = read_table(source, words.target, words.time, words.id)
    holdout = steps if holdout is None else holdout
    panel = from_table(table, words.freq, _seasons(words.season), holdout=holdout)
    return Given(words, source, steps, levels, settings, table, panel)


def spelled(settings: Settings, words: Words) -> dict[str, Any]:
    """Settings as JSON has them, without the seed; a cell as it was named."""
    named = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "seed"}
    if not isinstance(named["cell"], str):
        named["cell"] = words.cell
    return named


def _of_file(path: Path, settings: Settings) -> dict[str, Any]:
    """What a file says of settings. Errors  DataError where it says something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fact = f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        remedy = "name the settings.json that `refold tune` wrote"
        raise DataError(fact, remedy, "--settings") from error
    known = {f.name: None for f in fields(settings) if f.name != "seed"}
    if not isinstance(found, dict) or not found.keys() <= known.keys():
        strange = min(found.keys() - known.keys()) if isinstance(found, dict) else "no settings"
        fact = f"{path} has {strange!r}; settings are {', '.join(known)}"
        raise DataError(fact, "correct it, or run refold tune again", "--settings")
    for name, value in found.items():
        if not _fits(name, value):
            remedy = "correct it, or run refold tune again"
            raise DataError(f"{path} has {name} {value!r}", remedy, "--settings")
    if "cell" in found:
        found["cell"] = cells.find(found["cell"])
    return found


def _fits(name: str, value: object) -> bool:
    """May a file say this? null leaves a setting to its rule."""
    if name == "cell":
        return isinstance(value, str)
    kinds = (int, float) if name in ("rate", "dropout", "noise") else (int,)
    return value is None or (isinstance(value, kinds) and not isinstance(value, bool))


def _source(words: Words, verb: str) -> Path:
    if (words.file is None) == (words.example is None):
        fact = "neither a file nor an example is given"
        if words.file is not None:
            fact = "both a file and an example are given"
        raise DataError(fact, f"give one: refold {verb} FILE, or --example {_NAMES}", "FILE")
    return words.file if words.file is not None else example(str(words.example)).path


def _steps(horizon: int | None) -> int:
    if horizon is None:
        raise DataError("no horizon is given", "say how many steps: --horizon 12", "--horizon")
    if horizon < 1:
        raise DataError(f"the horizon is {horizon}", "give at least 1", "--horizon")
    return horizon


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
