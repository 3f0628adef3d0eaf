"""How large the gradients are that run back through an unfolded network, and how wide their arrows are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from math import log10

from torch import Tensor, nn

from refold.train.errors import Loss
from refold.train.gradients.bptt import gradients

from .grid import Flow

EXPLODES, VANISHES = 10.0, 0.01  # beside the norm where the way back begins
_WIDEST, _NARROWEST = 8.0, 1.2
_DECADE = 2.0  # so much narrower for every factor of ten


@dataclass(frozen=True, slots=True)
class Flows:
    """Norms over the batch and the features, step by step. states: for each part, layer and direction, by name."""

    states: tuple[tuple[dict[str, tuple[float, ...]], ...], ...]
    inputs: tuple[float, ...]
    outputs: tuple[float, ...]
    directions: tuple[int, ...]

    @property
    def largest(self) -> float:
        norms = [
            n for part in self.states for one in part for series in one.values() for n in series
        ]
        return max([*norms, *self.inputs, *self.outputs])

    def state(self, part: int, layer: int, direction: int, name: str, step: int) -> Flow:
        """That of dE/dh(step)."""
        series = self.states[part][layer * self.directions[part] + direction][name]
        back = series[::-1] if direction == 0 else series
        return self._drawn(series[step - 1], _begins(back))

    def outside(self, kind: str, part: int, step: int) -> Flow | None:
        """That of dE/dx(step) or dE/dy(step); None where x or y has no such step."""
        if kind == "y":
            at = 0 if len(self.outputs) == 1 else step - 1
            return self._drawn(self.outputs[at], 0.0)
        if part > 0 or step > len(self.inputs):
            return None
        return self._drawn(self.inputs[step - 1], _begins(self.inputs[::-1]))

    def _drawn(self, norm: float, begins: float) -> Flow:
        if begins and norm > EXPLODES * begins:
            tone = "explodes"
        else:
            tone = "vanishes" if begins and norm < VANISHES * begins else "flow"
        if tone == "vanishes" or not norm:
            return Flow(norm, _NARROWEST, tone)
        width = _WIDEST + _DECADE * log10(norm / self.largest)
        return Flow(norm, max(width, _NARROWEST), tone)


def _begins(back: tuple[float, ...]) -> float:
    """The norm at the first step on the way back that has any."""
    return next((norm for norm in back if norm), 0.0)


def measured(network: nn.Module, x: Tensor, d: Tensor, loss: Loss, parts: list[int]) -> Flows:
    """The flows of one batch. parts: how many layers times directions each part has.

    Shapes   x and d as `refold.gradients` takes them
    Errors   those of `refold.gradients`
    """
    found = gradients(network, x, d, loss, steps="sum", sequences="mean")
    states = [{name: _norms(delta) for name, delta in one.items()} for one in found.states]
    split, start = [], 0
    for count in parts:
        split.append(tuple(states[start : start + count]))
        start += count
    outputs = found.outputs if found.outputs.ndim == 3 else found.outputs.unsqueeze(0)
    directions = tuple(
        layer.directions for layer in network.modules() if hasattr(layer, "directions")
    )
    return Flows(tuple(split), _norms(found.inputs), _norms(outputs), directions)


def _norms(values: Tensor) -> tuple[float, ...]:
    return tuple(values.detach().flatten(1).norm(dim=1).tolist())
