"""What stands between the outputs of a layer and those of a network: pieces of a ragged batch."""

from __future__ import annotations

import torch
from torch import Tensor


def final_outputs(outputs: Tensor, lengths: Tensor | None, directions: int) -> Tensor:
    """The output of each row after its last step, (T, B, f) -> (B, f).

    The reverse direction ends at step 0: its half is taken there, not at the row's last step,
    where it has read one step only. A row of no steps gives zeros.
    """
    steps, batch, features = outputs.shape
    if steps == 0:
        return outputs.new_zeros(batch, features)
    if lengths is None:
        last = outputs[-1]
    else:
        at = (lengths.clamp(min=1) - 1).to(outputs.device).view(1, batch, 1)
        last = outputs.gather(0, at.expand(1, batch, features))[0]
    if directions == 1:
        return last
    half = features // 2
    return torch.cat([last[:, :half], outputs[0, :, half:]], dim=-1)


def zero_past(y: Tensor, lengths: Tensor | None) -> Tensor:
    """y, (T, B, k) or classes (T, B), with zeros behind each row's length."""
    if lengths is None:
        return y
    inside = torch.arange(y.shape[0], device=y.device).unsqueeze(1) < lengths.to(y.device)
    return torch.where(inside if y.ndim == 2 else inside.unsqueeze(-1), y, 0)


def both_directions(state: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    """Final states (2 layers, B, n), forward and reverse in turn, joined to (layers, B, 2 n)."""
    if isinstance(state, tuple):
        return tuple(_joined(part) for part in state)
    return _joined(state)


def _joined(state: Tensor) -> Tensor:
    by_layer = state.unflatten(0, (-1, 2))
    return torch.cat([by_layer[:, 0], by_layer[:, 1]], dim=-1)
