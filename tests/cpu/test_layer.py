"""The layer as a torch.nn.Module: shapes, states, dropout, copies, and the names of its weights."""

import copy
import io
import pickle
from functools import partial

import cases
import oracle
import pytest
import torch
from cases import (
    CASES,
    as_state,
    as_tuple,
    both_backends,
    every_cell,
    initial,
    make,
    noise,
    parameters,
)
from torch.testing import assert_close

import refold as rf
from refold.errors import KernelError, RefoldError

STEPS, BATCH = 5, 3
exact = partial(assert_close, rtol=0.0, atol=1e-12)

GATE = ["W_x", "W_h", "b"]
NAMES = {
    "elman": GATE,
    "elman_relu": GATE,
    "jordan": ["W_x", "W_y", "b", "V", "c"],
    "two_layer_feedback": ["W_x", "W_1", "U", "b_1", "W_2", "V", "b_2"],
    "leaky": GATE,
    "gru": [*(f"{g}.{w}" for g in "rz" for w in GATE), "i.W_x", "i.b", "W_n", "b_n"],
    "gru_cho": [*(f"{g}.{w}" for g in "rz" for w in GATE), *GATE],
    "mgu": [*(f"f.{w}" for w in GATE), *GATE],
    "lstm": [f"{g}.{w}" for g in "ifgo" for w in GATE],
    "lstm_peephole": [*(f"{g}.{w}" for g in "ifgo" for w in GATE), "p_i", "p_f", "p_o"],
}


# ---------------------------------------------------------------- shapes and attributes


@pytest.mark.parametrize(
    ("layers", "bidirectional"), [(1, False), (1, True), (3, False), (2, True)]
)
@every_cell
def test_shapes_are_those_of_torch_nn(name: str, layers: int, bidirectional: bool) -> None:
    case, runs, directions = CASES[name], layers * (1 + bidirectional), 1 + bidirectional
    layer = make(name, num_layers=layers, bidirectional=bidirectional)
    assert (layer.input_size, layer.hidden_size) == (cases.INPUT, cases.HIDDEN)
    assert (layer.num_layers, layer.directions) == (layers, directions)
    assert (layer.output_size, layer.output_features) == (case.output, case.output * directions)
    assert dict(layer.state_sizes) == dict(case.states)
    y, state = layer(noise(STEPS, BATCH, cases.INPUT))
    assert y.shape == (STEPS, BATCH, layer.output_features)
    assert isinstance(state, torch.Tensor) == (len(case.states) == 1)
    shapes = [tuple(s.shape) for s in as_tuple(state)]
    assert shapes == [(runs, BATCH, size) for size in case.states.values()]


@pytest.mark.parametrize("bidirectional", [False, True])
@every_cell
def test_all_states_on_request(name: str, bidirectional: bool) -> None:
    """By name, each (T, B, size * directions); the last of each is the final state."""
    layer = make(name, num_layers=2, bidirectional=bidirectional)
    x = noise(STEPS, BATCH, cases.INPUT)
    values, state = layer(x, return_states="all")
    assert set(values) == {"output", *CASES[name].states}
    y, _ = layer(x)
    assert torch.equal(values["output"], y)
    for (key, size), final in zip(CASES[name].states.items(), as_tuple(state), strict=True):
        assert values[key].shape == (STEPS, BATCH, size * layer.directions)
        assert torch.equal(values[key][-1, :, :size], final[layer.directions * 1])
        if bidirectional:
            assert torch.equal(values[key][0, :, size:], final[3])


def test_layers_feed_layers_their_outputs() -> None:
    """The second layer's input is the first one's output, of both directions."""
    layer = make("jordan", num_layers=2, bidirectional=True)
    assert parameters(layer, 1)["W_x"].shape == (cases.HIDDEN, 2 * 2)
    with torch.no_grad():
        parameters(layer, 1)["W_x"].zero_()
        parameters(layer, 1, reverse=True)["W_x"].zero_()
    y, _ = layer(noise(STEPS, BATCH, cases.INPUT))
    other, _ = layer(noise(STEPS, BATCH, cases.INPUT, seed=2))
    assert torch.equal(y, other)


# ---------------------------------------------------------------- names


@every_cell
def test_parameters_have_the_names_of_the_equation(name: str) -> None:
    layer = make(name, num_layers=2, bidirectional=True)
    seen: set[int] = set()
    for index in (0, 1):
        for reverse in (False, True):
            named = layer.parameters_of(layer=index, reverse=reverse)
            assert list(named) == NAMES[name]
            assert all(isinstance(p, torch.nn.Parameter) for p in named.values())
            seen |= {id(p) for p in named.values()}
    assert seen == {id(p) for p in layer.parameters()}
    assert len(seen) == 4 * len(NAMES[name])


def test_parameters_of_asks_for_a_layer_that_is_there() -> None:
    layer = make("gru", num_layers=2)
    with pytest.raises(KernelError, match="2"):
        layer.parameters_of(layer=2)
    with pytest.raises(KernelError, match="reverse"):
        layer.parameters_of(layer=0, reverse=True)


def test_sizes_of_weights() -> None:
    p = parameters(make("jordan"))
    shapes = {key: tuple(w.shape) for key, w in p.items()}
    n, m, k = cases.HIDDEN, cases.INPUT, 2
    assert shapes == {"W_x": (n, m), "W_y": (n, k), "b": (n,), "V": (k, n), "c": (k,)}


# ---------------------------------------------------------------- learned initial states


@both_backends
@pytest.mark.parametrize("name", ["gru", "lstm", "jordan"])
def test_a_learned_initial_state_is_used_and_learned(name: str, backend: str) -> None:
    """Parameters of the layer, the same for every row; a given state takes their place."""
    plain = make(name, backend, num_layers=2, bidirectional=True)
    layer = make(name, backend, num_layers=2, bidirectional=True, learn_state=True)
    own = {id(p) for k in (0, 1) for r in (False, True) for p in parameters(layer, k, r).values()}
    starts = [p for p in layer.parameters() if id(p) not in own]
    assert sum(p.numel() for p in starts) == 4 * sum(CASES[name].states.values())
    for k in (0, 1):
        for reverse in (False, True):
            for key, p in parameters(plain, k, reverse).items():
                p.data.copy_(parameters(layer, k, reverse)[key])
    x, given = noise(STEPS, BATCH, cases.INPUT), as_state(initial(name, BATCH, 4))
    exact(layer(x, given)[0], plain(x, given)[0])
    y, _ = layer(x)
    assert float((y - plain(x)[0]).detach().abs().max()) > 1e-3
    y.square().sum().backward()
    for p in starts:
        assert p.grad is not None
        assert torch.count_nonzero(p.grad) == p.numel()
    with torch.no_grad():
        for p in starts:
            p.zero_()
    exact(layer(x)[0], plain(x)[0])


def test_a_learned_state_of_an_empty_row_is_its_final_state() -> None:
    layer = make("gru", learn_state=True)
    _, final = layer(noise(STEPS, BATCH, cases.INPUT), lengths=[0, 2, 0])
    assert torch.equal(final[:, 0], final[:, 2])
    assert torch.count_nonzero(final[:, 0]) == final[:, 0].numel()


# ---------------------------------------------------------------- dropout


@both_backends
def test_dropout_is_between_layers_and_only_in_training(backend: str) -> None:
    """With p = 1 the second layer sees zeros; the first layer's final state is as without."""
    plain = make("gru", backend, num_layers=2)
    layer = make("gru", backend, num_layers=2, dropout=1.0)
    x = noise(STEPS, BATCH, cases.INPUT)
    y, final = layer.train()(x)
    blank = make("gru", backend, num_layers=2)
    with torch.no_grad():
        parameters(blank, 1)["r.W_x"].zero_()
        parameters(blank, 1)["z.W_x"].zero_()
        parameters(blank, 1)["i.W_x"].zero_()
    exact(y, blank(x)[0])
    exact(final[0], plain(x)[1][0])
    exact(layer.eval()(x)[0], plain(x)[0])


def test_dropout_scales_what_it_keeps() -> None:
    """Second layer: h = relu(x), an identity, so that the mask can be seen in the output."""
    layer = rf.Recurrent(cases.elman_relu, 1, 1, num_layers=2, dropout=0.25, dtype=torch.float64)
    with torch.no_grad():
        for index in (0, 1):
            p = parameters(layer, index)
            p["W_x"].fill_(1.0)
            p["W_h"].zero_()
            p["b"].zero_()
    torch.manual_seed(0)
    y, _ = layer(torch.ones(400, 10, 1, dtype=torch.float64))
    kept = y[y != 0]
    exact(kept, torch.full_like(kept, 1 / 0.75))
    assert abs(kept.numel() / y.numel() - 0.75) < 0.03
    assert not torch.equal(y, layer(torch.ones(400, 10, 1, dtype=torch.float64))[0])


@pytest.mark.parametrize("dropout", [-0.1, 1.5, True, "half"])
def test_dropout_must_be_a_share(dropout: object) -> None:
    with pytest.raises(RefoldError, match="dropout"):
        make("gru", num_layers=2, dropout=dropout)


# ---------------------------------------------------------------- a torch.nn.Module


def same_function(one: rf.Recurrent, other: rf.Recurrent) -> None:
    x = noise(STEPS, BATCH, cases.INPUT, dtype=next(one.parameters()).dtype)
    a, b = one(x), other(x)
    assert torch.equal(a[0], b[0])
    for mine, theirs in zip(as_tuple(a[1]), as_tuple(b[1]), strict=True):
        assert torch.equal(mine, theirs)


@both_backends
@every_cell
def test_copies_are_independent_and_equal(name: str, backend: str) -> None:
    layer = make(name, backend, num_layers=2, bidirectional=True)
    twin = copy.deepcopy(layer)
    same_function(layer, twin)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert all(torch.count_nonzero(p) > 0 for p in layer.parameters())
    x = noise(STEPS, BATCH, cases.INPUT)
    assert float((layer(x)[0] - twin(x)[0]).detach().abs().max()) > 1e-3
    p, q = parameters(layer, 1, True), parameters(twin, 1, True)
    assert all(q[key] is not p[key] and key in p for key in q)


@both_backends
@every_cell
def test_pickled_and_saved_it_is_the_same(name: str, backend: str) -> None:
    """A zoo cell, and a cell written in a user's own module, with `pickle` and `torch.save`."""
    layer = make(name, backend, num_layers=2)
    same_function(layer, pickle.loads(pickle.dumps(layer)))
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    same_function(layer, torch.load(buffer, weights_only=False))


@every_cell
def test_state_dict_round_trip(name: str) -> None:
    layer = make(name, num_layers=2, bidirectional=True, learn_state=True)
    other = cases.seeded(make(name, num_layers=2, bidirectional=True, learn_state=True), seed=99)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    same_function(layer, other)
    assert layer.state_dict().keys() >= dict(layer.named_parameters()).keys()


@both_backends
def test_double_float_and_to_keep_the_layer_working(backend: str) -> None:
    layer = rf.Recurrent("lstm", cases.INPUT, cases.HIDDEN, num_layers=2, backend=backend)
    assert {p.dtype for p in layer.parameters()} == {torch.float32}
    before, _ = layer(noise(STEPS, BATCH, cases.INPUT, dtype=torch.float32))
    layer.double()
    x = noise(STEPS, BATCH, cases.INPUT)
    y, _ = layer(x)
    assert y.dtype == torch.float64
    assert_close(y.float(), before, rtol=1e-5, atol=1e-6)
    exact(y, oracle.stacked(oracle.lstm, [[parameters(layer, k)] for k in (0, 1)], x, _zeros(2))[0])
    layer.to(torch.float32)
    assert_close(layer(x.float())[0], before, rtol=1e-5, atol=1e-6)
    layer.to("cpu")
    assert {id(p) for k in (0, 1) for p in parameters(layer, k).values()} == {
        id(p) for p in layer.parameters()
    }


def _zeros(runs: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.zeros(runs, BATCH, cases.HIDDEN, dtype=torch.float64) for _ in range(2))


def test_the_meta_device_gives_shapes_without_work() -> None:
    layer = rf.Recurrent("gru", cases.INPUT, cases.HIDDEN, device="meta")
    assert {p.device.type for p in layer.parameters()} == {"meta"}
    y, h = layer(torch.zeros(2, BATCH, cases.INPUT, device="meta"))
    assert (y.device.type, y.shape) == ("meta", (2, BATCH, cases.HIDDEN))
    assert h.shape == (1, BATCH, cases.HIDDEN)


def test_the_same_seed_gives_the_same_start() -> None:
    layers = []
    for _ in range(2):
        torch.manual_seed(4)
        layers.append(rf.Recurrent("gru", cases.INPUT, cases.HIDDEN, num_layers=2))
    for a, b in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(parameters(layers[0], 0)["W_n"], parameters(layers[0], 1)["W_n"])
    assert not torch.equal(parameters(layers[0])["r.W_h"], parameters(layers[0])["z.W_h"])


def test_printing_says_what_it_is() -> None:
    text = repr(make("gru", num_layers=2, bidirectional=True))
    for part in ("gru", "3", "4", "num_layers=2", "bidirectional=True"):
        assert part in text


def test_freezing_one_weight_leaves_it_out_of_the_gradient() -> None:
    layer = make("lstm")
    frozen = parameters(layer)["f.b"]
    frozen.requires_grad_(False)
    layer(noise(STEPS, BATCH, cases.INPUT))[0].sum().backward()
    assert frozen.grad is None
    assert parameters(layer)["i.b"].grad is not None


def test_tied_weights_get_the_sum_of_their_gradients() -> None:
    """One Parameter for two directions: registered once, its gradient the sum of both."""
    layer = make("elman", bidirectional=True)
    mine = [parameters(layer, 0, r)["W_h"] for r in (False, True)]
    with torch.no_grad():
        mine[1].copy_(mine[0])
    x = noise(STEPS, BATCH, cases.INPUT)
    layer(x)[0].square().sum().backward()
    assert all(w.grad is not None for w in mine)
    apart = sum(w.grad for w in mine if w.grad is not None)
    names = {id(p): name for name, p in layer.named_parameters()}
    shared = {names[id(w)]: mine[0] for w in mine}
    (g,) = torch.autograd.grad(
        torch.func.functional_call(layer, shared, (x,))[0].square().sum(), mine[0]
    )
    exact(g, apart)
