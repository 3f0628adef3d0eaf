"""`refold`: the command line. Each verb is a function in a file of its name."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from refold.errors import RefoldError

from . import cells, doctor, draw, explain
from .anomalies import anomalies
from .backtest import backtest
from .diagnose import diagnose
from .fit import fit
from .forecast import forecast
from .importance import importance
from .predict import predict
from .simulate import simulate
from .task import task
from .tune import tune

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Recurrent neural networks, written as equations.",
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"refold {version('refold')}")
        raise typer.Exit


@app.callback()
def main(
    wanted: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version."),
    ] = False,
) -> None:
    """Recurrent neural networks, written as equations."""


app.command()(forecast)
app.command()(backtest)
app.command()(fit)
app.command()(predict)
app.command()(simulate)
app.command()(diagnose)
app.command()(anomalies)
app.command()(importance)
app.command()(tune)
app.command()(explain.explain)
app.command()(draw.draw)
app.command()(cells.cells)
app.command()(doctor.doctor)
app.command()(task)


def run() -> None:
    """The entry point: what refold refuses is an error text and exit code 2, not a traceback."""
    try:
        with _stopped_in_order():
            app()
    except RefoldError as error:
        Console(stderr=True, soft_wrap=True).print(told(error))
        sys.exit(2)


@contextmanager
def _stopped_in_order() -> Iterator[None]:
    """SIGTERM ends the command as an exception does: half-written files are put away first."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can be told of signals
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def told(error: RefoldError) -> Text:
    """An error as where, what is so, and what to do."""
    text = Text("error: ", style="bold red")
    if error.where:
        text.append(f"{error.where}\n       ", style="bold")
    text.append(error.fact.replace("\n", "\n       "), style="default")
    if error.remedy:
        text.append(f"\n   fix: {error.remedy}", style="default")
    return text
