"""Are the memory tasks solved, with which cures, and what happens without them?

    python -m bench.memory_tasks

Each row trains a network on fresh sequences in every step, for seeds 0, 1 and 2, and examines it on others. Within a
group of rows everything is the same but the cures. Two processes of one thread each work side by side.

Temporal order  50 tanh units, at most 8,000 steps of Adam on batches of 20. The cures are an identity start (small
                weights from the input), clipping, and Omega in the form of the released code. Solved: under 1 % of
                10,000 sequences wrong (Pascanu et al. 2013). The same weights are then tested on length 1,000.
Adding          an LSTM with chrono biases; a guess without memory has 1/6.
Copy            a linear recurrence with orthogonal weights, and a head that is not linear (Henaff, Szlam & LeCun 2016,
                arXiv:1602.06662); a guess without memory has 10 ln 8 / (T + 20) nats a step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import refold as rf
from bench.measure import Options, options
from bench.record import into_docs, machine, save, table
from refold.cli.attempt import Attempt, Judged, examined

SEEDS = (0, 1, 2)
EXAM, TINY = 10_000, 20


@rf.cell(source="Henaff, Szlam & LeCun 2016, arXiv:1602.06662: linear transitions")
def linear(
    x=rf.Input("m"),  # noqa: B008  (declarations are default values: that is the language)
    h=rf.State("n"),  # noqa: B008
    *,
    W_x=rf.Weight("n m"),  # noqa: B008
    W_h=rf.Weight("n n", init="orthogonal"),  # noqa: B008
):
    """h(t) = W_h h(t-1) + W_x x(t), W_h orthogonal at first: nothing that is written fades."""
    return W_h @ h + W_x @ x


@dataclass(frozen=True, slots=True)
class Row:
    """One way to train for a task.

    Units  steps and `every` (between two looks at held-out sequences) are the optimiser's; enough is the error at which
    a run ends, of sequences wrong or, by_loss, of the loss.
    """

    task: str
    length: tuple[int, int]
    about: str
    build: Callable[[Any], rf.Network]
    steps: int
    fit: dict[str, Any] = field(default_factory=dict)
    every: int = 200
    by_loss: bool = False
    enough: float = 0.001
    others: tuple[int, ...] = ()


def tanh_units(task: Any) -> rf.Network:
    """Fifty of them, as they come."""
    layer = rf.Recurrent("elman", task.inputs, 50)
    return rf.Network(layer, head=task.outputs, shape=task.shape)


def identity(task: Any) -> rf.Network:
    """The same, their past kept as it is, their inputs almost unheard."""
    network = tanh_units(task)
    rf.initialise(network, recurrent="identity")
    with torch.no_grad():
        weights = network.layer.parameters_of()
        weights["W_x"].normal_(0, 0.01)
        weights["b"].zero_()
    return network


def gates(task: Any) -> rf.Network:
    network = rf.Network(rf.Recurrent("lstm", task.inputs, 64), head=task.outputs, shape=task.shape)
    rf.initialise(network, recurrent=None, chrono=400)
    return network


def orthogonal(task: Any) -> rf.Network:
    units = 128
    head = nn.Sequential(nn.Linear(units, units), nn.ReLU(), nn.Linear(units, task.outputs))
    return rf.Network(rf.Recurrent(linear, task.inputs, units), head=head, shape=task.shape)


ORDER: dict[str, Any] = {"rate": 1e-4, "batch_size": 20, "schedule": "linear"}
LONG, BUDGET = (50, 200), 8_000
ROWS = {
    "order, all": Row(
        "temporal-order", LONG, "identity, clipping, Omega", identity, BUDGET,
        {**ORDER, "clip": 1.0, "omega": rf.Omega(4.0, "squared")}, others=(1000,),
    ),
    "order, clip": Row(
        "temporal-order", LONG, "identity, clipping", identity, BUDGET,
        {**ORDER, "clip": 1.0}, others=(1000,),
    ),
    "order, start": Row(
        "temporal-order", LONG, "identity", identity, BUDGET,
        {**ORDER, "clip": None}, others=(1000,),
    ),
    "order, none": Row(
        "temporal-order", LONG, "no cure", tanh_units, BUDGET,
        {**ORDER, "clip": None}, others=(1000,),
    ),
    "adding": Row(
        "adding-uniform", (400, 400), "LSTM, chrono", gates, 5_000,
        {"rate": 5e-3, "batch_size": 20, "schedule": "cosine"}, by_loss=True, enough=0.001,
    ),
    "copy": Row(
        "copy", (200, 200), "linear, orthogonal", orthogonal, 2_500,
        {"rate": 3e-4, "batch_size": 20, "schedule": "cosine"}, every=100, by_loss=True, enough=0.006,
    ),
}  # fmt: skip


def tried(row: Row, seed: int, dry: bool) -> dict[str, Any]:
    """Train and examine one network."""
    torch.set_num_threads(1)
    task = rf.tasks.task(row.task)
    short = max(row.length[0] // 10, task.shortest)
    length = (short, short) if dry else row.length
    steps, every = (4, 2) if dry else (row.steps, row.every)
    torch.manual_seed(seed)
    network = row.build(task)
    batch = row.fit["batch_size"]
    held_out = task.held_out(TINY if dry else 1000, length, (seed, 0), ragged=True)
    chosen: dict[str, Any] = {"patience": None, "enough": row.enough, "loss": task.loss, **row.fit}
    settings = rf.Fit(epochs=steps // every, seed=seed, **chosen)
    began = time.perf_counter()
    run = rf.fit(
        Judged(network, task, row.by_loss),
        lambda epoch: task.sequences(every * batch, length, (seed, epoch), ragged=True),
        settings,
        validation=held_out,
    )
    minutes = (time.perf_counter() - began) / 60
    given = Attempt(task, network.layer.cell, length, seed=seed, trials=TINY if dry else EXAM)
    exams = [examined(network, given, n) for n in (length, *((n, n) for n in row.others))]
    return {
        "seed": seed,
        "steps": run.steps,
        "minutes": minutes,
        "wrong": [exam.wrong for exam in exams],
        "error": exams[0].error,
        "guess": exams[0].guess,
    }


def tables(found: dict[str, list[dict[str, Any]]]) -> str:
    head = [
        "task",
        "T",
        "network",
        "steps",
        "minutes",
        "wrong, or error",
        "a guess",
        "wrong at T 1,000",
    ]
    lines = []
    for name, runs in found.items():
        row = ROWS[name]
        low, high = row.length
        result = [
            f"{r['error']:.2g}" if row.by_loss else f"{100 * r['wrong'][0]:.2g} %" for r in runs
        ]
        longer = [f"{100 * r['wrong'][1]:.2g} %" for r in runs if len(r["wrong"]) > 1]
        guess = f"{runs[0]['guess']:.3f}" if row.by_loss else "75 %"
        lines.append(
            [
                row.task,
                str(low) if low == high else f"{low} to {high}",
                row.about,
                " / ".join(f"{r['steps']:,}" for r in runs),
                " / ".join(f"{r['minutes']:.1f}" for r in runs),
                " / ".join(result),
                guess,
                " / ".join(longer),
            ]
        )
    return table(head, lines)


def main(asked: Options | None = None) -> None:
    asked = asked or options(__doc__, seconds=0)
    if asked.part:
        name, seed = asked.part.rsplit(":", 1)
        print(json.dumps(tried(ROWS[name], int(seed), asked.dry)))
        return
    began = time.perf_counter()
    jobs = [(name, seed) for name in ROWS for seed in SEEDS]

    def work(job: tuple[str, int]) -> dict[str, Any]:
        done = asked.child("bench.memory_tasks", "{}:{}".format(*job))
        print(*job, done, flush=True)
        return done

    with ThreadPoolExecutor(2) as pool:
        results = dict(zip(jobs, pool.map(work, jobs), strict=True))
    found = {name: [results[name, seed] for seed in SEEDS] for name in ROWS}
    minutes = (time.perf_counter() - began) / 60
    text = tables(found)
    print(f"{text}\n\n{minutes:.0f} minutes in all, two processes side by side")
    if asked.whole:
        save("memory_tasks", {**machine(), "minutes": minutes, "rows": found})
        into_docs("docs/tasks.md", "memory_tasks", text)


if __name__ == "__main__":
    main()
