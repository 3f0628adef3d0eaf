"""How a batch is walked through: where the optimiser steps, and how far back the gradient looks.

    Full             one step for the whole batch; the exact gradient of its error
    Truncated(k1,k2) a step after every k1 steps of time, for their errors, through the last k2
    RealTime(every)  the same for `every` steps, through the whole past, carried forward in time

Between parts the states of a network are carried on; a row starts anew where its sequence does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from refold.data.batch import Batch
from refold.errors import DataError, RefoldError
from refold.nn.layer import State

from .call import stretch
from .objective import Objective

Carried = dict[str, Tensor]
Count = Callable[[int, float], None]


class Walk(Protocol):
    """A batch under way, part by part. Each part leaves gradients of its error in .grad."""

    def backward(self, part: int, count: Count | None = None) -> Tensor:
        """Add the gradient of a part's error; the error. Parts come in order, none twice.

        count  to be told, where Omega is counted, what is run next: from which step, and which
               share of the steps that belong together
        """
        ...

    def carried(self) -> Carried:
        """What the next part needs of those before it."""
        ...

    def restore(self, carried: Carried) -> None: ...


class Gradient(Protocol):
    """A way to walk."""

    @property
    def span(self) -> int | None:
        """Steps of time in a part; None for all."""
        ...

    def walk(self, objective: Objective, batch: Batch, steps: int | None = None) -> Walk:
        """A walk through a batch; `steps` of the whole one, of which this is a process's part."""
        ...


@dataclass(frozen=True, slots=True)
class Full:
    """Backpropagation through all of time: one step of the optimiser for a batch.

    A sequence that does not fit into memory needs no shorter gradient, but less kept of it:
    rf.Recurrent(..., memory="small") keeps the states at about the square root of T steps.

    Source  Werbos 1990.
    """

    @property
    def span(self) -> None:
        return None

    def walk(self, objective: Objective, batch: Batch, steps: int | None = None) -> Walk:
        return _Whole(objective, batch)


@dataclass(frozen=True, slots=True)
class Truncated:
    """Truncated backpropagation through time: step every k1 steps, look back k2.

    The u-th step of the optimiser counts the errors of the steps (u-1) k1 + 1 to u k1, and runs
    the network from step u k1 - k2 on, with the weights of now, from the state that it had there
    in the step before; through these k2 steps the gradient is exact, and it ends there. Within a
    part the errors are reduced as those of a batch of so many steps. k2 = None is k1.

    Units  steps of time. With k1 = k2 of at least the longest sequence it is Full.

    Errors  RefoldError for numbers that are no whole ones above 0, or k2 below k1: errors of steps
    that nothing runs through.

    Source  Williams & Peng 1990, BPTT(h; h') with h = k2, h' = k1.
    """

    k1: int
    k2: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("k1", self.k1), ("k2", self.look_back)):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or value < 1:
                remedy = "give a whole number of steps, at least 1"
                raise RefoldError(f"{name} is {value!r}", remedy, f"Truncated({name}=...)")
        if self.look_back < self.k1:
            fact = f"k2 is {self.k2} and k1 is {self.k1}: some errors would reach no step"
            raise RefoldError(fact, f"give k2 of at least {self.k1}", "Truncated(k1, k2)")

    @property
    def span(self) -> int:
        return self.k1

    @property
    def look_back(self) -> int:
        """k2, which is k1 unless it is given."""
        return self.k1 if self.k2 is None else self.k2

    def walk(self, objective: Objective, batch: Batch, steps: int | None = None) -> Walk:
        refuse_without_steps(objective, batch, "Truncated")
        return _Windows(objective, batch, self.k1, self.look_back, steps or len(batch.x))


class _Whole:
    def __init__(self, objective: Objective, batch: Batch) -> None:
        self._objective, self._batch = objective, batch

    def backward(self, part: int, count: Count | None = None) -> Tensor:
        if count is not None:
            count(0, 1.0)
        error = self._objective.error(self._batch, teach=True)
        error.backward()
        return error.detach()

    def carried(self) -> Carried:
        return {}

    def restore(self, carried: Carried) -> None:
        pass


class _Windows:
    """`state`: the one from which the next window starts; None at the start of the sequences."""

    def __init__(self, objective: Objective, batch: Batch, k1: int, k2: int, steps: int) -> None:
        self._objective, self._batch, self._k1, self._k2 = objective, batch, k1, k2
        self._steps = steps
        self._state: State | None = None

    def backward(self, part: int, count: Count | None = None) -> Tensor:
        counted, end = part * self._k1, min((part + 1) * self._k1, self._steps)
        start, after = max(0, counted + self._k1 - self._k2), max(0, end + self._k1 - self._k2)
        state, outputs = self._state, []
        for begin, stop in pairwise(sorted({start, counted, min(after, end), end})):
            if count is not None:
                count(begin, (stop - begin) / (end - start))
            if begin < len(self._batch.x):  # else all rows have ended, and keep their states
                y, state = stretch(self._objective.network, self._batch.steps(begin, stop), state)
                if begin >= counted:
                    outputs.append(y)
            if stop == after and state is not None:
                self._state = _detached(state)
        y = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        error = self._objective.errors_of(y, self._batch.steps(counted, end)).total
        error.backward()
        return error.detach()

    def carried(self) -> Carried:
        if self._state is None:
            return {}
        parts = self._state if isinstance(self._state, tuple) else (self._state,)
        return {str(i): part for i, part in enumerate(parts)}

    def restore(self, carried: Carried) -> None:
        if carried:
            parts = tuple(carried[str(i)] for i in range(len(carried)))
            self._state = parts[0] if len(parts) == 1 else parts


def _detached(state: State) -> State:
    if isinstance(state, tuple):
        return tuple(part.detach() for part in state)
    return state.detach()


def refuse_without_steps(objective: Objective, batch: Batch, name: str) -> None:
    """Parts of a sequence need a target at every step, and an error made of steps."""
    where = f"Fit(gradient={name}(...))"
    if objective.own:
        fact = f"{type(objective.network).__name__} has an error of its own, of whole sequences"
        raise DataError(fact, "leave gradient at rf.Full()", where)
    if batch.d is None or batch.d_lengths is None or len(batch.d) != len(batch.x):
        fact = "a part of a sequence has no error: its targets are not one for each step of x"
        raise DataError(fact, "give d (T, k) for each x (T, m), or gradient=rf.Full()", where)
