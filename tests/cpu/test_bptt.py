"""Backpropagation through time against its equations, written out."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from refold.errors import DataError, KernelError
from refold.nn.layer import Recurrent
from refold.nn.wiring import Network
from refold.train.errors import network_errors
from refold.train.gradients.bptt import gradients

F64 = torch.float64
EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}
SUMS: dict[str, Any] = {"steps": "sum", "sequences": "sum"}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_the_equations_of_an_elman_network():
    """delta(t) = W_h^T (1 - h(t+1)^2) delta(t+1) + dE(t)/dh(t), with E_s the mean over t."""
    time, m, n, k = 6, 2, 3, 2
    net = Network(Recurrent("elman", m, n, dtype=F64), head=k)
    x, d = torch.randn(time, 1, m, dtype=F64), torch.randn(time, 1, k, dtype=F64)
    start = torch.randn(1, 1, n, dtype=F64)
    out = gradients(net, x, d, steps="mean", sequences="sum", state=start)

    p = {name: w.detach() for name, w in net.layer.parameters_of().items()}
    assert isinstance(net.head, nn.Linear)
    v, c = net.head.weight.detach(), net.head.bias.detach()
    h = [start[0, 0]]
    for t in range(time):
        h.append(torch.tanh(p["W_x"] @ x[t, 0] + p["W_h"] @ h[-1] + p["b"]))
    e = [2 * (v @ h[t + 1] + c - d[t, 0]) / time for t in range(time)]  # dE/dy(t)
    delta = [torch.zeros(n, dtype=F64)] * (time + 1)
    for t in reversed(range(time)):
        later = p["W_h"].T @ ((1 - h[t + 2] ** 2) * delta[t + 1]) if t + 1 < time else 0
        delta[t] = later + v.T @ e[t]
    a = [(1 - h[t + 1] ** 2) * delta[t] for t in range(time)]  # dE/d(preactivation)

    assert_close(out.outputs[:, 0], torch.stack(e), **EXACT)
    assert_close(out.states[0]["h"][:, 0], torch.stack(delta[:time]), **EXACT)
    assert_close(out.inputs[:, 0], torch.stack([p["W_x"].T @ g for g in a]), **EXACT)
    assert isinstance(out.initial, torch.Tensor)
    assert_close(out.initial[0, 0], p["W_h"].T @ a[0], **EXACT)
    immediate = {
        "W_x": sum(torch.outer(a[t], x[t, 0]) for t in range(time)),
        "W_h": sum(torch.outer(a[t], h[t]) for t in range(time)),
        "b": sum(a),
        "head.weight": sum(torch.outer(e[t], h[t + 1]) for t in range(time)),
    }
    names = {id(w): name for name, w in net.named_parameters()}
    for name, w in [*net.layer.parameters_of().items(), ("head.weight", net.head.weight)]:
        assert_close(out.parameters[names[id(w)]], immediate[name], **EXACT)


def test_the_adjoint_of_every_state_is_that_of_a_state_moved_by_hand():
    """Each state of a bidirectional two-layer LSTM, moved by hand in a written-out network."""
    layer = Recurrent("lstm", 2, 2, num_layers=2, bidirectional=True, dtype=F64)
    x, d = torch.randn(4, 1, 2, dtype=F64), torch.randn(4, 1, 4, dtype=F64)
    out = gradients(layer, x, d, **SUMS)
    assert len(out.states) == 4 and list(out.states[0]) == ["h", "c"]

    def total(at, name, moved):
        xs = list(x[:, 0])
        for index in range(2):
            halves = []
            for reverse in (0, 1):
                p = layer.parameters_of(index, bool(reverse))
                h = c = torch.zeros(2, dtype=F64)
                ys = [h] * 4
                for t in reversed(range(4)) if reverse else range(4):
                    i, f, g, o = (
                        p[k + ".W_x"] @ xs[t] + p[k + ".W_h"] @ h + p[k + ".b"] for k in "ifgo"
                    )
                    here = moved[t] if at == 2 * index + reverse else 0
                    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                    h = o.sigmoid() * c.tanh()
                    h, c = (h + here, c) if name == "h" else (h, c + here)
                    ys[t] = h
                halves.append(ys)
            xs = [torch.cat(pair) for pair in zip(*halves, strict=True)]
        return ((torch.stack(xs) - d[:, 0]) ** 2).sum()

    with torch.no_grad():
        assert_close(total(0, "h", torch.zeros(4, 2)), out.errors.total, **EXACT)
    for at in range(4):
        for name in ("h", "c"):
            zero = torch.zeros(4, 2, dtype=F64, requires_grad=True)
            (want,) = torch.autograd.grad(total(at, name, zero), zero)
            assert_close(out.states[at][name][:, 0], want, **EXACT)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("backend", ["reference", "derived"])
def test_a_ragged_batch_is_each_row_alone(bidirectional, backend):
    layer = Recurrent("lstm", 2, 3, bidirectional=bidirectional, backend=backend, dtype=F64)
    net = Network(layer, head=2)
    lengths = [5, 2, 0, 4]
    x, d = torch.randn(5, 4, 2, dtype=F64), torch.randn(5, 4, 2, dtype=F64)
    for b, n in enumerate(lengths):
        x[n:, b] = d[n:, b] = torch.nan
    whole = gradients(net, x, d, steps="mean", sequences="sum", lengths=lengths)
    sums = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for b, n in enumerate(lengths):
        assert_close(whole.inputs[n:, b], torch.zeros(5 - n, 2, dtype=F64), rtol=0, atol=0)
        for part in whole.states:
            assert_close(part["c"][n:, b], torch.zeros(5 - n, 3, dtype=F64), rtol=0, atol=0)
        if n == 0:
            continue
        row = slice(b, b + 1)
        alone = gradients(net, x[:n, row], d[:n, row], steps="mean", sequences="sum")
        assert_close(whole.errors.sequence[row], alone.errors.sequence, **EXACT)
        assert_close(whole.inputs[:n, row], alone.inputs, **EXACT)
        assert_close(whole.outputs[:n, row], alone.outputs, **EXACT)
        for part, own in zip(whole.states, alone.states, strict=True):
            assert_close(part["c"][:n, row], own["c"], **EXACT)
        for name, grad in alone.parameters.items():
            sums[name] += grad
    for name, grad in whole.parameters.items():
        assert_close(grad, sums[name], **EXACT)


def test_an_encoder_comes_before_its_decoder():
    encoder = Recurrent("elman", 2, 3, dtype=F64)
    decoder = Recurrent("elman", 1, 3, dtype=F64)
    net = Network(encoder, head=1, shape="encoder-decoder", decoder=decoder)
    x, d = torch.randn(5, 2, 2, dtype=F64), torch.randn(3, 2, 1, dtype=F64)
    out = gradients(net, x, d, **SUMS, lengths=[5, 4], d_lengths=[3, 1])
    assert [part["h"].shape for part in out.states] == [(5, 2, 3), (3, 2, 3)]
    # The encoder's last state reaches E only as the decoder's first: one step of the equation.
    p = {name: w.detach() for name, w in decoder.parameters_of().items()}
    y, final = encoder(x, lengths=[5, 4])
    h = torch.tanh(final[0] @ p["W_h"].T + p["b"])
    want = ((1 - h**2) * out.states[1]["h"][0]) @ p["W_h"]
    assert_close(out.states[0]["h"][[4, 3], [0, 1]], want, **EXACT)
    assert_close(y[4:, 1], torch.zeros(1, 3, dtype=F64), rtol=0, atol=0)


@pytest.mark.parametrize("shape", ["one-to-one", "one-to-many", "many-to-one"])
def test_every_shape_gives_the_gradients_of_backward(shape):
    net = Network(Recurrent("lstm", 2, 3, dtype=F64), head=2, shape=shape)
    steps = {"one-to-one": 1, "one-to-many": 1, "many-to-one": 4}[shape]
    x = torch.randn(steps, 3, 2, dtype=F64)
    d = torch.randn(4, 3, 2, dtype=F64) if shape == "one-to-many" else torch.randn(3, 2, dtype=F64)
    out = gradients(net, x, d, **SUMS)
    assert all(p.grad is None for p in net.parameters())
    y = net(x, target=d) if shape == "one-to-many" else net(x)
    network_errors(y, d, **SUMS).total.backward()
    for name, p in net.named_parameters():
        assert_close(out.parameters[name], p.grad, **EXACT)


def test_initial_states_come_back_as_they_were_given():
    layer = Recurrent("lstm", 2, 3, dtype=F64)
    x, d = torch.randn(2, 4, 2, dtype=F64), torch.randn(2, 4, 3, dtype=F64)
    state = (torch.randn(1, 4, 3, dtype=F64), torch.randn(1, 4, 3, dtype=F64))
    out = gradients(layer, x, d, **SUMS, state=state)
    assert isinstance(out.initial, tuple)
    assert [part.shape for part in out.initial] == [(1, 4, 3)] * 2
    assert gradients(layer, x, d, **SUMS).initial is None


def test_a_list_of_states_is_a_tuple_of_states():
    layer = Recurrent("lstm", 2, 3, dtype=F64)
    x, d = torch.randn(2, 4, 2, dtype=F64), torch.randn(2, 4, 3, dtype=F64)
    state: Any = [torch.randn(1, 4, 3, dtype=F64), torch.randn(1, 4, 3, dtype=F64)]
    ours = gradients(layer, x, d, **SUMS, state=state)
    theirs = gradients(layer, x, d, **SUMS, state=tuple(state))
    assert isinstance(ours.initial, tuple)
    assert_close(ours.initial, theirs.initial, rtol=0, atol=0)


def test_it_does_not_ask_whether_gradients_are_on():
    layer = Recurrent("elman", 2, 3, dtype=F64)
    x, d = torch.randn(2, 4, 2, dtype=F64), torch.randn(2, 4, 3, dtype=F64)
    want = gradients(layer, x, d, **SUMS)
    with torch.no_grad():
        found = gradients(layer, x, d, **SUMS)
    assert_close(found.inputs, want.inputs, rtol=0, atol=0)
    assert_close(found.parameters, want.parameters, rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["reference", "derived"])
@pytest.mark.parametrize(("time", "batch"), [(0, 2), (3, 0), (0, 0)])
def test_what_has_no_steps_or_no_rows_has_gradients_of_zero(backend, time, batch):
    layer = Recurrent("lstm", 2, 3, backend=backend)
    out = gradients(layer, torch.zeros(time, batch, 2), torch.zeros(time, batch, 3), **SUMS)
    assert out.inputs.shape == (time, batch, 2) and out.states[0]["c"].shape == (time, batch, 3)
    for name, p in layer.named_parameters():
        assert_close(out.parameters[name], torch.zeros_like(p), rtol=0, atol=0)


def test_refusals():
    x, d = torch.zeros(4, 2, 2), torch.zeros(4, 2, 3)
    layer = Recurrent("elman", 2, 3)
    with pytest.raises(DataError, match=r"x has shape \(4, 2\)\ngive \(T, B, m\); one"):
        gradients(layer, x[:, 0], d, **SUMS)
    with pytest.raises(DataError, match="the layer is batch_first"):
        gradients(Recurrent("elman", 2, 3, batch_first=True), x, d, **SUMS)
    with pytest.raises(DataError, match="d_lengths is given, but the outputs have the steps of x"):
        gradients(layer, x, d, **SUMS, d_lengths=[4, 4])
    with pytest.raises(DataError, match=r"x is torch\.int64, and only a tensor of real numbers"):
        gradients(layer, x.long(), d, **SUMS)
    with pytest.raises(DataError, match="state is int, and only a tensor of real numbers"):
        gradients(layer, x, d, **SUMS, state=[1, 2])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="d is a list\ngive the targets"):
        gradients(layer, x, [1.0], **SUMS)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="network is a NoneType"):
        gradients(None, x, d, **SUMS)  # type: ignore[arg-type]
    for text, lengths in [
        ("^lengths are torch.float32, and must be whole", [1.7, 2]),
        ("^lengths hold 5, and there are 4 steps", [1, 5]),
        ("^lengths hold -1, and there are 4 steps", [1, -1]),
    ]:
        with pytest.raises(KernelError, match=text):
            gradients(layer, x, d, **SUMS, lengths=lengths)
    writer = Network(Recurrent("elman", 2, 3), 2, "one-to-many")
    with pytest.raises(KernelError, match=r"^d_lengths are torch\.float32"):
        gradients(writer, x[:1], x, **SUMS, d_lengths=[1.7, 2])  # type: ignore[list-item]
