"""The map of the state and its Jacobian: against torch's derivative of the layer itself, for every cell."""

import importlib
from typing import Any, cast

import pytest
import torch
from torch.testing import assert_close

import refold as rf
from refold.dynamics.folded import Folded, folded
from refold.dynamics.system import Repeated, jacobians
from refold.plan.cost import letters
from refold.train.influence import _flat, _opened

F64 = torch.float64
ROWS = 4
EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 1e-12}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def whole(layer, h, x):
    """The layer's own step, and torch's derivative of it."""

    def one(h, x):
        return _flat(layer(x[None, None], _opened(h[None], layer))[1])[0]

    rows = list(zip(h, x, strict=True))
    slopes = [torch.autograd.functional.jacobian(lambda h, x=x: one(h, x), h) for h, x in rows]
    return torch.stack([one(*row) for row in rows]).detach(), torch.stack(slopes)  # type: ignore[arg-type]


def compare(layer):
    system = folded(layer)
    h = torch.rand(ROWS, system.size, dtype=F64) / 2 + 0.1
    x = torch.randn(ROWS, system.inputs, dtype=F64)
    # Here the states of all layers lie layer by layer, there state by state.
    order = torch.arange(system.size)
    if layer.num_layers > 1:
        order = _flat(_by_layer(order, layer))[0]
    after, jacobian = whole(layer, h[:, order], x)
    back = order.argsort()
    found, slopes = system.linear(h, x)
    assert_close(found, after[:, back], **EXACT)
    assert_close(slopes, jacobian[:, back][:, :, back], **EXACT)
    assert_close(system.step(h, x), found, **EXACT)


def _by_layer(flat, layer):
    """Numbers that lie layer by layer, as the states of a layer."""
    sizes = list(layer.state_sizes.values())
    rows = flat.reshape(layer.num_layers, sum(sizes)).split(sizes, 1)
    return tuple(part.unsqueeze(1) for part in rows)


@pytest.mark.parametrize("name", rf.cells.all())
def test_of_every_cell(name):
    cell = rf.cells.get(name)
    sizes: dict[str, Any] = dict.fromkeys(sorted(letters(cell.graph) - {"m", "n"}), 3)
    compare(rf.Recurrent(cell, 4, 4, dtype=F64, backend="reference", **sizes))


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("cell", ["lstm", "gru_cho", "elman"])
def test_of_a_stack(cell, kind):
    compare(rf.Recurrent(cell, 4, 4, 3, dtype=F64, backend="reference", stack=rf.Stack(kind)))


def test_of_zoneout_it_is_the_expectation():
    layer = rf.Recurrent(
        "lstm", 4, 4, dtype=F64, backend="reference", regularise=rf.Regularise(zoneout=0.3)
    )
    compare(layer.eval())


@rf.cell
def awkward(
    x=rf.Input("m"),
    h=rf.State("n"),
    s=rf.State(""),
    *,
    W=rf.Weight("2n n"),
    U=rf.Weight("n 2n"),
    V=rf.Weight("n m"),
    u=rf.Weight("n"),
):
    """Reductions, scalars beside vectors, cuts and joins."""
    a, b = rf.split(W @ rf.softmax(h * s), "n", "n")
    joined = U @ rf.concat(b, a * rf.sum(h))
    new = rf.tanh(rf.layer_norm(joined + V @ x) * u) + rf.maximum(h, 0.1) * rf.norm(h)
    return new, rf.mean(new * h) + rf.exp(-s) * rf.max(h)


def test_of_reductions_scalars_and_cuts():
    layer = rf.Recurrent(awkward, 2, 5, dtype=F64, backend="reference")
    compare(layer)


@pytest.mark.parametrize(
    "stack", [rf.Stack("highway"), rf.Stack(dilations=(1, 3)), rf.Stack("highway", (2, 1))]
)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_of_dilations_and_highways_it_is_the_layer_itself(cell, stack):
    layer = rf.Recurrent(cell, 3, 4, 2, dtype=F64, stack=stack)
    slots = sum(stack.spread(2))
    states = tuple(torch.randn(slots, 2, 4, dtype=F64) for _ in layer.state_sizes)
    x = torch.randn(7, 2, 3, dtype=F64)
    given = states if cell == "lstm" else states[0]
    d = rf.dynamics(layer, x, given)
    final = layer(x, given)[1]
    last = torch.cat(final if isinstance(final, tuple) else (final,), -1)
    assert_close(d.states()[-1], last.transpose(0, 1).flatten(1), **EXACT)
    h, none = d.start[:1], x[0, :1]
    slopes = torch.autograd.functional.jacobian(lambda h: d.system.step(h, none)[0], h)
    assert isinstance(slopes, torch.Tensor)
    assert_close(d.jacobians(h, none[0])[0], slopes[:, 0], **EXACT)
    assert d.verdict().certainty == "measured"
    assert d.system.size == slots * 4 * len(states) and "l1" in d.order
    torch.testing.assert_close(
        rf.dynamics(layer, x).states()[-1], rf.dynamics(layer, x, 0 * d.start).states()[-1]
    )


def test_a_drop_in_is_the_layer_that_it_stands_for():
    theirs = rf.nn.LSTM(3, 4, num_layers=2, dtype=F64)
    system = folded(theirs)
    assert [part.label for part in system.parts] == ["l0.h", "l0.c", "l1.h", "l1.c"]
    h, x = torch.randn(1, 16, dtype=F64), torch.randn(7, 1, 3, dtype=F64)
    parts = h.unflatten(1, (2, 2, 4))  # row, layer, state
    state = tuple(parts[:, :, k].transpose(0, 1).contiguous() for k in range(2))
    hidden, cell = theirs(x, state)[1]
    run = system.run(h, x)
    assert_close(run[-1], torch.stack([hidden, cell], 2).transpose(0, 1).flatten(1), **EXACT)


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
def test_a_run_is_the_steps_one_after_the_other(cell):
    system = folded(rf.Recurrent(cell, 2, 3, 2, dtype=F64))
    h, x = torch.randn(2, system.size, dtype=F64), torch.randn(6, 2, 2, dtype=F64)
    run = system.run(h, x)
    for t in range(6):
        h = system.step(h, x[t])
        assert_close(run[t], h, **EXACT)


def test_a_closed_loop_is_the_network_that_runs_free():
    network = rf.Network(rf.Recurrent("lstm", 2, 5, dtype=F64), head=2, shape="one-to-many")
    first = torch.randn(1, 1, 2, dtype=F64)
    y = network(first, steps=6)
    (h, c) = network.layer(first)[1]
    d = rf.dynamics(network, state=(h, c))
    states = d.states(5)
    assert network.head is not None
    assert_close(network.head(states[:, :, :5]), y, **EXACT)
    at = torch.randn(3, 10, dtype=F64)
    slopes = d.jacobians(at)
    for k in range(10):
        nudge = 1e-6 * torch.eye(10, dtype=F64)[k]
        none = torch.zeros(1, 2, dtype=F64)
        change = d.system.step(at + nudge, none) - d.system.step(at - nudge, none)
        assert_close(slopes[:, :, k], change / 2e-6, rtol=0, atol=1e-8)


def test_repeated_steps_multiply():
    system = folded(rf.Recurrent("gru", 2, 4, dtype=F64))
    h, x = torch.randn(3, 4, dtype=F64), torch.randn(1, 2, dtype=F64)
    twice, product = Repeated(system, 2).linear(h, x)
    once, first = system.linear(h, x)
    after, second = system.linear(once, x)
    assert_close(twice, after, **EXACT)
    assert_close(product, second @ first, **EXACT)


def test_pieces_are_one_whole():
    system = folded(rf.Recurrent("lstm", 2, 40, dtype=F64))
    h, x = torch.randn(200, 80, dtype=F64), torch.randn(200, 2, dtype=F64)
    assert_close(jacobians(system, h, x), system.linear(h, x)[1], **EXACT)


@pytest.mark.parametrize("mapped", [True, False])
def test_of_a_function(mapped):
    def step(h, x):
        if not mapped and float(h[0].detach()) > 100:  # torch.vmap cannot look at a number
            return h
        return torch.stack([h[0] * h[1] + x[0], torch.sin(h[0])])

    d = rf.dynamics(step, torch.randn(5, 3, 1), state=[0.3, 0.4])
    h = torch.tensor([[0.3, 0.4], [1.0, 2.0]], dtype=F64)
    rows = [[[a[1], a[0]], [torch.cos(a[0]), 0.0]] for a in h]
    assert_close(d.jacobians(h, [0.1]), torch.tensor(rows, dtype=F64), **EXACT)
    assert d.states().shape == (6, 3, 2)


def test_parameters_of_the_user_stay_as_they_are():
    layer = rf.Recurrent("lstm", 2, 4, dtype=torch.float32)
    before = {name: p.clone() for name, p in layer.named_parameters()}
    d = rf.dynamics(layer, torch.randn(30, 2, 2))
    d.lyapunov(2)
    d.fixed_points(8)
    d.memory()
    d.verdict()
    for name, p in layer.named_parameters():
        assert p.dtype is torch.float32 and p.requires_grad and p.grad is None
        assert torch.equal(p, before[name])
    with torch.no_grad():
        layer.parameters_of()["f.b"].add_(1)
    assert isinstance(d.system, Folded)
    assert_close(d.system.levels[0].equation.params["f.b"], before["l0.f.b"].double())


def test_a_cell_with_given_parameters_is_a_layer_with_them():
    layer = rf.Recurrent("leaky", 2, 3, dtype=F64, alpha=0.3)
    named = {**layer.parameters_of(), "alpha": 0.3}
    h, x = torch.randn(2, 3, dtype=F64), torch.randn(1, 2, dtype=F64)
    given = rf.dynamics("leaky", parameters=named).system
    assert_close(given.step(h, x), folded(layer).step(h, x), **EXACT)


def test_the_room_is_its_function():
    """Python puts the room `refold.dynamics` where the function is, once any file of it is imported."""
    room: Any = importlib.import_module("refold.dynamics")
    assert (
        room(torch.tanh, state=[0.5]).system.size
        == rf.dynamics(torch.tanh, state=[0.5]).system.size
        == 1
    )


# What is refused ------------------------------------------------------------------------------------------------------


def one(x):
    return rf.Recurrent("elman", 2, 3, **x)


def loop(stack):
    network = rf.Network(one({"num_layers": 2, "stack": stack}), head=2)
    return rf.dynamics(network, closed=True)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: rf.dynamics(one({"bidirectional": True})), "bidirectional"),
        (lambda: rf.dynamics(rf.nn.LSTM(2, 3, bidirectional=True)), "bidirectional"),
        (lambda: loop(rf.Stack(dilations=(1, 2))), "dilated"),
        (lambda: loop(rf.Stack("highway")), "highways"),
        (lambda: rf.dynamics(torch.nn.LSTM(2, 3)), "rf.convert"),
        (lambda: rf.dynamics(rf.EchoState(2, 5)), "the layer in it, called layer"),
        (lambda: rf.dynamics(rf.Network(one({}), 2, "encoder-decoder", decoder=one({}))), "its decoder"),
        (lambda: rf.dynamics(rf.Network(one({}), 2, "one-to-many", feedback="class")), "largest score"),
        (lambda: rf.dynamics(cast(Any, 3)), "no network, layer, cell or function"),
        (lambda: rf.dynamics(torch.tanh), "give state="),
        (lambda: rf.dynamics(lambda h: h[:1], state=[0.1, 0.2]), "gives \\(1,\\)"),
        (lambda: rf.dynamics(lambda h: -h, state=[0.1], flow=True), "give dt"),
        (lambda: rf.dynamics(torch.tanh, state=[0.1], parameters={}), "leave parameters out"),
        (lambda: rf.dynamics("elman", parameters={"W": 1.0}), "no parameter W"),
        (lambda: rf.dynamics("elman", parameters={"W_h": [[1.0]]}), "parameter W_x without"),
        (lambda: rf.dynamics(one({}), torch.zeros(5, 4, 3)), "reads 2 features"),
        (lambda: rf.dynamics(one({}), state=torch.zeros(1, 4)), "give \\(R, N\\) for h \\(3\\)"),
        (lambda: rf.dynamics(one({}), torch.zeros(5, 4, 2), torch.zeros(2, 3)), "4 row\\(s\\), and state has 2"),
        (lambda: rf.dynamics(one({}), torch.full((5, 4, 2), torch.nan)), "step 0, row 0, feature 0"),
        (lambda: rf.dynamics(one({}), rf.Sequences([torch.zeros(3, 2)])), "end at different steps"),
        (lambda: rf.dynamics(one({}), closed=True), "give the network head=2"),
        (lambda: rf.dynamics(rf.Network(one({}), head=2), torch.zeros(5, 4, 2), closed=True), "leave x out"),
        (lambda: rf.dynamics(one({})).spectrum(x=[1.0]), "one input that is held"),
        (lambda: rf.dynamics(one({})).states(0), "a run of 0 steps"),
        (lambda: rf.dynamics(one({})).spectrum([1.0, 2.0]), "each has 3 numbers"),
        (lambda: rf.dynamics(torch.tanh, state=[0.1]).spectrum(x=[1.0]), "reads none"),
        (lambda: rf.dynamics(one({}), torch.zeros(5, 4, 2)).states(6), "ask for fewer"),
    ],
)  # fmt: skip
def test_what_is_no_map_of_a_state_is_refused(make, text):
    with pytest.raises(rf.RefoldError, match=text):
        make()
