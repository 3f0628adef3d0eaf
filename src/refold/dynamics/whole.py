"""A layer whose wiring is more than its equations, dilations and highways, as a system: the layer itself is called."""

from __future__ import annotations

import copy
from typing import TypeGuard

import torch
from torch import Tensor

from refold.nn.layer import Recurrent

from .system import Part, Stepping, side_by_side, with_jacobian


def is_wired(layer: object) -> TypeGuard[Recurrent]:
    """Whether a layer does more between its levels than to hand outputs on, or add to them."""
    if not isinstance(layer, Recurrent) or layer.directions == 2:
        return False
    return layer.stack.kind == "highway" or max(layer.stack.spread(layer.num_layers)) > 1


class Whole(Stepping):
    """A stack as a map of its states, by a copy in float64, slot after slot; derivatives by autograd.

    A layer of dilation d carries d states, of which the next step reads the first: "l1/0.h" to "l1/3.h".
    """

    def __init__(self, layer: Recurrent):
        made = copy.deepcopy(layer).to("cpu", torch.float64).eval().requires_grad_(False)
        made.backend, made.batch_first = "reference", False
        self._layer, self._sizes = made, tuple(made.state_sizes.values())
        self.name, self.inputs = layer.cell.name, layer.input_features
        spread = layer.stack.spread(layer.num_layers)
        slots = [
            f"l{level}/{slot}" if d > 1 else f"l{level}"
            for level, d in enumerate(spread)
            for slot in range(d)
        ]
        named = [(slot, *state) for slot in slots for state in made.state_sizes.items()]
        self.parts: tuple[Part, ...] = side_by_side(named)
        self.slots = len(slots)

    @property
    def starts(self) -> Tensor:
        """The states before the first step, (N,): of no steps the final states are those."""
        none = torch.zeros(0, 1, self.inputs, dtype=torch.float64)
        return self._flat(self._layer(none)[1])[0]

    def step(self, h: Tensor, x: Tensor) -> Tensor:
        given = x.expand(len(h), -1).unsqueeze(0)
        return self._flat(self._layer(given, self._opened(h))[1])

    def linear(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return with_jacobian(lambda h: self.step(h, x), h)

    def _opened(self, h: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(R, N) as the layer takes its states, (slots, R, size) each."""
        cut = h.unflatten(1, (self.slots, -1)).transpose(0, 1).split(self._sizes, -1)
        states = tuple(part.contiguous() for part in cut)
        return states[0] if len(states) == 1 else states

    def _flat(self, state: Tensor | tuple[Tensor, ...]) -> Tensor:
        parts = state if isinstance(state, tuple) else (state,)
        return torch.cat(parts, -1).transpose(0, 1).flatten(1)
