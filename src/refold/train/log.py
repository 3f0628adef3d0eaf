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

from refold.errors import DataError, RefoldError

from .gradients.lags import LagCurve


@dataclass(frozen=True, slots=True)
class StepLine:
    """One step of training.

    Units  epoch and step count from 1, step through the whole run; loss is the error that was
    differentiated; gradient_norm is before clipping, clipped_norm after; seconds are those of
    this step, with the making of its batch; tokens are the steps of time, over all sequences and
    processes; omega is its mean over steps, without its weight, None where there is none.
    """

    epoch: int
    step: int
    loss: float
    gradient_norm: float
    clipped_norm: float
    rate: float
    seconds: float
    tokens: int
    omega: float | None


Tell = Callable[[StepLine], None]


class Board(Protocol):
    """Numbers of a step or of an epoch, by their names, for TensorBoard."""

    def __call__(self, at: int, **numbers: float) -> None: ...


@contextmanager
def tensorboard(folder: str | Path | None, after: int = 0) -> Iterator[Board]:
    """A function that writes numbers as TensorBoard reads them; without a folder it does nothing.

    A run that goes on after some steps has TensorBoard forget what came behind them.

    Errors  RefoldError without the extra; DataError when the folder cannot be written.
    """
    if folder is None:
        yield lambda at, **numbers: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter  # a second, and an extra
    except ImportError as error:
        fact = "Fit(tensorboard=...) needs the package tensorboard, which is not installed"
        remedy = "install it: pip install 'refold[tensorboard]'"
        raise RefoldError(fact, remedy, "Fit(tensorboard=...)") from error
    try:
        writer = SummaryWriter(str(folder), purge_step=after + 1 if after else None)
    except OSError as error:
        fact = f"{folder} cannot be written: {error.strerror}"
        raise DataError(fact, "name a folder of your own", "Fit(tensorboard=...)") from error

    def write(at: int, **numbers: float) -> None:
        for name, number in numbers.items():
            writer.add_scalar(name, number, at)

    with writer:
        yield write


@contextmanager
def step_log(path: str | Path | None, after: int = 0) -> Iterator[Tell]:
    """A function that writes a line per step to a file; without a path it does nothing.

    A line is on disk when its step has ended, and JSON has no NaN: such a number is null. A run
    that goes on after some steps keeps the lines of these, and writes on behind them.

    Errors  DataError when the file cannot be written.
    """
    if path is None:
        yield lambda line: None
        return
    try:
        kept = _lines_until(Path(path), after)
        file = Path(path).open("w", buffering=1, encoding="utf-8")  # noqa: SIM115, closed below
        file.write("".join(kept))
    except OSError as error:
        fact = f"{path} cannot be written: {error.strerror}"
        raise DataError(fact, "name a file in a writable folder", "Fit(log=...)") from error

    def write(line: StepLine) -> None:
        numbers = asdict(line).items()
        told = {k: v if _is_number(v) else None for k, v in numbers if (k, v) != ("omega", None)}
        file.write(json.dumps(told) + "\n")

    with file:
        yield write


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _lines_until(path: Path, step: int) -> list[str]:
    """The lines of the first steps of a log; what a killed process left of a line is dropped."""
    if not step or not path.exists():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, LookupError, TypeError):
            break
        kept.append(line)
    return kept


class Show(Protocol):
    """Move the bar by some steps, and change the numbers beside it: epoch, loss, rate, ..."""

    def __call__(self, steps: float, **numbers: float) -> None: ...


@contextmanager
def progress_bar(wanted: bool, steps: int, behind: int = 0) -> Iterator[Show]:
    """A function that moves the bar, which has so many steps behind it already.

    It does nothing when no bar is wanted.
    """
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
        task = bar.add_task("fit", total=steps, completed=behind, **dict.fromkeys(names, "-"))

        def show(steps: float, **numbers: float) -> None:
            told = {name: f"{number:.4g}" for name, number in numbers.items()}
            bar.update(task, advance=steps, **told)  # type: ignore[arg-type]

        yield show


@dataclass(frozen=True, slots=True)
class Told:
    """Where a run says what it does: the log, TensorBoard, the bar."""

    write: Tell
    board: Board
    show: Show

    def step(self, line: StepLine, part: float) -> None:
        """A step was taken, this part of a batch."""
        self.write(line)
        named = {"loss": line.loss, "gradient_norm": line.gradient_norm, "rate": line.rate}
        if line.omega is not None:
            named["omega"] = line.omega
        self.board(line.step, **named)
        self.show(part, epoch=line.epoch, loss=line.loss, rate=line.rate)

    def epoch(self, step: int, validation: float) -> None:
        """An epoch ended with this step."""
        self.board(step, validation=validation)
        self.show(0, validation=validation)

    def lags(self, step: int, curves: LagCurve) -> None:
        """How far back errors reach by now."""
        for curve in curves.curves:
            name = f"half_life/{curve.layer}.{curve.state}"
            self.board(step, **{name: curve.half_life})
