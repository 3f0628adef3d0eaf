"""A run that is cut off anywhere goes on to the same bits; each way to be cut off says what it is."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import refold as rf
from refold.data.batch import Sequences
from refold.errors import CheckpointError, DataError, RefoldError
from refold.nn.layer import Recurrent
from refold.nn.omega import Omega
from refold.nn.wiring import Network
from refold.train.checkpoints.folder import checkpoints
from refold.train.clip import Clip
from refold.train.fit import Run, fit
from refold.train.realtime import RealTime
from refold.train.saving import Checkpoint
from refold.train.settings import Fit
from refold.train.walk import Truncated

ROOT = Path(__file__).parents[2]


class Cut(Exception):
    """The process is gone, as far as the run is concerned."""


def data(seed: int = 0) -> Sequences:
    generator = torch.Generator().manual_seed(seed)
    x = [torch.randn(n, 1, generator=generator) for n in (9, 12, 7, 12, 10, 8)]
    return Sequences(x, [part.cumsum(0) / 3 for part in x])


def network(dropout: float = 0.0, cell: str = "lstm") -> Network:
    torch.manual_seed(3)
    layers = 2 if dropout else 1
    return Network(Recurrent(cell, 1, 4, num_layers=layers, dropout=dropout), head=1)


def weights(net: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in net.parameters()]


def same(one: Run, other: Run) -> None:
    for name in ("train", "validation", "steps", "best_epoch", "stopped"):
        assert getattr(one, name) == getattr(other, name)


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"dropout": 0.3},
    "truncated": {"gradient": Truncated(3, 5), "clip": Clip(running=2.0)},
    "forward": {"gradient": RealTime(4), "optimiser": "sgd"},
    "omega": {"gradient": Truncated(4, 6), "omega": Omega(2.0, "squared")},
    "plateau": {"schedule": "plateau", "optimiser": "rmsprop", "patience": 3},
    "cosine": {"schedule": "cosine", "optimiser": "adamw"},
    "average": {"average": 0.9, "warm_up": 5},
}


@pytest.mark.parametrize("at", [1, 4, 11])
@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_cut_off_ends_with_the_same_bits(way, at, tmp_path):
    given = dict(WAYS[way])
    dropout = given.pop("dropout", 0.0)

    def make() -> Network:
        return network(dropout, "elman" if way == "forward" else "lstm")

    settings = Fit(epochs=4, rate=1e-2, batch_size=2, log=tmp_path / "log.jsonl", **given)
    plain = make()
    whole = fit(plain, data(), settings)
    lines = (tmp_path / "log.jsonl").read_text()

    folder = Checkpoint(tmp_path / "run", steps=3)
    cut_off = make()
    cut_after(cut_off, at)
    with pytest.raises(Cut):
        fit(cut_off, data(), settings, checkpoint=folder)
    saved = next(iter(checkpoints(tmp_path / "run")), 0)
    again = make()
    run = fit(again, data(), settings, checkpoint=folder, resume=True)
    assert run.resumed == saved
    same(run, whole)
    assert_close(weights(again), weights(plain), rtol=0, atol=0)
    assert timeless((tmp_path / "log.jsonl").read_text()) == timeless(lines)


def timeless(lines: str) -> list[dict[str, Any]]:
    """The lines of a log without the seconds."""
    return [json.loads(line) | {"seconds": 0} for line in lines.splitlines()]


def cut_after(net: Network, calls: int) -> None:
    """Have the n-th call of its layer in training go wrong."""
    seen = []

    def count(module, args):
        seen.append(module.training)
        if sum(seen) == calls + 1:
            raise Cut

    net.layer.register_forward_pre_hook(count)


def test_a_finished_run_is_not_trained_again_and_can_be_made_longer(tmp_path):
    first, second, third, plain = (network() for _ in range(4))
    run = fit(first, data(), Fit(epochs=3), checkpoint=tmp_path / "run")
    again = fit(second, data(), Fit(epochs=3), checkpoint=tmp_path / "run", resume=True)
    same(again, run)
    assert again.resumed == run.steps and again.seconds == pytest.approx(run.seconds, rel=0.5)
    assert_close(weights(second), weights(first), rtol=0, atol=0)
    longer = fit(third, data(), Fit(epochs=5), checkpoint=tmp_path / "run", resume=True)
    same(longer, fit(plain, data(), Fit(epochs=5)))
    assert_close(weights(third), weights(plain), rtol=0, atol=0)


def test_saving_changes_nothing(tmp_path):
    one, other = network(0.3), network(0.3)
    same(
        fit(one, data(), Fit(epochs=3)),
        fit(other, data(), Fit(epochs=3), checkpoint=Checkpoint(tmp_path / "run", steps=1)),
    )
    assert_close(weights(one), weights(other), rtol=0, atol=0)


def test_data_that_are_drawn_for_each_epoch(tmp_path):
    plain, cut_off, again = network(), network(), network()
    settings = Fit(epochs=4, batch_size=2, validation=0)
    whole = fit(plain, data, settings)
    cut_after(cut_off, 8)
    folder = Checkpoint(tmp_path / "run", steps=2)
    with pytest.raises(Cut):
        fit(cut_off, data, settings, checkpoint=folder)
    same(fit(again, data, settings, checkpoint=folder, resume=True), whole)
    assert_close(weights(again), weights(plain), rtol=0, atol=0)
    with pytest.raises(DataError, match="no part of them can be held out\ngive validation="):
        fit(network(), data, Fit())
    with pytest.raises(DataError, match="data is a list"):
        fit(network(), lambda epoch: [], Fit(validation=0))  # type: ignore[arg-type, return-value]


# Signals


def interrupted(number: int, tmp_path, at: int = 5, **options) -> Network:
    net = network()
    seen = []

    def send(module, args):
        seen.append(module.training)
        if sum(seen) == at:
            os.kill(os.getpid(), number)

    net.layer.register_forward_pre_hook(send)
    fit(net, data(), Fit(epochs=4, batch_size=2), **options)
    return net


@pytest.mark.parametrize(
    "number, error", [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_finishes_the_step_saves_and_leaves(number, error, tmp_path):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    with pytest.raises(error) as raised:
        interrupted(number, tmp_path, checkpoint=tmp_path / "run")
    if error is SystemExit:
        assert raised.value.code == 143
    assert list(checkpoints(tmp_path / "run")) == [5]  # the step that was under way is in it
    assert {n: signal.getsignal(n) for n in before} == before
    plain, again = network(), network()
    whole = fit(plain, data(), Fit(epochs=4, batch_size=2))
    run = fit(again, data(), Fit(epochs=4, batch_size=2), checkpoint=tmp_path / "run", resume=True)
    same(run, whole)
    assert_close(weights(again), weights(plain), rtol=0, atol=0)


def test_a_second_interrupt_does_not_wait(tmp_path):
    net = network()

    def send(module, args):
        os.kill(os.getpid(), signal.SIGINT)

    net.layer.register_forward_pre_hook(send)
    net.layer.register_forward_pre_hook(send)
    with pytest.raises(KeyboardInterrupt):
        fit(net, data(), Fit(epochs=4), checkpoint=tmp_path / "run")
    assert not checkpoints(tmp_path / "run")


def test_without_a_folder_a_signal_leaves_the_best_weights(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted(signal.SIGINT, tmp_path)


def test_in_a_thread_signals_are_left_alone():
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(fit(network(), data(), Fit(epochs=2))))
    thread.start()
    thread.join()
    assert found[0].epochs == 2


# What is refused, and what is lost


def test_refusals_of_a_resume(tmp_path):
    folder = tmp_path / "run"
    fit(network(), data(), Fit(epochs=2), checkpoint=folder)
    again: dict[str, Any] = {"checkpoint": folder, "resume": True}
    for text, call in [
        ("there is a run of 2 steps here\ngo on with resume=True", {"checkpoint": folder}),
        ("rate was 0.001, now it is 0.01", {"settings": Fit(epochs=2, rate=0.01), **again}),
        ("sequences was 6, now it is 5; steps was 47, now it is 40", {"data": data()[1:], **again}),
        ("layer.l0.i.W_x is float32 of shape", {"network": other_size(), **again}),
        ("does not have layer.l0.W_h, Network has it", {"network": network(cell="elman"), **again}),
    ]:  # fmt: skip
        given = {"network": network(), "data": data(), "settings": Fit(epochs=2)} | call
        with pytest.raises(CheckpointError, match=text):
            fit(given.pop("network"), given.pop("data"), given.pop("settings"), **given)
    with pytest.raises(RefoldError, match="resume is True, and no checkpoint is named"):
        fit(network(), data(), Fit(epochs=2), resume=True)
    for name, value in (("seconds", 0), ("steps", -1)):
        with pytest.raises(CheckpointError, match=f"{name} is {value}\ngive a number above 0"):
            Checkpoint("run", **{name: value})


def other_size() -> Network:
    return Network(Recurrent("lstm", 1, 5), head=1)


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    plain, again = network(), network()
    settings = Fit(epochs=4, batch_size=2)
    whole = fit(plain, data(), settings, checkpoint=Checkpoint(tmp_path / "run", steps=2))
    newest, older = checkpoints(tmp_path / "run").items()
    newest[1].write_bytes(newest[1].read_bytes()[:-1])
    run = fit(again, data(), settings, checkpoint=tmp_path / "run", resume=True)
    assert run.resumed == older[0] < newest[0]
    same(run, whole)
    assert_close(weights(again), weights(plain), rtol=0, atol=0)


def test_a_disk_that_is_full_loses_nothing(tmp_path, monkeypatch):
    folder = Checkpoint(tmp_path / "run", steps=2)
    settings, replace = Fit(epochs=4, batch_size=2), os.replace
    written: list[Any] = []

    def fills_up(*paths):
        written.append(paths)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        replace(*paths)

    monkeypatch.setattr(os, "replace", fills_up)
    with pytest.raises(CheckpointError, match="the disk is full: the checkpoint needs"):
        fit(network(), data(), settings, checkpoint=folder)
    assert list(checkpoints(tmp_path / "run")) == [4, 2]
    again, plain = network(), network()
    same(fit(again, data(), settings, checkpoint=folder, resume=True), fit(plain, data(), settings))
    assert_close(weights(again), weights(plain), rtol=0, atol=0)


def test_a_number_that_is_not_finite_names_the_sequence_and_the_step():
    x = [torch.zeros(5, 1) for _ in range(4)]
    d = [torch.zeros(5, 1) for _ in x]
    d[2][3] = 1e30
    with pytest.raises(RefoldError, match="the error of sequence 2 is not finite from its step 3"):
        fit(network(), Sequences(x, d), Fit(validation=0))


def test_what_was_saved_before_it_stays(tmp_path):
    net = network()
    cut_after(net, 8)

    def spoil(module, args, output):
        if sum(1 for _ in checkpoints(tmp_path / "run")) == 2:
            return output[0] * torch.nan, output[1]
        return None

    net.layer.register_forward_hook(spoil)
    with pytest.raises(RefoldError, match="the loss is nan"):
        fit(
            net,
            data(),
            Fit(epochs=4, batch_size=2),
            checkpoint=Checkpoint(tmp_path / "run", steps=1),
        )
    again, plain = network(), network()
    settings = Fit(epochs=4, batch_size=2)
    same(
        fit(again, data(), settings, checkpoint=tmp_path / "run", resume=True),
        fit(plain, data(), settings),
    )


# Killed


def test_killed_at_random_it_ends_with_the_same_bits():
    """The full count is in bench/results/survival.json; here a few, of one process and of two."""
    words = ["--kills", "2", "--pairs", "1", "--mutations", "20"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.survival", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 damaged checkpoints: 20 clear errors" in done.stdout


def test_the_names_are_there():
    assert rf.Checkpoint is Checkpoint and rf.Clip is Clip and rf.Truncated is Truncated
