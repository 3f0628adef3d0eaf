"""A cell in words a reader can check: its equations, its derived backpropagation through time, its plan."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from refold.errors import EquationError, PlanError
from refold.ir.graph import SLOT, Graph, Leaf, Output, Slot
from refold.ir.ops import OPS
from refold.ir.rewrite import fold, simplified
from refold.ir.show import UNARY, Latex, Plain, Printer, Style, Text
from refold.ir.trace import Cell
from refold.shapes import shape_text

from .adjoint import reverse, reverse_once
from .plan import Half, Plan, plan
from .split import hoist

Stage = Literal["graph", "adjoint", "plan"]
STAGES: tuple[Stage, ...] = get_args(Stage)

Equation = tuple[str, str]  # left-hand side, right-hand side


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `explain` found: print it, or take `.latex` for a paper.

    Attributes  step: the recurrence; once: what is computed from the parameters alone; adjoint: the state adjoints;
                gradients: of weights, as sums over time, and of inputs; each a list of (left, right) sides
    """

    cell: Cell
    plan: Plan
    stages: tuple[str, ...] = STAGES

    @property
    def step(self) -> list[Equation]:
        return _step(self.cell, Plain())

    @property
    def adjoint(self) -> list[Equation]:
        return _reverse(self.cell, Plain())[0]

    @property
    def gradients(self) -> list[Equation]:
        return _reverse(self.cell, Plain())[1]

    @property
    def latex(self) -> str:
        """The equations as one LaTeX `align*` environment for each stage asked for."""
        style = Latex()
        blocks = []
        if "graph" in self.stages:
            blocks.append(_step(self.cell, style))
        if "adjoint" in self.stages:
            adjoint, gradients = _reverse(self.cell, style)
            blocks += [adjoint, gradients]
        return "\n".join(_align(block) for block in blocks)

    def __str__(self) -> str:
        writers: dict[str, Callable[[Explanation], str]] = {
            "graph": _graph,
            "adjoint": _adjoint,
            "plan": _plan,
        }
        return "\n\n".join([_title(self.cell), *(writers[stage](self) for stage in self.stages)])

    __repr__ = __str__


def explain(cell: Cell, stages: Sequence[str] | str = STAGES, memory: str = "fast") -> Explanation:
    """The equations of a cell, the derived equations of backpropagation through time, and the plan.

    Errors   EquationError for what is no cell; PlanError for a stage other than "graph", "adjoint", "plan"
    Example  print(rf.explain(rf.cells.get("lstm")))
    """
    if not isinstance(cell, Cell):
        kind = type(cell).__name__
        raise EquationError(
            f"rf.explain was given a {kind}, and explains a cell.",
            f"Write rf.explain(rf.cells.get({cell!r}))."
            if kind == "str"
            else "Put @rf.cell above the function.",
        )
    wanted = (stages,) if isinstance(stages, str) else tuple(stages)
    strange = [s for s in wanted if s not in STAGES]
    if strange:
        raise PlanError(f'there is no stage "{strange[0]}".', f"Choose among {', '.join(STAGES)}.")
    return Explanation(cell, plan(cell, memory), wanted)


# Equations ------------------------------------------------------------------------------------------------------------


def _step(cell: Cell, style: Style) -> list[Equation]:
    """The recurrence as it was written."""
    printer = Printer(cell.graph, style)
    printer.name_lines()
    varying = cell.graph.varying()
    equations = [
        (style.name(name, 0 if i in varying else None), printer.line(i))
        for i, name in sorted(printer.names.items())
    ]
    for output in cell.graph.outputs:
        if output.node not in printer.names or _own_name(cell.graph, output):
            right = printer.expression(output.node, 0).text
            equations.append((style.name(output.slot.name, 0), right))
    return equations


def _own_name(graph: Graph, output: Output) -> bool:
    """A second state, or an output, that is the same line as another has an equation to say so."""
    states = {o.slot.name: o.node for o in graph.outputs_of("state")}
    if output.slot.kind == "output":
        return output.slot.name not in states
    first = next(name for name, node in states.items() if node == output.node)
    return first != output.slot.name


def _reverse(cell: Cell, style: Style) -> tuple[list[Equation], list[Equation]]:
    """The state adjoints with what they are made of, and the gradients of weights and inputs."""
    once, step = hoist(simplified(cell.graph))
    known = _once(once, style)
    back = fold(reverse(step))
    printer = Printer(back, style, known)
    written = Printer(cell.graph, style)
    written.name_lines()
    _name_forward_lines(printer, step)
    defined = set(printer.names)
    # A name that the step's own equations use must not come back here for something else.
    printer.name_lines({leaf.name for leaf in step.leaves} | set(written.names.values()))
    adjoint = [_delta(printer, output) for output in back.outputs_of("delta")]
    defined |= {o.node for o in back.outputs_of("delta")}
    for i, name in sorted(printer.names.items()):
        if i not in defined:
            left = style.delta(name[2:], 0) if name.startswith("δ_") else style.name(name, 0)
            adjoint.append((left, printer.line(i)))
    fixed = _fixed(cell, once)
    gradients = [
        *_gradients(back, printer, style, known, fixed),
        *_gradients_once(once, style, known, fixed),
    ]
    return adjoint, gradients


def _delta(printer: Printer, output: Output) -> Equation:
    """The adjoint of a state: what E says about it, directly or through the output, and what later steps say."""
    style, name = printer.style, output.slot.name
    node = printer.graph.nodes[output.node]
    carry = next(o.node for o in printer.graph.outputs_of("carry") if o.slot.name == name)
    arrives = printer.expression(carry, 1).text
    says = style.direct(style.name(name, 0))
    if node.op != SLOT:  # the line is: carry + what the output says
        says = printer.expression(node.args[1], 0).text
    return style.delta(name, 0), says if arrives == "0" else f"{says} + {arrives}"


def _fixed(cell: Cell, once: Graph) -> set[str]:
    """Parameters that are not learned, and what is computed from them alone: nobody asks for their gradients."""
    fixed = {leaf.name for leaf in cell.graph.leaves_of("param") if not leaf.learn}
    for output in once.outputs:
        read = [once.nodes[i].attr for i in once.before([output.node]) if once.nodes[i].op == SLOT]
        if all(isinstance(slot, Slot) and slot.name in fixed for slot in read):
            fixed.add(output.slot.name)
    return fixed


def _name_forward_lines(printer: Printer, step: Graph) -> None:
    """Lines of the step that the reverse step reads keep the names that the user gave them."""
    forward = Printer(step, printer.style, printer.known)
    forward.name_lines()
    lines = {node: i for i, node in enumerate(step.nodes)}
    same: dict[int, int] = {}
    for i, node in enumerate(printer.graph.nodes):
        if all(a in same for a in node.args):
            there = type(node)(node.op, tuple(same[a] for a in node.args), node.shape, node.attr)
            if there in lines:
                same[i] = lines[there]
                if same[i] in forward.names and step.nodes[same[i]].label:
                    printer.names[i] = forward.names[same[i]]


def _once(once: Graph, style: Style) -> dict[Slot, Text]:
    """What is computed from parameters alone is written out where the user gave it no name."""
    printer = Printer(once, style)
    return {
        output.slot: printer.expression(output.node, 0, inside=True)
        for output in once.outputs
        if not once.nodes[output.node].label
    }


def _gradients(
    back: Graph, printer: Printer, style: Style, known: dict[Slot, Text], fixed: set[str]
) -> list[Equation]:
    """Each weight's gradient as a sum over time, and each input's; what is not learned has none."""
    terms: dict[str, list[str]] = {}
    for output in back.outputs_of("total"):
        if output.slot.name not in fixed:
            terms.setdefault(output.slot.name, []).append(printer.expression(output.node, 0).text)
    equations = [
        (
            _total(style, name, known),
            style.summed(texts[0] if len(texts) == 1 else f"[{' + '.join(texts)}]"),
        )
        for name, texts in terms.items()
    ]
    for output in back.outputs_of("input"):
        equations.append(
            (style.total(style.name(output.slot.name, 0)), printer.expression(output.node, 0).text)
        )
    return equations


def _gradients_once(
    once: Graph, style: Style, known: dict[Slot, Text], fixed: set[str]
) -> list[Equation]:
    back = fold(reverse_once(once))
    totals = {Slot("total", s.name): Text(_total(style, s.name, known), UNARY) for s in known}
    printer = Printer(back, style, totals)
    return [
        (style.total(style.name(o.slot.name, None)), printer.expression(o.node, 0).text)
        for o in back.outputs
        if o.slot.name not in fixed
    ]


def _total(style: Style, name: str, known: dict[Slot, Text]) -> str:
    written = known.get(Slot("once", name))
    return style.total(style.name(name, None) if written is None else f"({written.text})")


# Blocks of text -------------------------------------------------------------------------------------------------------


def _title(cell: Cell) -> str:
    return "\n".join([cell.name, *(f"  {text}" for text in (cell.source, cell.about) if text)])


def _graph(e: Explanation) -> str:
    params = e.cell.graph.leaves_of("param")
    declared = {
        "reads": e.cell.graph.leaves_of("input"),
        "carries": e.cell.graph.leaves_of("state"),
        "learns": tuple(leaf for leaf in params if leaf.learn),
        "is given": tuple(leaf for leaf in params if not leaf.learn),
    }
    rows = [
        _listed(f"  {verb:9}", _declared(leaves)) for verb, leaves in declared.items() if leaves
    ]
    return "\n".join(["step", *rows, *_block(e.step)])


def _declared(leaves: tuple[Leaf, ...]) -> str:
    # A shape must not be broken over two lines.
    return ", ".join(
        f"{leaf.name} {shape_text(leaf.shape)}".replace(" ", "\u00a0") for leaf in leaves
    )


def _listed(head: str, text: str) -> str:
    indent = " " * len(head)
    return textwrap.fill(text, 100, initial_indent=head, subsequent_indent=indent).replace(
        "\u00a0", " "
    )


def _adjoint(e: Explanation) -> str:
    state = e.cell.graph.leaves_of("state")[0].name
    head = [
        "backpropagation through time",
        f"  E is the whole error. δ_{state}(t) is its derivative with respect to {state} as it leaves step t: what E",
        f"  says about it, ∂E/∂{state}(t), and what all later steps say; 0 after the last. ⊙ is elementwise.",
    ]
    if any("'(t)" in left for left, _ in e.adjoint):
        head.append("  A prime adds what is said through the other results of step t.")
    return "\n".join([*head, *_block(e.adjoint), *_block(e.gradients)])


def _plan(e: Explanation) -> str:
    p = e.plan
    rows = [f"plan (memory={p.memory!r})"]
    if p.once.outputs:
        names = [o.slot.name.replace(" ", "\u00a0") for o in p.once.outputs]
        made = f"{', '.join(names)}: from the parameters, at each call"
        rows.append(_listed("  once     ", made))
    rows += [*_half("forward", p.forward), *_half("backward", p.backward)]
    printer = _named_printer(p.forward.graph)
    kept = [
        printer.expression(k.node, 0, inside=not printer.graph.nodes[k.node].label).text
        for k in p.kept
    ]
    rows.append(_listed("  kept     ", ", ".join(["the states after every step", *kept])))
    c = p.cost
    rows += [
        f"  cost     forward {c.flops} FLOP, of which {c.flops_loop} wait in the loop; backward {c.flops_back}",
        f"           {c.functions} calls of exp and the like; {c.weights} weights",
        f"           {c.kept} numbers kept, {c.kept_bytes()} bytes in float32",
    ]
    return "\n".join(rows)


def _named_printer(graph: Graph) -> Printer:
    printer = Printer(graph, Plain())
    printer.name_lines()
    return printer


def _half(name: str, half: Half) -> list[str]:
    graph, parts = half.graph, half.split
    printer = _named_printer(graph)
    rows = [f"  {name}"]
    if parts.ahead:
        rows.append(f"    ahead    {_counted(graph, parts.ahead)}")
    for number, stage in enumerate(half.stages, 1):
        products = [
            f"[{'; '.join(_matrix(graph, i) for i in group)}] {printer.expression(vector, 0).within(UNARY)}"
            for vector, group in stage.products
        ]
        work = [
            *products,
            *_count(stage.reductions, "sum over the features", "sums over the features"),
        ]
        work += _count(stage.pointwise, "pointwise line", "pointwise lines")
        rows.append(f"    stage {number}  {'; '.join(work)}")
    if parts.behind:
        rows.append(f"    behind   {_counted(graph, parts.behind)}")
    return rows


def _counted(graph: Graph, lines: tuple[int, ...]) -> str:
    products = [i for i in lines if OPS[graph.nodes[i].op].cost == "product"]
    others = [
        i
        for i in lines
        if graph.nodes[i].op not in ("const", "size", "transpose") and i not in products
    ]
    texts = _count(products, "product over all T B rows", "products over all T B rows")
    return (
        "; ".join([*texts, *_count(others, "other line", "other lines")])
        or "numbers and transposes"
    )


def _count(items: Sequence[int], one: str, many: str) -> list[str]:
    return [f"{len(items)} {one if len(items) == 1 else many}"] if items else []


def _matrix(graph: Graph, product: int) -> str:
    node = graph.nodes[graph.nodes[product].args[0]]
    if node.op == "transpose":
        return f"{graph.nodes[node.args[0]].label}ᵀ"
    return node.label or "matrix"


def _block(equations: list[Equation]) -> list[str]:
    width = max((len(left) for left, _ in equations), default=0)
    return [f"  {left:{width}} = {right}" for left, right in equations]


def _align(equations: list[Equation]) -> str:
    body = " \\\\\n".join(f"  {left} &= {right}" for left, right in equations)
    return f"\\begin{{align*}}\n{body}\n\\end{{align*}}"
