"""The contract of torch.nn's recurrent layers, kept by rf.nn: constructor, parameters, calls, copies, extras."""

import copy
import inspect
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

import refold as rf

# torch's own LSTM says so where it has a projection.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported:UserWarning")
LAYERS = ("RNN", "LSTM", "GRU")
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in LAYERS),
    *((name, {"num_layers": 2, "bidirectional": True, "bias": False}) for name in LAYERS),
    ("LSTM", {"proj_size": 3, "num_layers": 2, "batch_first": True}),
    ("RNN", {"nonlinearity": "relu", "num_layers": 2, "dropout": 0.1}),
]
every_setting = pytest.mark.parametrize(
    ("name", "options"), SETTINGS, ids=[f"{n}-{'-'.join(o) or 'plain'}" for n, o in SETTINGS]
)
every_layer = pytest.mark.parametrize("name", LAYERS)


def twins(name: str, *sizes: Any, **options: Any) -> tuple[Any, Any]:
    """Ours and torch's, drawn from the same seed."""
    made = []
    for home in (rf.nn, nn):
        torch.manual_seed(0)
        made.append(getattr(home, name)(*(sizes or (4, 6)), **options))
    return made[0], made[1]


def run(layer: Any, steps: int = 5, batch: int = 3) -> list[Tensor]:
    """Output, final states and the gradients of all parameters."""
    like = next(layer.parameters())
    torch.manual_seed(3)
    lead = (batch, steps) if layer.batch_first else (steps, batch)
    x = torch.randn(*lead, layer.input_size, dtype=like.dtype)
    y, final = layer(x)
    results = [y, *(final if isinstance(final, tuple) else (final,))]
    total = torch.stack([r.square().sum() for r in results]).sum()
    leaves = [p for p in layer.parameters() if p.requires_grad]
    return [*results, *torch.autograd.grad(total, leaves)]


def same(mine: Any, theirs: Any, near: float = 1e-5) -> None:
    torch.testing.assert_close(mine, theirs, rtol=near, atol=near)


# ---------------------------------------------------------------- constructor and parameters


@every_setting
def test_it_starts_as_torch_does(name, options):
    mine, theirs = twins(name, **options)
    assert repr(mine) == repr(theirs)
    names = [n for n, _ in theirs.named_parameters()]
    assert [n for n, _ in mine.named_parameters()] == names
    for (_, a), (_, b) in zip(mine.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    torch.manual_seed(7)
    mine.reset_parameters()
    torch.manual_seed(7)
    theirs.reset_parameters()
    torch.testing.assert_close(mine.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    known = [k for k in theirs.__dict__ if not k.startswith("__")]
    assert [k for k in known if k not in mine.__dict__] == []
    for key in ("mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first"):
        assert getattr(mine, key) == getattr(theirs, key)
    for key in ("dropout", "bidirectional", "proj_size", "_flat_weights_names", "_all_weights"):
        assert getattr(mine, key) == getattr(theirs, key)
    assert [len(part) for part in mine.all_weights] == [len(part) for part in theirs.all_weights]


@every_layer
def test_settings_by_place(name):
    extra = ("relu",) if name == "RNN" else ()
    arguments = (4, 6, 2, *extra, False, True, 0.5, True)
    mine, theirs = twins(name, *arguments)
    assert repr(mine) == repr(theirs)
    same(run(mine.eval()), run(theirs.eval()))


@every_setting
def test_states_load_both_ways(name, options):
    mine, theirs = twins(name, **options)
    torch.manual_seed(1)
    theirs.reset_parameters()
    mine.load_state_dict(theirs.state_dict(), strict=True)
    same(run(mine.eval()), run(theirs.eval()))
    mine.reset_parameters()
    theirs.load_state_dict(mine.state_dict(), strict=True)
    same(run(mine.eval()), run(theirs.eval()))
    stream = io.BytesIO()
    torch.save(mine.state_dict(), stream)
    stream.seek(0)
    theirs.load_state_dict(torch.load(stream, weights_only=True), strict=True)


def test_what_torch_refuses_in_a_constructor():
    cases: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
        *((name, (4, 6), {"dropout": 1.5}) for name in LAYERS),
        *((name, (4, 6), {"dropout": True}) for name in LAYERS),
        *((name, (4, 6), {"bias": 1}) for name in LAYERS),
        *((name, (4, 6), {"batch_first": "yes"}) for name in LAYERS),
        *((name, (4.5, 6), {}) for name in LAYERS),
        *((name, (0, 6), {}) for name in LAYERS),
        *((name, (4, 6.5), {}) for name in LAYERS),
        *((name, (4, -1), {}) for name in LAYERS),
        *((name, (4, 6, 0), {}) for name in LAYERS),
        ("RNN", (4, 6), {"nonlinearity": "sine"}),
        ("RNN", (4, 6, 1, "sine"), {}),
        ("RNN", (4, 6), {"proj_size": 2}),
        ("GRU", (4, 6), {"proj_size": 2}),
        ("LSTM", (4, 6), {"proj_size": -1}),
        ("LSTM", (4, 6), {"proj_size": 6}),
    ]
    for name, arguments, options in cases:
        refuses_as_torch(lambda home, n=name, a=arguments, o=options: getattr(home, n)(*a, **o))


def refuses_as_torch(act: Any) -> None:
    """Both raise, and say the same."""
    said = []
    for home in (rf.nn, nn):
        with pytest.raises((ValueError, TypeError, RuntimeError)) as caught:
            act(home)
        said.append((caught.type, str(caught.value)))
    assert said[0] == said[1]


@every_layer
def test_dropout_with_one_layer_warns_as_torch_does(name):
    said = []
    for home in (rf.nn, nn):
        with pytest.warns(UserWarning, match="dropout option adds dropout") as caught:
            getattr(home, name)(4, 6, dropout=0.5)
        said.append([str(w.message) for w in caught])
    assert said[0] == said[1]


# ---------------------------------------------------------------- calls


def test_what_torch_refuses_in_a_call():
    x, batch = torch.randn(5, 3, 4), 3
    packed = pack_padded_sequence(x, torch.tensor([5, 4, 2]))
    h = torch.randn(1, batch, 6)
    cases = [
        (torch.randn(5, 3, 4, 1), None),
        (torch.randn(4), None),
        (torch.randn(5, 3, 7), None),
        (x.double(), None),
        (torch.randn(0, 3, 4), None),
        (packed._replace(data=torch.randn(11, 7)), None),
        (packed._replace(data=torch.randn(11, 2, 4)), None),
    ]
    for name in LAYERS:
        for given, hx in cases:
            if name == "LSTM" and isinstance(given, PackedSequence):
                # Of torch's LSTM alone a packed batch goes unchecked, and fails in a product within.
                with pytest.raises(RuntimeError, match=r"input must have 2|input.size\(-1\) must"):
                    rf.nn.LSTM(4, 6)(given, hx)
                continue
            refuses_as_torch(lambda home, n=name, a=given, b=hx: getattr(home, n)(4, 6)(a, b))
    states = [
        (x, h[0]),
        (x, torch.randn(1, 2, 6)),
        (x, torch.randn(2, batch, 6)),
        (x, torch.randn(1, batch, 7)),
        (x[:, 0], h),
        (x[:, 0], torch.randn(1, 7)),
        (packed, torch.randn(1, 2, 6)),
    ]
    for given, hx in states:
        for name in ("RNN", "GRU"):
            refuses_as_torch(lambda home, n=name, a=given, b=hx: getattr(home, n)(4, 6)(a, b))
        if given is packed:
            with pytest.raises(RuntimeError, match="Expected hidden\\[1\\] size"):
                rf.nn.LSTM(4, 6)(given, (h, hx))
            continue
        fits = h if given.dim() == 3 else h[:, 0]
        for pair in ((hx, hx), (fits, hx)):
            refuses_as_torch(lambda home, a=given, b=pair: home.LSTM(4, 6)(a, b))


@every_layer
def test_tensors_on_two_devices(name):
    layer = getattr(rf.nn, name)(4, 6)
    x, h = torch.randn(5, 3, 4), torch.zeros(1, 3, 6, device="meta")
    text = "Input and parameter tensors are not at the same device, found input tensor at meta"
    with pytest.raises(RuntimeError, match=text):
        layer(x.to("meta"))
    text = "Input and hidden tensors are not at the same device, found input tensor at cpu and hid"
    with pytest.raises(RuntimeError, match=text):
        layer(x, (h, h) if name == "LSTM" else h)


@every_setting
def test_a_batch_without_rows(name, options):
    mine, theirs = twins(name, **options)
    shape = (0, 5, 4) if mine.batch_first else (5, 0, 4)
    y, _ = mine(torch.ones(shape))
    assert y.shape == theirs(torch.ones(shape))[0].shape
    y.sum().backward()


@every_layer
def test_unsorted_sequences_come_back_in_the_callers_order(name):
    mine, theirs = twins(name, num_layers=2, bidirectional=True, dtype=torch.float64)
    rows = [torch.randn(n, 4, dtype=torch.float64) for n in (2, 5, 1, 4)]
    packed = pack_sequence(rows, enforce_sorted=False)
    h = torch.randn(4, 4, 6, dtype=torch.float64)
    hx = (h, h.cos()) if name == "LSTM" else h
    (y, state), (y_, state_) = mine(packed, hx), theirs(packed, hx)
    assert isinstance(y, PackedSequence) and y.batch_sizes is packed.batch_sizes
    assert y.sorted_indices is packed.sorted_indices
    assert y.unsorted_indices is packed.unsorted_indices
    same(y.data, y_.data, 1e-12)
    same(state, state_, 1e-12)


@pytest.mark.parametrize("p", [0, 0.276, 0.5, 1])
@pytest.mark.parametrize("train", [True, False])
def test_dropout_acts_between_layers_only(p, train):
    mine, theirs = twins("RNN", 10, 50, num_layers=2, bias=False, nonlinearity="relu", dropout=p)
    x, h = torch.ones(1, 1, 10), torch.zeros(2, 1, 50)
    results = []
    for layer in (mine.train(train), theirs.train(train)):
        torch.manual_seed(4)
        results.append(layer(x, h))
    same(results[0], results[1])
    lower = torch.relu(x[0] @ mine.weight_ih_l0.T)
    same(results[0][1][0], lower)  # final states of lower layers are not dropped
    if train and p == 1:
        assert results[0][0].abs().max() == 0


def test_dropout_can_be_changed_later():
    """torch's test_RNN_change_dropout."""
    for train in (True, False):
        layer = rf.nn.RNN(100, 50, num_layers=2, dropout=0.0, nonlinearity="relu").train(train)
        x = torch.randn(3, 2, 100)
        previous = None
        for p in (0, 0.5, 0, 0.2, 0.2, 1, 0.2, 0):
            layer.dropout = p
            with torch.no_grad():
                first, second = layer(x)[0], layer(x)[0]
            if p == 0 or p == 1 or not train:
                torch.testing.assert_close(first, second, rtol=0, atol=0)
            else:
                assert not torch.equal(first, second)
            if previous is not None and not train:
                torch.testing.assert_close(first, previous, rtol=0, atol=0)
            previous = first


def test_batch_first_can_be_changed_later():
    layer = rf.nn.GRU(4, 6)
    x = torch.randn(5, 3, 4)
    with torch.no_grad():
        y = [layer(x)[0] for _ in range(3)][-1]
        layer.batch_first = True
        same(layer(x.transpose(0, 1))[0].transpose(0, 1), y)


@every_layer
def test_calls_without_gradients_that_are_made_ready_see_new_weights(name):
    mine, theirs = twins(name, num_layers=2)
    x = torch.randn(5, 3, 4)
    with torch.no_grad():
        for k in range(4):
            for layer in (mine, theirs):
                layer.weight_hh_l0.mul_(1.5)
                if k == 2:
                    layer.weight_hh_l1 = nn.Parameter(torch.ones_like(layer.weight_hh_l1) / 7)
            same(mine(x), theirs(x))
    assert mine._held.ready is not None


# ---------------------------------------------------------------- weights that are more than parameters


def test_missing_weights_can_be_put_back():
    """torch's test_partial_flat_weights."""
    mine, theirs = twins("LSTM", 4, 6)
    x = torch.randn(3, 2, 4)
    expected = mine(x)
    weight = mine.weight_hh_l0.detach().clone()
    del mine.weight_hh_l0
    assert not hasattr(mine, "weight_hh_l0")
    with pytest.raises(AttributeError, match="weight_hh_l0"):
        mine(x)
    mine.weight_hh_l0 = weight + 0.0
    same(mine(x), expected)
    mine.weight_hh_l0 = weight * 2
    with pytest.raises(AssertionError):
        same(mine(x), expected)
    mine.weight_hh_l0 = weight
    mine.double().float()
    same(mine(x), expected)
    same(theirs(x), expected)


def test_tied_weights():
    layers = twins("LSTM", 4, 6, bidirectional=True)
    for layer in layers:
        layer.bias_ih_l0_reverse = layer.bias_ih_l0
        layer.weight_hh_l0_reverse = layer.weight_hh_l0
        assert len(list(layer.parameters())) == 6
    same(run(layers[0]), run(layers[1]))


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_hh_l0"])
def test_weight_norm_of_both_styles(name):
    for wrap in (parametrizations.weight_norm, nn.utils.weight_norm):
        mine, theirs = twins("LSTM", 4, 6, bidirectional=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the old style is deprecated, and used
            for layer in (mine, theirs):
                wrap(layer, name=name)
        for _ in range(2):
            same(run(mine), run(theirs))
            with torch.no_grad():
                same(mine(torch.ones(3, 2, 4)), theirs(torch.ones(3, 2, 4)))
            for layer in (mine, theirs):
                for parameter in layer.parameters():
                    parameter.data.mul_(1.1)
        if wrap is nn.utils.weight_norm:
            for layer in (mine, theirs):
                nn.utils.remove_weight_norm(layer, name=name)
            same(run(mine), run(theirs))


def test_pruned_and_orthogonal_weights():
    mine, theirs = twins("GRU", 4, 6)
    for layer in (mine, theirs):
        prune.l1_unstructured(layer, "weight_hh_l0", amount=0.5)
        torch.manual_seed(0)
        parametrizations.orthogonal(layer, "weight_ih_l0")
    same(run(mine), run(theirs))
    lone = parametrizations.orthogonal(rf.nn.GRU(4, 6), "weight_ih_l0")
    expected = run(lone)
    same(run(copy.deepcopy(lone)), expected)


def test_functional_call_leaves_the_layer_as_it_was():
    mine, theirs = twins("LSTM", 4, 6, num_layers=2)
    x = torch.randn(5, 3, 4)
    before = mine(x)[0]
    other = {n: torch.randn_like(p) for n, p in mine.named_parameters()}
    found, expected = (functional_call(layer, other, (x,)) for layer in (mine, theirs))
    same(found, expected)
    assert pickle.loads(pickle.dumps(mine))._flat_weights[0] is not other["weight_ih_l0"]
    same(mine(x)[0], before)
    assert all(p is q for p, q in zip(mine._flat_weights, mine.parameters(), strict=True))


# ---------------------------------------------------------------- copies and conversions


@every_setting
def test_copies(name, options):
    mine, _ = twins(name, **options)
    mine.eval()
    expected = run(mine)
    stream = io.BytesIO()
    torch.save(mine, stream)
    stream.seek(0)
    for made in (
        copy.deepcopy(mine),
        pickle.loads(pickle.dumps(mine)),
        torch.load(stream, weights_only=False),
    ):
        assert type(made) is type(mine) and made.weight_ih_l0 is not mine.weight_ih_l0
        same(run(made), expected)
        assert all(p is q for p, q in zip(made._flat_weights, made.parameters(), strict=True))
        with torch.no_grad():
            made.weight_ih_l0.zero_()
    same(run(mine), expected)


@every_layer
def test_precisions(name):
    mine, theirs = twins(name)
    same(run(mine.double()), run(theirs.double()), 1e-12)
    assert mine.kernel.backend == "llvm"
    for dtype in (torch.bfloat16, torch.float16):
        mine, theirs = twins(name)
        for layer in (mine, theirs):
            layer.to(dtype)
        assert mine.kernel.backend == "reference" and "float" in mine.kernel.reason
        x = torch.randn(5, 3, 4, dtype=dtype)
        y, y_ = mine(x)[0], theirs(x)[0]
        assert y.dtype == dtype
        same(y, y_, 3e-2)


@every_layer
def test_on_no_device(name):
    layer = getattr(rf.nn, name)(4, 6, num_layers=2, device="meta")
    y, _ = layer(torch.empty(5, 3, 4, device="meta"))
    assert y.shape == (5, 3, 6) and y.is_meta
    made = layer.to_empty(device="cpu")
    made.reset_parameters()
    assert made.kernel.backend == "llvm" and made(torch.ones(5, 3, 4))[0].isfinite().all()


@every_layer
def test_autocast(name):
    mine, _ = twins(name)
    x = torch.randn(5, 3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = mine(x.bfloat16())
    same(y, mine(x.bfloat16().float())[0])


def test_flatten_parameters_does_nothing():
    layer = rf.nn.GRU(4, 6)
    before = [p.data_ptr() for p in layer.parameters()]
    assert layer.flatten_parameters() is None
    assert [p.data_ptr() for p in layer.parameters()] == before


def test_signatures_of_cells_are_torchs():
    for name in ("RNNCell", "LSTMCell", "GRUCell"):
        mine, theirs = getattr(rf.nn, name), getattr(nn, name)
        assert inspect.signature(mine) == inspect.signature(theirs)
        cell, other = twins(name, 4, 6)
        x = torch.randn(3, 4)
        torch.testing.assert_close(cell(x), other(x), rtol=0, atol=0)
        assert repr(cell) == repr(other)


# ---------------------------------------------------------------- beyond torch


@every_layer
def test_rows_of_any_length(name):
    layer, _ = twins(name, num_layers=2, bidirectional=True, dtype=torch.float64)
    x = torch.randn(5, 4, 4, dtype=torch.float64)
    lengths = [3, 0, 5, 1]
    h = torch.randn(4, 4, 6, dtype=torch.float64)
    hx = (h, h.sin()) if name == "LSTM" else h
    y, state = layer(x, hx, lengths=lengths)
    finals = state if isinstance(state, tuple) else (state,)
    starts = hx if isinstance(hx, tuple) else (hx,)
    for row, length in enumerate(lengths):
        assert y[length:, row].abs().sum() == 0
        if length == 0:
            for start, final in zip(starts, finals, strict=True):
                same(final[:, row], start[:, row], 0)
            continue
        own: tuple[Any, ...] = tuple(s[:, row] for s in starts)
        alone, end = layer(x[:length, row], own if len(own) > 1 else next(iter(own)))
        same(y[:length, row], alone, 1e-12)
        for mine, theirs in zip(finals, end if isinstance(end, tuple) else (end,), strict=True):
            same(mine[:, row], theirs, 1e-12)
    empty, final = layer(x[:0], hx, lengths=[0] * 4)
    assert empty.shape == (0, 4, 12)
    same(final, hx, 0)


@every_layer
def test_all_states_at_all_steps(name):
    layer, _ = twins(name, num_layers=2, bidirectional=True, batch_first=True)
    x = torch.randn(3, 5, 4)
    y, state = layer(x)
    every, again = layer(x, return_states="all")
    assert list(every) == (["h", "c", "output"] if name == "LSTM" else ["h", "output"])
    same(every["output"], y, 0)
    same(every["h"], y, 0)
    same(again, state, 0)
    if name == "LSTM":
        same(every["c"][:, -1, :6], state[1][2], 0)  # the last layer forward
        same(every["c"][:, 0, 6:], state[1][3], 0)  # and in reverse
    packed = pack_padded_sequence(x, torch.tensor([5, 2, 1]), batch_first=True)
    every, _ = layer(packed, return_states="all")
    assert all(isinstance(v, PackedSequence) for v in every.values())


def test_gradients_in_eval_mode_and_of_gradients():
    layer = rf.nn.GRU(4, 6, num_layers=2, dropout=0.3, dtype=torch.float64, backend="reference")
    other = rf.nn.GRU(4, 6, num_layers=2, dropout=0.3, dtype=torch.float64)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(4, 2, 4, dtype=torch.float64, requires_grad=True)
    found = []
    for made in (layer.eval(), other.eval()):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            (g,) = torch.autograd.grad(made(x)[0].square().sum(), x, create_graph=True)
        said = [str(w.message) for w in caught]
        assert all("a gradient of a gradient" in text for text in said)
        assert bool(said) == (made is other)
        found.append(torch.autograd.grad(g.square().sum(), x)[0])
    same(found[0], found[1], 1e-12)


def norm(v: Tensor, gain: Tensor | float = 1.0, bias: Tensor | float = 0.0) -> Tensor:
    return nn.functional.layer_norm(v, v.shape[-1:]) * gain + bias


def lstm_by_hand(p: dict[str, Tensor], x: Tensor, norms: bool, peeps: bool) -> Tensor:
    """Ba, Kiros & Hinton 2016, equations 20 to 22; Gers, Schraudolph & Schmidhuber 2002."""
    h = c = torch.zeros(x.shape[1], p["weight_hh_l0"].shape[1], dtype=x.dtype)
    found = []
    for row in x:
        a, b = row @ p["weight_ih_l0"].T, h @ p["weight_hh_l0"].T
        if norms:
            a, b = norm(a, p["norm_weight_ih_l0"]), norm(b, p["norm_weight_hh_l0"])
        i, f, g, o = (a + b + p["bias_ih_l0"] + p["bias_hh_l0"]).chunk(4, -1)
        if peeps:
            i, f = i + p["peephole_i_l0"] * c, f + p["peephole_f_l0"] * c
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        if peeps:
            o = o + p["peephole_o_l0"] * c
        seen = norm(c, p["norm_weight_c_l0"], p["norm_bias_c_l0"]) if norms else c
        h = torch.sigmoid(o) * torch.tanh(seen)
        found.append(h)
    return torch.stack(found)


def gru_by_hand(p: dict[str, Tensor], x: Tensor) -> Tensor:
    """Ba, Kiros & Hinton 2016, equations 26 to 28, with the reset gate behind the product."""
    n = p["weight_hh_l0"].shape[1]
    h = torch.zeros(x.shape[1], n, dtype=x.dtype)
    found = []

    def gates(v, side):
        v = torch.cat([norm(v[:, : 2 * n]), norm(v[:, 2 * n :])], -1)
        return (v * p[f"norm_weight_{side}_l0"] + p[f"bias_{side}_l0"]).chunk(3, -1)

    for row in x:
        a, b = gates(row @ p["weight_ih_l0"].T, "ih"), gates(h @ p["weight_hh_l0"].T, "hh")
        r, z = torch.sigmoid(a[0] + b[0]), torch.sigmoid(a[1] + b[1])
        h = (1 - z) * torch.tanh(a[2] + r * b[2]) + z * h
        found.append(h)
    return torch.stack(found)


@pytest.mark.parametrize(
    ("name", "norms", "peeps"),
    [("LSTM", True, False), ("LSTM", False, True), ("LSTM", True, True), ("GRU", True, False)],
)
def test_layer_norm_and_peepholes(name, norms, peeps):
    options = {"layer_norm": norms} | ({"peephole": peeps} if name == "LSTM" else {})
    layer, plain = getattr(rf.nn, name), getattr(nn, name)
    torch.manual_seed(0)
    layer = layer(4, 6, dtype=torch.float64, **options)
    torch.manual_seed(0)
    plain = plain(4, 6, dtype=torch.float64)
    for key, value in plain.named_parameters():  # what torch has too starts as there
        torch.testing.assert_close(layer.get_parameter(key), value, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    p = dict(layer.named_parameters())
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    expected = lstm_by_hand(p, x, norms, peeps) if name == "LSTM" else gru_by_hand(p, x)
    y, _ = layer(x)
    same(y, expected, 1e-12)
    mine, theirs = (torch.autograd.grad(v.cos().sum(), list(p.values())) for v in (y, expected))
    same(mine, theirs, 1e-10)
    assert "layer_norm=True" in repr(layer) or "peephole=True" in repr(layer)
    stacked = type(layer)(4, 6, 2, bidirectional=True, bias=False, **options)
    again = pickle.loads(pickle.dumps(stacked))
    same(run(again), run(stacked))
    names = [n for n, _ in stacked.named_parameters()]
    assert set(names) == set(stacked._flat_weights_names) and "bias_ih_l0" not in names
    stacked.reset_parameters()
    if norms:
        assert (stacked.norm_weight_hh_l1_reverse == 1).all()


def test_what_is_refused_beyond_torch():
    layer, x = rf.nn.LSTM(4, 6), torch.randn(5, 3, 4)
    with pytest.raises(rf.KernelError, match=r'return_states is "some"\.\nChoose "last" or "all"'):
        layer(x, return_states="some")
    with pytest.raises(
        rf.KernelError, match="x is a PackedSequence, and lengths are given as well"
    ):
        layer(pack_padded_sequence(x, torch.tensor([5, 4, 2])), lengths=[5, 4, 2])
    with pytest.raises(rf.KernelError, match="lengths hold 6, and there are 5 steps"):
        layer(x, lengths=[6, 1, 1])
    with pytest.raises(TypeError, match="layer_norm should be of type bool, got: int"):
        rf.nn.LSTM(4, 6, layer_norm=1)
    with pytest.raises(TypeError, match="peephole should be of type bool, got: str"):
        rf.nn.LSTM(4, 6, peephole="yes")
    with pytest.raises(TypeError, match="GRU has no option peephole"):
        rf.nn.GRU(4, 6, peephole=True)
    with pytest.raises(TypeError, match="RNN has no option layer_norm"):
        rf.nn.RNN(4, 6, layer_norm=True)
    with pytest.raises(rf.KernelError, match='there is no backend "cuda"'):
        rf.nn.LSTM(4, 6, backend="cuda")
