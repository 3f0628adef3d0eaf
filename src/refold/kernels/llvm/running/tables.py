"""Where the rows of every step lie, in what order the steps run, and which rows a thread takes.

The compiled loop knows nothing of time: it follows a list of entries, each a run of rows of one step with the places of
that step and of its neighbours. Uniform and ragged batches, both directions of time, forward and backward programs
differ in these lists alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

ENTRY = 10  # begin, end, has_before, has_after, (now, before, after) packed, (now, before, after) in turns
LEAST = 4  # rows that a thread is worth: fewer do not fill a tile

Array = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Words:
    """A list of int64 that compiled code reads: how many records, their address, and what keeps them in memory."""

    count: int
    address: int
    memory: Array


def words(array: Array) -> Words:
    array = np.ascontiguousarray(array, dtype=np.int64)
    return Words(len(array), array.__array_interface__["data"][0], array)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Table:
    """A stretch of steps over a batch whose rows are sorted by falling length.

    counts     rows that run at each step, falling; batch: rows in all, those included that run at no step
    backwards  forward runs from the last step to the first
    """

    counts: Array
    batch: int
    backwards: bool
    offsets: Array = field(init=False)  # packed rows before each step, and in all
    steps: int = field(init=False)
    rows: int = field(init=False)  # packed rows of all steps
    active: int = field(init=False)  # rows that run at any step
    uniform: bool = field(init=False)  # whether every row runs at every step
    memo: dict[Any, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        offsets = np.zeros(len(self.counts) + 1, np.int64)
        np.cumsum(self.counts, out=offsets[1:])
        steps = len(self.counts)
        found = {
            "offsets": offsets,
            "steps": steps,
            "rows": int(offsets[-1]),
            "active": int(self.counts[0]) if steps else 0,
            "uniform": steps == 0 or int(self.counts[-1]) == self.batch,
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def part(self, begin: int, end: int) -> Table:
        """Some of the steps."""
        if self.uniform:
            return uniform(end - begin, self.batch, self.backwards)
        return Table(self.counts[begin:end], self.batch, self.backwards)

    def _held(self, key: Any, make: Callable[[], Any]) -> Any:
        """What is made once. Of several threads that make it at once all get the same, the one that stays: code keeps
        addresses of it."""
        found = self.memo.get(key)
        return self.memo.setdefault(key, make()) if found is None else found

    # What the loop follows --------------------------------------------------------------------------------------------

    def entries(self, reverse: bool) -> Words:
        """The entries of a forward program, or of a backward one, in the order in which they run."""
        return self._held(reverse, lambda: words(self._entries(reverse)))

    def _entries(self, reverse: bool) -> Array:
        steps, counts = self.steps, self.counts
        # Rows that run at t run at every earlier step; only of the next step some may lack, and have an entry apart.
        split = reverse or self.backwards
        table = np.zeros((steps, 1 + split, ENTRY), np.int64)
        table[:, -1, 1] = counts
        earlier, next_one = (3, 2) if self.backwards else (2, 3)
        table[1:, :, earlier] = 1
        if split:
            later = table[:, 0, 1]  # of the rows of each step, those that run at the next too
            later[:-1] = counts[1:]
            table[:, 1, 0] = later
            table[:, 0, next_one] = later > 0
        for column, places in ((4, self.offsets[:-1]), (7, np.arange(steps) % 2 * self.batch)):
            earlier, next_one = (2, 1) if self.backwards else (1, 2)
            table[:, :, column] = places[:, None]
            table[1:, :, column + earlier] = places[:-1, None]
            table[:-1, :, column + next_one] = places[1:, None]
        if self.backwards != reverse:
            table = table[::-1]
        table = table.reshape(-1, ENTRY)
        return table[table[:, 0] < table[:, 1]] if split else table

    def pieces(self, threads: int) -> int:
        """Into how many pieces the rows are cut: as many as threads are worth it."""
        return max(1, min(threads, self.active // LEAST))

    def bounds(self, threads: int) -> Words:
        """Where each piece of the rows begins, and the end."""
        pieces = self.pieces(threads)
        return self._held(("bounds", pieces), lambda: words(self._bounds(pieces)))

    def _bounds(self, pieces: int) -> Array:
        """Pieces with nearly the same number of steps of rows in each."""
        if self.uniform:
            return np.arange(pieces + 1) * self.batch // pieces
        total = np.append(0, np.cumsum(self.lengths()))
        shares = np.arange(1, pieces) * total[-1] // pieces
        return np.concatenate([[0], np.searchsorted(total, shares), [self.active]])

    # Where single rows lie --------------------------------------------------------------------------------------------

    def lengths(self) -> Array:
        """Steps of each row that runs at any."""
        counted = np.searchsorted(self.counts[::-1], np.arange(self.active), side="right")
        return self.steps - counted

    def last(self, memory: Tensor, turns: bool) -> Tensor:
        """The rows of a buffer as forward's last step of each left them: (active, width). May be a view."""
        return self._end(memory, turns, first=self.backwards)

    def first(self, memory: Tensor, turns: bool) -> Tensor:
        """... as forward's first step of each found them."""
        return self._end(memory, turns, first=not self.backwards)

    def _end(self, memory: Tensor, turns: bool, first: bool) -> Tensor:
        """The rows at step 0, or each at the last of its steps."""
        if memory.dim() == 3:
            memory = memory.view(-1, memory.shape[-1])
        if first or not self.steps:
            return memory[: self.active]
        if self.uniform:
            step = (self.steps - 1) % 2 if turns else self.steps - 1
            return memory[step * self.batch : (step + 1) * self.batch]
        return memory.index_select(0, self._held(("ends", turns), lambda: self._ends(turns)))

    def _ends(self, turns: bool) -> Tensor:
        last = self.lengths() - 1
        places = last % 2 * self.batch if turns else self.offsets[last]
        return torch.from_numpy(places + np.arange(self.active))

    def before(self) -> Iterator[tuple[bool, int, int]]:
        """Where the state before each packed row lies, as runs: (of the steps, not of the first state; row; rows)."""
        return iter(self._held("before", lambda: tuple(merged(self._before()))))

    def _before(self) -> Iterator[tuple[bool, int, int]]:
        counts, offsets = self.counts.tolist(), self.offsets.tolist()
        if not self.backwards:
            yield False, 0, self.active
            for t in range(1, self.steps):
                yield True, offsets[t - 1], counts[t]
            return
        for t, (count, later) in enumerate(zip(counts, [*counts[1:], 0], strict=False)):
            yield True, offsets[t + 1], later
            yield False, later, count - later


def merged(runs: Iterator[tuple[bool, int, int]]) -> Iterator[tuple[bool, int, int]]:
    """Runs that follow one another joined, empty ones left out."""
    open_run: tuple[bool, int, int] | None = None
    for kind, start, rows in runs:
        if rows == 0:
            continue
        if open_run and open_run[0] == kind and open_run[1] + open_run[2] == start:
            open_run = (kind, open_run[1], open_run[2] + rows)
            continue
        if open_run:
            yield open_run
        open_run = (kind, start, rows)
    if open_run:
        yield open_run


def uniform(steps: int, batch: int, backwards: bool) -> Table:
    """All rows at every step. Tables of common lengths are kept: they hold 160 bytes a step."""
    make = _kept if steps <= KEPT_STEPS else _uniform
    return make(steps, batch, backwards)


KEPT_STEPS = 4096


def _uniform(steps: int, batch: int, backwards: bool) -> Table:
    return Table(np.full(steps, batch, np.int64), batch, backwards)


_kept = lru_cache(maxsize=64)(_uniform)
