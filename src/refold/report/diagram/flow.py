"""How large the gradients are that run back through an unfolded network, and how wide their arrows are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from math import log10

from torch import Tensor, nn

from refold.nn.layer import Recurrent
from refold.train.errors import Loss
from refold.train.gradients.bptt import gradients

from .grid import Flow
from .shared import marked

EXPLODES, VANISHES = 10.0, 0.01  # beside the norm where the way back begins
_WIDEST, _NARROWEST = 8.0, 1.2
_MOST = 6  # norms that are listed
_DECADE = 2.0  # so much narrower for every factor of ten


@dataclass(frozen=True, slots=True)
class Flows:
    """Norms over the batch and the features, step by step. states: for each part, layer and direction, by name."""

    states: tuple[tuple[dict[str, tuple[float, ...]], ...], ...]
    inputs: tuple[float, ...]
    outputs: tuple[float, ...]
    directions: tuple[int, ...]

    @property
    def told(self) -> list[str]:
        """What is said of the arrows under the picture."""
        begins = [
            f"dE/d{name}{self._mark(part, number)} {norm_of(_begins(back))}"
            for part, layers in enumerate(self.states)
            for number, one in enumerate(layers)
            for name, series in one.items()
            if (back := series if number % self.directions[part] else series[::-1])
        ]
        more = f" and {len(begins) - _MOST} more" if len(begins) > _MOST else ""
        return [
            "Broad arrows: norms of dE/dx(t) and dE/dy(t), and of dE/dh(t) on the way from step t + 1 to t.",
            f"Their width follows the logarithm: {_DECADE:g} pixels for a factor of ten.",
            f"Red: more than {EXPLODES:g} times what the way back begins with; dashed: less than 1/{1 / VANISHES:g}.",
            f"It begins with {', '.join(begins[:_MOST])}{more}.",
        ]

    def _mark(self, part: int, number: int) -> str:
        directions = self.directions[part]
        layer, direction = divmod(number, directions)
        several = part if len(self.states) > 1 else None
        return marked(several, layer, direction, len(self.states[part]) // directions)

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


def norm_of(norm: float) -> str:
    """A norm in two digits."""
    if 100 <= norm < 10000:
        return f"{norm:.0f}"
    text = f"{norm:.2g}"
    return text.replace("e-0", "e−").replace("e-", "e−").replace("e+0", "e").replace("e+", "e")


def _begins(back: tuple[float, ...]) -> float:
    """The norm at the first step on the way back that has any."""
    return next((norm for norm in back if norm), 0.0)


def measured(network: nn.Module, x: Tensor, d: Tensor, loss: Loss) -> Flows:
    """The flows of one batch.

    Shapes   x and d as `refold.gradients` takes them
    Errors   those of `refold.gradients`
    """
    found = gradients(network, x, d, loss, steps="sum", sequences="mean")
    states = [{name: _norms(delta) for name, delta in one.items()} for one in found.states]
    layers = [layer for layer in network.modules() if isinstance(layer, Recurrent)]
    split, start = [], 0
    for count in (layer.num_layers * layer.directions for layer in layers):
        split.append(tuple(states[start : start + count]))
        start += count
    outputs = found.outputs if found.outputs.ndim == 3 else found.outputs.unsqueeze(0)
    directions = tuple(layer.directions for layer in layers)
    return Flows(tuple(split), _norms(found.inputs), _norms(outputs), directions)


def _norms(values: Tensor) -> tuple[float, ...]:
    return tuple(values.detach().flatten(1).norm(dim=1).tolist())
