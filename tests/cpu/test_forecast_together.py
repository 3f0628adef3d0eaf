"""Trainings side by side: the same bits as one after the other, one error or signal for all."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from refold.forecast import Panel, Series, Settings, fit_panel, predict_panel
from refold.forecast.calendar import Frequency
from refold.forecast.chance import Chance
from refold.forecast.together import together


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def panel() -> Panel:
    chance = np.random.default_rng(0)
    values = [np.exp(chance.normal(scale=0.1, size=n).cumsum()) for n in (70, 60, 50)]
    series = tuple(Series(f"s{i}", np.arange(len(y)), y) for i, y in enumerate(values))
    return Panel(series, Frequency("number", 1, "1"), (4,))


def test_networks_side_by_side_are_those_one_after_the_other(two_threads):
    settings, told = Settings(members=3, steps=12, origins=6), []
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    both = fit_panel(panel(), 5, settings, lambda done, total: told.append((done, total)))
    assert torch.equal(torch.rand(3), drawn)  # the caller's random state is as it was
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    alone = fit_panel(panel(), 5, settings)
    for own, other in zip(both.networks, alone.networks, strict=True):
        for one, two in zip(own.parameters(), other.parameters(), strict=True):
            assert torch.equal(one, two)
    np.testing.assert_array_equal(predict_panel(both), predict_panel(alone))


def test_tasks_run_at_once_and_return_in_order():
    meeting = threading.Barrier(3, timeout=60)

    def task(number: int):
        def run(check):
            meeting.wait()
            time.sleep(0.05 * (3 - number))
            return number, torch.get_num_threads()

        return run

    assert together([task(i) for i in range(3)], 2, lambda done: None) == [(0, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_error_stops_the_others(threads):
    ended = []

    def bad(check):
        raise ValueError("not finite")

    def endless(check):
        try:
            while True:
                check()
                time.sleep(0.01)
        finally:
            ended.append(True)

    with pytest.raises(ValueError, match="not finite"):
        together([bad, endless], threads, lambda done: None)
    assert ended == [True] * (threads - 1)


SIGNALLED = """
import time
from refold.forecast.together import together

def endless(check):
    print("begun\\n", end="", flush=True)  # in one piece: two threads write
    while True:
        check()
        time.sleep(0.01)

try:
    together([endless, endless], 2, print)
except KeyboardInterrupt:
    print("interrupted")
finally:
    print("left")
"""


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [(signal.SIGINT, 0, "interrupted\nleft\n"), (signal.SIGTERM, 143, "left\n")],
)
def test_a_signal_stops_all(number, code, text):
    running = subprocess.Popen(
        [sys.executable, "-c", SIGNALLED], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert running.stdout is not None
    assert [running.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
    running.send_signal(number)
    rest, _ = running.communicate(timeout=120)
    assert (rest, running.returncode) == (text, code)


def test_what_is_drawn_is_what_torch_draws():
    x, chance = torch.randn(7, 5), Chance(0.3, 0.2)
    torch.manual_seed(11)
    noisy = x + 0.2 * torch.randn_like(x)
    dropped = nn.functional.dropout(x, 0.3, training=True)
    with chance.seeded(11):
        torch.manual_seed(99)  # of no account here
        assert torch.equal(chance.noisy(x), noisy)
        assert torch.equal(chance.dropped(x), dropped)
    chance.eval()
    assert chance.noisy(x) is x and chance.dropped(x) is x
    assert not Chance(1.0, 0.0).dropped(x).any()
