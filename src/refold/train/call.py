"""How training calls a network: one batch in, its outputs and its error out.

A rf.Network knows its shape, a rf.Recurrent takes lengths, any other module takes x, and lengths
where its forward has an argument of that name.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from refold.data.batch import Batch
from refold.errors import DataError
from refold.nn.layer import Recurrent, State
from refold.nn.wiring import FED_BACK, ONE_INPUT, Network

from .errors import Errors, Loss, Reduce, reduced_errors


def outputs(network: nn.Module, batch: Batch, *, teach: bool, state: State | None = None) -> Tensor:
    """The outputs y of a network for a batch.

    `state` is the initial one of a rf.Network or rf.Recurrent. Where outputs are fed back, `teach`
    feeds the targets instead; otherwise the network runs free. A target that is missing (NaN and
    not counted) is fed as 0.

    Shapes  y (T, B, k), (U, B, k) or (B, k), whatever the layout of the network.

    Errors  DataError for a ragged batch and a module that cannot be told its lengths.
    """
    if isinstance(network, Network):
        return _wired(network, batch, teach, state)
    x = batch.x.transpose(0, 1) if getattr(network, "batch_first", False) else batch.x
    if isinstance(network, Recurrent):
        y = network(x, state, unless_full(batch.lengths, batch.x))
    elif "lengths" in inspect.signature(network.forward).parameters:
        y = network(x, lengths=batch.lengths)
    else:
        _refuse_ragged(network, batch)
        y = network(x)
    y = y[0] if isinstance(y, tuple) else y  # a layer also returns its final states
    return y.transpose(0, 1) if getattr(network, "batch_first", False) and y.ndim == 3 else y


def stretch(network: nn.Module, batch: Batch, state: State | None) -> tuple[Tensor, State]:
    """The outputs y (T, B, k) of a stretch of longer sequences, and the states to go on from.

    A row of no steps keeps its state.

    Errors  DataError for a module that does not hand its states on.
    """
    rows = unless_full(batch.lengths, batch.x)
    if isinstance(network, Network):
        return network.stretch(batch.x, rows, state)
    first = getattr(network, "batch_first", False)
    x = batch.x.transpose(0, 1) if first else batch.x
    if isinstance(network, Recurrent):
        found: Any = network(x, state, rows)
    else:
        found = _handed_on(network, x, state, batch)
    y, after = found
    return (y.transpose(0, 1) if first else y), after


def _handed_on(network: nn.Module, x: Tensor, state: State | None, batch: Batch) -> Any:
    known = inspect.signature(network.forward).parameters
    name = next((name for name in ("state", "hx") if name in known), None)
    if name is None:
        fact = f"{type(network).__name__}.forward takes no state: a stretch cannot go on"
        remedy = "use an rf.Recurrent or rf.Network, or forward(x, state) -> (y, state)"
        raise DataError(fact, remedy, f"calling {type(network).__name__}")
    told = {name: state}
    if "lengths" in known:
        told["lengths"] = unless_full(batch.lengths, batch.x)
    else:
        _refuse_ragged(network, batch)
    found = network(x, **told)
    if not isinstance(found, tuple) or len(found) != 2:
        fact = f"{type(network).__name__}.forward gives no pair"
        raise DataError(fact, "let it return (y, state)", f"calling {type(network).__name__}")
    return found


def _wired(network: Network, batch: Batch, teach: bool, state: State | None) -> Tensor:
    lengths = None if network.shape in ONE_INPUT else unless_full(batch.lengths, batch.x)
    if network.shape not in FED_BACK:
        return network(batch.x, lengths, state)
    if batch.d is None or batch.d_lengths is None:
        fact = f"{network.shape} writes as many steps as d has, but d has none"
        remedy = "give targets (U_s, k), or classes (U_s,), one per step"
        raise DataError(fact, remedy, "Sequences(d=...)")
    rows = unless_full(batch.d_lengths, batch.d)
    if teach:
        return network(batch.x, lengths, state, target=_known(batch), target_lengths=rows)
    return network(batch.x, lengths, state, steps=len(batch.d), target_lengths=rows)


def _known(batch: Batch) -> Tensor:
    d, mask = batch.d, batch.mask
    assert d is not None
    if mask is None or not d.is_floating_point():
        return d
    over = mask if mask.ndim == d.ndim else mask.unsqueeze(-1)
    return torch.where(over | d.isfinite(), d, 0)


def batch_error(
    network: nn.Module,
    batch: Batch,
    loss: Loss,
    reduce: Reduce,
    *,
    teach: bool,
    state: State | None = None,
) -> tuple[Tensor, Errors]:
    """The outputs of a network for a batch, and their errors."""
    if batch.d is None:
        fact = f"d is None, and {type(network).__name__} has no error(batch) of its own"
        raise DataError(fact, "give the targets: Sequences(x, d)", "Sequences(d=...)")
    y = outputs(network, batch, teach=teach, state=state)
    rows = None if batch.d_lengths is None else unless_full(batch.d_lengths, batch.d)
    return y, reduced_errors(y, batch.d, loss, reduce, rows, batch.mask)


def unless_full(lengths: Tensor, padded: Tensor) -> Tensor | None:
    """The lengths, or None where no row is padded: a layer is quicker without them."""
    return None if bool((lengths == len(padded)).all()) else lengths


def _refuse_ragged(network: nn.Module, batch: Batch) -> None:
    if unless_full(batch.lengths, batch.x) is not None:
        shortest, longest = int(batch.lengths.min()), len(batch.x)
        name = type(network).__name__
        fact = f"a batch has rows of {shortest} to {longest} steps, {name}.forward takes no lengths"
        remedy = (
            "use an rf.Recurrent or rf.Network, give forward a lengths argument, or batch_size=1"
        )
        raise DataError(fact, remedy, f"calling {name}")
