"""From the traced graph to its picture: sums of products with their activation become one gate, the rest small signs.

What depends on parameters alone is not drawn but written: as a factor on a line, as a bias, or, where it is long, as a
note under the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from refold.ir.graph import SLOT, Graph, Node, Slot
from refold.ir.ops import OPS
from refold.ir.show import Plain, Printer
from refold.shapes import Shape, Size

from .picture import Box, Diagram, Label, Loop, Port

MOST_BOXES = 60
_LONG = 16  # characters from which a factor is written as a name, with a note
_LONGEST = 80  # and a note from which only says what the factor is made of
_SIGNS = {"sigmoid": "σ", "neg": "−", "abs": "|·|", "norm": "‖·‖", "sum": "sum", "sqrt": "√"}
_COMPARED = {"lt": "a < b", "le": "a ≤ b", "eq": "a = b", "and": "and", "or": "or"}
_SERIES = 4  # the degree from which a polynomial in numbers alone is one box
_THROUGH = ("stop_gradient", "expand")
_MINUS = "−"


def derive(graph: Graph, title: str, numbers: Callable[[Size], str] = str) -> Diagram:
    """The picture of one step; `numbers` writes a size, as a letter or as what a layer has for it."""
    return _folded(_Drawing(graph, numbers).diagram(title))


@dataclass
class _Sum:
    """A sum while its terms are collected."""

    ports: list[Port] = field(default_factory=list)
    bias: list[Label] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


class _Drawing:
    def __init__(self, graph: Graph, numbers: Callable[[Size], str]):
        self.graph, self.numbers = graph, numbers
        self.varying = graph.varying()
        self.readers = graph.uses()
        self.leaving = {output.node for output in graph.outputs}
        self.boxes: list[Box] = []
        self.drawn: dict[int, int] = {}
        self.named: dict[int, str] = {}
        self.notes: list[str] = []
        self.states = {leaf.name for leaf in graph.leaves_of("state")}

    def diagram(self, title: str) -> Diagram:
        past = {leaf.name: self._leaf("state", leaf.name) for leaf in self.graph.leaves_of("state")}
        for leaf in self.graph.leaves_of("input"):
            self._leaf("input", leaf.name)
        # In the order in which the equation says it: gates then stand as they are listed in papers.
        for node in sorted(self.leaving):
            self._port(node)
        found: dict[str, int] = {}
        loops = []
        for output in self.graph.outputs_of("state"):
            name = output.slot.name
            size = self._size(self.graph.nodes[output.node].shape)
            port = self._port(output.node)
            found[name] = self._add(Box("state", name, (port,), size=size))
            loops.append(Loop(found[name], past[name]))
        (output,) = self.graph.outputs_of("output")
        if output.slot.name in found:
            leaves = found[output.slot.name]
        else:
            size = self._size(self.graph.nodes[output.node].shape)
            leaves = self._add(
                Box("output", output.slot.name, (self._port(output.node),), size=size)
            )
        return Diagram(title, tuple(self.boxes), tuple(loops), leaves, tuple(self.notes))

    # Boxes ------------------------------------------------------------------------------------------------------------

    def _add(self, box: Box) -> int:
        self.boxes.append(box)
        return len(self.boxes) - 1

    def _leaf(self, kind: str, name: str) -> int:
        shape = next(leaf.shape for leaf in self.graph.leaves if leaf.slot == Slot(kind, name))
        node = self.graph.slots().get(Slot(kind, name))
        box = self._add(Box({"state": "past"}.get(kind, kind), name, size=self._size(shape)))
        if node is not None:
            self.drawn[node] = box
        return box

    def _box(self, i: int) -> int:
        """The box whose value is this line's."""
        i = self._through(i)
        if i not in self.drawn:
            box = self._made(i)
            self.drawn[i] = self._add(box)
        return self.drawn[i]

    def _made(self, i: int) -> Box:
        node = self.graph.nodes[i]
        name = self._name(i)
        if i not in self.varying:
            label = self._fixed(i)
            return Box("param", label.text, size=label.size)
        for pattern in (self._softmax, self._layer_norm, self._clip, self._polynomial):
            found = pattern(i)
            if found is not None:
                text, inner = found
                return Box("function", text, (self._port(inner),), name)
        if self._linear(i):
            return self._weighted(i, "", name)
        if node.op == "mul" and node.args[0] == node.args[1]:
            return Box("function", "( · )²", (self._port(node.args[0]),), name)
        if node.op in ("mul", "div"):
            first, second = (self._port(a) for a in node.args)
            if node.op == "div":
                second = _marked(second, "÷")
            return Box("op", "⊙", (first, second), name)
        if node.op in _COMPARED:
            ports = [_marked(self._port(a), mark) for a, mark in zip(node.args, "ab", strict=True)]
            return Box("function", _COMPARED[node.op], tuple(ports), name)
        if node.op == "where":
            marks = ("if", "then", "else")
            ports = [_marked(self._port(a), mark) for a, mark in zip(node.args, marks, strict=True)]
            return Box("function", "choose", tuple(ports), name)
        if node.op == "concat":
            ports = [_marked(self._port(a), str(number)) for number, a in enumerate(node.args, 1)]
            return Box("bar", "", tuple(ports), name)
        if node.op in ("slice", "pad"):
            return self._cut(node, name)
        if len(node.args) == 1:
            return self._activation(i, name)
        return Box("function", node.op, tuple(self._port(a) for a in node.args), name)

    def _cut(self, node: Node, name: str) -> Box:
        assert isinstance(node.attr, tuple)
        start, rows = node.attr
        text = f"[{start}:{start + rows}]" if node.op == "slice" else "pad"
        return Box("bar", text, (self._port(node.args[0]),), name)

    def _activation(self, i: int, name: str) -> Box:
        node = self.graph.nodes[i]
        text = _SIGNS.get(node.op, node.op)
        if node.op == "pow":
            assert isinstance(node.attr, float)
            text = f"( · )^{node.attr:g}"
        inner = self._through(node.args[0])
        if self._own(inner) and self._linear(inner) and OPS[node.op].cost != "reduction":
            return self._weighted(inner, text, name)
        return Box("function", text, (self._port(inner),), name)

    def _weighted(self, i: int, activation: str, name: str) -> Box:
        """A sum of products and what is applied to it: a gate, or a lesser sign where little is added up."""
        total = _Sum()
        self._collect(i, False, total, top=True)
        ports, bias = tuple(total.ports), tuple(total.bias)
        name = name or (total.names[0] if total.names else "")
        if activation:
            if len(ports) == 1 and ports[0].label is None and not bias:
                return Box("function", activation, ports, name)
            return Box("gate", activation, ports, name, bias=bias)
        if len(ports) == 1:
            (port,) = ports
            if len(bias) == 1 and port.label == Label(_MINUS):
                return Box("function", f"{bias[0].text} −", (Port(port.source),), name)
            if not bias and port.label is not None:
                mark = port.label
                text = mark.text if "×" in mark.size else f"× {mark.text}"
                return Box(
                    "function", text.replace("× ÷", "÷"), (Port(port.source),), name, mark.size
                )
        plain = all(port.label in (None, Label(_MINUS)) for port in ports)
        if plain and not bias:
            return Box("op", "+", ports, name)
        return Box("gate", "Σ", ports, name, bias=bias)

    # Sums -------------------------------------------------------------------------------------------------------------

    def _collect(self, i: int, minus: bool, total: _Sum, top: bool = False) -> None:
        i = self._through(i)
        node = self.graph.nodes[i]
        if i not in self.varying:
            label = self._fixed(i)
            total.bias.append(Label(f"{_MINUS}{label.text}", label.size) if minus else label)
        elif node.op in ("add", "sub") and (top or self._own(i)):
            if node.label and (name := self._name(i)):
                total.names.append(name)
            self._collect(node.args[0], minus, total)
            self._collect(node.args[1], minus != (node.op == "sub"), total)
        elif node.op == "neg" and (top or self._own(i)):
            self._collect(node.args[0], not minus, total)
        else:
            port = self._port(i, top)
            total.ports.append(_marked(port, _MINUS) if minus else port)

    def _linear(self, i: int) -> bool:
        return self.graph.nodes[i].op in ("add", "sub", "neg") or self._factor(i) is not None

    def _factor(self, i: int) -> tuple[int, int] | None:
        """For a value times what is fixed: the fixed line and the value."""
        node = self.graph.nodes[i]
        if node.op in ("mul", "matvec"):
            a, b = node.args
            if a not in self.varying:
                return a, b
            if b not in self.varying:
                return b, a
        if node.op == "div" and node.args[1] not in self.varying:
            return node.args[1], node.args[0]
        return None

    def _port(self, i: int, written: bool = False) -> Port:
        """How a box reads a line: a fixed factor stands on the way, unless others read the product, too."""
        i = self._through(i)
        found = self._factor(i) if i in self.varying else None
        if found is None or not (written or (self._own(i) and not self.graph.nodes[i].label)):
            return Port(self._box(i))
        fixed, value = found
        label = self._fixed(fixed)
        if self.graph.nodes[i].op == "div":
            label = Label(f"÷ {label.text}", label.size)
        return Port(self._box(value), label)

    def _own(self, i: int) -> bool:
        """Does only one line read this one?"""
        return len(self.readers[i]) == 1 and i not in self.leaving and i not in self.drawn

    # What is fixed ----------------------------------------------------------------------------------------------------

    def _fixed(self, i: int) -> Label:
        i = self._through(i)
        node = self.graph.nodes[i]
        size = self._size(node.shape)
        if i in self.named:
            return Label(self.named[i], size)
        text = Printer(self.graph, Plain()).expression(i, 0).text.replace("-", _MINUS)
        if node.op == SLOT or (len(text) < _LONG and not node.label):
            return Label(text if node.op == SLOT or " " not in text else f"({text})", size)
        self.named[i] = node.label or f"k_{1 + len(self.named)}"
        self.notes.append(f"{self.named[i]} = {text if len(text) < _LONGEST else self._made_of(i)}")
        return Label(self.named[i], size)

    def _made_of(self, i: int) -> str:
        before = self.graph.before([i])
        names = [leaf.name for leaf in self.graph.leaves if self.graph.slots()[leaf.slot] in before]
        return f"a function of {', '.join(names)} alone"

    def _size(self, shape: Shape) -> str:
        return "×".join(self.numbers(size).replace(" ", "") for size in shape)

    def _name(self, i: int) -> str:
        """What the user called the line; a state has its own box to say so."""
        label = self.graph.nodes[i].label or ""
        return "" if label in self.states or label.rstrip("'") in self.states else label

    def _through(self, i: int) -> int:
        while self.graph.nodes[i].op in _THROUGH:
            i = self.graph.nodes[i].args[0]
        return i

    # Functions that are several lines ---------------------------------------------------------------------------------

    def _softmax(self, i: int) -> tuple[str, int] | None:
        division = self._args(i, "div")
        if division is None or self._args(division[1], "sum") != (division[0],):
            return None
        shifted = self._args(division[0], "exp")
        difference = shifted and self._args(shifted[0], "sub")
        if not difference or self._args(difference[1], "max") != (difference[0],):
            return None
        return "softmax", difference[0]

    def _layer_norm(self, i: int) -> tuple[str, int] | None:
        division = self._args(i, "div")
        centred = division and self._args(division[0], "sub")
        mean = centred and self._args(centred[1], "div")
        if not (division and centred and mean) or self._args(mean[0], "sum") != (centred[0],):
            return None
        return ("layer norm", centred[0]) if self._args(division[1], "sqrt") else None

    def _clip(self, i: int) -> tuple[str, int] | None:
        upper = self._args(i, "minimum")
        lower = upper and self._args(upper[0], "maximum")
        if not (upper and lower) or {upper[1], lower[1]} & self.varying:
            return None
        low, high = self._fixed(lower[1]).text, self._fixed(upper[1]).text
        return f"clip {low}…{high}", lower[0]

    def _polynomial(self, i: int) -> tuple[str, int] | None:
        """Numbers in Horner's scheme: a series that a function is computed by."""
        degree, argument = 0, None
        while (terms := self._args(i, "add")) and self.graph.nodes[terms[1]].op == "const":
            product = self._args(terms[0], "mul")
            if product and self.graph.nodes[product[1]].op == "const":
                product = product[::-1]
            if product is None or argument not in (None, product[1]):
                return None
            degree, (i, argument) = degree + 1, product
        if argument is None or degree < _SERIES or self.graph.nodes[i].op != "const":
            return None
        return f"polynomial of degree {degree}", argument

    def _args(self, i: int, op: str) -> tuple[int, ...] | None:
        node = self.graph.nodes[self._through(i)]
        return tuple(self._through(a) for a in node.args) if node.op == op else None


def _marked(port: Port, mark: str) -> Port:
    """The port with a mark before its label."""
    if port.label is None:
        return Port(port.source, Label(mark))
    return Port(port.source, Label(f"{mark} {port.label.text}", port.label.size))


# Fewer boxes ----------------------------------------------------------------------------------------------------------


def _folded(diagram: Diagram) -> Diagram:
    """A picture of too many boxes shows gates and states; what lies between is drawn as few boxes."""
    count = len(diagram.boxes)
    if count <= MOST_BOXES:
        return diagram
    boxes = list(diagram.boxes)
    into = list(range(count))  # the box that each is now a part of
    for i in reversed(range(count)):
        readers = {into[j] for j in range(i + 1, count) for p in boxes[j].ports if p.source == i}
        small = ("op", "function", "bar", "param")
        if boxes[i].kind in small and len(readers) == 1:
            (reader,) = readers
            if boxes[reader].kind in small:
                into[i] = reader
    return _joined(diagram, into)


def _joined(diagram: Diagram, into: list[int]) -> Diagram:
    kept = [i for i in range(len(into)) if into[i] == i]
    place = {old: new for new, old in enumerate(kept)}
    parts = {i: [j for j in range(len(into)) if into[j] == i] for i in kept}
    boxes, several = [], 0
    for i in kept:
        ports: dict[Port, None] = {}
        for j in parts[i]:
            for port in diagram.boxes[j].ports:
                if into[port.source] != i:
                    ports[Port(place[into[port.source]], port.label)] = None
        box = replace(diagram.boxes[i], ports=tuple(ports))
        if len(parts[i]) > 1:
            several += 1
            marks = [b for j in parts[i] for b in _written(diagram, j, into)]
            text = f"{len(parts[i])} operations"
            box = replace(box, kind="function", text=text, size="", bias=tuple(marks))
        boxes.append(box)
    loops = tuple(Loop(place[a.state], place[a.past]) for a in diagram.loops)
    note = (
        f"{len(into)} boxes are too many for a picture: "
        f"{several} of them stand for several operations each."
    )
    return Diagram(
        diagram.title, tuple(boxes), loops, place[diagram.output], (*diagram.notes, note)
    )


def _written(diagram: Diagram, j: int, into: list[int]) -> list[Label]:
    """The parameters that a box hides when it becomes a part of another."""
    box = diagram.boxes[j]
    inside = [p.label for p in box.ports if p.label and into[p.source] == into[j]]
    own = [Label(box.text, box.size)] if box.kind == "param" or box.size else []
    return [*own, *(label for label in inside if label.size), *box.bias]
