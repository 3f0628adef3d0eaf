"""The metrics by hand, and baselines on series whose future is known."""

import numpy as np
import pytest

from refold.forecast import baselines, metrics


def test_metrics_by_hand():
    y, f = np.array([2.0, 4.0, 0.0]), np.array([3.0, 1.0, 0.0])
    history = np.array([1.0, 2.0, 4.0, 4.0, 7.0])
    assert metrics.mae(y, f) == pytest.approx(4 / 3)
    assert metrics.rmse(y, f) == pytest.approx(np.sqrt(10 / 3))
    assert metrics.smape(y, f) == pytest.approx((200 / 5 + 600 / 5 + 0) / 3)
    assert metrics.naive_error(history, 1) == pytest.approx((1 + 2 + 0 + 3) / 4)
    assert metrics.naive_error(history, 2) == pytest.approx((3 + 2 + 3) / 3)
    assert metrics.mase(y, f, history, 2) == pytest.approx((4 / 3) / (8 / 3))
    assert set(metrics.measure(y, f, history, 1)) == set(metrics.OF_SERIES)


def test_mase_of_a_history_that_never_changed_is_not_defined():
    assert np.isnan(metrics.mase(np.ones(2), np.zeros(2), np.ones(9), 1))
    assert metrics.naive_error(np.ones(1), 1) == 0.0


def test_naive_forecasts():
    y = np.array([5.0, 1.0, 2.0, 3.0])
    np.testing.assert_array_equal(baselines.naive(y, 3), [3, 3, 3])
    np.testing.assert_array_equal(baselines.seasonal_naive(y, 5, 3), [1, 2, 3, 1, 2])
    np.testing.assert_array_equal(baselines.seasonal_naive(y, 2, 9), [3, 3])


def test_a_damped_wave_is_forecast_exactly():
    # x(t) = 2 r cos(w) x(t-1) - r^2 x(t-2): an autoregression of order 2, seen without noise.
    t = np.arange(120)
    x = (0.99**t * np.cos(0.3 * t)).astype(np.float64)
    model = baselines.autoregression(x[:100], ())
    np.testing.assert_allclose(model.predict(x[:100], 20), x[100:], atol=1e-6)
    centred = np.array([2 * 0.99 * np.cos(0.3), -(0.99**2)])
    if model.order == 2:
        np.testing.assert_allclose(model.weights, centred, atol=1e-6)


def test_the_order_is_found():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=3000)
    x = np.zeros(3000)
    for i in range(3, 3000):
        x[i] = 0.5 * x[i - 1] - 0.6 * x[i - 3] + noise[i]
    model = baselines.autoregression(x, ())
    assert model.order == 3
    np.testing.assert_allclose(model.weights, [0.5, 0.0, -0.6], atol=0.05)


def test_recursion_by_hand():
    scale = baselines.Scale("none", 0.0, 1.0, -100.0, 100.0)
    model = baselines.Autoregression(scale, 1.0, np.array([0.5, 0.25]))
    first = 1 + 0.5 * 4 + 0.25 * 2
    second = 1 + 0.5 * first + 0.25 * 4
    np.testing.assert_allclose(model.predict(np.array([2.0, 4.0]), 2), [first, second])


def test_a_season_is_found_and_exponential_growth_is_a_line_in_logarithms():
    t = np.arange(96)
    y = np.exp(0.02 * t + 0.3 * np.sin(2 * np.pi * t / 12))
    model = baselines.autoregression(y[:84], (12,))
    np.testing.assert_allclose(model.predict(y[:84], 12), y[84:], rtol=0.02)


def test_a_recursion_that_diverges_stays_finite():
    y = np.exp(np.exp(np.linspace(0, 2.5, 40)))
    assert np.isfinite(baselines.autoregression(y, ()).predict(y, 500)).all()


@pytest.mark.parametrize("length", [7, 12, 30])
def test_short_and_constant_series(length):
    for y, seasons in ((np.full(length, 3.0), (12,)), (np.arange(1.0, length + 1), ())):
        assert np.isfinite(baselines.autoregression(y, seasons).predict(y, 5)).all()


@pytest.mark.parametrize("length", [1, 2, 3])
def test_of_hardly_any_points_the_last_one_goes_on(length):
    y = np.array([3.0, 5.0, 4.0])[:length]
    np.testing.assert_allclose(baselines.autoregression(y, (12,)).predict(y, 2), y[[-1, -1]])
