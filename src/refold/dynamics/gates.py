"""How often gates and activations are saturated, where hardly any gradient passes them.

Source  Karpathy, Johnson & Fei-Fei 2015, arXiv:1506.02078, section 4.2: a gate is left-saturated below 0.1,
right-saturated above 0.9.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from refold.ir.graph import SLOT, Graph, Slot

from .folded import Folded, Level

# Of a sigmoid; of a tanh the same points of the same curve, as tanh(a) = 2 sigmoid(2a) - 1.
LIMITS = {"sigmoid": (0.1, 0.9), "tanh": (-0.8, 0.8)}
RANGE = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}
BINS = 20


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """One sigmoid or tanh of the equation, by the parameters in it.

    low, high  the shares of its values, over steps, rows and units, below and above the limits

    Shapes  units (n,): for each unit the share of its values that are saturated, low or high; shares (20,): the shares
            of all values in equal parts of the range of the activation, `RANGE`
    """

    name: str
    kind: str
    low: float
    high: float
    units: Tensor
    shares: Tensor

    def __str__(self) -> str:
        return f"{self.name:12} {self.kind:8} low {self.low:6.1%}  high {self.high:6.1%}"


def gates(system: Folded, h: Tensor, x: Tensor) -> tuple[Gate, ...]:
    """The saturation of every sigmoid and tanh at states (R, N) and inputs (R, m)."""
    found: list[Gate] = []
    inputs = system.first_inputs(h, x)
    for level in system.levels:
        given = level.given(h, inputs)
        lines = level.reference.step
        values = lines.numbers(h) | {i: given[s] for s, i in lines.slots.items() if s in given}
        lines.work_out(range(len(level.graph.nodes)), values)
        for i, node in enumerate(level.graph.nodes):
            if node.op in LIMITS and i in lines.varying:
                found.append(_gate(level, i, node.op, values[i]))
        new = values[level.graph.outputs_of("output")[0].node]
        inputs = (new + inputs[0] if level.equation.residual else new, *inputs[1:])
    return tuple(found)


def _gate(level: Level, i: int, kind: str, values: Tensor) -> Gate:
    low, high = values < LIMITS[kind][0], values > LIMITS[kind][1]
    name = _name(level.graph, i)
    layer = level.parts[0].layer
    return Gate(
        f"{layer}.{name}" if layer else name,
        kind,
        float(low.double().mean()),
        float(high.double().mean()),
        (low | high).double().mean(0),
        torch.histc(values.double(), BINS, *RANGE[kind]) / values.numel(),
    )


def _name(graph: Graph, i: int) -> str:
    """What the gate is called: its own name, that of the parameters that are added in it, or what it is of."""
    node = graph.nodes[i]
    if node.label:
        return node.label
    names = list(dict.fromkeys(_parameters(graph, node.args[0])))
    if names:
        return names[0]
    inner = graph.nodes[node.args[0]]
    return inner.label or f"line {i}"


def _parameters(graph: Graph, i: int) -> list[str]:
    """The names of the parameters in a sum of products; of "i.W_x" the part before the point."""
    node = graph.nodes[i]
    if node.op == SLOT:
        assert isinstance(node.attr, Slot)
        return [node.attr.name.partition(".")[0]] if node.attr.kind == "param" else []
    if node.op in ("add", "sub"):
        return [name for a in node.args for name in _parameters(graph, a)]
    return _parameters(graph, node.args[0]) if node.op in ("matvec", "slice") else []
