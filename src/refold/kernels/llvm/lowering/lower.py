"""From a half of a plan to a program: what each pass computes, what lies in memory, and where.

Three steps. `Items` writes the graph down with numbers for its letters, sums of products gathered into accumulators.
Each item has a phase: odd ones are sweeps over units, even ones folds over rows, and whatever an item reads across
units has an earlier phase. `Writer` then goes from the last phase to the first and writes each pass from what it must
store: a value of an earlier phase is read from memory where it lies there, worked out again where that is cheap, and
else stored by its own pass.

The reverse step is another cell in reverse time. Its products with what the step after has found are not worked out at
its end but at the beginning of the next: they share a sweep with what follows, and nothing lies between. Only where the
step reads them itself, as for Omega, they are worked out in it and handed on as a sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from refold.ir.graph import FIXED, Graph, Output, Slot
from refold.plan.plan import Plan
from refold.shapes import Shape

from .columns import LINE, Span, begin, padded, take_over
from .items import Arrival, Item, Items, matrix_of
from .program import Access, Buffer, Carry, Column, Product, Program, Total
from .writer import Writer

Sizes = Mapping[str, int]


def forward(plan: Plan, sizes: Sizes, keep: bool) -> Program:
    """The step; `keep`: it also stores what the reverse step reads."""
    graph = plan.forward.graph
    memory = Memory(plan, sizes)
    items = Items(graph, sizes, memory.is_fixed)
    _place_leaves(items, memory)
    outputs = [
        (o, access) for o in graph.outputs if (access := _given_out(plan, memory, o.slot, keep))
    ]
    items.write([o.node for o, _ in outputs])
    writer = Writer(items, memory)
    for output, access in outputs:
        writer.store(items.of(output.node), access)
    passes = writer.passes()
    return Program(plan.name, memory.buffers(), passes)


def _given_out(plan: Plan, memory: Memory, slot: Slot, keep: bool) -> Access | None:
    """Where something that the step gives goes; an output that is a state lies among the states already."""
    if slot.kind == "kept":
        return memory.kept(slot.name) if keep else None
    if slot.kind == "output" and plan.output_state is not None:
        return None
    return memory.access(slot.kind, slot.name)


def backward(
    plan: Plan, sizes: Sizes, inputs: tuple[bool, ...], direct: tuple[bool, ...], deltas: bool
) -> Program:
    """The reverse step.

    inputs  which inputs' gradients are wanted
    direct  for which states the error has something to say about every step
    deltas  whether the adjoints of the states are wanted
    """
    graph, step = plan.backward.graph, plan.forward.graph
    memory = Memory(plan, sizes)
    items = Items(graph, sizes, memory.is_fixed)
    states = [leaf.name for leaf in step.leaves_of("state")]
    arriving = [Arriving(graph, name) for name in states]
    _place_leaves(items, memory)
    for each, has_direct in zip(arriving, direct, strict=True):
        _arrive(items, memory, each, has_direct)
    wanted = dict(zip((leaf.slot for leaf in step.leaves_of("input")), inputs, strict=True))
    roles = {"input": "grad", "delta": "delta"}
    outputs = [o for o in graph.outputs if wanted.get(o.slot, o.slot.kind == "delta" and deltas)]
    products = [o for o in graph.outputs_of("total") if graph.nodes[o.node].op == "outer"]
    sums = [o for o in graph.outputs_of("total") if graph.nodes[o.node].op != "outer"]
    roots = [i for each in arriving for i in (*each.rest, *each.operands(graph))]
    roots += [a for o in products for a in graph.nodes[o.node].args]
    items.write([*roots, *(o.node for o in (*outputs, *sums))])
    writer = Writer(items, memory)
    carries = tuple(_carry(items, writer, memory, each) for each in arriving)
    totals = [_product(items, writer, o) for o in products]
    totals += [_sum(items, writer, memory, o) for o in sums]
    for output in outputs:
        access = memory.access(roles[output.slot.kind], output.slot.name)
        writer.store(items.of(output.node), access)
    passes = writer.passes({carry.state: carry.products for carry in carries})
    program = Program(plan.name, memory.buffers(), passes, tuple(totals), carries)
    return take_over(program, memory.kept_columns)


def _place_leaves(items: Items, memory: Memory) -> None:
    """Vectors and numbers are read where they lie; matrices are packed, and have no place."""
    for slot, node in items.graph.slots().items():
        shape = items.graph.nodes[node].shape
        if len(shape) < 2 and slot.kind != "carry":
            items.set(node, items.read(memory.leaf(slot, shape), items.size(shape)))


class Memory:
    """The buffers of a program, numbered as they are first asked for."""

    def __init__(self, plan: Plan, sizes: Sizes):
        self._sizes = sizes
        self._widths: dict[tuple[str, str], int] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._kept: dict[str, Span] = {}
        step = plan.forward.graph
        for leaf in step.leaves:
            for role in ROLES.get(leaf.kind, ()):
                self._widths[role, leaf.name] = width(leaf.shape, sizes)
        output = step.outputs_of("output")[0]
        for role in ("output", "given"):
            self._widths[role, output.slot.name] = width(step.nodes[output.node].shape, sizes)
        self._widths |= {("scratch", ""): 0, ("sums", ""): 0, ("more", ""): 0, ("kept", ""): 0}
        kept = {kept.name: width(kept.shape, sizes) for kept in plan.kept}
        # Whole cache lines first and single numbers last, so that no columns between them are left empty.
        for name in sorted(kept, key=lambda name: (kept[name] % LINE > 0, kept[name] == 1)):
            self._kept[name] = (self._room("kept", kept[name]), kept[name])

    def access(self, role: str, name: str = "") -> Access:
        return Access(self._numbers.setdefault((role, name), len(self._numbers)))

    def kept(self, name: str) -> Access:
        return replace(self.access("kept"), column=self._kept[name][0])

    @property
    def kept_columns(self) -> tuple[Span, ...]:
        return tuple(self._kept.values())

    def leaf(self, slot: Slot, shape: Shape) -> Access:
        """Where a leaf lies."""
        if slot.kind == "kept":
            return self.kept(slot.name)
        if slot.kind == "state":
            first = self.access("first", slot.name)
            return replace(self.access("state", slot.name), when="before", otherwise=first)
        if slot.kind in FIXED:
            self._widths.setdefault((slot.kind, slot.name), width(shape, self._sizes))
        return self.access("state" if slot.kind == "next" else slot.kind, slot.name)

    def grow(self, role: str, size: int) -> Access:
        """New columns in scratch, sums or more."""
        return replace(self.access(role), column=self._room(role, size))

    def _room(self, role: str, size: int) -> int:
        column = begin(self._widths[role, ""], size)
        self._widths[role, ""] = column + size
        return column

    def buffers(self) -> tuple[Buffer, ...]:
        return tuple(
            Buffer(role, name, SPANS[role], self._width(role, name)) for role, name in self._numbers
        )

    def _width(self, role: str, name: str) -> int:
        found = self._widths[role, name]
        return found if name else padded(found)

    def is_fixed(self, access: Access) -> bool:
        return self._span(access) == "once"

    def spans_steps(self, access: Access) -> bool:
        """Whether a place holds a row for every step when the loop is done."""
        return self._span(access) == "steps" and access.when != "after"

    def _span(self, access: Access) -> str:
        role, _ = list(self._numbers)[access.buffer]
        return SPANS[role]


ROLES = {
    "state": ("state", "first", "direct", "final", "rest", "delta"),
    "input": ("input", "grad"),
}
SPANS: dict[str, str] = dict.fromkeys(FIXED, "once")
SPANS |= dict.fromkeys(("first", "final", "scratch", "sums"), "rows")
SPANS |= dict.fromkeys(
    ("input", "state", "output", "kept", "given", "direct", "rest", "more", "grad", "delta"),
    "steps",
)


def width(shape: Shape, sizes: Sizes) -> int:
    return shape[0].at(sizes) if shape else 1


class Arriving:
    """What the reverse step gives for a state: products of vectors with matrices, and the other terms of the sum."""

    def __init__(self, graph: Graph, state: str):
        self.state = state
        (output,) = (o for o in graph.outputs_of("carry") if o.slot.name == state)
        self.shape = graph.nodes[output.node].shape
        self.node = graph.slots().get(Slot("carry", state))
        self.products: list[int] = []
        self.rest: list[int] = []
        nodes = graph.nodes
        # A sum that other lines of this step read is worked out here, and handed on whole.
        read = bool(graph.uses()[output.node])
        # Only what the error has reached can wait for the next step; a forward value that is worked out again cannot.
        slots = graph.slots().items()
        reached = graph.after(i for slot, i in slots if slot.kind in ("carry", "given"))

        def part(i: int) -> None:
            node = nodes[i]
            if node.op == "add":
                for argument in node.args:
                    part(argument)
            elif node.op == "matvec" and node.args[1] in reached:
                self.products.append(i)
            elif node.op != "expand" or nodes[node.args[0]].attr != 0.0:  # zeros add nothing
                self.rest.append(i)

        if not read:
            part(output.node)
        if not self.products and not self.rest:
            self.rest.append(output.node)

    def operands(self, graph: Graph) -> list[int]:
        return [graph.nodes[i].args[1] for i in self.products]


def _arrive(items: Items, memory: Memory, each: Arriving, direct: bool) -> None:
    """What arrives at a state after the step: from the step after, and from the error directly."""
    if each.node is None:
        return
    final = memory.access("final", each.state)
    size = items.size(each.shape)
    parts: list[int] = []
    if each.products:
        start = None if each.rest else final
        parts.append(items.add(Item("arrive", (), Arrival(each.state, start), size)))
    if each.rest:
        rest = replace(memory.access("rest", each.state), when="after", otherwise=final)
        parts.append(items.read(rest, size))
    if direct:
        parts.append(items.read(memory.access("direct", each.state), size))
    items.set(each.node, items.sum(parts))


def _carry(items: Items, writer: Writer, memory: Memory, each: Arriving) -> Carry:
    """Have everything stored that the next reverse step needs of this one."""
    products = []
    for i in each.products:
        matrix, operand = items.graph.nodes[i].args
        vector = items.of(operand)
        place = writer.whole(vector)
        products.append(Product(matrix_of(items.graph, matrix), place, items[vector].size or 1))
    rest = None
    size = items.size(each.shape) or 1
    if each.rest:
        access = memory.access("rest", each.state)
        terms = items.sum([items.of(i) for i in each.rest])
        if items[terms].size is None:  # one number for all units, beside the products
            terms = items.add(Item("expand", (terms,), None, size))
        writer.store(terms, access)
        rest = Column(access, size)
    return Carry(each.state, size, tuple(products), rest)


def _product(items: Items, writer: Writer, total: Output) -> Total:
    """A matrix's gradient: two columns to be multiplied."""
    left, right = (items.of(a) for a in items.graph.nodes[total.node].args)
    columns = (Column(writer.whole(i), items[i].size or 1) for i in (left, right))
    return Total(total.slot, *columns)


def _sum(items: Items, writer: Writer, memory: Memory, total: Output) -> Total:
    """A vector's gradient, or a number's: a column that is there anyway, or a sum that runs along with the steps."""
    item = items.of(total.node)
    size = items[item].size or 1
    known = writer.known_whole(item)
    if known is None:
        known = memory.grow("sums", size)
        writer.store(item, known, add=True)
    return Total(total.slot, Column(known, size))
