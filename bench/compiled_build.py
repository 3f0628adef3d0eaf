"""What does it cost to have a compiled cell, and to call it?

    python -m bench.compiled_build

Build: each in a fresh process, from the equation to the end of the first training step, less the second step. Tracing
is done by then (it belongs to the import); planning, lowering, compiling and loading are not. Torch has run a small
network before, so that its own first call is not in it. Cold: an empty cache, and the modules of the compiler still
to be imported; from the cache: the same again with what the first has left, imports not counted. Each process then runs
other T and B: more files after the second than after the first would show that something was built for T or B.
Streaming: one step of one row through the layer's public call, beside torch.nn.LSTM; the overhead is what is left of it
without the compiled code's own time.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

import refold as rf
from bench.cells import LSTM, TEN_GATES, TWELVE
from bench.measure import CLOCK, Options, at_most, interleaved, options
from bench.record import into_docs, machine, save, table
from refold.kernels.llvm.machine import pool

CELLS = {"LSTM": LSTM, "ten gates": TEN_GATES, "LSTM with layer norm": TWELVE["lstm_norm"]}
MOST = {"LSTM": 0.35, "ten gates": 0.6, "LSTM with layer norm": 0.7}  # seconds, cold
MOST_LOAD = 0.020
OTHERS = ((3, 1), (1, 7), (50, 33), (200, 4))  # T, B
INPUTS, HIDDEN = 16, 64
TURNS = 3


def step(layer: nn.Module, steps: int, rows: int) -> float:
    """Seconds of a training step."""
    x = torch.randn(steps, rows, INPUTS)
    began = CLOCK[0]()
    y, _ = layer(x)
    torch.autograd.grad(y.sum(), tuple(layer.parameters()))
    return CLOCK[0]() - began


def build(cell: str, asked: Options) -> dict[str, float]:
    """In a fresh process: seconds of loading the compiler, of planning, and of the first step less the second."""
    rf.Recurrent("elman", 2, 3, backend="reference")(torch.randn(2, 1, 2))
    small = nn.Linear(4, 4)
    torch.autograd.grad(small(torch.randn(3, 4)).tanh().sum(), tuple(small.parameters()))
    began = CLOCK[0]()
    import_module("refold.kernels.llvm.running.kernel")
    imported = CLOCK[0]()
    layer = CELLS[cell].layer(INPUTS, HIDDEN, backend=asked.backend)
    planned = CLOCK[0]()
    first, second = step(layer, 20, 33), step(layer, 20, 33)
    for steps, rows in OTHERS:
        step(layer, steps, rows)
    parts = {"import": imported - began, "plan": planned - imported, "code": first - second}
    return {
        **parts,
        "total": sum(parts.values()),
        "total but import": first - second + planned - imported,
    }


def both(cell: str, asked: Options, bytecode: str) -> dict[str, Any]:
    """Cold and from the cache; medians over a few processes each."""
    found: dict[str, list[dict[str, float]]] = {"cold": [], "load": []}
    entries = set()
    for _ in range(1 if asked.dry else TURNS):
        with tempfile.TemporaryDirectory() as folder:
            env = {"REFOLD_CACHE": folder, **python_of(bytecode)}
            for name, results in found.items():
                results.append(asked.child("bench.compiled_build", f"build {cell}", env))
                entries.add((name, len(list(Path(folder).iterdir()))))
    middle = {
        f"{name} {part}": statistics.median(one[part] for one in results)
        for name, results in found.items()
        for part in results[0]
    }
    return {"cell": cell, **middle, "entries": sorted(entries)}


def python_of(bytecode: str) -> dict[str, str]:
    """An environment in which Python reads its own bytecode, as it does of what is installed."""
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": bytecode}


def streaming(asked: Options) -> dict[str, float]:
    """Microseconds of one step of one row, states handed on, no gradient."""
    torch.set_num_threads(1)
    x = torch.randn(1, 1, INPUTS)
    layers = {
        "refold": rf.Recurrent(LSTM.cell, INPUTS, HIDDEN, backend=asked.backend).eval(),
        "torch.nn.LSTM": nn.LSTM(INPUTS, HIDDEN).eval(),
    }

    def steps(layer: nn.Module):
        def run() -> None:
            state = None
            for _ in range(200):
                _, state = layer(x, state)

        return run

    with torch.inference_mode():
        found = interleaved({k: steps(m) for k, m in layers.items()}, asked.seconds)
        own = own_time(x, asked)
    times = {k: 1e6 * t / 200 for k, t in found.items()}
    return {**times, "compiled code": 1e6 * own}


def own_time(x: torch.Tensor, asked: Options) -> float:
    """Seconds of the compiled code alone in one such call; 0 where the backend has none.

    The call is caught on its way into the code, which then runs again over the same memory, many times; what Python
    takes to enter it is measured by entering it for no rows.
    """
    spent = [0.0]
    plain = pool.plain

    def caught(function: int) -> pool.Rows:
        code = plain(function)

        def enter(context: int, begin: int, end: int) -> None:
            code(context, begin, end)
            both = {
                "rows": lambda: [code(context, begin, end) for _ in range(1000)],
                "none": lambda: [code(context, begin, begin) for _ in range(1000)],
            }
            found = interleaved(both, 0.05)
            spent.append((found["rows"] - found["none"]) / 1000)

        return enter

    pool.plain = caught  # type: ignore[assignment]
    try:
        LSTM.layer(INPUTS, HIDDEN, asked.backend).eval()(x)
    finally:
        pool.plain = plain
    return spent[-1]


def main(asked: Options | None = None) -> None:
    asked = asked or options(__doc__, seconds=1.0)
    kind, _, cell = asked.part.partition(" ")
    if kind:
        found = build(cell, asked) if kind == "build" else streaming(asked)
        return print(json.dumps(found))
    with tempfile.TemporaryDirectory() as bytecode:
        asked.child("bench.compiled_build", "build LSTM", python_of(bytecode))
        rows = [both(cell, asked, bytecode) for cell in CELLS]
    call = asked.child("bench.compiled_build", "streaming")
    head = [
        "cell",
        "cold, s",
        "from the cache, ms",
        "of it planning",
        "loading the compiler itself, ms",
        "files in the cache: built, and after other T and B",
    ]
    lines = [
        [
            row["cell"],
            at_most(row["cold total"], MOST[row["cell"]]),
            at_most(1000 * row["load total but import"], 1000 * MOST_LOAD, 1),
            f"{1000 * row['load plan']:.1f}",
            f"{1000 * row['load import']:.1f}",
            ", ".join(str(count) for _, count in row["entries"]),
        ]
        for row in rows
    ]
    overhead = call["refold"] - call["compiled code"]
    text = table(head, lines) + (
        f"\n\nOne step of one row (I {INPUTS}, H {HIDDEN}): {call['refold']:.1f} µs, of which "
        f"{call['compiled code']:.1f} µs compiled code and {at_most(overhead, 10.0, 1)} µs the call around it; "
        f"torch.nn.LSTM {call['torch.nn.LSTM']:.1f} µs."
    )
    print(text)
    if asked.whole:
        save("compiled_build", {**machine(), "builds": rows, "microseconds of a step": call})
        into_docs("docs/speed.md", "compiled_build", text)


if __name__ == "__main__":
    main()
