"""Passes from items: from the last phase to the first, each written from what it has to store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from refold.ir.ops import OPS

from .items import FOLDS, FREE, PIECES, Arrival, Item, Items, Sum, shifted
from .program import (
    Access,
    Accumulator,
    Fold,
    Folds,
    Line,
    Product,
    Store,
    Sweep,
)

# A value of an earlier phase is worked out again rather than stored and read when that takes no more lines than this.
REBUILD = 4


class Grows(Protocol):
    """Where new columns come from."""

    def grow(self, role: str, size: int) -> Access: ...

    def spans_steps(self, access: Access) -> bool: ...


@dataclass(slots=True)
class Frame:
    """Lines while they are being written: of a sweep, of one fold, or of the numbers behind the folds."""

    phase: int
    size: int | None
    lines: list[Line] = field(default_factory=list)
    known: dict[int, int] = field(default_factory=dict)
    accumulators: list[Accumulator] = field(default_factory=list)

    def add(self, line: Line) -> int:
        self.lines.append(line)
        return len(self.lines) - 1


class Writer:
    """What has to be stored, by the pass that stores it, and where each item lies in memory."""

    def __init__(self, items: Items, memory: Grows):
        self.items, self.memory = items, memory
        self.places: dict[int, Access] = {}
        self._wholes: dict[int, Access] = {}
        self._wanted: dict[tuple[int, int | None], list[tuple[int, Access, bool]]] = {}
        self._arrivals: Mapping[str, tuple[Product, ...]] = {}

    # What is stored ---------------------------------------------------------------------------------------------------

    def store(self, item: int, access: Access, add: bool = False) -> None:
        """Have an item stored by its own pass."""
        key = (self.items.home(item), self.items[item].size)
        self._wanted.setdefault(key, []).append((item, access, add))
        if not add and self.items[item].op not in ("read", "const", *PIECES):
            self.places.setdefault(item, access)

    def whole(self, item: int) -> Access:
        """Where an item lies for all steps, by the end of the loop."""
        known = self.known_whole(item)
        if known is None:
            known = self._wholes[item] = self.memory.grow("more", self.items[item].size or 1)
            self.store(item, known)
        return known

    def known_whole(self, item: int) -> Access | None:
        """Where an item lies for all steps in any case."""
        access = self.items[item].attr
        if (
            self.items[item].op == "read"
            and isinstance(access, Access)
            and self.memory.spans_steps(access)
        ):
            return access
        return self._wholes.get(item)

    def place(self, item: int) -> Access:
        """Where an item lies in memory; it is stored if it is not yet."""
        it = self.items[item]
        if it.op == "read":
            assert isinstance(it.attr, Access)
            return it.attr
        if item in self.places:
            return self.places[item]
        if it.op in PIECES:
            self.places[item] = self._joined(it)
        else:
            self.store(item, self.memory.grow("scratch", it.size or 1))
        return self.places[item]

    def _joined(self, it: Item) -> Access:
        assert isinstance(it.attr, tuple)
        if it.op == "slice":
            return shifted(self.place(it.args[0]), it.attr[0])
        access = self.memory.grow("scratch", it.size or 1)
        for part, start in zip(it.args, it.attr, strict=False):
            self.store(part, shifted(access, start))
        return access

    # Passes -----------------------------------------------------------------------------------------------------------

    def passes(
        self, arrivals: Mapping[str, tuple[Product, ...]] | None = None
    ) -> tuple[Sweep | Folds, ...]:
        """All passes, in order. `arrivals`: what has been stored, by a step, for the step before it."""
        self._arrivals = arrivals or {}
        written: dict[tuple[int, int | None], Sweep | Folds] = {}
        while self._wanted:
            key = max(self._wanted, key=lambda k: (k[0], k[1] or 0))
            wanted = self._wanted.pop(key)
            assert key not in written
            written[key] = (
                self._folds(key[0], wanted) if key[1] is None else self._sweep(*key, wanted)
            )
        return tuple(written[key] for key in reversed(written))

    def _sweep(self, phase: int, size: int | None, wanted: list[tuple[int, Access, bool]]) -> Sweep:
        frame = Frame(phase, size)
        stores = tuple(Store(self._line(frame, item), access, add) for item, access, add in wanted)
        assert size is not None
        return Sweep(size, tuple(frame.accumulators), tuple(frame.lines), stores)

    def _folds(self, phase: int, wanted: list[tuple[int, Access, bool]]) -> Folds:
        """Folds over vectors of one size share a loop."""
        found: dict[int, list[int]] = {}  # size -> folds, as items
        self._find_folds(phase, [item for item, _, _ in wanted], found)
        numbers = Frame(phase, None)
        folds = []
        for size, results in found.items():
            frame = Frame(phase, size)
            lines = tuple(
                (self.items[r].op, self._line(frame, self.items[r].args[0])) for r in results
            )
            folds.append(Fold(size, tuple(frame.lines), lines))
        for k, result in enumerate(r for results in found.values() for r in results):
            numbers.known[result] = numbers.add(Line("fold", (), k, True))
        stores = tuple(
            Store(self._line(numbers, item), access, add) for item, access, add in wanted
        )
        return Folds(tuple(folds), tuple(numbers.lines), stores)

    def _find_folds(self, phase: int, roots: list[int], found: dict[int, list[int]]) -> None:
        """The folds of this phase that the roots need."""
        seen: set[int] = set()
        pending = list(roots)
        while pending:
            item = pending.pop()
            it = self.items[item]
            if item in seen or self.items.phases[item] != phase:
                continue
            seen.add(item)
            if it.op in FOLDS:
                size = self.items[it.args[0]].size
                found.setdefault(size or 1, []).append(item)
            else:
                pending.extend(it.args)

    # Lines ------------------------------------------------------------------------------------------------------------

    def _line(self, frame: Frame, item: int) -> int:
        """The line of a frame that has the value of an item."""
        if item not in frame.known:
            frame.known[item] = self._written(frame, item)
        return frame.known[item]

    def _written(self, frame: Frame, item: int) -> int:
        it = self.items[item]
        scalar = it.size is None
        if it.op == "const":
            return frame.add(Line("const", (), it.attr, True))  # type: ignore[arg-type]
        if it.op == "read" or it.op in PIECES or not self._here(frame, item):
            return frame.add(Line("read", (), self.place(item), scalar))
        if it.op in ("acc", "arrive"):
            frame.accumulators.append(self._accumulator(it))
            return frame.add(Line("acc", (), len(frame.accumulators) - 1))
        args = tuple(self._line(frame, a) for a in it.args)
        if it.op == "expand":
            return args[0]
        assert it.attr is None or isinstance(it.attr, float)
        return frame.add(Line(it.op, args, it.attr, scalar))

    def _here(self, frame: Frame, item: int) -> bool:
        """Whether a frame works an item out, and does not read it."""
        phase, it = self.items.phases[item], self.items[item]
        if phase in (frame.phase, FREE) or is_boolean(it.op):  # truth values are not stored
            return True
        # A number is one for a row: read it.
        return it.size is not None and item not in self.places and self._lines_for(item) <= REBUILD

    def _lines_for(self, item: int) -> float:
        """How many lines it takes to work an item out again from what lies in memory."""
        it = self.items[item]
        if it.op in ("read", "const", *PIECES) or it.size is None or item in self.places:
            return 0
        if it.op in ("acc", "arrive") or OPS[it.op].cost != "cheap":
            return float("inf")
        lines = 1.0
        for argument in it.args:
            lines += self._lines_for(argument)
            if lines > REBUILD:
                return float("inf")
        return lines

    def _accumulator(self, it: Item) -> Accumulator:
        if isinstance(it.attr, Arrival):
            products = tuple(
                replace(p, operand=replace(p.operand, when="after"))
                for p in self._arrivals[it.attr.state]
            )
            return Accumulator(products, (), it.attr.start)
        assert isinstance(it.attr, Sum)
        products = tuple(
            Product(factor.matrix, self.place(operand), self.items[operand].size or 1, factor.sign)
            for factor, operand in zip(it.attr.factors, it.args, strict=True)
        )
        return Accumulator(products, it.attr.biases)


def is_boolean(op: str) -> bool:
    return op in OPS and OPS[op].boolean
