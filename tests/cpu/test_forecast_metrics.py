"""Every metric against numbers worked out by hand, and Naive2 against the M4 competition's own."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from refold.data.examples import example
from refold.forecast import metrics
from refold.forecast.naive2 import is_seasonal, naive2, seasonal_indices

Y = np.array([2.0, 4.0, 0.0])
F = np.array([1.0, 4.0, 0.0])
HISTORY = np.array([1.0, 3.0, 2.0, 6.0])  # steps 2, -1, 4; with season 2: 1, 3


def test_points():
    found = metrics.measure(Y, F, HISTORY, 1)
    assert found["MAE"] == pytest.approx(1 / 3)
    assert found["RMSE"] == pytest.approx(np.sqrt(1 / 3))
    assert found["sMAPE"] == pytest.approx((200 / 3) / 3)  # the zero that is met counts as 0
    assert found["MASE"] == pytest.approx((1 / 3) / (7 / 3))
    assert found["RMSSE"] == pytest.approx(np.sqrt((1 / 3) / (21 / 3)))
    assert tuple(found) == metrics.OF_SERIES


def test_a_season_changes_the_scale():
    assert metrics.mase(Y, F, HISTORY, 2) == pytest.approx((1 / 3) / 2)
    assert metrics.rmsse(Y, F, HISTORY, 2) == pytest.approx(np.sqrt((1 / 3) / 5))
    # A history no longer than the season is measured with season 1.
    assert metrics.mase(Y, F, HISTORY, 4) == metrics.mase(Y, F, HISTORY, 1)


def test_a_history_that_never_changed_has_no_scale():
    flat = np.full(5, 3.0)
    assert np.isnan([metrics.mase(Y, F, flat, 1), metrics.rmsse(Y, F, flat, 1)]).all()
    assert np.isnan(metrics.msis(Y, F, F, 95, flat, 1))


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_numbers_of_any_size(size):
    found = metrics.measure(Y * size, F * size, HISTORY * size, 1)
    assert found["RMSSE"] == pytest.approx(np.sqrt((1 / 3) / 7))
    assert found["RMSE"] == pytest.approx(np.sqrt(1 / 3) * size)


def test_owa_is_of_means():
    assert metrics.owa(9.0, 0.5, (18.0, 2.0)) == pytest.approx(0.5 * (0.5 + 0.25))
    # M4's table: the winner on Hourly, from sMAPE and MASE of three digits.
    assert metrics.owa(9.328, 0.893, (18.383, 2.395)) == pytest.approx(0.440, abs=5e-4)
    assert np.isnan(metrics.owa(1.0, 1.0, (0.0, 2.0)))


def test_pinball():
    # 0.9 * 1 where y is above; 0.1 * 2 where it is below.
    y, f = np.array([3.0, 1.0]), np.array([2.0, 3.0])
    assert metrics.pinball(y, f, 0.9) == pytest.approx((0.9 + 0.2) / 2)
    assert metrics.pinball(y, f, 0.5) == pytest.approx(metrics.mae(y, f) / 2)


def test_crps_of_quantiles():
    y = np.array([3.0])
    # One quantile, the median, stands for all levels: twice half the absolute error.
    assert metrics.crps_of_quantiles(y, np.array([[1.0]]), [0.5]) == pytest.approx(2.0)
    # Levels 1/4 and 3/4 stand for a half each: 2 (1/2 * 0.25 * 2 + 1/2 * 0.25 * 1).
    two = np.array([[1.0], [4.0]])
    assert metrics.crps_of_quantiles(y, two, [0.25, 0.75]) == pytest.approx(0.75)
    # 0.2 stands for (0, 0.5), 0.8 for the rest; uneven levels weigh what they stand for.
    uneven = metrics.crps_of_quantiles(y, two, [0.1, 0.5])
    assert uneven == pytest.approx(2 * (0.3 * 0.1 * 2 + 0.7 * 0.5 * 1))


def test_crps_of_samples():
    y = np.array([1.0])
    # mean |X - y| = 1; mean |X - X'| over all four pairs = 1.
    assert metrics.crps_of_samples(y, np.array([[0.0], [2.0]])) == pytest.approx(0.5)
    assert metrics.crps_of_samples(y, np.array([[4.0]])) == pytest.approx(3.0)


def test_crps_of_a_normal_from_samples_and_from_quantiles():
    # Gneiting & Raftery 2007: for N(0, 1) and y = 0 it is (sqrt 2 - 1) / sqrt pi.
    exact = (np.sqrt(2) - 1) / np.sqrt(np.pi)
    samples = np.random.default_rng(0).normal(size=(20_000, 1))
    assert metrics.crps_of_samples(np.zeros(1), samples) == pytest.approx(exact, rel=0.02)
    levels = (np.arange(200) + 0.5) / 200
    quantiles = np.quantile(samples[:, 0], levels)[:, None]
    found = metrics.crps_of_quantiles(np.zeros(1), quantiles, levels.tolist())
    assert found == pytest.approx(exact, rel=0.02)


def test_the_pairs_of_samples_one_by_one():
    generator = np.random.default_rng(1)
    samples, y = generator.normal(size=(7, 3)), generator.normal(size=3)
    apart = np.abs(samples[:, None] - samples[None]).mean(axis=(0, 1))
    expected = (np.abs(samples - y).mean(axis=0) - apart / 2).mean()
    assert metrics.crps_of_samples(y, samples) == pytest.approx(expected)


def test_intervals():
    low, high = np.array([1.0, 1.0, 1.0]), np.array([3.0, 3.0, 3.0])
    y = np.array([1.0, 5.0, 0.5])  # on a bound; 2 above; a half below
    assert metrics.coverage(y, low, high) == pytest.approx(1 / 3)
    # Width 2, and 40 times 2 and 40 times a half outside, over three steps.
    assert metrics.interval_score(y, low, high, 95) == pytest.approx(2 + 40 * 2.5 / 3)
    expected = (2 + 40 * 2.5 / 3) / (7 / 3)
    assert metrics.msis(y, low, high, 95, HISTORY, 1) == pytest.approx(expected)


def test_every_metric_is_defined_in_words():
    assert set(metrics.NAMES) <= set(metrics.DEFINITIONS)
    assert {"pinball", "CRPS", "inside", "MSIS"} <= set(metrics.DEFINITIONS)


# Naive2


def test_naive2_without_a_season_is_the_last_value():
    values = np.array([5.0, 1.0, 4.0, 2.0])
    np.testing.assert_array_equal(naive2(values, 3, 1), [2.0, 2.0, 2.0])
    np.testing.assert_array_equal(naive2(values, 3, 4), [2.0, 2.0, 2.0])  # not three seasons
    np.testing.assert_array_equal(naive2(np.full(48, 7.0), 2, 12), [7.0, 7.0])
    mixed = np.tile([1.0, -1.0, 0.0], 20)
    assert not is_seasonal(mixed, 3) and is_seasonal(mixed + 5, 3)


def test_naive2_multiplies_its_indices_back():
    factors = np.array([0.5, 1.0, 2.0, 0.5])
    values = np.tile(10 * factors, 6)
    np.testing.assert_allclose(seasonal_indices(values, 4), factors / factors.mean())
    np.testing.assert_allclose(naive2(values[:-1], 5, 4), [5.0, 5.0, 10.0, 20.0, 5.0])


def official(values: list[float], horizon: int, m: int) -> list[float]:
    """The competition's R code, line by line, in plain Python."""
    n, mean = len(values), sum(values) / len(values)
    gamma = [
        sum((values[t] - mean) * (values[t + k] - mean) for t in range(n - k)) for k in range(m + 1)
    ]
    acf = [g / gamma[0] for g in gamma]
    limit = 1.645 / n**0.5 * (1 + 2 * sum(r * r for r in acf[1:m])) ** 0.5
    if n < 3 * m or abs(acf[m]) <= limit:
        return [values[-1]] * horizon
    half, ratios = m // 2, [[] for _ in range(m)]
    for t in range(half, n - half):
        inner = values[t - half + 1 : t + half]
        trend = (0.5 * values[t - half] + sum(inner) + 0.5 * values[t + half]) / m
        ratios[t % m].append(values[t] / trend)
    figure = [sum(r) / len(r) for r in ratios]
    figure = [f * m / sum(figure) for f in figure]
    return [values[-1] / figure[(n - 1) % m] * figure[(n + k) % m] for k in range(horizon)]


@pytest.mark.parametrize(
    ("name", "cut"), [("airpassengers", 0), ("airpassengers", 17), ("sunspots", 0)]
)
def test_naive2_is_the_official_formula(name, cut):
    rows = example(name).path.read_text().splitlines()[1:]
    values = [float(row.split(",")[-1]) + (1.0 if name == "sunspots" else 0.0) for row in rows]
    values = values[: len(values) - cut]
    expected = official(values, 18, 12)
    assert len(set(expected)) > 1
    np.testing.assert_allclose(naive2(np.array(values), 18, 12), expected, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("frequency", "season", "horizon"), [("Hourly", 24, 48), ("Weekly", 1, 13), ("Yearly", 1, 6)]
)
def test_naive2_is_the_one_of_m4(frequency, season, horizon):
    """REFOLD_DATA names a folder with the competition's files in m4/."""
    folder = Path(os.environ.get("REFOLD_DATA", "data")) / "m4"
    if not folder.is_dir():
        pytest.skip("no M4 data: set REFOLD_DATA")
    with (folder / "naive2-HWY.csv").open() as file:
        theirs = {row[0]: [float(v) for v in row[1:] if v] for row in csv.reader(file)}
    with (folder / f"{frequency}-train.csv").open() as file:
        for name, *cells in list(csv.reader(file))[1:]:
            values = np.array([float(v) for v in cells if v not in ("", "NA")])
            found = naive2(values, horizon, season)
            np.testing.assert_allclose(found, theirs[name], rtol=6e-6)  # written with five digits
