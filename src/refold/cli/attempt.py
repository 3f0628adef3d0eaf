"""What `refold task` does: a network learns a memory task from fresh sequences and is then examined.

This file loads torch; `task` imports it when it is called.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from refold.data.batch import Batch, Sequences
from refold.data.tasks import Task, last_value
from refold.errors import EquationError, RefoldError
from refold.ir.gates import keeping
from refold.ir.trace import Cell
from refold.ir.wrap import recurrent_reads
from refold.nn.init import INITIALISERS
from refold.nn.initialise import initialise
from refold.nn.layer import Recurrent
from refold.nn.omega import Omega
from refold.nn.wiring import Network
from refold.shapes import Size
from refold.train.call import batch_error
from refold.train.errors import Reduce, reduced_errors
from refold.train.fit import Run, fit
from refold.train.settings import DEFAULTS, Fit

MEANS = Reduce("mean", "mean", "sum")  # as rf.Fit has them, and as the baselines are meant
CHUNK = 250  # sequences that are examined at once: of 100 symbols and 1,000 steps, 100 MB
OWN = ("torch", "chrono", "irnn", "basic-tanh")  # the others are recurrent weights alone
STARTS = (*OWN, *(n for n in INITIALISERS if n not in OWN))
# Units that keep all they are given have to learn what to keep before they are full: 3e-4 is too fast.
RATES = {"irnn": 1e-4}


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """A network and how it is to learn a task.

    Units  length is the task's T, a range with both ends; steps are the optimiser's, `every` those
    between two looks at `held_out` sequences; trials is the number of sequences of an exam; batch
    is what each of the processes takes in a step.
    """

    task: Task
    cell: Cell
    length: tuple[int, int]
    hidden: int = 50
    start: str = "torch"
    gain: float | None = None
    rate: float = DEFAULTS.rate
    schedule: str = DEFAULTS.schedule
    optimiser: str = DEFAULTS.optimiser
    clip: float | None = 1.0
    omega: float | None = None
    form: str = "ratio"
    steps: int = 20_000
    batch: int = 20
    every: int = 100
    held_out: int = 1000
    trials: int = 10_000
    enough: float | None = None
    seed: int = 0
    processes: int = 1
    device: str = "cpu"
    checkpoint: Path | None = None
    resume: bool = False
    log: Path | None = None
    progress: bool = False


@dataclass(frozen=True, slots=True)
class Exam:
    """How a network did on fresh sequences.

    Units  wrong is a share of `trials`; error the mean loss, guess that of guessing without memory.
    """

    length: tuple[int, int]
    trials: int
    wrong: float
    error: float
    guess: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt: the run, the exam at its own lengths, and those at others."""

    solved: bool
    verdict: str
    run: Run
    weights: int
    exam: Exam
    others: tuple[Exam, ...]


class Judged(nn.Module):
    """A network that is trained on a task's loss, and validated by what solves the task.

    That is the share of sequences it gets wrong, or the loss itself where `by_loss` asks for it.
    """

    def __init__(self, network: Network, task: Task, by_loss: bool) -> None:
        super().__init__()
        self.network, self.task, self.by_loss = network, task, by_loss

    def error(self, batch: Batch) -> Tensor:
        """What fit minimises in training, and looks at in validation."""
        y, errors = batch_error(self.network, batch, self.task.loss, MEANS, teach=False)
        if self.training or self.by_loss:
            return errors.total
        return (~self.task.success(y, batch)).double().mean()


def start_for(cell: Cell, longest: int) -> str:
    """The start for a long memory that suits how a cell keeps its past: by gates, by a matrix, or else."""
    with suppress(EquationError):
        if longest > 2 and keeping(cell.graph):  # a gate is set for memories of more than a step
            return "chrono"
    return "irnn" if _is_kept(cell) else "torch"


@torch.no_grad()
def _is_kept(cell: Cell) -> bool:
    """Whether irnn makes a cell with one square matrix hand its state on as it is."""
    inputs, states = (cell.graph.leaves_of(kind) for kind in ("input", "state"))
    if [leaf.shape for leaf in (*inputs, *states)] != [(Size.of("m"),), (Size.of("n"),)]:
        return False
    with suppress(EquationError), torch.random.fork_rng(devices=[]):
        reads = recurrent_reads(cell.graph).weights
        matrices = [leaf for leaf in cell.graph.leaves_of("param") if leaf.name in reads]
        if [(leaf.shape, leaf.init.name) for leaf in matrices] == [((Size.of("n"),) * 2, "torch")]:
            network = Network(Recurrent(cell, 1, 4, backend="reference"))
            _quiet(network, None)
            h = torch.tensor([-0.2, -0.1, 0.1, 0.2]).view(1, 1, 4)
            _, kept = network.layer(torch.zeros(1, 1, 1), h)
            return bool((kept / h - 1).abs().max() < 0.02)
    return False


def trained(given: Attempt) -> tuple[Network, Run]:
    """Train until the held-out sequences are right, or the steps are used up.

    Errors  RefoldError for settings that cannot be, and whatever stops a run.
    """
    network = built(given)
    run = fit(
        Judged(network, given.task, given.enough is not None),
        lambda epoch: fresh(given, epoch),
        _settings(given),
        validation=given.task.held_out(given.held_out, given.length, (given.seed, 0), ragged=True),
        checkpoint=given.checkpoint,
        resume=given.resume,
        distributed=given.processes > 1,
    )
    return network, run


def outcome(given: Attempt, network: Network, run: Run, test_lengths: Sequence[int]) -> Outcome:
    """Examine what has been trained."""
    exam = examined(network, given, given.length)
    others = tuple(examined(network, given, (n, n)) for n in test_lengths)
    solved = exam.wrong < given.task.wrong if given.enough is None else exam.error <= given.enough
    weights = sum(p.numel() for p in network.parameters())
    return Outcome(solved, _verdict(given, exam, run, solved), run, weights, exam, others)


def fresh(given: Attempt, epoch: int) -> Sequences:
    """The sequences of an epoch: as many as `every` steps take, each of its own length."""
    count = given.every * given.batch * given.processes
    return given.task.sequences(count, given.length, (given.seed, epoch), ragged=True)


def built(given: Attempt) -> Network:
    """The network with its first weights, which the seed decides.

    Errors  RefoldError for a start that is unknown.
    """
    if given.start not in STARTS:
        raise RefoldError(
            f"there is no start {given.start!r}", f"one of: {', '.join(STARTS)}", "--init"
        )
    task = given.task
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(given.seed)
        layer = Recurrent(given.cell, task.inputs, given.hidden)
        network = Network(layer, head=task.outputs, shape=task.shape)
        _start(network, given)
    return network.to(given.device)


@torch.no_grad()
def _start(network: Network, given: Attempt) -> None:
    if given.start == "irnn":
        _quiet(network, given.gain)
    elif given.start == "basic-tanh":  # of Pascanu et al. 2013: all weights from N(0, 0.1^2)
        for weight in network.parameters():
            weight.normal_(0, 0.1) if weight.ndim > 1 else weight.zero_()
    elif given.start == "chrono":
        initialise(network, recurrent=None, chrono=given.length[1])
    elif given.start != "torch":
        initialise(network, recurrent=given.start, gain=given.gain)


def _quiet(network: Network, gain: float | None) -> None:
    """The state is kept as it is, and so little is added that a tanh hardly bends.

    Source  after Le, Jaitly & Hinton 2015, whose standard deviation is 0.001.
    """
    kept = initialise(network, recurrent="identity", gain=gain).changed
    for name, weight in network.layer.named_parameters(prefix="layer"):
        if name not in kept:
            weight.normal_(0, 0.01) if weight.ndim > 1 else weight.zero_()


def _settings(given: Attempt) -> Fit:
    """Patience would stop a run on the plateau before a memory forms."""
    settings: dict[str, Any] = {
        "epochs": math.ceil(given.steps / given.every),
        "rate": given.rate,
        "schedule": given.schedule,
        "optimiser": given.optimiser,
        "batch_size": given.batch,
        "clip": given.clip,
        "patience": None,
        # Stricter than the criterion: the best of many looks is flattered, and the exam is of others.
        "enough": given.task.wrong / 10 if given.enough is None else given.enough,
        "seed": given.seed,
        "progress": given.progress,
        "log": given.log,
    }
    if given.omega is not None:
        settings["omega"] = Omega(given.omega, given.form)
    return Fit(**settings)


@torch.no_grad()
def examined(network: Network, given: Attempt, length: tuple[int, int]) -> Exam:
    """The network on sequences of a length that it has never seen: `trials` of them."""
    task, wrong, error, guess = given.task, 0, 0.0, 0.0
    for part, count in enumerate(_chunks(given.trials)):
        data = task.held_out(count, length, (given.seed, 1, part), ragged=True)
        batch = data.batch(range(count)).to(given.device)
        y, errors = batch_error(network, batch, task.loss, MEANS, teach=False)
        wrong += int((~task.success(y, batch)).sum())
        error += float(errors.total) * count
        guess += _guessed(task, batch, length) * count
    trials = given.trials
    return Exam(length, trials, wrong / trials, error / trials, guess / trials)


def _chunks(trials: int) -> Iterator[int]:
    for first in range(0, trials, CHUNK):
        yield min(CHUNK, trials - first)


def _guessed(task: Task, batch: Batch, length: tuple[int, int]) -> float:
    """The loss of a guess without memory; where there is no formula, that of the last value."""
    low, high = length
    found = [task.baseline(n) for n in range(low, high + 1)]
    known = [guess for guess in found if guess is not None]
    if known:
        return sum(known) / len(known)
    assert batch.d is not None
    naive = last_value(batch, task.outputs)
    return float(
        reduced_errors(naive, batch.d, task.loss, MEANS, batch.d_lengths, batch.mask).total
    )


def _verdict(given: Attempt, exam: Exam, run: Run, solved: bool) -> str:
    """What happened, in words."""
    wrong = f"{exam.wrong:.2%} of {exam.trials:,} sequences wrong"
    if given.enough is not None:
        wrong = f"a loss of {exam.error:.4g}, {given.enough:g} was asked for"
    if solved:
        return f"solved in {run.steps:,} steps: {wrong}"
    if run.stopped == "enough":
        return (
            f"not solved: enough on {given.held_out:,} held-out sequences, not in the exam: {wrong}"
        )
    if exam.error > 0.95 * exam.guess:
        reached = f"the loss, {exam.error:.4g}, is that of a guess ({exam.guess:.4g})"
        return f"not solved in {run.steps:,} steps: {wrong}; {reached}: nothing is remembered"
    reached = f"the loss, {exam.error:.4g}, is below that of a guess ({exam.guess:.4g})"
    return f"not solved in {run.steps:,} steps: {wrong}; {reached}: something is remembered"
