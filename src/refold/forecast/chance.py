"""Noise and dropout from a generator of their own: networks are trained side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Chance(nn.Module):
    """What a network draws in training; without effect in evaluation mode.

    dropout: the share of units that are dropped. noise: the deviation of what is added to inputs.

    Inside `seeded` everything comes from a generator of its own, and no other thread has a part in
    it; outside of it, from torch's.
    """

    def __init__(self, dropout: float, noise: float) -> None:
        super().__init__()
        self.dropout, self.noise = dropout, noise
        self._source: torch.Generator | None = None

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """While it lasts, what is drawn follows from the seed."""
        self._source = torch.Generator().manual_seed(seed % 2**63)
        try:
            yield
        finally:
            self._source = None  # a generator cannot be copied along with a network

    def noisy(self, x: Tensor) -> Tensor:
        """x with noise, of any shape."""
        if not (self.training and self.noise):
            return x
        return x + self.noise * torch.randn(x.shape, generator=self._source, dtype=x.dtype)

    def dropped(self, x: Tensor) -> Tensor:
        """x without some of its units, the others larger by what is missing. Any shape."""
        if not (self.training and self.dropout):
            return x
        kept = 1.0 - self.dropout
        if not kept:
            return x * 0.0
        return x * torch.empty_like(x).bernoulli_(kept, generator=self._source).div_(kept)
