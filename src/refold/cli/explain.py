"""`refold explain`: a cell's equations, its derived backpropagation through time, its plan."""

from __future__ import annotations

from typing import Annotated

import typer

from refold import cells
from refold.plan.explain import STAGES, Stage
from refold.plan.explain import explain as explained
from refold.plan.keep import Memory


def explain(
    cell: Annotated[str, typer.Argument(help="A zoo cell, or file.py:function.")],
    stage: Annotated[Stage | None, typer.Option(help="One stage; else all.")] = None,
    latex: Annotated[
        bool, typer.Option("--latex", help="Equations as LaTeX, for a paper.")
    ] = False,
    memory: Annotated[
        Memory, typer.Option(help="What the plan keeps for the reverse step.")
    ] = "fast",
) -> None:
    """Show what becomes of an equation: the graph, the derived adjoint, the plan."""
    found = explained(cells.find(cell), STAGES if stage is None else stage, memory)
    # Equations are not wrapped or coloured: they are piped, pasted and compared.
    typer.echo(found.latex if latex else str(found))
