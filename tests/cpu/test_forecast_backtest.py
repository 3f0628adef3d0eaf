"""Rolling origins: what is known at each, what the table says of all, and what is refused."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from refold.errors import DataError
from refold.forecast import (
    Forecaster,
    Settings,
    backtest_csv,
    backtest_frame,
    backtest_panel,
    fit_panel,
    from_frame,
    metrics,
    predict_panel,
    verdict,
)

QUICK = Settings(members=1, steps=5, rate=1e-3, origins=20)


def table(lengths=(60, 45), start="2020-01-01") -> pl.DataFrame:
    parts = []
    for i, n in enumerate(lengths):
        stamps = pd.date_range(start, periods=n, freq="MS").to_numpy().astype("datetime64[us]")
        y = 50 + 10 * np.sin(np.arange(n)) + np.random.default_rng(i).normal(size=n)
        parts.append(pl.DataFrame({"unique_id": [f"s{i}"] * n, "ds": stamps, "y": y}))
    return pl.concat(parts)


def test_windows_and_cutoffs():
    panel = from_frame(table())
    found = backtest_panel(panel, 3, QUICK, windows=2, step=4)
    frame = backtest_frame(found)
    assert frame.columns == ["unique_id", "ds", "cutoff", "y", "y_hat"]
    assert frame["unique_id"].to_list() == ["s0"] * 6 + ["s1"] * 6
    days = [str(day)[:10] for day in frame["cutoff"].unique(maintain_order=True)]
    assert days == ["2024-05-01", "2024-09-01", "2023-02-01", "2023-06-01"]
    assert [str(day)[:10] for day in frame["ds"][:3]] == ["2024-06-01", "2024-07-01", "2024-08-01"]
    late = panel.series[0].values
    np.testing.assert_array_equal(frame["y"][:6], np.concatenate([late[53:56], late[57:60]]))


def test_one_training_serves_all_origins():
    panel = from_frame(table())
    told = []
    found = backtest_panel(
        panel, 3, QUICK, windows=3, step=2, progress=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 1)]
    assert len({id(w.fitted.networks[0]) for w in found.windows}) == 1
    known = panel.split(7)[0]
    first = predict_panel(fit_panel(known, 3, QUICK))
    for mine, theirs in zip(first, found.windows[0].model.forecasts, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert "trained once" in found.how


def test_refit_trains_at_every_origin():
    panel = from_frame(table())
    told = []
    found = backtest_panel(
        panel,
        3,
        QUICK,
        windows=2,
        refit=True,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 2), (2, 2)] and "anew" in found.how
    last = predict_panel(fit_panel(panel.split(3)[0], 3, QUICK))
    np.testing.assert_array_equal(found.windows[-1].model.forecasts[0], last[0])


def test_no_value_is_seen_before_its_time():
    frame = table((60,))
    place = pl.int_range(pl.len())
    spoiled = frame.with_columns(y=pl.when(place >= 57).then(1e6).otherwise(pl.col("y")))
    found = [
        backtest_panel(from_frame(f), 3, QUICK, windows=3, step=2, levels=[80])
        for f in (frame, spoiled)
    ]
    # Origins after 53, 55 and 57 points: none has seen what is spoiled.
    for first, second in zip(found[0].windows, found[1].windows, strict=True):
        for one, other in zip(first.rows, second.rows, strict=True):
            np.testing.assert_array_equal(one.forecasts[0], other.forecasts[0])
        np.testing.assert_array_equal(first.bands[0].high[0], second.bands[0].high[0])
    assert found[1].model.metrics["MAE"] > 1e5


def test_the_table_is_of_means_over_windows_and_series():
    found = backtest_panel(from_frame(table()), 3, QUICK, windows=3, step=2)
    assert [row.name for row in found.rows] == [
        "Naive", "Seasonal naive", "Linear autoregression", "refold gru",
    ]  # fmt: skip
    for i, row in enumerate(found.rows):
        each = [
            metrics.mae(late.values, f)
            for w in found.windows
            for late, f in zip(w.held_out.series, w.rows[i].forecasts, strict=True)
        ]
        assert row.metrics["MAE"] == pytest.approx(np.mean(each))
        assert len(row.forecasts) == 6
    steps = np.mean([w.naive.by_horizon for w in found.windows], axis=0)
    assert found.ranked_by == "MASE" and found.rows[0].by_horizon.shape == steps.shape


def test_owa_is_relative_to_naive2_over_all_windows():
    found = backtest_panel(from_frame(table()), 3, QUICK, windows=3, step=2)
    base = np.mean([w.naive2 for w in found.windows], axis=0)
    row = found.naive
    expected = 0.5 * (row.metrics["sMAPE"] / base[0] + row.metrics["MASE"] / base[1])
    assert row.metrics["OWA"] == pytest.approx(expected)


def test_levels_add_columns_and_coverage():
    found = backtest_panel(from_frame(table()), 3, QUICK, windows=2, levels=(80.0, 95.0))
    frame = backtest_frame(found)
    assert frame.columns[5:] == ["y_hat-lo-80", "y_hat-hi-80", "y_hat-lo-95", "y_hat-hi-95"]
    inside = ((frame["y"] >= frame["y_hat-lo-80"]) & (frame["y"] <= frame["y_hat-hi-80"])).mean()
    assert found.model.metrics["80 % inside"] == pytest.approx(inside)
    assert found.names[-4:] == ("80 % inside", "80 % MSIS", "95 % inside", "95 % MSIS")
    assert found.calibration is not None and "had not seen" in found.calibration.note((80, 95))


def test_a_zero_that_comes_between_windows_has_a_place():
    place = pl.int_range(pl.len())
    frame = table((60,)).with_columns(y=pl.when(place == 56).then(0.0).otherwise(pl.col("y")))
    found = backtest_panel(from_frame(frame), 2, QUICK, windows=3, levels=[80])
    assert np.isfinite(backtest_frame(found).select("y_hat", "y_hat-lo-80").to_numpy()).all()


def test_the_words():
    found = backtest_panel(from_frame(table()), 3, QUICK, windows=3)
    text = " ".join(verdict(found))
    assert "on 3 months from each of 3 origins, its MASE is" in text
    assert "This rests on 18 values from 3 origins." in text
    one = backtest_panel(from_frame(table()), 3, QUICK, windows=1)
    assert "from one origin: another origin may rank them otherwise" in " ".join(verdict(one))


def test_csv_has_dates_as_text():
    found = backtest_panel(from_frame(table()), 3, QUICK, windows=2)
    first = backtest_csv(found).splitlines()[:2]
    assert first[0] == "unique_id,ds,cutoff,y,y_hat"
    assert first[1].startswith("s0,2024-07-01,2024-06-01,")


# The verb


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_tables_come_in_the_kind_of_frame_that_was_given(kind):
    frame = table()
    columns = {"unique_id": frame["unique_id"].to_list()} | {
        name: frame[name].to_numpy() for name in ("ds", "y")
    }
    given = {"pandas": pd.DataFrame(columns), "polars": frame}.get(kind)
    if given is None:
        given = pytest.importorskip("pyarrow").table(columns)
    found = Forecaster(horizon=3, settings=QUICK).backtest(given, windows=2, level=80)
    for one in (found.frame, found.metrics, found.by_horizon):
        assert type(one) is type(given)
    rows = pl.DataFrame(found.frame)
    assert rows.columns[:5] == ["unique_id", "ds", "cutoff", "y", "y_hat"] and rows.height == 12
    assert pl.DataFrame(found.metrics)["method"].to_list()[-1] == "refold gru"
    assert pl.DataFrame(found.by_horizon)["step"].to_list() == [1, 2, 3]


def test_dates_and_zones_come_back_in_both_columns():
    days = pl.date_range(pl.date(2024, 1, 1), pl.date(2024, 2, 9), eager=True)
    frame = pl.DataFrame({"unique_id": [7] * 40, "ds": days, "y": np.arange(40.0) % 7})
    found = Forecaster(horizon=2, settings=QUICK).backtest(frame, windows=2).frame
    assert found.schema["ds"] == found.schema["cutoff"] == pl.Date
    assert found.schema["unique_id"] == pl.Int64
    hours = pl.datetime_range(
        pl.datetime(2024, 1, 1),
        pl.datetime(2024, 1, 3),
        "1h",
        eager=True,
        time_zone="Europe/Berlin",
    )
    frame = pl.DataFrame({"ds": hours, "y": np.arange(len(hours)) % 24 + 1.0})
    found = Forecaster(horizon=2, settings=QUICK).backtest(frame.to_pandas(), windows=2).frame
    assert str(found["ds"].dtype) == str(found["cutoff"].dtype) and "Europe/Berlin" in str(
        found["ds"].dtype
    )


def test_a_fitted_forecaster_is_left_as_it_is():
    frame = table()
    model = Forecaster(horizon=3, settings=QUICK).fit(frame)
    before = model.predict()
    found = model.backtest(windows=2)
    assert found.frame.equals(model.backtest(frame, windows=2).frame)
    assert model.predict().equals(before)


# What is refused


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"windows": 0}, "windows is 0"),
        ({"windows": 2.5}, r"windows is 2\.5"),
        ({"windows": True}, "windows is True"),
        ({"step": 0}, "step is 0"),
        (
            {"windows": 20},
            r"(?s)s0 has 60 points, the others no more; 20 windows 3 apart at horizon 3 need 69.*at most 17",
        ),
        ({"windows": 2, "step": 60}, r"(?s)2 windows 60 apart.*at most 1 windows"),
    ],
)
def test_windows_that_are_refused(given, text, monkeypatch):
    monkeypatch.setattr("refold.forecast.backtest.fit_panel", None)
    with pytest.raises(DataError, match=text):
        backtest_panel(from_frame(table()), 3, QUICK, **given)


def test_a_series_that_is_too_short_is_left_out():
    found = backtest_panel(from_frame(table((60, 15))), 3, QUICK, windows=4)
    assert found.left_out == ("s1",)
    assert found.left_out_note == "left out, as too short for 4 windows: s1"
    alone = backtest_panel(from_frame(table((60,))), 3, QUICK, windows=4)
    assert backtest_csv(found) == backtest_csv(alone) and alone.left_out_note == ""
    three = backtest_panel(from_frame(table((60, 15))), 3, QUICK, windows=2)
    assert three.left_out == () and backtest_frame(three)["unique_id"].n_unique() == 2


def test_other_refusals():
    with pytest.raises(DataError, match="the horizon is 0"):
        backtest_panel(from_frame(table()), 0, QUICK)
    with pytest.raises(DataError, match=r"(?s)at horizon 40 need 86.*a smaller horizon"):
        backtest_panel(from_frame(table()), 40, QUICK, windows=1)
    with pytest.raises(DataError, match=r"(?s)has not been fitted.*or pass a frame"):
        Forecaster(horizon=3).backtest()
    with pytest.raises(DataError, match=r"a level is 0\.5"):
        Forecaster(horizon=3).backtest(table(), level=0.5)
