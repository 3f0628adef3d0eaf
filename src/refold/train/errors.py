"""Errors of a network on three levels: of a step, of a sequence, of the data.

    E(t)    = sum over features of loss(y(t), d(t))
    E_s     = sum, or mean, over the counted steps t of sequence s
    E_total = sum, or mean, over the sequences that have a counted step

Sum and mean give other gradients, so nothing chooses between them but the caller.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refold.errors import DataError
from refold.nn.doors import Lengths, whole_lengths

Reduction = Literal["sum", "mean"]
Loss = str | Callable[..., Tensor]

LOSSES: dict[str, Callable[..., Tensor]] = {
    "squared": F.mse_loss,
    "absolute": F.l1_loss,
    "huber": F.huber_loss,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
    "cross_entropy": F.cross_entropy,
}


@dataclass(frozen=True, slots=True)
class Reduce:
    """How many errors become one, on each level: "sum" or "mean".

    Errors  DataError for another word.
    """

    steps: Reduction
    sequences: Reduction
    features: Reduction

    def __post_init__(self) -> None:
        for level in fields(self):
            name, value = level.name, getattr(self, level.name)
            if value not in get_args(Reduction):
                raise DataError(f"{name} is {value!r}", f"say {name}='sum' or {name}='mean'")


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """Shapes  step (T, B), 0 where nothing is counted; sequence (B,); total ()."""

    step: Tensor
    sequence: Tensor
    total: Tensor


def network_errors(
    y: Tensor,
    d: Tensor,
    loss: Loss = "squared",
    *,
    steps: Reduction,
    sequences: Reduction,
    features: Reduction = "sum",
    lengths: Lengths = None,
    mask: Tensor | None = None,
) -> Errors:
    """The errors of outputs y against targets d.

    Shapes  y and d (T, B, k), or (B, k) for one output per sequence, which is taken as one step.
    Targets that are classes (integers) have no feature axis: d (T, B) or (B,), y the scores.
    lengths (B,); mask (T, B), (T, B, k), (B,) or (B, k), bool, True counts. What is not counted
    gives exactly 0, in value and gradient, even where y or d hold NaN.

    `loss` is one of LOSSES or any pointwise torch loss: a function with `reduction="none"`, a
    module built with it, or a function of (y, d) that reduces nothing. The two cross entropies
    take logits.

    Errors  DataError when shapes differ (nothing is broadcast), when the loss reduces, or for a
    class that no score stands for; KernelError for lengths that are not those of d's rows.

    Example
        >>> y, d = torch.zeros(2, 1, 1), torch.tensor([[[1.0]], [[3.0]]])
        >>> network_errors(y, d, steps="mean", sequences="sum").total
        tensor(5.)
    """
    return reduced_errors(y, d, loss, Reduce(steps, sequences, features), lengths, mask)


def reduced_errors(
    y: Tensor, d: Tensor, loss: Loss, reduce: Reduce, lengths: Lengths, mask: Tensor | None
) -> Errors:
    """`network_errors`, with the three reductions in one record."""
    _check_tensors(y=y, d=d, mask=d if mask is None else mask)
    classes = not d.is_floating_point()
    if d.ndim == 2 - classes:  # one output per sequence is one step
        d = d.unsqueeze(0)
        mask = None if mask is None else mask.unsqueeze(0)
    y = y.unsqueeze(0) if y.ndim == 2 else y
    _check_shapes(y, d, classes, loss)
    counted = _counted(d, lengths, mask)
    point = _pointwise(loss, y, d, counted)
    return _reduced(point, counted, reduce)


def _pointwise(loss: Loss, y: Tensor, d: Tensor, counted: Tensor | None) -> Tensor:
    """The loss of each feature of each step; of each step for classes."""
    if counted is None:
        return _applied(loss, y, d)
    # Twice: before the loss, or its slope at NaN would reach y as 0 * NaN; after it, because the
    # loss at (0, 0) need not be 0.
    over_y = counted if counted.ndim == y.ndim else counted.unsqueeze(-1)
    over_d = counted if counted.ndim == d.ndim else counted.unsqueeze(-1)
    point = _applied(loss, torch.where(over_y, y, 0), torch.where(over_d, d, 0))
    return torch.where(over_d, point, 0)


def _reduced(point: Tensor, counted: Tensor | None, reduce: Reduce) -> Errors:
    step = point
    if point.ndim == 3:
        step = point.sum(-1)
        if reduce.features == "mean":
            if counted is not None and counted.ndim == 3:
                step = step / counted.sum(-1).clamp(min=1)
            else:
                step = step / max(1, point.shape[-1])
    if counted is None:
        sequence = step.mean(0) if reduce.steps == "mean" and len(step) else step.sum(0)
        mean = reduce.sequences == "mean" and len(sequence)
        return Errors(step, sequence, sequence.mean() if mean else sequence.sum())
    number = (counted.any(-1) if counted.ndim == 3 else counted).sum(0)
    sequence = step.sum(0)
    if reduce.steps == "mean":
        sequence = sequence / number.clamp(min=1)
    total = sequence.sum()
    if reduce.sequences == "mean":
        total = total / (number > 0).sum().clamp(min=1)
    return Errors(step, sequence, total)


def _counted(d: Tensor, lengths: Lengths, mask: Tensor | None) -> Tensor | None:
    """What counts: bool (T, B), or (T, B, k) for a mask over features; None when all does."""
    time, batch = d.shape[:2]
    if mask is not None:
        shapes = {tuple(d.shape), (time, batch)}
        if mask.dtype != torch.bool or tuple(mask.shape) not in shapes:
            fact = f"mask is {mask.dtype} of shape {tuple(mask.shape)}, d has {tuple(d.shape)}"
            raise DataError(
                fact, "give bool, shaped like d or its steps", "network_errors(mask=...)"
            )
    rows = whole_lengths(lengths, time, batch)
    if rows is None or bool((rows == time).all()):
        return mask
    inside = torch.arange(time, device=d.device).unsqueeze(1) < rows.to(d.device)
    if mask is None:
        return inside
    return mask & (inside.unsqueeze(-1) if mask.ndim == 3 else inside)


def _applied(loss: Loss, y: Tensor, d: Tensor) -> Tensor:
    if d.is_floating_point():
        point, expected = unreduced(loss)(y, d), y.shape
    else:  # torch's losses over classes read the scores on axis 1
        if loss == "cross_entropy":
            _check_classes(d, y.shape[-1])
        point, expected = unreduced(loss)(y.movedim(-1, 1), d), d.shape
    if point.shape != expected:
        fact = f"the loss gives shape {tuple(point.shape)} for y of shape {tuple(y.shape)}"
        remedy = f"give a loss that reduces nothing: one number for each of {tuple(expected)}"
        raise DataError(fact, remedy, f"network_errors(loss={_name(loss)})")
    return point


def unreduced(loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss as a function of (y, d) that reduces nothing.

    Errors  DataError for an unknown name, or a module built with another reduction.
    """
    where = f"network_errors(loss={_name(loss)})"
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise DataError(f"no loss {loss!r}", "one of: " + ", ".join(LOSSES), where)
        return partial(LOSSES[loss], reduction="none")
    if isinstance(loss, nn.Module):
        if getattr(loss, "reduction", "none") != "none":
            fact = f"the loss reduces by {loss.reduction!r}"
            raise DataError(fact, f"build it with {_name(loss)}(reduction='none')", where)
        return loss
    if not callable(loss):
        raise DataError(f"loss is {loss!r}", "a function, or one of: " + ", ".join(LOSSES), where)
    return partial(loss, reduction="none") if _can_reduce(loss) else loss


@lru_cache
def _can_reduce(loss: Callable[..., Tensor]) -> bool:
    return "reduction" in inspect.signature(loss).parameters


def _name(loss: Loss) -> str:
    if isinstance(loss, str):
        return repr(loss)
    return type(loss).__name__ if isinstance(loss, nn.Module) else getattr(loss, "__name__", "...")


def _check_tensors(**given: Any) -> None:
    for name, value in given.items():
        if not isinstance(value, Tensor):
            fact = f"{name} is a {type(value).__name__}, not a tensor"
            remedy = "a packed sequence is opened by torch.nn.utils.rnn.pad_packed_sequence"
            raise DataError(fact, remedy, f"network_errors({name}=...)")


def _check_classes(d: Tensor, scores: int) -> None:
    strange = (d < 0) | (d >= scores)
    if strange.any():
        fact = f"d holds class {int(d[strange][0])}, and y has {scores} scores"
        remedy = f"give classes from 0 to {scores - 1}; what does not count is for the mask"
        raise DataError(fact, remedy, "network_errors(loss='cross_entropy')")


def _check_shapes(y: Tensor, d: Tensor, classes: bool, loss: Loss) -> None:
    ours, theirs = tuple(y.shape), tuple(d.shape)
    if y.ndim != 3 or ours[: 2 if classes else 3] != theirs:
        fact = f"y has shape {ours} and d has shape {theirs}" + ", of classes" * classes
        remedy = "give both (T, B, k) or (B, k); d of classes (T, B) or (B,)"
        raise DataError(fact, f"{remedy}; nothing is broadcast", "network_errors(y, d)")
    over_classes = loss == "cross_entropy"
    if isinstance(loss, str) and loss in LOSSES and over_classes != classes:
        fact = f"loss {loss!r} reads {'classes' if over_classes else 'numbers'}, d is {d.dtype}"
        remedy = "give d.long() without a feature axis" if over_classes else "give d.float()"
        raise DataError(fact, remedy, f"network_errors(loss={loss!r})")
