"""The network unfolded over the last steps of a run: what a change at one step is felt as at another.

P(t, k) = dh(t) / dh(k) is the product of the Jacobians between them. Its column u is what a change of unit u at step k
does to the state at step t; read backwards, it is the weight with which a gradient at step t comes to that unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from refold.errors import DataError

from .memory import labels
from .system import System, jacobians

UNFOLDED = 40  # steps, where none are given: as many as can be told apart across a page


@dataclass(frozen=True, slots=True, eq=False)
class Unfolded:
    """Of one row of the data, the state before step `first` counted as place 0.

    first   the step of the data behind place 0; place k is the state after k of the steps shown
    labels  the name of each unit

    Shapes  felt (L + 1, L + 1, N): [t, k, u] the 2-norm of column u of P(t, k), 1 for k = t, NaN for k > t
    """

    first: int
    labels: tuple[str, ...]
    felt: Tensor

    @property
    def steps(self) -> int:
        return len(self.felt) - 1

    @property
    def total(self) -> Tensor:
        """(L + 1, L + 1): the root mean square over the units, what a random gradient is multiplied with."""
        return self.felt.square().mean(-1).sqrt()

    def foremost(self, number: int) -> list[int]:
        """The units through which most is felt at the last step, in the order of the state."""
        earlier = self.felt[-1, :-1].clamp(min=1e-300).log().mean(0)
        return sorted(earlier.argsort(descending=True)[:number].tolist())


def unfolded(system: System, states: Tensor, x: Tensor, steps: int) -> Unfolded:
    """The last steps of the first row: states (T, R, N) before each step, inputs (T, R, m).

    Errors  DataError for more steps than the run has
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= len(states):
        fact = f"steps is {steps!r}, and the run has {len(states)} step(s)"
        raise DataError(fact, f"give a whole number from 1 to {len(states)}", "unfolded(steps)")
    along = jacobians(system, states[-steps:, 0], x[-steps:, 0])
    size = along.shape[-1]
    felt = torch.full((steps + 1, steps + 1, size), math.nan, dtype=along.dtype)
    product = along.new_empty(0, size, size)  # P(t, k) for every k up to t
    eye = torch.eye(size, dtype=along.dtype).unsqueeze(0)
    for t in range(steps + 1):
        if t:
            product = along[t - 1] @ product
        product = torch.cat([product, eye])
        felt[t, : t + 1] = product.norm(dim=1)
    return Unfolded(len(states) - steps, labels(system), felt)
