"""Values that were not observed: found, filled in from what came before, and counted in no error."""

import copy
import datetime as dt
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from refold.data import window
from refold.data.window import Look
from refold.errors import DataError
from refold.forecast import (
    Calibration,
    Forecaster,
    Series,
    Settings,
    backtest_panel,
    evaluate,
    fit_panel,
    from_frame,
    from_table,
    predict_panel,
    read_table,
)
from refold.forecast.baselines import autoregression
from refold.forecast.metrics import crps_of_samples, measure, msis, pinball
from refold.forecast.sequences import scaled
from refold.forecast.series import filled

QUICK = Settings(members=1, steps=20, origins=30)
NAN = float("nan")


def weeks(n: int = 120, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=n)
    return 50 + 10 * np.sin(2 * np.pi * np.arange(n) / 7) + noise


def gone(series: Series) -> list[int]:
    """Where a series is missing."""
    assert series.missing is not None
    return np.flatnonzero(series.missing).tolist()


def daily(values, name="a", start=dt.date(2024, 1, 1)) -> pl.DataFrame:
    days = [start + dt.timedelta(i) for i in range(len(values))]
    return pl.DataFrame({"unique_id": [name] * len(days), "ds": days, "y": np.asarray(values)})


def holed(values, *at) -> np.ndarray:
    found = np.array(values, dtype=np.float64)
    found[list(at)] = NAN
    return found


# What is filled in.


def test_last_season_moved_to_the_level_of_today():
    up = np.tile([1.0, 5.0, 3.0, 7.0], 6) + np.repeat(np.arange(6.0), 4)
    expected = up.copy()
    up[[17, 18, 22]] = NAN
    # One season back is 1 lower, and so is the level there.
    np.testing.assert_allclose(filled(up, (4,)), expected)


def test_without_a_season_the_last_value_goes_on():
    np.testing.assert_array_equal(filled(np.array([2.0, NAN, NAN, 5.0, NAN]), ()), [2, 2, 2, 5, 5])


def test_what_is_filled_in_knows_nothing_of_later_values():
    y = holed(weeks(), 30, 31, 32, 60, 61)
    other = y.copy()
    other[62:] += 1e3
    np.testing.assert_array_equal(filled(y, (7,))[:62], filled(other, (7,))[:62])


@pytest.mark.parametrize("y", [np.exp(3 * np.sin(np.arange(80))), np.arange(80) % 5 * 1.0])
def test_it_stays_within_what_was_seen(y):
    found = filled(holed(y, *range(20, 35), 50), (7,))
    assert found.min() >= y.min() and found.max() <= y.max()


# What counts as missing.


def test_empty_cells_gaps_and_ends(tmp_path):
    rows = [
        f"2024-01-{i:02d},{'' if i in (1, 2, 9, 29, 30) else i}" for i in range(1, 31) if i != 15
    ]
    path = tmp_path / "shop.csv"
    path.write_text("day,sold\n" + "\n".join(rows) + "\n")
    panel = from_table(read_table(path))
    (series,) = panel.series
    assert (
        str(series.stamps[0])[:10] == "2024-01-03" and str(series.stamps[-1])[:10] == "2024-01-28"
    )
    assert len(series) == 26 and gone(series) == [6, 12]
    assert np.isfinite(series.values).all()
    assert panel.notes[-1].startswith("2 of 26 values are missing: filled in from those before")


@pytest.mark.parametrize("freq", ["D", "h", "MS", "ME", "B", "W-TUE", "QS", "15min"])
def test_gaps_of_every_spacing(freq):
    stamps = pd.date_range("2023-01-31", periods=60, freq=freq)
    frame = pd.DataFrame({"ds": stamps, "y": np.arange(60.0)}).drop(index=[20, 21, 40])
    (series,) = from_frame(frame).series
    assert series.stamps.tolist() == stamps.to_numpy().astype("datetime64[us]").tolist()
    assert gone(series) == [20, 21, 40]


def test_numbered_steps_and_several_series():
    y = weeks()
    frame = pl.concat([daily(y), daily(holed(y, 0, 40, 119), "b"), daily(y, "c")])
    panel = from_frame(
        frame.filter((pl.col("unique_id") != "c") | (pl.col("ds") != dt.date(2024, 2, 1)))
    )
    assert [len(s) for s in panel.series] == [120, 118, 120]
    assert panel.series[0].missing is None
    assert "2 of 358 values are missing, in 2 of 3 series" in panel.notes[-1]
    numbered = from_frame(pl.DataFrame({"ds": [1, 2, 3, 5, 6, 7, 9], "y": np.arange(7.0)}))
    assert numbered.series[0].missing is not None and len(numbered.series[0]) == 9


def test_what_is_refused():
    empty = pl.concat([daily(weeks()), daily(np.full(120, NAN), "b")])
    text = r"(?s)series b has no observed value \(120 rows, from 120 on\).*leave the series out"
    with pytest.raises(DataError, match=text):
        from_frame(empty)
    late = pl.concat([daily(weeks(30)), daily([1.0], start=dt.date(2204, 1, 1))])
    text = r"(?s)31 values on 65,744 days; the widest gap is between 2024-01-30 \(row 29\) and "
    text += r"2204-01-01 \(row 30\).*mend that stamp"
    with pytest.raises(DataError, match=text):
        from_frame(late)
    with pytest.raises(DataError, match="is not finite"):
        from_frame(daily([*weeks(30), float("inf")]))


# What counts in errors.


def test_metrics_are_over_observed_values():
    y, history = weeks(20), weeks(50, 1)
    f = y + np.random.default_rng(2).normal(size=20)
    whole = measure(y, f, history, 7)
    some = measure(holed(y, 3, 4), f, holed(history, 9), 7)
    kept = np.delete(np.arange(20), [3, 4])
    assert some["MAE"] == pytest.approx(np.abs(y - f)[kept].mean(), rel=1e-14)
    assert some["RMSE"] == pytest.approx(np.sqrt(np.square(y - f)[kept].mean()), rel=1e-14)
    steps = np.delete(np.abs(history[7:] - history[:-7]), [2, 9])
    assert some["MASE"] == pytest.approx(some["MAE"] / steps.mean(), rel=1e-14)
    assert whole["MAE"] != some["MAE"]
    assert all(np.isnan(v) for v in measure(np.full(3, NAN), f[:3], history, 7).values())


def test_scores_of_distributions_are_over_observed_values():
    y, samples = weeks(20), np.random.default_rng(0).normal(50, 9, size=(30, 20))
    low, high = samples.min(axis=0), samples.max(axis=0)
    gone, kept = holed(y, 5), np.delete(np.arange(20), 5)
    history = weeks(50)
    for some, of_kept in (
        (pinball(gone, low, 0.1), pinball(y[kept], low[kept], 0.1)),
        (crps_of_samples(gone, samples), crps_of_samples(y[kept], samples[:, kept])),
        (
            msis(gone, low, high, 90, history, 7),
            msis(y[kept], low[kept], high[kept], 90, history, 7),
        ),
    ):
        assert some == pytest.approx(of_kept, rel=1e-14)


def test_targets_that_are_missing_do_not_count():
    y = holed(weeks(60), 50, 51)
    missing = np.isnan(y)
    past = window.past([filled(y, (7,))], Look((7,), 7, 14, 2), 40, missing=[missing])
    rows, columns = torch.zeros(1, dtype=torch.long), torch.tensor([[past.columns - 12]])
    _, exists = window.targets(past, rows, columns)
    assert exists[0, 0].tolist() == [True, False, False, True, True, True, True]  # of 49, 50 ... 55


def test_what_stands_where_nothing_was_observed_changes_no_scale_and_no_line():
    panel = from_frame(daily(holed(weeks(), 33, 34, 90)))
    (series,) = panel.series
    assert series.missing is not None
    wild = replace(series, values=np.where(series.missing, 1e4, series.values))
    first, second = (scaled(replace(panel, series=(s,)), 7) for s in (series, wild))
    assert first.scales == second.scales
    assert torch.equal(first.slope, second.slope) and torch.equal(first.offset, second.offset)
    line = autoregression(series.values, (), None, series.missing)
    y, order = np.log(series.values), line.order
    rows = [t for t in range(order, len(y)) if not series.missing[t]]
    z = line.scale.apply(series.values)
    design = np.array([[1.0, *z[t - order : t][::-1]] for t in rows])
    by_hand = np.linalg.lstsq(design, z[rows], rcond=None)[0]
    np.testing.assert_allclose(line.weights, by_hand[1:], rtol=1e-6)
    assert np.isfinite(y).all()


def test_a_mask_that_is_true_everywhere_changes_no_bit():
    panel = from_frame(pl.concat([daily(weeks()), daily(weeks(90, 1), "b")]))
    masked = replace(
        panel, series=tuple(replace(s, missing=np.zeros(len(s), dtype=bool)) for s in panel.series)
    )
    first, second = (predict_panel(fit_panel(p, 7, QUICK)) for p in (panel, masked))
    np.testing.assert_array_equal(np.stack(first), np.stack(second))


def test_intervals_from_errors_that_are_not_all_there():
    scores = np.random.default_rng(0).normal(size=(60, 3))
    gone = scores.copy()
    gone[:20, 1], gone[:50, 2] = NAN, NAN
    some = Calibration(gone, "none", "both", 60, 1)
    each = [Calibration(gone[~np.isnan(gone[:, k])][:, [k]], "none", "both", 1, 1) for k in (0, 1)]
    for level in (50.0, 90.0):
        below, above = some.reach(level)
        for k in (0, 1):
            assert (below[k], above[k]) == tuple(float(side[0]) for side in each[k].reach(level))
    # Ten errors are too few for 95 percent: those of all steps are taken, and the largest at least.
    assert some.is_pooled(95.0) and not some.is_pooled(80.0)
    assert some.reach(95.0)[1][2] >= np.nanmax(np.abs(gone[:, 2]))


# From end to end.


def test_a_table_with_holes_goes_through_everything(tmp_path):
    rng = np.random.default_rng(3)
    frames = [
        daily(holed(weeks(n, i), *rng.choice(np.arange(1, n), n // 10, replace=False)), f"s{i}")
        for i, n in enumerate((120, 100))
    ]
    whole = pl.concat(frames)
    model = Forecaster(horizon=7, settings=QUICK).fit(whole)
    found = model.predict(level=80)
    assert found.height == 14 and found.drop("unique_id", "ds").to_numpy().min() > 0
    tested = model.backtest(windows=2)
    y = whole["y"].fill_nan(None)
    assert tested.frame["y"].null_count() == sum(
        f["y"].fill_nan(None)[-14:].null_count() for f in frames
    )
    assert y.null_count() and tested.metrics["MASE"].is_finite().all()
    model.save(tmp_path / "model")
    again = Forecaster.load(tmp_path / "model")
    assert again.predict(level=80).equals(found)
    assert again.fitted is not None and model.fitted is not None
    assert gone(again.fitted.panel.series[1]) == gone(model.fitted.panel.series[1])


def test_newer_rows_may_be_missing_too():
    y = weeks(130)
    old, newer = daily(y).head(120), daily(holed(y, 120, 121, 124)).tail(10)
    model = Forecaster(horizon=7, settings=QUICK).fit(old)
    found = model.update(newer).predict()
    assert model.fitted is not None
    (series,) = model.fitted.panel.series
    assert len(series) == 130 and gone(series) == [120, 121, 124]
    # Rows that are known may be given again, those that are missing among them.
    assert model.update(daily(holed(y, 100, 120, 121, 124))).predict().equals(found)


def test_values_may_come_late():
    y = weeks(130)
    old = daily(holed(y[:120], 90, 118))
    newer = daily(holed(y, 90, 118, 120, 121, 124)).tail(13)
    model = Forecaster(horizon=7, settings=QUICK).fit(old)
    at_once, before = copy.deepcopy(model), model.update(newer).predict()
    late = daily(holed(y, 90, 118, 121)).tail(10)
    assert model.fitted is not None
    found = model.update(late).predict()
    (series,) = model.fitted.panel.series
    assert gone(series) == [90, 118, 121] and series.values[120] == y[120]
    # What was filled in behind a late value is filled in anew, as if the value had been there.
    in_time = daily(holed(y, 90, 118, 121)).tail(13)
    assert found.equals(at_once.update(in_time).predict()) and not found.equals(before)
    (full,) = model.update(daily(y)).fitted.panel.series  # type: ignore[union-attr]
    assert full.missing is None and np.array_equal(full.values, y)
    with pytest.raises(DataError, match=r"a is .* at 2024-04-30, and 9 is given"):
        model.update(daily([9.0], start=dt.date(2024, 4, 30)))


def test_the_held_out_part_is_not_seen_through_what_is_filled_in():
    y = holed(weeks(), 111, 112, 113)  # the end of what is known at horizon 7
    spoiled = np.where(np.arange(120) >= 113, 1e4, y)
    found = [evaluate(from_frame(daily(v), holdout=7), 7, QUICK) for v in (y, holed(spoiled, 113))]
    np.testing.assert_array_equal(found[0].model.forecasts[0], found[1].model.forecasts[0])
    assert np.isfinite(found[0].model.metrics["MAE"]) and np.isnan(
        found[0].held_out.series[0].observed[0]
    )


def test_a_window_without_any_observed_value_has_no_error():
    y = weeks(120)
    both = pl.concat([daily(y), daily(holed(y, *range(106, 119)), "b")])
    found = backtest_panel(from_frame(both), 6, QUICK, windows=2)
    rows = [w.model for w in found.windows]
    assert all(np.isfinite(row.metrics["MASE"]) for row in rows)
    alone = backtest_panel(from_frame(daily(holed(y, *range(108, 114)))), 6, QUICK, windows=2)
    assert np.isnan(alone.windows[0].model.metrics["MAE"])
    assert np.isfinite(alone.model.metrics["MAE"]) and np.isfinite(alone.model.by_horizon).all()
