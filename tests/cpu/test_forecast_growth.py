"""Rows that come one by one: what they cost does not hang on how many came before."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest

from refold.forecast import Forecaster, Panel, Series, Settings, from_frame, on_panel, predict_panel
from refold.forecast.forecaster import further
from refold.forecast.growth import longer
from refold.forecast.rows import plain_rows

QUICK = Settings(members=2, steps=4, origins=6)


def frame_of(*lengths: int, freq: str = "D") -> pl.DataFrame:
    parts = []
    for i, n in enumerate(lengths):
        stamps = pd.date_range("2020-01-01", periods=n, freq=freq).to_numpy()
        y = (
            20
            + np.random.default_rng(i).normal(size=n).cumsum()
            + 3 * np.sin(np.arange(n) * 2 * np.pi / 7)
        )
        y = np.abs(y) + 1
        own = {"unique_id": [f"s{i}"] * n, "ds": stamps.astype("datetime64[us]"), "y": y}
        parts.append(pl.DataFrame(own))
    return pl.concat(parts)


# Memory


def test_an_array_grows_in_place_and_older_views_stay():
    first = np.arange(5.0)
    second = longer(first, np.array([5.0, 6.0]))
    third = longer(second, np.array([7.0]))
    assert third.base is second.base and type(third) is np.ndarray
    np.testing.assert_array_equal(third, np.arange(8.0))
    np.testing.assert_array_equal(second, np.arange(7.0))
    np.testing.assert_array_equal(first, np.arange(5.0))


def test_two_that_grow_from_one_do_not_see_each_other():
    start = longer(np.arange(4.0), np.array([4.0]))
    one, two = longer(start, np.array([1.0])), longer(start, np.array([2.0]))
    tail = longer(start[1:], np.array([3.0]))
    np.testing.assert_array_equal(one, [0, 1, 2, 3, 4, 1])
    np.testing.assert_array_equal(two, [0, 1, 2, 3, 4, 2])
    np.testing.assert_array_equal(tail, [1, 2, 3, 4, 3])
    for again in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        np.testing.assert_array_equal(longer(again, np.array([9.0])), [0, 1, 2, 3, 4, 1, 9])
    np.testing.assert_array_equal(one, [0, 1, 2, 3, 4, 1])


def test_a_value_is_seldom_copied():
    held, memories = np.zeros(1, "datetime64[us]"), set()
    for i in range(10_000):
        held = longer(held, np.array([i], "datetime64[us]"))
        assert held.base is not None
        memories.add(held.base.ctypes.data)
    assert len(memories) < 40
    np.testing.assert_array_equal(held[1:].astype(np.int64), np.arange(10_000))


# Rows


def kinds(rows: pl.DataFrame) -> list:
    return [rows, rows.to_pandas(), rows.to_arrow()]


@pytest.mark.parametrize("freq", ["D", "MS", "ME", "W-TUE", "B", "h", "15min"])
def test_plain_rows_are_read_as_from_frame_reads_them(freq):
    whole = frame_of(40, 33, freq=freq)
    known = from_frame(whole.filter(pl.int_range(pl.len()).over("unique_id") < 30))
    rows = whole.filter(pl.int_range(pl.len()).over("unique_id") >= 30)
    one = rows.filter(unique_id="s1")
    stamps = [pl.col("ds").cast(pl.Datetime(unit)) for unit in ("ms", "ns")]
    some = [rows, one[:1], one.drop("unique_id"), *(one.with_columns(s) for s in stamps)]
    some += [one.with_columns(pl.col("y").cast(pl.Int32)), one.with_columns(unique_id=pl.lit(7))]
    if freq != "h" and freq != "15min":
        some.append(one.with_columns(pl.col("ds").cast(pl.Date)))
    for frame in (each for given in some for each in kinds(given)):
        found, expected = plain_rows(frame, known), from_frame(frame, like=known)
        assert found is not None
        for own, other in zip(found.series, expected.series, strict=True):
            assert own.name == other.name and own.stamps.dtype == other.stamps.dtype
            np.testing.assert_array_equal(own.stamps, other.stamps)
            np.testing.assert_array_equal(own.values, other.values)


def test_numbered_rows_are_read_plainly():
    known = from_frame(pl.DataFrame({"ds": range(20), "y": np.arange(20.0)}))
    for rows in kinds(pl.DataFrame({"ds": [20, 21], "y": [1, 2]})):
        found = plain_rows(rows, known)
        assert found is not None and found.series[0].stamps.tolist() == [20, 21]


ODD = [
    {"ds": ["2020-02-10"], "y": [1.0]},
    {"ds": [40], "y": [1.0]},
    {"ds": [pd.Timestamp("2020-02-10")], "y": ["1"]},
    {"ds": [pd.Timestamp("2020-02-10")], "y": [float("nan")]},
    {"ds": [pd.Timestamp("2020-02-10")], "y": [float("inf")]},
    {"ds": [None], "y": [1.0]},
    {"ds": [pd.Timestamp("2020-02-10", tz="UTC")], "y": [1.0]},
    {"ds": [pd.Timestamp("2020-02-10")], "y": [1.0], "unique_id": [None]},
    {"ds": [pd.Timestamp("2020-02-10")], "y": [1.0], "price": [1.0]},
    {"ds": [pd.Timestamp("2020-02-10")]},
    {"ds": pd.to_datetime(["2020-02-11", "2020-02-10"]), "y": [1.0, 2.0]},
    {"ds": pd.to_datetime(["2020-02-10", "2020-02-12"]), "y": [1.0, 2.0]},
    {"ds": pd.to_datetime(["2020-02-10", "2020-02-10"]), "y": [1.0, 2.0]},
    {"ds": [], "y": []},
]


@pytest.mark.parametrize("rows", ODD, ids=str)
def test_rows_that_have_to_be_interpreted_or_refused_are_left_alone(rows):
    known = from_frame(frame_of(30))
    assert plain_rows(pd.DataFrame(rows), known) is None
    assert plain_rows("no frame", known) is None


# Forecasts


@pytest.mark.parametrize("horizon", [3, 10])  # walks and waves
def test_nothing_before_a_bounded_tail_is_read(horizon):
    whole = from_frame(frame_of(900, 60))
    fitted = Forecaster(horizon=horizon, settings=QUICK).fit(frame_of(880, 50)).fitted
    assert fitted is not None
    long, short = whole.series
    unknown = np.where(np.arange(900) < 600, np.nan, long.values)
    blind = replace(whole, series=(Series(long.name, long.stamps, unknown), short))
    found = predict_panel(further(fitted, blind))
    np.testing.assert_array_equal(found, predict_panel(on_panel(fitted, whole)))
    assert np.isfinite(found).all()


def test_what_was_fitted_stays_and_a_copy_of_a_forecaster_goes_its_own_way():
    whole = frame_of(120)
    model = Forecaster(horizon=4, settings=QUICK).fit(whole[:100])
    assert model.fitted is not None
    lines, networks = model.fitted.data.lines, model.fitted.networks
    assert len(lines) == 1
    model.update(whole[100:101])
    other = copy.copy(model)
    model.update(whole[101:110])
    other.update(whole[101:102].with_columns(pl.col("y") * 2))
    assert model.fitted.data.lines[0] is lines[0] and model.fitted.networks is networks
    alone = Forecaster(horizon=4, settings=QUICK).fit(whole[:100]).update(whole[100:110])
    assert model.predict().equals(alone.predict())
    assert not other.predict()["y_hat"].equals(model.predict()["y_hat"])


def test_a_model_that_was_saved_goes_on_as_one_that_was_not(tmp_path):
    whole = frame_of(120, 80)
    rows = pl.int_range(pl.len()).over("unique_id")
    model = Forecaster(horizon=4, settings=QUICK).fit(whole.filter(rows < 70))
    model.update(whole.filter((rows >= 70) & (rows < 75)))
    model.save(tmp_path)
    again = Forecaster.load(tmp_path)
    assert again.predict().equals(model.predict())
    newer = whole.filter((rows >= 75) & (rows < 80))
    assert again.update(newer).predict().equals(model.update(newer).predict())


def test_a_series_that_is_new_gets_an_autoregression_of_its_own():
    model = Forecaster(horizon=4, settings=QUICK).fit(frame_of(100))
    third = frame_of(10, 10, 90).filter(unique_id="s2")
    assert model.update(third).fitted is not None
    assert isinstance(model.fitted and model.fitted.panel, Panel)
    assert model.fitted is not None and len(model.fitted.data.lines) == 2
    assert model.predict()["y_hat"].is_finite().all()
