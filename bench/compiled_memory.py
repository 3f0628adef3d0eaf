"""How much memory does a training step take, beside torch.nn.LSTM?

    python -m bench.compiled_memory

Peak resident memory of a process of its own, less what is resident before the step: code and libraries have been loaded
by a small step, input and dE/dy are there. Linux only, where a process can set its own peak back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

import refold as rf
from bench.cells import LSTM
from bench.measure import LOSES, SHAPES, TINY, Options, Shape, name_of, options
from bench.record import into_docs, machine, save, table

LONG: Shape = (100_000, 1, 8, 64)
TINY_LONG: Shape = (300, 1, 2, 5)
MOST_LONG = 200.0  # megabytes
NOISE = (
    0.5  # megabytes: pages of the interpreter and of libraries that the step is the first to touch
)


def resident(kind: str) -> float:
    """Megabytes: VmRSS now, or VmHWM, the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith(kind))
    return int(found.split()[1]) / 1024


def extra(who: str, shape: Shape, asked: Options) -> float:
    """Megabytes that a training step takes at its peak."""
    torch.set_num_threads(1)
    steps, rows, inputs, hidden = shape
    memory = "small" if who == "small" else "fast"
    layer = (
        nn.LSTM(inputs, hidden)
        if who == "torch"
        else rf.Recurrent(LSTM.cell, inputs, hidden, backend=asked.backend, memory=memory)
    )
    train(layer, torch.randn(3, rows, inputs), torch.randn(3, rows, hidden))
    layer.zero_grad()
    x, given = torch.randn(steps, rows, inputs), torch.randn(steps, rows, hidden)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    before = resident("VmRSS")
    train(layer, x, given)
    return resident("VmHWM") - before


def train(layer: nn.Module, x: torch.Tensor, given: torch.Tensor) -> None:
    layer(x)[0].backward(given)


def main(asked: Options | None = None) -> None:
    asked = asked or options(__doc__, seconds=0.0)
    if asked.part:
        who, *sizes = asked.part.split()
        steps, rows, inputs, hidden = map(int, sizes)
        return print(json.dumps(extra(who, (steps, rows, inputs, hidden), asked)))
    results = []
    for shape in (*(TINY if asked.dry else SHAPES), TINY_LONG if asked.dry else LONG):
        found: dict[str, Any] = {"shape": shape}
        for who in ("torch", "refold", "small"):
            part = " ".join(map(str, (who, *shape)))
            found[who] = asked.child("bench.compiled_memory", part)
        results.append(found)
        print(found, flush=True)
    lines = []
    for found in results:
        more = {w: found[w] > found["torch"] + NOISE for w in ("refold", "small")}
        more["small"] |= found["shape"] == LONG and found["small"] > MOST_LONG
        cells = [f"**{found[w]:.1f}** {LOSES}" if more[w] else f"{found[w]:.1f}" for w in more]
        lines.append([name_of(found["shape"]), f"{found['torch']:.1f}", *cells])
    text = table(["T, B, I, H", "torch.nn.LSTM", 'memory="fast"', 'memory="small"'], lines)
    print(text)
    if asked.whole:
        save("compiled_memory", {**machine(), "megabytes": results})
        into_docs("docs/speed.md", "compiled_memory", text)


if __name__ == "__main__":
    main()
