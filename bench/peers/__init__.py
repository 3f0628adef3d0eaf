"""Layers of torchrecurrent that have a cell of the zoo, with how its weights are named there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from torch import Tensor, nn

# From a refold layer's parameters, by their names in the equation, to those of the peer's cell, by its names.
Weights = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A layer of torchrecurrent.

    layer    the class's name there: the layer over sequences, whose single cell is `cells.0`
    weights  gives the peer's cell's parameters (by name in its state_dict) for ours, so that both compute the same
    settings keywords for the peer's constructor beside sizes
    sizes    keywords for rf.Recurrent
    square   whether it takes an input as wide as its hidden layer only
    departs  nothing where the numbers agree; else which of the two departs from the paper, and how, in a sentence
    """

    layer: str
    weights: Weights
    settings: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)
    square: bool = False
    departs: str = ""


def load(peer: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into the peer's one cell."""
    peer.cells[0].load_state_dict(dict(weights), strict=True)  # type: ignore[union-attr, index]


def every() -> dict[str, Peer]:
    """All of them, by the names of our cells. torchrecurrent itself is not needed for this."""
    modules = sorted(found.name for found in iter_modules(__path__))
    return {k: v for name in modules for k, v in import_module(f"{__name__}.{name}").PEERS.items()}
