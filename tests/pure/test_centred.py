"""Terms that add up to zero: which are left out of a reverse step's sums, which only look so, and that values stay."""

import math

import pytest
from plain import Value, flat, numbers, work_out

import refold as rf
from refold.ir.centred import without_zero_sums
from refold.ir.check import check
from refold.ir.graph import Builder, Graph, Leaf, Node, Output, Slot
from refold.ir.ops import Term, constant, summed
from refold.ir.rewrite import fold, simplified
from refold.ir.show import Plain, Printer
from refold.ir.sink import sunk
from refold.ir.trace import Cell
from refold.plan.adjoint import reverse
from refold.plan.plan import plan
from refold.plan.split import hoist
from refold.shapes import Size

# What is left out, and what only looks so -----------------------------------------------------------------------------

n, four = Size.of("n"), Size.of(4)
LEAVES = (
    Leaf("carry", "g", (n,)),  # what arrives
    Leaf("carry", "e", (four,)),
    Leaf("state", "z", (n,)),
    Leaf("state", "y", (n,)),
    Leaf("state", "q", (four,)),
    Leaf("input", "s", ()),
    Leaf("param", "v", (n,)),
)


def sum_of(expression: str) -> Graph:
    """A graph that gives the sum of an expression of the leaves, over the features."""
    builder = Builder()

    def number(size: Size) -> Term:
        return Term(builder, builder.add(Node("size", (), (), size)))

    names = {x.name: Term(builder, builder.slot(x.slot, x.shape)) for x in LEAVES}
    tools = {
        "n": number(n),
        "m": number(Size.of("m")),
        "sum": summed,
        "mean": lambda a: summed(a) / number(a.shape[0]),
        "const": lambda value: constant(builder, value),
        "spread": lambda a: a.do("expand", attr=(n,)),
    }
    total = summed(eval(expression, tools, names))
    return check(builder.graph("by_hand", LEAVES, (Output(Slot("total", "s"), total.index),)))


def shown(graph: Graph) -> str:
    return Printer(graph, Plain()).expression(graph.outputs[0].node, 0).text


# The argument of the sum, and what is left of it.
DROPPED = {
    "g - s * (z - mean(z))": "g",
    "s * (z - mean(z)) - g": "-g",
    "g + s * (mean(z) - z)": "g",
    "g - spread(s) * (z - spread(mean(z)))": "g",
    "-(g * v - (z - mean(z)) / s) + y": "-(g * v) + y",
    "g - -(s * (z - sum(z) * (const(1) / n)))": "g",
    "g - s * (s * (z - mean(z)) + (y - mean(y)) / s)": "g",
    "(g - s * (z - mean(z))) + (y - s * (z - mean(z)))": "g + y",
    "e - s * (q - mean(q))": "e",
    "e - s * (q - sum(q) / const(4))": "e",
    "e - s * (q - const(0.25) * sum(q))": "e",
    "(z - mean(z)) + sum(g)": "spread(sum(g))",
    "g - ((z - mean(z)) + s)": "g - s",  # n times s
    "g - s * ((g * v - s * z) - mean(g * v - s * z))": "g",
}


@pytest.mark.parametrize("expression", DROPPED)
def test_what_adds_up_to_zero_is_left_out(expression):
    found = check(without_zero_sums(sum_of(expression)))
    assert shown(found) == shown(sum_of(DROPPED[expression]))
    assert without_zero_sums(found) is found


@pytest.mark.parametrize(
    "expression", ["(g - mean(g)) / s", "(g - mean(g)) * sum(z) - s * (z - mean(z))"]
)
def test_a_sum_of_nothing_is_zero(expression):
    assert [(node.op, node.attr) for node in without_zero_sums(sum_of(expression)).nodes] == [
        ("const", 0.0)
    ]


@pytest.mark.parametrize(
    "expression",
    [
        "g - s * (z - mean(y))",  # another vector's mean
        "g - s * (z - sum(z) / m)",  # another size
        "e - s * (q - sum(q) / const(5))",
        "e - s * (q - const(0.2) * sum(q))",
        "e - s * (q - sum(q) / n)",  # n may be four; nothing says so
        "g - s * (z - sum(z))",
        "g - s * (z + mean(z))",
        "g - v * (z - mean(z))",  # a number of its own for each feature
        "g - (z - mean(z)) / v",
        "g - (z - mean(z)) * (z - mean(z))",
        "g - s / (z - mean(z))",
        "g - s * z - mean(z)",
    ],
)
def test_what_only_looks_centred_stays(expression):
    graph = sum_of(expression)
    assert without_zero_sums(graph) is graph


def test_a_sum_that_is_the_steps_own_stays_as_the_step_has_it():
    graph = sum_of("z - mean(z)")
    assert without_zero_sums(graph) is graph


# Layer norms ----------------------------------------------------------------------------------------------------------


@rf.cell
def normed(
    x=rf.Input("m"), h=rf.State("n"), *, W=rf.Weight("n n"), V=rf.Weight("n m"), g=rf.Weight("n")
):
    return rf.tanh(rf.layer_norm(W @ h + V @ x, weight=g))


@rf.cell
def normed_twice(
    x=rf.Input("m"), h=rf.State("n"), *, W=rf.Weight("n n"), V=rf.Weight("n m"), s=rf.Scalar(0.5)
):
    return rf.tanh(rf.layer_norm(rf.layer_norm(W @ h + V @ x) + s))


@rf.cell
def normed_lstm(
    x=rf.Input("m"),
    h=rf.State("n"),
    c=rf.State("n"),
    *,
    i=rf.Affine("n"),
    f=rf.Affine("n"),
    g=rf.Affine("n"),
    o=rf.Affine("n"),
    w=rf.Weight("n"),
    b=rf.Bias("n"),
):
    forget, write = (rf.sigmoid(rf.layer_norm(gate(x, h), w, b)) for gate in (f, i))
    c = forget * c + write * rf.tanh(rf.layer_norm(g(x, h)))
    return rf.sigmoid(rf.layer_norm(o(x, h))) * rf.tanh(rf.layer_norm(c)), c


CELLS = {cell.name: cell for cell in (normed, normed_twice, normed_lstm)}


def reverse_of(cell: Cell) -> Graph:
    return fold(reverse(hoist(simplified(sunk(cell.graph)))[1]))


def values_of(graph: Graph, slots: dict[Slot, Value]) -> list[tuple[str, list[float]]]:
    values = work_out(graph, slots)
    return [(str(o.slot), flat(values[o.node])) for o in graph.outputs]


@pytest.mark.parametrize("name", CELLS)
def test_values_stay(name):
    before = reverse_of(CELLS[name])
    after = check(fold(without_zero_sums(before)))
    slots = numbers(before.leaves, 3)
    expected, found = values_of(before, slots), values_of(after, slots)
    assert [slot for slot, _ in found] == [slot for slot, _ in expected]
    for (slot, values), (_, want) in zip(found, expected, strict=True):
        scale = max(1.0, *map(abs, want))
        assert values == pytest.approx(want, rel=0.0, abs=1e-12 * scale), slot
    assert after != before


@pytest.mark.parametrize("name", ["normed", "normed_lstm"])
@pytest.mark.parametrize("where", ["input", "carry"])
def test_nan_spreads_as_far_as_before(name, where):
    before = reverse_of(CELLS[name])
    slots = numbers(before.leaves, 4)
    spoilt = next(slot for slot in slots if slot.kind == where)
    slots[spoilt][0] = math.nan
    expected = values_of(before, slots)
    found = values_of(fold(without_zero_sums(before)), slots)
    nan = [[math.isnan(v) for v in values] for _, values in expected]
    assert [[math.isnan(v) for v in values] for _, values in found] == nan
    assert any(map(any, nan))


def test_both_sums_of_a_layer_norm_run_side_by_side():
    """Backwards: the norms of c and of the output gate, then those of the other three; a mean and a scale for each."""
    found = [(len(s.products), len(s.reductions)) for s in plan(normed_lstm).backward.stages]
    assert found == [(0, 0), (0, 2 * 2), (1, 3 * 2), (3, 0)]


def test_a_norm_of_a_norm_has_no_mean_to_take_off():
    """What arrives at the inner norm is centred already: its scale is the only sum left there."""
    half = plan(normed_twice).backward
    assert [(len(s.products), len(s.reductions)) for s in half.stages] == [
        *[(0, 0), (0, 2), (0, 1)],
        (1, 0),
    ]
    # A number added to all features of a normed vector changes nothing: s has the gradient 0.
    total = next(o.node for o in half.graph.outputs_of("total") if o.slot.name == "s")
    assert (half.graph.nodes[total].op, half.graph.nodes[total].attr) == ("const", 0.0)
