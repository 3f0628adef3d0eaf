"""What happens in the middle of a sequence: steps that are left out, and steps before which the states start anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from refold.errors import KernelError

from .doors import Entered


@dataclass(frozen=True, slots=True)
class Events:
    """Checked, in the inner form.

    Shapes  resets, mask (T, B) bool; starts: one (num_layers x directions, B, size) for each state
    """

    resets: Tensor | None = None
    mask: Tensor | None = None
    starts: tuple[Tensor, ...] | None = None

    def inputs(self, x: Tensor) -> Tensor:
        """What a step that is left out holds is not read: it may be NaN."""
        return x if self.mask is None else torch.where(self.mask.unsqueeze(-1), x, 0)


NOTHING = Events()


def enter_flags(flags: object, name: str, batch: Entered) -> Tensor | None:
    """Flags of a caller, checked and brought to (T, B).

    Errors  KernelError: no bool tensor, another shape than x's steps and rows, x is packed
    """
    if flags is None:
        return None
    if batch.packed is not None:
        raise KernelError(
            f"x is a PackedSequence, and {name} has a flag for each step of a padded batch.",
            "Pad it with torch.nn.utils.rnn.pad_packed_sequence, and pass the lengths.",
        )
    if not isinstance(flags, Tensor) or flags.dtype != torch.bool:
        kind = flags.dtype if isinstance(flags, Tensor) else type(flags).__name__
        raise KernelError(
            f"{name} is {kind}, and a flag is true or false.",
            f"Pass a torch.bool tensor: {name}.bool().",
        )
    if not batch.batched:
        expected, axes = (batch.steps,), "(time,)"
    elif batch.batch_first:
        expected, axes = (batch.batch, batch.steps), "(batch, time)"
    else:
        expected, axes = (batch.steps, batch.batch), "(time, batch)"
    if tuple(flags.shape) != expected:
        raise KernelError(
            f"{name} is {tuple(flags.shape)}, and x has {axes} = {expected}.",
            "Pass one flag for each step of each row.",
        )
    if flags.device != batch.x.device:
        raise KernelError(
            f"{name} is on {flags.device}, and x is on {batch.x.device}.",
            f'Move it, {name}.to("{batch.x.device}").',
        )
    if not batch.batched:
        return flags.unsqueeze(1)
    return flags.T if batch.batch_first else flags


def flags_of(resets: Tensor, lengths: Tensor | None, spread: int, backwards: bool) -> Tensor:
    """For each step whether its state starts anew, when a state comes from `spread` steps before.

    A flag at step k parts the sequence before k. In reverse the part ends there, so the state of step k - 1 starts
    anew: the same two parts.
    """
    steps, inside = resets.shape[0], _inside(resets, lengths)
    found = torch.zeros_like(inside)
    for j in range(1, min(spread, steps - 1) + 1) if backwards else range(min(spread, steps)):
        if backwards:
            found[: steps - j] |= inside[j:]
        else:
            found[j:] |= inside[: steps - j]
    return found


def pending(resets: Tensor, lengths: Tensor | None, spread: int, backwards: bool) -> Tensor:
    """Which of the `spread` states that are handed on (see `stacks`) lie before a flag, with no step after it.

    Shapes  (spread, B)
    """
    steps, rows = resets.shape
    inside = _inside(resets, lengths)
    at = torch.arange(steps, device=resets.device).unsqueeze(1)
    slot = torch.arange(spread, device=resets.device).unsqueeze(1)
    if steps == 0:
        return slot.new_zeros(spread, rows, dtype=torch.bool)
    if backwards:
        first = torch.where(inside & (at > 0), at, steps + spread).amin(0)
        return first <= spread - 1 - slot
    ends = torch.full((rows,), steps) if lengths is None else lengths
    last = torch.where(inside, at, -spread).amax(0)
    return (last >= ends.to(resets.device) + slot - spread + 1) & (last >= 0)


def _inside(flags: Tensor, lengths: Tensor | None) -> Tensor:
    """Flags within each row's length."""
    if lengths is None:
        return flags.clone()
    at = torch.arange(flags.shape[0], device=flags.device).unsqueeze(1)
    return flags & (at < lengths.to(flags.device))


def as_input(flags: Tensor, like: Tensor) -> Tensor:
    """Flags as an input of one number a step, (T, B, 1)."""
    return flags.to(like.dtype).unsqueeze(-1)


def held(states: Sequence[Tensor], steps: int) -> tuple[Tensor, ...]:
    """States (B, size) as inputs that do not change, (T, B, size)."""
    return tuple(s.expand(steps, *s.shape) for s in states)
