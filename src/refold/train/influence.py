"""The influence of parameters on states, carried forward in time with them: what `realtime` is made of."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from refold.data.batch import Batch
from refold.errors import RefoldError
from refold.nn.layer import Recurrent, State
from refold.nn.wiring import Network

from .call import batch_error
from .errors import Loss, Reduce

# Numbers in M over all rows: 256 MiB in float32, and one step needs them twice.
LIMIT = 2**26


class Carried:
    """The states of all rows after the last step, and their derivatives by the layer's parameters.

    Shapes  states (B, N), influence (B, N, P): the N states of a row, layer by layer within each state of the
    equation, and the P numbers of the layer's parameters that are trained, in their order.
    """

    def __init__(self, network: nn.Module, rows: int, state: State | None = None):
        self.network, self.layer = network, carrying_layer(network)
        self._twin = copy.deepcopy(self.layer)
        self._twin.backend = "reference"  # torch.func sees into no other; a copy has no kernels yet
        # Of no steps the final states are those before the first.
        like = next(self.layer.parameters())
        self._none = like.new_zeros(0, 1, self.layer.input_features)
        self._numbers = sum(p.numel() for p in _trained(self.layer).values())
        _refuse_large(rows, len(self._after({}, self._none)[0]), self._numbers)
        start, influence = self._before_any()
        self.states = start.repeat(rows, 1)
        self.influence = influence.repeat(rows, 1, 1)
        if state is not None:
            self.states = _flat(state).detach().to(like)
            self.influence.zero_()
        self.y = like.new_empty(0)

    def learn(self, step: Batch, loss: Loss, reduce: Reduce, shares: Tensor) -> Tensor:
        """Add the gradient of one step's error to .grad of every parameter; the error, over all rows."""
        trained = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        states = self.states.detach().requires_grad_()
        with torch.enable_grad():
            state = _opened(states, self.layer)
            self.y, errors = batch_error(self.network, step, loss, reduce, teach=True, state=state)
            error = (errors.step[0] * shares).sum()
            wanted = [states, *trained.values()]
            by_states, *found = torch.autograd.grad(error, wanted, materialize_grads=True)
        past = torch.mv(self.influence.flatten(0, 1).T, by_states.flatten())
        through = dict(zip(_trained(self.layer).values(), _cut(past, self.layer), strict=True))
        for parameter, gradient in zip(trained.values(), found, strict=True):
            whole = gradient + through[parameter] if parameter in through else gradient
            parameter.grad = whole if parameter.grad is None else parameter.grad + whole
        return error.detach()

    def advance(self, x: Tensor, running: Tensor | None = None) -> None:
        """States and influence one step on, in the rows that still run."""
        given = (self.states, _trained(self.layer), x[0].to(self.states))
        if running is not None:  # what lies behind a row's end may be anything
            given = (*given[:2], torch.where(running[:, None], given[2], 0))
        by, states = vmap(jacrev(self._one_step, (0, 1), has_aux=True), (0, None, 0))(*given)
        influence = torch.baddbmm(_side_by_side(by[1]), by[0], self.influence)
        if running is not None:
            states = torch.where(running[:, None], states, self.states)
            influence = torch.where(running[:, None, None], influence, self.influence)
        self.states, self.influence = states.detach(), influence.detach()

    def reset(self, rows: Any = slice(None)) -> None:
        """Some rows as they were before any step."""
        start, influence = self._before_any()
        self.states[rows], self.influence[rows] = start, influence

    def _one_step(
        self, states: Tensor, trained: dict[str, Tensor], x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The next states of a row, (N,), twice: jacrev hands the second out as it is."""
        return self._after(trained, x[None, None], _opened(states[None], self.layer))

    def _before_any(self) -> tuple[Tensor, Tensor]:
        """The states that a row starts from, (N,), and what learned ones owe to their parameters, (N, P)."""
        trained = _trained(self.layer)
        if not self.layer.learn_state:
            states = self._after({}, self._none)[0].detach()
            return states, states.new_zeros(len(states), self._numbers)
        by, states = jacrev(lambda given: self._after(given, self._none), has_aux=True)(trained)
        influence = _side_by_side({name: part.unsqueeze(0) for name, part in by.items()})[0]
        return states.detach(), influence.detach()

    def _after(self, trained: dict[str, Tensor], *given: Any) -> tuple[Tensor, Tensor]:
        named = dict(self.layer.named_parameters()) | dict(self.layer.named_buffers()) | trained
        states = _flat(functional_call(self._twin, named, given)[1])[0]
        return states, states


# States and parameters in a row ---------------------------------------------------------------------------------------


def _flat(state: State) -> Tensor:
    """States as a layer gives them, (layers, B, size) each, in one row for each row: (B, N)."""
    parts = state if isinstance(state, tuple | list) else (state,)
    return torch.cat([part.transpose(0, 1).flatten(1) for part in parts], 1)


def _opened(flat: Tensor, layer: Recurrent) -> State:
    """The other way round."""
    layers = flat.shape[1] // sum(layer.state_sizes.values())
    parts = flat.split([layers * size for size in layer.state_sizes.values()], 1)
    opened: tuple[Tensor, ...] = tuple(p.unflatten(1, (layers, -1)).transpose(0, 1) for p in parts)
    return opened[0] if len(opened) == 1 else opened


def _trained(layer: Recurrent) -> dict[str, Tensor]:
    return {name: p for name, p in layer.named_parameters() if p.requires_grad}


def _side_by_side(by: dict[str, Tensor]) -> Tensor:
    """The derivatives (B, N, ...) by each parameter, as (B, N, P)."""
    return torch.cat([g.reshape(*g.shape[:2], math.prod(g.shape[2:])) for g in by.values()], 2)


def _cut(vector: Tensor, layer: Recurrent) -> list[Tensor]:
    """(P,) in the shapes of the parameters."""
    trained = list(_trained(layer).values())
    parts = vector.split([p.numel() for p in trained])
    return [part.reshape(p.shape) for part, p in zip(parts, trained, strict=True)]


# What is refused ------------------------------------------------------------------------------------------------------


def carrying_layer(network: Any) -> Recurrent:
    """The layer whose states are carried."""
    where = "real-time learning"
    wired = isinstance(network, Network) and network.shape == "many-to-many"
    layer = network.layer if wired else network
    if not isinstance(layer, Recurrent):
        told = network.shape if isinstance(network, Network) else type(network).__name__
        fact = f"it carries states from step to step, and the network is a {told}"
        raise RefoldError(
            fact, "give an rf.Recurrent, or an rf.Network(..., shape='many-to-many')", where
        )
    if layer.directions == 2:
        fact = "the layer is bidirectional, and its reverse direction reads what is still to come"
        raise RefoldError(fact, "build it with bidirectional=False", where)
    if layer.batch_first:
        fact = "the layer is batch_first, and steps are laid out (T, B, ...)"
        raise RefoldError(fact, "build it without batch_first", where)
    if layer.training and (layer.dropout > 0 or layer.regularise.random):
        fact = (
            "the layer drops at random in training, and one mask would have to last for all steps"
        )
        raise RefoldError(fact, "call network.eval(), or build it without dropout", where)
    if not _trained(layer):
        fact = "the layer has no parameter that is trained: nothing is carried"
        raise RefoldError(fact, "call layer.requires_grad_()", where)
    return layer


def _refuse_large(rows: int, states: int, parameters: int) -> None:
    numbers = rows * states * parameters
    if numbers > LIMIT:
        fact = (
            f"{rows} row(s) of {states} states by {parameters} parameters are {numbers:,} numbers"
        )
        remedy = (
            f"at most {LIMIT:,} are carried: fewer rows or units, or backpropagation through time"
        )
        raise RefoldError(fact, remedy, "real-time learning")
