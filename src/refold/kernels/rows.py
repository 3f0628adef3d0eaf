"""Ragged batches without padding work: rows in order of length, so that those still running stand in front.

At step t the first `counts[t]` rows run; the others have ended (or, from the end backwards, not begun). Values of all
steps lie packed, one after the other, without a number for what does not exist: padding is neither read nor written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """How a (T, B, ·) batch lies packed.

    counts  rows that run at step t
    index   for a packed row, its place in the flattened (T * B) batch; None when every row lasts T steps
    order   the rows by falling length; back: the inverse; None as above
    """

    steps: int
    batch: int
    counts: tuple[int, ...]
    index: Tensor | None
    order: Tensor | None
    back: Tensor | None

    @staticmethod
    def of(steps: int, batch: int, lengths: Tensor | None, device: torch.device) -> Rows:
        if lengths is None or bool((lengths == steps).all()):
            return Rows(steps, batch, (batch,) * steps, None, None, None)
        order = torch.argsort(lengths, descending=True, stable=True)
        time = torch.arange(steps)
        running = time[:, None] < lengths[order][None, :]
        counts = tuple(running.sum(1).tolist())
        index = (time[:, None] * batch + order[None, :])[running]
        return Rows(
            steps,
            batch,
            counts,
            index.to(device),
            order.to(device),
            torch.argsort(order).to(device),
        )

    def pack(self, x: Tensor) -> Tensor:
        """(T, B, size) -> (rows in all, size)"""
        flat = x.reshape(self.steps * self.batch, x.shape[-1])
        return flat if self.index is None else flat[self.index]

    def unpack(self, packed: Tensor) -> Tensor:
        """(rows in all, size) -> (T, B, size), zeros where nothing ran"""
        shape = (self.steps, self.batch, packed.shape[-1])
        if self.index is None:
            return packed.reshape(shape)
        flat = packed.new_zeros(shape[0] * shape[1], shape[2])
        return flat.index_copy(0, self.index, packed).reshape(shape)

    def sort(self, state: Tensor) -> Tensor:
        """(B, size) in the caller's order -> longest first"""
        return state if self.order is None else state[self.order]

    def unsort(self, state: Tensor) -> Tensor:
        return state if self.back is None else state[self.back]

    def steps_of(self, packed: Tensor) -> tuple[Tensor, ...]:
        """The packed values of each step."""
        return packed.split(self.counts) if self.counts else ()

    def times(self, backwards: bool) -> Sequence[int]:
        return range(self.steps - 1, -1, -1) if backwards else range(self.steps)
