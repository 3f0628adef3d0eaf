"""Regularised recurrence: what is dropped, kept or averaged, at which rates, and the random masks for it.

The masks come from torch's global generator: a run with the same seed is the same run.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from torch import Tensor, nn

from refold.errors import EquationError
from refold.ir.trace import Cell
from refold.ir.wrap import Extra, Form, recurrent_reads


@dataclass(frozen=True, slots=True, repr=False)
class Regularise:
    """Rates at which a layer drops, in training. In evaluation nothing is random: zoneout takes its expectation.

    variational  of each layer's (first) input, one mask for all steps of a row
    recurrent    of the old states where a weight multiplies them, one mask for all steps of a row. What a gate keeps
                 of a state is not touched
    zoneout      of the units of every state, or of those named: they keep the old value, anew at each step
    weight_drop  of the weights that multiply the old states, one mask for a call

    What is kept is divided by 1 - rate, except in zoneout.

    Errors   EquationError: a rate outside [0, 1)
    Example  rf.Recurrent("lstm", 8, 64, regularise=rf.Regularise(variational=0.2, zoneout={"c": 0.5, "h": 0.05}))
    Source   Gal & Ghahramani 2016, arXiv:1512.05287; Krueger et al. 2017, arXiv:1606.01305; Wan et al. 2013 and
             Merity, Keskar & Socher 2018, arXiv:1708.02182 (weight drop)
    """

    variational: float = 0.0
    recurrent: float = 0.0
    zoneout: float | Mapping[str, float] = 0.0
    weight_drop: float = 0.0
    # Whether training differs from evaluation; looked at in every call.
    random: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("variational", "recurrent", "weight_drop"):
            _check_rate(name, getattr(self, name))
        if isinstance(self.zoneout, Mapping):
            for state, rate in self.zoneout.items():
                _check_rate(f"zoneout of {state}", rate)
            object.__setattr__(self, "zoneout", dict(self.zoneout))
        else:
            _check_rate("zoneout", self.zoneout)
        zones = self.zoneout.values() if isinstance(self.zoneout, Mapping) else (self.zoneout,)
        some = any((self.variational, self.recurrent, self.weight_drop, *zones))
        object.__setattr__(self, "random", some)

    def __repr__(self) -> str:
        given = ((f.name, getattr(self, f.name)) for f in fields(self) if f.init)
        return f"Regularise({', '.join(f'{name}={rate}' for name, rate in given if rate)})"

    def zones(self, cell: Cell) -> dict[str, float]:
        """The states that zoneout acts on, with their rates."""
        states = [leaf.name for leaf in cell.graph.leaves_of("state")]
        given = self.zoneout
        rates = given if isinstance(given, Mapping) else dict.fromkeys(states, given)
        return {state: rates[state] for state in states if rates.get(state)}

    def check(self, cell: Cell) -> None:
        """Whether the cell has what is to be dropped.

        Errors  EquationError: it has not
        """
        states = [leaf.name for leaf in cell.graph.leaves_of("state")]
        named = self.zoneout if isinstance(self.zoneout, Mapping) else {}
        strange = [name for name in named if name not in states]
        if strange:
            raise EquationError(
                f"zoneout names {strange[0]}, and the states of cell '{cell.name}' are {', '.join(states)}.",
                "Give a rate for one or more of these, or one number for all.",
            )
        if self.variational and not cell.graph.leaves_of("input"):
            raise EquationError(
                f"cell '{cell.name}' reads no input, and variational dropout acts on it.",
                "Leave variational out.",
            )
        if self.recurrent or self.weight_drop:
            recurrent_reads(cell.graph)

    def form(self, cell: Cell, training: bool, masked: bool = False, resets: str = "") -> Form:
        """What is done to the cell's step."""
        zones = self.zones(cell)
        return Form(
            dropped=recurrent_reads(cell.graph).states if training and self.recurrent else (),
            zoned=tuple(zones) if training else (),
            blended=() if training else tuple(zones.items()),
            masked=masked,
            resets=resets,
        )

    def noise(self, extra: Extra, cell: Cell, steps: int, first: Tensor) -> Tensor:
        """The mask that a further input of the cell reads, for a state that starts as `first`, (..., B, size).

        Shapes  (T, B, size)
        """
        rows, size = first.shape[-2:]
        if extra.kind == "keep":
            return _kept(first, (1, rows, size), self.recurrent).expand(steps, rows, size)
        return first.new_empty(steps, rows, size).bernoulli_(self.zones(cell)[extra.state])

    def inputs(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The inputs of a layer in training, (T, B, size) each."""
        if not self.variational:
            return inputs
        x = inputs[0]
        return x * _kept(x, (1, *x.shape[1:]), self.variational), *inputs[1:]

    def weights(self, cell: Cell, params: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The parameters of a layer in training."""
        if not self.weight_drop:
            return params
        names = recurrent_reads(cell.graph).weights
        return {
            name: nn.functional.dropout(p, self.weight_drop) if name in names else p
            for name, p in params.items()
        }


def _kept(like: Tensor, shape: tuple[int, ...], rate: float) -> Tensor:
    """1 / (1 - rate) for what is kept, 0 for what is dropped."""
    return like.new_empty(shape).bernoulli_(1 - rate) / (1 - rate)


def _check_rate(name: str, rate: object) -> None:
    number = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
    if not number or not 0 <= float(rate) < 1:  # type: ignore[arg-type]
        raise EquationError(
            f"{name} is {rate!r}, and a rate is a number from 0 to below 1.", "Pass 0.2, say."
        )
