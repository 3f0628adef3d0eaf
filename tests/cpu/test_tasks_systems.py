"""The three dynamical systems, and the forecasting tasks over them."""

import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from refold.data import tasks
from refold.data.batch import Sequences
from refold.errors import DataError

SYSTEMS = ("mackey-glass", "lorenz", "pendulum")


# The systems.


def test_mackey_glass_is_of_fourth_order():
    exact = tasks.mackey_glass(40, 0.9, substeps=64)[-1]
    errors = [float((tasks.mackey_glass(40, 0.9, substeps=s)[-1] - exact).abs()) for s in (2, 4, 8)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(4, abs=0.1)


def test_mackey_glass_before_the_delay_is_a_linear_equation():
    """Until t = tau the delayed value is the start: x' = made - gamma x, solved in closed form."""
    x = tasks.mackey_glass(18, 0.7, tau=17)
    made = 0.2 * 0.7 / (1 + 0.7**10)
    t = torch.arange(18, dtype=torch.float64)
    exact = made / 0.1 + (0.7 - made / 0.1) * torch.exp(-0.1 * t)
    assert_close(x, exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("tau", "low", "high"), [(17, 0.35, 1.40), (30, 0.15, 1.45)])
def test_mackey_glass_stays_on_its_attractor(tau, low, high):
    x = tasks.mackey_glass(1500, tau=tau, substeps=4)[300:]
    assert low < float(x.min()) < 0.6 and 1.2 < float(x.max()) < high
    fixed = tasks.mackey_glass(100, 1.0, tau=tau)  # beta / (1 + 1) = gamma: 1 is a fixed point
    assert_close(fixed, torch.ones(100, dtype=torch.float64), rtol=0, atol=1e-14)


def test_mackey_glass_of_many_starts_is_each_alone():
    starts = torch.tensor([0.5, 1.1], dtype=torch.float64)
    both = tasks.mackey_glass(30, starts, tau=0.1)  # a delay of one sub-step
    for row in range(2):
        assert torch.equal(both[:, row], tasks.mackey_glass(30, float(starts[row]), tau=0.1))


def test_the_fixed_points_of_lorenz_are_fixed():
    c = math.sqrt(8 / 3 * 27)
    fixed = torch.tensor([[0, 0, 0], [c, c, 27], [-c, -c, 27]], dtype=torch.float64)
    assert_close(tasks.lorenz(20, fixed), fixed.expand(20, 3, 3), rtol=0, atol=1e-10)


def test_lorenz_is_of_fourth_order_and_symmetric():
    exact = tasks.lorenz(30, substeps=64)[-1]
    errors = [float((tasks.lorenz(30, substeps=s)[-1] - exact).norm()) for s in (2, 4, 8)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(4, abs=0.25)
    turned = tasks.lorenz(50, (-1.0, -2.0, 3.0))
    assert torch.equal(tasks.lorenz(50, (1.0, 2.0, 3.0)), turned * torch.tensor([-1, -1, 1]))


def test_lorenz_is_brought_to_the_size_of_one():
    x = torch.cat(list(tasks.task("lorenz").sequences(40, 300, seed=0).x))
    assert_close(x.mean(0), torch.zeros(3), rtol=0, atol=0.15)
    assert_close(x.std(0), torch.ones(3), rtol=0, atol=0.15)


def test_the_pendulum_is_an_autoregression_of_two_lags():
    y = tasks.pendulum()
    assert y.shape == (4000,) and float(y[0]) == 1
    lagged = torch.stack([y[1:-1], y[:-2]], 1)
    fitted = torch.linalg.lstsq(lagged, y[2:]).solution
    exact = torch.tensor([1.9996529765182964, -0.9998997016961758], dtype=torch.float64)
    assert_close(fitted, exact, rtol=0, atol=1e-9)
    assert_close(lagged @ exact, y[2:], rtol=0, atol=1e-12)


def test_repeating_the_pendulum_has_the_published_error():
    """The last 1,200 samples, after 100 steps of history, with a gap of 10."""
    held = tasks.pendulum()[2800:]
    naive = (held[99 + 11 :] - held[99:-11]).abs()
    assert len(naive) == 1090
    assert float(naive.mean()) == pytest.approx(0.0926662, abs=5e-8)
    assert float((naive**2).mean()) == pytest.approx(0.0105532, abs=5e-8)


def test_the_pendulum_is_trained_on_its_first_swings_and_tested_on_its_last():
    task, whole_swing = tasks.task("pendulum"), tasks.pendulum().to(torch.float32)

    def starts(data: Sequences) -> list[int]:
        return [int((whole_swing == part[0, 0]).nonzero()[0]) for part in data.x]

    early, late = task.sequences(200, 300, seed=0), task.held_out(200, 300, seed=0)
    assert max(starts(early)) + 300 + 11 <= 2800
    assert min(starts(late)) >= 2800
    assert task.longest == 1200 - 11
    assert len(task.held_out(1, task.longest, seed=0)) == 1


# The tasks.


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_series_is_asked_for_its_future(name):
    data = tasks.task(name, gap=2, horizon=3).sequences(4, 30, seed=0)
    assert data.d is not None
    for x, d in zip(data.x, data.d, strict=True):
        size = x.shape[1]
        assert d.shape == (30, 3 * size)
        for step in (1, 2, 3):
            ahead = 2 + step
            assert torch.equal(d[: 30 - ahead, (step - 1) * size : step * size], x[ahead:])
    assert len({part.numpy().tobytes() for part in data.x}) == 4


def test_a_series_has_no_formula():
    assert tasks.task("lorenz").baseline(10) is None


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_series_is_judged_beside_its_last_value(name):
    task = tasks.task(name)
    data = task.held_out(3, (40, 50), seed=0, ragged=True)
    batch = data.batch(range(3))
    assert batch.d is not None
    naive = tasks.last_value(batch, task.outputs)
    assert torch.equal(naive, batch.x)
    assert task.success(naive, batch).tolist() == [False] * 3
    assert task.success(batch.d + 0.09 * (naive - batch.d), batch).all()
    assert not task.success(batch.d + 0.11 * (naive - batch.d), batch).any()


def test_a_window_longer_than_the_pendulum_swings():
    with pytest.raises(DataError, match="from 1 to 1189"):
        tasks.task("pendulum").sequences(1, 1190, seed=0)
