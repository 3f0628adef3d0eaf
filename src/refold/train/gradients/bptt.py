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
from typing import Any

import torch
from torch import Tensor, nn

from refold.data.batch import Batch
from refold.errors import DataError
from refold.nn.doors import Lengths, whole_lengths
from refold.nn.layer import Recurrent, State
from refold.nn.wiring import FED_BACK, Network
from refold.train.call import batch_error
from refold.train.errors import Errors, Loss, Reduce, Reduction


@dataclass(frozen=True, slots=True, eq=False)
class Gradients:
    """The derivatives of E.total, all total derivatives.

    Shapes  inputs like x; outputs like y. states: one dict per layer and direction, in the order
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
    lengths: Lengths = None,
    d_lengths: Lengths = None,
    mask: Tensor | None = None,
    state: State | None = None,
) -> Gradients:
    """The gradients of the error of a network, or of a layer, with respect to everything.

    The parameters' own .grad are neither read nor written, and a torch.no_grad() around the call
    changes nothing. Where outputs are fed back, the targets are fed, so that the gradient is that
    of training.

    Shapes  x (T, B, m), d as the network's outputs (T, B, k), (U, B, k) or (B, k); lengths (B,)
    of x, d_lengths (B,) of d where d has other steps than x; mask as in `errors`; state the initial
    one, as the layer (the encoder) takes it.

    Errors  DataError for tensors and shapes that do not fit, KernelError for lengths.

    Example
        >>> layer = Recurrent("elman", 1, 2)
        >>> x, d = torch.randn(4, 3, 1), torch.randn(4, 3, 2)
        >>> out = gradients(layer, x, d, steps="sum", sequences="mean")
        >>> out.states[0]["h"].shape
        torch.Size([4, 3, 2])

    Source  Werbos 1990, "Backpropagation through time: what it does and how to do it".
    """
    batch = whole_batch(network, x, d, lengths, d_lengths, mask)
    reduce = Reduce(steps, sequences, features)
    several = isinstance(state, tuple | list)
    initial = leaves(state)
    with torch.enable_grad(), ExitStack() as stack:
        layers = [part for part in network.modules() if isinstance(part, Recurrent)]
        probed = [stack.enter_context(layer.probe()) for layer in layers]
        y, found = batch_error(
            network,
            batch,
            loss,
            reduce,
            teach=True,
            state=initial if several else next(iter(initial), None),
        )
    states = [probe for probes in probed for probe in probes]
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    probes = [t for probe in states for t in probe.values()]
    wanted = [batch.x, y, *probes, *initial, *named.values()]
    got = iter(_derivatives(found.total, wanted))
    inputs, outputs = next(got), next(got)
    deltas = [{name: next(got) for name in probe} for probe in states]
    first = tuple(next(got) for _ in initial)
    return Gradients(
        found,
        inputs,
        outputs,
        deltas,
        first if several else next(iter(first), None),
        {name: next(got) for name in named},
    )


def _derivatives(total: Tensor, wanted: Sequence[Tensor]) -> Sequence[Tensor]:
    """d total / d each; 0 where a batch has no steps, and its error depends on nothing."""
    if not total.requires_grad:
        return [torch.zeros_like(each) for each in wanted]
    return torch.autograd.grad(total, wanted, materialize_grads=True)


def leaves(state: Any) -> tuple[Tensor, ...]:
    parts = state if isinstance(state, tuple | list) else () if state is None else (state,)
    for part in parts:
        _check_float("state", part)
    return tuple(part.detach().requires_grad_() for part in parts)


def _check_float(name: str, value: Any) -> None:
    kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
    if not isinstance(value, Tensor) or not value.is_floating_point():
        fact = f"{name} is {kind}, and only a tensor of real numbers has a gradient"
        raise DataError(fact, f"convert {name} first, for instance with .float()", "gradients(...)")


def whole_batch(
    network: nn.Module,
    x: Tensor,
    d: Tensor,
    lengths: Lengths,
    d_lengths: Lengths,
    mask: Tensor | None,
) -> Batch:
    """The batch these tensors are; a row without a length is full."""
    where = "gradients(...)"
    if not isinstance(network, nn.Module):
        fact = f"network is a {type(network).__name__}"
        raise DataError(fact, "give an rf.Network, or another torch.nn.Module", where)
    _check_float("x", x)
    if not isinstance(d, Tensor):
        raise DataError(f"d is a {type(d).__name__}", "give the targets as a tensor", where)
    if x.ndim != 3:
        fact = f"x has shape {tuple(x.shape)}"
        raise DataError(fact, "give (T, B, m); one sequence is x.unsqueeze(1)", where)
    if getattr(network, "batch_first", False):
        fact = "the layer is batch_first, but gradients are laid out (T, B, ...)"
        raise DataError(fact, "build the layer without batch_first", where)
    rows = _rows(lengths, x, "lengths")
    stepwise = d.ndim == (3 if d.is_floating_point() else 2)
    own = isinstance(network, Network) and network.shape in FED_BACK
    if d_lengths is not None and not own:
        fact = "d_lengths is given, but the outputs have the steps of x"
        raise DataError(fact, "leave d_lengths out: lengths says it", where)
    d_rows = (_rows(d_lengths, d, "d_lengths") if own else rows) if stepwise else None
    return Batch(x.detach().requires_grad_(), rows, d, d_rows, mask)


def _rows(lengths: Lengths, padded: Tensor, name: str) -> Tensor:
    steps, rows = padded.shape[:2]
    whole = whole_lengths(lengths, steps, rows, name)
    return torch.full((rows,), steps) if whole is None else whole
