"""Inside the loop: which products can run together, and what has to wait for them.

All products of a stage read what earlier stages (or the step before) have finished; those that read the same vector
become one packed product. The pointwise lines that follow stay in registers until a product or a sum over the features
needs their result: that starts a new stage. LSTM has one stage, GRU as Cho wrote it two, layer norm more.
"""

from __future__ import annotations

from dataclasses import dataclass

from refold.ir.graph import SLOT, Graph
from refold.ir.ops import OPS


@dataclass(frozen=True, slots=True)
class Stage:
    """One pass over the units: row reductions, packed products (grouped by the vector they read), pointwise lines."""

    reductions: tuple[int, ...]
    products: tuple[tuple[int, tuple[int, ...]], ...]  # (vector, products that read it)
    pointwise: tuple[int, ...]


def stages(graph: Graph, loop: tuple[int, ...]) -> tuple[Stage, ...]:
    """The loop's lines, in stages."""
    inside = set(loop)
    level: dict[int, int] = {}
    for i in loop:
        node = graph.nodes[i]
        before = max((level[a] for a in node.args if a in inside), default=0)
        heavy = OPS[node.op].cost in ("product", "reduction")
        # What comes straight from a slot is ready when the step begins; anything computed has to be finished first.
        waits = heavy and any(a in inside and graph.nodes[a].op != SLOT for a in node.args)
        level[i] = before + waits
    count = max(level.values(), default=-1) + 1
    return tuple(_stage(graph, [i for i in loop if level[i] == k]) for k in range(count))


def _stage(graph: Graph, lines: list[int]) -> Stage:
    groups: dict[int, list[int]] = {}
    reductions, pointwise = [], []
    for i in lines:
        cost = OPS[graph.nodes[i].op].cost
        if cost == "product":
            groups.setdefault(graph.nodes[i].args[1], []).append(i)
        elif cost == "reduction":
            reductions.append(i)
        else:
            pointwise.append(i)
    products = tuple((vector, tuple(group)) for vector, group in groups.items())
    return Stage(tuple(reductions), products, tuple(pointwise))
