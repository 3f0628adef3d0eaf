"""Joined equations: what each rule writes, and that values and gradients stay, worked out here in plain Python."""

import inspect
import random
from collections import Counter
from typing import Any

import pytest
from joined import JOINED, joined_layer_norm, joined_lstm
from plain import FUNCTIONS, SIZES, Value, each, filled, flat, numbers, work_out

import refold as rf
from refold.ir.check import check
from refold.ir.graph import SLOT, Graph, Slot
from refold.ir.ops import OPS
from refold.ir.rewrite import fold, simplified
from refold.ir.show import Plain, Printer
from refold.ir.sink import sunk
from refold.ir.trace import Cell
from refold.plan.adjoint import reverse, reverse_once
from refold.plan.plan import Half, plan
from refold.plan.split import hoist
from refold.shapes import Size, shape_of, total, volume

# What the rules write -------------------------------------------------------------------------------------------------


def read(equation: str) -> Cell:
    """A cell whose output is a function of x, h, c and parameters; its states need everything that is declared."""

    @rf.cell
    def c(
        x=rf.Input("m"),
        h=rf.State("n"),
        c=rf.State("2n"),
        *,
        W=rf.Weight("2n m+n"),
        U=rf.Weight("2n n"),
        V=rf.Weight("k n"),
        Q=rf.Weight("n 2n"),
        b=rf.Bias("2n"),
    ):
        new = rf.tanh(V.T @ (V @ h)) + Q @ (c * b)
        kept = U @ new + c * rf.sum(x) + rf.sum(W.T @ c)
        names = {"x": x, "h": h, "c": c, "W": W, "U": U, "V": V, "Q": Q, "b": b, "new": new}
        return rf.Step(new, kept, output=eval(equation, {"rf": rf}, names))

    return c


def output(graph: Graph) -> str:
    """The output, written out in full."""
    return Printer(graph, Plain()).expression(graph.outputs_of("output")[0].node, 0).text


SUNK = {
    # what is cut
    "rf.split(rf.tanh(c), 2)[1]": "tanh(c(t-1)[n:2 n])",
    "rf.split(c * rf.sum(h) + 1, 2)[0]": "c(t-1)[0:n] · sum(h(t-1)) + 1",
    "rf.split(rf.where(c < b, c, 0.5), 2)[0]": ("where(c(t-1)[0:n] < b[0:n], c(t-1)[0:n], 0.5)"),
    "rf.split(U @ h + b, 2)[1]": "U[n:2 n] h(t-1) + b[n:2 n]",
    "rf.split(U @ h + b, 2)[1] * rf.split(U @ h + b, 2)[0]": (
        "(U[n:2 n] h(t-1) + b[n:2 n]) ⊙ (U[0:n] h(t-1) + b[0:n])"
    ),
    "rf.split(rf.split(rf.sin(rf.concat(c, h)), 'n', '2n')[1], 2)[0]": "sin(c(t-1)[n:2 n])",
    "rf.split(rf.concat(x, h, c), 'm', '3n')[0]": "x(t)",
    "rf.split(rf.concat(x, h, c), 'm', '3n')[1]": "concat(h(t-1), c(t-1))",
    "rf.split(rf.concat(h, c, x), '2n', 'n', 'm')[0]": "concat(h(t-1), c(t-1)[0:n])",
    # what is joined
    "W @ rf.concat(x, h)": "(Wᵀ)[0:m]ᵀ x(t) + (Wᵀ)[m:m + n]ᵀ h(t-1)",
    "U.T @ rf.concat(h, h)": "U[0:n]ᵀ h(t-1) + U[n:2 n]ᵀ h(t-1)",
    "W @ rf.split(rf.concat(h, x, h), 'n', 'm+n')[1]": ("(Wᵀ)[0:m]ᵀ x(t) + (Wᵀ)[m:m + n]ᵀ h(t-1)"),
    "Q @ rf.tanh(rf.concat(V.T @ (V @ h), h) + b)": (
        "(Qᵀ)[0:n]ᵀ tanh(Vᵀ (V h(t-1)) + b[0:n]) + (Qᵀ)[n:2 n]ᵀ tanh(h(t-1) + b[n:2 n])"
    ),
    "rf.split(W @ rf.concat(x, h) + b, 2)[1]": (
        "(W[n:2 n]ᵀ)[0:m]ᵀ x(t) + (W[n:2 n]ᵀ)[m:m + n]ᵀ h(t-1) + b[n:2 n]"
    ),
    "rf.split(rf.concat(Q, Q) @ c, 2)[0]": "Q c(t-1)",
    # cheap arithmetic is worked out again to cut what lies in memory anyway
    "rf.sum(rf.exp(c)) * rf.split(rf.cos(rf.exp(c) * b), 2)[1] * rf.sum(rf.sin(rf.exp(c) * b))": (
        "sum(exp(c(t-1))) · cos(exp(c(t-1))[n:2 n] ⊙ b[n:2 n]) · sum(sin(exp(c(t-1)) ⊙ b))"
    ),
    # what stays: another reader wants the whole,
    "rf.split(rf.tanh(c), 2)[0] + rf.sum(rf.tanh(c))": "tanh(c(t-1))[0:n] + sum(tanh(c(t-1)))",
    "rf.sum(rf.concat(x, h)) * h": "sum(concat(x(t), h(t-1))) · h(t-1)",
    "rf.tanh(rf.concat(U @ h, h))": "tanh(concat(U h(t-1), h(t-1)))",
    # pieces overlap,
    "rf.sum(rf.split(rf.exp(c), 2)[0]) * rf.exp(c)": "sum(exp(c(t-1))[0:n]) · exp(c(t-1))",
    # whether n or m is greater is not known,
    "rf.split(rf.concat(x, h), 'n', 'm')[0]": "concat(x(t), h(t-1))[0:n]",
    # two values would have to be cut instead of one, or as many as there are joins.
    "rf.split(rf.exp(c) * rf.sin(c), 2)[0] * rf.sum(rf.cos(rf.exp(c)) + rf.cos(rf.sin(c)))": (
        "(exp(c(t-1)) ⊙ sin(c(t-1)))[0:n] · sum(cos(exp(c(t-1))) + cos(sin(c(t-1))))"
    ),
    "Q @ (rf.concat(h, h) * rf.exp(c)) * rf.sum(rf.cos(rf.exp(c)))": (
        "(Q (concat(h(t-1), h(t-1)) ⊙ exp(c(t-1)))) · sum(cos(exp(c(t-1))))"
    ),
    "rf.concat(Q, Q) @ c": "concat(Q, Q) c(t-1)",
}


@pytest.mark.parametrize("equation", SUNK)
def test_cuts_and_joins_sink_to_what_they_read(equation):
    graph = check(sunk(read(equation).graph))
    assert output(graph) == SUNK[equation]
    assert sunk(graph) == graph


# The joined cells of the field ----------------------------------------------------------------------------------------


def shape_of_half(half: Half) -> list[Any]:
    """What a half does, without names: its parts and stages, by their ops."""
    nodes = half.graph.nodes
    parts = (half.split.ahead, half.split.loop, half.split.behind)
    counted = [Counter(nodes[i].op for i in lines) for lines in parts]
    staged = [
        (len(s.reductions), sorted(len(g) for _, g in s.products), len(s.pointwise))
        for s in half.stages
    ]
    return [counted, staged, Counter((node.op, node.shape) for node in nodes)]


@pytest.mark.parametrize("memory", ["fast", "small"])
@pytest.mark.parametrize(
    ("joined", "apart"),
    [
        ("joined_lstm", "lstm"),
        ("squashed_lstm", "lstm"),
        ("joined_gru", "gru_cho"),
        ("joined_mgu", "mgu"),
    ],
)
def test_a_joined_cell_has_the_plan_of_the_separate_one(joined, apart, memory):
    mine, theirs = plan(JOINED[joined], memory), plan(rf.cells.get(apart), memory)
    assert shape_of_half(mine.forward) == shape_of_half(theirs.forward)
    assert shape_of_half(mine.backward) == shape_of_half(theirs.backward)
    assert mine.cost == theirs.cost
    assert len(mine.kept) == len(theirs.kept)
    assert {node.op for node in mine.once.nodes} <= {SLOT, "slice", "transpose"}


def test_a_matrix_and_its_gradient_are_cut_and_joined_once_per_call():
    p = plan(joined_lstm)
    assert [o.slot.name for o in p.once.outputs][:3] == [
        "W[0:n, 0:m]",
        "W[0:n, m:m + n]",
        "W[n:2 n, 0:m]",
    ]
    assert Counter(node.op for node in p.once_back.nodes) == {
        SLOT: 12,
        "transpose": 12,
        "concat": 4 + 1 + 1,  # the columns of four gates, their rows, the bias
    }
    assert sorted(o.slot.name for o in p.once_back.outputs) == ["W", "b"]


def test_a_norm_over_all_gates_is_cut_once():
    nodes = plan(joined_layer_norm).forward.graph.nodes
    cut = {node.args[0] for node in nodes if node.op == "slice"}
    (product,) = cut  # before the norm, which sums it up and so has it in memory
    assert nodes[product].op == "add" and nodes[product].shape == (Size.of("4n"),)
    assert not any(node.op == "concat" for node in nodes)


def test_the_explanation_shows_the_equation_as_it_was_written():
    text = str(rf.explain(joined_lstm))
    assert "W concat(x(t), h(t-1)) + b" in text
    assert "dE/dW    = Σ_t a(t) concat(x(t), h(t-1))ᵀ" in text
    assert "W[0:n, m:m + n]; W[n:2 n, m:m + n]" in text  # what runs in the loop
    assert max(map(len, text.splitlines())) < 200


# Values and gradients, in plain Python --------------------------------------------------------------------------------


def everything(cell: Cell, graph: Graph) -> dict[str, list[float]]:
    """What a step gives, what its reverse step gives for arbitrary adjoints, and the gradients of the parameters."""
    slots = numbers(cell.graph.leaves, 1)
    once, step = hoist(graph)
    made = work_out(once, slots)
    slots |= {o.slot: made[o.node] for o in once.outputs}
    forward = work_out(step, slots)
    found = {str(o.slot): flat(forward[o.node]) for o in step.outputs}
    back = check(fold(reverse(step)))
    arriving = [leaf for leaf in back.leaves if leaf.kind in ("carry", "given")]
    slots |= numbers(tuple(sorted(arriving, key=lambda leaf: leaf.name)), 2)
    values = work_out(back, slots)
    totals: dict[Slot, Value] = {}
    for o in back.outputs:
        if o.slot.kind == "total":
            add(totals, o.slot, values[o.node])
        else:
            found[f"reverse {o.slot}"] = flat(values[o.node])
    behind = check(fold(reverse_once(once)))
    zeros = {
        leaf.slot: filled([s.at(SIZES) for s in leaf.shape], lambda: 0.0) for leaf in behind.leaves
    }
    last = work_out(behind, zeros | slots | totals)
    for o in behind.outputs:
        add(totals, Slot("total", o.slot.name), last[o.node])
    for leaf in cell.graph.leaves_of("param"):
        found[f"dE/d{leaf.name}"] = flat(totals.get(Slot("total", leaf.name), 0.0))
    return found


def add(totals: dict[Slot, Value], slot: Slot, value: Value) -> None:
    totals[slot] = each(FUNCTIONS["add"], totals[slot], value) if slot in totals else value


def compare(cell: Cell) -> None:
    """The step and its gradients are as they were, within rounding; and nothing is worked out twice."""
    before, after = simplified(cell.graph), check(simplified(check(sunk(cell.graph))))
    expected, found = everything(cell, before), everything(cell, after)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        scale = max(1.0, *map(abs, values))
        assert found[name] == pytest.approx(values, rel=0.0, abs=1e-12 * scale), name
    for work in ("product", "function", "reduction"):
        assert work_of(after, work).at(SIZES) <= work_of(before, work).at(SIZES), work
    assert passes(after) <= passes(before)


def work_of(graph: Graph, kind: str) -> Size:
    """How many numbers the lines of a cost read or write, per step."""
    varying = graph.varying()
    lines = [n for i, n in enumerate(graph.nodes) if i in varying and OPS[n.op].cost == kind]
    read = [volume(graph.nodes[n.args[0]].shape) for n in lines]
    return total(read if kind != "function" else [volume(n.shape) for n in lines])


def passes(graph: Graph) -> int:
    """Joins, and computed values that are cut and would else not go through memory."""
    nodes, varying = graph.nodes, graph.varying()
    lying = {o.node for o in graph.outputs}
    for node in nodes:
        if OPS[node.op].cost in ("product", "reduction"):
            lying |= set(node.args)
    joins = {i for i in varying if nodes[i].op == "concat"}
    cut = {nodes[i].args[0] for i in varying if nodes[i].op == "slice"}
    return len(joins) + len({i for i in cut - joins - lying if nodes[i].op != SLOT})


@pytest.mark.parametrize("name", [*JOINED, *rf.cells.all()])
def test_values_and_gradients_stay(name):
    compare(JOINED.get(name) or rf.cells.get(name))


@pytest.mark.parametrize("equation", SUNK)
def test_every_rule_keeps_values_and_gradients(equation):
    compare(read(equation))


def test_the_cells_of_the_field_lose_all_cuts_and_joins():
    for name in ("joined_lstm", "squashed_lstm", "joined_gru", "joined_mgu"):
        assert passes(JOINED[name].graph) > 0
        p = plan(JOINED[name])
        for half in (p.forward, p.backward):
            assert not any(node.op in ("slice", "concat", "pad") for node in half.graph.nodes)


# Equations drawn at random --------------------------------------------------------------------------------------------


def word(size: Size) -> str:
    return str(size).replace(" ", "")


def drawn(seed: int) -> Cell:
    """A cell that joins, cuts, multiplies and bends vectors, drawn as a program for a stack of them."""
    r = random.Random(seed)
    sizes = [shape_of(s)[0] for s in ("m", "n", "2n")]
    declared: dict[str, Any] = {"x": rf.Input("m"), "h": rf.State("n"), "c": rf.State("2n")}
    program: list[tuple[Any, ...]] = []
    read: set[int] = set()

    def declare(declaration: Any) -> str:
        declared[f"w{len(declared)}"] = declaration
        return f"w{len(declared) - 1}"

    for _ in range(r.randint(5, 11)):
        kind = r.choice(
            ("join", "join", "cut", "cut", "cut", "bend", "mix", "mix", "weigh", "norm")
        )
        a = r.randrange(len(sizes))
        others = [i for i, size in enumerate(sizes) if kind == "join" or size == sizes[a]]
        b = r.choice(others) if kind in ("join", "mix") else a
        read |= {a, b}
        if kind == "join":
            sizes.append(sizes[a] + sizes[b])
            program.append((kind, a, b))
        elif kind == "cut":
            parts = cut_of(sizes[a], r)
            sizes += parts
            program.append((kind, a, *map(word, parts)))
        elif kind == "bend":
            sizes.append(sizes[a])
            program.append((kind, a, r.choice(("tanh", "sigmoid", "sin", "relu", "cos"))))
        elif kind == "norm":
            sizes.append(sizes[a])
            program.append((kind, a))
        elif kind == "mix":
            sizes.append(sizes[a])
            program.append((kind, a, b, r.choice("+-*<"), declare(rf.Bias(word(sizes[a])))))
        else:
            sizes.append(r.choice([*sizes, *shape_of("n k 3n")]))
            program.append((kind, a, declare(rf.Weight(f"{word(sizes[-1])} {word(sizes[a])}"))))
    ends = {i: r.random() < 0.6 for i in range(len(sizes)) if i < 3 or i not in read}
    weights = {
        i: declare(rf.Weight(f"n {word(sizes[i])}")) for i, product in ends.items() if product
    }
    wide = r.choice([i for i, size in enumerate(sizes) if size == sizes[2]])

    def equation(**v: Any) -> Any:
        values = [v["x"], v["h"], v["c"]]
        for kind, a, *rest in program:
            values += worked(kind, values[a], values, rest, v)
        new, given = values[1], rf.sum(values[-1])
        for i, product in ends.items():
            if product:
                new = new + v[weights[i]] @ values[i]
            else:
                given = given + rf.sum(values[i])
        return rf.Step(rf.tanh(new), values[wide] * 0.5, output=given * values[-1])

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(n, kind, default=d) for n, d in declared.items()]
    equation.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return rf.cell(name="drawn")(equation)


def cut_of(size: Size, r: random.Random) -> list[Size]:
    """Equal parts, or one letter and the rest in any order."""
    equal = [size.divided(count) for count in (2, 3) if size.divided(count)]
    if equal and r.random() < 0.5:
        part = r.choice([p for p in equal if p])
        return [part] * (3 if part + part != size else 2)
    (letter, _) = r.choice(size.terms)
    part = Size(((letter, 1),))
    rest = size - part
    parts = [part, rest] if rest.terms else [part]
    r.shuffle(parts)
    return parts


def worked(
    kind: str, left: Any, values: list[Any], rest: list[Any], v: dict[str, Any]
) -> list[Any]:
    """What one line of the program adds to the stack."""
    if kind == "join":
        return [rf.concat(left, values[rest[0]])]
    if kind == "cut":
        return list(rf.split(left, *rest))
    if kind == "bend":
        return [getattr(rf, rest[0])(left)]
    if kind == "norm":
        return [rf.layer_norm(left)]
    if kind == "weigh":
        return [v[rest[0]] @ left]
    right, how = values[rest[0]] + v[rest[2]], rest[1]
    if how == "<":
        return [rf.where(left < right, left, right * 0.3)]
    return [left + right if how == "+" else left - 0.5 * right if how == "-" else left * right]


@pytest.mark.parametrize("batch", range(10))
def test_random_cells_keep_values_and_gradients(batch):
    for seed in range(batch, 200, 10):
        cell = drawn(seed)
        compare(cell)
        graph = sunk(cell.graph)
        assert sunk(graph) == graph, seed


def test_the_random_cells_sink_something():
    """Most of them have fewer cuts and joins than before."""
    cells = [drawn(seed).graph for seed in range(60)]
    better = [passes(sunk(graph)) < passes(graph) for graph in cells]
    assert sum(better) > 40
