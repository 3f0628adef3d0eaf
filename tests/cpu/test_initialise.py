"""Initialisers that go by the equation: recurrent weights gate by gate, and biases that set time constants."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import refold as rf
from refold import cells
from refold.errors import EquationError, RefoldError
from refold.ir.gates import keeping
from refold.nn.initialise import initialise

F64 = torch.float64
N = 8


def layer_of(cell, *args, **options) -> rf.Recurrent:
    return rf.Recurrent(cell, 3, N, *args, dtype=F64, **options)


def before_and_after(module: nn.Module, **options):
    """What changed, with the values before and after, by name; all else is bit for bit as it was."""
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    told = initialise(module, **options).changed
    after = {name: p.detach().clone() for name, p in module.named_parameters()}
    for name in after:
        assert torch.equal(before[name], after[name]) == (name not in told), name
    return told, after


# The weights that multiply old states ---------------------------------------------------------------------------------


def test_only_what_multiplies_an_old_state_is_drawn():
    told, after = before_and_after(layer_of("lstm", num_layers=2, bidirectional=True), gain=1.5)
    parts = [f"l{k}{way}" for k in (0, 1) for way in ("", "_reverse")]
    assert set(told) == {f"{part}.{gate}.W_h" for part in parts for gate in "ifgo"}
    for name, how in told.items():
        assert how == ("orthogonal(gain=1.5)",)
        assert_close(after[name] @ after[name].T, 2.25 * torch.eye(N, dtype=F64))


@pytest.mark.parametrize(("layer", "gates"), [(rf.nn.LSTM, 4), (rf.nn.GRU, 3), (rf.nn.RNN, 1)])
def test_joined_matrices_are_filled_gate_by_gate(layer, gates):
    net = nn.Sequential(layer(3, N, num_layers=2, bidirectional=True, dtype=F64))
    told, after = before_and_after(net, recurrent="orthogonal")
    assert set(told) == {f"0.weight_hh_l{k}{way}" for k in (0, 1) for way in ("", "_reverse")}
    blocks = after["0.weight_hh_l1_reverse"].split(N)
    assert len(blocks) == gates
    for block in blocks:
        assert_close(block @ block.T, torch.eye(N, dtype=F64))
    assert gates == 1 or not torch.equal(blocks[0], blocks[1])
    if gates > 1:
        assert told["0.weight_hh_l0"] == (f"orthogonal(gain=1), {gates} blocks of {N} rows",)


def test_gain_is_the_scale_of_an_identity_and_the_radius_of_a_spectrum():
    _, after = before_and_after(layer_of("elman"), recurrent="identity", gain=0.5)
    assert_close(after["l0.W_h"], torch.eye(N, dtype=F64) / 2)
    _, after = before_and_after(rf.nn.GRU(3, N, dtype=F64), recurrent="spectral_radius", gain=1.2)
    for block in after["weight_hh_l0"].split(N):
        assert float(torch.linalg.eigvals(block).abs().max()) == pytest.approx(1.2)
    told, after = before_and_after(layer_of("elman"), recurrent=rf.Init("constant", value=0.25))
    assert told == {"l0.W_h": ("constant(value=0.25)",)}
    assert_close(after["l0.W_h"], torch.full((N, N), 0.25, dtype=F64))


def test_what_a_weight_of_another_shape_gets():
    _, after = before_and_after(layer_of("jordan", k=2))
    w = after["l0.W_y"]  # (n, k): its columns are orthonormal
    assert_close(w.T @ w, torch.eye(2, dtype=F64))
    _, after = before_and_after(layer_of("multi_lag"))
    w = after["l0.W_h"]  # (n, 3n): its rows
    assert_close(w @ w.T, torch.eye(N, dtype=F64))
    told, _ = before_and_after(layer_of("indrnn"), recurrent="ones")
    assert set(told) == {"l0.u"}


# Time constants -------------------------------------------------------------------------------------------------------

# A cell, the biases that keep and those that write, with the sign that they get.
SIGNS = {
    "lstm": ({"f.b": 1}, {"i.b": -1}),
    "lstm_peephole": ({"f.b": 1}, {"i.b": -1}),
    "lstm_projection": ({"f.b": 1}, {"i.b": -1}),
    "lstm_coupled": ({"i.b": -1}, {}),
    "janet": ({"s.b": 1}, {}),
    "gru": ({"z.b": 1}, {}),
    "gru_cho": ({"z.b": 1}, {}),
    "mgu": ({"f.b": -1}, {}),
    "mgu3": ({"b_f": -1}, {}),
    "mut1": ({"z.b": -1}, {}),
    "ugrnn": ({"g.b": 1}, {}),
    "ran": ({"f.b": 1}, {"i.b": -1}),
    "cfn": ({"theta.b": 1}, {"eta.b": -1}),
    "star": ({"k.b": -1}, {}),
    "min_lstm": ({"f.b": 1}, {"i.b": -1}),
    "fast_rnn": ({"beta": 1}, {"alpha": -1}),
    "qrnn_ifo": ({"f.b": 1}, {"i.b": -1}),
}


@pytest.mark.parametrize("name", SIGNS)
def test_each_cells_gates_get_the_biases_that_keep(name):
    keep, write = SIGNS[name]
    sizes = {"r": 4} if name == "lstm_projection" else {}
    told, after = before_and_after(layer_of(name, **sizes), recurrent=None, chrono=50, seed=3)
    assert set(told) == {f"l0.{bias}" for bias in (*keep, *write)}
    (first,) = keep
    draw = keep[first] * after[f"l0.{first}"]
    assert float(draw.min()) >= 0 and float(draw.max()) <= math.log(49)
    for bias, sign in (keep | write).items():
        assert_close(after[f"l0.{bias}"], sign * draw, rtol=0, atol=0)
        assert told[f"l0.{bias}"] == (("-" if sign < 0 else "") + "log U(1, 49)",)


def test_one_of_several_biases_takes_all():
    _, after = before_and_after(rf.nn.LSTM(3, N, dtype=F64), recurrent=None, chrono=50)
    i, f, g, o = after["bias_ih_l0"].split(N)
    assert_close(i, -f, rtol=0, atol=0)
    assert float(f.min()) >= 0 and len(set(f.tolist())) == N
    other = after["bias_hh_l0"].split(N)
    assert torch.count_nonzero(torch.cat(other[:2])) == 0
    assert torch.count_nonzero(torch.cat([g, o, *other[2:]])) == 4 * N  # as they were
    told, after = before_and_after(rf.nn.GRU(3, N, dtype=F64), recurrent=None, chrono=50)
    assert told["bias_ih_l0"] == ("rows 8 to 16: log U(1, 49)",)
    assert told["bias_hh_l0"] == ("rows 8 to 16: 0",)
    assert float(after["bias_ih_l0"][N : 2 * N].min()) >= 0
    told = initialise(layer_of("gru_layer_norm"), recurrent=None, chrono=50).changed
    assert told["l0.beta_1"] == ("rows 0 to 8: -log U(1, 49)",)
    assert told["l0.beta_2"] == ("rows 0 to 8: 0",)


@pytest.mark.parametrize(("name", "state"), [("lstm", "c"), ("gru", "h"), ("mgu", "h")])
def test_units_forget_within_times_drawn_evenly(name, state):
    """Without input a state falls by its gate each step: 1 / (1 - gate) is U(1, T - 1) + 1."""
    units, steps = 1000, 50
    layer = rf.Recurrent(name, 1, units, dtype=F64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    initialise(layer, recurrent=None, chrono=steps, seed=0)
    small: torch.Tensor = torch.full((1, 1, units), 1e-9, dtype=F64)
    with torch.no_grad():
        given = (small, small) if name == "lstm" else small
        y, _ = layer(torch.zeros(1, 1, 1, dtype=F64), given, return_states="all")
    times = (1 / (1 - y[state] / 1e-9)).flatten().sort().values
    assert float(times[0]) >= 2 and float(times[-1]) <= steps
    even = 2 + (steps - 2) * (torch.arange(units, dtype=F64) + 0.5) / units
    # Kolmogorov and Smirnov: the largest distance of the two distributions, at one in a thousand.
    assert float((times - even).abs().max()) / (steps - 2) < 1.95 / math.sqrt(units)


@torch.no_grad()
def test_a_memory_of_many_steps_is_there_from_the_start():
    """What a chrono LSTM holds outlasts what one of torch's start holds."""
    torch.manual_seed(0)
    layer = rf.Recurrent("lstm", 1, 64, dtype=F64)
    x, c = torch.zeros(100, 1, 1, dtype=F64), torch.ones(1, 1, 64, dtype=F64)

    def left() -> float:
        _, (_, final) = layer(x, (torch.zeros_like(c), c))
        return float((final - layer(x)[1][1]).abs().mean())

    at_first = left()
    initialise(layer, recurrent=None, chrono=400, seed=0)
    assert at_first < 1e-3 and left() > 0.2


# What they have in common ---------------------------------------------------------------------------------------------


def test_a_seed_draws_the_same_and_leaves_the_random_state():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one, other = layer_of("lstm"), layer_of("lstm")
    state = torch.get_rng_state()
    initialise(one, chrono=20, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    initialise(other, chrono=20, seed=1)
    for name in ("i.W_h", "f.b"):
        assert torch.equal(one.parameters_of()[name], other.parameters_of()[name])
    initialise(other, chrono=20)
    assert not torch.equal(one.parameters_of()["f.b"], other.parameters_of()["f.b"])
    assert not torch.equal(torch.get_rng_state(), state)


def test_it_tells_what_it_did():
    network = rf.Network(layer_of("gru"), head=1)
    told = initialise(network, recurrent="identity", chrono=20)
    assert str(told) == (
        "layer.l0.r.W_h: identity(scale=1)\n"
        "layer.l0.z.W_h: identity(scale=1)\n"
        "layer.l0.W_n: identity(scale=1)\n"
        "layer.l0.z.b: log U(1, 19)"
    )


@pytest.mark.parametrize("backend", ["llvm", "reference"])
def test_a_layer_that_has_run_runs_with_the_new_weights(backend):
    layer, x = layer_of("gru", backend=backend), torch.randn(5, 2, 3, dtype=F64)
    with torch.no_grad():
        for _ in range(2):
            layer(x)
        initialise(layer, chrono=20, seed=0)
        found = layer(x)[0]
    fresh = layer_of("gru", backend="reference")
    fresh.load_state_dict(layer.state_dict())
    assert_close(found, fresh(x)[0])


def test_every_cell_is_read_or_says_why_not():
    read = 0
    for cell in cells.all().values():
        try:
            found = keeping(cell.graph)
        except EquationError as error:
            assert "no sigmoid multiplies" in str(error) or "has no bias" in str(error)
            continue
        names = {leaf.name for leaf in cell.graph.leaves_of("param") if leaf.learn}
        for kept in found:
            assert kept.keep and {bias.name for bias in kept.keep} <= names, cell.name
        read += 1
    assert read > 35


# What is refused ------------------------------------------------------------------------------------------------------


def test_cells_without_such_a_gate_say_so():
    for cell, text in {
        "elman": r"^no sigmoid multiplies an old state of cell 'elman' on its way to the new one\.\nA",
        "lstm_1997": "^no sigmoid multiplies an old state of cell 'lstm_1997'",
        "leaky": "^no sigmoid multiplies an old state of cell 'leaky'",
        "atr": r"^the gate that keeps h in cell 'atr' has no bias that is learned\.\nAdd one",
    }.items():
        layer = layer_of(cell)
        weights = {name: p.detach().clone() for name, p in layer.named_parameters()}
        with pytest.raises(EquationError, match=text):
            initialise(layer, chrono=100)
        for name, p in layer.named_parameters():  # nor are the others changed then
            assert torch.equal(p, weights[name])


def test_weights_that_do_not_take_an_initialiser():
    for cell, recurrent, text in (
        ("indrnn", "orthogonal", 'u starts with "orthogonal", which needs a matrix'),
        ("jordan", "spectral_radius", 'W_y starts with "spectral_radius", which needs a square'),
        (
            "min_gru",
            "identity",
            r"multiplies none of its states by a learned weight\.\nPass recurr",
        ),
        ("elman", "none", r"there is no initialiser 'none'\.\nChoose one of torch, zeros"),
        ("elman", 1.0, r"there is no initialiser 1\.0"),
        ("elman", rf.Init("normal", bound=1.0), '"normal" has no setting bound'),
    ):
        sizes = {"k": 2} if cell == "jordan" else {}
        with pytest.raises(EquationError, match=text):
            initialise(layer_of(cell, **sizes), recurrent=recurrent)  # type: ignore[arg-type]


def test_settings_that_do_not_fit():
    layer = layer_of("lstm")
    with pytest.raises(EquationError, match=r'gain is 2, and "normal" has none\.\nLeave gain out'):
        initialise(layer, recurrent="normal", gain=2)
    with pytest.raises(EquationError, match=r"gain is 2, and recurrent is None\."):
        initialise(layer, recurrent=None, gain=2, chrono=10)
    with pytest.raises(EquationError, match=r"gain is 'a', and must be a number"):
        initialise(layer, gain="a")  # type: ignore[arg-type]
    for chrono in (2, -1, math.inf):
        with pytest.raises(
            EquationError, match=r"chrono is .*, and a memory is drawn.*\nGive a num"
        ):
            initialise(layer, chrono=chrono)
    with pytest.raises(EquationError, match=r"both None: there is nothing to do\.\nGive one"):
        initialise(layer, recurrent=None)
    with pytest.raises(RefoldError, match=r"Linear holds no rf\.Recurrent and no layer of rf\.nn"):
        initialise(nn.Linear(2, 2))
    nn.utils.parametrizations.orthogonal(layer.get_submodule("l0.f"), "W_h")
    with pytest.raises(RefoldError, match=r"worked out from others.*\ninitialise first"):
        initialise(layer)
