"""The score of the M4 sets: the competition's formulas, on a case by hand and on its own files."""

import numpy as np
import polars as pl
import pytest

from bench import m4
from refold.forecast.naive2 import naive2


def test_scores_by_hand():
    train = {"a": np.array([1.0, 2.0, 4.0]), "b": np.array([4.0, 4.0, 2.0])}
    test = {"a": np.array([5.0]), "b": np.array([3.0])}
    forecasts = {"a": np.array([3.0]), "b": np.array([3.0])}
    naive = {name: naive2(y, 1, 1) for name, y in train.items()}
    found = m4.score(train, test, forecasts, naive, 1)
    assert found["sMAPE"] == pytest.approx((200 * 2 / 8 + 0) / 2)
    assert found["MASE"] == pytest.approx((2 / 1.5 + 0) / 2)
    of = ((200 / 9 + 200 / 5) / 2, (1 / 1.5 + 1 / 1) / 2)
    assert found["OWA"] == pytest.approx((25 / of[0] + (1 / 1.5) / of[1]) / 2)


def test_a_series_that_never_changed_has_no_scaled_error():
    train = {"a": np.array([1.0, 2.0, 4.0]), "b": np.full(3, 7.0)}
    test = {name: y[-1:] for name, y in train.items()}
    assert m4.errors(train, test, {"a": np.array([4.0]), "b": np.array([9.0])}, 1) == (0.0, 0.0)


def test_held_out_is_the_end_of_the_training_part():
    early, late = m4.held_out({"a": np.arange(5.0)}, 2)
    assert early["a"].tolist() == [0, 1, 2] and late["a"].tolist() == [3, 4]


@pytest.mark.parametrize("case", m4.CASES, ids=lambda case: case.name)
def test_a_set_goes_through_as_a_table(case, tmp_path):
    generator = np.random.default_rng(0)
    lengths = (4 * case.horizon + 350 * (case.every == "h"), 3 * case.horizon)
    series = {f"s{n}": np.exp(generator.normal(size=n)) for n in lengths}
    m4.write_long(series, case.every, tmp_path / "long.csv")
    panel = m4.from_table(m4.read_table(tmp_path / "long.csv"))
    assert panel.frequency.unit == {"h": "hours", "W": "weeks", "Y": "years"}[case.every]
    assert panel.seasons == {"h": (24, 168), "W": (), "Y": ()}[case.every]
    for own, (name, y) in zip(panel.series, series.items(), strict=True):
        assert own.name == name
        np.testing.assert_array_equal(own.values, y)


def test_intervals_by_hand():
    train = {"a": np.array([1.0, 2.0, 4.0])}
    test = {"a": np.array([5.0, 9.0])}
    low, high = {"a": np.array([4.0, 4.0])}, {"a": np.array([7.0, 8.0])}
    found = m4.interval_score(train, test, low, high, 1)
    assert found["inside"] == 50.0
    assert found["MSIS"] == pytest.approx((3 + (4 + 2 / 0.05 * 1)) / 2 / 1.5)


def test_forecasts_are_written_as_the_scorer_reads_them(tmp_path):
    m4.write_forecasts({"H1": np.array([1.5, 2.0])}, tmp_path / "new" / "f.csv")
    frame = pl.read_csv(tmp_path / "new" / "f.csv", has_header=False)
    assert frame.rows() == [("H1", 1.5, 2.0)]
