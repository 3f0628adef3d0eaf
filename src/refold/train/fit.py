"""The training loop: read `fit` from top to bottom, and you have read all of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from refold.data.batch import Batch, Sequences
from refold.errors import DataError, RefoldError
from refold.nn.wiring import Network

from .call import batch_error
from .errors import Loss, Reduce, Reduction, unreduced
from .guard import clip, gradient_norm, nonfinite_step, refuse_validation, refuse_weights
from .log import StepLine, progress_bar, step_log

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
}
Optimiser = Literal["adam", "adamw", "rmsprop", "sgd", "adagrad"]
Stop = Literal["epochs", "patience"]
BatchError = Callable[[Batch, bool], Tensor]  # the bool: are targets fed back (training)?


@dataclass(frozen=True, slots=True)
class Fit:
    """How a network is trained. Every default stands here, once, with its reason.

    Units  rate is the optimiser's step size; clip a 2-norm over all gradients, None for no
    clipping; patience counts epochs; validation is the fraction of time, or of sequences, that is
    cut off (see Sequences.split), 0 for none; log is the path of a file of JSON lines.

    Errors  RefoldError for a value that cannot be.
    """

    # A ceiling only, high because a small set has one step in an epoch: patience ends the run.
    epochs: int = 1000
    # The value Adam was published with (Kingma & Ba 2015); a short run on little data wants more.
    rate: float = 1e-3
    # Gradients of a recurrence differ by orders of magnitude between weights: scaled per weight.
    optimiser: Optimiser = "adam"
    # Masters & Luschi 2018: best between 2 and 32 over many tasks; the largest is the fastest.
    batch_size: int = 32
    # A recurrence can explode in a single step (Pascanu et al. 2013); with errors that are means,
    # 1 is far above the norm of an ordinary step and far below that of an explosion.
    clip: float | None = 1.0
    # Long enough to cross a plateau while a memory forms, where an epoch is a few steps; the price
    # of waiting in vain is fifty epochs once.
    patience: int | None = 50
    # The last fifth: long enough for an estimate, short enough to leave the recent past to train.
    validation: float = 0.2
    # The target's mean is what a forecast is asked for most often.
    loss: Loss = "squared"
    # Means over steps and sequences: rate and clip then keep their sense for other lengths and
    # batch sizes. The features of one output belong together: they are summed.
    steps: Reduction = "mean"
    sequences: Reduction = "mean"
    features: Reduction = "sum"
    # Fixed, so that a run can be repeated without having thought of it before.
    seed: int = 0
    # A library prints nothing that was not asked for.
    progress: bool = False
    log: str | Path | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "rate", "clip"):
            _check_positive(name, getattr(self, name))
        if not isinstance(self.validation, int | float) or not 0 <= self.validation < 1:
            fact = f"validation is {self.validation!r}"
            remedy = "give a fraction of the data below 1, or 0 for none"
            raise RefoldError(fact, remedy, "Fit(validation=...)")
        if self.optimiser not in OPTIMISERS:
            fact = f"no optimiser {self.optimiser!r}"
            raise RefoldError(fact, "one of: " + ", ".join(OPTIMISERS), "Fit(optimiser=...)")
        whole = isinstance(self.seed, int) and not isinstance(self.seed, bool)
        if not whole or not 0 <= self.seed < 2**63:
            remedy = "give a whole number, at least 0 and below 2**63"
            raise RefoldError(f"seed is {self.seed!r}", remedy, "Fit(seed=...)")
        unreduced(self.loss)
        Reduce(self.steps, self.sequences, self.features)


def _check_positive(name: str, value: float | None) -> None:
    optional = name in ("patience", "clip")
    if value is None and optional:
        return
    whole = name not in ("rate", "clip")
    kind = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < math.inf:
        remedy = f"give a positive {'whole ' * whole}number" + ", or None" * optional
        raise RefoldError(f"{name} is {value!r}", remedy, f"Fit({name}=...)")


DEFAULTS = Fit()


@dataclass(frozen=True, slots=True)
class Run:
    """What happened. The network holds the weights of best_epoch and is in evaluation mode.

    Units  train and validation are the errors of each epoch, counted from 1: train the mean over
    its batches as they were met, validation that of the whole part after the epoch (empty without
    one). steps are those of the optimiser. stopped is "epochs" (the ceiling was reached) or
    "patience" (no better validation error for that many epochs).
    """

    best_epoch: int
    train: tuple[float, ...]
    validation: tuple[float, ...]
    steps: int
    seconds: float
    stopped: Stop

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
    data: Sequences,
    settings: Fit = DEFAULTS,
    *,
    validation: Sequences | None = None,
) -> Run:
    """Train a network in place, and leave it with its best weights, in evaluation mode.

    `network` is an rf.Network, an rf.Recurrent, any module with forward(x) or forward(x,
    lengths), or any module with a method error(batch) -> scalar of its own, which then replaces
    settings' loss and reductions. Without `validation` a part of `data` is cut off, by time where
    every step has a target; when there is none at all, every epoch runs and the last weights stay.
    Outputs that are fed back are the targets in training, and the network's own in validation.

    The same network, data, settings and machine give the same bits; the caller's random state is
    left as it was. Data stay where they are and go to the network's device batch by batch.

    Errors  RefoldError when a number is not finite, naming the step and the parameter, with the
    best weights so far restored; DataError for data that do not fit the network; RefoldError for
    an argument of another kind.

    Example
        >>> x = [torch.randn(n, 1) for n in (9, 7)]
        >>> network = Network(Recurrent("gru", 1, 8), head=1)
        >>> run = fit(network, Sequences(x, d=x), Fit(epochs=3, rate=1e-2))
        >>> run.epochs, run.stopped
        (3, 'epochs')
    """
    began = time.perf_counter()
    _check_kind("network", network, nn.Module, "give an rf.Network, or another torch.nn.Module")
    _check_kind("settings", settings, Fit, "write rf.Fit(epochs=..., rate=...)")
    parameters = _trainable(network)
    device = next(iter(parameters.values())).device
    train, held_out = _parts(network, data, settings, validation)
    error, over = _error_of(network, settings)
    optimiser = OPTIMISERS[settings.optimiser](parameters.values(), lr=settings.rate)
    order = torch.Generator().manual_seed(settings.seed)
    counted = train.counted()
    total_steps = settings.epochs * math.ceil(len(train) / settings.batch_size)
    train_errors: list[float] = []
    validation_errors: list[float] = []
    best_epoch, best, step = 0, _weights(network, parameters), 0
    stopped: Stop = "epochs"

    with (
        torch.enable_grad(),
        _seeded(settings.seed, device),
        step_log(settings.log) as write,
        progress_bar(settings.progress, total_steps) as show,
    ):
        try:
            for epoch in range(1, settings.epochs + 1):
                network.train()
                met = []
                for chosen in _batches(len(train), settings.batch_size, order):
                    started, step = time.perf_counter(), step + 1
                    batch = train.batch(chosen).to(device)
                    loss, norm = _backward(batch, error, optimiser, parameters)
                    stop = nonfinite_step(loss, norm, parameters, epoch, step)
                    clipped = norm if stop else clip(parameters, norm, settings.clip)
                    if not stop:
                        optimiser.step()
                    met.append((loss, sum(counted[i] for i in chosen)))
                    seconds = time.perf_counter() - started
                    write(StepLine(epoch, step, loss, norm, clipped, settings.rate, seconds))
                    show(1, epoch=epoch, loss=loss, rate=settings.rate)
                    if stop:
                        raise stop

                refuse_weights(parameters, epoch, step)
                train_errors.append(_overall(met, over))
                if held_out is None:
                    best_epoch, best = epoch, _weights(network, parameters)
                    continue
                network.eval()
                validation_errors.append(_validated(held_out, error, over, settings, device))
                refuse_validation(validation_errors[-1], epoch, step)
                show(0, validation=validation_errors[-1])
                if validation_errors[-1] < min(validation_errors[:-1], default=math.inf):
                    best_epoch, best = epoch, _weights(network, parameters)
                elif settings.patience and epoch - best_epoch >= settings.patience:
                    stopped = "patience"
                    break
        finally:  # however the loop ends, these are the weights to go on with
            _restore(network, best)
            network.eval()

    seconds = time.perf_counter() - began
    return Run(best_epoch, tuple(train_errors), tuple(validation_errors), step, seconds, stopped)


def _backward(
    batch: Batch,
    error: BatchError,
    optimiser: torch.optim.Optimizer,
    parameters: dict[str, nn.Parameter],
) -> tuple[float, float]:
    """The loss of a batch, and the norm of its gradients, which the parameters then hold."""
    loss = error(batch, True)
    optimiser.zero_grad()
    loss.backward()
    # The one wait for the device in a step, but for a look at targets that are classes.
    found, norm = torch.stack([loss.detach(), gradient_norm(parameters)]).tolist()
    return found, norm


def _batches(number: int, size: int, order: torch.Generator | None = None) -> list[list[int]]:
    """Indices of sequences, `size` at a time: shuffled with a generator, in order without."""
    indices = torch.arange(number) if order is None else torch.randperm(number, generator=order)
    return [part.tolist() for part in indices.split(size)]


def _error_of(network: nn.Module, settings: Fit) -> tuple[BatchError, Reduction]:
    """The error of a batch, and how those of batches make up that of the whole."""
    own: Callable[..., Any] | None = getattr(network, "error", None)
    if own is not None:

        def own_error(batch: Batch, teach: bool) -> Tensor:
            return own(batch)

        return own_error, "mean"

    reduce = Reduce(settings.steps, settings.sequences, settings.features)

    def error(batch: Batch, teach: bool) -> Tensor:
        return batch_error(network, batch, settings.loss, reduce, teach=teach)[1].total

    return error, settings.sequences


@torch.no_grad()
def _validated(
    data: Sequences, error: BatchError, over: Reduction, settings: Fit, device: torch.device
) -> float:
    """The error of all of `data`, whatever the batch size."""
    counted = data.counted()
    chosen = _batches(len(data), settings.batch_size)
    found = torch.stack([error(data.batch(part).to(device), False) for part in chosen]).tolist()
    weights = [sum(counted[i] for i in part) for part in chosen]
    return _overall(list(zip(found, weights, strict=True)), over)


def _overall(found: list[tuple[float, int]], over: Reduction) -> float:
    """The error over all batches, from (error, number of counted sequences) of each."""
    if over == "sum":
        return math.fsum(error for error, _ in found)
    number = sum(weight for _, weight in found)
    return math.fsum(error * weight for error, weight in found) / max(1, number)


def _parts(
    network: nn.Module, data: Sequences, settings: Fit, validation: Sequences | None
) -> tuple[Sequences, Sequences | None]:
    """What is trained on, and what is validated on."""
    given = {"data": data} if validation is None else {"data": data, "validation": validation}
    for name, part in given.items():
        _check_kind(name, part, Sequences, f"write {name}=rf.Sequences(x, d)")
        if not any(part.counted()):
            fact = f"nothing in {name} counts: every target is masked, or has no steps"
            raise DataError(fact, "let the mask be True somewhere", f"fit(..., {name})")
    if validation is not None or settings.validation == 0:
        return data, validation
    stepwise = not isinstance(network, Network) or network.shape == "many-to-many"
    return data.split(settings.validation, by=None if stepwise else "sequence")


def _check_kind(name: str, value: Any, kind: type, remedy: str) -> None:
    if not isinstance(value, kind):
        error = DataError if kind is Sequences else RefoldError
        raise error(f"{name} is a {type(value).__name__}", remedy, f"fit(..., {name})")


def _trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    found = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if not found:
        fact = f"{type(network).__name__} has no parameter that requires a gradient"
        raise RefoldError(fact, "call network.requires_grad_()", "fit(network, ...)")
    return found


def _weights(network: nn.Module, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """A copy of what training changes; state_dict would take longer than a short step."""
    held = {**parameters, **dict(network.named_buffers())}
    return {name: part.detach().clone() for name, part in held.items()}


@torch.no_grad()
def _restore(network: nn.Module, weights: dict[str, Tensor]) -> None:
    held = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, part in weights.items():
        held[name].copy_(part)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout and its kind draw from this seed inside; the caller's state comes back after."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        yield
