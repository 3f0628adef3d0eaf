"""`refold draw`: the picture of a cell in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from refold import cells

if TYPE_CHECKING:
    from refold.report.diagram import Theme


def draw(
    cell: Annotated[str, typer.Argument(help="A zoo cell, or file.py:function.")],
    out: Annotated[
        Path | None, typer.Option(help="The file: .svg, or .png with matplotlib. Else NAME.svg.")
    ] = None,
    theme: Annotated[
        str, typer.Option(help="auto, light or dark: the page it is for; auto follows the page.")
    ] = "auto",
) -> None:
    """Draw a cell folded: its gates and operations, and each state's loop with its delay."""
    from refold.report.diagram import draw as drawn  # loads torch: not for the other verbs

    found = cells.find(cell)
    typer.echo(str(drawn(found, theme=cast("Theme", theme)).save(out or Path(f"{found.name}.svg"))))
