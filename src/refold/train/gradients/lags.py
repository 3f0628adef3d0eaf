"""How far back the error looks: the norm of dE(t)/dh(k) against the lag t - k, measured by one backward pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from refold.data.batch import Batch
from refold.errors import DataError, RefoldError
from refold.nn.doors import Lengths
from refold.nn.layer import Recurrent, State
from refold.nn.wiring import Network
from refold.train.call import batch_error
from refold.train.errors import Loss, Reduce, Reduction

from .bptt import whole_batch


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """The gradient of one state of one layer and direction against the lag.

    Shapes  median and mean (T,), over the rows, of the 2-norm over the state's units; at lag k over the rows that
    have so many steps before their error; NaN where none has.

    Units   half_life in steps: how long it takes the median to fall below half of its value at lag 0, inf where it
    does not. A state that is not the output (the c of an LSTM) is felt from lag 1 on, and counted from there. growth in
    nats per step: the slope of log(median) against the lag, by least squares over what is not 0; below 0 the gradient
    vanishes, above it explodes. NaN of fewer than two values.
    """

    layer: str
    state: str
    median: Tensor
    mean: Tensor
    half_life: float
    growth: float

    def __str__(self) -> str:
        marks = [k for k in (0, 1, 10, 100, 1000) if k < len(self.median)]
        values = ", ".join(f"{k}: {float(self.median[k]):.2g}" for k in marks)
        return (
            f"{self.layer} {self.state}  half-life {self.half_life:g} steps, "
            f"growth {self.growth:+.3g} nats a step; at lag {values}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class LagCurve:
    """Shapes  lags (T,), from 0; curves: one for each state of each layer and direction."""

    lags: Tensor
    curves: tuple[Curve, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.curves))


def lag_curve(
    network: Network | Recurrent,
    x: Tensor | Batch,
    d: Tensor | None = None,
    loss: Loss = "squared",
    *,
    features: Reduction = "sum",
    lengths: Lengths = None,
    mask: Tensor | None = None,
    state: State | None = None,
) -> LagCurve:
    """The norms of the gradient of each row's last error with respect to all states before it.

    The last error is that of the last step that counts; of a network with one output for a sequence, its only one. In
    the reverse direction such a network reads the state at step 0, and the lag is counted from there; elsewhere the
    lag is the distance in time from the error. It costs one pass forward and one backward, in the mode that the network
    is in: call network.eval() first where something is dropped.

    Shapes  x (T, B, m) with d as in `gradients`, or a Batch, which holds all of it.

    Errors  RefoldError for a network that is no Recurrent, or of another shape than many-to-many and many-to-one;
    DataError for tensors that do not fit, or where nothing counts.

    Example
        >>> network = Network(Recurrent("elman", 1, 8), head=1)
        >>> x = torch.randn(20, 4, 1)
        >>> curve = lag_curve(network, x, x).curves[0]
        >>> curve.layer, curve.state, curve.median.shape, curve.growth < 0
        ('l0', 'h', torch.Size([20]), True)

    Source  Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural networks", section 2.
    """
    layer = _layer_of(network)
    batch = x if isinstance(x, Batch) else whole_batch(network, x, d, lengths, None, mask)  # type: ignore[arg-type]
    reduce = Reduce("sum", "sum", features)
    with torch.enable_grad(), layer.probe() as probes:
        errors = batch_error(network, batch, loss, reduce, teach=True, state=state)[1]
        last, weights = _last(errors.step, batch)
        asked = [probe for states in probes for probe in states.values()]
        deltas = iter(torch.autograd.grad(errors.step, asked, weights, materialize_grads=True))
    many_to_one = isinstance(network, Network) and network.shape == "many-to-one"
    curves = []
    for index, states in enumerate(probes):
        number, reverse = divmod(index, layer.directions)
        name = f"l{number}" + "_reverse" * reverse
        for state_name in states:
            norms = _by_lag(next(deltas), last, bool(reverse) and many_to_one)
            curves.append(_curve(name, state_name, norms))
    return LagCurve(torch.arange(len(batch.x)), tuple(curves))


def _last(step: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """For each row the step of its last error, -1 for none, and which of the errors that is."""
    counts = torch.ones_like(step, dtype=torch.bool)
    if batch.mask is not None:
        features = (
            batch.d is not None and batch.mask.ndim == batch.d.ndim and batch.d.is_floating_point()
        )
        counts = (batch.mask.any(-1) if features else batch.mask).reshape(step.shape)
    time = torch.arange(len(step), device=step.device).unsqueeze(1)
    if batch.d_lengths is None:  # one error for each row, after its last step
        last = torch.where(counts[0], batch.lengths.to(step.device) - 1, -1)
        chosen = counts
    else:
        counts = counts & (time < batch.d_lengths.to(step.device))
        last = torch.where(counts, time, -1).amax(0)
        chosen = time == last
    if not bool((last >= 0).any()):
        fact = "no error counts: every target is masked, or has no steps"
        raise DataError(fact, "let the mask be True somewhere", "lag_curve(...)")
    return last, chosen.to(step)


def _by_lag(delta: Tensor, last: Tensor, from_start: bool) -> Tensor:
    """The norms (T, B) of an adjoint by the lag, NaN where a row has no step so far back."""
    norms = delta.norm(dim=-1)
    lags = torch.arange(len(norms), device=norms.device).unsqueeze(1)
    at = lags.expand_as(norms) if from_start else (last - lags).clamp(min=0)
    return torch.where(lags <= last, norms.gather(0, at), torch.nan)


def _curve(layer: str, state: str, norms: Tensor) -> Curve:
    median, mean = norms.nanmedian(1).values, norms.nanmean(1)
    return Curve(layer, state, median, mean, _half_life(median), _slope(median))


def _half_life(median: Tensor) -> float:
    felt = (median > 0).nonzero()[:, 0]
    if not len(felt):
        return math.inf
    first = int(felt[0])
    below = (median[first:] < median[first] / 2).nonzero()
    return float(below[0]) if len(below) else math.inf


def _slope(median: Tensor) -> float:
    """Of the logarithm against the lag, by least squares."""
    lags = (median > 0).nonzero()[:, 0]
    if len(lags) < 2:
        return math.nan
    x, y = lags.double(), median[lags].double().log()
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())


def _layer_of(network: Any) -> Recurrent:
    wired = isinstance(network, Network) and network.shape in ("many-to-many", "many-to-one")
    layer = network.layer if wired else network
    if isinstance(layer, Recurrent):
        return layer
    told = network.shape if isinstance(network, Network) else type(network).__name__
    fact = f"the network is a {told}, whose errors have no lag to its states"
    remedy = "give an rf.Recurrent, or an rf.Network of many steps to many or to one"
    raise RefoldError(fact, remedy, "lag_curve(network)")
