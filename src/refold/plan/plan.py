"""The plan: everything that a backend needs to know about a cell, and nothing about tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from refold.collector import no_collection
from refold.errors import PlanError
from refold.ir.centred import without_zero_sums
from refold.ir.graph import Graph
from refold.ir.rewrite import fold, simplified
from refold.ir.sink import sunk
from refold.ir.trace import Cell, Norms
from refold.shapes import Shape

from .adjoint import reverse, reverse_once
from .cost import Cost, cost
from .keep import MEMORY, Kept, keep
from .omega import gathered, learned, measuring
from .split import Split, hoist, split
from .stages import Stage, stages


@dataclass(frozen=True, slots=True)
class Half:
    """One direction of time: a graph, where its lines run, and the stages of its loop."""

    graph: Graph
    split: Split
    stages: tuple[Stage, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How to run a cell, forward and backward.

    once       what is computed from the parameters alone, at each call; gives slots `once`
    forward    the step; gives slots `state`, `output` and `kept`
    backward   the reverse step; reads `carry` (what arrived at the states after the step), `given` (dE/dy), `next`
               (those states), `kept`; gives `carry` (what arrives at the states before it), `input`, `total`, `delta`
    once_back  from the totals to the gradients of the parameters
    """

    name: str
    once: Graph
    forward: Half
    backward: Half
    once_back: Graph
    kept: tuple[Kept, ...]
    memory: str
    parameters: tuple[Shape, ...]  # of those that are learned
    norms: Norms | None = None  # that the reverse step gives Omega too

    @property
    def cost(self) -> Cost:
        """What it costs, counted when it is asked for."""
        ahead, step = self.forward, self.forward.graph
        return cost(step, ahead.split.loop, self.backward.graph, self.kept, self.parameters)

    @property
    def output_state(self) -> int | None:
        """Which of the states is the output, counted from 0; None for an output of its own."""
        graph = self.forward.graph
        states = [o.slot.name for o in graph.outputs_of("state")]
        name = graph.outputs_of("output")[0].slot.name
        return states.index(name) if name in states else None


@lru_cache(maxsize=256)
def plan(cell: Cell, memory: str = "fast") -> Plan:
    """Derive the reverse step of a cell, and say where each line of both runs.

    Errors  PlanError when `memory` is neither "fast" nor "small"
    """
    if memory not in MEMORY:
        raise PlanError(f'memory is "{memory}".', f"Choose one of {', '.join(MEMORY)}.")
    with no_collection():
        return _derived(cell, memory)


def _derived(cell: Cell, memory: str) -> Plan:
    once, step = hoist(simplified(sunk(cell.graph)))
    back = _reverse(cell, once, step)
    left = without_zero_sums(back)
    forward, backward, kept = keep(step, back if left is back else fold(left), memory)
    parameters = [leaf.shape for leaf in cell.graph.leaves_of("param") if leaf.learn]
    return Plan(
        name=cell.name,
        once=once,
        forward=_half(forward),
        backward=_half(backward),
        once_back=fold(reverse_once(once)),
        kept=kept,
        memory=memory,
        parameters=tuple(parameters),
        norms=cell.norms,
    )


def _reverse(cell: Cell, once: Graph, step: Graph) -> Graph:
    if cell.norms is None:
        return fold(reverse(step))
    return gathered(fold(reverse(step, measuring(cell.norms, learned(once, cell.graph.leaves)))))


def _half(graph: Graph) -> Half:
    parts = split(graph)
    return Half(graph, parts, stages(graph, parts.loop))
