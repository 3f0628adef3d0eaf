"""How far a run is: where it goes on, what it has measured, and its best weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


@dataclass(slots=True)
class Progress:
    """Changed by the loop alone. Everything in it but the weights goes into a checkpoint as JSON.

    Units  epoch, counted from 1, is the one under way; `done` its sequences that lie behind, and
    `part` the parts that lie behind of the batch after them; step counts steps of the optimiser;
    met has (error, sequences counted) of each part of this epoch.
    """

    epoch: int = 1
    done: int = 0
    part: int = 0
    step: int = 0
    seconds: float = 0.0
    met: list[tuple[float, int]] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best_epoch: int = 0

    def told(self) -> dict[str, Any]:
        return asdict(self)

    def restore(self, told: dict[str, Any]) -> None:
        for each in fields(self):
            setattr(self, each.name, told[each.name])


def copied(network: nn.Module, parameters: dict[str, nn.Parameter]) -> Weights:
    """A copy of what training changes; state_dict would take longer than a short step."""
    held = {**parameters, **dict(network.named_buffers())}
    return {name: part.detach().clone() for name, part in held.items()}


@torch.no_grad()
def put_back(network: nn.Module, weights: Weights) -> None:
    """Give a network weights that were copied."""
    held = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, part in weights.items():
        held[name].copy_(part)
