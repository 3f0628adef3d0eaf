"""How the rate changes in the course of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

Schedule = Literal["constant", "linear", "cosine", "plateau"]

# The factor on the rate, given the fraction of the run that is done.
_FACTORS: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}
SCHEDULES = ("constant", *_FACTORS, "plateau")


class Rate:
    """The optimiser's rate, changed as a schedule says.

    "constant"; "linear" and "cosine" fall to 0 at the last epoch that settings allow; "plateau"
    halves it after each tenth part of `patience` (at least 2 epochs) without a better validation
    error. Whatever the schedule, the rate rises in equal parts over the first `warm_up` steps.
    """

    def __init__(
        self,
        schedule: Schedule,
        optimiser: torch.optim.Optimizer,
        patience: int | None,
        warm_up: int = 0,
    ) -> None:
        self._optimiser, self._rate = optimiser, optimiser.param_groups[0]["lr"]
        self._factor = _FACTORS.get(schedule)
        self._warm_up = warm_up
        self._plateau = None
        if schedule == "plateau":
            wait = max(2, (patience or 0) // 10)
            self._plateau = ReduceLROnPlateau(optimiser, factor=0.5, patience=wait)

    @property
    def now(self) -> float:
        return self._optimiser.param_groups[0]["lr"]

    def before_step(self, done: float, step: int) -> None:
        """done: the fraction of the run that lies behind; step: the one to come, from 1."""
        rising = step <= self._warm_up
        if self._factor is None and not rising and step != self._warm_up + 1:
            return
        factor = 1.0 if self._factor is None else self._factor(done)
        factor *= step / self._warm_up if rising else 1.0
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * factor

    def after_epoch(self, validation: float | None) -> None:
        if self._plateau is not None and validation is not None:
            self._plateau.step(validation)

    @property
    def scheduler(self) -> Any:
        """Torch's scheduler, which has a state of its own; None for a rate that follows the step."""
        return self._plateau
