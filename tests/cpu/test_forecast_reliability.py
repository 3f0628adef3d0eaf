"""The share of values inside, beside the level."""

import numpy as np
import polars as pl
import pytest

from refold import report
from refold.forecast import Settings, backtest_panel, from_frame, reliability

QUICK = Settings(members=1, steps=5, rate=1e-3, origins=20)


@pytest.fixture(scope="module")
def tested():
    parts = []
    for i in range(30):
        y = 50 + np.random.default_rng(i).normal(size=60)
        parts.append(pl.DataFrame({"unique_id": f"s{i}", "ds": np.arange(60), "y": y}))
    return backtest_panel(from_frame(pl.concat(parts)), 3, QUICK, windows=4, levels=(50.0, 80.0))


def test_shares_are_those_of_the_table(tested):
    found = reliability(tested.windows, tested.calibration)
    inside = dict(zip(found.levels, found.inside, strict=True))
    for level in (50, 80):
        expected = 100 * tested.model.metrics[f"{level} % inside"]
        assert inside[level] == pytest.approx(expected)
    assert found.number == 30 * 4 * 3 and (np.diff(found.inside) >= 0).all()
    # Values alike, so they hold: 360 of them, whose standard error is 2.6 % at 50 %.
    assert np.abs(found.inside - found.levels).max() < 8


def test_levels_with_too_few_errors_are_left_out(tested):
    from dataclasses import replace

    few = replace(tested.calibration, scores=tested.calibration.scores[:8, :1])
    assert reliability(tested.windows, few).levels.max() == 85


def test_the_figure_is_the_data(tested):
    found = reliability(tested.windows, tested.calibration)
    lines = report.reliability_figure(found).axes[0].get_lines()
    drawn = {line.get_label(): line for line in lines}
    np.testing.assert_array_equal(drawn["inside of the interval"].get_ydata(), found.inside)
    np.testing.assert_array_equal(drawn["as stated"].get_xdata(), drawn["as stated"].get_ydata())


def test_quantiles_of_distributions_and_values_that_were_not_observed():
    rng, parts = np.random.default_rng(5), []
    for i in range(30):
        y = pl.Series(50 + rng.normal(size=60))
        gone = pl.select(pl.int_range(60) == 58).to_series() if i == 0 else pl.Series([False] * 60)
        y = y.to_frame("y").select(pl.when(~gone).then("y")).to_series()
        parts.append(pl.DataFrame({"unique_id": f"s{i}", "ds": np.arange(60), "y": y}))
    panel, settings = from_frame(pl.concat(parts)), Settings(members=1, steps=40, head="normal")
    tested = backtest_panel(panel, 3, settings, windows=1, levels=(80.0,))
    found = reliability(tested.windows)
    assert found.number == 30 * 3 - 1 and found.levels.max() == 99
    expected = 100 * tested.model.metrics["80 % inside"]
    assert dict(zip(found.levels, found.inside, strict=True))[80] == pytest.approx(expected)
