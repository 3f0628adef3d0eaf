"""Sampled paths: their distribution, how their steps hang together, feeding back, and the doors."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from forecast_cases import QUICK, table, waves

from refold.errors import DataError
from refold.forecast import (
    Calibration,
    Forecaster,
    Settings,
    fit_panel,
    from_frame,
    paths_csv,
    predict_distribution,
    predict_panel,
    predicted,
    predicted_longer,
    simulate_panel,
)
from refold.forecast.forecaster import on_panel
from refold.forecast.intervals import moved, unit_of
from refold.forecast.simulate import _ranks, _scores_seen

HEADED = ("normal", "student", "quantiles", "poisson", "negative_binomial")


def counts() -> pl.DataFrame:
    return waves().with_columns(pl.col("y").round())


@pytest.fixture(scope="module", params=HEADED)
def fitted(request):
    return fit_panel(from_frame(counts(), seasons=(6,)), 3, replace(QUICK, head=request.param))


@pytest.fixture(scope="module")
def walk():
    """A random walk of steps of 1, and networks with a normal head for it, 4 steps ahead."""
    steps = np.random.default_rng(3).normal(size=(6, 220))
    panel = from_frame(table(steps.cumsum(axis=1)), seasons=())
    return fit_panel(panel, 4, Settings(members=1, head="normal", hidden=16, steps=200))


# Within the trained horizon


def test_paths_have_the_distribution_of_the_forecast(fitted):
    found, spread = simulate_panel(fitted, 400), predict_distribution(fitted)
    assert [own.shape for own in found] == [(400, 3)] * 2
    assert spread is not None
    for share in (0.1, 0.5, 0.9):
        for own, wanted in zip(found, spread.quantile(share), strict=True):
            below = (own < wanted).mean(axis=0)
            upto = (own <= wanted).mean(axis=0)
            # 400 draws: a standard error of 2.5 points at most.
            assert (below < share + 0.08).all() and (upto > share - 0.08).all()


def test_steps_of_a_path_hang_together(walk):
    (own, *_) = simulate_panel(walk, 500)
    apart = np.corrcoef(own[:, 0], own[:, 3])[0, 1]
    assert 0.25 < apart < 0.8  # of a random walk 1 and 4 steps ahead: 0.5
    shares = _ranks(_scores_seen(walk))
    assert np.corrcoef(shares[:, 0], shares[:, 3])[0, 1] == pytest.approx(apart, abs=0.15)


def test_ranks_count_from_the_lowest():
    scores = np.array([[3.0, 1.0], [1.0, 2.0], [2.0, 0.0]])
    np.testing.assert_array_equal(_ranks(scores), [[2, 1], [0, 2], [1, 0]])


def test_paths_of_point_forecasts_are_whole_vectors_of_errors():
    fitted = fit_panel(from_frame(waves(), seasons=(6,)), 3, QUICK)
    scores = np.array([[-1.0, 0.0, 2.0], [0.5, 0.5, -3.0]])
    calibration = Calibration(scores, "log", "both", 1, 2)
    found = simulate_panel(fitted, 60, calibration=calibration)
    for series, f, own in zip(fitted.panel.series, predict_panel(fitted), found, strict=True):
        scale = unit_of(series.values, "log", 6)
        both = np.stack([moved(f, row, scale) for row in scores])
        away = np.abs(own[:, None] / both - 1).max(axis=-1)
        assert (away.min(axis=1) < 1e-6).all()
        assert 10 < (away.argmin(axis=1) == 0).sum() < 50


# Beyond it


def test_uncertainty_grows_as_samples_are_fed_back(walk):
    paths = np.concatenate([own - own[:, :1] for own in simulate_panel(walk, 40, 25)])
    first, last = paths[:, 4].std(), paths[:, 24].std()
    assert last / first == pytest.approx((24 / 4) ** 0.5, rel=0.35)


def test_a_block_is_forecast_from_what_was_drawn_before_it(walk):
    """Paths that stand high after a block go on from there."""
    (own, *_) = simulate_panel(walk, 200, 8)
    assert np.corrcoef(own[:, 3], own[:, 7])[0, 1] > 0.5
    jumps = np.abs(own[:, 4] - own[:, 3]).mean()
    assert jumps == pytest.approx(np.abs(np.diff(own[:, :4])).mean(), rel=0.5)


def test_same_seed_same_paths_and_more_paths_begin_with_the_same(fitted):
    few, more = simulate_panel(fitted, 5, 8), simulate_panel(fitted, 9, 8)
    other = simulate_panel(fitted, 5, 8, seed=1)
    for a, b, c in zip(few, more, other, strict=True):
        # A count may fall on the other side of a rounding where products are summed otherwise.
        np.testing.assert_allclose(a, b[:5], rtol=1e-3, atol=0)
        assert (a != c).any()


def test_a_longer_path_begins_with_the_shorter(fitted):
    short, long = simulate_panel(fitted, 6, 2), simulate_panel(fitted, 6, 7)
    for a, b in zip(short, long, strict=True):
        assert b.shape == (6, 7)
        np.testing.assert_array_equal(a, b[:, :2])


def test_counts_stay_counts(fitted):
    if fitted.settings.head in ("poisson", "negative_binomial"):
        for own in simulate_panel(fitted, 10, 9):
            np.testing.assert_array_equal(own, own.round())
            assert (own >= 0).all()


def test_a_count_that_was_never_zero_may_come_to_be():
    y = np.random.default_rng(2).poisson(2, size=60) + 1
    fitted = fit_panel(from_frame(table(y)), 3, replace(QUICK, head="poisson"))
    assert fitted.data.transform == "sqrt"
    paths = np.concatenate(simulate_panel(fitted, 60, 9))
    assert (paths[:, :3] == 0).any() and np.isfinite(paths).all()


def test_a_longer_forecast_is_the_forecast_and_then_the_middle_of_paths(fitted):
    near, far = predicted(fitted, None, [80]), predicted_longer(fitted, 6, None, [80])
    paths = simulate_panel(fitted, 200, 6, fitted.settings.seed)
    centre = np.mean if fitted.settings.head in ("poisson", "negative_binomial") else np.median
    for i, own in enumerate(paths):
        np.testing.assert_array_equal(far.values[i][:3], near.values[i])
        np.testing.assert_array_equal(far.values[i][3:], centre(own[:, 3:], axis=0))
        np.testing.assert_array_equal(far.bands[0].high[i][:3], near.bands[0].high[i])
        high = np.quantile(own[:, 3:], 0.9, axis=0)
        np.testing.assert_allclose(far.bands[0].high[i][3:], high)
    short = predicted_longer(fitted, 2, None, [80])
    np.testing.assert_array_equal(short.values[1], near.values[1][:2])
    np.testing.assert_array_equal(short.bands[0].low[1], near.bands[0].low[1][:2])


def test_a_series_too_short_to_have_been_forecast_is_drawn_step_by_step():
    short = table([np.arange(9.0) ** 1.5])
    fitted = fit_panel(from_frame(short), 3, replace(QUICK, head="normal"))
    assert all(np.isfinite(own).all() for own in simulate_panel(fitted, 20, 5))


def test_paths_are_drawn_in_parts_without_a_difference(walk, monkeypatch):
    whole = simulate_panel(walk, 7, 6)
    monkeypatch.setattr("refold.forecast.simulate._TOGETHER", 12)  # two paths of six series
    for a, b in zip(whole, simulate_panel(walk, 7, 6), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


# The doors


def test_simulate_comes_in_the_kind_of_frame_that_was_given():
    model = Forecaster(horizon=3, seasons=(6,), settings=replace(QUICK, head="student"))
    found = model.fit(waves().to_pandas()).simulate(4, horizon=5)
    assert list(found.columns) == ["unique_id", "ds", "path", "y_hat"] and len(found) == 2 * 4 * 5
    first = found[(found.unique_id == "s1") & (found.path == 2)]
    assert first.ds.tolist() == [72, 73, 74, 75, 76]
    assert model.fitted is not None
    own = simulate_panel(model.fitted, 4, 5)[1]
    np.testing.assert_array_equal(first.y_hat, own[1])
    assert paths_csv(model.fitted.panel, [own, own]).splitlines()[0] == "unique_id,ds,path,y_hat"


def test_a_point_forecaster_measures_its_errors_first():
    model = Forecaster(horizon=3, seasons=(6,), settings=QUICK).fit(waves())
    assert model.simulate(2).height == 12 and model.calibration is not None
    longer = model.predict(level=80, horizon=7)
    assert longer.height == 14 and longer["y_hat-hi-80"].is_finite().all()
    assert model.predict(horizon=2).height == 4
    assert longer.filter(unique_id="s0")["y_hat"][:3].equals(model.predict()["y_hat"][:3])


def test_paths_of_positive_series_are_positive():
    model = Forecaster(horizon=3, seasons=(6,), settings=QUICK).fit(waves()).calibrate()
    assert model.fitted is not None and model.calibration is not None
    wild = replace(model.calibration, scores=200 * model.calibration.scores)
    for own in simulate_panel(model.fitted, 20, 9, calibration=wild):
        assert (own > 0).all() and np.isfinite(own).all()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"paths": 0}, r"paths is 0\ngive a whole number of at least 1"),
        ({"paths": 2.5}, r"paths is 2\.5"),
        ({"paths": True}, "paths is True"),
        ({"horizon": 0}, "horizon is 0"),
        ({"seed": -1}, r"seed is -1\ngive a whole number of at least 0"),
    ],
)
def test_numbers_that_are_refused(given, text):
    model = Forecaster(horizon=3, settings=QUICK).fit(waves())
    with pytest.raises(DataError, match=text):
        model.simulate(**given)


def test_a_point_forecast_without_errors_is_refused():
    fitted = fit_panel(from_frame(waves()), 3, QUICK)
    with pytest.raises(DataError, match=r"(?s)says nothing of its certainty.*calibrate first"):
        simulate_panel(fitted)
    with pytest.raises(DataError, match="calibrate first"):
        predicted_longer(fitted, 4)
    with pytest.raises(DataError, match="has not been fitted"):
        Forecaster(horizon=3).simulate()


def test_newer_rows_move_the_paths(walk):
    panel = walk.panel
    early = on_panel(walk, panel.split(5)[0])
    assert not np.array_equal(simulate_panel(early, 3)[0], simulate_panel(walk, 3)[0])
