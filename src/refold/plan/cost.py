"""What a step costs, as formulas in T, B and the letters of the cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from refold.ir.graph import Graph
from refold.ir.ops import OPS
from refold.shapes import Shape, Size, total, volume

from .keep import Kept

T = Size(((("T",), 1),))
B = Size(((("B",), 1),))


@dataclass(frozen=True, slots=True)
class Cost:
    """Whole sequences: T steps of B rows, one layer, one direction.

    step        multiplications and additions in the products of one step of one row
    flops       multiplications and additions in products, forward; a training step takes about three times as many
    flops_loop  the part of them that has to wait for the step before
    flops_back  the same in the reverse step, weight gradients included
    functions   calls of exp, tanh and the like, forward
    kept        numbers stored by forward for the reverse step, states included
    weights     numbers in the parameters
    """

    step: Size
    flops: Size
    flops_loop: Size
    flops_back: Size
    functions: Size
    kept: Size
    weights: Size

    def kept_bytes(self, itemsize: int = 4) -> Size:
        """Bytes stored for the reverse step; 4 bytes a number in float32."""
        return self.kept * itemsize


def cost(
    step: Graph,
    loop: Iterable[int],
    backward: Graph,
    kept: tuple[Kept, ...],
    params: Iterable[Shape],
) -> Cost:
    """Count a step and its reverse step."""
    whole = range(len(step.nodes))
    states = total(volume(leaf.shape) for leaf in step.leaves_of("state"))
    flops = _flops(step, whole)
    return Cost(
        step=flops,
        flops=T * B * flops,
        flops_loop=T * B * _flops(step, loop),
        flops_back=T * B * _flops(backward, range(len(backward.nodes))),
        functions=T * B * _functions(step, whole),
        kept=T * B * (_volumes(Counter(k.shape for k in kept)) + states),
        weights=_volumes(Counter(params)),
    )


def _flops(graph: Graph, lines: Iterable[int]) -> Size:
    found: Counter[Shape] = Counter()  # multiplications, as volumes
    for i in lines:
        node = graph.nodes[i]
        if OPS[node.op].cost == "product":
            inner = graph.nodes[node.args[0]].shape[-1:] if node.op != "outer" else ()
            found[*node.shape, *inner] += 1
    return _volumes(found) * 2


def _functions(graph: Graph, lines: Iterable[int]) -> Size:
    nodes = graph.nodes
    return _volumes(Counter(nodes[i].shape for i in lines if OPS[nodes[i].op].cost == "function"))


def _volumes(shapes: Mapping[Shape, int]) -> Size:
    """The sum of the volumes of shapes that occur so many times."""
    return total(volume(shape) * count for shape, count in shapes.items())


def letters(graph: Graph) -> frozenset[str]:
    """The letters that a cell's declarations use."""
    return frozenset(
        letter for leaf in graph.leaves for size in leaf.shape for letter in size.letters
    )
