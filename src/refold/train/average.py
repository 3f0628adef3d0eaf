"""A running average of the weights: smoother than any single step's, and free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_FIRST = 10  # steps over which the average forgets what the network started from


class Average:
    """The exponential moving average of parameters, a(s) = k a(s-1) + (1 - k) w(s).

    k is `decay`, and less in the first steps s = 1, 2, ...: (s - 1) / (s + 9), so that the average
    starts as the weights after the first step.

    Source  Polyak & Juditsky 1992 for averages of the weights.
    """

    def __init__(self, decay: float, parameters: Mapping[str, nn.Parameter]) -> None:
        self._decay, self._parameters = decay, parameters
        self.weights = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def take(self, step: int) -> None:
        """Take in the weights after a step, counted from 1."""
        keep = min(self._decay, (step - 1) / (step - 1 + _FIRST))
        for name, parameter in self._parameters.items():
            self.weights[name].lerp_(parameter, 1.0 - keep)

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from an average that was saved."""
        for name, held in self.weights.items():
            held.copy_(weights[name])

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The network has the average for its weights inside, and its own again after."""
        live = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._give(self.weights)
        try:
            yield
        finally:
            self._give(live)

    @torch.no_grad()
    def _give(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(weights[name])
