"""Where results go: a JSON file for each script, and a table in docs between two marks."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"


def machine() -> dict[str, Any]:
    """What a figure must be read with."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """The processor's own name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    names = (
        [x for x in info.read_text().splitlines() if x.startswith("model name")]
        if info.exists()
        else []
    )
    vectors = torch.backends.cpu.get_cpu_capability()
    return f"{names[0].partition(': ')[2] if names else platform.machine()}, {vectors}"


def save(name: str, result: dict[str, Any]) -> None:
    """Write a script's result."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def into_docs(doc: str, script: str, text: str) -> None:
    """Replace what stands between this script's marks in a page of docs."""
    path = ROOT / doc
    begin, end = f"<!-- table: bench/{script}.py -->", "<!-- end of table -->"
    page = path.read_text()
    head, _, rest = page.partition(begin)
    if end not in rest:
        raise SystemExit(f"{doc} has no marks for {script}: {begin} ... {end}")
    path.write_text(f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}")
