"""The equations of a layer: each level of a stack with its letters, and its parameters copied in float64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from refold.errors import RefoldError
from refold.ir.graph import Leaf
from refold.ir.trace import Cell
from refold.ir.wrap import wrapped
from refold.nn.dropin import Layers
from refold.nn.layer import Recurrent

from .derivative import width_of

CPU = torch.device("cpu")
WHERE = "rf.dynamics(layer)"


@dataclass(frozen=True, slots=True, eq=False)
class Equation:
    """One layer: its cell, numbers for the letters, parameters by their names, and what states hold at first."""

    cell: Cell
    letters: Mapping[str, int]
    params: Mapping[str, Tensor]
    starts: tuple[Tensor, ...]
    residual: bool = False

    @property
    def states(self) -> tuple[tuple[str, int], ...]:
        leaves = self.cell.graph.leaves_of("state")
        return tuple((leaf.name, self.width(leaf)) for leaf in leaves)

    @property
    def inputs(self) -> tuple[int, ...]:
        return tuple(self.width(leaf) for leaf in self.cell.graph.leaves_of("input"))

    def width(self, leaf: Leaf) -> int:
        return width_of(leaf.shape, self.letters)


def equations(layer: nn.Module) -> tuple[Equation, ...]:
    """The layers of a stack, lowest first, as they run in evaluation; nothing of the module is touched.

    Errors  RefoldError for both directions, and for dilated layers and highways, which are more than equations
    """
    if isinstance(layer, Recurrent):
        _refuse_stack(layer)
        return tuple(_of_recurrent(layer))
    if isinstance(layer, Layers):
        if layer.bidirectional:
            raise _backwards()
        return tuple(_of_dropin(layer))
    raise _no_layer(layer)


def _of_recurrent(layer: Recurrent) -> Iterator[Equation]:
    form = layer.regularise.form(layer.cell, False, False, "")
    for index in range(layer.num_layers):
        part = layer._part(index, False)
        residual = layer.stack.kind == "residual" and index > 0
        cell, named = wrapped(layer.cell, form).cell, _copied(part.named())
        starts = tuple(_copy(s[0]) for s in part.first(1))
        yield Equation(cell, layer._letters(index), named, starts, residual)


def _of_dropin(layer: Layers) -> Iterator[Equation]:
    sizes = layer._state_sizes()
    for index, named in enumerate(layer._parameters_of(layer._weights())):
        starts = tuple(torch.zeros(n, dtype=torch.float64) for n in sizes.values())
        yield Equation(layer._cell(), layer._letters(index > 0), _copied(named), starts)


def _copied(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: _copy(p) for name, p in named.items()}


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to(CPU, torch.float64, copy=True)


# What is refused ------------------------------------------------------------------------------------------------------


def _no_layer(module: nn.Module) -> RefoldError:
    fact = f"{type(module).__name__} is no rf.Recurrent, layer of rf.nn, rf.Network or function"
    inside = [name for name, m in module.named_modules() if isinstance(m, Recurrent | Layers)]
    remedy = "rf.convert makes a torch.nn layer into one of rf.nn"
    if inside:
        remedy = f"give the layer in it, called {inside[0]}, and as x what that layer reads"
    return RefoldError(fact, remedy, WHERE)


def _backwards() -> RefoldError:
    fact = "the layer is bidirectional, and its reverse direction reads what is still to come"
    return RefoldError(fact, "analyse a layer of one direction", WHERE)


def _refuse_stack(layer: Recurrent) -> None:
    if layer.directions == 2:
        raise _backwards()
    if max(layer.stack.spread(layer.num_layers)) > 1:
        fact = "the layer is dilated: its state after a step takes part only some steps later"
        raise RefoldError(fact, "analyse the layer without dilations", WHERE)
    if layer.stack.kind == "highway":
        fact = "the layers are joined by highways, whose gates are not in the equation"
        raise RefoldError(fact, 'analyse one with stack=rf.Stack("plain") or "residual"', WHERE)
