"""Graphs as equations, in plain text and in LaTeX.

A line that the user named, or that is long and read twice, is an equation of its own; the rest is written where it is
read. Time is written out: h(t-1) is the state before the step, h(t) the state after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from .graph import FIXED, SLOT, Graph, Node, Slot
from .ops import OPS

# How tightly an expression binds: a sum must be bracketed inside a product, a product inside a power. W v and a / b
# are bracketed inside an elementwise product too: W v ⊙ w and a / b ⊙ w could be read in two ways.
SUM, APPLY, PRODUCT, UNARY, ATOM = range(5)
_LONG = 24  # characters from which an expression that is read twice gets a name


@dataclass(frozen=True, slots=True)
class Text:
    """An expression, and how tightly it binds."""

    text: str
    binds: int

    def within(self, level: int) -> str:
        """The expression as a part of one that binds at `level`."""
        return f"({self.text})" if self.binds < level else self.text


class Style(Protocol):
    """How names, times and operations look."""

    def name(self, name: str, when: int | None) -> str: ...
    def delta(self, name: str, when: int | None) -> str: ...
    def direct(self, text: str) -> str: ...
    def total(self, text: str) -> str: ...
    def number(self, value: float) -> str: ...
    def call(self, function: str, arguments: list[str]) -> str: ...
    def transposed(self, text: str) -> str: ...
    def power(self, text: str, exponent: str) -> str: ...
    def summed(self, text: str) -> str: ...
    def operator(self, op: str) -> str: ...


_OPERATORS = {
    "hadamard": (" ⊙ ", r" \odot "),
    "scale": (" · ", r" \, "),
    "apply": (" ", r" \, "),
    "over": (" / ", " / "),
    "ones": ("1 · ", r"\mathbf{1} \, "),
    "lt": (" < ", " < "),
    "le": (" ≤ ", r" \le "),
    "eq": (" = ", " = "),
    "and": (" & ", r" \wedge "),
    "or": (" | ", r" \vee "),
}


class Plain:
    """Unicode text for a terminal: W_h h(t-1), δ_h(t), Σ_t."""

    def name(self, name: str, when: int | None) -> str:
        return name if when is None else f"{name}({_time(when)})"

    def delta(self, name: str, when: int | None) -> str:
        return self.name(f"δ_{name}", when)

    def direct(self, text: str) -> str:
        return f"∂E/∂{text}"

    def total(self, text: str) -> str:
        return f"dE/d{text}"

    def number(self, value: float) -> str:
        return f"{value:.6g}"

    def call(self, function: str, arguments: list[str]) -> str:
        known = {"sigmoid": "σ", "not": "not ", "norm": "‖·‖"}.get(function, function)
        if function == "norm":
            return f"‖{arguments[0]}‖"
        return f"{known}({', '.join(arguments)})"

    def transposed(self, text: str) -> str:
        return f"{text}ᵀ"

    def power(self, text: str, exponent: str) -> str:
        return f"{text}²" if exponent == "2" else f"{text}^{exponent}"

    def summed(self, text: str) -> str:
        return f"Σ_t {text}"

    def operator(self, op: str) -> str:
        return _OPERATORS[op][0]


class Latex:
    """The same for a paper: W_{h} h_{t-1}, \\delta^{h}_{t}."""

    _FUNCTIONS: ClassVar = {
        "sigmoid": r"\sigma",
        "softplus": r"\operatorname{softplus}",
        "tanh": r"\tanh",
        "exp": r"\exp",
        "log": r"\log",
        "sin": r"\sin",
        "cos": r"\cos",
        "atan": r"\arctan",
        "minimum": r"\min",
        "maximum": r"\max",
        "max": r"\max",
        "sum": r"\textstyle\sum",
        "not": r"\neg",
    }

    def name(self, name: str, when: int | None) -> str:
        owner, _, base = name.rpartition(".")
        primes = len(base) - len(base.rstrip("'"))
        base, _, sub = base.rstrip("'").partition("_")
        greek = {
            "alpha",
            "beta",
            "gamma",
            "tau",
            "lambda",
            "mu",
            "nu",
            "theta",
            "omega",
            "sigma",
            "epsilon",
            "rho",
        }
        head = f"\\{base}" if base in greek else base if len(base) == 1 else f"\\mathrm{{{base}}}"
        subs = [s.replace("_", r"\_") for s in (sub,) if s]
        if len(sub) > 1:
            subs = [f"\\mathrm{{{subs[0]}}}"]
        if when is not None:
            subs.append(_time(when))
        raised = r"\prime" * primes + (f"({owner})" if owner else "")
        lowered = f"_{{{','.join(subs)}}}" if subs else ""
        return head + (f"^{{{raised}}}" if raised else "") + lowered

    def delta(self, name: str, when: int | None) -> str:
        lowered = "" if when is None else f"_{{{_time(when)}}}"
        return rf"\delta^{{{self.name(name, None)}}}{lowered}"

    def direct(self, text: str) -> str:
        return rf"\frac{{\partial E}}{{\partial {text}}}"

    def total(self, text: str) -> str:
        return rf"\frac{{dE}}{{d{text}}}"

    def number(self, value: float) -> str:
        mantissa, _, exponent = f"{value:.6g}".partition("e")
        return rf"{mantissa} \cdot 10^{{{int(exponent)}}}" if exponent else mantissa

    def call(self, function: str, arguments: list[str]) -> str:
        inside = ", ".join(arguments)
        if function == "norm":
            return rf"\lVert {inside} \rVert"
        if function == "abs":
            return rf"\lvert {inside} \rvert"
        if function == "sqrt":
            return rf"\sqrt{{{inside}}}"
        escaped = function.replace("_", r"\_")
        known = self._FUNCTIONS.get(function, rf"\operatorname{{{escaped}}}")
        return rf"{known}\left({inside}\right)"

    def transposed(self, text: str) -> str:
        return rf"{{{text}}}^{{\top}}"

    def power(self, text: str, exponent: str) -> str:
        return f"{{{text}}}^{{{exponent}}}"

    def summed(self, text: str) -> str:
        return rf"\sum_t {text}"

    def operator(self, op: str) -> str:
        return _OPERATORS[op][1]


@dataclass
class Printer:
    """Writes the lines of one graph. `known` are slots to be written as an expression instead of a name."""

    graph: Graph
    style: Style
    known: Mapping[Slot, Text] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)  # lines that are equations of their own

    def name_lines(self, taken: Iterable[str] = ()) -> None:
        """Choose the lines that get an equation: new states, what the user named, what is long and read twice."""
        used = set(taken) | {leaf.name for leaf in self.graph.leaves}
        for output in self.graph.outputs_of("state"):
            if self.graph.nodes[output.node].op != SLOT:
                self.names.setdefault(output.node, output.slot.name)
        uses, varying = self.graph.uses(), self.graph.varying()
        for i in range(len(self.graph.nodes)):
            if i in self.names or self.graph.nodes[i].op in (SLOT, "const", "size", "transpose"):
                continue
            label = self.graph.nodes[i].label
            if label is None and i in varying:
                label = self._needed_name(i, uses[i])
            if label is not None:
                self.names[i] = free_name(label, used)

    def _needed_name(self, i: int, readers: list[int]) -> str | None:
        """A name for what the user gave none: `a` for what products read in the reverse step, v for what is long."""
        if OPS[self.graph.nodes[i].op].boolean:
            return None
        if any(
            self.graph.nodes[r].op == "outer" and self.graph.nodes[r].args[0] == i for r in readers
        ):
            return "a"
        # Measured in plain text, so that both styles name the same lines.
        plain = Printer(self.graph, Plain(), names=self.names)
        return "v" if len(readers) > 1 and len(plain.line(i)) > _LONG else None

    def line(self, i: int, offset: int = 0) -> str:
        """The right-hand side of a named line's equation."""
        return self.expression(i, offset, inside=True).text

    def expression(self, i: int, offset: int, inside: bool = False) -> Text:
        """A line as it is read `offset` steps from t; `inside` writes it out though it has a name."""
        node = self.graph.nodes[i]
        if not inside and i in self.names:
            return self._named(i, self.names[i], offset)
        if node.op == SLOT:
            assert isinstance(node.attr, Slot)
            return self.slot(node.attr, offset)
        writer = _WRITERS.get(node.op)
        if writer is not None:
            return writer(self, node, offset)
        arguments = [self.expression(a, offset).text for a in node.args]
        return Text(self.style.call(node.op, arguments), ATOM)

    def slot(self, slot: Slot, offset: int) -> Text:
        if slot in self.known:
            return self.known[slot]
        if slot.kind == "carry":
            return Text(self.style.delta(slot.name, offset), ATOM)
        if slot.kind == "given":
            return Text(self.style.direct(self.style.name(slot.name, offset)), ATOM)
        if slot.kind == "total":
            return Text(self.style.total(self.style.name(slot.name, None)), ATOM)
        when = None if slot.kind in FIXED else offset - (slot.kind == "state")
        return Text(self.style.name(slot.name, when), ATOM)

    def _named(self, i: int, name: str, offset: int) -> Text:
        when = offset if i in self.graph.varying() else None
        if name.startswith("δ_"):
            return Text(self.style.delta(name[2:], when), ATOM)
        return Text(self.style.name(name, when), ATOM)


Writer = Callable[[Printer, Node, int], Text]


def _sum(sign: str, op_level: int) -> Writer:
    def write(p: Printer, node: Node, offset: int) -> Text:
        left, right = (p.expression(a, offset) for a in node.args)
        second = right.within(SUM if sign == "+" else APPLY)
        if sign == "+" and second.startswith("-"):
            return Text(f"{left.text} - {second[1:]}", op_level)
        return Text(f"{left.text} {sign} {second}", op_level)

    return write


def _mul(p: Printer, node: Node, offset: int) -> Text:
    left, right = node.args
    if left == right:
        return Text(p.style.power(p.expression(left, offset).within(ATOM), "2"), UNARY)
    vectors = all(p.graph.nodes[a].shape for a in node.args)
    sign = p.style.operator("hadamard" if vectors else "scale")
    a, b = p.expression(left, offset), p.expression(right, offset)
    if p.graph.nodes[right].op in ("const", "size") and not vectors:
        a, b = b, a  # a number stands in front
    return Text(f"{a.within(PRODUCT)}{sign}{b.within(PRODUCT)}", PRODUCT)


def _div(p: Printer, node: Node, offset: int) -> Text:
    a, b = (p.expression(x, offset) for x in node.args)
    return Text(f"{a.within(PRODUCT)}{p.style.operator('over')}{b.within(UNARY)}", APPLY)


def _neg(p: Printer, node: Node, offset: int) -> Text:
    return Text(f"-{p.expression(node.args[0], offset).within(APPLY)}", SUM)


def _pow(p: Printer, node: Node, offset: int) -> Text:
    assert isinstance(node.attr, float)
    return Text(
        p.style.power(p.expression(node.args[0], offset).within(ATOM), f"{node.attr:g}"), UNARY
    )


def _apply(p: Printer, node: Node, offset: int) -> Text:
    W, v = (p.expression(a, offset) for a in node.args)
    return Text(f"{W.within(UNARY)}{p.style.operator('apply')}{v.within(UNARY)}", APPLY)


def _outer(p: Printer, node: Node, offset: int) -> Text:
    g, v = (p.expression(a, offset) for a in node.args)
    return Text(
        f"{g.within(UNARY)}{p.style.operator('apply')}{p.style.transposed(v.within(ATOM))}", APPLY
    )


def _transpose(p: Printer, node: Node, offset: int) -> Text:
    return Text(p.style.transposed(p.expression(node.args[0], offset).within(ATOM)), UNARY)


def _infix(p: Printer, node: Node, offset: int) -> Text:
    a, b = (p.expression(x, offset).within(APPLY) for x in node.args)
    return Text(f"{a}{p.style.operator(node.op)}{b}", SUM)


def _const(p: Printer, node: Node, offset: int) -> Text:
    assert isinstance(node.attr, float)
    return Text(p.style.number(node.attr), SUM if node.attr < 0 else ATOM)


def _rows(p: Printer, node: Node, offset: int) -> Text:
    """A piece of a vector, v[start:stop], or zeros around one."""
    assert isinstance(node.attr, tuple)
    a = p.expression(node.args[0], offset)
    start, rows = node.attr
    if node.op == "pad":
        return Text(p.style.call("pad", [a.text, f"{start}", f"{rows}"]), ATOM)
    return Text(f"{a.within(ATOM)}[{start}:{start + rows}]", ATOM)


def _expand(p: Printer, node: Node, offset: int) -> Text:
    """A scalar for each element of a vector."""
    a = p.expression(node.args[0], offset)
    if p.graph.nodes[node.args[0]].op == "const":
        return a
    return Text(f"{p.style.operator('ones')}{a.within(PRODUCT)}", PRODUCT)


_WRITERS: dict[str, Writer] = {
    "add": _sum("+", SUM),
    "sub": _sum("-", SUM),
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "pow": _pow,
    "matvec": _apply,
    "matmul": _apply,
    "outer": _outer,
    "transpose": _transpose,
    "const": _const,
    "size": lambda p, node, offset: Text(str(node.attr), ATOM if len(str(node.attr)) == 1 else SUM),
    "slice": _rows,
    "pad": _rows,
    "expand": _expand,
    **dict.fromkeys(("lt", "le", "eq", "and", "or"), _infix),
}


def free_name(name: str, used: set[str]) -> str:
    """The name, with a prime for each time it is taken; names that were made up are numbered instead."""
    made_up, number = name in ("v", "a"), 1
    base = name
    while name in used:
        number += 1
        name = f"{base}_{number}" if made_up else f"{name}'"
    used.add(name)
    return name


def _time(when: int) -> str:
    return "t" if when == 0 else f"t{when:+d}"
