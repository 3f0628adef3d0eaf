"""The plan of cells worked out by hand: what runs where, in which stages, what is kept, what it costs."""

import pytest

import refold as rf
from refold.errors import EquationError, PlanError
from refold.ir.check import check
from refold.ir.graph import Graph, Leaf, Node, Output, Slot
from refold.ir.ops import OPS
from refold.ir.trace import Cell
from refold.plan.adjoint import reverse
from refold.plan.cost import B, T
from refold.plan.plan import Half, Plan, plan
from refold.shapes import Size

m, n, k = Size.of("m"), Size.of("n"), Size.of("k")
TB = T * B


@rf.cell
def antisymmetric(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W=rf.Weight("n n"),
    V=rf.Weight("n m"),
    b=rf.Bias("n"),
    eps=rf.Scalar(0.1),
):
    A = W - W.T
    return h + eps * rf.tanh(A @ h + V @ x + b)


@rf.cell
def layer_normed(
    x=rf.Input("m"), h=rf.State("n"), *, W=rf.Weight("n n"), V=rf.Weight("n m"), g=rf.Weight("n")
):
    return rf.tanh(rf.layer_norm(W @ h + V @ x, weight=g))


@rf.cell
def layer_normed_lstm(
    x=rf.Input("m"),
    h=rf.State("n"),
    c=rf.State("n"),
    *,
    i=rf.Affine("n"),
    f=rf.Affine("n"),
    g=rf.Affine("n"),
    o=rf.Affine("n"),
):
    forget, write = (rf.sigmoid(rf.layer_norm(gate(x, h))) for gate in (f, i))
    c = forget * c + write * rf.tanh(rf.layer_norm(g(x, h)))
    return rf.sigmoid(rf.layer_norm(o(x, h))) * rf.tanh(rf.layer_norm(c)), c


@rf.cell(source="Rusch et al. 2022, Long expressive memory")
def two_scales(
    u=rf.Input("m"),
    y=rf.State("n"),
    z=rf.State("n"),
    *,
    p=rf.Affine("n"),
    q=rf.Affine("n"),
    r=rf.Affine("n"),
    s=rf.Affine("n"),
):
    step, slow = rf.sigmoid(p(y, u)), rf.sigmoid(q(y, u))
    z = (1 - step) * z + step * rf.tanh(r(y, u))
    y = (1 - slow) * y + slow * rf.tanh(s(z, u))
    return y, z


@rf.cell
def independent(
    x=rf.Input("m"), h=rf.State("n"), *, u=rf.Weight("n"), V=rf.Weight("n m"), b=rf.Bias("n")
):
    return rf.relu(u * h + V @ x + b)


@rf.cell
def read_out(
    x=rf.Input("m"), h=rf.State("n"), *, W=rf.Weight("n n"), U=rf.Weight("n m"), V=rf.Weight("k n")
):
    h = rf.tanh(W @ h + U @ x)
    return rf.Step(h, output=V @ h)


def of(name: str, memory: str = "fast") -> Plan:
    own = globals().get(name)
    return plan(own if isinstance(own, Cell) else rf.cells.get(name), memory)


def matrix(graph: Graph, product: int) -> str:
    node = graph.nodes[product]
    if node.op == "outer":
        return "outer"
    left = graph.nodes[node.args[0]]
    return f"{graph.nodes[left.args[0]].label}ᵀ" if left.op == "transpose" else str(left.label)


def products(graph: Graph, lines: tuple[int, ...]) -> list[str]:
    return sorted(matrix(graph, i) for i in lines if OPS[graph.nodes[i].op].cost == "product")


def packed(half: Half) -> list[list[list[str]]]:
    """For each stage, its packed products: the matrices that read the same vector."""
    return [
        [sorted(matrix(half.graph, i) for i in group) for _, group in stage.products]
        for stage in half.stages
    ]


# Where things run -----------------------------------------------------------------------------------------------------

LSTM_X, LSTM_H = ([f"{gate}.W_{v}" for gate in "fgio"] for v in "xh")

# name: forward (ahead, stages of the loop, behind), backward (the same); matrices only. The reverse step ends with the
# products that carry the adjoint to the step before, and begins with what is pointwise: that is a stage of its own.
WHERE = {
    "elman": (
        (["W_x"], [[["W_h"]]], []),
        ([], [[], [["W_hᵀ"]]], ["W_xᵀ", "outer", "outer"]),
    ),
    "jordan": (
        (["W_x"], [[["W_y"]], [["V"]]], []),
        ([], [[["Vᵀ"]], [["W_yᵀ"]]], ["W_xᵀ", *["outer"] * 3]),
    ),
    "lstm": (
        (LSTM_X, [[LSTM_H]], []),
        (
            [],
            [[], [["o.W_hᵀ"], ["g.W_hᵀ"], ["i.W_hᵀ"], ["f.W_hᵀ"]]],
            [*(f"{w}ᵀ" for w in LSTM_X), *["outer"] * 8],
        ),
    ),
    "gru": (
        (["i.W_x", "r.W_x", "z.W_x"], [[["W_n", "r.W_h", "z.W_h"]]], []),
        (
            [],
            [[], [["W_nᵀ"], ["z.W_hᵀ"], ["r.W_hᵀ"]]],
            ["i.W_xᵀ", *["outer"] * 6, "r.W_xᵀ", "z.W_xᵀ"],
        ),
    ),
    "gru_cho": (
        (["W_x", "r.W_x", "z.W_x"], [[["r.W_h", "z.W_h"]], [["W_h"]]], []),
        (
            [],
            [[], [["W_hᵀ"], ["z.W_hᵀ"]], [["r.W_hᵀ"]]],
            ["W_xᵀ", *["outer"] * 6, "r.W_xᵀ", "z.W_xᵀ"],
        ),
    ),
    "antisymmetric": (
        (["V"], [[["A"]]], []),
        ([], [[], [["Aᵀ"]]], ["Vᵀ", "outer", "outer"]),
    ),
    "independent": ((["V"], [[]], []), ([], [[]], ["Vᵀ", "outer"])),
    "read_out": (
        (["U"], [[["W"]]], ["V"]),
        (["Vᵀ", "outer"], [[], [["Wᵀ"]]], ["Uᵀ", "outer", "outer"]),
    ),
}


@pytest.mark.parametrize("name", WHERE)
def test_products_run_ahead_in_and_behind_the_loop(name):
    p = of(name)
    for half, (ahead, stages, behind) in zip((p.forward, p.backward), WHERE[name], strict=True):
        assert products(half.graph, half.split.ahead) == ahead
        assert packed(half) == stages
        assert products(half.graph, half.split.behind) == behind


@pytest.mark.parametrize(
    "name",
    [*WHERE, "layer_normed", "layer_normed_lstm", "two_scales", "mgu", "leaky", "lstm_peephole"],
)
@pytest.mark.parametrize("memory", ["fast", "small"])
def test_every_line_runs_once_and_after_what_it_reads(name, memory):
    p = of(name, memory)
    for half in (p.forward, p.backward):
        graph, parts = check(half.graph), half.split
        placed = [*parts.ahead, *parts.loop, *parts.behind]
        lines = [i for i, node in enumerate(graph.nodes) if node.op != "slot"]
        assert sorted(placed) == lines
        order = {i: position for position, i in enumerate(placed)}
        assert all(order[a] < order[i] for i in lines for a in graph.nodes[i].args if a in order)
        staged = [
            i
            for s in half.stages
            for i in (*s.reductions, *(j for _, g in s.products for j in g), *s.pointwise)
        ]
        assert sorted(staged) == list(parts.loop)
        stage = {
            i: number
            for number, s in enumerate(half.stages)
            for i in (*s.reductions, *(j for _, g in s.products for j in g), *s.pointwise)
        }
        for i in staged:
            for a in (a for a in graph.nodes[i].args if a in stage):
                heavy = OPS[graph.nodes[i].op].cost in ("product", "reduction")
                assert stage[a] < stage[i] if heavy else stage[a] <= stage[i]


# Stages of the forward and of the reverse loop.
STAGES = {
    "elman": (1, 2),
    "leaky": (1, 2),
    "lstm": (1, 2),
    "lstm_peephole": (1, 2),
    "gru": (1, 2),
    "antisymmetric": (1, 2),
    "independent": (1, 1),
    "gru_cho": (2, 3),
    "mgu": (2, 3),
    "two_scales": (2, 3),
    "jordan": (2, 2),
}


@pytest.mark.parametrize("name", STAGES)
def test_stages(name):
    p = of(name)
    assert (len(p.forward.stages), len(p.backward.stages)) == STAGES[name]


def test_a_layer_norm_takes_two_stages_more():
    """The product; its mean; the mean square of what is left."""
    p = of("layer_normed")
    assert [(len(s.products), len(s.reductions)) for s in p.forward.stages] == [
        (1, 0),
        (0, 1),
        (0, 1),
    ]
    # Four gates side by side, then c: five, as in the prototype.
    assert [
        (len(s.products), len(s.reductions)) for s in of("layer_normed_lstm").forward.stages
    ] == [
        *[(1, 0), (0, 4), (0, 4)],
        *[(0, 1), (0, 1)],
    ]


# Once per call --------------------------------------------------------------------------------------------------------


def test_arithmetic_on_parameters_runs_once_per_call():
    p = of("antisymmetric")
    assert [o.slot.name for o in p.once.outputs] == ["A"]
    assert [node.op for node in p.once.nodes] == ["slot", "transpose", "sub"]
    assert Slot("param", "W") not in p.forward.graph.slots()
    assert Slot("once", "A") in p.forward.graph.slots()
    # A = W - Wᵀ, so dE/dW = dE/dA - (dE/dA)ᵀ
    assert [o.slot.name for o in p.once_back.outputs] == ["W"]
    assert [node.op for node in p.once_back.nodes] == ["slot", "transpose", "sub"]
    assert p.once_back.nodes[-1].args == (0, 1)


def test_what_needs_no_arithmetic_on_parameters_has_none():
    for name in ("elman", "lstm", "gru", "gru_cho", "jordan"):
        assert of(name).once.nodes == of(name).once_back.nodes == ()


# What is kept ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("elman", []),  # tanh' = 1 - h², and h is stored anyway
        ("jordan", ["s"]),
        ("lstm", ["sigmoid_f", "sigmoid_i", "tanh_g", "sigmoid_o"]),
        ("gru_cho", ["reset", "keep", "new"]),
        (
            "independent",
            [],
        ),  # whether relu lets a gradient through is seen at its result, the state
    ],
)
def test_fast_memory_keeps_the_gates(name, kept):
    assert [value.name for value in of(name).kept] == kept


def test_a_reset_after_the_product_keeps_the_product_too():
    p = of("gru")
    assert len(p.kept) == 4
    assert [value.name for value in p.kept if not value.name.startswith("v")] == [
        "reset",
        "keep",
        "new",
    ]
    assert all(value.shape == (n,) for value in p.kept)


@pytest.mark.parametrize("name", [*WHERE, "layer_normed", "two_scales", "mgu"])
def test_small_memory_keeps_the_states_alone(name):
    p = of(name, "small")
    assert p.kept == ()
    assert not any(slot.kind == "kept" for slot in p.backward.graph.slots())
    states = sum((leaf.shape[0] for leaf in p.forward.graph.leaves_of("state")), Size())
    assert p.cost.kept == TB * states


# Costs ----------------------------------------------------------------------------------------------------------------

# name: forward, in the loop, backward (all FLOP per step and row), function calls, numbers kept, learned weights
COSTS = {
    "elman": (2 * m * n + 2 * n * n, 2 * n * n, 4 * m * n + 4 * n * n, n, n, m * n + n * n + n),
    "jordan": (
        2 * m * n + 4 * k * n,
        4 * k * n,
        4 * m * n + 8 * k * n,
        n,
        k + n,
        m * n + 2 * k * n + n + k,
    ),
    "lstm": (
        8 * m * n + 8 * n * n,
        8 * n * n,
        16 * m * n + 16 * n * n,
        5 * n,
        6 * n,
        4 * m * n + 4 * n * n + 4 * n,
    ),
    "gru": (
        6 * m * n + 6 * n * n,
        6 * n * n,
        12 * m * n + 12 * n * n,
        3 * n,
        5 * n,
        3 * m * n + 3 * n * n + 4 * n,
    ),
    "gru_cho": (
        6 * m * n + 6 * n * n,
        6 * n * n,
        12 * m * n + 12 * n * n,
        3 * n,
        4 * n,
        3 * m * n + 3 * n * n + 3 * n,
    ),
    "antisymmetric": (
        2 * m * n + 2 * n * n,
        2 * n * n,
        4 * m * n + 4 * n * n,
        n,
        2 * n,
        m * n + n * n + n,
    ),
    "read_out": (
        2 * m * n + 2 * n * n + 2 * k * n,
        2 * n * n,
        4 * m * n + 4 * n * n + 4 * k * n,
        n,
        n,
        m * n + n * n + k * n,
    ),
}


@pytest.mark.parametrize("name", COSTS)
def test_costs_as_formulas(name):
    c = of(name).cost
    flops, loop, back, functions, kept, weights = COSTS[name]
    assert c.flops == TB * flops
    assert c.flops_loop == TB * loop
    assert c.flops_back == TB * back
    assert c.functions == TB * functions
    assert c.kept == TB * kept
    assert c.kept_bytes() == 4 * c.kept and c.kept_bytes(8) == 8 * c.kept
    assert c.weights == weights


def test_costs_at_numbers_are_hand_counts():
    """T = 7, B = 3, m = 4, n = 5: a gate of LSTM has 5 rows of 4 + 5 numbers, a multiplication and an addition each."""
    at = {"T": 7, "B": 3, "m": 4, "n": 5}
    c = of("lstm").cost
    assert c.flops.at(at) == 7 * 3 * 4 * (5 * (4 + 5) * 2) == 7560
    assert c.flops_loop.at(at) == 7 * 3 * 4 * (5 * 5 * 2) == 4200
    assert c.flops_back.at(at) == 2 * 7560
    assert c.weights.at(at) == 4 * (5 * 4 + 5 * 5 + 5) == 200
    assert c.functions.at(at) == 7 * 3 * 25
    assert c.kept_bytes().at(at) == 7 * 3 * 30 * 4


def test_small_memory_pays_with_the_forward_products_again():
    fast, small = of("lstm").cost, of("lstm", "small").cost
    assert small.flops == fast.flops
    assert small.flops_back == fast.flops_back + fast.flops
    assert small.kept == TB * 2 * n
    # Elman's reverse step needs nothing but the states: the two plans are one.
    assert of("elman", "small").cost == of("elman").cost


# The rest -------------------------------------------------------------------------------------------------------------


def test_a_plan_is_made_once():
    assert plan(rf.cells.get("gru")) is plan(rf.cells.get("gru"))


def test_memory_has_two_ways():
    with pytest.raises(PlanError, match='memory is "tiny"') as caught:
        plan(rf.cells.get("gru"), "tiny")
    assert caught.value.remedy == "Choose one of fast, small."


def test_a_graph_made_by_hand_meets_the_same_refusal_as_a_cell():
    state = Leaf("state", "h", (n,))
    nodes = (Node("slot", (), (n,), state.slot), Node("sign", (0,), (n,)))
    with pytest.raises(EquationError, match="has no derivative") as caught:
        reverse(Graph("by_hand", (state,), nodes, (Output(state.slot, 1),)))
    assert caught.value.where == "in cell 'by_hand'"
    assert "rf.stop_gradient(rf.sign(...))" in caught.value.remedy


@pytest.mark.parametrize("name", list(rf.cells.all()))
def test_the_reverse_step_reads_and_gives_what_it_says(name):
    p = of(name)
    back = p.backward.graph
    leaves = rf.cells.get(name).graph.leaves
    states = [leaf.name for leaf in leaves if leaf.kind == "state"]
    assert [o.slot.name for o in back.outputs_of("carry")] == states
    assert [o.slot.name for o in back.outputs_of("delta")] == states
    inputs = [leaf.name for leaf in leaves if leaf.kind == "input"]
    assert [o.slot.name for o in back.outputs_of("input")] == inputs
    assert {slot.kind for slot in back.slots()} <= {
        "input",
        "state",
        "next",
        "kept",
        "carry",
        "given",
        "param",
        "once",
    }
    assert {o.slot for o in p.forward.graph.outputs_of("kept")} == {
        s for s in back.slots() if s.kind == "kept"
    }
