"""How layers stand on each other: plain, residual or highway; each on every step, or dilated on every d-th.

A dilated layer reads the state of d steps before. Every d-th step makes a sequence of its own, and these d sequences
are run as further rows of the batch. What is handed on from call to call is then d states: slot j belongs to the j-th
step of the next call (in reverse: of the call whose steps come before, counted from its end).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from refold.errors import EquationError
from refold.kernels.base import Call, Run

KINDS = ("plain", "residual", "highway")


@dataclass(frozen=True, slots=True)
class Stack:
    """How layers are joined, from the second one on, and how far back each looks.

    kind       how the layer's f is joined with the output below, f reading it after dropout:
               "plain"     y_l = f(y_{l-1})
               "residual"  y_l = y_{l-1} + f(y_{l-1})
               "highway"   y_l = t * f(y_{l-1}) + (1 - t) * y_{l-1},
                           t = sigmoid(W_T y_{l-1} + b_T), and b_T = -1 at first
    dilations  one for each layer: a layer with d reads the state of d steps before. The layer's states then have
               sum(dilations) x directions rows in place of num_layers x directions: for each layer, its d slots, for
               each slot the directions

    Errors   EquationError: another kind, a dilation that is no positive whole number
    Example  rf.Recurrent("gru", 8, 64, num_layers=3, stack=rf.Stack("residual", dilations=(1, 2, 4)))
    Source   He et al. 2016, arXiv:1512.03385; Srivastava, Greff & Schmidhuber 2015, arXiv:1505.00387, equation 3;
             Chang et al. 2017, arXiv:1710.02224
    """

    kind: str = "plain"
    dilations: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise EquationError(
                f'there is no stack "{self.kind}".', f"Choose one of {', '.join(KINDS)}."
            )
        given = self.dilations
        listed = isinstance(given, list | tuple)
        if not listed or any(isinstance(d, bool) or not isinstance(d, int) or d < 1 for d in given):
            raise EquationError(
                f"dilations are {given!r}, and must be whole numbers, at least 1, one for each layer.",
                "Pass dilations=(1, 2, 4), say.",
            )
        object.__setattr__(self, "dilations", tuple(given))

    def __repr__(self) -> str:
        spread = f", dilations={self.dilations}" * bool(self.dilations)
        return f'Stack("{self.kind}"{spread})'

    def spread(self, layers: int) -> tuple[int, ...]:
        """The dilation of each layer."""
        return self.dilations or (1,) * layers

    def check(self, layers: int) -> None:
        """Whether this can be done with so many layers.

        Errors  EquationError: it cannot
        """
        if self.dilations and len(self.dilations) != layers:
            raise EquationError(
                f"there are {len(self.dilations)} dilations, {self.dilations}, and {layers} layer{'s' * (layers > 1)}.",
                "Give one for each layer.",
            )
        if self.kind != "plain" and layers == 1:
            raise EquationError(
                f"a {self.kind} stack joins a layer with the one below, and there is one layer.",
                "Set num_layers=2 or more, or leave the stack out.",
            )

    def joined(self, below: Tensor, above: Tensor, gate: nn.Module | None) -> Tensor:
        """The output of a layer, from the output below and what the layer makes of it."""
        if gate is not None:
            return torch.lerp(below, above, gate(below))
        return below + above if self.kind == "residual" else above


class Gate(nn.Module):
    """The transform gate of a highway: sigmoid(W_T y + b_T). It starts nearly closed, so that gradients pass."""

    def __init__(self, features: int, device: torch.device | str | None, dtype: torch.dtype | None):
        super().__init__()
        self.W_T = nn.Parameter(torch.empty(features, features, device=device, dtype=dtype))
        self.b_T = nn.Parameter(torch.empty(features, device=device, dtype=dtype))
        self.draw()

    def draw(self) -> None:
        bound = self.W_T.shape[1] ** -0.5
        nn.init.uniform_(self.W_T, -bound, bound)
        nn.init.constant_(self.b_T, -1.0)

    def forward(self, y: Tensor) -> Tensor:
        return torch.sigmoid(nn.functional.linear(y, self.W_T, self.b_T))


# Dilation -------------------------------------------------------------------------------------------------------------


def folded(call: Call, d: int) -> Call:
    """The call with every d-th step as a row of its own; its states are (d, B, size), by slots."""
    first = call.states[0]
    rows, short = first.shape[1], -(-call.steps // d)
    lengths = call.lengths
    if lengths is None and call.steps % d:
        lengths = torch.full((rows,), call.steps)
    if lengths is not None:  # of each row's sequence r: steps r, r + d, ...
        sequence = torch.arange(d).unsqueeze(1)
        lengths = ((lengths - sequence + d - 1) // d).clamp(min=0).flatten()
    order = _first_slots(call, d, first)
    probes = None if call.probes is None else tuple(_fold(p, d) for p in call.probes)
    return Call(
        short,
        tuple(_fold(x, d) for x in call.inputs),
        tuple(_pick(s, order).flatten(0, 1) for s in call.states),
        call.params,
        lengths,
        call.backwards,
        probes,
        None,
        call.histories,
    )


def unfolded(run: Run, call: Call, d: int) -> Run:
    """The run of a folded call as that of the call; its final states are (d, B, size), by slots."""
    order = _last_slots(call, d, call.states[0])
    return Run(
        _unfold(run.output, call.steps, d),
        tuple(_unfold(h, call.steps, d) for h in run.history),
        tuple(_pick(s.unflatten(0, (d, -1)), order) for s in run.final),
    )


def _fold(x: Tensor, d: int) -> Tensor:
    """(T, B, size) -> (T / d, d B, size)"""
    missing = -x.shape[0] % d
    if missing:
        x = nn.functional.pad(x, (0, 0, 0, 0, 0, missing))
    return x.reshape(x.shape[0] // d, d * x.shape[1], x.shape[2])


def _unfold(y: Tensor, steps: int, d: int) -> Tensor:
    return y.reshape(y.shape[0] * d, y.shape[1] // d, y.shape[2])[:steps]


def _ends(call: Call, like: Tensor) -> Tensor:
    lengths = call.lengths
    return torch.full((like.shape[1],), call.steps) if lengths is None else lengths


def _first_slots(call: Call, d: int, like: Tensor) -> Tensor:
    """For each of the d sequences the slot it starts from, (d, B). Sequence r has steps r, r + d, ..."""
    sequence = torch.arange(d).unsqueeze(1)
    if call.backwards:  # slot j is for the step j before the last one
        return ((_ends(call, like) - 1 - sequence) % d).to(like.device)
    return sequence.expand(d, like.shape[1]).to(like.device)


def _last_slots(call: Call, d: int, like: Tensor) -> Tensor:
    """For each slot the sequence that it continues, (d, B)."""
    slot = torch.arange(d).unsqueeze(1)
    if call.backwards:
        return ((-1 - slot) % d).expand(d, like.shape[1]).to(like.device)
    return ((_ends(call, like) + slot) % d).to(like.device)


def _pick(states: Tensor, order: Tensor) -> Tensor:
    """states (d, B, size), for each row in an order of its own."""
    return states.gather(0, order.unsqueeze(-1).expand(*order.shape, states.shape[-1]))
