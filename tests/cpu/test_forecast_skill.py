"""The start of the gate: errors of continuations by hand, weights from them, and what it is for."""

import numpy as np
import pytest
import torch
from forecast_cases import QUICK, table
from torch.testing import assert_close

from bench import pendulum
from refold.data import window
from refold.forecast import Settings, evaluate, from_frame
from refold.forecast.course import course
from refold.forecast.model import OriginNetwork
from refold.forecast.sequences import past_of, scaled, with_lines
from refold.forecast.skill import begin_by_skill, errors_of_bases


def built(values, horizon=3, seasons=()):
    """A past, its course, and a network for them."""
    panel = from_frame(table(values), seasons=seasons)
    way = course(panel.seasons, horizon, [len(s) for s in panel.series], QUICK)
    past = past_of(panel, with_lines(panel, scaled(panel, horizon)), way)
    return past, way, OriginNetwork(past.features, past.bases, horizon, way, QUICK)


def test_errors_of_continuations_by_hand():
    past, way, _ = built(np.random.default_rng(0).normal(size=(1, 40)).cumsum(axis=1))
    found = errors_of_bases(past, way)
    last = past.columns - 1
    origins = [c for c in range(last - 1, 0, -way.stride) if c >= past.first[0] + 5]
    for k in range(3):
        away = []
        for c in (c for c in origins if c + k + 1 <= last):
            at = torch.tensor([[c]])
            unit = window.expected(past, torch.tensor([0]), at)[0, 0, k]
            away.append(float((past.z[0, c] - past.z[0, c + k + 1]).abs() / unit))
        assert float(found[0, k]) == pytest.approx(np.mean(away), rel=1e-4)  # the last value


def test_weights_begin_in_inverse_proportion_to_squared_errors():
    past, way, network = built(np.random.default_rng(0).normal(size=(2, 60)).cumsum(axis=1))
    assert network.gate is not None and not network.gate.bias.any()
    begin_by_skill(network, past, way)
    weights = network.gate.bias.unflatten(0, (past.bases, 3)).softmax(dim=0)
    inverse = errors_of_bases(past, way) ** -2
    assert_close(weights, inverse / inverse.sum(dim=0))


def test_a_continuation_that_was_exact_has_a_finite_weight():
    past, way, network = built(np.full((1, 30), 5.0))
    begin_by_skill(network, past, way)
    assert network.gate is not None and torch.isfinite(network.gate.bias).all()


def test_a_linear_series_is_forecast_as_one():
    t = np.arange(400)
    y = np.cos(2 * np.pi * t / 90) * np.exp(-t / 800)
    panel = from_frame(table(y), seasons=())
    found = evaluate(panel, 8, Settings(members=1, hidden=16, steps=120))
    assert found.model.metrics["MAE"] < 0.01 * found.naive.metrics["MAE"]
    assert found.linear.metrics["MAE"] < 1e-9


def test_the_published_naive_errors_of_the_pendulum():
    y = pendulum.pendulum().numpy()
    for horizon, error, number in ((1, 0.0926662, 1090), (3, 0.1094852, 1088)):
        histories, came = pendulum.windows(y[2800:], 10 + horizon)
        assert histories.shape == (number, 100) and len(came) == number
        assert np.abs(histories[:, -1] - came).mean() == pytest.approx(error, abs=5e-8)
