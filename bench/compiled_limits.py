"""How near does a whole call come to what the core can multiply and add?

    python -m bench.compiled_limits

The limit is measured: a loop that multiplies and adds in registers only, with 4 to 12 independent accumulators, and of
these the best. The share is that of whole calls of an LSTM on one thread, packing of weights and all allocation
included, at H 128, 256 and 512. FLOPs are those of the products that the call has to do: the training step with dE/dx
has three times forward's; without it, those of W_x^T are not counted.
"""

from __future__ import annotations

import ctypes
import json
import time

import torch
from torch import nn

import refold as rf
from bench.cells import LSTM
from bench.compiled_cells import flops
from bench.measure import (
    ALLOCATORS,
    SHAPES,
    TINY,
    Options,
    Shape,
    forward,
    interleaved,
    marked,
    name_of,
    on_cores,
    options,
    training,
)
from bench.record import into_docs, machine, save, table
from refold.kernels.llvm.machine.compile import compile_module
from refold.kernels.llvm.machine.host import Host, host

CHAINS = range(4, 13)
ROUNDS = 2_000_000
COLUMNS: tuple[str, ...] = ("forward", "training", "training with dE/dx")
# The least share that is asked for, forward and training, by H.
LEAST: dict[int, tuple[float, float]] = {128: (0.80, 0.74), 256: (0.88, 0.80), 512: (0.88, 0.80)}


def loop_ir(chains: int, target: Host) -> str:
    """void run(float *numbers, int64 rounds): each round, every accumulator is multiplied and added to once."""
    lanes = target.lanes(torch.float32)
    vector = f"<{lanes} x float>"
    step = (
        "  %s{j} = call {v} @llvm.fma.v{n}f32({v} %a{j}, {v} %factor, {v} %term)"
        if target.has_fma
        else "  %p{j} = fmul {v} %a{j}, %factor\n  %s{j} = fadd {v} %p{j}, %term"
    )
    each = range(chains)
    phis = [f"  %a{j} = phi {vector} [ %factor, %entry ], [ %s{j}, %loop ]" for j in each]
    steps = [step.format(j=j, v=vector, n=lanes) for j in each]
    sums = [f"  %t{j + 1} = fadd {vector} %t{j}, %s{j}" for j in each]
    return "\n".join(
        [
            f"declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})",
            "define void @run(ptr %numbers, i64 %rounds) {",
            "entry:",
            f"  %factor = load {vector}, ptr %numbers, align 4",
            f"  %term.at = getelementptr {vector}, ptr %numbers, i64 1",
            f"  %term = load {vector}, ptr %term.at, align 4",
            "  br label %loop",
            "loop:",
            "  %round = phi i64 [ 0, %entry ], [ %next, %loop ]",
            *phis,
            *steps,
            "  %next = add i64 %round, 1",
            "  %more = icmp slt i64 %next, %rounds",
            "  br i1 %more, label %loop, label %done",
            "done:",
            f"  %t0 = fadd {vector} %factor, %term",
            *sums,
            f"  store {vector} %t{chains}, ptr %numbers, align 4",
            "  ret void",
            "}",
        ]
    )


def limit(chains: int, target: Host) -> float:
    """Multiplications and additions a second, with so many accumulators: the best of several runs."""
    library = compile_module(loop_ir(chains, target), target)
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(library.address("run"))
    lanes = target.lanes(torch.float32)
    numbers = (ctypes.c_float * (2 * lanes))(*[0.5] * (2 * lanes))
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        run(numbers, ROUNDS)
        taken.append(time.perf_counter() - began)
    return 2.0 * lanes * chains * ROUNDS / min(taken)


def measure(shape: Shape, asked: Options) -> dict[str, float]:
    """FLOPs a second of whole calls."""
    steps, rows, inputs, hidden = shape
    x = torch.randn(steps, rows, inputs)
    wanting = x.clone().requires_grad_()
    work = flops(LSTM, shape)
    done = (work, 3 * work - 2 * steps * rows * inputs * 4 * hidden, 3 * work)
    layers = {
        "refold": rf.Recurrent(LSTM.cell, inputs, hidden, backend=asked.backend),
        "torch": nn.LSTM(inputs, hidden),
    }
    given = torch.randn(steps, rows, hidden)
    runs = {}
    for name, layer in layers.items():
        each = (
            forward(layer, x),
            training(layer, x, given),
            training(layer, wanting, given, wanting),
        )
        runs |= {f"{name} {work}": run for work, run in zip(COLUMNS, each, strict=True)}
    times = interleaved(runs, asked.seconds)
    counts = dict(zip(COLUMNS, done, strict=True))
    return {k: counts[k.partition(" ")[2]] / t for k, t in times.items()}


def child(asked: Options) -> None:
    on_cores(1)
    torch.manual_seed(0)
    limits = {chains: limit(chains, host()) for chains in CHAINS}
    shapes = TINY[:1] if asked.dry else [s for s in SHAPES if s[3] in LEAST]
    rows = [{"shape": shape, **measure(shape, asked)} for shape in shapes]
    # Again behind the runs: the clock may have changed meanwhile.
    limits = {chains: max(best, limit(chains, host())) for chains, best in limits.items()}
    print(json.dumps({"limits": limits, "rows": rows}))


def main(asked: Options | None = None) -> None:
    asked = asked or options(__doc__, seconds=0.7)
    if asked.part:
        return child(asked)
    one = {"OMP_NUM_THREADS": "1"}
    found = {k: asked.child("bench.compiled_limits", k, env | one) for k, env in ALLOCATORS.items()}
    best = max(x for part in found.values() for x in part["limits"].values())
    lines = []
    for j, row in enumerate(found["as it comes"]["rows"]):
        low = LEAST.get(row["shape"][3], (0, 0))
        asked_for = (low[0], low[1], low[1])
        cells = []
        for name in ("refold", "torch"):
            for work, least in zip(COLUMNS, asked_for, strict=True):
                shares = [part["rows"][j][f"{name} {work}"] / best for part in found.values()]
                bounds = least if name == "refold" else 0.0
                cells.append(" / ".join(marked(share, bounds) for share in shares))
        lines.append([name_of(row["shape"]), *cells])
    head = ["T, B, I, H", *COLUMNS, *(f"torch.nn.LSTM: {c}" for c in COLUMNS)]
    text = f"The limit: {best / 1e9:.0f} GFLOP/s ({host().vectors}).\n\n{table(head, lines)}"
    print(text)
    if asked.whole:
        save("compiled_limits", {**machine(), "limit": best, "flops a second": found})
        into_docs("docs/speed.md", "compiled_limits", text)


if __name__ == "__main__":
    main()
