"""How fast are the reference and the derived backend, beside torch.nn and a loop over torch.nn's cells?

    python -m bench.layer_speed

float32, forward + backward, medians of interleaved repeats, one and two threads. Ratios above 1 mean faster than
torch.nn's layer, which for LSTM is oneDNN's hand-tuned kernel: the reference backend is a loop in Python and is not
meant to beat it. It states what an equation means; `compiled_speed` measures compiled code in the same rows.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import refold as rf
from bench.measure import SHAPES
from bench.record import into_docs, machine, save, table

VENDOR = {"lstm": nn.LSTM, "gru": nn.GRU, "elman": nn.RNN}
CELLS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "elman": nn.RNNCell}
REPEATS = 5
Runner = Callable[[Tensor], Tensor]


def loop_over(cell: nn.Module) -> Runner:
    """What a user writes today for a cell of his own."""

    def run(x: Tensor) -> Tensor:
        state, outputs = None, []
        for step in x:
            state = cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs)

    return run


def runners(name: str, inputs: int, hidden: int) -> dict[str, Runner]:
    layers = {
        "torch.nn": VENDOR[name](inputs, hidden),
        "reference": rf.Recurrent(name, inputs, hidden, backend="reference"),
        "derived": rf.Recurrent(name, inputs, hidden, backend="derived"),
    }
    found: dict[str, Runner] = {key: lambda x, m=m: m(x)[0] for key, m in layers.items()}
    return found | {"cell loop": loop_over(CELLS[name](inputs, hidden))}


def seconds(run: Runner, x: Tensor) -> float:
    """One training step without the optimiser."""
    began = time.perf_counter()
    run(x).sum().backward()
    return time.perf_counter() - began


def measure(name: str, shape: tuple[int, int, int, int]) -> dict[str, float]:
    """Milliseconds of each, medians."""
    steps, rows, inputs, hidden = shape
    found = runners(name, inputs, hidden)
    x = torch.randn(steps, rows, inputs)
    for run in found.values():
        seconds(run, x)
    times: dict[str, list[float]] = {key: [] for key in found}
    for _ in range(REPEATS):
        for key, run in found.items():
            times[key].append(seconds(run, x))
    return {key: 1000 * statistics.median(values) for key, values in times.items()}


def main() -> None:
    torch.manual_seed(0)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name in VENDOR:
            for shape in SHAPES:
                row = {"cell": name, "shape": shape, "threads": threads, **measure(name, shape)}
                results.append(row)
                print(row, flush=True)
    save("layer_speed", {**machine(), "repeats": REPEATS, "milliseconds": results})
    head = ["T, B, I, H", *(f"{n}, {t} thr" for n in VENDOR for t in (1, 2))]
    rows = []
    for shape in SHAPES:
        cells = [", ".join(map(str, shape))]
        for name in VENDOR:
            for threads in (1, 2):
                r = next(
                    r
                    for r in results
                    if (r["cell"], r["shape"], r["threads"]) == (name, shape, threads)
                )
                ratios = (r["torch.nn"] / r[k] for k in ("reference", "derived", "cell loop"))
                cells.append(" / ".join(f"{x:.2f}" for x in ratios))
        rows.append(cells)
    into_docs("docs/speed.md", "layer_speed", table(head, rows))


if __name__ == "__main__":
    main()
