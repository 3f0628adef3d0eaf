"""Anomalies: planted ones are found, few others are, and nothing is judged by what came later."""

from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from refold.data.examples import example
from refold.errors import DataError
from refold.forecast import (
    Covariates,
    Forecaster,
    Settings,
    anomalies_csv,
    anomalies_frame,
    find_anomalies,
    fit_panel,
    from_frame,
    from_table,
    on_panel,
    predict_panel,
    read_table,
)
from refold.forecast.rolled import rolled

QUICK = Settings(members=2, steps=5, rate=1e-3, origins=20)


def table(number=2, length=90, seed=0) -> pl.DataFrame:
    noise = np.random.default_rng(seed).normal(size=(number, length))
    days = pl.date_range(pl.date(2024, 1, 1), pl.date(2024, 12, 31), eager=True)[:length]
    y = 50 + 5 * np.sin(2 * np.pi * np.arange(length) / 7) + noise
    rows = [pl.DataFrame({"unique_id": f"s{i}", "ds": days, "y": own}) for i, own in enumerate(y)]
    return pl.concat(rows)


def spoiled(frame: pl.DataFrame, name: str, back: int, by: float) -> pl.DataFrame:
    """The value `back` steps before the end of a series, moved."""
    place = pl.int_range(pl.len()).over("unique_id")
    there = (pl.col("unique_id") == name) & (place == pl.len().over("unique_id") - back)
    return frame.with_columns(y=pl.when(there).then(pl.col("y") + by).otherwise(pl.col("y")))


# Forecasts from many origins at once


@pytest.mark.parametrize("number", [2, 70])  # with linear autoregressions, and without
def test_origins_in_one_batch_are_forecasts_one_by_one(number):
    panel = from_frame(table(number))
    known = panel.split(10)[0]
    fitted = fit_panel(known, 4, QUICK)
    before = rolled(fitted, panel, 10)
    for back in (10, 6, 0) if number > 64 else (10,):
        part = panel.split(back)[0] if back else panel
        one_by_one = predict_panel(on_panel(fitted, part))
        z = before.ahead(torch.arange(number), torch.full((number,), back))
        for i, expected in enumerate(one_by_one):
            np.testing.assert_allclose(before.values(i, z[i]), expected, rtol=2e-5)


def test_nothing_is_judged_by_what_came_later():
    frame = table()
    found = [
        find_anomalies(from_frame(f), 4, QUICK, level=90, last=20)
        for f in (frame, spoiled(frame, "s0", 8, 40.0))
    ]
    first, second = (each.forecasts[0] for each in found)
    np.testing.assert_array_equal(first[:13], second[:13])
    np.testing.assert_array_equal(found[0].forecasts[1], found[1].forecasts[1])
    assert found[1].flags[0][12] and found[1].scores[0][12] > 2
    # The spike itself was taken for its forecast: what follows is not forecast from it.
    assert np.abs(first[13:] - second[13:]).max() < 1.5


# What is found


@pytest.mark.parametrize(
    ("name", "level", "last", "tail", "size"),
    [("airpassengers", 95, 48, None, 0.3), ("sunspots", 99, 200, 900, 90.0)],
)
def test_planted_spikes_in_real_series(name, level, last, tail, size):
    panel = from_table(read_table(example(name).path))
    series = panel.series[0]
    values = series.values[-(tail or len(series)) :].copy()
    at = len(values) - np.array([last - 5, last // 2, 9])
    values[at] += values[at] * size if size < 1 else size
    stamps = series.stamps[-len(values) :]
    panel = replace(panel, series=(replace(series, stamps=stamps, values=values),))
    found = find_anomalies(panel, 12, Settings(members=1), level=level, last=last)
    named = np.flatnonzero(found.flags[0]) + len(values) - last
    assert set(at) <= set(named)
    # By chance: 45 values at 5 %, 197 at 1 %; more than three times as many are too many.
    assert len(named) - len(at) <= 3 * (1 - level / 100) * last


def test_of_values_that_are_none_the_stated_share_is_named():
    panels = [from_frame(table(40, seed=seed)) for seed in range(3)]
    found = [find_anomalies(panel, 4, QUICK, level=95, last=30) for panel in panels]
    share = sum(one.count for one in found) / sum(one.number for one in found)
    # As many values are measured as are judged, 3,600: two standard errors about 5 % are 1.03 %.
    assert 0.0397 < share < 0.0603
    p_values = np.concatenate([each for one in found for each in one.p_values])
    assert np.mean(p_values <= 0.5) == pytest.approx(0.5, abs=0.06)


def test_flags_scores_p_values_and_bounds_say_the_same():
    frame = spoiled(table(), "s1", 5, 30.0)
    found = find_anomalies(from_frame(frame), 4, QUICK, level=90, last=25)
    for i, judged in enumerate(found.judged.series):
        outside = (judged.values < found.band.low[i]) | (judged.values > found.band.high[i])
        np.testing.assert_array_equal(found.flags[i], outside)
        np.testing.assert_array_equal(found.flags[i], found.scores[i] > 1)
        assert (found.p_values[i][outside] <= 0.1 + 1e-9).all()
        assert (found.p_values[i][~outside] > 0.1 - 1 / 51).all()
    assert found.flags[1][20] and found.p_values[1][20] == pytest.approx(1 / 51)


def test_a_change_of_level_is_followed():
    frame, place = table(1, 120), pl.int_range(pl.len())
    moved = frame.with_columns(y=pl.col("y") + pl.when(place >= 100).then(12.0).otherwise(0.0))
    found = find_anomalies(from_frame(moved), 4, Settings(members=1), level=90, last=30)
    assert found.flags[0][10:14].all(), "the first of the new level are named"
    before = rolled(found.fitted, found.panel, 31)
    z = before.ahead(torch.zeros(16, dtype=torch.long), torch.arange(16, 0, -1))
    # As long as they stand in a row, later ones are forecast from them as they are.
    row = 1 + int(found.flags[0][14:].argmin())
    raw = before.values(0, z[:, 0])[:row]
    np.testing.assert_allclose(found.forecasts[0][14 : 14 + row], raw, rtol=1e-6)


def test_further_ahead():
    panel = from_frame(table())
    near, far = (find_anomalies(panel, 4, QUICK, level=90, last=20, ahead=k) for k in (1, 4))
    assert far.ahead == 4 and "forecast from 4 days before it" in far.told()[2]
    assert not np.array_equal(near.forecasts[0], far.forecasts[0])


# As frames


def test_frame_and_csv():
    found = find_anomalies(from_frame(table()), 4, QUICK, level=90, last=20)
    frame = anomalies_frame(found)
    assert frame.columns == [
        "unique_id", "ds", "y", "y_hat", "y_hat-lo-90", "y_hat-hi-90",
        "score", "p_value", "is_anomaly",
    ]  # fmt: skip
    assert frame.height == 40 and frame["is_anomaly"].sum() == found.count
    assert anomalies_csv(found).splitlines()[1].startswith("s0,2024-03-11,")


def test_without_a_level_the_highest_is_taken_that_there_are_errors_for():
    panel = from_frame(table())
    for last, level in ((30, 98), (20, 97)):  # 2 series: 60 and 40 errors
        found = find_anomalies(panel, 4, QUICK, last=last)
        assert found.band.level == level
        with pytest.raises(DataError, match=f"at most {level}"):
            find_anomalies(panel, 4, QUICK, level=level + 1, last=last)


def test_the_verb_gives_the_kind_of_frame_that_it_got():
    frame = table()
    model = Forecaster(horizon=4, settings=QUICK)
    found = model.anomalies(frame, level=90, last=20)
    assert found.schema["ds"] == pl.Date and found["is_anomaly"].dtype == pl.Boolean
    given = pd.DataFrame({c: frame[c].to_list() for c in frame.columns}).astype({"ds": "M8[us]"})
    assert isinstance(model.anomalies(given, level=90, last=20), pd.DataFrame)
    before = model.fit(frame).predict()
    assert model.anomalies(level=90, last=20).equals(found) and model.predict().equals(before)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"last": 0}, "last is 0"),
        ({"last": 2.5}, r"last is 2\.5"),
        ({"ahead": 5}, r"(?s)ahead is 5.*at most the horizon, 4"),
        ({"last": 50}, r"(?s)s0 has 90 points; to judge the last 50 takes 106.*at most 42"),
        (
            {"level": 99},
            r"(?s)99 % needs 99 errors of the forecaster, and there are 60.*at most 98",
        ),
        ({"level": [80, 90]}, "2 levels are given"),
        ({"level": 0.5}, r"a level is 0\.5"),
    ],
)
def test_what_is_refused_before_anything_is_trained(given, text, monkeypatch):
    monkeypatch.setattr("refold.forecast.anomalies.fit_panel", None)
    with pytest.raises(DataError, match=text):
        find_anomalies(from_frame(table()), 4, QUICK, **given)
    with pytest.raises(DataError, match="has not been fitted"):
        Forecaster(horizon=4).anomalies()


# Whatever the networks recur over, say of their certainty, or are told of


@pytest.mark.parametrize(
    "settings",
    [
        replace(QUICK, over="segments"),
        replace(QUICK, over="steps"),
        replace(QUICK, head="student"),
        replace(QUICK, head="poisson"),
    ],
    ids=lambda s: f"{s.over}-{s.head}",
)
def test_origins_in_one_batch_of_every_way_and_head(settings):
    panel = from_frame(table(3).with_columns(pl.col("y").round()))
    fitted = fit_panel(panel.split(10)[0], 4, settings)
    before = rolled(fitted, panel, 10)
    for back in (10, 3):
        expected = predict_panel(on_panel(fitted, panel.split(back)[0]))
        z = before.ahead(torch.arange(3), torch.full((3,), back))
        for i, own in enumerate(expected):
            np.testing.assert_allclose(before.values(i, z[i]), own, rtol=2e-5)


def test_origins_in_one_batch_beside_covariates():
    frame = table(3).with_columns(promo=(pl.col("y") > 52).cast(pl.Float64), kind=pl.lit("a"))
    panel = from_frame(frame, covariates=Covariates(static=["kind"], known=["promo"]))
    fitted = fit_panel(panel.split(10)[0], 4, QUICK)
    z = rolled(fitted, panel, 10).ahead(torch.arange(3), torch.full((3,), 10))
    for i, own in enumerate(predict_panel(on_panel(fitted, panel.split(10)[0]))):
        np.testing.assert_allclose(fitted.data.invert(i, z[i].numpy()), own, rtol=2e-5)


@pytest.mark.parametrize("over", ["origins", "segments", "steps"])
def test_what_was_not_observed_is_not_judged(over):
    frame = spoiled(table(), "s1", 6, 40.0)
    place = pl.int_range(pl.len()).over("unique_id")
    gone = (pl.col("unique_id") == "s0") & place.is_in([50, 80])
    frame = frame.with_columns(y=pl.when(gone).then(None).otherwise(pl.col("y")))
    settings = replace(QUICK, over=over, steps=40)
    found = find_anomalies(from_frame(frame), 4, settings, level=90, last=20)
    told = anomalies_frame(found)
    assert found.number == 39 and len(told) == 40
    absent = told.filter(pl.col("y").is_null())
    assert absent["unique_id"].to_list() == ["s0"] and absent["is_anomaly"].to_list() == [False]
    assert absent.select("score", "p_value").null_count().row(0) == (1, 1)
    assert absent["y_hat"].is_finite().all()
    # 39 errors were measured: one of the 40 was not observed.
    assert found.calibration.counts.tolist() == [39]
    assert told.filter(unique_id="s1")["is_anomaly"][14]
