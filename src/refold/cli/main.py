"""`refold`: the command line. Each verb is a function in a file of its name."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.text import Text

from refold.errors import RefoldError

from . import cells, explain
from .forecast import forecast

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Recurrent neural networks, written as equations.",
)


@app.callback()
def main() -> None:
    """Recurrent neural networks, written as equations."""


app.command()(forecast)
app.command()(explain.explain)
app.command()(cells.cells)


def run() -> None:
    """The entry point: what refold refuses is an error text and exit code 2, not a traceback."""
    try:
        app()
    except RefoldError as error:
        Console(stderr=True, soft_wrap=True).print(told(error))
        sys.exit(2)


def told(error: RefoldError) -> Text:
    """An error as where, what is so, and what to do."""
    text = Text("error: ", style="bold red")
    if error.where:
        text.append(f"{error.where}\n       ", style="bold")
    text.append(error.fact.replace("\n", "\n       "), style="default")
    if error.remedy:
        text.append(f"\n   fix: {error.remedy}", style="default")
    return text
