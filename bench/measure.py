"""How a figure is taken: interleaved medians, processes of their own, and what every script is called with."""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.record import ROOT

Shape = tuple[int, int, int, int]

# T, B, I, H: the seven shapes in which kernels are compared, from small and many steps to large.
SHAPES: tuple[Shape, ...] = (
    (100, 32, 8, 32),
    (100, 32, 16, 64),
    (100, 32, 64, 128),
    (100, 64, 64, 256),
    (100, 64, 128, 512),
    (1000, 1, 8, 64),
    (24, 256, 1, 64),
)
TINY: tuple[Shape, ...] = ((5, 3, 4, 8), (9, 1, 2, 5))

# glibc gives memory back to the system after every large array, and pays a page fault for each page when it asks again.
HUGE = str(1 << 40)
ALLOCATORS: dict[str, dict[str, str]] = {
    "as it comes": {},
    "kept": {"MALLOC_TRIM_THRESHOLD_": HUGE, "MALLOC_MMAP_THRESHOLD_": HUGE},
}
CLOCK = [time.perf_counter]
LOSES = "✗"  # stands behind a ratio that misses


@dataclass(frozen=True, slots=True)
class Options:
    """What a script is asked to do.

    seconds  time to spend on each figure, besides its first runs
    threads  how many, each in turn
    busy     processor time in place of time, for one thread on a machine that others use; nothing is written
    dry      tiny shapes, and nothing is written: shows that a script runs
    part     the part that a process of its own works on; the whole when empty
    """

    backend: str
    seconds: float
    threads: tuple[int, ...]
    busy: bool
    dry: bool
    part: str

    @property
    def whole(self) -> bool:
        """Whether what is found may stand in the documentation."""
        asked = self.backend == "llvm" and self.threads == (1, 2)
        return asked and not (self.dry or self.busy)

    def child(self, module: str, part: str, env: Mapping[str, str] | None = None) -> Any:
        """What a process of its own gives for a part: the last line that it prints, as JSON."""
        words = [sys.executable, "-m", module, "--part", part, "--backend", self.backend]
        words += ["--seconds", str(self.seconds), *["--dry"] * self.dry]
        words += ["--busy"] * self.busy
        words += ["--threads", *map(str, self.threads)]
        done = subprocess.run(
            words,
            check=False,
            env={**os.environ, **(env or {})},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{module}, part {part}: ended with {done.returncode}")
        return json.loads(done.stdout.splitlines()[-1])


def options(text: str | None, seconds: float) -> Options:
    """The command line of a script."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="llvm")
    parser.add_argument("--seconds", type=float, default=seconds, help="for each figure")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--busy", action="store_true", help="processor time; nothing is written")
    parser.add_argument("--dry", action="store_true", help="tiny shapes; nothing is written")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    given = vars(parser.parse_args())
    if given["busy"]:
        CLOCK[0] = time.process_time
    return Options(**{**given, "threads": tuple(given["threads"])})


def interleaved(runs: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """The median time of each, in seconds, taken in turns so that a disturbance hits all of them.

    `seconds` go to each on the average, and never fewer than five turns.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
        run()
    gc.collect()
    gc.disable()
    clock = CLOCK[0]
    end = time.perf_counter() + seconds * len(runs)
    while len(next(iter(times.values()))) < 5 or time.perf_counter() < end:
        for name, run in runs.items():
            began = clock()
            run()
            times[name].append(clock() - began)
    gc.enable()
    return {name: statistics.median(taken) for name, taken in times.items()}


def forward(layer: Callable[..., Any], x: object) -> Callable[[], object]:
    """A run that wants outputs only."""

    def run() -> object:
        with torch.no_grad():
            return layer(x)

    return run


def training(layer: nn.Module, x: Any, given: Tensor, *more: Tensor) -> Callable[[], object]:
    """A training step without the optimiser: from dE/dy to the gradients of all parameters (and of `more`).

    x wants no gradient, as in the first layer of a network. torch.nn.LSTM works it out nevertheless.
    """
    wanted = (*layer.parameters(), *more)

    def run() -> object:
        return torch.autograd.grad(values(layer(x)[0]), wanted, given)

    return run


def values(y: Any) -> Tensor:
    """The tensor of an output, packed or not."""
    return y if isinstance(y, Tensor) else y.data


def geometric(ratios: Iterable[float]) -> float:
    """The geometric mean."""
    return math.exp(statistics.fmean(map(math.log, ratios)))


def marked(ratio: float, least: float = 1.0, digits: int = 2) -> str:
    """A ratio as the tables show it: what is below `least` is bold and crossed."""
    text = f"{ratio:.{digits}f}"
    return text if ratio >= least else f"**{text}** {LOSES}"


def at_most(value: float, most: float, digits: int = 2) -> str:
    """The same where less is better."""
    text = f"{value:.{digits}f}"
    return text if value <= most else f"**{text}** {LOSES}"


def name_of(shape: Sequence[int]) -> str:
    """T, B, I, H as a table's first column."""
    return ", ".join(map(str, shape))


def on_cores(count: int) -> None:
    """Hold this process to so many cores, where the system can: some peers have threads of their own."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-count:])
    torch.set_num_threads(count)
