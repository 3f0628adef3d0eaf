"""Intervals: the rank that is taken, what they hold, that they nest, and what is refused."""

import numpy as np
import polars as pl
import pytest
import torch

from refold.data.scale import Scale, Transform
from refold.errors import DataError
from refold.forecast import Forecaster, Settings, calibrate, check_levels, evaluate, from_frame
from refold.forecast.evaluate import recalibrated
from refold.forecast.intervals import Calibration, Sides, unit_of
from refold.forecast.origins import rolling

QUICK = Settings(members=1, steps=5, rate=1e-3, origins=20)


def table(lengths=(60, 45), seed=0, floor=50.0) -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    parts = []
    for i, n in enumerate(lengths):
        y = floor + 5 * np.sin(np.arange(n)) + generator.normal(size=n)
        parts.append(pl.DataFrame({"unique_id": [f"s{i}"] * n, "ds": np.arange(n), "y": y}))
    return pl.concat(parts)


def of_scores(scores, sides: Sides = "both", transform: Transform = "none") -> Calibration:
    scores = np.asarray(scores, dtype=np.float64)
    return Calibration(scores, transform, sides, len(scores), 1)


# The rank


def test_the_rank_is_that_of_n_plus_one():
    scores = np.arange(1.0, 20.0)[:, None] * [1.0, -1.0]  # 1 .. 19 and -1 .. -19
    found = of_scores(scores)
    low, high = found.reach(95)  # ceil(20 * 0.95) = 19
    np.testing.assert_array_equal([low, high], [[-19, -19], [19, 19]])
    np.testing.assert_array_equal(found.reach(90)[1], [18, 18])
    np.testing.assert_array_equal(found.reach(50)[1], [10, 10])
    assert not found.is_pooled(95) and found.is_pooled(96)


def test_each_side_has_its_own_rank():
    scores = np.concatenate([np.arange(-9.0, 0.0), np.arange(0.0, 30.0)])[:, None]  # 39 of them
    low, high = of_scores(scores, "each").reach(95)  # ranks 1 and 39 of 40
    assert (low, high) == (-9.0, 29.0)
    low, high = of_scores(scores, "each").reach(50)  # ranks 10 and 30
    assert (low, high) == (0.0, 20.0)
    assert of_scores(scores).reach(50)[1] == 10.0  # |errors|: 20 of 39 are up to 10


@pytest.mark.parametrize("sides", ["both", "each"])
@pytest.mark.parametrize("n", [3, 12, 200])
def test_intervals_nest(sides, n):
    found = of_scores(np.random.default_rng(n).normal(size=(n, 30)), sides)
    before = (np.zeros(30), np.zeros(30))
    for level in np.linspace(1, 97, 60):
        low, high = found.reach(float(level))
        assert (low <= high).all()
        if level > 1:
            assert (low <= before[0]).all() and (high >= before[1]).all()
        before = (low, high)


@pytest.mark.parametrize("sides", ["both", "each"])
def test_they_hold_what_they_say(sides):
    """Over many calibrations with errors alike: at least the level, and not much more."""
    generator = np.random.default_rng(0)
    inside = []
    for _ in range(400):
        errors = generator.standard_t(3, size=(60, 20)) + 0.5
        low, high = of_scores(errors, sides).reach(90)
        fresh = generator.standard_t(3, size=20) + 0.5
        inside.append(((low <= fresh) & (fresh <= high)).mean())
    # 8000 values: the standard error is about 0.004.
    assert 0.89 < np.mean(inside) < 0.93


# Too few errors


def test_too_few_errors_of_a_step_take_those_of_all_steps():
    scores = np.arange(1.0, 13.0).reshape(6, 2)  # 1 .. 12
    found = of_scores(scores)
    _, high = found.reach(90)  # rank 7 of 6; of all 12 the rank is ceil(13 * 0.9) = 12
    np.testing.assert_array_equal(high, [12, 12])
    assert found.reach(80)[1].tolist() == [11.0, 12.0]  # rank 6 of 6: a step's own
    told = found.note([80, 90])
    assert "6 errors of each step" in told and "for 90 % these are too few" in told
    assert "the 12 errors of all steps are taken together" in told
    assert "too few" not in found.note([80])


def test_a_pooled_interval_is_never_smaller_than_a_step_of_its_own():
    scores = np.ones((6, 40))
    scores[:, 0] = 100.0
    assert of_scores(scores).reach(90)[1][:2].tolist() == [100.0, 1.0]


def test_too_few_errors_in_all_are_an_error():
    found = of_scores(np.ones((3, 2)))
    with pytest.raises(DataError) as error:
        found.reach(95)
    assert str(error.value) == (
        "level\nan interval of 95 % needs 19 errors of the forecaster, and there are 6\n"
        "ask for a level of at most 85, or give longer series"
    )
    found = of_scores(np.ones((1, 1)), "each")
    with pytest.raises(DataError, match=r"(?s)95 % needs 39 errors.*there are 1\ngive longer"):
        found.reach(95)


# Units


def test_a_unit_is_a_mean_step_over_the_season():
    values = np.array([1.0, 2.0, 3.0, 6.0])
    assert unit_of(values, "none", 1).unit == pytest.approx(5 / 3)
    assert unit_of(values, "none", 2).unit == pytest.approx(3.0)
    assert unit_of(values, "log", 1).unit == pytest.approx(np.log(6.0) / 3)
    assert unit_of(np.array([1.0, 2.0] * 5), "none", 2).unit == pytest.approx(1.0)  # repeats itself
    assert unit_of(np.full(5, 30.0), "none", 1).unit == pytest.approx(0.03)
    assert unit_of(np.zeros(5), "none", 1).unit == pytest.approx(0.001)


def test_bands_are_in_the_units_of_each_series():
    panel = from_frame(table())
    forecasts = [np.full(2, 10.0), np.full(2, 20.0)]
    found = of_scores(np.full((9, 2), [1.0, 2.0]), transform="log")
    (band,) = found.bands(panel, forecasts, [80])
    for i, series in enumerate(panel.series):
        g = np.log(series.values)
        unit = np.abs(g[panel.season :] - g[: -panel.season]).mean()
        expected = forecasts[i] * np.exp(unit * np.array([1.0, 2.0]))
        np.testing.assert_allclose(band.high[i], expected)
        np.testing.assert_allclose(band.low[i], forecasts[i] ** 2 / expected)


def test_positive_series_have_positive_intervals_and_every_interval_holds_its_forecast():
    panel = from_frame(table((30,)))
    forecasts = [np.array([1e-9, 50.0, 1e9])]
    for transform in ("log", "sqrt", "none"):
        found = of_scores(np.random.default_rng(0).normal(size=(30, 3)), transform=transform)
        (band,) = found.bands(panel, forecasts, [95])
        assert (band.low[0] <= forecasts[0]).all() and (forecasts[0] <= band.high[0]).all()
        assert transform == "none" or (band.low[0] >= 0).all()


def test_a_forecast_of_zero_and_an_error_without_end():
    panel = from_frame(table((30,)))
    (band,) = of_scores([[1.0]] * 30, transform="log").bands(panel, [np.zeros(1)], [80])
    assert (band.low[0], band.high[0]) == (0.0, 0.0)
    (band,) = of_scores([[1e9]] * 30, transform="log").bands(panel, [np.ones(1)], [80])
    assert band.low[0] == 0.0 and 1e300 < band.high[0] < np.inf  # a number, whatever the error


# Calibration


def test_the_errors_are_those_of_networks_that_had_not_seen_the_values():
    frame = table((60,))
    panel = from_frame(frame)
    found = calibrate(panel, 3, QUICK, origins=8)
    assert found.scores.shape == (8, 3) and (found.origins, found.series) == (8, 1)
    # Only what comes after all that was trained on is changed: the first forecast is the same.
    later = pl.when(pl.int_range(pl.len()) >= 50).then(pl.col("y") + 7).otherwise(pl.col("y"))
    spoiled = from_frame(frame.with_columns(y=later), seasons=panel.seasons)
    moved = calibrate(spoiled, 3, QUICK, origins=8)
    y = frame["y"].to_numpy()
    scale = unit_of(y[:50], "log", panel.season)
    shift = scale.apply(y[50:53] + 7) - scale.apply(y[50:53])
    np.testing.assert_allclose(moved.scores[0] - found.scores[0], shift, rtol=1e-9)


def test_origins_roll_by_a_step():
    panel = from_frame(table((20, 12)))
    found = list(rolling(panel, 3, 2, step=4))
    assert [[len(s) for s in known.series] for known, _ in found] == [[13, 5], [17, 9]]
    assert [came.series[0].stamps.tolist() for _, came in found] == [[13, 14, 15], [17, 18, 19]]
    np.testing.assert_array_equal(found[1][1].series[1].values, panel.series[1].values[9:12])


def test_series_that_are_too_short_take_no_part():
    panel = from_frame(table((60, 10)))
    found = calibrate(panel, 3, QUICK)
    assert found.series == 1
    assert found.bands(panel, [np.ones(3), np.ones(3)], [80])[0].low[1].shape == (3,)


def test_as_many_origins_as_give_enough():
    for lengths, origins in (((300,), 98), ((60,), 18), ((60, 60), 18), ((300,) * 25, 4)):
        panel = from_frame(table(lengths))
        with pytest.raises(StopIteration):  # what is found before the training
            calibrate(panel, 3, QUICK, progress=_stop(origins, len(lengths)))


def _stop(origins, series):
    def progress(done, total):
        raise StopIteration

    return progress


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"origins": 50},
            r"(?s)has 60 points, and intervals at horizon 3 need 61.*at most 49 origins",
        ),
        ({"origins": 0}, r"(?s)origins is 0.*at most 49"),
        ({"sides": "left"}, "sides is 'left'"),
        ({"levels": [99.9]}, r"(?s)99\.9 % needs 999 errors.*there are 54\n.*at most 98"),
    ],
)
def test_what_calibration_refuses_before_it_trains(given, text, monkeypatch):
    monkeypatch.setattr("refold.forecast.intervals.fit_panel", None)
    with pytest.raises(DataError, match=text):
        calibrate(from_frame(table((60,))), 3, QUICK, **given)


def test_series_too_short_for_any_interval():
    panel = from_frame(table((11, 9)))
    with pytest.raises(
        DataError,
        match=r"(?s)longest series has 11 points.*need 12: 6 and a hor.*give longer series",
    ):
        calibrate(panel, 3, QUICK)


def test_a_zero_that_comes_late_has_a_place():
    frame = table((60,)).with_columns(
        y=pl.when(pl.col("ds") == 55).then(0.0).otherwise(pl.col("y"))
    )
    found = calibrate(from_frame(frame), 3, QUICK)
    assert found.transform == "sqrt" and np.isfinite(found.scores).all()


def test_the_held_out_part_gives_errors_too():
    frame = table((60,))
    panel = from_frame(frame)
    before = calibrate(panel.split(3)[0], 3, QUICK)
    found = evaluate(panel, 3, QUICK, calibration=before, levels=[80])
    after = recalibrated(found, panel, before)
    assert after.origins == before.origins + 1
    known, late = found.known.series[0].values, found.held_out.series[0].values
    scale = unit_of(known, "log", panel.season)
    errors = scale.apply(late) - scale.apply(found.model.forecasts[0])
    np.testing.assert_array_equal(after.scores[-1], errors)


def test_a_held_out_value_without_a_logarithm_measures_anew():
    frame = table((60,)).with_columns(
        y=pl.when(pl.col("ds") == 58).then(-1.0).otherwise(pl.col("y"))
    )
    panel = from_frame(frame)
    before = calibrate(panel.split(3)[0], 3, QUICK)
    found = evaluate(panel, 3, QUICK, calibration=before, levels=[80])
    assert before.transform == "log" and recalibrated(found, panel, before).transform == "none"


def test_coverage_and_score_are_in_the_row_of_the_network():
    panel = from_frame(table())
    calibration = calibrate(panel.split(3)[0], 3, QUICK)
    found = evaluate(panel, 3, QUICK, calibration=calibration, levels=[80, 95])
    (low, high) = found.bands[1].low, found.bands[1].high
    late = [s.values for s in found.held_out.series]
    inside = np.mean(
        [((a <= y) & (y <= b)).mean() for a, y, b in zip(low, late, high, strict=True)]
    )
    assert found.model.metrics["95 % inside"] == pytest.approx(inside)
    assert found.model.metrics["80 % MSIS"] > 0
    assert "95 % inside" not in found.linear.metrics


# The verb


def test_the_columns_of_a_forecast_with_levels():
    frame = table()
    model = Forecaster(horizon=3, settings=QUICK).fit(frame)
    plain, found = model.predict(), model.predict(level=[95, 80])
    assert found.columns == [
        "unique_id", "ds", "y_hat", "y_hat-lo-80", "y_hat-hi-80", "y_hat-lo-95", "y_hat-hi-95",
    ]  # fmt: skip
    assert found.select(plain.columns).equals(plain)
    inner = found.select(
        (pl.col("y_hat-lo-95") <= pl.col("y_hat-lo-80")).all(),
        (pl.col("y_hat-lo-80") <= pl.col("y_hat")).all().alias("low"),
        (pl.col("y_hat") <= pl.col("y_hat-hi-80")).all().alias("high"),
        (pl.col("y_hat-hi-80") <= pl.col("y_hat-hi-95")).all().alias("wide"),
    )
    assert inner.row(0) == (True, True, True, True)
    assert model.predict(level=97.5).columns[-1] == "y_hat-hi-97.5"


def test_calibration_is_kept_until_the_next_fit():
    model = Forecaster(horizon=3, settings=QUICK).fit(table()).calibrate(origins=5, sides="each")
    assert model.calibration is not None and model.calibration.sides == "each"
    first = model.calibration
    model.predict(level=50)
    assert model.calibration is first
    assert model.fit(table()).calibration is None
    with pytest.raises(DataError, match="has not been fitted"):
        Forecaster(horizon=3).calibrate()


@pytest.mark.parametrize(
    ("levels", "text"),
    [
        ([0.95], r"(?s)a level is 0\.95.*percents from 1 to below 100"),
        ([100], "a level is 100"),
        ([True], "a level is True"),
        (["95"], "a level is '95'"),
        ("95", "the levels are '95'"),
    ],
)
def test_levels_that_are_refused(levels, text):
    with pytest.raises(DataError, match=text):
        check_levels(levels)
    with pytest.raises(DataError, match=text):
        Forecaster(horizon=3, settings=QUICK).fit(table()).predict(level=levels)


def test_levels_come_once_and_in_order():
    assert check_levels((95, 80, 95.0, np.int64(50))) == (50.0, 80.0, 95.0)
    assert check_levels(90) == (90.0,)


def test_calibration_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    calibrate(from_frame(table()), 3, QUICK)
    assert torch.equal(state, torch.get_rng_state())


def test_a_scale_without_ends():
    scale = Scale("none", 0.0, 2.0, -np.inf, np.inf)
    np.testing.assert_array_equal(scale.invert(scale.apply(np.array([4.0, -1e30]))), [4.0, -1e30])
