"""Graphs: equal lines are one line, unread lines vanish, and `check` refuses each kind of illegal graph."""

import pickle
from dataclasses import replace

import pytest

import refold as rf
from refold.errors import PlanError
from refold.ir.check import check
from refold.ir.graph import SLOT, Builder, Graph, Leaf, Node, Output, Slot, pruned
from refold.shapes import Size

n, m = Size.of("n"), Size.of("m")
STATE, INPUT, WEIGHT = (
    Leaf("state", "h", (n,)),
    Leaf("input", "x", (m,)),
    Leaf("param", "W", (n, m)),
)
H, X, W = (Node(SLOT, (), leaf.shape, leaf.slot) for leaf in (STATE, INPUT, WEIGHT))
NEXT = Slot("state", "h")


@rf.cell
def shared(x=rf.Input("m"), h=rf.State("n"), *, W=rf.Weight("n m"), U=rf.Weight("n n")):
    first = rf.tanh(W @ x + U @ h)
    again = rf.tanh(W @ x + U @ h)
    rf.sigmoid(again)  # read by nothing
    return first * again


# Building -------------------------------------------------------------------------------------------------------------


def test_an_equal_line_is_one_line():
    ops = [node.op for node in shared.graph.nodes]
    assert sorted(ops) == sorted(["slot"] * 4 + ["matvec"] * 2 + ["add", "tanh", "mul"])
    assert shared.graph.nodes[-1].args[0] == shared.graph.nodes[-1].args[1]


def test_the_first_label_of_a_line_stays_and_does_not_count():
    builder = Builder()
    h = builder.add(H)
    line = builder.add(Node("tanh", (h,), (n,)))
    assert builder.nodes[line].label is None
    assert builder.add(Node("tanh", (h,), (n,), label="a")) == line
    assert builder.add(Node("tanh", (h,), (n,), label="b")) == line
    assert builder.nodes[line].label == "a"
    assert Node("tanh", (h,), (n,), label="a") == Node("tanh", (h,), (n,))


def test_the_attribute_makes_a_line_another():
    builder = Builder([H])
    cubed = builder.add(Node("pow", (0,), (n,), 3.0))
    assert builder.add(Node("pow", (0,), (n,), 4.0)) != cubed
    assert builder.add(Node("pow", (0,), (n,), 3.0)) == cubed


def test_a_line_that_nothing_reads_vanishes():
    nodes = (H, Node("exp", (0,), (n,)), Node("tanh", (0,), (n,)), Node("neg", (2,), (n,)))
    graph = pruned(Graph("g", (STATE,), nodes, (Output(NEXT, 3),)))
    assert [node.op for node in graph.nodes] == [SLOT, "tanh", "neg"]
    assert [node.args for node in graph.nodes] == [(), (0,), (1,)]
    assert graph.outputs == (Output(NEXT, 2),)
    assert pruned(graph) == graph


# Reading --------------------------------------------------------------------------------------------------------------

CHAIN = Graph(
    "chain",
    (STATE, INPUT, WEIGHT),
    (
        H,
        X,
        W,
        Node("matvec", (2, 1), (n,)),
        Node("add", (0, 3), (n,)),
        Node("tanh", (4,), (n,)),
        Node("exp", (2,), (n, m)),
    ),
    (Output(NEXT, 5), Output(Slot("output", "h"), 5)),
)


def test_what_a_line_reaches_and_needs():
    assert CHAIN.after([1]) == {1, 3, 4, 5}
    assert CHAIN.after([0]) == {0, 4, 5}
    assert CHAIN.after([]) == frozenset()
    assert CHAIN.before([3]) == {1, 2, 3}
    assert CHAIN.before([5]) == {0, 1, 2, 3, 4, 5}


def test_what_varies_is_what_an_input_or_a_state_reaches():
    assert CHAIN.varying() == {0, 1, 3, 4, 5}


def test_slots_uses_and_leaves():
    assert CHAIN.slots() == {STATE.slot: 0, INPUT.slot: 1, WEIGHT.slot: 2}
    assert CHAIN.uses() == {0: [4], 1: [3], 2: [3, 6], 3: [4], 4: [5], 5: [], 6: []}
    assert CHAIN.leaves_of("param") == (WEIGHT,)
    assert CHAIN.outputs_of("output") == (Output(Slot("output", "h"), 5),)


def test_a_cell_travels_without_its_function():
    copy = pickle.loads(pickle.dumps(shared))
    assert copy == shared
    assert copy.equation is None and copy.graph.nodes[-1].label == shared.graph.nodes[-1].label


# Check ----------------------------------------------------------------------------------------------------------------


def graph_of(
    *nodes: Node, leaves=(STATE, INPUT, WEIGHT), output: int | None = None, kind: str = "state"
) -> Graph:
    last = len(nodes) - 1 if output is None else output
    return Graph("g", leaves, nodes, (Output(Slot(kind, "h"), last),))


def test_a_legal_graph_passes_unchanged():
    legal = pruned(CHAIN)
    assert check(legal) is legal
    assert check(shared.graph) is shared.graph


ILLEGAL = {
    "there is no op cosh": graph_of(H, Node("cosh", (0,), (n,))),
    "an argument comes later": graph_of(H, Node("add", (0, 2), (n,)), Node("tanh", (1,), (n,))),
    "add takes 2 arguments": graph_of(H, Node("add", (0, 0, 0), (n,))),
    "tanh takes 1 arguments": graph_of(H, Node("tanh", (), (n,))),
    "tanh gives (n,)": graph_of(H, Node("tanh", (0,), (m,))),
    "sum gives a scalar": graph_of(H, Node("sum", (0,), (n,), 1)),
    "matvec gives (n,)": graph_of(X, W, Node("matvec", (1, 0), (m,))),
    "a slot names what it reads": graph_of(Node(SLOT, (), (n,), "h")),
    "the same line stands earlier": graph_of(
        H, Node("tanh", (0,), (n,)), Node("tanh", (0,), (n,)), Node("mul", (1, 2), (n,))
    ),
    "nothing reads this line": graph_of(H, Node("exp", (0,), (n,)), Node("tanh", (0,), (n,))),
    "a comparison meets arithmetic": graph_of(
        H, Node("lt", (0, 0), (n,)), Node("add", (0, 1), (n,))
    ),
    "an output names no line": graph_of(H, Node("tanh", (0,), (n,)), output=7),
    "h is (n,)": graph_of(X, Node("tanh", (0,), (m,))),
    "a matrix changes with time": graph_of(
        H, W, X, Node("sum", (0,), (), 1), Node("mul", (1, 3), (n, m)), Node("matvec", (4, 2), (n,))
    ),
}


@pytest.mark.parametrize("fact", ILLEGAL)
def test_an_illegal_graph_is_refused(fact):
    with pytest.raises(PlanError, match="graph g, line") as caught:
        check(ILLEGAL[fact])
    assert fact in caught.value.fact
    assert "fault in refold" in caught.value.remedy


def test_a_condition_must_be_a_comparison():
    with pytest.raises(PlanError, match="a comparison meets arithmetic"):
        check(graph_of(H, Node("where", (0, 0, 0), (n,))))
    with pytest.raises(PlanError, match="a comparison meets arithmetic"):
        check(
            graph_of(
                H,
                Node("lt", (0, 0), (n,)),
                Node("and", (1, 0), (n,)),
                Node("where", (2, 0, 0), (n,)),
            )
        )


def test_operands_that_do_not_fit_are_refused():
    with pytest.raises(PlanError, match="elementwise operations need equal sizes") as caught:
        check(graph_of(H, X, Node("add", (0, 1), (n,))))
    assert "operand 1 is (n,) and operand 2 is (m,)" in caught.value.fact


def test_a_matrix_may_leave_as_a_term_of_a_sum_over_time():
    outer = graph_of(H, X, Node("outer", (0, 1), (n, m)), kind="total")
    assert check(replace(outer, leaves=(STATE, INPUT))).nodes[-1].op == "outer"
    with pytest.raises(PlanError, match="a matrix changes with time"):
        check(graph_of(H, X, Node("outer", (0, 1), (n, m)), leaves=(INPUT,)))
