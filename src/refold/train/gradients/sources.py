"""Where parameters meet the data, for `contributions`: layers step by step, and what has no memory.

A layer's step is run again on its own, from the states that it has read, with parameters that nothing else reads:
their gradient is then the immediate one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from refold.ir.roles import roles
from refold.kernels.base import Call, Run
from refold.nn.layer import Recurrent
from refold.nn.runs import Recorded


class Source(Protocol):
    """Where parameters meet the data: a layer and direction, or a head."""

    steps: int
    asked: list[Tensor]  # the tensors whose gradients it is told

    def told(self, gradients: Sequence[Tensor]) -> None: ...

    def terms(self, t: int) -> Iterable[tuple[Tensor, Tensor]]: ...

    def roles(self) -> dict[int, str]: ...


class Cell:
    """A layer and direction: each step is run again from the states before it, with parameters of its own."""

    def __init__(self, layer: Recurrent, index: int, record: Recorded, steps: int):
        self.layer, self.record, self.steps = layer, record, steps
        call = record.call
        self._starts = call.states if layer.learn_state else ()
        self.asked = [record.run.output, *(call.probes or ()), *self._starts]
        self._read = {name: p for name, p in call.params.items() if p.requires_grad}
        self._leaves = {name: p.detach().requires_grad_() for name, p in self._read.items()}
        trained = {n: p for n, p in layer.named_parameters() if p.requires_grad}
        self._behind = {name: _behind(p, trained.values()) for name, p in self._read.items()}
        number, reverse = divmod(index, layer.directions)
        start = f"l{number}{'_reverse' * reverse}.start_"
        self._learned = [p for name, p in trained.items() if name.startswith(start)]

    def told(self, gradients: Sequence[Tensor]) -> None:
        count = len(self.record.run.history)
        self._given, deltas = gradients[0], gradients[1 : 1 + count]
        self._by_start = gradients[1 + count :]
        self._before = [
            _before(self.record.call, *states)
            for states in zip(self.record.call.states, self.record.run.history, strict=True)
        ]
        self.direct = self._directly()
        self.carried = [delta - own for delta, own in zip(deltas, self.direct, strict=True)]

    def terms(self, t: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The immediate derivatives of step t by each parameter, times what the error says about the step."""
        at, slot = divmod(t, self.record.spread)
        rows = self._running()[at].nonzero()[:, 0]
        rows = rows[rows // self._batch == slot]
        found = [torch.zeros_like(p) for p in self._read.values()]
        if len(rows):
            run = self._step(at, rows)
            upstream = [self._given[at, rows], *(part[at, rows] for part in self.carried)]
            results, leaves = [run.output[0], *run.final], list(self._leaves.values())
            found = torch.autograd.grad(results, leaves, upstream, materialize_grads=True)
        for name, term in zip(self._read, found, strict=True):
            yield from _through(self._read[name], self._behind[name], term)
        # Where the caller gave the states, a learned start takes no part, and has a gradient of 0.
        yield from ((p, torch.zeros_like(p)) for p in self._learned)
        first = (self._first() == t).unsqueeze(1)
        for start, gradient in zip(self._starts, self._by_start, strict=True):
            term = torch.where(first.to(gradient.device), gradient, 0)
            yield from _through(start, _behind(start, self._learned), term)

    def roles(self) -> dict[int, str]:
        named = roles(self.layer.cell.graph)
        found = {id(p): "start" for p in self._learned}
        for name, behind in self._behind.items():
            found |= {id(p): named[name] for p in behind}
        return found

    def by_state(self, parts: Sequence[Tensor]) -> dict[str, Tensor]:
        """(T, B, size) for each state by its name; a dilated layer's rows lie in its steps' order again."""
        steps = self.record.call.steps * self.record.spread
        opened = [p.reshape(steps, self._batch, p.shape[-1])[: self.steps] for p in parts]
        return dict(zip(self.layer.state_sizes, opened, strict=True))

    @property
    def _batch(self) -> int:
        return self.record.call.states[0].shape[0] // self.record.spread

    def _directly(self) -> list[Tensor]:
        """What the error says about each state through the output of its own step."""
        found = [torch.zeros_like(states) for states in self._before]
        steps, rows = self._running().nonzero(as_tuple=True)
        if len(rows):
            probes = [s.new_zeros(1, len(rows), s.shape[-1]).requires_grad_() for s in found]
            output = self._step(steps, rows, tuple(probes)).output[0]
            given = self._given[steps, rows]
            direct = torch.autograd.grad(output, probes, given, materialize_grads=True)
            for states, own in zip(found, direct, strict=True):
                states[steps, rows] = own[0]
        return found

    def _step(
        self, at: int | Tensor, rows: Tensor, probes: tuple[Tensor, ...] | None = None
    ) -> Run:
        """Some rows of a step, or of several, one step on."""
        call = self.record.call
        inputs = tuple(x[at, rows].unsqueeze(0).detach() for x in call.inputs)
        states = tuple(s[at, rows] for s in self._before)
        return self.record.kernel(
            Call(1, inputs, states, {**call.params, **self._leaves}, probes=probes)
        )

    def _running(self) -> Tensor:
        """Which rows run at which step, (T, B)."""
        return torch.arange(self.record.call.steps)[:, None] < _lengths(self.record.call)

    def _first(self) -> Tensor:
        """For each row the step that it begins with: in reverse that is its last."""
        call, spread = self.record.call, self.record.spread
        begins = (_lengths(call) - 1).clamp(min=0) if call.backwards else 0 * _lengths(call)
        slots = torch.arange(len(begins)) // self._batch
        return (begins * spread + slots).clamp(max=self.steps - 1)


class Head:
    """A module without a memory: a head, or the gate between two layers."""

    def __init__(self, module: nn.Module, stack: ExitStack, lengths: Tensor, steps: int):
        self.module, self.steps, self._lengths = module, steps, lengths
        self.asked: list[Tensor] = []
        layers = [part for part in module.modules() if isinstance(part, Recurrent)]
        theirs = {id(p) for layer in layers for p in layer.parameters()}
        self._parameters = [
            p for p in module.parameters() if p.requires_grad and id(p) not in theirs
        ]
        stack.callback(module.register_forward_hook(self._called).remove)

    def told(self, gradients: Sequence[Tensor]) -> None:
        self._given = gradients

    def _called(self, module: nn.Module, given: Any, y: Any) -> None:
        self.asked.append(y)

    def terms(self, t: int) -> Iterator[tuple[Tensor, Tensor]]:
        """What step t of the output says; one output for a sequence is that of its last step."""
        for y, given in zip(self.asked, self._given, strict=True):
            here = (
                torch.arange(len(y)) == t if y.ndim == 3 else (self._lengths - 1).clamp(min=0) == t
            )
            shape = (-1, *(1,) * (y.ndim - 1))
            upstream = torch.where(here.reshape(shape).to(y.device), given, 0)
            found = torch.autograd.grad(
                y, self._parameters, upstream, retain_graph=True, materialize_grads=True
            )
            yield from zip(self._parameters, found, strict=True)

    def roles(self) -> dict[int, str]:
        return {id(p): "output" for p in self._parameters}


def _behind(tensor: Tensor, trained: Iterable[Tensor]) -> list[Tensor]:
    """The parameters that a tensor is worked out from; a parameter itself, as most are."""
    if tensor.grad_fn is None:
        return [tensor] if tensor.requires_grad else []
    among = list(trained)
    found = torch.autograd.grad(tensor.sum(), among, retain_graph=True, allow_unused=True)
    return [p for p, gradient in zip(among, found, strict=True) if gradient is not None]


def _through(
    tensor: Tensor, behind: Sequence[Tensor], term: Tensor
) -> Iterable[tuple[Tensor, Tensor]]:
    """From what a cell has read to what it is worked out from."""
    if tensor.grad_fn is None or not behind:
        return zip(behind, [term] * len(behind), strict=True)
    found = torch.autograd.grad(tensor, behind, term, retain_graph=True)
    return zip(behind, found, strict=True)


def _lengths(call: Call) -> Tensor:
    rows = len(call.states[0])
    return torch.full((rows,), call.steps) if call.lengths is None else call.lengths


def _before(call: Call, first: Tensor, history: Tensor) -> Tensor:
    """The state that each step reads, (T, B, size)."""
    first, history = first.detach().unsqueeze(0), history.detach()
    if not call.backwards:
        return torch.cat([first, history])[:-1]
    before = torch.cat([history, first])[1:]
    rows = _lengths(call).nonzero()[:, 0]
    before[_lengths(call)[rows] - 1, rows] = first[0, rows]
    return before
