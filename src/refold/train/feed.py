"""What a run is fed: the sequences of each epoch, and those it is validated on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from refold.data.batch import Batch, Sequences
from refold.errors import DataError
from refold.nn.wiring import Network

from .settings import Fit

Drawn = Callable[[int], Sequences]  # the sequences of an epoch, counted from 1


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Sequences, with what is asked of them at every step."""

    data: Sequences
    lengths: list[int]
    counted: list[bool]

    @staticmethod
    def of(data: Any, name: str) -> Part:
        """Errors  DataError for another kind, or where nothing counts."""
        if not isinstance(data, Sequences):
            fact = f"{name} is a {type(data).__name__}"
            raise DataError(fact, f"write {name}=rf.Sequences(x, d)", f"fit(..., {name})")
        counted = data.counted()
        if not any(counted):
            fact = f"nothing in {name} counts: every target is masked, or has no steps"
            raise DataError(fact, "let the mask be True somewhere", f"fit(..., {name})")
        return Part(data, data.lengths, counted)

    def counts(self, rows: list[int], span: int | None, part: int) -> int:
        """How many of some sequences have something that counts in a part of `span` steps."""
        if span is None:
            return sum([self.counted[i] for i in rows])
        return self.data.counted_within(rows, part * span, (part + 1) * span)


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """A batch of all processes, and what of it is this one's.

    chosen, mine  the sequences of all, and of this process; batch: these, None where there are none
    """

    train: Part
    chosen: list[int]
    mine: list[int]
    batch: Batch | None

    @property
    def steps(self) -> int:
        """The steps of the longest sequence of all."""
        return max([self.train.lengths[i] for i in self.chosen])

    def tokens(self, span: int | None, part: int) -> int:
        """The steps of a part, over all sequences."""
        lengths = [self.train.lengths[i] for i in self.chosen]
        if span is None:
            return sum(lengths)
        return sum([min(max(0, n - part * span), span) for n in lengths])

    def has(self, span: int | None, part: int) -> bool:
        """Whether this process has any step of a part."""
        if self.batch is None:
            return False
        return span is None or part * span < len(self.batch.x)

    def counted(self, span: int | None, part: int) -> tuple[int, float]:
        """How many of all sequences count in a part, and which share of them is this process's."""
        count = self.train.counts(self.chosen, span, part)
        if len(self.mine) == len(self.chosen):
            return count, 1.0
        return count, self.train.counts(self.mine, span, part) / max(1, count)

    def running(self, begin: int) -> float:
        """Which share of the sequences that have more than `begin` steps is this process's."""
        rows = (self.mine, self.chosen)
        mine, every = (sum([self.train.lengths[i] > begin for i in part]) for part in rows)
        return mine / max(1, every)


class Feed:
    """The training part of each epoch, and the validation part, None without one."""

    def __init__(
        self, network: nn.Module, data: Sequences | Drawn, settings: Fit, validation: Any
    ) -> None:
        self._drawn: Drawn | None = None
        self._epoch = 0
        if callable(data):
            self._drawn = data
            _refuse_no_part(settings, validation)
        elif validation is None and settings.validation > 0:
            given = Part.of(data, "data").data
            stepwise = not isinstance(network, Network) or network.shape == "many-to-many"
            split = given.split(settings.validation, by=None if stepwise else "sequence")
            data, validation = split
        self.held_out = None if validation is None else Part.of(validation, "validation")
        self._part = self._draw(1) if callable(data) else Part.of(data, "data")

    def train(self, epoch: int) -> Part:
        """What this epoch trains on."""
        if self._drawn is not None and epoch != self._epoch:
            self._part = self._draw(epoch)
        return self._part

    def _draw(self, epoch: int) -> Part:
        assert self._drawn is not None
        self._epoch = epoch
        return Part.of(self._drawn(epoch), "data")

    def told(self) -> dict[str, Any]:
        """What a resume compares: whether these can be the data that the run began with."""
        if self._drawn is not None:
            return {"sequences": "drawn for each epoch"}
        return {"sequences": len(self._part.lengths), "steps": sum(self._part.lengths)}


def batches_of(rows: list[int], size: int) -> Iterator[list[int]]:
    """Some sequences at a time, in order."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _refuse_no_part(settings: Fit, validation: Any) -> None:
    if validation is None and settings.validation > 0:
        fact = "data are drawn anew for each epoch: no part of them can be held out"
        remedy = "give validation=rf.Sequences(...), or rf.Fit(validation=0)"
        raise DataError(fact, remedy, "fit(network, data)")
