"""`refold task`: train a cell on a memory task of the literature, and say how it did beside the paper."""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from refold import cells
from refold.errors import DataError

if TYPE_CHECKING:
    from refold.data.tasks import Task

    from .attempt import Attempt, Exam, Outcome


def task(
    name: Annotated[str, typer.Argument(help="A task, or `list` for all of them.")],
    cell: Annotated[
        str, typer.Option(help="Recurrent cell: a zoo name, or file.py:function.")
    ] = "lstm",
    hidden: Annotated[int, typer.Option(min=1, help="Units.")] = 50,
    length: Annotated[
        str | None, typer.Option(help="T, or a range 50..200. Else the source's.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the task, as tau=30.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="How weights start: torch, orthogonal ... Else chrono where gates keep the past, "
            "irnn where a matrix does."
        ),
    ] = None,
    gain: Annotated[float | None, typer.Option(help="Of an initialiser that has one.")] = None,
    optimiser: Annotated[str, typer.Option(help="adam, adamw, rmsprop, sgd or adagrad.")] = "adam",
    rate: Annotated[
        float | None, typer.Option(help="The optimiser's step size. Else 1e-3, with irnn 1e-4.")
    ] = None,
    schedule: Annotated[
        str, typer.Option(help="linear or cosine: the rate is 0 after --steps; constant, plateau.")
    ] = "linear",
    clip: Annotated[float, typer.Option(min=0, help="Gradient norm, 0 for no clipping.")] = 1.0,
    omega: Annotated[
        float | None, typer.Option(help="Weight of Pascanu's regulariser; the paper has 4.")
    ] = None,
    omega_form: Annotated[str, typer.Option(help="ratio (eq. 9) or squared (eq. 10).")] = "ratio",
    steps: Annotated[int, typer.Option(min=1, help="At most so many steps.")] = 20_000,
    batch: Annotated[int, typer.Option(min=1, help="Sequences in a step, of each process.")] = 20,
    every: Annotated[int, typer.Option(min=1, help="Steps between two looks.")] = 100,
    held_out: Annotated[int, typer.Option(min=1, help="Sequences that are looked at.")] = 1000,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Sequences of the exam. Else the source's.")
    ] = None,
    enough: Annotated[
        float | None, typer.Option(help="Stop at this loss, not at the source's criterion.")
    ] = None,
    test_length: Annotated[
        list[int] | None, typer.Option(help="Another length for an exam; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed: other weights, other data.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda ...")] = "cpu",
    checkpoint: Annotated[Path | None, typer.Option(help="Folder to save the run in.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from --checkpoint.")] = False,
    log: Annotated[Path | None, typer.Option(help="File of JSON lines, one a step.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The same, to be read by programs.")
    ] = False,
) -> None:
    """Train a cell on a memory task with fresh sequences in every step, and examine it.

    `refold task list` names the tasks. Ends with 1 when the task is not solved, else with 0. Under
    torchrun, several processes train it together; a run that comes to its end then ends with 0,
    solved or not, because torchrun starts again what ends with another code.
    """
    from refold.data import tasks  # torch takes a second to load: not for --help

    if name == "list":
        _list([tasks.task(name) for name in tasks.names()], as_json)
        return
    asked = tasks.task(name, **_set(setting or ()))
    from .attempt import RATES, Attempt, outcome, start_for, trained

    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    chosen, lengths = cells.find(cell), _length(length) or asked.lengths
    start = init or start_for(chosen, lengths[1])
    given = Attempt(
        task=asked,
        cell=chosen,
        length=lengths,
        hidden=hidden,
        start=start,
        gain=gain,
        rate=RATES.get(start, 1e-3) if rate is None else rate,
        schedule=schedule,
        optimiser=optimiser,
        clip=clip or None,
        omega=omega,
        form=omega_form,
        steps=steps,
        batch=batch,
        every=min(every, steps),
        held_out=held_out,
        trials=trials or asked.trials,
        enough=enough,
        seed=seed,
        processes=processes,
        device=_own(device, processes),
        checkpoint=checkpoint,
        resume=resume,
        log=log,
        progress=sys.stderr.isatty() and not as_json,
    )
    if not as_json and rank == 0:
        _tell_attempt(Console(), given)
    with _told_when_stopped(checkpoint, rank):
        network, run = trained(given)
    if rank > 0:  # one process examines, and tells
        return
    found = outcome(given, network, run, test_length or ())
    if as_json:
        typer.echo(json.dumps(_data(given, found), indent=1))
    else:
        _tell(Console(), given, found)
    if not found.solved and processes == 1:
        raise typer.Exit(1)


def _own(device: str, processes: int) -> str:
    """A GPU for each process of a machine."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and processes > 1 else device


def _length(text: str | None) -> tuple[int, int] | None:
    """50 or 50..200, both ends included."""
    if text is None:
        return None
    low, _, high = text.partition("..")
    try:
        return int(low), int(high or low)
    except ValueError as error:
        fact = f"{text!r} is neither a number of steps nor a range"
        raise DataError(fact, "write --length 100, or --length 50..200", "--length") from error


def _set(settings: list[str] | tuple[()]) -> dict[str, Any]:
    """NAME=VALUE, the value as Python writes it, or a word."""
    found: dict[str, Any] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            fact = f"{text!r} sets nothing"
            raise DataError(fact, "write --set NAME=VALUE, as in --set tau=30", "--set")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


# What is told.


@contextmanager
def _told_when_stopped(folder: Path | None, rank: int) -> Iterator[None]:
    """Ctrl-C ends with 130 and SIGTERM with 143, and both say how to go on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        code = 130 if isinstance(stop, KeyboardInterrupt) else stop.code
        if rank == 0 and code in (130, 143):
            typer.echo(_how_to_go_on(folder), err=True)
        raise SystemExit(code) from None


def _how_to_go_on(folder: Path | None) -> str:
    from refold.train.checkpoints.folder import checkpoints

    saved = checkpoints(folder) if folder else {}
    if not saved:
        return "stopped; nothing was saved: with --checkpoint FOLDER a run can be resumed"
    return f"stopped, and saved after step {next(iter(saved)):,}: the same command with --resume goes on"


def _list(found: list[Task], as_json: bool) -> None:
    names = ("name", "about", "source", "criterion", "published")
    rows = [{name: getattr(one, name) for name in names} for one in found]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("task", no_wrap=True)
    for column in ("what it asks", "source", "solved when"):
        table.add_column(column, ratio=1)
    for row in rows:
        table.add_row(row["name"], *(Text(row[name]) for name in names[1:4]))
    Console().print(table)


def _tell_attempt(console: Console, given: Attempt) -> None:
    task = given.task
    console.print(Text.assemble((task.name, "bold"), f"  {task.about}"), soft_wrap=True)
    omega = f", Omega {given.omega:g} ({given.form})" if given.omega is not None else ""
    clip = f", clip {given.clip:g}" if given.clip else ", no clipping"
    processes = f" in each of {given.processes} processes" if given.processes > 1 else ""
    told = (
        f"  T {_range(given.length)}; {given.cell.name} with {given.hidden} units, {given.start}; "
        f"{given.optimiser} at {given.rate:g} ({given.schedule}){clip}{omega}; "
        f"batches of {given.batch}{processes}; seed {given.seed}"
    )
    console.print(told, style="dim", highlight=False, markup=False, soft_wrap=True)


def _tell(console: Console, given: Attempt, outcome: Outcome) -> None:
    task, run = given.task, outcome.run
    style = "bold green" if outcome.solved else "bold yellow"
    console.print(Text(outcome.verdict, style=style), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for column in ("T", "wrong", "loss", "a guess without memory"):
        table.add_column(column, justify="right")
    for exam in (outcome.exam, *outcome.others):
        table.add_row(*_row(exam))
    console.print(table)
    formula = task.formula or "the last value again"
    for line in (
        f"guess      {formula}",
        f"criterion  {task.criterion}",
        f"published  {task.published}",
        f"time       {run.seconds:.1f} s of training, {run.steps:,} steps; {outcome.weights:,} weights",
    ):
        console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)


def _row(exam: Exam) -> tuple[str, ...]:
    return (
        _range(exam.length),
        f"{exam.wrong:.2%} of {exam.trials:,}",
        f"{exam.error:.4g}",
        f"{exam.guess:.4g}",
    )


def _range(length: tuple[int, int]) -> str:
    low, high = length
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _data(given: Attempt, outcome: Outcome) -> dict[str, Any]:
    task, run = given.task, outcome.run
    names = (
        "hidden",
        "start",
        "rate",
        "schedule",
        "optimiser",
        "clip",
        "omega",
        "form",
        "batch",
        "every",
        "seed",
        "processes",
    )
    return {
        "task": task.name,
        "solved": outcome.solved,
        "verdict": outcome.verdict,
        "exam": asdict(outcome.exam),
        "others": [asdict(exam) for exam in outcome.others],
        "steps": run.steps,
        "seconds": run.seconds,
        "stopped": run.stopped,
        "resumed": run.resumed,
        "weights": outcome.weights,
        "cell": given.cell.name,
        "settings": {name: getattr(given, name) for name in names},
        "criterion": task.criterion,
        "published": task.published,
        "formula": task.formula,
    }
