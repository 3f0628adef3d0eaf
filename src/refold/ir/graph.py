"""The graph of one step: immutable, in order, printable.

A node is one line, `z = mul(x, y)`: an op, the numbers of earlier nodes, a shape. A graph is a tuple of nodes and a
list of what they give back. The same record holds a step, its reverse-time step and the once-per-call arithmetic on
weights; only their leaves and targets differ:

    step      reads  input x(t), state h(t-1), param W      gives  state h(t), output y(t)
    reverse   also   next h(t), kept values, carry: what arrives at h(t) from t+1, given: dE/dy(t)
              gives  carry: what arrives at h(t-1), delta: the adjoint of h(t), input: dE/dx(t),
                     total: a term of the sum dE/dW
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from refold.shapes import Shape

SLOT = "slot"

# Slots with one value for a whole call; every other kind has one for each step and row.
FIXED = ("param", "once", "total")


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the user's source a node was written. Columns count bytes from 0, as Python's own positions do."""

    cell: str
    file: str
    line: int
    end_line: int | None = None
    column: int | None = None
    end_column: int | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """What a leaf reads, or what an output writes."""

    kind: str  # input, state, param | once, next, kept, carry, given | output, total, delta
    name: str


@dataclass(frozen=True, slots=True, init=False)
class Init:
    """How a weight starts: a name from the table in `refold.nn.init`, and its settings.

    Example  rf.Weight("n n", init=rf.Init("orthogonal", gain=1.1))
    """

    name: str
    settings: tuple[tuple[str, float], ...]

    def __init__(self, name: str, **settings: float):
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "settings", tuple(sorted(settings.items())))


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a cell declares: an input, a state or a parameter."""

    kind: str  # input, state, param
    name: str
    shape: Shape
    init: Init = Init("zeros")
    learn: bool = True
    place: Place | None = field(default=None, compare=False)

    @property
    def slot(self) -> Slot:
        return Slot(self.kind, self.name)


@dataclass(frozen=True, slots=True)
class Node:
    """One line: op(args). `attr` is what the op needs besides its arguments; labels and places do not count."""

    op: str
    args: tuple[int, ...]
    shape: Shape
    attr: Hashable = None
    label: str | None = field(default=None, compare=False)
    place: Place | None = field(default=None, compare=False)

    def reading(self, args: tuple[int, ...], op: str = "") -> Node:
        """This line with other arguments, and, where it is given, another op of the same shape."""
        if args == self.args and not op:
            return self
        return Node(op or self.op, args, self.shape, self.attr, self.label, self.place)

    def named(self, label: str | None) -> Node:
        """This line under another name."""
        return Node(self.op, self.args, self.shape, self.attr, label, self.place)


@dataclass(frozen=True, slots=True)
class Output:
    """A node that leaves the graph, and as what."""

    slot: Slot
    node: int


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in an order in which each comes after its arguments, the leaves they read, and what is given back."""

    name: str
    leaves: tuple[Leaf, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]

    def __hash__(self) -> int:
        # A few numbers tell graphs apart: plans are looked up by their cells, and a graph has hundreds of lines.
        return hash((self.name, len(self.nodes), self.outputs))

    def leaves_of(self, kind: str) -> tuple[Leaf, ...]:
        return tuple(leaf for leaf in self.leaves if leaf.kind == kind)

    def outputs_of(self, kind: str) -> tuple[Output, ...]:
        return tuple(output for output in self.outputs if output.slot.kind == kind)

    def slots(self) -> dict[Slot, int]:
        """The leaf nodes by what they read."""
        return {
            n.attr: i for i, n in enumerate(self.nodes) if n.op == SLOT and isinstance(n.attr, Slot)
        }

    def after(self, seeds: Iterable[int]) -> frozenset[int]:
        """The seeds and every node that one of them reaches."""
        reached = set(seeds)
        for i, node in enumerate(self.nodes):
            if not reached.isdisjoint(node.args):
                reached.add(i)
        return frozenset(reached)

    def before(self, seeds: Iterable[int]) -> frozenset[int]:
        """The seeds and every node that one of them needs."""
        needed = set(seeds)
        for i in reversed(range(len(self.nodes))):
            if i in needed:
                needed.update(self.nodes[i].args)
        return frozenset(needed)

    def varying(self) -> frozenset[int]:
        """The nodes with one value for each step and each row of the batch; the rest is made of parameters alone."""
        fixed = set(self.reading(*FIXED))
        return self.after(i for i, n in enumerate(self.nodes) if n.op == SLOT and i not in fixed)

    def reading(self, *kinds: str) -> list[int]:
        """The leaf nodes that read slots of some kinds."""
        slots = ((i, n.attr) for i, n in enumerate(self.nodes) if n.op == SLOT)
        return [i for i, s in slots if isinstance(s, Slot) and s.kind in kinds]

    def uses(self) -> dict[int, list[int]]:
        """For each node, the nodes that read it, in order."""
        readers: dict[int, list[int]] = {i: [] for i in range(len(self.nodes))}
        for i, node in enumerate(self.nodes):
            for arg in node.args:
                readers[arg].append(i)
        return readers


class Builder:
    """Writes a graph line by line; an equal line written twice is one line (that is all of "sharing")."""

    def __init__(self, nodes: Iterable[Node] = ()):
        self.nodes: list[Node] = []
        # By op, arguments and attribute: the shape follows from these.
        self._known: dict[tuple[str, tuple[int, ...], Hashable], int] = {}
        for node in nodes:
            self.add(node)

    def add(self, node: Node) -> int:
        """The number of this line, new or known. The first label and place that a line gets stay."""
        count = len(self.nodes)
        known = self._known.setdefault((node.op, node.args, node.attr), count)
        if known == count:
            self.nodes.append(node)
        elif node.label and not self.nodes[known].label:
            self.name(known, node.label)
        return known

    def name(self, index: int, label: str | None) -> None:
        self.nodes[index] = self.nodes[index].named(label)

    def slot(self, slot: Slot, shape: Shape, label: str | None = None) -> int:
        return self.add(Node(SLOT, (), shape, slot, label or slot.name))

    def graph(self, name: str, leaves: Iterable[Leaf], outputs: Iterable[Output]) -> Graph:
        """The finished graph, without the lines that nothing reads."""
        return pruned(Graph(name, tuple(leaves), tuple(self.nodes), tuple(outputs)))


def pruned(graph: Graph) -> Graph:
    """The graph without the nodes that no output needs."""
    needed = sorted(graph.before(output.node for output in graph.outputs))
    if len(needed) == len(graph.nodes):
        return graph
    place = {old: new for new, old in enumerate(needed)}
    old = graph.nodes
    nodes = tuple(old[i].reading(tuple([place[a] for a in old[i].args])) for i in needed)
    outputs = tuple(Output(o.slot, place[o.node]) for o in graph.outputs)
    return Graph(graph.name, graph.leaves, nodes, outputs)


def trimmed(graph: Graph) -> Graph:
    """The graph without the parameters that no line of it reads; inputs and states stay."""
    read = graph.slots()
    leaves = tuple(leaf for leaf in graph.leaves if leaf.kind not in FIXED or leaf.slot in read)
    return replace(graph, leaves=leaves)


def lines(graph: Graph) -> Iterator[tuple[int, Node]]:
    """The nodes with their numbers, for walking a graph in order."""
    return enumerate(graph.nodes)
