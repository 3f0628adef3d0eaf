"""A layer as a system: its states in one row, its step and Jacobian from the plan, its runs by compiled code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from refold.errors import RefoldError
from refold.ir.graph import Graph, Slot
from refold.kernels.base import Call, Kernel, build
from refold.kernels.reference import Reference, fixed

from .derivative import Derivative, Slopes, plus
from .equations import CPU, Equation, equations
from .system import Part, side_by_side, with_jacobian


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One layer, ready to run."""

    equation: Equation
    parts: tuple[Part, ...]
    reference: Reference
    compiled: Kernel
    derivative: Derivative
    fixed: Mapping[Slot, Tensor]

    @property
    def graph(self) -> Graph:
        return self.reference.plan.forward.graph

    def given(self, h: Tensor, inputs: tuple[Tensor, ...]) -> dict[Slot, Tensor]:
        slots = [leaf.slot for leaf in self.graph.leaves_of("input")]
        states = [leaf.slot for leaf in self.graph.leaves_of("state")]
        values = [h[:, part.place] for part in self.parts]
        return {
            **self.fixed,
            **dict(zip(slots, inputs, strict=True)),
            **dict(zip(states, values, strict=True)),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """A stack of layers as a map of all its states.

    head  the loop is closed by it: the output of the top layer goes through it and is the next input
    """

    name: str
    levels: tuple[Level, ...]
    parts: tuple[Part, ...]
    inputs: int
    head: Callable[[Tensor], Tensor] | None = None
    starts: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def slots(self) -> int:
        """How many of each state there are: one for each layer."""
        return len(self.levels)

    def step(self, h: Tensor, x: Tensor) -> Tensor:
        return self._through(h, x, False)[0]

    def linear(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        after, slopes = self._through(h, x, True)
        out = h.new_zeros(len(h), self.size, self.size)
        columns = {part.label: part.place for part in self.parts}
        for part in self.parts:
            for name, slope in slopes[part.label].items():
                block = out[:, part.place, columns[name]]
                (block.diagonal(dim1=-2, dim2=-1) if slope.ndim == 2 else block).copy_(slope)
        return after, out

    def run(self, start: Tensor, x: Tensor) -> Tensor:
        """By compiled code; where the loop is closed, step by step."""
        if self.head is not None:
            h, states = start, []
            for given in x:
                h = self.step(h, given)
                states.append(h)
            return torch.stack(states)
        histories: list[Tensor] = []
        below, inputs = x, self._cut(x)
        for level in self.levels:
            states = tuple(start[:, part.place].contiguous() for part in level.parts)
            run = level.compiled(Call(len(x), inputs, states, level.equation.params))
            histories += run.history
            below = run.output + below if level.equation.residual else run.output
            inputs = (below, *inputs[1:])
        return torch.cat(histories, -1)

    def _cut(self, x: Tensor) -> tuple[Tensor, ...]:
        widths = self.levels[0].equation.inputs
        return tuple(p.contiguous() for p in x.split(widths, -1)) if widths else ()

    def first_inputs(self, h: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """What the lowest layer reads."""
        return self._cut(x) if self.head is None else (self._fed_back(h)[0],)

    @property
    def constant(self) -> bool:
        """Whether the step is linear in the state: no slope goes with it, and nothing jumps."""
        if any(level.derivative.jumps for level in self.levels):
            return False
        h = torch.zeros(2, self.size, dtype=torch.float64)
        slopes = self._through(h, h.new_zeros(2, self.inputs), True)[1]
        return all(len(s) == 1 for by in slopes.values() for s in by.values())

    def _through(self, h: Tensor, x: Tensor, slopes: bool) -> tuple[Tensor, dict[str, Slopes]]:
        """All layers, one step on: the new states, and by each the slopes."""
        below, by = self._fed_back(h) if self.head is not None else (x, {})
        inputs = (below,) if self.head is not None else self._cut(x)
        news: list[Tensor] = []
        found: dict[str, Slopes] = {}
        for level in self.levels:
            values, result = _one(level, h, inputs, by if slopes else None)
            slots = [Slot("state", part.name) for part in level.parts]
            news += [_rows(values[slot], len(h)) for slot in slots]
            found |= {p.label: result.get(s, {}) for p, s in zip(level.parts, slots, strict=True)}
            output = level.graph.outputs_of("output")[0].slot
            new = values[output]
            by_new = result.get(output, {})
            if level.equation.residual:
                new, by_new = new + below, _added(by_new, by)
            below, by = new, by_new
            inputs = (below, *inputs[1:])
        return torch.cat(news, -1), found

    def _fed_back(self, h: Tensor) -> tuple[Tensor, Slopes]:
        """The input that the present states make, and its slope."""
        assert self.head is not None
        top = self.levels[-1]
        place = top.reference.plan.output_state
        assert place is not None
        part = top.parts[place]
        x, slope = with_jacobian(self.head, h[:, part.place])
        return x, {part.label: slope}


def _one(
    level: Level, h: Tensor, inputs: tuple[Tensor, ...], by: Slopes | None
) -> tuple[dict[Slot, Tensor], dict[Slot, Slopes]]:
    """A step of one layer; `by`: the slopes of what it reads, None where none are asked for."""
    given = level.given(h, inputs)
    if by is None:
        return level.derivative.values(given, h), {}
    seeds: dict[Slot, Slopes] = {
        Slot("state", part.name): {part.label: _identity(level.graph, part, h)}
        for part in level.parts
    }
    if by:
        seeds[level.graph.leaves_of("input")[0].slot] = by
    return level.derivative(given, seeds, h)


def _identity(graph: Graph, part: Part, like: Tensor) -> Tensor:
    scalar = next(leaf for leaf in graph.leaves_of("state") if leaf.name == part.name).shape == ()
    return like.new_ones(1, 1, 1) if scalar else like.new_ones(1, part.size)


def _rows(value: Tensor, count: int) -> Tensor:
    return value.expand(count, value.shape[-1])


def _added(a: Slopes, b: Slopes) -> Slopes:
    return {**b, **{name: plus(s, b[name]) if name in b else s for name, s in a.items()}}


def folded(layer: nn.Module, head: Callable[[Tensor], Tensor] | None = None) -> Folded:
    """The system of a layer.

    Errors  RefoldError for a layer that is none
    """
    found = equations(layer)
    named = [
        (f"l{k}" * (len(found) > 1), name, size)
        for k, equation in enumerate(found)
        for name, size in equation.states
    ]
    parts = side_by_side(named)
    levels, at = [], 0
    for k, equation in enumerate(found):
        count = len(equation.states)
        levels.append(_level(equation, parts[at : at + count], k > 0 or head is not None))
        at += count
    starts = torch.cat([s.reshape(-1) for e in found for s in e.starts])
    if head is not None:
        _refuse_open(levels[-1])
    name = found[0].cell.name
    return Folded(name, tuple(levels), parts, sum(found[0].inputs), head, starts)


def _level(equation: Equation, parts: tuple[Part, ...], reads: bool) -> Level:
    around: tuple[Any, ...] = (CPU, torch.float64)
    reference = build(equation.cell, equation.letters, "reference", *around)
    assert isinstance(reference, Reference)
    compiled = build(equation.cell, equation.letters, "auto", *around)
    like = torch.empty(0, dtype=torch.float64)
    values = fixed(reference.once, Call(0, (), (like,), equation.params))
    kinds = ("state", "input") if reads else ("state",)
    graph = reference.plan.forward.graph
    derivative = Derivative(graph, equation.letters, kinds)
    return Level(equation, parts, reference, compiled, derivative, values)


def _refuse_open(top: Level) -> None:
    if top.reference.plan.output_state is None:
        fact = f"the output of cell '{top.equation.cell.name}' is none of its states"
        remedy = "declare the output as a state: what is fed back is then among what is carried"
        raise RefoldError(fact, remedy, "rf.dynamics(closed=True)")
