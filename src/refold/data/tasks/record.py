"""A memory task: how its sequences are drawn, when one of them is solved, and what counts as success."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor

from refold.data.batch import Batch, Sequences
from refold.errors import DataError

Shape = Literal["many-to-one", "many-to-many"]
Loss = Literal["cross_entropy", "squared"]
Length = int | tuple[int, int]
Seed = int | Sequence[int]
Draw = Callable[[int, int, torch.Generator], Sequences]  # (how many, length, random numbers)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A memory task as its source defines it.

    Sequences are drawn afresh, never stored: the same count, length and seed give the same bits.
    `length` is the source's T, in its own sense (`about` says which); a pair (low, high) is drawn
    from, both ends included.

    Units  `lengths` is the source's own range; `shortest` and `longest` are what can be drawn.
    `wrong` is the share of `trials` fresh sequences that must not be reached; baselines are in the
    units of `loss`, averaged over steps and sequences as rf.Fit does.

    Example
        >>> order = task("temporal-order")
        >>> order.sequences(2, (50, 200), seed=0).lengths
        [113, 113]
    """

    name: str
    about: str
    source: str
    criterion: str
    published: str
    inputs: int
    outputs: int
    loss: Loss
    shape: Shape
    lengths: tuple[int, int]
    shortest: int
    draw: Draw
    right: Callable[[Tensor, Batch], Tensor]
    memoryless: Callable[[int], float] | None = None
    formula: str = ""
    wrong: float = 0.01
    trials: int = 10_000
    longest: int | None = None
    draw_held_out: Draw | None = None  # where held-out sequences follow another law
    begins: bool = False  # a short sequence is the beginning of a long one

    def sequences(
        self, count: int, length: Length, seed: Seed, *, ragged: bool = False
    ) -> Sequences:
        """Fresh sequences to train on.

        From a range (low, high) one length is drawn for the whole call, as Pascanu draws one for
        each batch; with `ragged` every sequence has a length of its own. `seed` is a whole number,
        or several: (0, 7) may stand for the seventh draw of run 0.

        Shapes  x (T_s, inputs), float32; d as the shape says: (), (outputs,), (T_s,) or
        (T_s, outputs); classes are integers.

        Errors  DataError for a count, length or seed that cannot be.
        """
        return self._drawn(self.draw, count, length, (0, *_numbers(seed)), ragged)

    def held_out(
        self, count: int, length: Length, seed: Seed, *, ragged: bool = False
    ) -> Sequences:
        """The same, to be tested on: never the numbers of `sequences`, whatever the seeds."""
        draw = self.draw_held_out or self.draw
        return self._drawn(draw, count, length, (1, *_numbers(seed)), ragged)

    def success(self, y: Tensor, batch: Batch) -> Tensor:
        """Which sequences of a batch the outputs y solve, in the sense of `criterion`.

        Shapes  y (B, outputs) or (T, B, outputs) -> bool (B,).

        Errors  DataError when y has other shapes than the targets ask for.
        """
        rows = batch.x.shape[1]
        steps = () if self.shape == "many-to-one" else (batch.x.shape[0],)
        wanted = (*steps, rows, self.outputs)
        if y.shape != wanted:
            fact = f"y has shape {tuple(y.shape)}, the targets ask for {wanted}"
            remedy = f"give a {self.shape} network with {self.outputs} outputs"
            raise DataError(fact, remedy, f"{self.name}.success(y, batch)")
        return self.right(y, batch)

    def baseline(self, length: int) -> float | None:
        """The mean loss of the best guess that remembers nothing; None where there is no formula."""
        _check_length(self, length, f"{self.name}.baseline({length!r})")
        return None if self.memoryless is None else self.memoryless(length)

    def _drawn(
        self, draw: Draw, count: int, length: Length, numbers: tuple[int, ...], ragged: bool
    ) -> Sequences:
        where = f"{self.name}.sequences({count!r}, {length!r})"
        whole(count, 1, "count", where)
        low, high = _check_length(self, length, where)
        random = _random(numbers)
        if not ragged or low == high:
            return draw(count, int(torch.randint(low, high + 1, (), generator=random)), random)
        lengths = torch.randint(low, high + 1, (count,), generator=random)
        if self.begins:
            return _cut(draw(count, high, random), lengths)
        return _ragged(draw, lengths, random)


def _ragged(draw: Draw, lengths: Tensor, random: torch.Generator) -> Sequences:
    """Sequences of these lengths: those of one length are drawn together."""
    rows: list[int] = []
    drawn: list[Sequences] = []
    for length in lengths.unique().tolist():
        own = (lengths == length).nonzero()[:, 0].tolist()
        rows += own
        drawn.append(draw(len(own), length, random))
    back = sorted(range(len(rows)), key=rows.__getitem__)
    x, d, mask = (_joined(drawn, name, back) for name in ("x", "d", "mask"))
    return Sequences(x or [], d, mask)


def _joined(drawn: list[Sequences], name: str, order: list[int]) -> list[Tensor] | None:
    parts = [part for some in drawn for part in getattr(some, name) or ()]
    return [parts[at] for at in order] if parts else None


def _cut(data: Sequences, lengths: Tensor) -> Sequences:
    """The beginnings of sequences."""
    numbers = lengths.tolist()

    def begun(parts: Sequence[Tensor] | None) -> list[Tensor] | None:
        return None if parts is None else [p[:n] for p, n in zip(parts, numbers, strict=True)]

    return Sequences(begun(data.x) or [], begun(data.d), begun(data.mask))


def _random(numbers: tuple[int, ...]) -> torch.Generator:
    """A generator for several whole numbers.

    torch's own seeding reads 32 bits and no more (1 and 1 + 2**32 give the same numbers), so the
    numbers are first mixed into 32 bits that depend on all of them, and on how many they are.
    """
    mixed = sha256(repr(numbers).encode()).digest()[:4]
    return torch.Generator().manual_seed(int.from_bytes(mixed, "big"))


# What is refused.


def whole(value: Any, least: int, setting: str, where: str) -> int:
    """A setting that is a whole number.

    Errors  DataError for anything else, or a number below `least`.
    """
    if not _is_whole(value) or value < least:
        remedy = f"give a whole number, at least {least}"
        raise DataError(f"{setting} is {value!r}", remedy, where)
    return int(value)


def positive(value: Any, setting: str, where: str) -> float:
    """A setting that is a positive number.

    Errors  DataError for anything else.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise DataError(f"{setting} is {value!r}", "give a positive number", where)
    return float(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _numbers(seed: Seed) -> tuple[int, ...]:
    given = tuple(seed) if isinstance(seed, Sequence) else (seed,)
    if not given:
        raise DataError("seed is empty", "give a whole number, at least 0, or several", "seed")
    return tuple(whole(number, 0, "seed", "seed") for number in given)


def _check_length(task: Task, length: Length, where: str) -> tuple[int, int]:
    """(low, high) of a length or a range of lengths."""
    given = length if isinstance(length, tuple) else (length, length)
    if len(given) != 2 or not all(_is_whole(n) for n in given) or given[0] > given[1]:
        remedy = "give a whole number, or (low, high)"
        raise DataError(f"length is {length!r}", remedy, where)
    low, high = int(given[0]), int(given[1])
    if low < task.shortest or (task.longest is not None and high > task.longest):
        bounds = f"from {task.shortest} on"
        if task.longest is not None:
            bounds = f"from {task.shortest} to {task.longest}"
        fact = f"length is {length!r}, and {task.name} can be drawn {bounds}"
        raise DataError(fact, f"give lengths {bounds}", where)
    return low, high
