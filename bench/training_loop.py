"""What does the training loop itself cost, and is a step of fit as fast as a plain loop around torch.nn?

    python -m bench.training_loop

Each row trains a layer with a linear head on the squared error, batches of 32 sequences of 100 steps, float32. A call
of fit trains on 50 batches that it draws and puts together itself, with clipping, the guard against what is not finite,
and its own start and end. Beside it, in turns:

    kernels    the same network, loss and optimiser over a batch that lies ready: no loop around them
    torch.nn   a plain loop as tutorials have it: the batches lie ready, zero_grad, forward, mse_loss, backward,
               clip_grad_norm_, torch's Adam as it comes

The loop's own part is 1 - kernels / fit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import refold as rf
from bench.compiled_speed import VENDOR
from bench.measure import LOSES, Options, at_most, interleaved, marked, options
from bench.record import into_docs, machine, save, table
from refold.train.settings import optimiser_of

BATCHES, TINY_BATCHES = 50, 2
STEPS, ROWS, INPUTS = 100, 32, 16
CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN": "elman"}
HIDDEN = (32, 64, 128)
MOST = 0.1  # of a step, for the loop


def fitted(name: str, hidden: int, data: rf.Sequences) -> Callable[[], object]:
    """A call of fit over all batches."""
    network = rf.Network(rf.Recurrent(CELLS[name], INPUTS, hidden), head=1)
    settings = rf.Fit(epochs=1, validation=0, batch_size=ROWS)
    return lambda: rf.fit(network, data, settings)


def kernels(name: str, hidden: int, data: rf.Sequences) -> Callable[[], object]:
    """What no loop can do without, over and over."""
    network = rf.Network(rf.Recurrent(CELLS[name], INPUTS, hidden), head=1)
    optimiser = optimiser_of(rf.Fit(), dict(network.named_parameters()))
    batch, number = data.batch(range(ROWS)), len(data) // ROWS

    def run() -> None:
        for _ in range(number):
            F.mse_loss(network(batch.x), batch.d).backward()  # type: ignore[arg-type]
            optimiser.step()
            optimiser.zero_grad()

    return run


class Plain(nn.Module):
    """What a tutorial writes."""

    def __init__(self, name: str, hidden: int):
        super().__init__()
        self.layer, self.head = VENDOR[name][1](INPUTS, hidden), nn.Linear(hidden, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x)[0])


def plain(name: str, hidden: int, data: rf.Sequences) -> Callable[[], object]:
    network = Plain(name, hidden)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    parts = [data.batch(range(i, i + ROWS)) for i in range(0, len(data), ROWS)]

    def run() -> None:
        for batch in parts:
            optimiser.zero_grad()
            F.mse_loss(network(batch.x), batch.d).backward()  # type: ignore[arg-type]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()

    return run


def child(asked: Options) -> None:
    torch.manual_seed(0)
    number = TINY_BATCHES if asked.dry else BATCHES
    x = [torch.randn(STEPS, INPUTS) for _ in range(ROWS * number)]
    data = rf.Sequences(x, [torch.randn(STEPS, 1) for _ in x])
    rows = []
    for threads in asked.threads:
        torch.set_num_threads(threads)
        for name in CELLS:
            for hidden in HIDDEN[:1] if asked.dry else HIDDEN:
                made = {"fit": fitted, "kernels": kernels, "torch.nn": plain}
                runs = {key: make(name, hidden, data) for key, make in made.items()}
                times = interleaved(runs, asked.seconds)
                found = {key: 1e3 * t / number for key, t in times.items()}
                rows.append({"cell": name, "hidden": hidden, "threads": threads, **found})
    print(json.dumps(rows))


def loop_share(row: dict[str, Any]) -> float:
    """The part of a step of fit that is neither kernel nor optimiser."""
    return 1 - row["kernels"] / row["fit"]


def tables(rows: list[dict[str, Any]]) -> str:
    head = ["layer", "H", "threads", "fit, ms a step", "the loop's part", "torch.nn / fit"]
    lines = []
    for row in rows:
        share, ratio = at_most(loop_share(row), MOST), marked(row["torch.nn"] / row["fit"])
        where = [row["cell"], str(row["hidden"]), str(row["threads"])]
        lines.append([*where, f"{row['fit']:.2f}", share, ratio])
    return table(head, lines)


def main(asked: Options | None = None) -> None:
    asked = asked or options(__doc__, seconds=2.0)
    if asked.part:
        return child(asked)
    rows = asked.child("bench.training_loop", "all")
    text = tables(rows)
    print(
        f"{text}\n\n{LOSES} marks what is missed: a loop above {MOST:.0%}, a step slower than torch.nn's"
    )
    if asked.whole:
        save("training_loop", {**machine(), "batches": BATCHES, "milliseconds": rows})
        into_docs("docs/speed.md", "training_loop", text)


if __name__ == "__main__":
    main()
