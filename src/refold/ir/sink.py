"""A pass for joined equations: what is cut is worked out piece by piece, what is joined is multiplied part by part.

The four gates of an LSTM are often written as one product with joined vectors,

    i, f, g, o = rf.split(W @ rf.concat(x, h) + b, 4)

where every cut and every join would be a pass through memory. Sunk to what it reads, a cut becomes rows of W and b,
and a join columns of W: four sums W_x x + W_h h + b of sliced parameters, which are the gates written one by one.

    f(a, b)[p]             f(a[p], b[p])           f elementwise; scalars stay
    (W @ v)[p]             W[p] @ v                sliced parameters are made once per call
    concat(a, b)[p]        what p takes of a and b
    v[q][p]                v[q + p]
    W @ concat(a, b)       W[:, :k] @ a + W[:, k:] @ b
    W @ f(concat(a, b))    W[:, :k] @ f(a) + W[:, k:] @ f(b)

A value is worked out in pieces only where these are apart, so that nothing but cheap arithmetic is worked out twice;
where one of its readers wants the whole, it stays whole and the pieces are cut from it. Sizes are polynomials: a piece
is followed into a join only where it is certain, for all numbers that the letters may stand for, which parts it meets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from refold.shapes import Size

from .graph import SLOT, Builder, Graph, Node, Output, Place
from .ops import OPS, same

Piece = tuple[Size, Size]  # rows of a vector: the first, and the one behind the last


@dataclass(frozen=True, slots=True)
class _Pieces:
    """What is to be written of each line that changes with time.

    asked    the pieces that other lines read
    written  the pieces that are worked out; asked pieces that are not among them are cut from the whole
    read     the pieces that products read, together the whole vector; a join is read part by part
    """

    asked: list[dict[Piece, None]]
    written: list[list[Piece]]
    read: list[list[Piece]]


def sunk(graph: Graph) -> Graph:
    """The same step without the cuts and joins that it can do without."""
    now = _passes(graph)
    while now > (0, 0):
        again = _sunk_once(graph)  # what has sunk may let more sink
        before, now = now, _passes(again)
        if now >= before:
            break
        graph = again
    return graph


def _sunk_once(graph: Graph) -> Graph:
    whole: set[int] = set()
    pieces = _decide(graph, whole)
    best = _Writer(graph, pieces).graph()
    doubtful = _doubtful(graph, pieces)
    while doubtful:
        line = doubtful.pop()
        instead = _decide(graph, whole | {line})
        other = _Writer(graph, instead).graph()
        if _passes(other) <= _passes(best):
            whole.add(line)
            pieces, best = instead, other
            doubtful = [i for i in _doubtful(graph, pieces) if i in doubtful]
    return best


def _passes(graph: Graph) -> tuple[int, int]:
    """How many values go through memory because they are cut or joined, and in how many parts.

    A join that a product reads counts twice, since the product has to wait for it. What lies in memory in any case,
    because it is a leaf, an output, or read by a product or a reduction, may be cut at no cost.
    """
    nodes, varying = graph.nodes, graph.varying()
    heavy = [n for n in nodes if OPS[n.op].cost in ("product", "reduction")]
    lying = {o.node for o in graph.outputs} | {a for n in heavy for a in n.args}
    joins = [i for i in varying if nodes[i].op == "concat"]
    awaited = {n.args[-1] for n in heavy if OPS[n.op].cost == "product"}.intersection(joins)
    cuts = [
        nodes[i].args[0]
        for i in varying
        if nodes[i].op == "slice" and nodes[nodes[i].args[0]].op != SLOT
    ]
    passes = len(joins) + len(awaited) + len(set(cuts) - lying - set(joins))
    return passes, len(cuts) + sum(len(nodes[i].args) for i in joins)


# Which pieces ---------------------------------------------------------------------------------------------------------


def _decide(graph: Graph, whole: set[int]) -> _Pieces:
    """Walk from the outputs to the leaves, collecting what is asked of each line. Lines in `whole` are not cut."""
    nodes, varying = graph.nodes, graph.varying()
    joints = _joints(graph, varying)
    found = _Pieces([{} for _ in nodes], [[] for _ in nodes], [[] for _ in nodes])
    multiplied: set[int] = set()
    for output in graph.outputs:
        found.asked[output.node][_whole(nodes[output.node])] = None
    for i in sorted(varying, reverse=True):
        node, asked = nodes[i], found.asked[i]
        cut = i not in whole and _can_be_cut(node)
        if i in multiplied and node.op == "concat":
            multiplied.update(node.args)
        elif i in multiplied:
            found.read[i] = _cover(node, asked, joints[i]) if cut else [_whole(node)]
        found.written[i] = _written(nodes, i, dict.fromkeys([*asked, *found.read[i]]), cut)
        if found.written[i] and node.op == "matvec":
            multiplied.add(node.args[1])
        for argument, piece in _needs(nodes, i, found.written[i]):
            found.asked[argument][piece] = None
    return found


def _cover(node: Node, asked: dict[Piece, None], joints: list[Size]) -> list[Piece]:
    """The pieces in which products read a vector: cut as others cut it, or, where no other reads it, at its joints."""
    start, stop = _whole(node)
    points = joints
    if asked:
        points = _in_order(p for piece in asked for p in piece) if _apart(asked) else []
    return list(pairwise(_in_order([start, *points, stop])))


def _written(nodes: Sequence[Node], i: int, pieces: dict[Piece, None], cut: bool) -> list[Piece]:
    """The pieces that are lines of their own."""
    node = nodes[i]
    if node.op == "concat":
        direct = [p for p in pieces if _parts(nodes, node, p) is not None]
        return (
            direct
            if len(direct) == len(pieces)
            else list({**dict.fromkeys(direct), _whole(node): None})
        )
    if node.op == "expand" or OPS[node.op].boolean:  # a comparison cannot be cut, and costs little
        return list(pieces)
    cheap = OPS[node.op].shape is same and OPS[node.op].cost == "cheap"
    if pieces and not (cut and (cheap or _apart(pieces))):
        return [_whole(node)]
    return sorted(pieces, key=lambda p: sum(_at_most(q[1], p[0]) for q in pieces))


def _needs(nodes: Sequence[Node], i: int, written: list[Piece]) -> Iterator[tuple[int, Piece]]:
    """What the written pieces of a line ask of the lines that it reads; products ask for no piece in particular."""
    node = nodes[i]
    for piece in written:
        if node.op == "slice":
            yield node.args[0], _moved(piece, _start(node))
        elif node.op == "concat":
            yield from _parts(nodes, node, piece) or ()
        elif node.op != "matvec":
            yield from ((a, _piece_of(nodes, a, node, piece)) for a in node.args)


def _joints(graph: Graph, varying: frozenset[int]) -> list[list[Size]]:
    """Where what a line works on was joined: inner points in order; none where the order is not certain."""
    joints: list[list[Size]] = []
    for i, node in enumerate(graph.nodes):
        points: list[Size] = []
        if i in varying and node.op == "concat":
            for a, (start, stop) in zip(node.args, _places(graph.nodes, node), strict=True):
                inner = joints[a] if graph.nodes[a].op == "concat" else []
                points += [*(start + p for p in inner), stop]
            points.pop()
        elif i in varying and node.op == "slice" and graph.nodes[node.args[0]].op == "concat":
            start, stop = _moved(_whole(node), _start(node))
            ordered = _in_order([start, *joints[node.args[0]], stop])
            points = [p - start for p in ordered[1:-1] if _at_most(start, p) and _at_most(p, stop)]
        elif i in varying and OPS[node.op].shape is same:
            points = _in_order(p for a in node.args for p in joints[a])
        joints.append(points)
    return joints


def _doubtful(graph: Graph, pieces: _Pieces) -> list[int]:
    """Lines that may be better whole: cut for products alone, worked out twice, or cut from several values in turn."""

    def several(i: int) -> bool:
        missing = (a for a in set(graph.nodes[i].args) if _is_cut(pieces, a))
        return sum(graph.nodes[a].op != SLOT for a in missing) > 1

    return [
        i
        for i, written in enumerate(pieces.written)
        if written not in ([], [_whole(graph.nodes[i])])
        and OPS[graph.nodes[i].op].shape is same
        and not OPS[graph.nodes[i].op].boolean
        and (not pieces.asked[i] or not _apart(written) or several(i))
    ]


def _is_cut(pieces: _Pieces, i: int) -> bool:
    return bool(pieces.written[i]) and not pieces.asked[i].keys() <= set(pieces.written[i])


# Pieces ---------------------------------------------------------------------------------------------------------------


def _can_be_cut(node: Node) -> bool:
    return bool(node.shape) and (OPS[node.op].shape is same or node.op in ("matvec", "slice"))


def _whole(node: Node) -> Piece:
    return Size(), node.shape[0] if node.shape else Size.of(1)


def _piece_of(nodes: Sequence[Node], argument: int, reader: Node, piece: Piece) -> Piece:
    """What a piece of a line reads of an argument: the same piece, where both are elementwise vectors."""
    follows = OPS[reader.op].shape is same and nodes[argument].shape
    return piece if follows else _whole(nodes[argument])


def _start(node: Node) -> Size:
    assert isinstance(node.attr, tuple)
    return node.attr[0]


def _moved(piece: Piece, by: Size) -> Piece:
    return piece[0] + by, piece[1] + by


def _places(nodes: Sequence[Node], concat: Node) -> list[Piece]:
    """Where the parts of a concatenation lie in it."""
    places, start = [], Size()
    for a in concat.args:
        places.append((start, start + nodes[a].shape[0]))
        start = places[-1][1]
    return places


def _parts(nodes: Sequence[Node], concat: Node, piece: Piece) -> list[tuple[int, Piece]] | None:
    """What a piece takes of each part of a concatenation; None where that depends on the letters' numbers."""
    found = []
    for argument, (start, stop) in zip(concat.args, _places(nodes, concat), strict=True):
        if _at_most(stop, piece[0]) or _at_most(piece[1], start):
            continue
        points = _in_order([start, stop, *piece])
        if not points:
            return None
        first = piece[0] if _at_most(start, piece[0]) else start
        last = piece[1] if _at_most(piece[1], stop) else stop
        found.append((argument, (first - start, last - start)))
    return found


def _at_most(a: Size, b: Size) -> bool:
    """a <= b, whatever numbers the letters stand for."""
    return all(c >= 0 for _, c in (b - a).terms)


def _apart(pieces: Iterable[Piece]) -> bool:
    """No two pieces share a row."""
    return all(_at_most(p[1], q[0]) or _at_most(q[1], p[0]) for p, q in combinations(pieces, 2))


def _in_order(points: Iterable[Size]) -> list[Size]:
    """The different points from first to last; none when two cannot be compared."""
    ordered: list[Size] = []
    for point in dict.fromkeys(points):
        before = sum(_at_most(p, point) for p in ordered)
        if not all(_at_most(point, p) for p in ordered[before:]):
            return []
        ordered.insert(before, point)
    return ordered


# Writing --------------------------------------------------------------------------------------------------------------


class _Writer:
    """The new graph, written line by line in the order of the old one."""

    def __init__(self, old: Graph, pieces: _Pieces):
        self.old, self.pieces = old, pieces
        self.varying = old.varying()
        self.builder = Builder()
        self.lines: dict[tuple[int, Piece], int] = {}  # (old line, piece) -> new line

    def graph(self) -> Graph:
        for i, node in enumerate(self.old.nodes):
            whole = _whole(node)
            if i not in self.varying:
                args = tuple(self._all(a) for a in node.args)
                self.lines[i, whole] = self.builder.add(node.reading(args))
            for piece in self.pieces.written[i]:
                line = self.lines[i, piece] = self._line(node, piece)
                if piece == whole:
                    self._name(line, node.label)
        outputs = tuple(Output(o.slot, self._all(o.node)) for o in self.old.outputs)
        return self.builder.graph(self.old.name, self.old.leaves, outputs)

    def _all(self, i: int) -> int:
        return self.lines[i, _whole(self.old.nodes[i])]

    def _name(self, line: int, label: str | None) -> None:
        if label and not self.builder.nodes[line].label:
            self.builder.name(line, label)

    def _line(self, node: Node, piece: Piece) -> int:
        """One piece of a line that changes with time."""
        if node.op == SLOT:
            return self.builder.add(node)
        if node.op == "slice":
            return self._piece(node.args[0], _moved(piece, _start(node)), node)
        if node.op == "matvec":
            return self._product(node, piece)
        shape = (piece[1] - piece[0],) if node.shape else ()
        if node.op == "concat":
            wanted = _parts(self.old.nodes, node, piece) or []
        else:
            wanted = [(a, _piece_of(self.old.nodes, a, node, piece)) for a in node.args]
        args = tuple(self._piece(a, p, node) for a, p in wanted)
        if node.op == "concat" and len(args) == 1:
            return args[0]
        attr = shape if node.op == "expand" else node.attr
        return self.builder.add(Node(node.op, args, shape, attr, place=node.place))

    def _product(self, node: Node, rows: Piece) -> int:
        """matrix @ vector, as a sum over the pieces in which the vector is read."""
        matrix, vector = node.args
        shape, total = (rows[1] - rows[0],), None
        for columns, operand in self._operands(vector, node):
            args = (self._block(matrix, rows, columns), operand)
            term = self.builder.add(Node("matvec", args, shape, place=node.place))
            if total is not None:
                term = self.builder.add(Node("add", (total, term), shape, place=node.place))
            total = term
        assert total is not None
        return total

    def _operands(self, vector: int, reader: Node) -> Iterator[tuple[Piece, int]]:
        """The pieces of an old vector that a product reads: (which columns they meet, line)."""
        node = self.old.nodes[vector]
        if node.op == "concat" and vector in self.varying:
            for a, (start, _) in zip(node.args, _places(self.old.nodes, node), strict=True):
                for columns, line in self._operands(a, reader):
                    yield _moved(columns, start), line
        else:
            for piece in self.pieces.read[vector] or [_whole(node)]:
                yield piece, self._piece(vector, piece, reader)

    def _piece(self, i: int, piece: Piece, reader: Node) -> int:
        """A piece of an old line: as it was written, or cut from the whole."""
        if (i, piece) in self.lines:
            return self.lines[i, piece]
        if i in self.varying:
            return self._cut(self._all(i), piece, reader.place)
        return self._rows(self._all(i), piece, reader.place)

    def _rows(self, line: int, piece: Piece, place: Place | None) -> int:
        """Some rows of what is made of parameters alone."""
        node = self.builder.nodes[line]
        if piece == _whole(node):
            return line
        if node.op == "slice":
            return self._rows(node.args[0], _moved(piece, _start(node)), place)
        parts = _parts(self.builder.nodes, node, piece) if node.op == "concat" else None
        if parts is None:
            return self._cut(line, piece, place, _indexed(node, _range(piece)))
        args = tuple(self._rows(a, p, place) for a, p in parts)
        shape = (piece[1] - piece[0], *node.shape[1:])
        return args[0] if len(args) == 1 else self.builder.add(Node("concat", args, shape))

    def _block(self, matrix: int, rows: Piece, columns: Piece) -> int:
        """Some rows and columns of an old matrix."""
        old = self.old.nodes[matrix]
        line = self._piece(matrix, rows, old)
        if columns[1] - columns[0] == old.shape[1]:
            return line
        block = self._transposed(self._rows(self._transposed(line), columns, old.place))
        index = f"{':' if rows == _whole(old) else _range(rows)}, {_range(columns)}"
        self._name(block, _indexed(old, index))
        return block

    def _transposed(self, line: int) -> int:
        node = self.builder.nodes[line]
        if node.op == "transpose":
            return node.args[0]
        return self.builder.add(Node("transpose", (line,), node.shape[::-1], place=node.place))

    def _cut(self, line: int, piece: Piece, place: Place | None, label: str | None = None) -> int:
        rows = piece[1] - piece[0]
        shape = (rows, *self.builder.nodes[line].shape[1:])
        return self.builder.add(Node("slice", (line,), shape, (piece[0], rows), label, place))


def _range(piece: Piece) -> str:
    return f"{piece[0]}:{piece[1]}"


def _indexed(node: Node, index: str) -> str | None:
    return f"{node.label}[{index}]" if node.label else None
