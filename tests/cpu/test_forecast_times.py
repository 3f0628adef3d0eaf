"""Irregular stamps as they are: every row a step, and the time between rows told to a cell that reads it."""

import datetime as dt
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import refold as rf
from refold.forecast import Forecaster, Settings, fit_panel, from_frame, on_panel, predict_panel
from refold.forecast.times import between, times_of

QUICK = Settings(over="times", cell="cfc", members=1, steps=5, hidden=8, look_back=8)


def sampled(number=160, seed=0, name="a", hidden=False) -> pl.DataFrame:
    """A sine with a period of 20 minutes, seen at random times, 1 to 7 minutes apart; hidden: as if 4 apart."""
    gaps = np.random.default_rng(seed).integers(60, 420, number)
    seconds = np.cumsum(gaps)
    y = 5 + np.sin(2 * np.pi * seconds / 1200)
    start = dt.datetime(2024, 1, 1)
    shown = 240 * np.arange(number) if hidden else seconds
    stamps = [start + dt.timedelta(seconds=int(s)) for s in shown]
    return pl.DataFrame({"unique_id": [name] * number, "ds": stamps, "y": y})


def test_times_are_in_median_steps_and_go_on_a_median_step_apart():
    stamps = [0, 4, 6, 7, 11, 15]
    frame = pl.DataFrame({"ds": stamps, "y": [1.0, 2.0, 1.5, 1.0, 3.0, 2.0]})
    panel = from_frame(frame, irregular=True)
    assert panel.frequency.kind == "irregular"
    assert panel.frequency.count == 4
    assert panel.notes[0].startswith("irregular stamps")
    times = times_of(panel, 7, 2)
    expected = [-2, -1, 0, 1, 1.5, 1.75, 2.75, 3.75, 4.75, 5.75]
    np.testing.assert_allclose(times[0].numpy(), expected)
    gaps, ahead = between(times, torch.tensor([0]), torch.tensor([[4]]), 3, 2)
    np.testing.assert_allclose(gaps.flatten().numpy(), [1, 0.5, 0.25])
    np.testing.assert_allclose(ahead.flatten().numpy(), [1.0, 2.0])
    np.testing.assert_array_equal(panel.future(2)[0], [19, 23])


def test_what_is_held_out_is_asked_for_at_its_own_times():
    panel = from_frame(sampled(40), irregular=True)
    known, rest = panel.split(5)
    np.testing.assert_array_equal(known.future(5)[0], rest.series[0].stamps)
    later = known.future(6)[0]
    assert (later[5] - later[4]).astype(int) == panel.frequency.count
    found = Forecaster(horizon=5, settings=QUICK).backtest(sampled(60), windows=1).frame
    assert found["ds"].to_list() == sampled(60)["ds"].tail(5).to_list()


def test_a_sine_at_random_times_is_forecast_where_the_times_are_told():
    """With the gaps hidden, a row says little of where in its period the next one lies."""
    settings = replace(QUICK, steps=250, rate=1e-2, hidden=32, look_back=12, dropout=0.0)
    errors = {}
    for hidden in (False, True):
        model = Forecaster(horizon=3, settings=settings)
        found = model.backtest(sampled(400, hidden=hidden), windows=10).frame
        errors[hidden] = float((found["y_hat"] - found["y"]).abs().mean())
    assert errors[False] < 0.4 * errors[True], errors


def test_newer_rows_come_at_any_time_after_the_last():
    whole = pl.concat([sampled(80), sampled(70, seed=1, name="b")])
    old = pl.concat([sampled(80).head(60), sampled(70, seed=1, name="b").head(50)])
    model = Forecaster(horizon=3, settings=QUICK).fit(old)
    fitted = model.fitted
    assert fitted is not None
    expected = predict_panel(on_panel(fitted, from_frame(whole, like=fitted.panel)))
    model.update(whole)  # rows that are known may be among them
    found = model.predict()
    parts = found.partition_by("unique_id")
    for mine, theirs in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(mine["y_hat"].to_numpy(), theirs)
    step = found["ds"][1] - found["ds"][0]
    assert step.total_seconds() * 1e6 == fitted.panel.frequency.count
    stamp = whole["ds"][10] + dt.timedelta(seconds=1)
    with pytest.raises(rf.RefoldError, match=r"a row of .* is given that it does not have"):
        model.update(pl.DataFrame({"unique_id": ["a"], "ds": [stamp], "y": [5.0]}))


def test_a_kept_model_has_all_stamps(tmp_path):
    for frame in (sampled(50), sampled(50).with_columns(ds=pl.col("ds").dt.epoch("s"))):
        model = Forecaster(horizon=3, settings=QUICK).fit(frame)
        model.save(tmp_path / "model")
        again = Forecaster.load(tmp_path / "model")
        assert again.predict().equals(model.predict())
        assert again.fitted is not None and model.fitted is not None
        mine, theirs = again.fitted.panel.series[0].stamps, model.fitted.panel.series[0].stamps
        np.testing.assert_array_equal(mine, theirs)
        assert again.update(frame).predict().equals(model.predict())


def test_rows_without_a_value_are_no_steps():
    frame = sampled(50)
    gap = frame.with_columns(y=pl.when(pl.int_range(50).is_in([10, 11])).then(None).otherwise("y"))
    panel = from_frame(gap, irregular=True)
    assert len(panel.series[0]) == 48
    assert panel.series[0].missing is None


def test_series_of_unequal_lengths_and_intervals():
    frame = pl.concat([sampled(80), sampled(20, seed=1, name="b")])
    model = Forecaster(horizon=3, settings=QUICK).fit(frame)
    found = model.predict(level=80)
    assert found.height == 6
    assert (found["y_hat-lo-80"] < found["y_hat-hi-80"]).all()
    fitted = fit_panel(from_frame(frame, irregular=True), 3, QUICK)
    assert len(fitted.networks) == 1


@pytest.mark.parametrize(
    ("settings", "told_"),
    [
        ({"cell": "gru"}, "cell gru reads no time step"),
        ({"cell": "ctrnn"}, "cell ctrnn reads no time step"),
        ({"layers": 2}, "a recurrence over times has one layer"),
    ],
)
def test_a_cell_without_a_time_step_is_refused(settings, told_):
    with pytest.raises(rf.RefoldError, match=told_):
        Forecaster(horizon=3, settings=replace(QUICK, **settings)).fit(sampled(40))


def test_stamps_on_a_grid_are_none_for_it():
    with pytest.raises(rf.RefoldError, match="the stamps were brought to a grid"):
        fit_panel(from_frame(sampled(40, hidden=True)), 3, QUICK)
    with pytest.raises(rf.RefoldError, match="or take the stamps as they are"):
        Forecaster(horizon=3, settings=Settings(members=1, steps=2)).fit(sampled(40))
