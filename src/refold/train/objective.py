"""What a network is trained for: the error of a batch, and how the errors of batches add up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from refold.data.batch import Batch

from .call import batch_error, unless_full
from .errors import Errors, Loss, Reduce, Reduction, reduced_errors


@dataclass(frozen=True, slots=True, eq=False)
class Objective:
    """A network with a loss and reductions, or with a method error(batch) in their place."""

    network: nn.Module
    loss: Loss
    reduce: Reduce

    @property
    def own(self) -> Callable[[Batch], Tensor] | None:
        """The network's own error."""
        found: Any = getattr(self.network, "error", None)
        return found

    @property
    def over(self) -> Reduction:
        """How the errors of batches make up that of the whole."""
        return "mean" if self.own else self.reduce.sequences

    def error(self, batch: Batch, *, teach: bool) -> Tensor:
        """E_total of a batch. Where outputs are fed back, `teach` feeds the targets."""
        if self.own:
            return self.own(batch)
        return batch_error(self.network, batch, self.loss, self.reduce, teach=teach)[1].total

    def errors_of(self, y: Tensor, batch: Batch) -> Errors:
        """The errors of outputs that are there already."""
        assert batch.d is not None
        rows = None if batch.d_lengths is None else unless_full(batch.d_lengths, batch.d)
        return reduced_errors(y, batch.d, self.loss, self.reduce, rows, batch.mask)
