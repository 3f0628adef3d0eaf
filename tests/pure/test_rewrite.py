"""The passes: what each rule writes instead, and that a pass run twice changes nothing more."""

import itertools
import math

import pytest

import refold as rf
from refold.ir.check import check
from refold.ir.graph import Graph
from refold.ir.rewrite import fold, gather, share, simplified
from refold.ir.show import Plain, Printer
from refold.ir.trace import Cell
from refold.plan.adjoint import reverse
from refold.plan.split import hoist, split


def read(equation) -> Cell:
    """A cell whose new state is a function of x, h, b (2n,), W, U (2n, 2n) and a scalar s; its output uses them all."""

    @rf.cell
    def c(
        x=rf.Input("2n"),
        h=rf.State("2n"),
        *,
        W=rf.Weight("2n 2n"),
        U=rf.Weight("2n 2n"),
        b=rf.Bias("2n"),
        s=rf.Scalar(0.3),
    ):
        used = rf.sum(W @ (x * x)) + rf.sum(U @ (h * h)) + rf.sum(b * b) * s
        return rf.Step(equation(x=x, h=h, W=W, U=U, b=b, s=s), output=used)

    return c


def result(graph: Graph) -> str:
    """The new state, written out in full."""
    return Printer(graph, Plain()).expression(graph.outputs_of("state")[0].node, 0).text


FOLDED = {
    # numbers
    "rf.tanh(0.5) * h": f"{math.tanh(0.5):.6g} · h(t-1)",
    "(rf.exp(1.0) + 2) * h": f"{math.e + 2:.6g} · h(t-1)",
    "-rf.sqrt(4.0) * h": "(-2) · h(t-1)",
    "rf.log(-1.0) + h": "log(-1) + h(t-1)",
    # neutral
    "h + 0": "h(t-1)",
    "0 + h": "h(t-1)",
    "h - 0": "h(t-1)",
    "h * 1": "h(t-1)",
    "1 * h": "h(t-1)",
    "h / 1": "h(t-1)",
    "h * -1": "-h(t-1)",
    "1 / h": "1 / h(t-1)",
    "0 - h": "0 - h(t-1)",
    "s * 1 + h": "s + h(t-1)",
    "rf.where(h > 0, h, 0) + 0": "where(0 < h(t-1), h(t-1), 0)",
    # double
    "-(-h)": "h(t-1)",
    "W.T.T @ h": "W h(t-1)",
    # a minus sign moves outwards
    "x + -h": "x(t) - h(t-1)",
    "-h + x": "x(t) - h(t-1)",
    "x - -h": "x(t) + h(t-1)",
    "x + -h * s": "x(t) - h(t-1) · s",
    "x + -(h / x)": "x(t) - h(t-1) / x(t)",
    "x - W @ (-h)": "x(t) + W h(t-1)",
    "x + rf.sum(-h)": "x(t) - sum(h(t-1))",
    "-h * -x": "h(t-1) ⊙ x(t)",
    "x - rf.concat(*[-v for v in rf.split(-h, 2)])": "x(t) - concat(h(t-1)[0:n], h(t-1)[n:2 n])",
    # twice
    "x + x": "2 · x(t)",
    "(x + h) + (x + h)": "2 · (x(t) + h(t-1))",
}


@pytest.mark.parametrize("equation", FOLDED)
def test_fold_does_now_what_needs_no_data(equation):
    cell = read(lambda **names: eval(equation, {"rf": rf}, names))
    folded = check(fold(cell.graph))
    assert result(folded) == FOLDED[equation]
    assert fold(folded) == folded


def test_a_scalar_is_not_spread_over_a_shape_that_is_there_anyway():
    step = simplified(read(lambda h, **_: h * rf.sum(h * h)).graph)
    back = fold(reverse(hoist(step)[1]))
    assert all(
        back.nodes[a].op != "expand"
        for node in back.nodes
        if node.op in ("add", "sub", "mul")
        for a in node.args
    )


def test_pieces_side_by_side_are_one_concatenation():
    @rf.cell
    def c(h=rf.State("2n")):
        first, second = rf.split(h, 2)
        return rf.concat(rf.tanh(second), rf.sin(first))

    unfolded = reverse(c.graph)
    assert sum(node.op == "pad" for node in unfolded.nodes) == 2
    folded = check(fold(unfolded))
    assert not any(node.op == "pad" for node in folded.nodes)
    assert fold(folded) == folded


def test_three_pieces_are_one_concatenation_in_the_order_of_their_places():
    @rf.cell
    def c(h=rf.State("3n")):
        a, b, d = rf.split(h, 3)
        return rf.concat(rf.sin(d), rf.tanh(a), rf.exp(b))

    folded = check(fold(reverse(c.graph)))
    assert not any(node.op == "pad" for node in folded.nodes)


# Gather ---------------------------------------------------------------------------------------------------------------

TERMS = {"Wx": lambda v: v["W"] @ v["x"], "Uh": lambda v: v["U"] @ v["h"], "b": lambda v: v["b"]}


def loop_of(equation) -> list[str]:
    graph = check(simplified(read(equation).graph))
    return [graph.nodes[i].op for i in split(graph).loop]


@pytest.mark.parametrize("order", list(itertools.permutations(TERMS)))
@pytest.mark.parametrize("signs", list(itertools.product("+-", repeat=3)))
def test_a_sum_keeps_no_bias_in_the_loop(order, signs):
    """Of W @ x + U @ h + b only the product with the state and one addition wait, whatever its order and signs."""

    def left_to_right(**v):
        total = TERMS[order[0]](v) if signs[0] == "+" else -TERMS[order[0]](v)
        for name, sign in zip(order[1:], signs[1:], strict=True):
            total = total + TERMS[name](v) if sign == "+" else total - TERMS[name](v)
        return rf.tanh(total)

    def right_to_left(**v):
        first, second, third = (TERMS[name](v) for name in order)
        inner = second + third if signs[2] == "+" else second - third
        return rf.tanh(first + inner if signs[1] == "+" else first - inner)

    for equation in (left_to_right, right_to_left):
        inside = loop_of(equation)
        assert inside.count("matvec") == 1
        assert len([op for op in inside if op in ("add", "sub")]) == 1
        assert set(inside) <= {"matvec", "add", "sub", "tanh"}


def test_a_minus_sign_before_the_whole_sum_changes_nothing():
    inside = loop_of(lambda x, h, W, U, b, s: rf.tanh(-(W @ x + U @ h + b)))
    assert sorted(inside) == ["matvec", "sub", "tanh"]


def test_gathered_terms_keep_their_signs():
    cell = read(lambda x, h, W, U, b, s: rf.tanh(U @ h - (b - W @ x)))
    assert result(simplified(cell.graph)) == "tanh(W x(t) - b + U h(t-1))"
    cell = read(lambda x, h, W, U, b, s: rf.tanh(-(U @ h) - (b + W @ x)))
    assert result(simplified(cell.graph)) == "tanh(-b - W x(t) - U h(t-1))"


def test_a_sum_that_is_read_twice_is_left_in_one_piece():
    def equation(x, h, W, U, b, s):
        inner = U @ h + b
        return rf.tanh(inner + W @ x) * inner

    assert (
        result(simplified(read(equation).graph)) == "tanh(U h(t-1) + b + W x(t)) ⊙ (U h(t-1) + b)"
    )


# Share and all passes -------------------------------------------------------------------------------------------------


def test_share_writes_equal_lines_once():
    nodes = read(lambda h, **_: rf.tanh(h) * rf.tanh(h)).graph.nodes
    assert sum(node.op == "tanh" for node in nodes) == 1
    graph = read(lambda h, **_: rf.tanh(h) * rf.tanh(h + 0)).graph
    assert sum(node.op == "tanh" for node in share(graph).nodes) == 2
    assert sum(node.op == "tanh" for node in fold(graph).nodes) == 1


@pytest.mark.parametrize("one_pass", [fold, gather, share, simplified])
@pytest.mark.parametrize("name", list(rf.cells.all()))
def test_a_pass_run_twice_changes_nothing_more(one_pass, name):
    graph = rf.cells.get(name).graph
    once = check(one_pass(graph))
    assert one_pass(once) == once
    back = check(one_pass(reverse(hoist(simplified(graph))[1])))
    assert one_pass(back) == back


def test_passes_keep_names_and_places():
    lstm = rf.cells.get("lstm").graph
    labels = {node.label for node in lstm.nodes}
    assert (
        {node.label for node in simplified(lstm).nodes}
        >= {"f", "i", "g", "o", "c", "h"}
        <= labels | {"h"}
    )
    assert all(
        node.place for node in simplified(lstm).nodes if node.op in ("tanh", "sigmoid", "matvec")
    )
