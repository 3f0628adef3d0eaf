"""The training loop: against a loop written out, and every way in which it ends."""

import copy
import json
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from refold.data.batch import Batch, Sequences
from refold.errors import DataError, RefoldError
from refold.nn.layer import Recurrent
from refold.nn.wiring import Network
from refold.train.call import outputs
from refold.train.errors import network_errors
from refold.train.fit import fit
from refold.train.log import StepLine, step_log
from refold.train.settings import OPTIMISERS, Fit

WAYS: dict[str, Any] = {"steps": "mean", "sequences": "mean"}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def echo(lengths=(8, 5, 7, 6)):
    """Targets are the inputs of one step before."""
    x = [torch.randn(n, 1) for n in lengths]
    return Sequences(x, [torch.cat([torch.zeros(1, 1), part[:-1]]) for part in x])


def elman(head: int = 1, **settings) -> Network:
    return Network(Recurrent("elman", 1, 4, **settings), head=head)


def weights(network: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> None:
    assert_close(a, b, rtol=0, atol=0)


class Scripted(nn.Module):
    """A network of one weight: its training error moves it, its validation errors are given."""

    steps: Tensor

    def __init__(self, *validation: float):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3))
        self.register_buffer("steps", torch.zeros(()))
        self.validation = list(validation)
        self.seen: list[Tensor] = []

    def error(self, batch: Batch) -> Tensor:
        if self.training:
            self.steps = self.steps + 1
            return (self.w - 1).square().sum()
        self.seen.append(self.w.detach().clone())
        return torch.tensor(self.validation[len(self.seen) - 1])


# What it computes


def test_it_learns_to_remember_one_step():
    data = echo([20] * 16)
    network = elman()
    batch = data.batch(range(16))
    assert batch.d is not None
    before = network_errors(network(batch.x), batch.d, **WAYS).total
    run = fit(network, data, Fit(epochs=60, rate=2e-2, batch_size=8))
    assert run.validation[run.best_epoch - 1] == min(run.validation)
    assert run.validation[-1] < 0.1 * before < 0.1 * 2
    assert not network.training
    assert run.epochs == 60 and run.steps == 120 and run.stopped == "epochs" and run.seconds > 0


def test_it_is_the_loop_written_out():
    data, network = echo(), elman()
    copied = copy.deepcopy(network)
    settings = Fit(epochs=2, optimiser="sgd", rate=0.1, batch_size=3, clip=0.5, validation=0.25)
    run = fit(network, data, settings)

    train, held_out = data.split(0.25)
    order, means, validation = torch.Generator().manual_seed(0), [], []
    for _ in range(2):
        total, number = 0.0, 0
        for chosen in torch.randperm(4, generator=order).split(3):
            rows = []
            for s in chosen.tolist():
                assert train.d is not None
                y = copied(train.x[s].unsqueeze(1))[:, 0]
                rows.append(((y - train.d[s]) ** 2).sum(-1).mean())
            loss = torch.stack(rows).mean()
            copied.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(copied.parameters(), 0.5)
            with torch.no_grad():
                for p in copied.parameters():
                    assert p.grad is not None
                    p -= 0.1 * p.grad
            total, number = total + loss.item() * len(rows), number + len(rows)
        means.append(total / number)
        found = []
        for x, d, mask in zip(held_out.x, held_out.d or (), held_out.mask or (), strict=True):
            y = copied(x.unsqueeze(1))[:, 0]
            found.append(((y - d)[mask] ** 2).sum(-1).mean().item())
        validation.append(sum(found) / len(found))
    assert_close(list(run.train), means, rtol=1e-5, atol=1e-6)
    assert_close(list(run.validation), validation, rtol=1e-5, atol=1e-6)
    if run.best_epoch == 2:
        assert_close(weights(network), weights(copied), rtol=1e-5, atol=1e-6)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_random_state():
    data = echo()
    first = Network(Recurrent("lstm", 1, 4, num_layers=2, dropout=0.5), head=1)
    second, third = copy.deepcopy(first), copy.deepcopy(first)
    settings = Fit(epochs=4, batch_size=2)
    run = fit(first, data, settings)
    state = torch.get_rng_state()
    torch.rand(17)
    again = fit(second, data, settings)
    torch.set_rng_state(state)
    fit(third, data, Fit(epochs=4, batch_size=2, seed=1))
    same([torch.get_rng_state()], [state])
    same(weights(first), weights(second))
    assert run.train == again.train and run.validation == again.validation
    with pytest.raises(AssertionError):
        same(weights(first), weights(third))


@pytest.mark.parametrize("sequences", ["sum", "mean"])
def test_the_validation_error_does_not_depend_on_the_batch_size(sequences):
    data, held_out = echo(), echo([3, 9, 4, 2, 6])
    found = []
    for size in (1, 2, 5):
        torch.manual_seed(0)
        settings = Fit(epochs=1, rate=1e-12, batch_size=size, sequences=sequences)
        found.append(fit(elman(), data, settings, validation=held_out).validation[0])
    torch.manual_seed(0)
    whole = held_out.batch(range(5))
    assert whole.d is not None
    with torch.no_grad():
        y = elman()(whole.x, whole.lengths)
        want = network_errors(
            y, whole.d, steps="mean", sequences=sequences, lengths=whole.d_lengths
        )
    assert_close(found, [want.total.item()] * 3, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_every_optimiser_takes_a_step(optimiser):
    network = Scripted(1.0)
    fit(network, echo(), Fit(epochs=1, optimiser=optimiser, rate=1e-2))
    assert bool((network.w.detach() > 0).all())


def test_clipping_bounds_the_step_and_keeps_its_direction():
    network = Scripted(1.0)  # its gradient is -2 everywhere, the norm 2 sqrt(3)
    fit(network, echo(), Fit(epochs=1, optimiser="sgd", rate=1.0, clip=0.3))
    assert_close(network.w.detach(), torch.full((3,), 0.3 / 3**0.5))
    free = Scripted(1.0)
    fit(free, echo(), Fit(epochs=1, optimiser="sgd", rate=0.1, clip=None))
    assert_close(free.w.detach(), torch.full((3,), 0.2))


# How it ends


def test_patience_ends_it_and_the_best_weights_stay():
    network = Scripted(3.0, 1.0, 2.0, 1.0, 5.0, 0.0)
    run = fit(network, echo(), Fit(epochs=6, patience=3, rate=1e-2))
    assert run.stopped == "patience" and run.epochs == 5 and run.best_epoch == 2
    assert run.validation == (3.0, 1.0, 2.0, 1.0, 5.0)
    same(weights(network), [network.seen[1]])
    assert network.steps.item() == 2  # buffers go back with the weights
    assert str(run).startswith("5 epochs, 5 steps, ")
    assert "stopped by patience; best epoch 2: train " in str(run)


def test_without_patience_every_epoch_runs():
    run = fit(Scripted(1.0, 2.0, 3.0), echo(), Fit(epochs=3, patience=None))
    assert run.stopped == "epochs" and run.epochs == 3 and run.best_epoch == 1


def test_without_a_validation_part_the_last_weights_stay():
    network = Scripted()
    run = fit(network, echo(), Fit(epochs=3, validation=0, optimiser="sgd", rate=0.25, clip=None))
    assert run.validation == () and run.best_epoch == run.epochs == 3
    assert not network.training
    assert_close(network.w.detach(), torch.full((3,), 0.875))
    assert "validation" not in str(run)


def test_an_interruption_leaves_the_best_weights():
    class Interrupted(Scripted):
        def error(self, batch):
            if len(self.seen) == 2:
                raise KeyboardInterrupt
            return super().error(batch)

    network = Interrupted(1.0, 2.0)
    with pytest.raises(KeyboardInterrupt):
        fit(network, echo(), Fit(epochs=3))
    same(weights(network), [network.seen[0]])


class Breaking(Scripted):
    """Its error turns bad in the third epoch."""

    def __init__(self, bad, *validation: float):
        super().__init__(*validation)
        self.v = nn.Parameter(torch.ones(2))
        self.bad = bad

    def error(self, batch: Batch) -> Tensor:
        found = super().error(batch)
        if self.training:
            found = found + (self.bad(self.v) if len(self.seen) == 2 else self.v.sum())
        return found


def test_a_loss_that_is_not_finite_names_step_and_parameter():
    network = Breaking(lambda v: (v * torch.tensor([1.0, torch.nan])).sum(), 2.0, 1.0)
    text = (
        r"epoch 3, step 3\nthe loss is nan, the gradient norm nan; .* that of v \(1 of 2\)\nlower"
    )
    with pytest.raises(RefoldError, match=text):
        fit(network, echo(), Fit(epochs=5))
    same([network.w.detach()], [network.seen[1]])


def test_a_gradient_that_is_not_finite_under_a_finite_loss():
    network = Breaking(lambda v: (v - v.detach()).sqrt().sum(), 2.0, 1.0)
    with pytest.raises(RefoldError, match=r"gradient norm inf; the first .* that of v"):
        fit(network, echo(), Fit(epochs=5))


def test_a_norm_that_overflows_though_no_gradient_does():
    network = Breaking(lambda v: (v * 1e30).sum(), 2.0, 1.0)
    with pytest.raises(RefoldError, match="no gradient is non-finite; the largest is that of v"):
        fit(network, echo(), Fit(epochs=5))


def test_an_infinite_loss_without_gradients():
    class Detached(Scripted):
        def error(self, batch):
            return nn.Parameter(torch.tensor(torch.inf)).sum()

    with pytest.raises(RefoldError, match="no parameter has a gradient"):
        fit(Detached(), echo())


def test_weights_that_a_step_made_infinite():
    network = Scripted()
    settings = Fit(epochs=1, validation=0, rate=3e38, optimiser="sgd", clip=None)
    with pytest.raises(RefoldError, match="epoch 1, step 1\nw is no longer finite after the last"):
        fit(network, echo(), settings)
    same(weights(network), [torch.zeros(3)])


def test_a_validation_error_that_is_not_finite():
    network = Scripted(1.0, torch.nan)
    with pytest.raises(RefoldError, match="the validation error is nan, all weights are finite"):
        fit(network, echo(), Fit(epochs=3))
    same(weights(network), [network.seen[0]])


# What it says


def test_it_trains_where_gradients_are_off():
    network = Scripted(1.0)
    with torch.no_grad():
        fit(network, echo(), Fit(epochs=1, rate=1e-2))
    assert bool((network.w > 0).all())


def test_the_log_has_a_line_per_step(tmp_path):
    path = tmp_path / "steps.jsonl"
    fit(elman(), echo(), Fit(epochs=2, batch_size=3, clip=1e-3, rate=5e-3, log=path))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 1), (1, 2), (2, 3), (2, 4)]
    for line in lines:
        names = "epoch step loss gradient_norm clipped_norm rate seconds tokens"
        assert list(line) == names.split()
        assert line["gradient_norm"] > 1e-3 == line["clipped_norm"]
        assert line["rate"] == 5e-3 and line["loss"] > 0 and line["seconds"] > 0
    assert [line["tokens"] for line in lines[:2]] != [0, 0]
    whole = sum(round(0.8 * n) for n in (8, 5, 7, 6))  # the last fifth is held out
    assert sum(line["tokens"] for line in lines) == 2 * whole


def test_a_log_goes_on_where_its_run_does(tmp_path):
    path = tmp_path / "steps.jsonl"
    lines = [json.dumps({"step": n}) + "\n" for n in (1, 2, 3)]
    path.write_text("".join(lines) + '{"step": 4, "lo')  # killed in the middle of a line
    numbers: Any = (1, 3, 0.5, 1.0, 1.0, 1e-3, 0.1, 7, None)
    with step_log(path, 2) as write:
        write(StepLine(*numbers))
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in found] == [1, 2, 3] and found[2]["loss"] == 0.5
    with step_log(path) as write:  # a new run writes a new file
        write(StepLine(*numbers))
    assert len(path.read_text().splitlines()) == 1


def test_tensorboard_has_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, log = tmp_path / "board", tmp_path / "steps.jsonl"
    settings = Fit(epochs=2, batch_size=3, tensorboard=folder, log=log, lags=True)
    run = fit(elman(), echo(), settings)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    found = EventAccumulator(str(folder)).Reload()
    for name in ("loss", "gradient_norm", "rate"):
        scalars = found.Scalars(name)
        assert [s.step for s in scalars] == [1, 2, 3, 4]
        assert [s.value for s in scalars] == pytest.approx([line[name] for line in lines])
    assert [s.value for s in found.Scalars("validation")] == pytest.approx(run.validation)
    lives = [curve.curves[0].half_life for curve in run.lags]
    assert [s.value for s in found.Scalars("half_life/l0.h")] == pytest.approx(lives)
    assert [s.step for s in found.Scalars("half_life/l0.h")] == [2, 4]


def test_tensorboard_has_to_be_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RefoldError, match=r"pip install 'refold\[tensorboard\]'"):
        fit(elman(), echo(), Fit(tensorboard=tmp_path / "board"))


def test_a_tensorboard_that_cannot_be_written(tmp_path):
    (tmp_path / "board").write_text("")
    with pytest.raises(DataError, match="board cannot be written: "):
        fit(elman(), echo(), Fit(tensorboard=tmp_path / "board"))


def test_curves_against_the_lag_change_nothing_else():
    one, other = elman(), elman()
    other.load_state_dict(one.state_dict())
    data = echo()
    plain, watched = fit(one, data, Fit(epochs=3)), fit(other, data, Fit(epochs=3, lags=True))
    same(weights(one), weights(other))
    assert plain.lags == () and len(watched.lags) == 3
    assert watched.lags[0].curves[0].median.shape == (8,)
    assert watched.validation == plain.validation


def test_the_step_that_stopped_a_run_is_in_its_log(tmp_path):
    path = tmp_path / "steps.jsonl"
    network = Breaking(lambda v: v.sum() * torch.nan, 2.0, 1.0)
    with pytest.raises(RefoldError):
        fit(network, echo(), Fit(log=path))
    last = json.loads(path.read_text().splitlines()[-1])
    assert last["step"] == 3 and last["loss"] is None and last["gradient_norm"] is None


def test_a_log_that_cannot_be_written(tmp_path):
    network = elman()
    before = weights(network)
    with pytest.raises(DataError, match=r"x/steps.jsonl cannot be written: No such file"):
        fit(network, echo(), Fit(log=tmp_path / "x" / "steps.jsonl"))
    same(weights(network), before)


def test_nothing_is_printed_unless_a_bar_was_asked_for(capsys):
    fit(elman(), echo(), Fit(epochs=2))
    assert capsys.readouterr() == ("", "")
    fit(elman(), echo(), Fit(epochs=2, progress=True))
    out, bar = capsys.readouterr()
    assert out == "" and all(word in bar for word in ("epoch 2", "loss", "validation", "rate"))


# What it trains


def whole(k=2):
    """Ragged inputs, one target each, and targets of other lengths."""
    x = [torch.randn(n, 2) for n in (5, 3, 4, 6, 2)]
    return x, [torch.randn(k) for _ in x], [torch.randn(u, k) for u in (2, 4, 1, 3, 2)]


@pytest.mark.parametrize("kind", ["one-to-one", "one-to-many", "many-to-one", "encoder-decoder"])
def test_every_shape_can_be_trained(kind):
    x, single, other = whole()
    decoder = Recurrent("elman", 2, 3) if kind == "encoder-decoder" else None
    network = Network(Recurrent("elman", 2, 3), 2, kind, decoder=decoder)
    inputs = [part[:1] for part in x] if kind.startswith("one") else x
    data = Sequences(inputs, single if kind.endswith("one") else other)
    run = fit(network, data, Fit(epochs=30, rate=2e-2, validation=0))
    assert run.train[-1] < run.train[0]
    assert fit(network, data, Fit(epochs=1)).epochs == 1  # with the last sequence held out


def test_validation_runs_free_and_training_is_told():
    x, _, other = whole()
    network = Network(Recurrent("elman", 2, 3), 2, "one-to-many")
    batch = Sequences([part[:1] for part in x], other).batch(range(5))
    assert batch.d is not None
    lengths = batch.d_lengths
    told = network(batch.x, target=batch.d, target_lengths=lengths)
    free = network(batch.x, steps=4, target_lengths=lengths)
    same([outputs(network, batch, teach=True)], [told])
    same([outputs(network, batch, teach=False)], [free])
    data = Sequences([part[:1] for part in x], other)
    run = fit(network, data, Fit(epochs=1, rate=1e-12, **WAYS), validation=data)
    for y, found in ((told, run.train[0]), (free, run.validation[0])):
        want = network_errors(y, batch.d, **WAYS, lengths=lengths).total.item()
        assert found == pytest.approx(want, rel=1e-5)


def test_a_missing_target_is_fed_as_zero():
    network = Network(Recurrent("elman", 2, 3), 2, "one-to-many")
    x, d = torch.randn(1, 2), torch.randn(3, 2)
    mask = torch.tensor([True, False, True])
    d[1] = torch.nan
    y = outputs(network, Sequences([x], [d], [mask]).batch([0]), teach=True)
    d[1] = 0
    same([y], [outputs(network, Sequences([x], [d], [mask]).batch([0]), teach=True)])


def test_classes_can_be_trained():
    data = Sequences([torch.randn(6, 1) for _ in range(4)], [torch.arange(6) % 3] * 4)
    run = fit(elman(3), data, Fit(epochs=30, rate=3e-2, loss="cross_entropy"))
    assert run.train[-1] < 0.8 * run.train[0]


class Told(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.Linear(1, 1)
        self.told: list[Tensor] = []

    def forward(self, x, lengths):
        self.told.append(lengths)
        return self.cell(x)


def test_any_module_can_be_trained():
    told = Told()
    fit(told, echo(), Fit(epochs=1, validation=0))
    assert sorted(told.told[0].tolist()) == [5, 6, 7, 8]
    even = echo([6] * 4)
    for module in (nn.LSTM(1, 1), nn.GRU(1, 1, batch_first=True), nn.Linear(1, 1)):
        run = fit(module, even, Fit(epochs=20, rate=3e-2))
        assert run.train[-1] < run.train[0]
    for layer in (Recurrent("elman", 1, 1), Recurrent("elman", 1, 1, batch_first=True)):
        run = fit(layer, echo(), Fit(epochs=20, rate=3e-2))
        assert run.train[-1] < run.train[0]


def test_layouts_give_the_same_error():
    data, layer = echo(), Recurrent("elman", 1, 1)
    other = Recurrent("elman", 1, 1, batch_first=True)
    other.load_state_dict(layer.state_dict())
    batch = data.batch([0, 1, 2])
    same([outputs(layer, batch, teach=True)], [outputs(other, batch, teach=True)])


# What it refuses


def test_refusals_of_data():
    with pytest.raises(DataError, match=r"a batch has rows of 5 to 8 steps, LSTM.forward takes no"):
        fit(nn.LSTM(1, 1), echo(), Fit(validation=0))
    with pytest.raises(DataError, match=r"d is None, and Network has no error\(batch\)"):
        fit(elman(), Sequences(echo().x), Fit(validation=0))
    with pytest.raises(RefoldError, match="LSTM has no parameter that requires a gradient"):
        fit(nn.LSTM(1, 1).requires_grad_(False), echo())
    nothing = [torch.zeros(len(part), dtype=torch.bool) for part in echo().x]
    blind = Sequences(echo().x, echo().d, nothing)
    with pytest.raises(DataError, match="nothing in data counts: every target is masked"):
        fit(elman(), blind)
    with pytest.raises(DataError, match="nothing in validation counts"):
        fit(elman(), echo(), validation=blind)
    network = Network(Recurrent("elman", 2, 3), 2, "one-to-many")
    x, single, _ = whole()
    data = Sequences([part[:1] for part in x], single)
    with pytest.raises(
        DataError, match="one-to-many writes as many steps as d has, but d has none"
    ):
        fit(network, data, Fit(validation=0))


def test_refusals_of_other_kinds():
    x = [torch.zeros(3, 1)]
    for text, error, args, call in [
        (r"data is a list\nwrite data=rf.Sequences\(x, d\)", DataError, (elman(), x), {}),
        ("validation is a list", DataError, (elman(), echo()), {"validation": x}),
        ("network is a NoneType\ngive an rf.Network", RefoldError, (None, echo()), {}),
        (r"settings is a dict\nwrite rf.Fit\(", RefoldError, (elman(), echo(), {}), {}),
    ]:
        with pytest.raises(error, match=text):
            fit(*args, **call)


def test_refusals_of_settings():
    for text, settings in [
        ("epochs is 0\ngive a positive whole number$", {"epochs": 0}),
        ("batch_size is 1.5", {"batch_size": 1.5}),
        ("patience is 0\ngive a positive whole number, or None$", {"patience": 0}),
        ("rate is -1\ngive a positive number$", {"rate": -1}),
        ("clip is inf\ngive a positive number, or None$", {"clip": torch.inf}),
        ("validation is 1.0\ngive a fraction", {"validation": 1.0}),
        ("validation is '0.2'", {"validation": "0.2"}),
        ("epochs is True", {"epochs": True}),
        ("seed is None\ngive a whole number", {"seed": None}),
        ("seed is 1.5", {"seed": 1.5}),
        ("seed is -1", {"seed": -1}),
        ("loss is None\na function, or one of", {"loss": None}),
        ("no optimiser 'adamm'\none of: adam, adamw", {"optimiser": "adamm"}),
        ("no loss 'mse'", {"loss": "mse"}),
        ("steps is 'max'", {"steps": "max"}),
    ]:
        with pytest.raises(RefoldError, match=text):
            Fit(**settings)
