"""`refold doctor`: what this machine has, which backend each cell gets and why, and whether it computes the same."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from .examine import Check, Examination


def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="The same, to be read by programs.")
    ] = False,
) -> None:
    """Tell what this machine has, which backend each cell gets, and check one against the reference.

    Ends with 1 when the check fails, else with 0.
    """
    from .examine import examine  # torch takes a second to load: not for --help

    found = examine()
    if as_json:
        typer.echo(json.dumps(_data(found), indent=1))
    else:
        _tell(Console(), found)
    if found.check.passed is False:
        raise typer.Exit(1)


def _data(found: Examination) -> dict[str, object]:
    return {
        "machine": {f.name: f.value for f in found.machine},
        "cells": {c.cell: {"backend": c.backend, "reason": c.reason} for c in found.cells},
        "check": asdict(found.check),
        "remedies": _remedies(found),
    }


def _remedies(found: Examination) -> dict[str, str]:
    """What to do, by what is missing."""
    remedies = {f.name: f.remedy for f in found.machine if f.remedy}
    if found.check.passed is False:
        remedies["check"] = (
            'Use backend="reference" until this is mended, and report it with the text of refold doctor --json.'
        )
    return remedies


def _tell(console: Console, found: Examination) -> None:
    facts = Table(box=None, pad_edge=False, show_header=False)
    for finding in found.machine:
        facts.add_row(Text(finding.name, style="bold"), Text(finding.told, overflow="fold"))
    console.print(facts)

    same: dict[tuple[str | None, str], list[str]] = {}
    for c in found.cells:
        same.setdefault((c.backend, c.reason), []).append(c.cell)
    chosen = Table(box=None, pad_edge=False)
    for name in ("backend", "why", "cells"):
        chosen.add_column(name, no_wrap=name == "backend")
    for (backend, reason), names in same.items():
        told = f"{len(names)}: {', '.join(names)}"
        chosen.add_row(backend or Text("none", style="bold red"), Text(reason), Text(told))
    console.print()
    console.print(chosen)

    console.print()
    console.print(_told(found.check), soft_wrap=True)
    if remedies := _remedies(found):
        console.print(Text("\nto do", style="bold"))
    for name, remedy in remedies.items():
        console.print(Text.assemble((f"  {name}: ", "yellow"), remedy), soft_wrap=True)


def _told(check: Check) -> Text:
    if check.passed is None:
        return Text.assemble(("check  ", "bold"), ("not run", "yellow"), f": {check.note}")
    verdict = ("agrees", "green") if check.passed else ("FAILS", "bold red")
    text = Text.assemble(("check  ", "bold"), verdict, f": {check.note}")
    if check.errors:
        worst = max(check.errors, key=lambda key: check.errors[key] / check.limits[key])
        text.append(
            f"; farthest off is {worst}: {check.errors[worst]:.1e}, and {check.limits[worst]:.1e} is allowed"
        )
    return text
