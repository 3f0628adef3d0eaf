"""How a network is trained: one frozen record, every default with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from refold.errors import RefoldError
from refold.nn.omega import Omega

from .clip import Clip
from .errors import Loss, Reduce, Reduction, unreduced
from .realtime import RealTime
from .schedule import SCHEDULES, Schedule
from .walk import Full, Gradient, Truncated

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
}
Optimiser = Literal["adam", "adamw", "rmsprop", "sgd", "adagrad"]
_OPTIONAL = ("patience", "clip", "enough")


@dataclass(frozen=True, slots=True)
class Fit:
    """How a network is trained. Every default stands here, once, with its reason.

    Units  rate is the optimiser's step size; warm_up counts steps over which the rate rises to it;
    average is the decay, in a step, of a running average of the weights, which is what is validated
    and kept (None: the weights themselves); clip a 2-norm over all gradients, None for no
    clipping, or an rf.Clip; patience counts epochs; validation is the fraction of time, or of
    sequences, that is cut off (see Sequences.split), 0 for none; enough is a validation error;
    log is the path of a file of JSON lines, tensorboard that of a folder.

    Errors  RefoldError for a value that cannot be.
    """

    # A ceiling only, high because a small set has one step in an epoch: patience ends the run.
    epochs: int = 1000
    # The value Adam was published with (Kingma & Ba 2015); a short run on little data wants more.
    rate: float = 1e-3
    # Gradients of a recurrence differ by orders of magnitude between weights: scaled per weight.
    optimiser: Optimiser = "adam"
    # The one that needs no knowledge of how long a run will be.
    schedule: Schedule = "constant"
    # Adam's first steps are large while it knows little of the gradients; a short run on a high rate
    # gains from a rise of some dozen steps, a long one on a low rate needs none.
    warm_up: int = 0
    # None: the weights of the best epoch stand as they are. A decay of .98 averages over the last
    # fifty steps or so, which is as good as a lower rate at the end.
    average: float | None = None
    # Masters & Luschi 2018: best between 2 and 32 over many tasks; the largest is the fastest.
    # With several processes, the number of sequences for each.
    batch_size: int = 32
    # The exact gradient; what is shorter is a choice of whoever knows the data.
    gradient: Gradient = Full()  # noqa: RUF009  (a frozen record)
    # A recurrence can explode in a single step (Pascanu et al. 2013); with errors that are means,
    # 1 is far above the norm of an ordinary step and far below that of an explosion.
    clip: float | Clip | None = 1.0
    # It helps where gradients vanish over the lags that matter, and is in the way elsewhere.
    omega: Omega | None = None
    # Long enough to cross a plateau while a memory forms, where an epoch is a few steps; the price
    # of waiting in vain is fifty epochs once.
    patience: int | None = 50
    # The last fifth: long enough for an estimate, short enough to leave the recent past to train.
    validation: float = 0.2
    # Only whoever sets the task knows which error solves it.
    enough: float | None = None
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
    tensorboard: str | Path | None = None
    # How far back errors reach, after each epoch: costs one backward.
    lags: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "rate", "enough"):
            _check_positive(name, getattr(self, name))
        if not isinstance(self.clip, Clip):
            _check_positive("clip", self.clip)
        _check_average(self.average)
        if isinstance(self.warm_up, bool) or not isinstance(self.warm_up, int) or self.warm_up < 0:
            remedy = "give a number of steps, 0 for none"
            raise RefoldError(f"warm_up is {self.warm_up!r}", remedy, "Fit(warm_up=...)")
        if not isinstance(self.validation, int | float) or not 0 <= self.validation < 1:
            fact = f"validation is {self.validation!r}"
            remedy = "give a fraction of the data below 1, or 0 for none"
            raise RefoldError(fact, remedy, "Fit(validation=...)")
        _check_among("optimiser", self.optimiser, OPTIMISERS)
        _check_among("schedule", self.schedule, SCHEDULES)
        _check_kind("gradient", self.gradient, Full | Truncated | RealTime, "rf.Truncated(20, 40)")
        _check_kind("omega", self.omega, Omega | None, "rf.Omega()")
        if self.omega is not None and isinstance(self.gradient, RealTime):
            fact = "omega is measured on the way back, and rf.RealTime has none"
            raise RefoldError(fact, "leave omega out, or give gradient=rf.Truncated(...)", "Fit")
        whole = isinstance(self.seed, int) and not isinstance(self.seed, bool)
        if not whole or not 0 <= self.seed < 2**63:
            remedy = "give a whole number, at least 0 and below 2**63"
            raise RefoldError(f"seed is {self.seed!r}", remedy, "Fit(seed=...)")
        unreduced(self.loss)
        self.reduce  # noqa: B018  (it looks at the words)

    @property
    def reduce(self) -> Reduce:
        """The three reductions as a record."""
        return Reduce(self.steps, self.sequences, self.features)

    @property
    def clipping(self) -> Clip:
        """The clipping as a record."""
        return self.clip if isinstance(self.clip, Clip) else Clip(norm=self.clip)

    def told(self) -> dict[str, Any]:
        """What decides the weights: a run goes on only with the same settings.

        How long a run may be, and what is said on the way, may change from one part to the next.
        """
        free = ("epochs", "patience", "enough", "progress", "log", "tensorboard", "lags")
        if self.schedule != "constant":
            free = free[1:]  # the rate depends on how long the run is
        told = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in free}
        return {name: _text(value) for name, value in told.items()}


def optimiser_of(settings: Fit, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that settings name, over parameters with their names.

    Torch's fused form where there is one: for the dozen small weights of a gated cell, its other
    one takes three times as long.
    """
    fused = settings.optimiser != "rmsprop"
    make = OPTIMISERS[settings.optimiser]
    return make(list(parameters.items()), lr=settings.rate, **({"fused": True} if fused else {}))


def _text(value: Any) -> Any:
    """A setting as it is, or as text that is the same in another process."""
    if value is None or isinstance(value, int | float | str):
        return value
    return getattr(value, "__qualname__", None) or repr(value)


def _check_among(name: str, value: Any, known: Any) -> None:
    if value not in known:
        raise RefoldError(f"no {name} {value!r}", "one of: " + ", ".join(known), f"Fit({name}=...)")


def _check_kind(name: str, value: Any, kind: Any, example: str) -> None:
    if not isinstance(value, kind):
        raise RefoldError(f"{name} is {value!r}", f"give {name}={example}", f"Fit({name}=...)")


def _check_average(decay: float | None) -> None:
    number = isinstance(decay, int | float) and not isinstance(decay, bool)
    if decay is not None and not (number and 0 < decay < 1):
        remedy = "give a decay between 0 and 1, such as 0.98, or None"
        raise RefoldError(f"average is {decay!r}", remedy, "Fit(average=...)")


def _check_positive(name: str, value: float | None) -> None:
    optional = name in _OPTIONAL
    if value is None and optional:
        return
    whole = name in ("epochs", "batch_size", "patience")
    kind = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < math.inf:
        remedy = f"give a positive {'whole ' * whole}number" + ", or None" * optional
        raise RefoldError(f"{name} is {value!r}", remedy, f"Fit({name}=...)")


DEFAULTS = Fit()
