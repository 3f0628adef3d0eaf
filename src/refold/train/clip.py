"""Clipping: what bounds a step when the gradient explodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from refold.errors import RefoldError


@dataclass(frozen=True, slots=True)
class Clip:
    """Bounds on the gradient of a step; those that are None do nothing.

    norm     all gradients together are scaled to a 2-norm of at most this: the direction stays
    value    each element is cut to [-value, value]; before the norm is looked at
    running  the norm may be at most this many times its own running average

    Units  the average is over about the last 100 steps, of norms before clipping, each counted as
    at most the bound: an explosion does not lift the bound for the next one. Until ten steps have
    been seen, `running` bounds nothing.

    Errors  RefoldError for what is no positive number.

    Source  Pascanu, Mikolov & Bengio 2013, algorithm 1 (norm), and its remark that half to ten
    times the average norm serves as a bound (running); Mikolov 2012 (value).
    """

    norm: float | None = None
    value: float | None = None
    running: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            bound = getattr(self, field.name)
            number = isinstance(bound, int | float) and not isinstance(bound, bool)
            if bound is not None and not (number and 0 < bound < math.inf):
                fact, remedy = f"{field.name} is {bound!r}", "give a positive number, or None"
                raise RefoldError(fact, remedy, f"Clip({field.name}=...)")


_MEMORY = 100  # steps, for the running average
_FIRST = 10  # steps before it bounds anything


class Clipper:
    """Applies a `Clip`, and holds what it remembers of earlier steps."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self.average, self.seen = 0.0, 0

    def __call__(self, parameters: Mapping[str, nn.Parameter], norm: float) -> float:
        """Clip gradients whose common norm is `norm`; returns their norm after."""
        clip, after = self._clip, norm
        if clip.value is not None:
            grads = _gradients(parameters)
            for grad in grads:
                grad.clamp_(-clip.value, clip.value)
            after = float(torch.nn.utils.get_total_norm(grads))
        bound = min(clip.norm or math.inf, self._running(norm))
        if after > bound:
            factor = bound / after
            for grad in _gradients(parameters):
                grad.mul_(factor)
            after = bound
        return after

    def _running(self, norm: float) -> float:
        """The bound by the average so far, which then takes this step's norm in."""
        if self._clip.running is None:
            return math.inf
        bound = self._clip.running * self.average if self.seen >= _FIRST else math.inf
        self.seen += 1
        weight = 1.0 / min(self.seen, _MEMORY)
        self.average += weight * (min(norm, bound) - self.average)
        return bound


def _gradients(parameters: Mapping[str, nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters.values() if p.grad is not None]
