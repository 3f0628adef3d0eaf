"""Many futures of one state: a single step of a cell for each of many inputs, all in parallel."""

from __future__ import annotations

from torch import Tensor

from refold.errors import KernelError
from refold.kernels.base import Call
from refold.kernels.reference import Reference, fixed
from refold.plan.plan import plan

from .layer import Recurrent, State


def branch(layer: Recurrent, x: Tensor, state: State) -> Tensor:
    """The output of one further step of the layer's cell, with the layer's own weights.

    What hangs on the state alone, or on the input alone, is worked out once and not for every pair: n states with k
    inputs each cost n + k large products, where running them as n k rows would cost 2 n k. The step is the
    reference's, and torch differentiates it.

    Shapes  x (..., input_features), each state (..., size) -> (..., output_features): the axes before the last are
            broadcast against each other
    Errors  KernelError for a stack, two directions, or steps that are regularised: there is no single cell to branch
    Example
        >>> layer = Recurrent("gru", 3, 4)
        >>> _, state = layer(torch.zeros(5, 2, 3))
        >>> branch(layer, torch.randn(7, 3), state[0].unsqueeze(-2)).shape
        torch.Size([2, 7, 4])
    """
    _check(layer, x)
    sizes = {**layer.sizes, "m": layer.input_size, "n": layer.hidden_size}
    step = Reference(plan(layer.cell), sizes, "branches share products")
    graph, states = step.plan.forward.graph, state if isinstance(state, tuple) else (state,)
    sources = fixed(step.once, Call(1, (), states, layer._part(0, False).named()))
    inputs = graph.leaves_of("input")
    widths = [leaf.shape[0].at(sizes) if leaf.shape else 1 for leaf in inputs]
    sources |= {leaf.slot: part for leaf, part in zip(inputs, x.split(widths, -1), strict=True)}
    sources |= {leaf.slot: s for leaf, s in zip(graph.leaves_of("state"), states, strict=True)}
    values = step.step.numbers(states[0])
    values |= {i: sources[slot] for slot, i in step.step.slots.items()}
    return step.step.work_out(range(len(graph.nodes)), values)[graph.outputs_of("output")[0].node]


def _check(layer: Recurrent, x: Tensor) -> None:
    many = layer.num_layers > 1 or layer.bidirectional or max(layer.stack.spread(1)) > 1
    if many or layer.regularise.random:
        what = "is more than one cell" if many else "drops at random within a step"
        remedy = "branch off one layer with one direction, without dilation and regularise"
        raise KernelError(f"the layer {what}.", remedy)
    if x.shape[-1] != layer.input_features:
        fact = f"x has {x.shape[-1]} features, and the layer reads {layer.input_features}."
        raise KernelError(fact, "Give x of that many features.")
