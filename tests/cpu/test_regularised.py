"""Dropped, kept and averaged recurrence: against loops with the same masks, and the masks by their statistics."""

import copy

import pytest
import torch
from by_hand import KEPT, NAMES, WEIGHTS, Wired, compare, run, states_in
from cases import BATCH, CASES, INPUT, STEPS, as_state, as_tuple, initial, make, noise, parameters
from torch.nn.functional import dropout
from torch.testing import assert_close

import refold as rf
from refold.ir.wrap import recurrent_reads

backends = pytest.mark.parametrize("backend", ["reference", "llvm"])
cells = pytest.mark.parametrize("name", NAMES)


@rf.cell(source="the state is the last input, the output what a matrix makes of it")
def echo(x=rf.Input("n"), h=rf.State("n", start=1.0), *, W=rf.Weight("n n", init="identity")):
    return rf.Step(x, output=W @ h)


def drawn(name, layer, rates, x):
    """The masks in the order in which a layer draws them: of the input, of the weights, of states read, of zones."""
    widths = list(CASES[name].states.values())

    def mask(rate, *shape):
        return torch.empty(*shape, dtype=x.dtype).bernoulli_(1 - rate) / (1 - rate)

    p = parameters(layer)
    x = x * mask(rates.variational, 1, *x.shape[1:])
    p = {n: dropout(w, rates.weight_drop) if n in WEIGHTS[name] else w for n, w in p.items()}
    keep = {k: mask(rates.recurrent, 1, BATCH, widths[k])[0] for k in KEPT[name]}
    zone = {
        k: torch.empty(STEPS, BATCH, width, dtype=x.dtype).bernoulli_(rates.zoneout)
        for k, width in enumerate(widths)
    }
    return x, p, Wired(keep=keep, zone=zone)


@cells
@backends
def test_everything_at_once_is_the_loop_with_the_same_masks(name, backend):
    rates = rf.Regularise(variational=0.3, recurrent=0.25, zoneout=0.4, weight_drop=0.2)
    layer = make(name, backend, regularise=rates)
    x, states = noise(STEPS, BATCH, INPUT).requires_grad_(), initial(name, BATCH)
    torch.manual_seed(3)
    y, final = layer(x, as_state(states), lengths=[6, 4, 1])
    torch.manual_seed(3)
    wet, p, wired = drawn(name, layer, rates, x)
    expected = run(name, p, wet, states_in(states), wired, [6, 4, 1])
    leaves = {"x": x, **{f"initial {k}": s for k, s in enumerate(states)}, **parameters(layer)}
    compare([y, *(s[0] for s in as_tuple(final))], [expected[0], *expected[1]], leaves)


@cells
@backends
def test_evaluation_takes_the_expectation_of_zoneout_and_drops_nothing(name, backend):
    rates = rf.Regularise(variational=0.3, recurrent=0.25, zoneout=0.4, weight_drop=0.2)
    layer = make(name, backend, regularise=rates).eval()
    x, states = noise(STEPS, BATCH, INPUT).requires_grad_(), initial(name, BATCH)
    before = torch.get_rng_state()
    y, final = layer(x, as_state(states))
    assert torch.equal(before, torch.get_rng_state())
    blend = dict.fromkeys(range(len(states)), 0.4)
    expected = run(name, parameters(layer), x, states_in(states), Wired(blend=blend))
    leaves = {"x": x, **{f"initial {k}": s for k, s in enumerate(states)}, **parameters(layer)}
    compare([y, *(s[0] for s in as_tuple(final))], [expected[0], *expected[1]], leaves)


@cells
def test_without_zoneout_evaluation_is_the_plain_layer_to_the_bit(name):
    dropped = make(name, "llvm", regularise=rf.Regularise(0.3, 0.2, 0.0, 0.5)).eval()
    x = noise(STEPS, BATCH, INPUT)
    assert torch.equal(dropped(x)[0], make(name, "llvm")(x)[0])


@cells
@backends
def test_rates_of_zero_are_the_plain_layer_to_the_bit(name, backend):
    x = noise(STEPS, BATCH, INPUT)
    found = []
    for settings in (
        {},
        {"regularise": rf.Regularise(0.0, 0.0, {}, 0.0), "stack": rf.Stack("plain")},
    ):
        layer = make(name, backend, **settings)
        y, final = layer(x, lengths=[6, 0, 3])
        gradients = torch.autograd.grad(y.square().sum(), list(layer.parameters()))
        found.append([y, *as_tuple(final), *gradients])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@backends
def test_variational_and_recurrent_masks_stay_along_time_and_differ_between_rows(backend):
    steps, rows, n = 5, 40, 50
    for rates, x in (
        (rf.Regularise(recurrent=0.3), torch.ones(steps, rows, n)),
        (rf.Regularise(variational=0.3), torch.ones(steps, rows, n)),
    ):
        layer = rf.Recurrent(echo, n, n, backend=backend, regularise=rates)
        y = layer(x)[0].detach()[1:]
        values = {round(v, 4) for v in y.unique().tolist()}
        assert values == {0.0, round(1 / 0.7, 4)}
        assert torch.equal(y, y[:1].expand_as(y))
        assert (y[0, 1:] != y[0, :-1]).any(1).all()
        assert abs(float((y[0] == 0).float().mean()) - 0.3) < 5 * (0.21 / (rows * n)) ** 0.5


def test_zoneout_keeps_each_unit_anew_at_the_rate_of_its_state():
    layer = rf.Recurrent("lstm", 2, 50, regularise=rf.Regularise(zoneout={"c": 0.5, "h": 0.1}))
    y, _ = layer(torch.randn(41, 10, 2), return_states="all")
    for name, rate in (("c", 0.5), ("h", 0.1)):
        kept = (y[name][1:] == y[name][:-1]).float()
        assert abs(float(kept.mean()) - rate) < 5 * (rate * (1 - rate) / kept.numel()) ** 0.5
        assert (kept[1:] != kept[:-1]).any()
    assert torch.equal(y["output"], y["h"])


def test_weight_drop_is_one_mask_a_call_on_the_weights_of_the_old_state():
    layer = rf.Recurrent(echo, 60, 60, regularise=rf.Regularise(weight_drop=0.4))
    with torch.no_grad():
        layer.parameters_of()["W"].fill_(1.0)
    y = layer(torch.eye(60).expand(3, 60, 60))[0].detach()  # after the first step y is W, turned
    assert torch.equal(y[1], y[2])
    assert {round(v, 4) for v in y[1].unique().tolist()} == {0.0, round(1 / 0.6, 4)}
    assert abs(float((y[1] == 0).float().mean()) - 0.4) < 5 * (0.24 / 3600) ** 0.5


@cells
def test_which_products_are_recurrent(name):
    graph = make(name).cell.graph
    states = list(CASES[name].states)
    assert recurrent_reads(graph).states == tuple(states[k] for k in KEPT[name])
    assert sorted(recurrent_reads(graph).weights) == sorted(WEIGHTS[name])


def test_products_with_what_a_gate_lets_through_count_and_vectors_where_no_matrix_does():
    assert recurrent_reads(rf.cells.get("gru_cho").graph).weights == ("r.W_h", "z.W_h", "W_h")

    @rf.cell
    def diagonal(x=rf.Input("n"), h=rf.State("n"), *, u=rf.Weight("n")):
        return rf.relu(u * h + x)

    assert recurrent_reads(diagonal.graph).weights == ("u",)
    layer = rf.Recurrent(diagonal, 40, 40, regularise=rf.Regularise(recurrent=0.5))
    y = layer(torch.zeros(2, 3, 40), torch.ones(1, 3, 40))[0]
    assert 0.2 < float((y[0] == 0).double().mean()) < 0.8


def test_seeded_runs_repeat_and_others_differ():
    layer = make(
        "lstm",
        "llvm",
        num_layers=2,
        bidirectional=True,
        regularise=rf.Regularise(0.2, 0.2, 0.2, 0.2),
    )
    x = noise(STEPS, BATCH, INPUT)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(layer(x)[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_stacked_bidirectional_packed_batches_agree_on_both_backends():
    found = []
    for backend in ("reference", "llvm"):
        rates = rf.Regularise(0.2, 0.2, 0.2, 0.2)
        layer = make(
            "gru", backend, num_layers=2, bidirectional=True, dropout=0.3, regularise=rates
        )
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            noise(STEPS, BATCH, INPUT), [3, 6, 1], enforce_sorted=False
        )
        torch.manual_seed(5)
        y, state = layer(packed)
        gradients = torch.autograd.grad(y.data.square().sum(), list(layer.parameters()))
        found.append([y.data, state, *gradients])
    for a, b in zip(*found, strict=True):
        assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_a_step_at_a_time_without_gradients_follows_training_and_evaluation():
    layer = make("lstm", "llvm", dtype=torch.float32, regularise=rf.Regularise(zoneout=0.5))
    x, state = torch.randn(4, 1, INPUT), None
    with torch.no_grad():
        layer.eval()
        whole = layer(x)[0]
        outputs = []
        for t in range(4):
            y, state = layer(x[t : t + 1], state)
            outputs.append(y)
        assert_close(torch.cat(outputs), whole)
        assert torch.equal(layer(x)[0], whole)
        layer.train()
        assert not torch.equal(layer(x)[0], layer(x)[0])
        layer.eval()
        assert torch.equal(layer(x)[0], whole)


@backends
def test_probes_measure_the_adjoint_of_the_wired_step(backend):
    layer = make("elman", backend, regularise=rf.Regularise(zoneout=0.5)).eval()
    x = noise(2, 1, INPUT)
    with layer.probe() as probes:
        y, _ = layer(x)
    (delta,) = torch.autograd.grad(y[1].sum(), probes[0]["h"])
    h = y.detach()[0, 0].requires_grad_()
    p = parameters(layer)
    new = 0.5 * h + 0.5 * torch.tanh(p["W_x"] @ x[1, 0] + p["W_h"] @ h + p["b"])
    assert_close(delta[0, 0], torch.autograd.grad(new.sum(), h)[0], rtol=0, atol=1e-12)


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # torch's own look
def test_a_layer_that_is_compiled_around_runs_the_same():
    layer = make("gru", "llvm", regularise=rf.Regularise(0.2, 0.2, 0.2, 0.2))
    x = noise(STEPS, BATCH, INPUT)
    traced = torch.compile(lambda v: layer(v * 2)[0] + 1, backend="eager")
    torch.manual_seed(1)
    found = traced(x)
    torch.manual_seed(1)
    assert_close(found, layer(x * 2)[0] + 1)


def test_settings_are_shown_copied_and_pickled():
    rates = rf.Regularise(recurrent=0.2, zoneout={"h": 0.1})
    layer = rf.Recurrent("lstm", 2, 3, regularise=rates)
    assert (
        repr(layer)
        == "Recurrent(lstm, 2, 3, regularise=Regularise(recurrent=0.2, zoneout={'h': 0.1}))"
    )
    assert copy.deepcopy(layer).regularise == rates
    assert list(layer.state_dict()) == list(rf.Recurrent("lstm", 2, 3).state_dict())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"variational": 1.0}, "variational is 1.0, and a rate is a number from 0 to below 1"),
        ({"recurrent": -0.1}, "recurrent is -0.1"),
        ({"weight_drop": "much"}, "weight_drop is 'much'"),
        ({"zoneout": float("nan")}, "zoneout is nan"),
        ({"zoneout": {"c": 2}}, "zoneout of c is 2"),
    ],
)
def test_rates_that_are_none_are_refused(settings, text):
    with pytest.raises(rf.EquationError, match=text):
        rf.Regularise(**settings)


def test_what_a_cell_does_not_have_cannot_be_dropped():
    @rf.cell
    def alone(h=rf.State("n")):
        return 0.5 * h

    with pytest.raises(
        rf.EquationError, match="zoneout names q, and the states of cell 'lstm' are h, c"
    ):
        rf.Recurrent("lstm", 2, 3, regularise=rf.Regularise(zoneout={"q": 0.1}))
    with pytest.raises(rf.EquationError, match="cell 'alone' reads no input"):
        rf.Recurrent(alone, 0, 3, regularise=rf.Regularise(variational=0.1))
    for rates in ({"recurrent": 0.1}, {"weight_drop": 0.1}):
        with pytest.raises(
            rf.EquationError, match="multiplies none of its states by a learned weight"
        ):
            rf.Recurrent(alone, 0, 3, regularise=rf.Regularise(**rates))
    with pytest.raises(rf.EquationError, match=r"regularise is 0.5, and must be an rf.Regularise"):
        rf.Recurrent("lstm", 2, 3, regularise=0.5)  # type: ignore[arg-type]
