"""Sequences of unequal length, and the padded batches a network is given.

A network computes on tensors (T, B, feature); data are lists of sequences, each with its own
number of steps. This file is the door between the two, and it cuts a validation part off by time.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal, SupportsIndex, get_args

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from refold.errors import DataError

Targets = Literal["none", "steps", "sequence", "other"]
By = Literal["time", "sequence"]
Tensors = list[Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some sequences side by side, padded with zeros at the end.

    Shapes  x (T, B, m) with lengths (B,). d (T, B, k) for a target at every step, (U, B, k) with
    d_lengths (B,) for targets of other lengths, (B, k) for one target per sequence; classes
    (integers) have no feature axis. mask like d with or without its feature axis, or (T, B)
    when there are no targets; True counts.
    """

    x: Tensor
    lengths: Tensor
    d: Tensor | None = None
    d_lengths: Tensor | None = None
    mask: Tensor | None = None

    def steps(self, start: int, stop: int) -> Batch:
        """The steps from `start` to before `stop` of every row; a row may have none left.

        Only where every step of x has its target, or there are none.
        """
        here, most = slice(start, stop), min(stop, len(self.x)) - start
        lengths = (self.lengths - start).clamp(0, most)
        d = None if self.d is None else self.d[here]
        mask = None if self.mask is None else self.mask[here]
        return Batch(self.x[here], lengths, d, None if d is None else lengths, mask)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device; the lengths stay on the CPU, where loops read them."""
        d = None if self.d is None else self.d.to(device, non_blocking=True)
        mask = None if self.mask is None else self.mask.to(device, non_blocking=True)
        return Batch(self.x.to(device, non_blocking=True), self.lengths, d, self.d_lengths, mask)


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """A set of sequences, in order of time where their order matters.

    Shapes  x is a list of float tensors (T_s, m). d is a list as long as x: (T_s, k) for a target
    at every step, (k,) for one target per sequence, (U_s, k) with other lengths for an
    encoder-decoder. Integer targets are classes and have no feature axis: (T_s,), () or (U_s,).
    mask is a list of bool tensors shaped like the targets with or without their feature axis
    (like the steps of x when there are no targets). False is not counted; d may be NaN there.

    Errors  DataError when lists or shapes do not fit, or when a counted number is not finite.

    Example
        >>> data = Sequences([torch.zeros(5, 2), torch.ones(3, 2)], d=[torch.zeros(1)] * 2)
        >>> len(data), data.lengths, data.targets, data.batch([1, 0]).x.shape
        (2, [5, 3], 'sequence', torch.Size([5, 2, 2]))
    """

    x: Sequence[Tensor]
    d: Sequence[Tensor] | None = None
    mask: Sequence[Tensor] | None = None
    # Asked for at every step of training, and slow to ask of a tensor.
    _steps: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("x", "d", "mask"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _listed(name, value))
        _check_inputs(self.x)
        if self.d is not None:
            _check_targets(self.x, self.d)
        if self.mask is not None:
            _check_masks(self.x if self.d is None else self.d, self.mask)
        _check_finite(self)
        object.__setattr__(self, "_steps", tuple([part.shape[0] for part in self.x]))

    def __len__(self) -> int:
        return len(self.x)

    def __iter__(self) -> Iterator[Sequences]:
        return (self[s] for s in range(len(self)))

    def __getitem__(self, index: SupportsIndex | slice | Iterable[SupportsIndex]) -> Sequences:
        """Some of the sequences, as Sequences again; `data.x[3]` is the tensor itself.

        Errors  DataError for an index that no sequence has.
        """
        if isinstance(index, slice):
            return Sequences(*self._chosen(range(len(self))[index]))
        single = not isinstance(index, Iterable) or (isinstance(index, Tensor) and index.ndim == 0)
        return Sequences(*self._chosen(_rows([index] if single else index, len(self))))

    @property
    def lengths(self) -> list[int]:
        """The number of steps of each x."""
        return list(self._steps)

    @property
    def targets(self) -> Targets:
        """What the targets are: one per step of x, one per sequence, of other lengths, or none."""
        if self.d is None:
            return "none"
        if not _has_steps(self.d[0]):
            return "sequence"
        return "steps" if self.lengths == [len(d) for d in self.d] else "other"

    def counted(self) -> list[bool]:
        """For each sequence: does any target (any step of x, without targets) count?"""
        if self.mask is not None:
            return [bool(mask.any()) for mask in self.mask]
        if self.targets == "sequence":
            return [True] * len(self)
        return [len(part) > 0 for part in (self.x if self.d is None else self.d)]

    def counted_within(self, indices: Iterable[SupportsIndex], start: int, stop: int) -> int:
        """How many of these sequences have a step from `start` to before `stop` that counts."""
        x, d, mask = self._chosen(_rows(indices, len(self)))
        if mask is None:
            return sum(len(part) > start for part in (x if d is None else d))
        return sum(bool(part[start:stop].any()) for part in mask)

    def to(self, device: torch.device | str) -> Sequences:
        """The same sequences on a device: saves a transfer per batch when all of them fit."""
        x, d, mask = self._chosen(range(len(self)))
        moved = (part and [t.to(device) for t in part] for part in (d, mask))
        return Sequences([t.to(device) for t in x], *moved)

    def batch(self, indices: Iterable[SupportsIndex]) -> Batch:
        """The sequences with these indices side by side, padded with zeros at the end.

        Shapes  x (T, B, m) with T the longest of them; Batch names the rest.

        Errors  DataError for no index at all, or one that no sequence has.
        """
        rows = _rows(indices, len(self))
        if not rows:
            raise DataError("a batch of no sequences", "give at least one index", "Sequences.batch")
        x, d, mask = self._chosen(rows)
        steps = [self._steps[row] for row in rows]
        lengths = torch.tensor(steps)
        if d is None or not _has_steps(d[0]):
            found = d if d is None else torch.stack(d)
            masks = mask if mask is None else _side_by_side(mask, steps if d is None else None)
            return Batch(_side_by_side(x, steps), lengths, found, None, masks)
        own = [part.shape[0] for part in d]
        d_lengths = lengths if own == steps else torch.tensor(own)
        masks = None if mask is None else _side_by_side(mask, own)
        return Batch(_side_by_side(x, steps), lengths, _side_by_side(d, own), d_lengths, masks)

    def split(
        self, fraction: float, *, by: By | None = None, gap: int = 0
    ) -> tuple[Sequences, Sequences]:
        """Cut the last `fraction` off for validation: (train, validation).

        by="time" cuts every sequence: train is its first part; validation is the whole sequence
        with a mask that counts the last part only, so that the state arrives there as it will in
        use and no target of the last part is trained on. by="sequence" validates on the last
        sequences. None takes "time" when every step has a target, or when there are no targets,
        and "sequence" otherwise. `gap` steps before the cut are left out of train: a target that
        looks H steps ahead needs gap = H - 1.

        Errors  DataError when a part would be empty, when targets have no steps to be cut, or for
        a setting that cannot be.
        """
        where = f"Sequences.split({fraction})"
        _check_split(fraction, by, gap, where)
        stepwise = self.targets in ("steps", "none")
        if by == "time" and not stepwise:
            fact = f"by='time', but targets are of kind {self.targets!r}: they have no steps of x"
            raise DataError(fact, "use by='sequence'", where)
        if (by or ("time" if stepwise else "sequence")) == "time":
            return _split_time(self, fraction, gap, where)
        return _split_sequences(self, fraction, where)

    def _chosen(self, rows: Sequence[int]) -> tuple[Tensors, Tensors | None, Tensors | None]:
        x = [self.x[s] for s in rows]
        d = None if self.d is None else [self.d[s] for s in rows]
        return x, d, None if self.mask is None else [self.mask[s] for s in rows]


def _split_time(
    data: Sequences, fraction: float, gap: int, where: str
) -> tuple[Sequences, Sequences]:
    # A single step cannot be divided; it is trained on, and a sequence keeps one step to train.
    late = [min(max(1, round(n * fraction)), n - 1) if n > 1 else 0 for n in data.lengths]
    ends = [max(0, n - v - gap if v else n) for n, v in zip(data.lengths, late, strict=True)]
    heads = [s for s, end in enumerate(ends) if end]
    masks = [_late_mask(data, s, late[s]) for s in range(len(data))]
    tails = [s for s, mask in enumerate(masks) if bool(mask.any())]
    if not heads or not tails:
        fact = f"sequences of {min(data.lengths)} to {max(data.lengths)} steps leave "
        fact += "nothing to validate on" if heads else f"nothing to train on after a gap of {gap}"
        raise DataError(fact, "give longer sequences, or a validation set of your own", where)
    x, d, mask = data._chosen(heads)
    early = (
        part and [t[: ends[s]] for s, t in zip(heads, part, strict=True)] for part in (d, mask)
    )
    train = Sequences([t[: ends[s]] for s, t in zip(heads, x, strict=True)], *early)
    whole = data[tails]
    return train, Sequences(whole.x, whole.d, [masks[s] for s in tails])


def _late_mask(data: Sequences, s: int, late: int) -> Tensor:
    """True over the last `late` steps of sequence s, as far as its own mask counts them."""
    steps = len(data.x[s])
    mask = torch.arange(steps, device=data.x[s].device) >= steps - late
    if data.mask is None:
        return mask
    own = data.mask[s]
    return own & (mask if own.ndim == 1 else mask.unsqueeze(-1))


def _split_sequences(data: Sequences, fraction: float, where: str) -> tuple[Sequences, Sequences]:
    late = max(1, round(len(data) * fraction))
    if late >= len(data):
        fact = f"{len(data)} sequence(s) cannot be divided into two parts"
        raise DataError(fact, "give more sequences, or a validation set of your own", where)
    return data[: len(data) - late], data[len(data) - late :]


def _side_by_side(parts: Tensors, steps: list[int] | None) -> Tensor:
    """(T, B, ...), zeros at the end; (B, ...) of what has no steps.

    Sequences of one length are stacked: a sixth of the time.
    """
    if steps is None:
        return torch.stack(parts)
    return torch.stack(parts, 1) if steps.count(steps[0]) == len(steps) else pad_sequence(parts)


def _has_steps(target: Tensor) -> bool:
    return target.ndim == (2 if target.is_floating_point() else 1)


# What is refused. Every text names the sequence.


def _rows(indices: Any, number: int) -> list[int]:
    """Indices of sequences as whole numbers; negative ones count from the end."""
    where = f"Sequences of {number}"
    if not isinstance(indices, Iterable) or (isinstance(indices, Tensor) and indices.ndim != 1):
        raise DataError(f"the indices are {indices!r}", "give a list of whole numbers", where)
    given = indices.tolist() if isinstance(indices, Tensor) else list(indices)
    return [_row(index, number, where) for index in given]


def _row(index: Any, number: int, where: str) -> int:
    if type(index) is int and 0 <= index < number:  # as nearly all of them are
        return index
    whole = hasattr(index, "__index__") and not isinstance(index, bool)
    if not whole or not -number <= operator.index(index) < number:
        fact = f"there is no sequence {index!r}"
        raise DataError(fact, f"give whole numbers from 0 to {number - 1}", where)
    return operator.index(index)


def _check_split(fraction: Any, by: Any, gap: Any, where: str) -> None:
    if not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise DataError(f"fraction is {fraction!r}", "give a fraction between 0 and 1", where)
    if by is not None and by not in get_args(By):
        raise DataError(f"by is {by!r}", "one of: " + ", ".join(get_args(By)) + ", or None", where)
    if isinstance(gap, bool) or not isinstance(gap, Integral) or gap < 0:
        raise DataError(f"gap is {gap!r}", "give a number of steps, 0 for none", where)


def _listed(name: str, value: Sequence[Tensor]) -> tuple[Tensor, ...]:
    where = f"Sequences({name}=...)"
    if isinstance(value, Tensor) or not isinstance(value, Sequence):
        fact = f"{name} is a {type(value).__name__}, not a list with one tensor per sequence"
        raise DataError(fact, f"write [{name}] for a single sequence", where)
    for s, part in enumerate(value):
        if not isinstance(part, Tensor):
            fact = f"{name}[{s}] is a {type(part).__name__}, not a torch tensor"
            raise DataError(fact, f"convert it: torch.as_tensor({name}[{s}])", where)
    return tuple(value)


def _check_inputs(x: Sequence[Tensor]) -> None:
    where = "Sequences(x=...)"
    if not x:
        raise DataError("there is no sequence in x", "give at least one", where)
    for s, part in enumerate(x):
        if part.ndim != 2 or not part.is_floating_point():
            fact = f"x[{s}] is {_told(part)}, not float of shape (steps, features)"
            raise DataError(fact, "one feature is .unsqueeze(-1); integers are .float()", where)
        if part.shape[1] != x[0].shape[1] or part.dtype != x[0].dtype:
            fact = f"x[{s}] is {_told(part)}, but x[0] is {_told(x[0])}"
            raise DataError(fact, "give every sequence the same features and dtype", where)


def _same_number(x: Sequence[Tensor], name: str, other: Sequence[Tensor]) -> None:
    if len(other) != len(x):
        fact = f"x has {len(x)} sequences and {name} has {len(other)}"
        raise DataError(fact, f"give one tensor of {name} per sequence", f"Sequences({name}=...)")


def _check_targets(x: Sequence[Tensor], d: Sequence[Tensor]) -> None:
    where = "Sequences(d=...)"
    _same_number(x, "d", d)
    most = 2 if d[0].is_floating_point() else 1
    for s, part in enumerate(d):
        if part.ndim not in (most - 1, most) or part.dtype in (torch.bool, torch.complex64):
            fact = f"d[{s}] is {_told(part)}"
            remedy = "give float (steps, k) or (k,), or integer classes (steps,) or ()"
            raise DataError(fact, remedy, where)
        if (part.ndim, part.dtype) != (d[0].ndim, d[0].dtype) or (
            most == 2 and part.shape[-1] != d[0].shape[-1]
        ):
            fact = f"d[{s}] is {_told(part)}, but d[0] is {_told(d[0])}"
            raise DataError(fact, "give every sequence the same kind of target", where)


def _check_masks(counted: Sequence[Tensor], mask: Sequence[Tensor]) -> None:
    where = "Sequences(mask=...)"
    _same_number(counted, "mask", mask)
    for s, (part, own) in enumerate(zip(counted, mask, strict=True)):
        shapes = [part.shape[:-1], part.shape] if part.is_floating_point() else [part.shape]
        if own.dtype != torch.bool or own.shape not in shapes or own.ndim != mask[0].ndim:
            fact = f"mask[{s}] is {_told(own)}, what it counts is {_told(part)}"
            remedy = "give bool of shape " + " or ".join(str(tuple(shape)) for shape in shapes)
            raise DataError(fact, remedy + ", the same kind for every sequence", where)


def _check_finite(data: Sequences) -> None:
    for s, part in enumerate(data.x):
        _refuse_first("x", s, ~part.isfinite(), part)
    for s, part in enumerate(data.d or ()):
        wrong = ~part.isfinite()
        if data.mask is not None and bool(wrong.any()):
            own = data.mask[s]
            wrong = wrong & (own if own.ndim == wrong.ndim else own.unsqueeze(-1))
        _refuse_first("d", s, wrong, part)


def _refuse_first(name: str, s: int, wrong: Tensor, part: Tensor) -> None:
    if not bool(wrong.any()):
        return
    at = tuple(wrong.nonzero()[0].tolist())
    place = ", ".join(str(i) for i in at)
    fact = f"{name}[{s}][{place}] is {float(part[at])}"
    remedy = "fill it in" if name == "x" else "fill it in, or set the mask False there"
    raise DataError(fact, remedy, f"Sequences({name}=...)")


def _told(part: Tensor) -> str:
    return f"{str(part.dtype).removeprefix('torch.')} of shape {tuple(part.shape)}"
