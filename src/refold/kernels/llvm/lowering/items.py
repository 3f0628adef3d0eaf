"""The lines of a graph as items: sizes as numbers, leaves as places in memory, sums of products as accumulators.

An item's phase says when it can be worked out within a step: -1 at any time; odd: in a sweep over units; even: in a
pass over rows between sweeps. What reads a vector across its units has a later phase than that vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from refold.ir.graph import Graph, Node, Slot
from refold.shapes import Shape, Size

from .program import Access, Matrix

FREE = -1
FOLDS = ("sum", "max")
PIECES = ("concat", "pad", "slice")  # found in memory, at some column of it


@dataclass(frozen=True, slots=True)
class Factor:
    """A matrix that multiplies a vector, and with which sign the product is added."""

    matrix: Matrix
    sign: float


@dataclass(frozen=True, slots=True)
class Arrival:
    """The products that arrive at a state from the step after; `start` in rows that have none."""

    state: str
    start: Access | None


@dataclass(frozen=True, slots=True)
class Sum:
    """What an accumulator adds up: products of the item's arguments, and biases."""

    factors: tuple[Factor, ...]
    biases: tuple[Access, ...]


Attr = Access | Arrival | Sum | float | tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Item:
    """op(args). read: attr is where; const: the number; acc: a Sum; arrive: an Arrival; concat, pad: first columns
    of the parts, then the width; slice: the first column; else an op of the table. `size` is None for a number."""

    op: str
    args: tuple[int, ...]
    attr: Attr
    size: int | None


class Items:
    """A list of items that grows; `of` says which of them is a node of the graph."""

    def __init__(self, graph: Graph, sizes: Mapping[str, int], fixed: Callable[[Access], bool]):
        self.graph, self.sizes = graph, sizes
        self._fixed = fixed  # whether a place holds one row for the whole call
        self.all: list[Item] = []
        self.phases: list[int] = []
        self._of: dict[int, int] = {}

    def __getitem__(self, item: int) -> Item:
        return self.all[item]

    def add(self, item: Item) -> int:
        self.all.append(item)
        self.phases.append(self._phase(item))
        return len(self.all) - 1

    def read(self, access: Access, size: int | None) -> int:
        return self.add(Item("read", (), access, size))

    def sum(self, parts: Iterable[int]) -> int:
        """The sum of items."""
        total, *rest = parts
        for part in rest:
            size = self[part].size if self[total].size is None else self[total].size
            total = self.add(Item("add", (total, part), None, size))
        return total

    def of(self, node: int) -> int:
        return self._of[node]

    def set(self, node: int, item: int) -> None:
        self._of[node] = item

    def size(self, shape: Shape) -> int | None:
        return shape[0].at(self.sizes) if shape else None

    # Phases -----------------------------------------------------------------------------------------------------------

    def home(self, item: int) -> int:
        """The phase of the pass that stores an item."""
        phase = self.phases[item]
        if self[item].size is None:
            return max(phase, 0)
        return phase if phase % 2 else phase + 1 if phase >= 0 else 1

    def _phase(self, item: Item) -> int:
        latest = max((self.phases[a] for a in item.args), default=FREE)
        if item.op in ("read", "const"):
            return FREE
        if item.op in FOLDS:
            return (
                latest + latest % 2
            )  # after a sweep the pass over rows that follows; -1 becomes 0
        if item.op in ("concat", "pad"):
            return max(self.home(a) for a in item.args) + 1
        if item.op == "slice":
            return latest + latest % 2
        if item.op in ("acc", "arrive"):
            return latest + 1 + latest % 2 if latest >= 0 else 1
        if item.size is None:
            return latest
        return latest if latest >= 0 and latest % 2 else max(latest, 0) + 1

    # From the graph ---------------------------------------------------------------------------------------------------

    def write(self, roots: Iterable[int]) -> None:
        """Add an item for each node that the roots need, apart from those that are set already."""
        roots = list(roots)
        nodes = self.graph.nodes
        needed = self._needed(roots)
        readers: dict[int, list[int]] = {i: [] for i in needed}
        for i in needed:
            for a in nodes[i].args:
                readers.setdefault(a, []).append(i)
        for i in roots:
            readers[i].append(-1)  # a root is read from outside
        chains = Chains(self.graph, readers)
        for i in needed:
            if i in self._of or len(nodes[i].shape) == 2 or i in chains.absorbed:
                continue
            self._of[i] = (
                self._chain(i, chains.terms(i)) if i in chains.heads else self._item(nodes[i])
            )

    def _needed(self, roots: Iterable[int]) -> list[int]:
        """The roots and what they need, in order; nothing is needed for what is set."""
        needed = set(roots)
        for i in reversed(range(len(self.graph.nodes))):
            if i in needed and i not in self._of:
                needed.update(self.graph.nodes[i].args)
        return sorted(needed)

    def _chain(self, head: int, terms: list[tuple[int, float]]) -> int:
        """A sum in which there are products: one accumulator, then the other terms one by one."""
        nodes = self.graph.nodes
        factors, operands, biases, others = [], [], [], []
        for i, sign in terms:
            if i not in self._of:
                matrix, vector = nodes[i].args
                factors.append(Factor(matrix_of(self.graph, matrix), sign))
                operands.append(self._of[vector])
            elif sign > 0 and self._is_bias(self._of[i]):
                access = self[self._of[i]].attr
                assert isinstance(access, Access)
                biases.append(access)
            else:
                others.append((self._of[i], sign))
        size = self.size(nodes[head].shape)
        total = self.add(Item("acc", tuple(operands), Sum(tuple(factors), tuple(biases)), size))
        for item, sign in others:
            total = self.add(Item("add" if sign > 0 else "sub", (total, item), None, size))
        return total

    def _is_bias(self, item: int) -> bool:
        access = self[item].attr
        vector = self[item].op == "read" and self[item].size is not None
        return vector and isinstance(access, Access) and self._fixed(access)

    def _item(self, node: Node) -> int:
        args = tuple(self._of[a] for a in node.args if a in self._of)
        size = self.size(node.shape)
        if node.op in ("const", "size"):
            number = node.attr.at(self.sizes) if isinstance(node.attr, Size) else node.attr
            assert isinstance(number, (int, float))
            return self.add(Item("const", (), float(number), None))
        if node.op == "norm":
            square = self.add(Item("mul", args * 2, None, self[args[0]].size))
            total = self.add(Item("sum", (square,), None, None))
            return self.add(Item("sqrt", (total,), None, None))
        if node.op == "concat":
            starts = [0]
            for a in args:
                starts.append(starts[-1] + (self[a].size or 0))
            return self.add(Item("concat", args, tuple(starts), size))
        if node.op == "slice":
            assert isinstance(node.attr, tuple)
            return self._slice(args[0], node.attr[0].at(self.sizes), size)
        if node.op == "pad":
            assert isinstance(node.attr, tuple)
            start = node.attr[0].at(self.sizes)
            return self.add(Item("pad", args, (start, size or 0), size))
        attr = node.attr if node.op == "pow" else None
        assert attr is None or isinstance(attr, float)
        return self.add(Item(node.op, args, attr, size))

    def _slice(self, whole: int, start: int, size: int | None) -> int:
        access = self[whole].attr
        if self[whole].op == "read" and isinstance(access, Access):
            return self.read(shifted(access, start), size)
        return self.add(Item("slice", (whole,), (start,), size))


def shifted(access: Access, columns: int) -> Access:
    """The same memory, some columns on."""
    other = access.otherwise and shifted(access.otherwise, columns)
    return replace(access, column=access.column + columns, otherwise=other)


def matrix_of(graph: Graph, node: int) -> Matrix:
    """The parameter behind a line of matrices."""
    line = graph.nodes[node]
    if line.op == "transpose":
        inner = matrix_of(graph, line.args[0])
        return replace(inner, transposed=not inner.transposed)
    assert isinstance(line.attr, Slot)
    return Matrix(line.attr)


class Chains:
    """The sums in which single-use products stand: their heads, and the nodes that vanish in them."""

    def __init__(self, graph: Graph, readers: Mapping[int, list[int]]):
        self._graph = graph
        self.absorbed: set[int] = set()
        self.heads: set[int] = set()
        nodes = graph.nodes
        linear: set[int] = set()
        for i in sorted(readers):
            parts = nodes[i].args if nodes[i].op in ("add", "sub") else ()
            single = any(a in linear and len(readers[a]) == 1 for a in parts)
            if nodes[i].op == "matvec" or single:
                linear.add(i)
        for i in linear:
            (reader,) = readers[i] if len(readers[i]) == 1 else (-1,)
            if reader >= 0 and nodes[reader].op in ("add", "sub") and reader in linear:
                self.absorbed.add(i)
            else:
                self.heads.add(i)

    def terms(self, head: int) -> list[tuple[int, float]]:
        """The terms of a sum with their signs; those that are products have no item."""
        found: list[tuple[int, float]] = []

        def part(i: int, sign: float) -> None:
            node = self._graph.nodes[i]
            inside = i == head or i in self.absorbed
            if inside and node.op in ("add", "sub"):
                part(node.args[0], sign)
                part(node.args[1], sign if node.op == "add" else -sign)
            else:
                found.append((i, sign))

        part(head, 1.0)
        return found
