"""`refold diagnose`: what the recurrence of a model does on its series, as one page."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refold.errors import DataError

from . import folder, given, weights
from .kept import kept

if TYPE_CHECKING:
    from torch import Tensor, nn

    from refold.dynamics.findings import Findings

_WHERE = "refold diagnose"
_FILES = ("diagnosis.html", "diagnosis.json")


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is diagnosed: a recurrence, and the data (T, B, m) that drive it, or None."""

    module: nn.Module
    x: Tensor | None
    title: str
    about: str


def diagnose(
    model: Annotated[
        Path,
        typer.Argument(help="A folder that `refold fit` wrote, or a .safetensors or .pt file."),
    ],
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Newer rows of its series; of a file of weights a column for each input."
        ),
    ] = None,
    network: Annotated[int, typer.Option(help="Which of the networks of a folder, from 1.")] = 1,
    exponents: Annotated[int, typer.Option(help="How many Lyapunov exponents.")] = 4,
    cell: Annotated[
        str | None,
        typer.Option(help="The cell of a file of weights: a zoo name, or file.py:function."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the numbers for programs.")
    ] = False,
    plot: given.Plot = True,
    out: given.Out = Path("refold-diagnosis"),
) -> None:
    """Say of a MODEL how long it remembers, and whether its gradients vanish or explode.

    It is driven by what it reads of each series, up to the last values. Nothing is trained. Writes diagnosis.html, a
    page that needs nothing else, and diagnosis.json.
    """
    from refold.dynamics import dynamics
    from refold.dynamics.findings import as_dict, findings

    if exponents < 1:
        raise DataError(f"--exponents is {exponents}", "give a number of 1 or more", _WHERE)
    if plot:
        from refold.report import require_plots

        require_plots()
    subject = _subject(model, data, network, cell)
    folder.check(out, _FILES, data or model)
    found = findings(dynamics(subject.module, subject.x), exponents)
    numbers = json.dumps(as_dict(found), indent=1, allow_nan=False)
    words = [str(w) for w in (model, data) if w is not None]
    words += (
        ["--cell", cell]
        if cell
        else []
        if model.suffix in weights.ENDINGS
        else ["--network", str(network)]
    )
    command = shlex.join(["refold", "diagnose", *words, "--exponents", str(exponents)])
    page = _page(found, subject, command, plot)
    folder.write(out, dict(zip(_FILES, (page.encode(), numbers.encode()), strict=True)))
    # Figures are not wrapped: they are piped and compared.
    typer.echo(numbers if as_json else str(found))
    typer.echo(f"Written to {out}: {', '.join(_FILES)}", err=True)


def _subject(model: Path, data: Path | None, network: int, cell: str | None) -> _Subject:
    if model.suffix not in weights.ENDINGS or model.is_dir():
        if cell is not None:
            raise DataError("a folder says itself which cell it has", "leave --cell out", _WHERE)
        return _of_folder(model, data, network)
    module = weights.read_layer(model, cell)
    told = f"{model}, driven by {data}" if data else f"{model}, running free, its input held at 0"
    return _Subject(
        module, None if data is None else _columns(data), f"Diagnosis of {model.name}", told
    )


def _of_folder(model: Path, data: Path | None, network: int) -> _Subject:
    found = kept(model, data, network, _WHERE)
    told = f"Network {network} of {found.count}, cell {found.cell}, driven by "
    told += f"{found.x.shape[1]} series of {len(found.x)} steps."
    return _Subject(found.recurrence, found.x, f"Diagnosis of {model.name}", told)


def _columns(data: Path) -> Tensor:
    """(T, m) from a table, a column for each input."""
    import polars as pl

    try:
        table = pl.read_parquet(data) if data.suffix == ".parquet" else pl.read_csv(data)
    except (OSError, pl.exceptions.PolarsError) as error:
        fact = f"it cannot be read: {str(error).splitlines()[0]}"
        raise DataError(fact, "give a CSV or Parquet file", str(data)) from error
    words = [name for name, kind in table.schema.items() if not kind.is_numeric()]
    if words:
        fact = f"column {words[0]!r} holds {table.schema[words[0]]}, and the network reads numbers"
        raise DataError(fact, "leave it out: every column is an input", str(data))
    return table.cast(pl.Float64).fill_null(float("nan")).to_torch()


def _page(found: Findings, subject: _Subject, command: str, plot: bool) -> str:
    from refold.dynamics.folded import Folded
    from refold.report.diagnosis import diagnosis_page
    from refold.report.dynamics_figures import dynamics_figures

    system = found.dynamics.system
    folded = system.levels if isinstance(system, Folded) else ()
    rows = found.dynamics.x
    settings = {
        "State": found.dynamics.order,
        "Data": "none" if rows is None else f"{len(rows)} steps, {rows.shape[1]} row(s)",
        "Numbers": "Jacobians are exact and in float64, of a copy: the model is not changed",
        "Version": f"refold {version('refold')}",
    }
    return diagnosis_page(
        found,
        title=subject.title,
        about=subject.about,
        cells=list(dict.fromkeys(level.equation.cell for level in folded)),
        settings=settings,
        command=command,
        figures=dynamics_figures(found) if plot else {},
    )
