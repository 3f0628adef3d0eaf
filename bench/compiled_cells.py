"""Are cells that no vendor has as fast as the vendor's LSTM, and how do they stand beside a loop and jax.lax.scan?

    python -m bench.compiled_cells

Twelve cells at T 100, B 32. Time per FLOP is set beside torch.nn.LSTM's in the same turns; FLOPs are those of the
products (the plan's cost), a training step counted as three times forward. The loop in Python and the scan under jit
are written as well as one writes them (bench/loops.py), checked to give the same outputs and gradients, and run on one
core at H 64; the scan with its input products in the step and ahead of it, whichever is faster.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from bench import loops
from bench.cells import IND_RNN, LSTM, TWELVE, Entry
from bench.measure import (
    Options,
    Shape,
    at_most,
    forward,
    interleaved,
    marked,
    name_of,
    on_cores,
    options,
    training,
)
from bench.record import into_docs, machine, save, table
from refold.plan.plan import plan

SHAPES: tuple[Shape, ...] = ((100, 32, 16, 64), (100, 32, 64, 128))
TINY: tuple[Shape, ...] = ((6, 3, 4, 8), (5, 2, 5, 6))
WORKS = ("forward", "training")
SCANS = {
    "scan": False,
    "scan, hoisted": True,
}  # as the equation has it, and with input products ahead
ALL = {**TWELVE, "ind_rnn": IND_RNN}
ONE_CORE = {
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_PLATFORMS": "cpu",
}


def flops(entry: Entry, shape: Shape) -> int:
    """Multiplications and additions in the products of a forward run."""
    steps, rows, inputs, hidden = shape
    sizes = {"T": steps, "B": rows, "m": inputs, "n": hidden, **entry.letters(hidden)}
    return plan(entry.cell).cost.flops.at(sizes)


def against_lstm(entry: Entry, shape: Shape, asked: Options) -> dict[str, float]:
    """Milliseconds of the cell and of torch.nn.LSTM."""
    steps, rows, inputs, hidden = shape
    x = torch.randn(steps, rows, inputs)
    layers: dict[str, nn.Module] = {
        "torch": nn.LSTM(inputs, hidden),
        "refold": entry.layer(inputs, hidden, backend=asked.backend),
    }
    given = {k: torch.randn_like(m(x)[0]) for k, m in layers.items()}
    ahead = interleaved({k: forward(m, x) for k, m in layers.items()}, asked.seconds)
    whole = interleaved({k: training(m, x, given[k]) for k, m in layers.items()}, asked.seconds)
    times = {f"{k} forward": t for k, t in ahead.items()}
    times |= {f"{k} training": t for k, t in whole.items()}
    return {k: 1000 * t for k, t in times.items()}


def runs_of(name: str, shape: Shape, asked: Options) -> dict[str, dict[str, Callable[[], Any]]]:
    """The compiled cell, the loop, and the scan, forward and training; all of them compute the same."""
    steps, rows, inputs, hidden = shape
    layer = ALL[name].layer(inputs, hidden, backend=asked.backend)
    p = layer.parameters_of()
    x = torch.randn(steps, rows, inputs)
    starts = tuple(torch.zeros(rows, width) for width in layer.state_sizes.values())
    y = layer(x)[0].detach()
    given = torch.randn_like(y)

    def loop() -> Tensor:
        return loops.torch_loop(name, p, starts, x)

    def loop_forward() -> Tensor:
        with torch.no_grad():
            return loop()

    def loop_training() -> Sequence[Tensor]:
        return torch.autograd.grad(loop(), tuple(p.values()), given)

    runs = {
        "refold": {"forward": forward(layer, x), "training": training(layer, x, given)},
        "loop": {"forward": loop_forward, "training": loop_training},
    }
    gradients = loop_training()
    same([loop_forward()], [y])
    same(gradients, torch.autograd.grad(layer(x)[0], tuple(p.values()), given))
    for key, hoisted in SCANS.items() if loops.has_jax() else ():
        run, gradient, put = loops.jax_scan(name, hoisted)
        p_, first = {k: put(v) for k, v in p.items()}, tuple(put(s) for s in starts)
        arrays = (p_, first, put(x))
        runs[key] = scans(run, gradient, arrays, put(given))
        same([runs[key]["forward"]()], [y])
        same(runs[key]["training"](), gradients)
    return runs


def scans(run: Any, gradient: Any, arrays: tuple[Any, ...], given: Any) -> dict[str, Any]:
    """Both works of a scan; jax returns before it is done."""

    def training() -> list[Any]:
        found = gradient(*arrays, given)
        return [found[k].block_until_ready() for k in arrays[0]]

    return {"forward": lambda: run(*arrays).block_until_ready(), "training": training}


def same(found: Iterable[Any], expected: Iterable[Tensor]) -> None:
    """All say the same, to what float32 lets one expect of a hundred steps."""
    for a, b in zip(found, expected, strict=True):
        scale = b.abs().max()
        a = a if isinstance(a, Tensor) else torch.from_numpy(numpy.array(a))
        torch.testing.assert_close(a / scale, b / scale, rtol=0, atol=1e-4)


def child(asked: Options) -> None:
    """One part: "lstm", everything against torch.nn.LSTM on one and two threads; "peers", loops on one core."""
    torch.manual_seed(0)
    shapes, rows = TINY if asked.dry else SHAPES, []
    if asked.part == "peers":
        on_cores(1)
        for name in ALL:
            runs = runs_of(name, shapes[0], asked)
            for work in WORKS:
                times = interleaved({k: r[work] for k, r in runs.items()}, asked.seconds)
                rows.append({"cell": name, "work": work, **{k: 1000 * t for k, t in times.items()}})
    else:
        for threads in asked.threads:
            torch.set_num_threads(threads)
            for name, entry in ALL.items():
                for shape in shapes:
                    share = flops(entry, shape) / flops(LSTM, shape)
                    about = {"cell": name, "shape": shape, "threads": threads, "flops": share}
                    rows.append({**about, **against_lstm(entry, shape, asked)})
    print(json.dumps(rows))


def relative(row: dict[str, Any], work: str) -> float:
    """Time per FLOP, torch.nn.LSTM's being 1; plain time for IndRNN, which has next to no FLOPs."""
    share = 1.0 if row["cell"] == "ind_rnn" else row["flops"]
    return row[f"refold {work}"] / row[f"torch {work}"] / share


def lstm_table(rows: list[dict[str, Any]], shapes: tuple[Shape, ...]) -> str:
    head = ["cell", *(f"{name_of(s)}: {w}" for s in shapes for w in WORKS)]
    lines = []
    for name, entry in ALL.items():
        most = 0.2 if entry is IND_RNN else 1.1 if entry.reductions else 1.0
        cells = []
        for shape in shapes:
            mine = [r for r in rows if (r["cell"], tuple(r["shape"])) == (name, shape)]
            cells += [" / ".join(at_most(relative(r, w), most) for r in mine) for w in WORKS]
        lines.append([entry.title + " (plain time)" * (entry is IND_RNN), *cells])
    return table(head, lines)


def peers_table(rows: list[dict[str, Any]]) -> str:
    peers = {"loop of torch operations": (("loop",), 4.0), "jax.lax.scan": (tuple(SCANS), 2.0)}
    peers = {title: peer for title, peer in peers.items() if peer[0][0] in rows[0]}
    head = ["cell", *(f"{title}: {w}" for title in peers for w in WORKS)]
    lines = []
    for name, entry in ALL.items():
        mine = {r["work"]: r for r in rows if r["cell"] == name}
        cells = []
        for keys, least in peers.values():
            ratios = [min(mine[w][k] for k in keys) / mine[w]["refold"] for w in WORKS]
            cells += [marked(x, least if entry is not IND_RNN else 0.0, digits=1) for x in ratios]
        lines.append([entry.title, *cells])
    return table(head, lines)


def main(asked: Options | None = None) -> None:
    asked = asked or options(__doc__, seconds=0.3)
    if asked.part:
        return child(asked)
    shapes = TINY if asked.dry else SHAPES
    rows = asked.child("bench.compiled_cells", "lstm")
    peers = asked.child("bench.compiled_cells", "peers", ONE_CORE)
    if not loops.has_jax():
        print("jax is not installed: the scan is left out")
    text = f"{lstm_table(rows, shapes)}\n\n{peers_table(peers)}"
    print(text)
    if asked.whole:
        save("compiled_cells", {**machine(), "against torch.nn.LSTM": rows, "peers": peers})
        into_docs("docs/speed.md", "compiled_cells", text)


if __name__ == "__main__":
    main()
