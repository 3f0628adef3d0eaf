"""How a batch is walked through: each definition against itself, written out."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import refold as rf
from refold.data.batch import Batch, Sequences
from refold.errors import DataError, KernelError, RefoldError
from refold.nn.layer import Recurrent
from refold.nn.omega import Omega, Terms
from refold.nn.wiring import Network
from refold.train import training
from refold.train.errors import Reduce, network_errors
from refold.train.fit import fit
from refold.train.objective import Objective
from refold.train.omega import regularised
from refold.train.realtime import RealTime
from refold.train.settings import Fit
from refold.train.walk import Count, Full, Gradient, Truncated

F64 = torch.float64
MEANS = Reduce("mean", "mean", "sum")
SUMS = Reduce("sum", "sum", "sum")
EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@rf.cell
def unit(h=rf.State("1"), *, w=rf.Weight("1")):
    """h(t) = w h(t-1)."""
    return w * h


def network(cell: str = "lstm", backend: str = "auto", **options) -> Network:
    return Network(Recurrent(cell, 2, 3, backend=backend, dtype=F64, **options), head=1)


def batch(*lengths: int) -> Batch:
    x = [torch.randn(n, 2, dtype=F64) for n in lengths]
    d = [torch.randn(n, 1, dtype=F64) for n in lengths]
    return Sequences(x, d).batch(range(len(lengths)))


def walked(
    net: nn.Module, gradient: Gradient, found: Batch, reduce: Reduce = MEANS
) -> list[tuple[Tensor, list[Tensor]]]:
    """The error of each part and its gradients, with weights that stay as they are."""
    walk = gradient.walk(Objective(net, "squared", reduce), found)
    span = gradient.span or len(found.x)
    parts = []
    for part in range(-(-len(found.x) // span)):
        net.zero_grad()
        error = walk.backward(part)
        parts.append((error, [p.grad.clone() for p in net.parameters() if p.grad is not None]))
    return parts


# Truncated


@pytest.mark.parametrize("backend", ["reference", "llvm"])
@pytest.mark.parametrize("look_back", [1, 3, 10])
def test_the_smallest_network_keeps_as_many_terms_as_it_looks_back(look_back, backend):
    # E = h(T)^2 / 2, h(0) = 1: each step of the last K adds w^(2T-1).
    layer = Recurrent(unit, 0, 1, dtype=F64, backend=backend, learn_state=True)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(1.0)  # the learned start among them
        layer.parameters_of()["w"].fill_(0.5)
    data = Batch(
        torch.zeros(10, 1, 0, dtype=F64),
        torch.tensor([10]),
        torch.zeros(10, 1, 1, dtype=F64),
        torch.tensor([10]),
        (torch.arange(10) == 9)[:, None],
    )
    *_, (error, _) = walked(layer, Truncated(1, look_back), data, SUMS)
    w = layer.parameters_of()["w"]
    assert w.grad is not None
    assert_close(0.5 * error.item(), 0.5 * 0.5**20, rtol=1e-12, atol=0)
    assert_close(0.5 * w.grad.item(), look_back * 0.5**19, rtol=1e-12, atol=0)
    if look_back == 3:
        assert_close(0.5 * w.grad.item(), 5.7220458984375e-6, rtol=1e-12, atol=0)


@pytest.mark.parametrize("k1, k2", [(3, 3), (2, 5), (4, 5), (1, 7), (5, 5)])
@pytest.mark.parametrize("backend", ["reference", "llvm"])
def test_every_part_is_its_own_definition(k1, k2, backend):
    """Each part: the last k2 steps from the state that was there, errors of the last k1."""
    net, found = network("lstm", backend), batch(11, 7, 9)
    parts = walked(net, Truncated(k1, k2), found)
    layer, head = net.layer, net.head
    assert head is not None and found.d is not None
    states: list[Any] = [None]  # of all rows after each step, with weights that do not move
    with torch.no_grad():
        for t in range(11):
            states.append(layer(found.x[t : t + 1], states[-1], (found.lengths > t).long())[1])
    for part, (error, grads) in enumerate(parts):
        counted, end = part * k1, min((part + 1) * k1, 11)
        start = max(0, (part + 1) * k1 - k2)
        rows = (found.lengths - start).clamp(0, end - start)
        y = head(layer(found.x[start:end], states[start], rows)[0])[counted - start :]
        left = (found.lengths - counted).clamp(0, end - counted)
        total = network_errors(
            y, found.d[counted:end], steps="mean", sequences="mean", lengths=left
        ).total
        assert_close(error, total.detach(), **EXACT)
        want = torch.autograd.grad(total, list(net.parameters()), materialize_grads=True)
        for one, other in zip(grads, want, strict=True):
            assert_close(one, other, **EXACT)


def test_one_part_of_all_steps_is_the_full_gradient():
    net, found = network("gru"), batch(6, 4)
    ((full, grads),) = walked(net, Full(), found)
    for k1, k2 in ((6, 6), (6, 9), (50, 50)):
        ((error, others),) = walked(net, Truncated(k1, k2), found)
        assert_close(error, full, **EXACT)
        assert_close(others, grads, **EXACT)


def test_looking_back_over_everything_the_parts_sum_to_the_full_gradient():
    net, found = network("lstm"), batch(8, 8)
    ((full, grads),) = walked(net, Full(), found, SUMS)
    parts = walked(net, Truncated(2, 8), found, SUMS)
    assert_close(sum(error for error, _ in parts), full, **EXACT)
    for i, grad in enumerate(grads):
        assert_close(sum(g[i] for _, g in parts), grad, **EXACT)


@pytest.mark.parametrize("gradient", [Truncated(2, 3), RealTime(2)])
def test_a_walk_goes_on_from_what_it_carried(gradient):
    net, found = network("lstm", "reference"), batch(7, 5)
    whole = walked(net, gradient, found)
    objective = Objective(net, "squared", MEANS)
    walk = gradient.walk(objective, found)
    for part, (error, grads) in enumerate(whole):
        carried = {name: t.clone() for name, t in walk.carried().items()}
        walk = gradient.walk(objective, found)  # as after a new start
        walk.restore(carried)
        net.zero_grad()
        assert_close(walk.backward(part), error, rtol=0, atol=0)
        assert_close([p.grad for p in net.parameters()], grads, rtol=0, atol=0)


class Plain(nn.Module):
    """A loop of somebody else's that hands its state on."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRU(2, 3, dtype=F64)
        self.head = nn.Linear(3, 1, dtype=F64)

    def forward(self, x, state=None):
        y, state = self.cell(x, state)
        return self.head(y), state


def test_any_module_that_hands_its_state_on_can_be_truncated():
    found = batch(6, 6)
    for net in (Plain(), nn.GRU(2, 1, dtype=F64), nn.LSTM(2, 1, batch_first=True, dtype=F64)):
        assert len(walked(net, Truncated(2, 4), found)) == 3
    same = Network(Recurrent("gru", 2, 3, dtype=F64), head=1)
    assert len(walked(same, Truncated(2), found)) == 3


# Forward in time


def test_real_time_parts_are_truncated_ones_that_look_back_over_everything():
    net, found = network("gru", "reference"), batch(7, 4)
    for one, other in zip(
        walked(net, RealTime(3), found), walked(net, Truncated(3, 9), found), strict=True
    ):
        assert_close(one, other, rtol=1e-10, atol=1e-12)


# In the loop


def echo(count: int = 8, steps: int = 30) -> Sequences:
    x = [torch.randn(steps, 1) for _ in range(count)]
    return Sequences(x, [torch.cat([torch.zeros(1, 1), part[:-1]]) for part in x])


@pytest.mark.parametrize("gradient", [Truncated(10), Truncated(5, 15), RealTime(10)])
def test_it_learns_through_parts(gradient):
    net = Network(Recurrent("elman", 1, 6), head=1)
    settings = Fit(epochs=25, rate=2e-2, batch_size=4, gradient=gradient, validation=0.25)
    run = fit(net, echo(), settings, validation=echo())
    assert run.steps == 25 * 2 * (30 // (gradient.span or 30))
    assert run.validation[-1] < 0.3 * run.validation[0]


def test_one_long_stream_is_learned_part_by_part():
    x = torch.randn(400, 1)
    data = Sequences([x], [torch.cat([torch.zeros(1, 1), x[:-1]])])
    net = Network(Recurrent("elman", 1, 6), head=1)
    run = fit(net, data, Fit(epochs=8, rate=2e-2, gradient=Truncated(20)))
    assert run.steps == 8 * 16 and run.validation[-1] < 0.2


def pieces(terms: Terms) -> Count:
    def count(begin: int, share: float) -> None:
        terms.piece = share

    return count


def test_omega_of_parts_is_that_of_the_whole():
    """The mean over a window's steps, whatever the pieces it is run in; weights that stay as they are."""
    net, found = network("lstm"), batch(12, 12)
    omega = Omega(3.0)
    with regularised(net, omega) as terms:
        net.zero_grad()
        Full().walk(Objective(net, "squared", SUMS), found).backward(0, pieces(terms))
    whole, grads = terms.value(), [p.grad.clone() for p in net.parameters() if p.grad is not None]
    walk = Truncated(5, 12).walk(Objective(net, "squared", SUMS), found)
    for part in range(3):  # the last one runs over 9 steps, in pieces of 2, 5 and 2
        with regularised(net, omega) as terms:
            net.zero_grad()
            walk.backward(part, pieces(terms))
    window = found.steps(3, 12)
    assert window.d is not None and net.head is not None
    with torch.no_grad():
        state = net.layer(found.x[:3])[1]
    with regularised(net, omega) as direct:
        y = net.head(net.layer(window.x, state)[0])[7:]
        (y - window.d[7:]).square().sum().backward()
    assert_close(terms.value(), direct.value(), **EXACT)
    assert float(whole) > 0 and len(grads) == len(list(net.parameters()))


def test_omega_in_the_loop_keeps_gradients_alive(tmp_path):
    """With it, the norms of the adjoint fall off more slowly; the log has its value at every step."""
    found = {}
    for name, omega in (("without", None), ("with", Omega(4.0))):
        torch.manual_seed(0)
        net = Network(Recurrent("elman", 1, 8), head=1)
        log = tmp_path / f"{name}.jsonl"
        settings = Fit(epochs=30, rate=1e-2, omega=omega, validation=0, log=log, lags=True)
        run = fit(net, echo(8), settings)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        found[name] = (run.lags[-1].curves[0].growth, [line.get("omega") for line in lines])
    assert found["without"][1] == [None] * 30 and min(found["with"][1]) >= 0
    assert found["with"][1][-1] < 0.5 * found["with"][1][0]
    assert found["with"][0] > 0.5 * found["without"][0]  # both below 0


def test_omega_can_fade_as_training_goes_on(monkeypatch):
    scales = []

    def seen(network, omega, scale):
        scales.append(scale)
        return regularised(network, omega, scale)

    monkeypatch.setattr(training, "regularised", seen)
    for over in (None, 2):
        net = Network(Recurrent("elman", 1, 3), head=1)
        fit(net, echo(4, 5), Fit(epochs=5, omega=Omega(over=over), validation=0))
    assert scales[:5] == [1.0] * 5
    assert scales[5:] == pytest.approx([1, 2 / 3, 1 / 2, 2 / 5, 1 / 3])


# What is refused


def test_refusals():
    found, net = batch(4, 3), network()
    for text, make in [
        ("k1 is 0\ngive a whole number", lambda: Truncated(0)),
        ("k2 is 1.5", lambda: Truncated(1, 1.5)),  # type: ignore[arg-type]
        ("k2 is 2 and k1 is 3: some errors would reach no step", lambda: Truncated(3, 2)),
        ("over is 0, and must be a finite number of steps above 0", lambda: Omega(over=0)),
        ("omega is measured on the way back", lambda: Fit(omega=Omega(), gradient=RealTime())),
        ("omega is 4.0\ngive omega=rf.Omega", lambda: Fit(omega=4.0)),  # type: ignore[arg-type]
        ("gradient is 20\ngive gradient=rf.Truncated", lambda: Fit(gradient=20)),  # type: ignore[arg-type]
    ]:
        with pytest.raises(RefoldError, match=text):
            make()
    single = Sequences([torch.zeros(3, 2, dtype=F64)], [torch.zeros(1, dtype=F64)]).batch([0])
    with pytest.raises(DataError, match="a part of a sequence has no error"):
        walked(network(), Truncated(2), single)
    with pytest.raises(KernelError, match="and many-to-one has to see the whole"):
        walked(Network(net.layer, 1, "many-to-one"), Truncated(2), found)
    both = network(bidirectional=True)
    with pytest.raises(KernelError, match="and the layer also reads in reverse"):
        walked(both, Truncated(2), found)
    with pytest.raises(DataError, match=r"Linear.forward takes no state"):
        walked(nn.Linear(2, 1, dtype=F64), Truncated(2), found)

    class Alone(nn.Linear):
        def forward(self, x, state=None):  # type: ignore[override]
            return super().forward(x)

    with pytest.raises(DataError, match=r"Alone.forward gives no pair"):
        walked(Alone(2, 1, dtype=F64), Truncated(2), batch(4, 4))

    class Own(nn.Linear):
        def error(self, batch):
            return self(batch.x).sum()

    with pytest.raises(DataError, match="Own has an error of its own, of whole sequences"):
        walked(Own(2, 1, dtype=F64), Truncated(2), found)
