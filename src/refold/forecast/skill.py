"""How good each naive continuation has been, and a gate that begins with it.

A network of few series is trained for few steps, in which a softmax that begins with even weights does
not come to leave out what is a hundred times worse. So it begins as forecasts are combined by hand: with
weights in inverse proportion to squared errors.

Source  Bates & Granger 1969, without the correlations of the errors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from refold.data import window
from refold.data.window import Past

from .course import Course
from .model import OriginNetwork
from .sequences import first_origins

# The least error that is told from none, in expected ones: a continuation that was exact is not
# thereby sure to be.
_LEAST = 0.01


@torch.no_grad()
def begin_by_skill(network: OriginNetwork, past: Past, course: Course) -> None:
    """Set the bias of the gate: weights of 1 / error², for each step of the horizon."""
    assert network.gate is not None  # few series have several continuations
    start = -2 * errors_of_bases(past, course).clamp(min=_LEAST).log()
    network.gate.bias.copy_((start - start.amax(dim=0)).flatten())


def errors_of_bases(past: Past, course: Course) -> Tensor:
    """Mean absolute errors over the origins that are trained on: (bases, H).

    Units  what the better naive forecast is expected to err by.
    """
    rows = torch.arange(len(past.z))
    last = past.columns - 1
    columns = torch.arange(last - 1, max(0, last - course.span), -course.stride)
    near = columns[:, None].expand(-1, len(rows))
    goal, exists = window.targets(past, rows, near)
    exists = exists & (near >= first_origins(past, course)[rows])[..., None]
    goal = (goal - window.at(past.level, rows, near)[..., None])[..., None, :]
    away = (window.continuations(past, rows, near) - goal).abs()
    away = away / window.expected(past, rows, near)[..., None, :] * exists[..., None, :]
    return away.sum(dim=(0, 1)) / exists.sum(dim=(0, 1)).clamp(min=1)
