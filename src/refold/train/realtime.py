"""Real-time recurrent learning: exact gradients carried forward in time, with no past stored.

With s all states of all layers and p their parameters, one step s(t) = f(s(t-1), x(t), p) gives

    M(t)      = J(t) M(t-1) + immediate ds(t)/dp        M = ds/dp, the influence; J(t) = ds(t)/ds(t-1)
    dE(t)/dp  = (dE(t)/ds(t-1)) M(t-1) + immediate dE(t)/dp

so that the gradient of the present error, through all of the past, is there at the present step. The price is M: N
states times P parameters for every row of the batch, and N^2 P multiplications a step, where backpropagation through
time pays about P. 32 units of an LSTM over one input have N = 64, P = 4,352: 278,528 numbers for a row, 1.1 MB in
float32, and 17.8 million multiplications a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from refold.data.batch import Batch
from refold.errors import DataError, RefoldError
from refold.nn.layer import State

from .errors import Loss, Reduce, Reduction, reduced_errors
from .guard import gradient_norm
from .influence import Carried, carrying_layer
from .objective import Objective
from .walk import Count, Walk, refuse_without_steps


@dataclass(frozen=True, slots=True)
class RealTime:
    """Gradients carried forward in time, for `Fit(gradient=...)`: exact at each step, for small networks.

    every  the optimiser steps after so many steps of time, on the errors of these steps, and after the last. The
           influence is then of weights that have moved a little since: the smaller the rate, the less it matters

    Errors  RefoldError for a number that is no whole one above 0.

    Source  Williams & Zipser 1989, "A learning algorithm for continually running fully recurrent neural networks".
    """

    # The algorithm as published learns at every step of time.
    every: int = 1

    def __post_init__(self) -> None:
        whole = isinstance(self.every, int) and not isinstance(self.every, bool)
        if not whole or self.every < 1:
            remedy = "give a whole number of steps, at least 1"
            raise RefoldError(f"every is {self.every!r}", remedy, "RealTime(every=...)")

    @property
    def span(self) -> int:
        return self.every

    def walk(self, objective: Objective, batch: Batch, steps: int | None = None) -> Walk:
        """A batch under way; within a part the errors are reduced as those of so many steps."""
        refuse_without_steps(objective, batch, "RealTime")
        return _Parts(objective, batch, self.every)


def realtime_gradients(
    network: nn.Module,
    batch: Batch,
    loss: Loss,
    reduce: Reduce,
    *,
    state: State | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Walk over the steps of a batch: at each, add the gradient of its error to the parameters' .grad.

    Gives (t, error): the share of step t in E_total, so that the errors of all steps sum to E_total, and where no
    weight moves in between, the gradients to those of backpropagation through time. Whoever iterates clears .grad and
    steps the optimiser whenever he likes; the next step reads the weights as they then are.

    Shapes  as a Batch has them, with a target at every step; state as the layer takes it.

    Errors  RefoldError for a network whose states cannot be carried (see `Online`), or that is too large; DataError
    for targets without steps.

    Example
        >>> network = Network(Recurrent("elman", 1, 4), head=1)
        >>> x = torch.randn(5, 2, 1)
        >>> batch = Batch(x, torch.tensor([5, 5]), x, torch.tensor([5, 5]))
        >>> reduce = Reduce("mean", "mean", "sum")
        >>> [t for t, error in realtime_gradients(network, batch, "squared", reduce)]
        [0, 1, 2, 3, 4]
    """
    if batch.d is None or batch.d_lengths is None or len(batch.d) != len(batch.x):
        fact = (
            "real-time learning has an error at every step, and d has no target for each step of x"
        )
        raise DataError(fact, "give d (T, B, k), or classes (T, B)", "realtime_gradients(batch)")
    carried = Carried(network, batch.x.shape[1], state)
    shares = _shares(batch, reduce)
    for t in range(len(batch.x)):
        step, running = _step_of(batch, t)
        errors = carried.learn(step, loss, Reduce("sum", "sum", reduce.features), shares[t])
        if t + 1 < len(batch.x):
            carried.advance(step.x, running)
        yield t, errors


class _Parts:
    """A batch whose gradients are carried forward, `every` steps of time at a time."""

    def __init__(self, objective: Objective, batch: Batch, every: int):
        self._objective, self._batch, self._every = objective, batch, every
        self._carried = Carried(objective.network, batch.x.shape[1])

    def backward(self, part: int, count: Count | None = None) -> Tensor:
        batch, reduce = self._batch, self._objective.reduce
        begin, end = part * self._every, min((part + 1) * self._every, len(batch.x))
        shares = _shares(batch.steps(begin, end), reduce)
        single, errors = Reduce("sum", "sum", reduce.features), []
        for t in range(begin, end):
            step, running = _step_of(batch, t)
            share = shares[t - begin]
            errors.append(self._carried.learn(step, self._objective.loss, single, share))
            if t + 1 < len(batch.x):
                self._carried.advance(step.x, running)
        return torch.stack(errors).sum()

    def carried(self) -> dict[str, Tensor]:
        return {"states": self._carried.states, "influence": self._carried.influence}

    def restore(self, carried: dict[str, Tensor]) -> None:
        self._carried.states, self._carried.influence = carried["states"], carried["influence"]


class Online:
    """A network that learns from a stream while it runs: at each step the exact gradient through all of its past.

    Each call of `step` predicts, learns from the error, and moves on. States and their influence are carried, the past
    is not: memory does not grow. What the network gave at the last step is in `y`.

    Arguments
        network    an rf.Network, many-to-many, or an rf.Recurrent: one direction, without dropout
        optimiser  a torch optimiser over the network's parameters, or the rate of plain gradient descent
        loss       as in `network_errors`; the errors of rows become one by `sequences`, of features by `features`

    Errors  RefoldError for a network whose states cannot be carried forward, or whose influence needs more numbers over
    all rows (N x P for each) than influence.LIMIT; for a gradient that is not finite, before it reaches the weights.

    Example
        >>> learner = Online(Network(Recurrent("elman", 1, 4), head=1), 0.1)
        >>> error = learner.step(torch.zeros(1, 1), torch.ones(1, 1))
        >>> learner.y.shape
        torch.Size([1, 1])

    Source  Williams & Zipser 1989, "A learning algorithm for continually running fully recurrent neural networks".
    """

    def __init__(
        self,
        network: nn.Module,
        optimiser: torch.optim.Optimizer | float,
        loss: Loss = "squared",
        *,
        sequences: Reduction = "mean",
        features: Reduction = "sum",
    ):
        carrying_layer(network)
        self.network, self.loss = network, loss
        self.reduce = Reduce("sum", sequences, features)
        self.optimiser = _optimiser(network, optimiser)
        self.steps = 0
        self.y = torch.empty(0)
        self._carried: Carried | None = None

    def step(self, x: Tensor, d: Tensor, mask: Tensor | None = None) -> float:
        """Learn from one step of every row; the error before the weights moved.

        Shapes  x (B, m); d (B, k), or classes (B,); mask as d with or without features, True counts.
        """
        if not isinstance(x, Tensor) or x.ndim != 2:
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            fact, remedy = (
                f"x is {shape}, not one step of every row",
                "give (B, m); one row is (1, m)",
            )
            raise DataError(fact, remedy, "Online.step(x, d)")
        carrying_layer(self.network)  # it may have been set to training since
        if self._carried is None:
            self._carried = Carried(self.network, len(x))
        carried, ones = self._carried, torch.ones(len(x), dtype=torch.long)
        _refuse_rows(len(x), len(carried.states))
        step = Batch(x[None], ones, d[None], ones, None if mask is None else mask[None])
        self.optimiser.zero_grad()
        error = float(carried.learn(step, self.loss, self.reduce, _shares(step, self.reduce)[0]))
        self.y = carried.y[0].detach()
        carried.advance(step.x)
        self._refuse_nonfinite(error)
        self.optimiser.step()
        self.steps += 1
        return error

    def reset(self, rows: Any = None) -> None:
        """Start rows anew, all of them or those of an index, where another sequence begins."""
        if rows is None:
            self._carried = None
        elif self._carried is not None:
            self._carried.reset(rows)

    def _refuse_nonfinite(self, error: float) -> None:
        norm = float(gradient_norm(dict(self.network.named_parameters())))
        if not math.isfinite(error) or not math.isfinite(norm):
            fact = f"the error is {error:g}, the gradient norm {norm:g}"
            remedy = "lower the rate, or look for extreme numbers in x and d; the weights are kept"
            raise RefoldError(fact, remedy, f"Online.step, step {self.steps + 1}")


# Steps of a batch -----------------------------------------------------------------------------------------------------


def _step_of(batch: Batch, t: int) -> tuple[Batch, Tensor | None]:
    """Step t as a batch of its own, and the rows that run in it; None for all."""
    step = batch.steps(t, t + 1)
    running = step.lengths.bool()
    return step, None if bool(running.all()) else running.to(batch.x.device)


def _shares(batch: Batch, reduce: Reduce) -> Tensor:
    """What E(t) of each row counts in E_total, (T, B): how it is reduced is said in one place, and linear."""
    d = batch.d
    assert d is not None
    zeros = batch.x.new_zeros(d.shape if d.is_floating_point() else (*d.shape, 1))
    y = zeros.clone().requires_grad_()
    with torch.enable_grad():
        errors = reduced_errors(y, zeros, "squared", reduce, batch.d_lengths, batch.mask)
    return torch.autograd.grad(errors.total, errors.step)[0]


# What is refused ------------------------------------------------------------------------------------------------------


def _refuse_rows(now: int, before: int) -> None:
    if now != before:
        fact = f"x has {now} row(s), and {before} are carried"
        raise DataError(fact, "call reset() before other rows begin", "Online.step(x, d)")


def _optimiser(network: nn.Module, given: Any) -> torch.optim.Optimizer:
    if isinstance(given, torch.optim.Optimizer):
        return given
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not number or not 0 < given < math.inf:
        remedy = "give a torch optimiser, or a positive rate"
        raise RefoldError(f"optimiser is {given!r}", remedy, "Online(optimiser=...)")
    return torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=given)
