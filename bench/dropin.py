"""How fast is the drop-in: `rf.nn.LSTM`, GRU and RNN beside torch.nn's?

    python -m bench.dropin

float32, forward and a training step, one and two threads, medians of interleaved runs; ratios are torch's time divided
by the drop-in's.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn

import refold as rf
from bench.compiled_speed import VENDOR, WORKS
from bench.measure import (
    SHAPES,
    TINY,
    Options,
    Shape,
    forward,
    geometric,
    interleaved,
    marked,
    name_of,
    options,
    training,
)
from bench.record import into_docs, machine, save, table


def measure(name: str, shape: Shape, asked: Options) -> dict[str, float]:
    """Milliseconds of both, forward and training."""
    _, vendor = VENDOR[name]
    steps, rows, inputs, hidden = shape
    x = torch.randn(steps, rows, inputs)
    layers: dict[str, nn.Module] = {
        "torch": vendor(inputs, hidden),
        "drop-in": getattr(rf.nn, name)(inputs, hidden, backend=asked.backend),
    }
    given = torch.randn(steps, rows, hidden)
    ahead = interleaved({k: forward(m, x) for k, m in layers.items()}, asked.seconds)
    whole = interleaved({k: training(m, x, given) for k, m in layers.items()}, asked.seconds)
    times = {f"{k} forward": t for k, t in ahead.items()}
    times |= {f"{k} training": t for k, t in whole.items()}
    return {k: 1000 * t for k, t in times.items()}


def child(asked: Options) -> None:
    torch.manual_seed(0)
    rows = []
    for threads in asked.threads:
        torch.set_num_threads(threads)
        for name in VENDOR:
            for shape in TINY if asked.dry else SHAPES:
                about = {"cell": name, "shape": shape, "threads": threads}
                rows.append({**about, **measure(name, shape, asked)})
    print(json.dumps(rows))


def ratio(row: dict[str, Any], work: str) -> float:
    """torch's time by the drop-in's."""
    return row[f"torch {work}"] / row[f"drop-in {work}"]


def tables(rows: list[dict[str, Any]], threads: tuple[int, ...]) -> str:
    """A line for each layer and shape, then the geometric means."""
    head = ["layer", "T, B, I, H", *(f"{w}, {t} thr" for w in WORKS for t in threads)]
    lines = []
    for name in VENDOR:
        mine = [r for r in rows if r["cell"] == name]
        shapes = list(dict.fromkeys(tuple(r["shape"]) for r in mine))
        places = [(w, t) for w in WORKS for t in threads]
        for shape in (*shapes, None):
            cells = []
            for work, count in places:
                some = [r for r in mine if r["threads"] == count]
                some = [r for r in some if shape is None or tuple(r["shape"]) == shape]
                cells.append(marked(geometric(ratio(r, work) for r in some)))
            title = "**geometric mean**" if shape is None else name_of(shape)
            lines.append([name, title, *cells])
    return table(head, lines)


def main(asked: Options | None = None) -> None:
    asked = asked or options(__doc__, seconds=0.2)
    if asked.part:
        return child(asked)
    rows = asked.child("bench.dropin", "all")
    text = tables(rows, asked.threads)
    print(text)
    if asked.whole:
        save("dropin", {**machine(), "rows": rows})
        into_docs("docs/speed.md", "dropin", text)


if __name__ == "__main__":
    main()
