"""How fast a cell is beside torch.nn.LSTM on this machine. Loads torch; `cells` imports it for a measurement."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from refold.collector import no_collection
from refold.ir.trace import Cell
from refold.nn.layer import Recurrent

from .zoo import Sizes, Speed

SECONDS = 0.2  # for each of the two, besides the first runs
TURNS = 5  # at least


def measure(cell: Cell, sizes: Sizes, seconds: float | None = None) -> Speed:
    """The medians of a training step of the cell and of torch.nn.LSTM, in turns, so that a disturbance hits both."""
    with torch.random.fork_rng(devices=[]), _threads(sizes.threads):
        torch.manual_seed(0)
        mine, vendor = _layer(cell, sizes), nn.LSTM(sizes.input_size, sizes.hidden_size)
        runs = (
            _training(mine, _batch(sizes, mine.input_features)),
            _training(vendor, _batch(sizes, sizes.input_size)),
        )
        return Speed(
            *(1000 * t for t in _interleaved(runs, 2 * (SECONDS if seconds is None else seconds)))
        )


def _layer(cell: Cell, sizes: Sizes) -> Recurrent:
    numbers: dict[str, Any] = {k: v for k, v in sizes.numbers(cell).items() if k not in ("m", "n")}
    return Recurrent(cell, sizes.input_size, sizes.hidden_size, **numbers)


def _batch(sizes: Sizes, features: int) -> torch.Tensor:
    return torch.rand(
        sizes.steps, sizes.batch, features
    )  # positive: one of them may be a time step


def _training(layer: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    """From dE/dy to the gradients of what is learned; a cell that learns nothing is only run forward."""
    y = layer(x)[0]
    if not y.requires_grad:

        def forward() -> object:
            with torch.no_grad():
                return layer(x)

        return forward
    wanted, given = tuple(layer.parameters()), torch.randn_like(y)
    return lambda: torch.autograd.grad(layer(x)[0], wanted, given, allow_unused=True)


def _interleaved(runs: tuple[Callable[[], object], ...], seconds: float) -> list[float]:
    """Medians in seconds, after two runs of each; `seconds` go to all of them together."""
    times: list[list[float]] = [[] for _ in runs]
    for run in (*runs, *runs):
        run()
    end = time.perf_counter() + seconds
    with no_collection():  # a run of it would fall on whoever is at turn
        gc.collect()
        while len(times[0]) < TURNS or time.perf_counter() < end:
            for run, taken in zip(runs, times, strict=True):
                began = time.perf_counter()
                run()
                taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in times]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
