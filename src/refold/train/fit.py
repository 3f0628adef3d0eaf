"""The training loop: read `fit` from top to bottom, and `training.Training` for what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from refold.data.batch import Sequences
from refold.errors import RefoldError

from .feed import Drawn, Feed
from .gradients.lags import LagCurve
from .log import Told, progress_bar, step_log, tensorboard
from .saving import Checkpoint, saving
from .settings import DEFAULTS, Fit
from .signals import stop_signals
from .training import Stop, Training
from .workers import Workers, workers


@dataclass(frozen=True, slots=True)
class Run:
    """What happened. The network holds the weights of best_epoch and is in evaluation mode.

    Units  train and validation are the errors of each epoch, counted from 1: train the mean over
    its batches as they were met, validation that of the whole part after the epoch (empty without
    one). steps are those of the optimiser. stopped is "epochs" (the ceiling was reached),
    "patience" (no better validation error for that many epochs) or "enough" (the validation error
    that was asked for). lags are the curves after each epoch, where settings ask for them, since
    the run was last taken up. resumed is the step after which a checkpoint was taken up, 0 for none;
    seconds count the parts before it.
    """

    best_epoch: int
    train: tuple[float, ...]
    validation: tuple[float, ...]
    steps: int
    seconds: float
    stopped: Stop
    resumed: int = 0
    lags: tuple[LagCurve, ...] = ()

    @property
    def epochs(self) -> int:
        """How many epochs were run."""
        return len(self.train)

    def __str__(self) -> str:
        best = self.best_epoch - 1
        found = f"train {self.train[best]:.4g}"
        if self.validation:
            found += f", validation {self.validation[best]:.4g}"
        return (
            f"{self.epochs} epochs, {self.steps} steps, {self.seconds:.1f} s, "
            f"stopped by {self.stopped}; best epoch {self.best_epoch}: {found}"
        )


def fit(
    network: nn.Module,
    data: Sequences | Drawn,
    settings: Fit = DEFAULTS,
    *,
    validation: Sequences | None = None,
    checkpoint: Checkpoint | str | Path | None = None,
    resume: bool = False,
    distributed: bool = False,
) -> Run:
    """Train a network in place, and leave it with its best weights, in evaluation mode.

    `network` is an rf.Network, an rf.Recurrent, any module with forward(x) or forward(x,
    lengths), or any module with a method error(batch) -> scalar of its own, which then replaces
    settings' loss and reductions. Without `validation` a part of `data` is cut off, by time where
    every step has a target; when there is none at all, every epoch runs and the last weights stay.
    Outputs that are fed back are the targets in training, and the network's own in validation.

    `data` may be a function of the epoch, counted from 1, that draws its Sequences; it has to give
    the same ones for the same epoch whenever it is asked.

    checkpoint   a folder, or an rf.Checkpoint, in which the run is saved from time to time
    resume       go on from the last checkpoint there; where there is none, begin
    distributed  this process is one of several, started by torchrun: each takes its part of every
                 batch, of batch_size sequences each

    The same network, data, settings and machine give the same bits, resumed or not; the caller's
    random state is left as it was. Data stay where they are and go to the network's device batch
    by batch. On SIGTERM and Ctrl-C the step is finished, the run saved and the process left, with
    exit code 143 or KeyboardInterrupt.

    Errors  RefoldError when a number is not finite, naming sequence, step and parameter, with the
    best weights so far restored; DataError for data that do not fit the network; CheckpointError
    for a folder that cannot be used or resumed from; RefoldError for an argument of another kind,
    or when another process is gone.

    Example
        >>> x = [torch.randn(n, 1) for n in (9, 7)]
        >>> network = Network(Recurrent("gru", 1, 8), head=1)
        >>> run = fit(network, Sequences(x, d=x), Fit(epochs=3, rate=1e-2))
        >>> run.epochs, run.stopped
        (3, 'epochs')
    """
    _check_kind("network", network, nn.Module, "give an rf.Network, or another torch.nn.Module")
    _check_kind("settings", settings, Fit, "write rf.Fit(epochs=..., rate=...)")
    parameters = _trainable(network)
    device = next(iter(parameters.values())).device
    feed = Feed(network, data, settings, validation)
    with (
        torch.enable_grad(),
        workers(distributed, device) as team,
        _seeded(settings.seed, team, device),
        saving(checkpoint, resume, team) as saver,
        stop_signals() as asked,
    ):
        shapes = {name: tuple(part.shape) for name, part in network.named_parameters()}
        for told in (shapes, settings.told(), feed.told()):
            team.agree(told)
        team.as_first([*network.parameters(), *network.buffers()])
        run = Training(network, parameters, feed, settings, team, saver, asked)
        saver.restore(run)
        resumed, first = run.progress.step, team.rank == 0
        with (
            step_log(settings.log if first else None, resumed) as write,
            tensorboard(settings.tensorboard if first else None, resumed) as board,
            progress_bar(settings.progress and first, run.batches, run.behind) as show,
        ):
            try:
                while not run.stopped:
                    run.epoch(Told(write, board, show))
                run.save()
            finally:  # however the loop ends, these are the weights to go on with
                run.restore_best()
        if asked:
            asked.end()
    return _told(run, resumed)


def _told(run: Training, resumed: int) -> Run:
    progress, stopped = run.progress, run.stopped
    assert stopped is not None
    return Run(
        progress.best_epoch,
        tuple(progress.train),
        tuple(progress.validation),
        progress.step,
        progress.seconds,
        stopped,
        resumed,
        tuple(run.lags),
    )


def _check_kind(name: str, value: Any, kind: type, remedy: str) -> None:
    if not isinstance(value, kind):
        raise RefoldError(f"{name} is a {type(value).__name__}", remedy, f"fit(..., {name})")


def _trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    found = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if not found:
        fact = f"{type(network).__name__} has no parameter that requires a gradient"
        raise RefoldError(fact, "call network.requires_grad_()", "fit(network, ...)")
    return found


@contextmanager
def _seeded(seed: int, team: Workers, device: torch.device) -> Iterator[None]:
    """Dropout and its kind draw from this seed inside; the caller's state comes back after.

    Each process draws its own: they drop other units of other sequences.
    """
    cuda = device.type == "cuda"
    own = (seed + team.rank) % 2**63
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(own)
        if cuda:
            torch.cuda.manual_seed(own)
        yield
