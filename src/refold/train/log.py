"""What a run says while it trains: one JSON line per step, and a progress bar.

Nothing is printed unless it was asked for; the bar goes to stderr, so that stdout stays data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from refold.errors import DataError


@dataclass(frozen=True, slots=True)
class StepLine:
    """One step of training.

    Units  epoch and step count from 1, step through the whole run; loss is the error that was
    differentiated; gradient_norm is before clipping, clipped_norm after; seconds are those of
    this step, with the making of its batch.
    """

    epoch: int
    step: int
    loss: float
    gradient_norm: float
    clipped_norm: float
    rate: float
    seconds: float


Tell = Callable[[StepLine], None]


@contextmanager
def step_log(path: str | Path | None) -> Iterator[Tell]:
    """A function that writes a line per step to a new file; without a path it does nothing.

    A line is on disk when its step has ended, and JSON has no NaN: such a number is null.

    Errors  DataError when the file cannot be written.
    """
    if path is None:
        yield lambda line: None
        return
    try:
        file = Path(path).open("w", buffering=1, encoding="utf-8")  # noqa: SIM115, closed below
    except OSError as error:
        fact = f"{path} cannot be written: {error.strerror}"
        raise DataError(fact, "name a file in a writable folder", "Fit(log=...)") from error

    def write(line: StepLine) -> None:
        numbers = asdict(line).items()
        file.write(json.dumps({k: v if math.isfinite(v) else None for k, v in numbers}) + "\n")

    with file:
        yield write


class Show(Protocol):
    """Move the bar by some steps, and change the numbers beside it: epoch, loss, rate, ..."""

    def __call__(self, steps: int, **numbers: float) -> None: ...


@contextmanager
def progress_bar(wanted: bool, steps: int) -> Iterator[Show]:
    """A function that moves the bar; it does nothing when no bar is wanted."""
    if not wanted:
        yield lambda steps, **numbers: None
        return
    # Only a bar needs rich, and loading it costs more than a short run.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    names = ("epoch", "loss", "validation", "rate")
    texts = [TextColumn(name + " {task.fields[" + name + "]}") for name in names]
    columns = (texts[0], BarColumn(), *texts[1:], TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("fit", total=steps, **dict.fromkeys(names, "-"))

        def show(steps: int, **numbers: float) -> None:
            told = {name: f"{number:.4g}" for name, number in numbers.items()}
            bar.update(task, advance=steps, **told)  # type: ignore[arg-type]

        yield show
