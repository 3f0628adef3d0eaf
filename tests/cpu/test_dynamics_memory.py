"""What is left after each lag, the bound that holds for every state, gates, and the verdict."""

import math
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import refold as rf
from refold.dynamics.folded import folded
from refold.dynamics.gains import gains
from refold.train.gradients.bptt import gradients

F64 = torch.float64
NONE = {"W_x": torch.zeros(2, 0), "b": torch.zeros(2)}
RELU = {"W_h": [[1.5, 1.0], [-1.5, -0.9]], **NONE}  # spectral radius 0.387


@rf.cell
def linear(h=rf.State("n"), *, W=rf.Weight("n n")):
    return W @ h


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# Memory ---------------------------------------------------------------------------------------------------------------


def test_of_one_weight_it_is_a_power_of_the_lag():
    d = rf.dynamics(linear, parameters={"W": [[0.9]]})
    found = d.memory(lags=30)
    assert_close(found.rows[:, 0], 0.9 ** torch.arange(31, dtype=F64))
    assert_close(found.bound, found.rows[:, 0])
    assert found.half_life == 7  # 0.9^7 = 0.478
    assert found.growth == pytest.approx(math.log(0.9)) and found.growth_error < 1e-12
    assert float(found.directions.time_constants[0]) == pytest.approx(-1 / math.log(0.9))


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
def test_products_are_the_adjoints_of_backpropagation(cell):
    """For an error at the last step only, dE/dh(t - lag) = P(lag)^T dE/dh(t): here of every unit of the state."""
    layer = rf.Recurrent(cell, 2, 3, dtype=F64)
    x = torch.randn(12, 1, 2, dtype=F64)
    size = folded(layer).size
    whole = torch.zeros(12, size, size, dtype=F64)
    with layer.probe() as probes:
        final = layer(x)[1]
    flat = torch.cat([f.flatten() for f in (final if isinstance(final, tuple) else (final,))])
    for i in range(size):
        found = torch.autograd.grad(flat[i], list(probes[0].values()), retain_graph=True)
        whole[:, i] = torch.cat([f[:, 0] for f in found], -1)
    memory = rf.dynamics(layer, x).memory(lags=11)
    norms = whole.flatten(1).norm(dim=1).flip(0) / math.sqrt(size)
    assert_close(memory.rows[:, 0], norms, rtol=1e-12, atol=0)
    assert bool((memory.rows[:, 0] <= memory.bound * (1 + 1e-12)).all())
    assert_close(memory.units, whole[11 - memory.lag].norm(dim=0), rtol=1e-12, atol=0)


def test_the_users_own_error_is_measured_beside():
    network = rf.Network(rf.Recurrent("gru", 1, 4, dtype=F64), head=1)
    x, d = torch.randn(9, 3, 1, dtype=F64), torch.randn(9, 3, 1, dtype=F64)
    found = rf.dynamics(network, x).memory(d)
    assert found.error is not None
    mask = torch.zeros(9, 3, dtype=torch.bool)
    mask[-1] = True
    adjoint = gradients(network, x, d, steps="sum", sequences="sum", mask=mask).states[0]["h"]
    norms = adjoint.norm(dim=-1).flip(0)
    assert_close(found.error.curves[0].mean, norms.mean(1), rtol=1e-12, atol=0)
    assert "error: l0 h" in str(found)


def test_rows_and_lags():
    found = rf.dynamics(rf.Recurrent("gru", 1, 4), torch.randn(40, 20, 1)).memory(lags=15)
    assert found.rows.shape == (16, 8) and found.lags.tolist() == list(range(16))
    assert bool((found.median <= found.largest).all())
    with pytest.raises(rf.DataError, match="1 to 40"):
        rf.dynamics(rf.Recurrent("gru", 1, 4), torch.randn(40, 2, 1)).memory(lags=41)
    with pytest.raises(rf.DataError, match="no data"):
        rf.dynamics(rf.Recurrent("gru", 1, 4)).memory(torch.zeros(3, 1, 1))


def test_a_target_needs_the_users_network_and_data():
    x, d = torch.randn(6, 2, 1), torch.zeros(6, 2, 4)
    layer = rf.Recurrent("gru", 1, 4)
    for made, text in (
        (rf.dynamics(layer, x, torch.zeros(1, 2, 4)), "the start is the user's own"),
        (rf.dynamics(lambda h, x: h + x, x, [0.0]), "no rf.Network"),
    ):
        with pytest.raises(rf.DataError, match=text):
            made.memory(d)
    first = rf.Recurrent("gru", 1, 4, batch_first=True)
    first.load_state_dict(layer.state_dict())
    assert_close(
        rf.dynamics(first, x.transpose(0, 1)).memory().rows, rf.dynamics(layer, x).memory().rows
    )
    with pytest.raises(rf.DataError, match="batch_first"):
        rf.dynamics(first, x.transpose(0, 1)).memory(d)


def test_which_units_keep_is_told():
    """A diagonal network: unit 1 keeps 0.99 a step, unit 0 forgets."""
    found = rf.dynamics(linear, parameters={"W": [[0.2, 0.0], [0.0, 0.99]]}).memory(lags=20)
    assert int(found.units.argmax()) == 1 and found.labels[1] == "h[1]"
    assert float(found.directions.directions[1, 0].abs()) == pytest.approx(1.0)


# Gates ----------------------------------------------------------------------------------------------------------------


def test_saturation_is_counted():
    layer = rf.Recurrent("lstm", 1, 4, dtype=F64)
    with torch.no_grad():
        for name, value in {"f.b": 9.0, "i.b": -9.0, "o.b": 0.0, "g.b": 5.0}.items():
            layer.parameters_of()[name].fill_(value)
    found = {g.name: g for g in rf.dynamics(layer, torch.randn(20, 3, 1)).memory().gates}
    assert (found["f"].high, found["f"].low) == (1.0, 0.0)
    assert (found["i"].high, found["i"].low) == (0.0, 1.0)
    assert (found["o"].high, found["o"].low) == (0.0, 0.0)
    assert found["g"].kind == "tanh" and found["g"].high == 1.0
    assert found["f"].units.tolist() == [1.0] * 4


def test_gates_are_those_of_the_run():
    layer = rf.Recurrent("gru", 2, 5, 2, dtype=F64)
    x = 3 * torch.randn(30, 2, 2, dtype=F64)
    d = rf.dynamics(layer, x)
    found = {g.name: g for g in d.memory().gates}
    params = layer.parameters_of(0)
    h = d.states()[:-1, :, :5]
    z = torch.sigmoid(x @ params["z.W_x"].T + h @ params["z.W_h"].T + params["z.b"])
    assert found["l0.keep"].low == pytest.approx(float((z < 0.1).double().mean()), abs=1e-12)
    assert found["l0.keep"].high == pytest.approx(float((z > 0.9).double().mean()), abs=1e-12)
    assert {"l1.reset", "l1.keep", "l1.new"} <= set(found)


# The bound ------------------------------------------------------------------------------------------------------------


def sigma(matrix):
    return float(torch.linalg.matrix_norm(matrix.detach(), 2))


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("elman", lambda p: sigma(p["W_h"])),
        ("elman_relu", lambda p: sigma(p["W_h"])),
        ("leaky", lambda p: 0.9 + 0.1 * sigma(p["W_h"])),
        ("indrnn", lambda p: float(p["u"].detach().abs().max())),
        ("jordan", lambda p: sigma(p["V"]) * sigma(p["W_y"])),
        ("lstm", lambda p: math.inf),
    ],
)
def test_a_bound_is_what_the_equation_says(cell, expected):
    sizes: dict[str, Any] = {"k": 3} if cell == "jordan" else {}
    layer = rf.Recurrent(cell, 2, 4, dtype=F64, **sizes)
    assert gains(folded(layer)) == pytest.approx([expected(layer.parameters_of())])


@pytest.mark.parametrize("name", rf.cells.all())
def test_no_jacobian_is_above_its_bound(name):
    from refold.plan.cost import letters

    cell = rf.cells.get(name)
    sizes: dict[str, Any] = dict.fromkeys(sorted(letters(cell.graph) - {"m", "n"}), 3)
    system = folded(rf.Recurrent(cell, 4, 4, dtype=F64, **sizes))
    h, x = torch.randn(50, system.size, dtype=F64), torch.randn(50, system.inputs, dtype=F64)
    norms = torch.linalg.matrix_norm(system.linear(h, x)[1], 2)
    norms = norms[norms.isfinite()]
    assert float(norms.max()) <= gains(system)[0] * (1 + 1e-12)


# The verdict ----------------------------------------------------------------------------------------------------------


def test_a_small_spectral_radius_does_not_make_it_vanish():
    d = rf.dynamics("elman_relu", state=torch.tensor([1.0, 0.0]), parameters=RELU)
    assert float(torch.linalg.eigvals(torch.tensor(RELU["W_h"])).abs().max()) == pytest.approx(
        0.387, abs=1e-3
    )
    assert_close(d.states(20)[20, 0], torch.tensor([1.5**20, 0.0], dtype=F64))
    assert float(d.states(20)[20, 0, 0]) == pytest.approx(3325.2567, abs=1e-4)
    found = d.verdict(20)
    assert (found.kind, found.certainty) == ("explode", "measured")
    assert found.change == pytest.approx(1.5**20 * math.sqrt(1 + 1 / 1.5**2) / math.sqrt(2))
    without = rf.dynamics("elman_relu", parameters=RELU).verdict(20)
    assert (without.kind, without.certainty) == ("explode", "possible")
    with_data = rf.dynamics(
        "elman_relu", torch.ones(20, 1, 1), parameters=RELU | {"W_x": [[1.0], [0.0]]}
    ).verdict()
    assert (with_data.kind, with_data.certainty) == ("explode", "measured")


def test_a_contraction_vanishes_for_certain():
    matrix = 0.8 * torch.linalg.qr(torch.randn(2, 2, dtype=F64)).Q
    found = rf.dynamics("elman", parameters={"W_h": matrix, **NONE}).verdict()
    assert (found.kind, found.certainty) == ("vanish", "guaranteed")
    assert found.gain == pytest.approx(0.8) and f"{0.8**100:.2g}" in str(found)
    half = rf.dynamics("elman", parameters={"W_h": matrix / 0.8 * 0.5, **NONE}).verdict()
    assert half.gain == pytest.approx(0.5)


def test_a_stack_of_contractions_vanishes_too():
    layer = rf.Recurrent("elman", 2, 3, 2, dtype=F64)
    with torch.no_grad():
        for index in range(2):
            layer.parameters_of(index)["W_h"].copy_(0.7 * torch.eye(3))
    found = rf.dynamics(layer).verdict()
    assert found.certainty == "guaranteed" and "within any layer" in str(found)
    with torch.no_grad():
        layer.parameters_of(1)["W_h"].copy_(1.1 * torch.eye(3))
    assert rf.dynamics(layer).verdict().certainty == "possible"


@pytest.mark.parametrize(
    ("matrix", "kind"),
    [
        ([[0.9, 10.0], [0.0, 0.9]], "vanish"),
        ([[1.1, 0.0], [0.0, 0.1]], "explode"),
        ([[0.6, -0.8], [0.8, 0.6]], "neither"),
    ],
)
def test_of_a_linear_network_eigenvalues_decide(matrix, kind):
    found = rf.dynamics(linear, parameters={"W": matrix}).verdict()
    assert (found.kind, found.certainty) == (kind, "guaranteed")
    if kind == "vanish":
        assert "38.75 times at step 9" in str(found)


def test_what_jumps_is_not_linear():
    """Its Jacobian is 0 wherever there is one, and no guarantee for what happens at the jumps."""
    given = {"W_h": [[2.0]], "W_x": torch.zeros(1, 0), "theta": [0.5]}
    found = rf.dynamics("mcculloch_pitts", parameters=given).verdict()
    assert "linear" not in str(found) and found.certainty == "guaranteed"
    hopfield = rf.dynamics("hopfield", parameters={"W": [[0.0, 1.0], [1.0, 0.0]]})
    assert not hopfield.system.constant  # type: ignore[attr-defined]


def test_a_gated_cell_is_told_what_suits_it():
    x = torch.randn(100, 4, 1)
    lstm = rf.Recurrent("lstm", 1, 16)
    found = rf.dynamics(lstm, x).verdict()
    assert (found.kind, found.certainty) == ("vanish", "measured") and "chrono=T" in str(found)
    assert found.change < 0.01 and found.lags == 100
    with torch.no_grad():
        lstm.parameters_of()["f.b"].fill_(12.0)
        lstm.parameters_of()["i.b"].fill_(-12.0)
    assert rf.dynamics(lstm, x).verdict().kind == "neither"
    assert "Clip" in str(rf.dynamics("elman_relu", parameters=RELU).verdict(20))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["gru", "lstm", "gru_cho", "lstm_coupled"])
def test_small_gated_cells_vanish_for_inputs_in_a_range(cell, layers):
    layer = rf.Recurrent(cell, 1, 8, layers, dtype=F64)
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(0.3)
    x = torch.randn(60, 3, 1, dtype=F64)
    found = rf.dynamics(layer, x).verdict()
    assert (found.kind, found.certainty, found.holds) == ("vanish", "guaranteed", "in the range")
    assert f"({float(x.min()):.3g} to {float(x.max()):.3g})" in str(found)
    assert rf.dynamics(layer).verdict().certainty == "possible"  # of any input nothing is known
    far = rf.dynamics(layer, 1000 * x).verdict()
    assert far.certainty == "measured" and far.holds == ""
    if layers == 1:
        left = float(str(found).split("more than ")[1].split(" of a gradient")[0])
        assert float(rf.dynamics(layer, x).memory(lags=60).largest[-1]) <= left


def test_what_holds_always_says_so():
    matrix = 0.8 * torch.linalg.qr(torch.randn(2, 2, dtype=F64)).Q
    assert rf.dynamics("elman", parameters={"W_h": matrix, **NONE}).verdict().holds == "always"
    # No norm of it is below 1, and the network reads nothing: its own states are bound to come near to 0.
    turned = rf.dynamics("elman", parameters={"W_h": [[0.5, 1.2], [0.1, 0.5]], **NONE}).verdict()
    assert (turned.certainty, turned.holds) == ("guaranteed", "always") and turned.gain > 1
    assert rf.dynamics("elman_relu", parameters=RELU).verdict().holds == ""


def test_at_the_edge_of_a_rectifier_nothing_is_guaranteed():
    """At 0 its slope is taken as 0, and the network rests there; a little beside it the state grows."""
    given = RELU | {"W_x": [[1.0], [0.0]]}
    for x in (torch.zeros(20, 1, 1), torch.linspace(-1, 0, 20).reshape(20, 1, 1)):
        assert rf.dynamics("elman_relu", x, parameters=given).verdict().certainty != "guaranteed"
    still = rf.dynamics("elman_relu", state=torch.zeros(2), parameters=RELU).verdict(20)
    assert still.certainty != "guaranteed"


def test_a_function_has_no_guarantee():
    found = rf.dynamics(lambda h: 0.5 * h, state=[1.0]).verdict()
    assert (found.kind, found.certainty) == ("vanish", "measured")
    assert "0.5" not in str(found).split("multiplied")[0]


def test_print_says_what_it_is():
    text = str(rf.dynamics(rf.Recurrent("lstm", 1, 4), torch.randn(30, 2, 1)))
    assert text.startswith("lstm: h (4), c (4); data of 30 steps, 2 row(s)\n")
