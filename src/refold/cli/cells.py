"""`refold cells`: the zoo, a line for each cell; or one cell in full."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from refold import cells as zoo
from refold.errors import EquationError
from refold.plan.explain import explain
from refold.shapes import Size

from .zoo import Entry, Sizes, entries, remember

WIDE = 170  # columns from which formulas stand beside their numbers; and of what is piped, where nothing says otherwise


def cells(
    name: Annotated[str | None, typer.Argument(help="One cell, in full; else the list.")] = None,
    family: Annotated[str | None, typer.Option(help="One family of cells.")] = None,
    input_size: Annotated[int, typer.Option(min=1, help="m, for the numbers.")] = 16,
    hidden_size: Annotated[int, typer.Option(min=1, help="n, and every other letter.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="T, for the speed.")] = 100,
    batch: Annotated[int, typer.Option(min=1, help="B, for the speed.")] = 32,
    threads: Annotated[int, typer.Option(min=1, help="For the speed.")] = 1,
    speed: Annotated[
        bool, typer.Option("--speed", help="Measure a training step beside torch.nn.LSTM's.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The same, to be read by programs.")
    ] = False,
) -> None:
    """List the cells of the zoo: states, parameters, work, backend and speed. With a name: one cell in full."""
    sizes = Sizes(input_size, hidden_size, steps, batch, threads)
    found, notes = _chosen(name, family, sizes), []
    if speed:
        found, notes = _measured(found)
    if as_json:
        typer.echo(json.dumps(_data(found, sizes), indent=1))
    elif name is not None:
        typer.echo("\n".join([_full(found[0]), *notes]))
    else:
        _tell(_console(), found, sizes, notes)


def _chosen(name: str | None, family: str | None, sizes: Sizes) -> list[Entry]:
    """The cells that are asked for."""
    if name is not None and family is not None:
        raise EquationError(f'the cell "{name}" and a family were named.', "Name one of the two.")
    if name is not None:
        zoo.get(name)  # refuses an unknown one
        return [entry for entry in entries(sizes) if entry.cell.name == name]
    families = zoo.families()
    if family is not None and family not in families:
        raise EquationError(
            f'there is no family "{family}".', f"Choose one of {', '.join(families)}."
        )
    return [entry for entry in entries(sizes) if family in (None, entry.family)]


def _measured(found: list[Entry]) -> tuple[list[Entry], list[str]]:
    """The same with their speeds, each kept as soon as it is known, and why they cannot be kept."""
    from .timing import measure  # torch takes a second to load

    told, notes = [], []
    with _progress(len(found)) as next_one:
        for entry in found:
            next_one(entry.cell.name)
            speed = measure(entry.cell, entry.sizes)
            notes = [note for note in [remember(entry.cell, entry.sizes, speed)] if note]
            told.append(replace(entry, speed=speed))
    return told, notes


@contextmanager
def _progress(count: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr that goes away; it is told what is at turn."""
    columns = (
        TextColumn("measuring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=count, completed=-1)
        yield lambda text: bar.update(task, description=text, advance=1)


# What is told ---------------------------------------------------------------------------------------------------------


def _data(found: list[Entry], sizes: Sizes) -> dict[str, Any]:
    names = ("input_size", "hidden_size", "steps", "batch", "threads")
    return {
        "sizes": {name: getattr(sizes, name) for name in names},
        "cells": {entry.cell.name: entry.data() for entry in found},
    }


def _console() -> Console:
    # A pipe has no width of its own; formulas broken to 80 columns are of no use in it.
    told = sys.stdout.isatty() or os.environ.get("COLUMNS")
    return Console() if told else Console(width=WIDE)


def _tell(console: Console, found: list[Entry], sizes: Sizes, notes: list[str]) -> None:
    wide = console.width >= WIDE
    table = Table(box=None, pad_edge=False)
    for name in ("cell", "family", "states"):
        table.add_column(name, no_wrap=True)
    for name in ("parameters", "FLOP"):
        if wide:
            table.add_column(name, overflow="fold", max_width=24)
        table.add_column("" if wide else name, justify="right", no_wrap=True)
    table.add_column("backend", no_wrap=True)
    table.add_column("speed", justify="right", no_wrap=True)
    table.add_column("for", ratio=1)
    for entry in found:
        table.add_row(*_row(entry, wide))
    console.print(table)
    console.print()
    for line in [*_footer(found, sizes, wide), *notes]:
        console.print(line, style="dim", soft_wrap=True, highlight=False)


def _row(entry: Entry, wide: bool) -> list[str]:
    states = ", ".join(f"{name} {_letters(size)}" for name, size in entry.states.items())
    row = [entry.cell.name, entry.family, states]
    for size in (entry.parameters, entry.flops):
        row += [str(size)] * wide + [f"{entry.at(size):,}"]
    return [*row, entry.backend[0], _speed(entry), entry.use]


def _letters(size: Size) -> str:
    return f"({size})" if len(size.terms) > 1 else str(size)


def _speed(entry: Entry) -> str:
    return "—" if entry.speed is None else f"{entry.speed.ratio:.2f}"


def _footer(found: list[Entry], sizes: Sizes, wide: bool) -> Iterator[str]:
    more = "" if wide else f"; formulas: {WIDE} columns, or --json"
    yield f"{len(found)} cells; numbers at m {sizes.input_size}, n {sizes.hidden_size}, other letters as n{more}"
    yield "FLOP: multiplications and additions in the products of one step of one row"
    for backend, reason in dict.fromkeys(entry.backend for entry in found):
        yield f"{backend}: {reason}"
    yield f"speed: {_about_speed(sizes)}"
    if any(not entry.parameters.terms for entry in found):
        yield "       a cell that learns nothing is only run forward"
    if any(entry.speed is None for entry in found):
        yield "—: not measured at these sizes on this machine; refold cells --speed does so"


def _about_speed(sizes: Sizes) -> str:
    return (
        f"torch.nn.LSTM's time of a training step by the cell's, at T {sizes.steps}, B {sizes.batch}, "
        f"{sizes.threads} {'thread' if sizes.threads == 1 else 'threads'}; above 1 is faster"
    )


def _full(entry: Entry) -> str:
    """One cell: what `refold explain` says of it, and the numbers."""
    sizes, cost = entry.sizes, explain(entry.cell).plan.cost
    letters = ", ".join(f"{k} {v}" for k, v in sizes.numbers(entry.cell).items())
    states = ", ".join(f"{k} {_equal(entry, v)}" for k, v in entry.states.items())
    if entry.speed is None:
        speed = f"not measured; refold cells {entry.cell.name} --speed does so"
    else:
        took = f"{entry.speed.cell:.3f} ms, torch.nn.LSTM {entry.speed.lstm:.3f} ms"
        speed = f"{_speed(entry)} ({took}): {_about_speed(sizes)}"
    rows = {
        "family": entry.family,
        "states": states,
        "learns": f"{_equal(entry, entry.parameters)} numbers",
        "FLOP": f"{_equal(entry, entry.flops)} for a step of a row",
        "forward": f"{_equal(entry, cost.flops)} FLOP",
        "backward": f"{_equal(entry, cost.flops_back)} FLOP",
        "backend": ": ".join(entry.backend),
        "speed": speed,
    }
    head = f"at {letters}, T {sizes.steps}, B {sizes.batch}"
    lines = [f"  {key:9}{text}" for key, text in rows.items()]
    return "\n".join([str(explain(entry.cell)), "", head, *lines])


def _equal(entry: Entry, size: Size) -> str:
    """A formula and its number; a formula that is a number stands alone."""
    return f"{size} = {entry.at(size):,}" if size.letters else f"{entry.at(size):,}"
