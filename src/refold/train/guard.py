"""What stops a run: a number that is not finite, with its place.

Everything is decided before the optimiser's step, so that the weights a run stops with are finite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from refold.data.batch import Batch
from refold.errors import RefoldError

from .call import outputs
from .objective import Objective

REMEDY = "lower rate or clip, or look for extreme numbers in the data; the best weights are kept"


def gradient_norm(parameters: Mapping[str, nn.Parameter]) -> Tensor:
    """The 2-norm of all gradients taken as one vector, as a tensor: nothing waits for it yet.

    They are laid side by side for it: torch's get_total_norm takes three times as long over the
    dozen small gradients of a gated cell.
    """
    found = [p.grad for p in parameters.values() if p.grad is not None]
    if not found:
        return torch.zeros(())
    device = found[0].device
    return torch.linalg.vector_norm(torch.cat([grad.flatten().to(device) for grad in found]))


def nonfinite_step(
    loss: float, norm: float, parameters: Mapping[str, nn.Parameter], epoch: int, step: int
) -> RefoldError | None:
    """The error with which a run stops before a step that would write NaN into the weights.

    It names the step, and the first parameter whose gradient is not finite.
    """
    if math.isfinite(loss) and math.isfinite(norm):
        return None
    fact = f"the loss is {loss:g}, the gradient norm {norm:g}; {_first(parameters)}"
    return RefoldError(fact, REMEDY, _where(epoch, step))


@torch.no_grad()
def naming_row(
    stop: RefoldError, objective: Objective, batch: Batch, rows: Sequence[int]
) -> RefoldError:
    """The same error, with the sequence and the step whose error is not finite, where one is.

    rows  which sequences of the data these are
    """
    if objective.own or batch.d is None:
        return stop
    y = outputs(objective.network, batch, teach=True)
    wrong = (~objective.errors_of(y, batch).step.isfinite()).nonzero()
    if not len(wrong):
        return stop
    step, row = wrong[0].tolist()
    fact = f"the error of sequence {rows[row]} is not finite from its step {step} on; {stop.fact}"
    return RefoldError(fact, stop.remedy, stop.where)


def refuse_weights(parameters: Mapping[str, nn.Parameter], epoch: int, step: int) -> None:
    """Stop when a step itself, by too large a rate, wrote NaN or infinity into a weight."""
    together = torch.nn.utils.get_total_norm([p.detach() for p in parameters.values()])
    if math.isfinite(together):  # one number for all: this is asked after every epoch
        return
    for name, parameter in parameters.items():
        if not bool(parameter.isfinite().all()):
            raise RefoldError(
                f"{name} is no longer finite after the last step", REMEDY, _where(epoch, step)
            )


def refuse_validation(error: float, epoch: int, step: int) -> None:
    """Stop when the validation error is not finite though every weight is."""
    if not math.isfinite(error):
        fact = f"the validation error is {error:g}, all weights are finite"
        raise RefoldError(fact, REMEDY, _where(epoch, step))


def _where(epoch: int, step: int) -> str:
    return f"fit: epoch {epoch}, step {step}"


def _first(parameters: Mapping[str, nn.Parameter]) -> str:
    found = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    for name, grad in found.items():
        wrong = ~grad.isfinite()
        if bool(wrong.any()):
            number = int(wrong.sum())
            return f"the first non-finite gradient is that of {name} ({number} of {grad.numel()})"
    if not found:
        return "no parameter has a gradient"
    # Every entry can be finite and their squares overflow.
    largest = max(found, key=lambda name: float(found[name].abs().max()))
    return f"no gradient is non-finite; the largest is that of {largest}"
