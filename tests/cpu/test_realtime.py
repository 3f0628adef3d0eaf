"""Real-time recurrent learning against backpropagation through time, and against what can be worked out by hand."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

import refold as rf
from refold.data.batch import Batch
from refold.errors import DataError, RefoldError
from refold.train import influence
from refold.train.errors import Reduce
from refold.train.gradients.bptt import gradients
from refold.train.realtime import Online, RealTime, realtime_gradients

F64 = torch.float64
EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 1e-12}
T, B = 7, 3


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@rf.cell
def linear(x=rf.Input("m"), h=rf.State("n", start=1.0), *, w=rf.Weight("n")):
    return w * h + 0 * rf.sum(x)


def layer_of(cell, *args, **options):
    return rf.Recurrent(cell, 2, 3, *args, dtype=F64, **options)


def batch_of(network: Any, lengths: Any = None, mask: Any = None, classes: bool = False) -> Batch:
    """A batch with NaN behind the end of each row: nothing of it may be read."""
    k: int = getattr(getattr(network, "head", None), "out_features", 3)
    lengths = torch.tensor(lengths or [T] * B)
    x, d = torch.randn(T, B, 2, dtype=F64), torch.randn(T, B, k, dtype=F64)
    behind = torch.arange(T)[:, None] >= lengths
    x[behind] = d[behind] = torch.nan
    d = torch.randint(k, (T, B)) if classes else d
    return Batch(x, lengths, d, lengths, mask)


def same_as_bptt(network, batch, loss="squared", reduce=None, state=None):
    reduce = reduce or Reduce("mean", "mean", "sum")
    assert batch.d is not None
    want = gradients(
        network,
        batch.x,
        batch.d,
        loss,
        steps=reduce.steps,
        sequences=reduce.sequences,
        features=reduce.features,
        lengths=batch.lengths,
        mask=batch.mask,
        state=state,
    )
    network.zero_grad()
    found = list(realtime_gradients(network, batch, loss, reduce, state=state))
    assert [t for t, _ in found] == list(range(T))
    assert_close(torch.stack([error for _, error in found]).sum(), want.errors.total, **EXACT)
    for name, parameter in network.named_parameters():
        assert float(want.parameters[name].abs().max()) > 0, f"{name}: nothing to compare"
        assert_close(
            parameter.grad, want.parameters[name], **EXACT, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("backend", ["reference", "derived", "llvm"])
@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
def test_the_sum_of_its_gradients_is_that_of_backpropagation(cell, backend):
    layer = layer_of(cell, backend=backend)
    same_as_bptt(rf.Network(layer, head=2), batch_of(rf.Network(layer, head=2), [7, 3, 5]))
    same_as_bptt(layer, batch_of(layer))


def test_of_two_layers_of_every_wiring():
    for options in ({}, {"stack": rf.Stack("highway")}, {"stack": rf.Stack(dilations=(1, 2))}):
        network = rf.Network(layer_of("lstm", num_layers=2, **options), head=2)
        same_as_bptt(network, batch_of(network, [7, 0, 4]))


@pytest.mark.parametrize("cell", ["lru", "fast_rnn"])
def test_of_outputs_that_are_no_state_and_of_scalars(cell):
    network = rf.Network(layer_of(cell), head=2)
    same_as_bptt(network, batch_of(network, [6, 7, 2]))


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_learned_start_is_part_of_the_past(num_layers):
    network = rf.Network(layer_of("lstm", num_layers, learn_state=True), head=2)
    same_as_bptt(network, batch_of(network, [7, 1, 5]))


def test_a_weight_that_is_worked_out_from_another():
    layer = layer_of("elman")
    torch.nn.utils.parametrizations.orthogonal(layer.get_submodule("l0"), "W_h")
    same_as_bptt(layer, batch_of(layer, [7, 3, 5]))


def test_a_given_start_is_not():
    network = rf.Network(layer_of("lstm"), head=2)
    state = tuple(torch.randn(1, B, 3, dtype=F64) for _ in range(2))
    same_as_bptt(network, batch_of(network), state=state)


def test_every_reduction_masks_and_classes():
    network = rf.Network(layer_of("gru"), head=2)
    mask = torch.rand(T, B, 2) > 0.4
    same_as_bptt(network, batch_of(network, [7, 2, 4], mask), reduce=Reduce("mean", "sum", "mean"))
    mask = torch.rand(T, B) > 0.4
    batch = batch_of(network, [7, 2, 4], mask, classes=True)
    same_as_bptt(network, batch, "cross_entropy", Reduce("sum", "mean", "sum"))


def test_the_gradient_of_one_weight_that_multiplies_the_state():
    """h(t) = w h(t-1), h(0) = 1, E = h(T)^2 / 2: dE/dw = T w^(2T - 1)."""
    layer = rf.Recurrent(linear, 1, 1, dtype=F64)
    with torch.no_grad():
        layer.parameters_of()["w"].fill_(0.5)
    steps, lengths = 10, torch.tensor([10])
    mask = torch.arange(steps)[:, None] == steps - 1
    batch = Batch(torch.zeros(steps, 1, 1), lengths, torch.zeros(steps, 1, 1), lengths, mask)
    batch = Batch(batch.x.double(), lengths, batch.x.double(), lengths, mask)

    def half(y, d):
        return (y - d).square() / 2

    for _ in realtime_gradients(layer, batch, half, Reduce("sum", "sum", "sum")):
        pass
    gradient = layer.parameters_of()["w"].grad
    assert_close(gradient, torch.tensor([10 * 0.5**19], dtype=F64), **EXACT)


def test_the_gradient_of_each_step_is_that_of_its_own_error():
    """Not only the sum: the error at t alone, through all steps before it."""
    network = rf.Network(layer_of("elman"), head=2)
    batch = batch_of(network)
    assert batch.d is not None
    for t, _ in realtime_gradients(network, batch, "squared", Reduce("sum", "sum", "sum")):
        only = (torch.arange(T) == t)[:, None].expand(T, B)
        want = gradients(network, batch.x, batch.d, steps="sum", sequences="sum", mask=only)
        for name, parameter in network.named_parameters():
            assert_close(parameter.grad, want.parameters[name], **EXACT)
        network.zero_grad()


def test_what_is_frozen_stays_without_a_gradient():
    network = rf.Network(layer_of("elman"), head=2)
    frozen = network.layer.parameters_of()["W_x"].requires_grad_(False)
    for _ in realtime_gradients(network, batch_of(network), "squared", Reduce("sum", "sum", "sum")):
        pass
    assert frozen.grad is None
    assert network.layer.parameters_of()["W_h"].grad is not None


def test_online_steps_as_it_walks():
    """One row, plain descent: by hand with the influence of the weights as they were."""
    network = rf.Recurrent("elman", 2, 3, dtype=F64)
    twin = rf.Recurrent("elman", 2, 3, dtype=F64)
    twin.load_state_dict(network.state_dict())
    learner = Online(network, 0.1)
    h, influence = torch.zeros(3, dtype=F64), torch.zeros(3, 18, dtype=F64)
    for _ in range(5):
        x, d = torch.randn(1, 2, dtype=F64), torch.randn(1, 3, dtype=F64)
        weights = [p.detach() for p in twin.parameters_of().values()]

        def step(h, flat, x=x):
            W_x, W_h, b = flat.split([6, 9, 3])
            return torch.tanh(W_x.reshape(3, 2) @ x[0] + W_h.reshape(3, 3) @ h + b)

        flat = torch.cat([p.flatten() for p in weights])
        J, immediate = torch.autograd.functional.jacobian(step, (h, flat))
        influence = J @ influence + immediate
        h = step(h, flat)
        assert learner.step(x, d) == pytest.approx(float((h - d[0]).square().sum()), abs=1e-12)
        flat = flat - 0.1 * influence.T @ (2 * (h - d[0]))
        with torch.no_grad():
            for p, part in zip(twin.parameters_of().values(), flat.split([6, 9, 3]), strict=True):
                p.copy_(part.reshape(p.shape))
        for mine, theirs in zip(network.parameters(), twin.parameters(), strict=True):
            assert_close(mine, theirs, **EXACT)
    assert learner.steps == 5


def test_online_learns_a_delay():
    """y(t) = x(t-2): the error falls to a tenth of the variance of the target."""
    network = rf.Network(rf.Recurrent("gru", 1, 8), head=1)
    learner = Online(network, torch.optim.Adam(network.parameters(), 2e-2))
    x = torch.randn(400, 4, 1)
    errors = [learner.step(x[t], x[t - 2] if t > 1 else torch.zeros(4, 1)) for t in range(400)]
    assert sum(errors[:50]) / 50 > 0.7
    assert sum(errors[-50:]) / 50 < 0.1


def test_rows_are_reset_to_where_a_sequence_begins():
    network = layer_of("gru", learn_state=True)
    x, d = torch.randn(4, 2, 2, dtype=F64), torch.randn(4, 2, 3, dtype=F64)
    still: Any = torch.optim.SGD(network.parameters(), 0.0)
    learner = Online(network, still, sequences="sum")
    learner.step(x[0], d[0])
    learner.step(x[1], d[1])
    learner.reset([1])
    learner.step(x[2], d[2])
    found = [p.grad for p in network.parameters()]
    assert learner.y.shape == (2, 3)
    only = torch.tensor([False, False, True])[:, None]
    rows = [(x[:3, :1], d[:3, :1], only), (x[2:3, 1:], d[2:3, 1:], only[2:])]
    sums = {"steps": "sum", "sequences": "sum"}
    parts = [gradients(network, *row[:2], mask=row[2], **sums).parameters for row in rows]  # type: ignore[arg-type]
    for (name, _), mine in zip(network.named_parameters(), found, strict=True):
        assert_close(mine, parts[0][name] + parts[1][name], **EXACT)
    learner.reset()
    learner.step(x[3, :1], d[3, :1])  # and another number of rows may follow


def test_targets_that_are_missing_are_masked():
    learner = Online(layer_of("elman"), 0.1)
    d = torch.full((1, 3), torch.nan, dtype=F64)
    assert learner.step(torch.randn(1, 2, dtype=F64), d, torch.tensor([False])) == 0


# What is refused ------------------------------------------------------------------------------------------------------


def test_networks_that_cannot_carry():
    refused = [
        (torch.nn.Linear(2, 2), "the network is a Linear\ngive an rf.Recurrent"),
        (rf.Network(layer_of("elman"), 1, "many-to-one"), "the network is a many-to-one"),
        (layer_of("elman", bidirectional=True), "bidirectional, and its reverse"),
        (layer_of("elman", batch_first=True), "the layer is batch_first"),
        (layer_of("elman", num_layers=2, dropout=0.1), "drops at random in training"),
        (layer_of("elman").requires_grad_(False), "no parameter that is trained"),
    ]
    for network, text in refused:
        with pytest.raises(RefoldError, match=text):
            Online(network, 0.1)
    dropping = layer_of("gru", regularise=rf.Regularise(zoneout=0.1))
    learner = Online(dropping.eval(), 0.1)
    dropping.train()
    with pytest.raises(RefoldError, match=r"drops at random in training.*\ncall network\.eval"):
        learner.step(torch.zeros(1, 2), torch.zeros(1, 3))


def test_a_network_that_is_too_large_is_told_its_sizes(monkeypatch):
    monkeypatch.setattr(influence, "LIMIT", 100)
    text = (
        r"real-time learning\n2 row\(s\) of 3 states by 18 parameters are 108 numbers\nat most 100"
    )
    with pytest.raises(RefoldError, match=text):
        Online(layer_of("elman"), 0.1).step(torch.zeros(2, 2), torch.zeros(2, 3))
    monkeypatch.undo()
    large = rf.Recurrent("elman", 2, 1000, learn_state=True, backend="reference")
    with pytest.raises(RefoldError, match=r"1 row\(s\) of 1000 states by 1004000 parameters"):
        Online(large, 0.1).step(torch.zeros(1, 2), torch.zeros(1, 1000))  # before memory is taken


def test_what_does_not_fit_a_step():
    learner = Online(layer_of("elman"), 0.1)
    with pytest.raises(DataError, match=r"x is \(4, 2, 2\), not one step of every row"):
        learner.step(torch.zeros(4, 2, 2), torch.zeros(2, 3))
    learner.step(torch.zeros(2, 2, dtype=F64), torch.zeros(2, 3, dtype=F64))
    with pytest.raises(DataError, match=r"x has 1 row\(s\), and 2 are carried\ncall reset"):
        learner.step(torch.zeros(1, 2), torch.zeros(1, 3))


def test_numbers_that_are_not_finite_do_not_reach_the_weights():
    network = layer_of("elman")
    kept = [p.detach().clone() for p in network.parameters()]
    learner = Online(network, 0.1)
    with pytest.raises(RefoldError, match=r"Online\.step, step 1\nthe error is inf, the gradient"):
        learner.step(torch.zeros(1, 2, dtype=F64), torch.full((1, 3), torch.inf, dtype=F64))
    for mine, before in zip(network.parameters(), kept, strict=True):
        assert_close(mine, before, rtol=0, atol=0)


@pytest.mark.parametrize("every", [0, True, 1.5])
def test_every_is_a_whole_number(every):
    with pytest.raises(RefoldError, match=r"RealTime\(every=\.\.\.\)\nevery is"):
        RealTime(every)


@pytest.mark.parametrize("rate", [0, -1.0, "adam", float("inf")])
def test_a_rate_is_a_number_above_0(rate):
    with pytest.raises(
        RefoldError, match=r"optimiser is .*\ngive a torch optimiser, or a positive rate"
    ):
        Online(layer_of("elman"), rate)


def test_targets_have_steps():
    layer, lengths = layer_of("elman"), torch.tensor([4, 4])
    batch = Batch(torch.zeros(4, 2, 2), lengths, torch.zeros(2, 3))
    with pytest.raises(DataError, match="an error at every step, and d has no target"):
        next(realtime_gradients(layer, batch, "squared", Reduce("sum", "sum", "sum")))
