"""Backpropagation through time, with everything it computes on its way handed out.

For h(t) = f(h(t-1), x(t)), y(t) = g(h(t)) and an error E of all y:

    delta(t) = J(t+1)^T delta(t+1) + dE(t)/dh(t)        J(t+1) = dh(t+1)/dh(t), delta(T+1) = 0
    dE/dW    = sum over t of (immediate dh(t)/dW)^T delta(t)

delta(t) is the total derivative of E with respect to h(t): through its own output and through every
later step. The recursion is one of states; it is not one of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from refold.data.batch import Batch
from refold.errors import DataError
from refold.nn.layer import Recurrent
from refold.nn.wiring import FED_BACK, Network, State

from .call import batch_error
from .errors import Errors, Loss, Reduction


@dataclass(frozen=True, slots=True, eq=False)
class Gradients:
    """The derivatives of E.total, all total derivatives.

    Shapes: inputs like x; outputs like y. states: one dict per layer and direction, in the order
    of the state tensor (layer 0, layer 0 reverse, layer 1, ...), an encoder's before its
    decoder's; each maps the name of a state to delta (T, B, size), where delta[0] is that of the
    state after the first step. initial is like the initial state, None when none was given.
    parameters: by name. Past a row's length all are 0.
    """

    errors: Errors
    inputs: Tensor
    outputs: Tensor
    states: list[dict[str, Tensor]]
    initial: State | None
    parameters: dict[str, Tensor]


def gradients(
    network: nn.Module,
    x: Tensor,
    d: Tensor,
    loss: Loss = "squared",
    *,
    steps: Reduction,
    sequences: Reduction,
    features: Reduction = "sum",
    lengths: Tensor | Sequence[int] | None = None,
    d_lengths: Tensor | Sequence[int] | None = None,
    mask: Tensor | None = None,
    state: State | None = None,
) -> Gradients:
    """The gradients of the error of a network, or of a layer, with respect to everything.

    The parameters' own .grad are neither read nor written. Where outputs are fed back, the
    targets are fed, so that the gradient is that of training.

    Shapes: x (T, B, m), d as the network's outputs (T, B, k), (U, B, k) or (B, k); lengths (B,)
    of x, d_lengths (B,) of d where d has other steps than x; mask as in `errors`; state the initial
    one, as the layer (the encoder) takes it.

    Errors: DataError for shapes that do not fit.

    Example:
        >>> layer = Recurrent("elman", 1, 2)
        >>> x, d = torch.randn(4, 3, 1), torch.randn(4, 3, 2)
        >>> out = gradients(layer, x, d, steps="sum", sequences="mean")
        >>> out.states[0]["h"].shape
        torch.Size([4, 3, 2])

    Source: Werbos 1990, "Backpropagation through time: what it does and how to do it".
    """
    batch = _batch(network, x, d, lengths, d_lengths, mask)
    initial = _leaves(state)
    with ExitStack() as stack:
        layers = [part for part in network.modules() if isinstance(part, Recurrent)]
        probed = [stack.enter_context(layer.probe()) for layer in layers]
        y, found = batch_error(
            network,
            batch,
            loss,
            teach=True,
            steps=steps,
            sequences=sequences,
            features=features,
            state=initial if isinstance(state, tuple) else next(iter(initial), None),
        )
    states = [probe for probes in probed for probe in probes]
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    probes = [t for probe in states for t in probe.values()]
    wanted = [batch.x, y, *probes, *initial, *named.values()]
    got = iter(torch.autograd.grad(found.total, wanted, materialize_grads=True))
    inputs, outputs = next(got), next(got)
    deltas = [{name: next(got) for name in probe} for probe in states]
    first = tuple(next(got) for _ in initial)
    return Gradients(
        found,
        inputs,
        outputs,
        deltas,
        first if isinstance(state, tuple) else next(iter(first), None),
        {name: next(got) for name in named},
    )


def _leaves(state: State | None) -> tuple[Tensor, ...]:
    parts = state if isinstance(state, tuple) else () if state is None else (state,)
    return tuple(part.detach().requires_grad_() for part in parts)


def _batch(
    network: nn.Module,
    x: Tensor,
    d: Tensor,
    lengths: Tensor | Sequence[int] | None,
    d_lengths: Tensor | Sequence[int] | None,
    mask: Tensor | None,
) -> Batch:
    """The batch these tensors are; a row without a length is full."""
    where = "gradients(...)"
    if x.ndim != 3:
        fact = f"x has shape {tuple(x.shape)}"
        raise DataError(fact, "give (T, B, m); one sequence is x.unsqueeze(1)", where)
    if getattr(network, "batch_first", False):
        fact = "the layer is batch_first, but gradients are laid out (T, B, ...)"
        raise DataError(fact, "build the layer without batch_first", where)
    rows = _rows(lengths, x)
    stepwise = d.ndim == (3 if d.is_floating_point() else 2)
    own = isinstance(network, Network) and network.shape in FED_BACK
    if d_lengths is not None and not own:
        fact = "d_lengths is given, but the outputs have the steps of x"
        raise DataError(fact, "leave d_lengths out: lengths says it", where)
    d_rows = (_rows(d_lengths, d) if own else rows) if stepwise else None
    return Batch(x.detach().requires_grad_(), rows, d, d_rows, mask)


def _rows(lengths: Tensor | Sequence[int] | None, padded: Tensor) -> Tensor:
    if lengths is None:
        return torch.full((padded.shape[1],), len(padded))
    return torch.as_tensor(lengths, dtype=torch.long)
