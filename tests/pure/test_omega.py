"""Omega in the plan: what the reverse step computes more, and what it does not."""

import pytest

import refold as rf
from refold.ir.check import check
from refold.ir.graph import Builder, Graph, Output, Slot
from refold.ir.ops import OPS, Term
from refold.ir.rewrite import fold
from refold.ir.wrap import Form, wrapped
from refold.plan.plan import Plan, plan


def measured(name: str | rf.Cell, form: str = "ratio") -> Plan:
    cell = rf.cells.get(name) if isinstance(name, str) else name
    return plan(wrapped(cell, Form(omega=form)).cell)


def products(graph: Graph) -> int:
    return sum(OPS[node.op].cost == "product" for node in graph.nodes)


@pytest.mark.parametrize("name", rf.cells.all())
def test_graphs_are_legal_and_nothing_forward_changes(name: str) -> None:
    for form in ("ratio", "squared"):
        mine, plain = measured(name, form), plan(rf.cells.get(name))
        check(mine.backward.graph)
        assert mine.norms is not None and mine.norms.form == form
        assert mine.forward.graph.nodes == plain.forward.graph.nodes
        assert mine.kept == plain.kept
        loops = [
            [p.backward.graph.nodes[i].op for i in p.backward.split.loop] for p in (mine, plain)
        ]
        assert loops[0] == loops[1]
        assert measured(name, form) is mine


@pytest.mark.parametrize(
    "name", ["elman", "lstm", "gru", "leaky", "cornn", "jordan", "lstm_peephole"]
)
def test_there_are_few_products_more(name: str) -> None:
    """u is there, and v joins what weights are multiplied with; a parameter behind another product takes one."""
    mine, plain = measured(name).backward.graph, plan(rf.cells.get(name)).backward.graph
    behind = {"jordan": 1, "lstm_peephole": 3}
    assert products(mine) == products(plain) + behind.get(name, 0)
    assert len(mine.outputs_of("total")) == len(plain.outputs_of("total"))


def test_the_gradient_of_a_weight_reads_the_state_and_v() -> None:
    graph = measured("elman").backward.graph
    (total,) = (o for o in graph.outputs_of("total") if o.slot.name == "W_h")
    outer = graph.nodes[total.node]
    assert outer.op == "outer"
    both = graph.nodes[outer.args[1]]
    assert both.op == "add"
    assert graph.slots()[Slot("state", "h")] in both.args


def test_a_state_that_nothing_is_handed_on_from() -> None:
    @rf.cell
    def forgets(x=rf.Input("n"), h=rf.State("n"), *, w=rf.Weight("n")):
        return rf.Step(w * x, output=rf.tanh(h))

    graph = measured(forgets).backward.graph
    assert [o.slot.name for o in graph.outputs_of("input")] == ["x", "omega"]
    assert len(graph.outputs_of("total")) == 1


def test_an_input_of_that_name_is_another() -> None:
    @rf.cell
    def named(omega=rf.Input("n"), h=rf.State("n"), *, w=rf.Weight("n")):
        return w * h + omega

    made = wrapped(named, Form(omega="squared"))
    assert made.cell.norms is not None
    assert made.cell.norms.weight == "omega_"
    assert {"omega", "omega_"} == {
        o.slot.name for o in measured(named).backward.graph.outputs_of("input")
    }


def test_a_transposed_outer_product_is_one_the_other_way_round() -> None:
    n, m = (rf.cells.get("elman").graph.leaves_of(k)[0].shape[0] for k in ("state", "input"))
    builder = Builder()
    a = Term(builder, builder.slot(Slot("state", "a"), (n,)))
    b = Term(builder, builder.slot(Slot("input", "b"), (m,)))
    turned = a.do("outer", b).do("transpose")
    graph = fold(builder.graph("turned", (), [Output(Slot("total", "W"), turned.index)]))
    (line,) = (node for node in graph.nodes if node.op != "slot")
    assert (line.op, line.shape) == ("outer", (m, n))
    assert [graph.nodes[i].label for i in line.args] == ["b", "a"]
