"""A cell as plain data: what comes back is the same cell, and what is no cell is refused."""

import json

import pytest

import refold as rf
from refold import cells
from refold.errors import PlanError
from refold.ir.stored import cell_of, document


@pytest.mark.parametrize("name", list(cells.all()))
def test_every_cell_of_the_zoo_comes_back(name):
    cell = cells.get(name)
    again = cell_of(json.loads(json.dumps(document(cell))))
    assert again == cell
    assert [n.label for n in again.graph.nodes] == [n.label for n in cell.graph.nodes]


def test_a_cell_of_ones_own_comes_back_without_its_function():
    @rf.cell(source="here", name="mine")
    def slow(
        x=rf.Input("m"),
        h=rf.State("k", start=0.5),
        *,
        W=rf.Weight("k m", init=rf.Init("orthogonal", gain=1.1)),
        tau=rf.Scalar(5.0),
    ):
        """Slow."""
        return h + (rf.tanh(W @ x) - h) / tau

    again = cell_of(json.loads(json.dumps(document(slow))))
    assert again == slow and again.equation is None and again.about == "Slow."
    assert again.graph.leaves[2].init == rf.Init("orthogonal", gain=1.1)


def test_an_illegal_graph_is_refused():
    stored = document(cells.get("elman"))
    stored["nodes"][-1]["op"] = "system"
    with pytest.raises(PlanError, match="there is no op system"):
        cell_of(stored)
