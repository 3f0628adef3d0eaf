"""Covariates over segments and steps: what networks are told of them, what they learn, and every verb."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from shop_tables import ALL, shops

from refold.data import beside as told
from refold.errors import DataError
from refold.forecast import (
    Covariates,
    Forecaster,
    Settings,
    backtest_panel,
    calibrate,
    evaluate,
    fit_panel,
    from_frame,
    predict_panel,
    simulate_panel,
)
from refold.forecast.along import AlongWindows
from refold.forecast.lookback import Lookback
from refold.forecast.segments import SegmentNetwork
from refold.forecast.sequences import scaled
from refold.forecast.steps import StepNetwork
from refold.forecast.windows import forecast, tell, windows_of

WINDOWED = ("segments", "steps")
QUICK = Settings(members=1, steps=5, rate=1e-3, hidden=16, batch=8)
LEARNS = Settings(members=1, steps=120, hidden=32, batch=32, rate=1e-2)


def course(segment: int) -> Lookback:
    return Lookback(
        back=14, horizon=10, segment=segment, dilations=(1,), names=("s0", "s1", "s2"), steps=3, together=6, hidden=6,
        dropout=0.0, squared=False, seasons=(7,),
    )  # fmt: skip


def network_of(build, segment: int):
    """A network before it is trained, and what it sees."""
    panel = from_frame(shops(ahead=10), covariates=ALL)
    past = windows_of(panel, scaled(panel, 10), course(segment))
    torch.manual_seed(0)
    network = build(course(segment), Settings(), past.beside)
    covariates = network.covariates.conditioned
    torch.nn.init.normal_(covariates.effects.weight)  # effects begin at zero
    return network.eval(), past


# What is seen.


@pytest.mark.parametrize(("build", "segment"), [(SegmentNetwork, 7), (StepNetwork, 1)])
@pytest.mark.parametrize("held", ["numbers", "codes"])
@torch.no_grad()
def test_historical_ones_are_seen_in_the_window_and_known_ones_ahead_too(build, segment, held):
    network, past = network_of(build, segment)
    rows, columns = torch.arange(3), torch.full((1, 3), 40)
    before = forecast(network, past, rows, columns)
    assert past.beside is not None
    tensor = getattr(past.beside, held)
    known = past.beside.known_numbers if held == "numbers" else past.beside.known_codes
    for column in range(len(tensor)):
        ahead = column < known
        for step, seen in zip((26, 27, 40, 41, 50, 51), (0, 1, 1, ahead, ahead, 0), strict=True):
            other = tensor.clone()
            other[column, :, step] = 3 - other[column, :, step] if held == "codes" else 2.0
            moved = replace(past, beside=replace(past.beside, **{held: other}))
            after = forecast(network, moved, rows, columns)
            assert torch.equal(before, after) != seen, (column, step)


@pytest.mark.parametrize(("build", "segment"), [(SegmentNetwork, 7), (StepNetwork, 1)])
@torch.no_grad()
def test_what_is_known_of_one_step_changes_that_segment_alone(build, segment):
    """Through the query a segment's own steps, through the correction the step alone."""
    network, past = network_of(build, segment)
    rows, columns = torch.arange(3), torch.full((1, 3), 40)
    assert past.beside is not None
    other = past.beside.numbers.clone()
    other[0, :, 43] += 2.0
    moved = replace(past, beside=replace(past.beside, numbers=other))
    away = forecast(network, moved, rows, columns) - forecast(network, past, rows, columns)
    steps = away[0].abs().sum(dim=0) > 1e-6
    expected = [k == 2 or (segment == 7 and k < 7) for k in range(10)]
    assert steps.tolist() == expected


@torch.no_grad()
def test_static_ones_are_read_and_asked():
    for build, segment in ((SegmentNetwork, 7), (StepNetwork, 1)):
        network, past = network_of(build, segment)
        assert past.beside is not None and isinstance(network.covariates, AlongWindows)
        rows, columns = torch.arange(3), torch.full((1, 3), 40)
        other = replace(past.beside, static_codes=past.beside.static_codes[[1, 0, 1]])
        before, after = (
            forecast(network, each, rows, columns) for each in (past, replace(past, beside=other))
        )
        assert not torch.equal(before, after)
        along = tell(past, rows, columns).along
        assert along is not None
        assert network.covariates.still(along).shape == (3, network.covariates.size)


def test_lags_lie_within_the_window():
    places = told.sources(torch.tensor([[40]]), 10, ((7, 0),))
    assert places.min() == 34


# What is learned.


@pytest.fixture(scope="module")
def without():
    """How well networks do that see no covariates."""
    panel = from_frame(shops(n=160))
    return {over: evaluate(panel, 7, replace(LEARNS, over=over)) for over in WINDOWED}


@pytest.mark.parametrize("over", WINDOWED)
@pytest.mark.parametrize("known", ["promo", "day"])
def test_what_is_known_ahead_is_used_step_by_step(over, known, without):
    frame, settings = shops(n=160), replace(LEARNS, over=over)
    plain = without[over]
    found = evaluate(from_frame(frame, covariates=Covariates(known=[known])), 7, settings)
    assert found.model.metrics["MAE"] < 0.45 * plain.model.metrics["MAE"]


@pytest.mark.parametrize("over", WINDOWED)
def test_a_series_that_hangs_on_a_covariate_wholly(over):
    rng, parts = np.random.default_rng(0), []
    for i in range(4):
        price = rng.normal(size=165)
        y = 20 * price + 0.5 * rng.normal(size=165)
        columns = {"ds": np.arange(165), "y": [*y[:160], *[None] * 5], "price": price}
        parts.append(pl.DataFrame({"unique_id": [f"s{i}"] * 165, **columns}))
    panel = from_frame(pl.concat(parts), seasons=(), covariates=Covariates(known=["price"]))
    found = evaluate(panel, 5, replace(LEARNS, over=over))
    assert found.model.metrics["MAE"] < 0.25 * found.naive.metrics["MAE"]


@pytest.mark.parametrize("over", WINDOWED)
def test_a_historical_covariate_that_runs_ahead_of_the_values(over):
    rng, parts = np.random.default_rng(0), []
    for i in range(6):
        x = rng.normal(size=160)
        y = 10 * np.concatenate([np.zeros(3), x[:-3]]) + 0.5 * rng.normal(size=160)
        parts.append(pl.DataFrame({"unique_id": [f"s{i}"] * 160, "ds": np.arange(160), "y": y, "x": x}))  # fmt: skip
    frame, settings = pl.concat(parts), replace(LEARNS, over=over)
    plain = evaluate(from_frame(frame, seasons=()), 3, settings)
    panel = from_frame(frame, seasons=(), covariates=Covariates(historical=["x"]))
    found = evaluate(panel, 3, settings)
    assert found.model.metrics["MAE"] < 0.6 * plain.model.metrics["MAE"]


@pytest.mark.parametrize("over", WINDOWED)
def test_a_static_category_that_says_which_way_an_event_goes(over):
    rng, parts = np.random.default_rng(0), []
    for i in range(66):  # more than have a vector of their own
        event = (rng.random(100) < 0.05).astype(float)
        event[95:] = [0, 1, 0, 1, 1]
        y = 100 + np.where(i % 2, 30, -30) * event + rng.normal(size=100)
        columns = {"ds": np.arange(100), "y": y, "event": event, "kind": ["ab"[i % 2]] * 100}
        parts.append(pl.DataFrame({"unique_id": [f"s{i}"] * 100, **columns}))
    frame, errors = pl.concat(parts), {}
    for static in ((), ("kind",)):
        panel = from_frame(frame, seasons=(), covariates=Covariates(static, known=["event"]))
        found = evaluate(panel, 5, replace(LEARNS, over=over))
        errors[static] = found.model.metrics["MAE"]
    assert errors[("kind",)] < 0.6 * errors[()], errors


@pytest.mark.parametrize("over", WINDOWED)
def test_without_covariates_a_network_has_no_place_for_them(over):
    fitted = fit_panel(from_frame(shops()), 7, replace(QUICK, over=over))
    network = fitted.networks[0]
    assert network.covariates is None and network.spreads is None


# All verbs.


@pytest.mark.parametrize("head", ["point", "student"])
@pytest.mark.parametrize("over", WINDOWED)
def test_backtests_intervals_folders_and_newer_rows(over, head, tmp_path):
    settings, frame = replace(QUICK, over=over, head=head), shops(n=100)
    panel = from_frame(frame, covariates=ALL)
    for refit in (False, True):
        found = backtest_panel(panel, 7, settings, windows=2, refit=refit, levels=(80.0,))
        assert np.isfinite(found.model.metrics["MAE"]) and "80 % inside" in found.model.metrics
    assert np.isfinite(calibrate(panel, 7, settings, origins=3).scores).all()
    rows = frame.with_columns(n=pl.int_range(pl.len()).over("unique_id"))
    model = Forecaster(horizon=7, settings=settings, covariates=ALL).fit(
        rows.filter(pl.col("n") < 90)
    )
    model.save(tmp_path / "model")
    again = Forecaster.load(tmp_path / "model")
    newer = rows.filter(pl.col("n") >= 85)
    ahead = newer.filter((pl.col("n") >= 90) & (pl.col("n") < 97))
    assert again.predict(future=ahead).equals(model.predict(future=ahead))
    both = [one.update(newer).predict(level=80) for one in (model, again)] if head != "point" else [
        one.update(newer).predict() for one in (model, again)
    ]  # fmt: skip
    assert both[0].equals(both[1])


@pytest.mark.parametrize("over", WINDOWED)
def test_a_series_that_comes_later_has_its_own_covariates(over):
    settings = replace(QUICK, over=over)
    model = Forecaster(horizon=7, settings=settings, covariates=ALL).fit(shops())
    new = shops(count=4, seed=1).filter(unique_id="s3")
    found = model.update(new).predict()
    assert found["unique_id"].unique().len() == 4 and found["y_hat"].is_finite().all()


@pytest.mark.parametrize("over", ["origins", *WINDOWED])
def test_paths_go_on_with_what_is_known_ahead(over):
    settings = replace(QUICK, over=over, head="normal", steps=3, origins=20)
    panel = from_frame(shops(ahead=21), covariates=ALL)
    fitted = fit_panel(panel, 7, settings)
    paths = simulate_panel(fitted, 5, 20)
    assert all(own.shape == (5, 20) and np.isfinite(own).all() for own in paths)
    other = shops(ahead=21).with_columns(
        promo=pl.when(pl.col("y").is_null()).then(1 - pl.col("promo")).otherwise("promo")
    )
    moved = fit_panel(from_frame(other, covariates=ALL), 7, settings)
    assert any((a != b).any() for a, b in zip(simulate_panel(moved, 5, 20), paths, strict=True))
    with pytest.raises(DataError, match="known covariate 'promo' has no value at 2024-04-13"):
        simulate_panel(fit_panel(from_frame(shops(ahead=13), covariates=ALL), 7, settings), 2, 14)


def test_paths_from_a_frame_of_what_is_known_ahead():
    frame = shops()
    settings = replace(QUICK, over="steps", head="student")
    known, ahead = frame.filter(pl.col("y").is_not_null()), frame.filter(pl.col("y").is_null())
    model = Forecaster(horizon=7, settings=settings, covariates=ALL).fit(known)
    with pytest.raises(DataError, match=r"(?s)has no value at 2024-03-31.*future"):
        model.simulate(3)
    found = model.simulate(3, future=ahead)
    whole = Forecaster(horizon=7, settings=settings, covariates=ALL).fit(frame)
    assert found.equals(whole.simulate(3))


@pytest.mark.parametrize("over", WINDOWED)
def test_the_held_out_part_is_not_seen(over):
    frame = shops(count=2)
    late = pl.int_range(pl.len()).over("unique_id") >= 83
    other = frame.with_columns(
        y=pl.when(late).then(pl.col("y") * 3).otherwise("y"),
        warmth=pl.when(late).then(9.0).otherwise("warmth"),
    )
    found = [
        predict_panel(fit_panel(from_frame(f, covariates=ALL).split(7)[0], 7, replace(QUICK, over=over)))
        for f in (frame, other)
    ]  # fmt: skip
    np.testing.assert_array_equal(np.stack(found[0]), np.stack(found[1]))
