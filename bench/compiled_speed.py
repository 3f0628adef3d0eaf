"""How fast is a compiled cell, beside torch.nn.LSTM, GRU and RNN?

    python -m bench.compiled_speed

float32, one and two threads, medians of interleaved runs; ratios are torch's time divided by refold's, so above 1 is
faster than torch. torch.nn.LSTM is oneDNN's hand-tuned kernel. Each allocator has a process of its own: glibc as it
comes, and told to keep what it has mapped. The last shape is ragged: both sides are given the same PackedSequence.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import refold as rf
from bench.measure import (
    ALLOCATORS,
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
    values,
)
from bench.record import into_docs, machine, save, table

VENDOR: dict[str, tuple[str, Callable[[int, int], nn.Module]]] = {
    "LSTM": ("lstm", nn.LSTM),
    "GRU": ("gru", nn.GRU),
    "RNN": ("elman", nn.RNN),
}
RAGGED: Shape = (1000, 32, 32, 64)
TINY_RAGGED: Shape = (12, 4, 3, 5)
WORKS = ("forward", "training")
# The least ratio that is asked for: in every shape, and in the geometric mean over the seven.
LEAST = {
    ("LSTM", "forward"): (1.0, 1.0),
    ("LSTM", "training"): (1.0, 1.3),
    ("LSTM", "training", "kept"): (0.97, 1.25),
    **{(name, work): (1.3, 4.0) for name in ("GRU", "RNN") for work in WORKS},
}


def batch(shape: Shape, ragged: bool) -> Any:
    """The input; ragged lengths are uniform in [1, T]."""
    steps, rows, inputs, _ = shape
    x = torch.randn(steps, rows, inputs)
    if not ragged:
        return x
    lengths = torch.randint(1, steps + 1, (rows,))
    return pack_padded_sequence(x, lengths, enforce_sorted=False)


def measure(name: str, shape: Shape, ragged: bool, asked: Options) -> dict[str, float]:
    """Milliseconds of both, forward and training."""
    cell, vendor = VENDOR[name]
    _, _, inputs, hidden = shape
    x = batch(shape, ragged)
    layers = {
        "torch": vendor(inputs, hidden),
        "refold": rf.Recurrent(cell, inputs, hidden, backend=asked.backend),
    }
    found = {}
    ahead = interleaved({k: forward(m, x) for k, m in layers.items()}, asked.seconds)
    found |= {f"{k} forward": t for k, t in ahead.items()}
    given = torch.randn_like(values(layers["torch"](x)[0]))
    whole = interleaved({k: training(m, x, given) for k, m in layers.items()}, asked.seconds)
    found |= {f"{k} training": t for k, t in whole.items()}
    return {k: 1000 * t for k, t in found.items()}


def child(asked: Options) -> None:
    """Everything with one allocator."""
    torch.manual_seed(0)
    shapes = [(s, False) for s in (TINY if asked.dry else SHAPES)]
    shapes.append((TINY_RAGGED if asked.dry else RAGGED, True))
    rows = []
    for threads in asked.threads:
        torch.set_num_threads(threads)
        for name in VENDOR:
            for shape, ragged in shapes:
                about = {"cell": name, "shape": shape, "ragged": ragged, "threads": threads}
                rows.append({**about, **measure(name, shape, ragged, asked)})
    print(json.dumps(rows))


def ratio(row: dict[str, Any], work: str) -> float:
    return row[f"torch {work}"] / row[f"refold {work}"]


def least(name: str, work: str, allocator: str, row: dict[str, Any]) -> float:
    """What is asked for in this place."""
    if row["ragged"]:
        return 5.0
    if name != "LSTM" and row["shape"][:2] == [1000, 1]:
        return 20.0
    return LEAST.get((name, work, allocator), LEAST[name, work])[0]


def tables(found: dict[str, list[dict[str, Any]]], threads: tuple[int, ...]) -> str:
    """A table for each of torch's layers: shapes down, work and threads across, both allocators in each place."""
    parts = []
    head = ["T, B, I, H", *(f"{w}, {t} thr" for w in WORKS for t in threads)]
    for name in VENDOR:
        rows: dict[str, list[str]] = {}
        means: list[str] = ["**geometric mean of the seven**"]
        for work in WORKS:
            for count in threads:
                both = []
                for allocator, results in found.items():
                    mine = [r for r in results if (r["cell"], r["threads"]) == (name, count)]
                    for r in mine:
                        place = name_of(r["shape"]) + (", ragged" if r["ragged"] else "")
                        text = marked(ratio(r, work), least(name, work, allocator, r))
                        rows.setdefault(place, [place]).append(text)
                    mean = geometric(ratio(r, work) for r in mine if not r["ragged"])
                    asked = LEAST.get((name, work, allocator), LEAST[name, work])[1]
                    both.append(marked(mean, asked))
                means.append(" / ".join(both))
        pairs = [
            [c[0], *(" / ".join(c[i : i + len(found)]) for i in range(1, len(c), len(found)))]
            for c in rows.values()
        ]
        pairs.insert(len(pairs) - 1, means)
        parts.append(f"torch.nn.{name}:\n\n{table(head, pairs)}")
    return "\n\n".join(parts)


def main(asked: Options | None = None) -> None:
    asked = asked or options(__doc__, seconds=0.5)
    if asked.part:
        return child(asked)
    found = {}
    for allocator, env in ALLOCATORS.items():
        found[allocator] = asked.child("bench.compiled_speed", allocator, env)
    text = tables(found, asked.threads)
    print(text)
    if asked.whole:
        save("compiled_speed", {**machine(), "milliseconds": found})
        into_docs("docs/speed.md", "compiled_speed", text)


if __name__ == "__main__":
    main()
