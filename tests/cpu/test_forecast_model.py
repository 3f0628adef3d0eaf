"""The forecaster: what it starts as, what it may see, and what it learns."""

import copy
import pickle
from dataclasses import replace

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from refold.data.window import Look
from refold.errors import DataError, EquationError
from refold.forecast import (
    Forecaster,
    Settings,
    baselines,
    evaluate,
    fit_panel,
    from_frame,
    predict_panel,
    verdict,
)
from refold.forecast.course import Course
from refold.forecast.forecaster import on_panel
from refold.forecast.model import OriginNetwork

QUICK = Settings(members=1, steps=30, origins=40)
LOOK = Look((), horizon=4, recent=12, blocks=2)
COURSE = Course(
    LOOK, stride=1, origins=6, counted=4, span=9, steps=1, batch=2, hidden=8, dropout=0.0, noise=0.0,
    lines=False,
)  # fmt: skip


def parts(origins: int = 6, chains: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, bases and expected errors at random."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((origins, 3), (4, 2, 4), (4, 4))
    features, bases, expected = (
        torch.randn(lead, chains, *rest, generator=generator) for lead, *rest in sizes
    )
    return features, bases, expected.abs()


def waves(lengths=(60, 45), ids=("a", "b"), start="2020-01-01") -> pl.DataFrame:
    parts = []
    for name, n in zip(ids, lengths, strict=True):
        t = np.arange(n)
        y = 50 + 0.3 * t + 10 * np.sin(2 * np.pi * t / 12)
        stamps = pd.date_range(start, periods=n, freq="MS").to_numpy().astype("datetime64[us]")
        parts.append(pl.DataFrame({"unique_id": [name] * n, "ds": stamps, "y": y}))
    return pl.concat(parts)


# The network.


def test_an_untrained_network_is_the_mean_of_its_continuations():
    network = OriginNetwork(3, 2, 4, COURSE, Settings()).eval()
    assert isinstance(network.correction, torch.nn.Sequential)  # many walks
    for part in (network.gate, network.correction[-1]):
        assert isinstance(part, torch.nn.Linear)
        torch.nn.init.zeros_(part.weight)
    features, bases, expected = parts()
    torch.testing.assert_close(network(features, bases, expected), bases.mean(dim=-2))


def test_one_continuation_is_corrected_and_not_weighted():
    network = OriginNetwork(3, 1, 4, COURSE, Settings()).eval()
    features, bases, expected = parts()
    assert network.gate is None
    flat = network(features, bases[:, :, :1], 0.0 * expected)
    torch.testing.assert_close(flat, bases[:, :, 0])
    away = network(features, bases[:, :, :1], expected) - flat
    torch.testing.assert_close(network(features, bases[:, :, :1], 3 * expected) - flat, 3 * away)
    assert away.abs().max() > 0


def test_the_correction_is_in_units_of_the_expected_error():
    network = OriginNetwork(3, 2, 4, COURSE, Settings()).eval()
    features, bases, expected = parts()
    plain = network(features, bases, 0.0 * expected)
    once, twice = (network(features, bases, k * expected) - plain for k in (1.0, 2.0))
    assert once.abs().max() > 0
    torch.testing.assert_close(2 * once, twice)


def test_later_origins_do_not_reach_earlier_forecasts():
    network = OriginNetwork(3, 2, 4, COURSE, Settings()).eval()
    features, bases, expected = parts()
    other = features.clone()
    other[4:] += 1.0
    first, second = network(features, bases, expected), network(other, bases, expected)
    torch.testing.assert_close(first[:2], second[:2], rtol=0, atol=0)
    assert (first[2:] != second[2:]).any()


# What it learns.


def test_it_learns_what_no_naive_forecast_knows():
    # Every season is the mirror of the one before: all continuations are wrong in sign.
    t = np.arange(240)
    sign = np.where((t // 6) % 2 == 0, 1.0, -1.0)
    y = sign * np.array([3.0, 1.0, -2.0, 2.0, -1.0, -3.0])[t % 6]
    frame = pl.DataFrame({"ds": t, "y": y})
    found = evaluate(from_frame(frame, seasons=(6,)), 6, replace(QUICK, steps=90))
    assert found.model.metrics["MAE"] < 0.2 * found.naive.metrics["MAE"]


def test_same_seed_same_forecast_other_seed_another():
    frame = waves()
    first = Forecaster("gru", horizon=4, settings=QUICK).fit(frame).predict()
    again = Forecaster("gru", horizon=4, settings=QUICK).fit(frame).predict()
    other = Forecaster("gru", horizon=4, settings=QUICK, seed=1).fit(frame).predict()
    assert first.equals(again)
    assert not first["y_hat"].equals(other["y_hat"])


def test_a_forecast_leaves_the_random_state_and_threads_alone():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    Forecaster(horizon=3, settings=QUICK).fit(waves())
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_units_do_not_matter():
    frame = waves()
    first = Forecaster(horizon=4, settings=QUICK).fit(frame).predict()["y_hat"]
    scaled = frame.with_columns(pl.col("y") * 1e6)
    second = Forecaster(horizon=4, settings=QUICK).fit(scaled).predict()["y_hat"]
    np.testing.assert_allclose(second / 1e6, first, rtol=2e-3)


@pytest.mark.parametrize("size", [1e-200, 1e-12, 1e200])
def test_units_of_any_size_do_not_matter(size):
    t = np.arange(90)
    forecasts = []
    for factor in (1.0, size):
        frame = pl.DataFrame({"ds": t, "y": factor * np.sin(2 * np.pi * t / 7)})
        model = Forecaster(horizon=7, settings=QUICK, seasons=(7,)).fit(frame)
        forecasts.append(model.predict()["y_hat"].to_numpy() / factor)
    np.testing.assert_allclose(forecasts[1], forecasts[0], atol=2e-3)


@pytest.mark.parametrize("cell", ["elman", "gru", "gru_cho", "lstm"])
def test_any_cell(cell):
    forecast = Forecaster(cell, horizon=3, settings=QUICK).fit(waves()).predict()
    assert forecast["y_hat"].is_finite().all()


def test_constant_zero_and_negative_series():
    t = np.arange(30)
    for y in (np.full(30, 7.0), np.zeros(30), -5.0 + np.sin(t)):
        frame = pl.DataFrame({"ds": t, "y": y})
        f = Forecaster(horizon=3, settings=QUICK).fit(frame).predict()["y_hat"].to_numpy()
        np.testing.assert_allclose(f, y.mean(), atol=1.5)


def test_the_shortest_series_that_is_taken():
    frame = pl.DataFrame({"ds": np.arange(9), "y": np.arange(9) ** 2.0})
    assert Forecaster(horizon=3, settings=QUICK).fit(frame).predict().height == 3
    with pytest.raises(DataError, match=r"(?s)has 8 points; horizon 3 needs 9.*at most 2"):
        Forecaster(horizon=3, settings=QUICK).fit(frame.head(8))


def test_beside_a_long_series_one_point_is_enough():
    frame = waves((1, 2, 40), ("a", "b", "c"))
    found = Forecaster(horizon=3, settings=QUICK).fit(frame).predict()
    assert found["y_hat"].is_finite().all() and found.height == 9
    first = found.filter(unique_id="a")["y_hat"].to_numpy()
    np.testing.assert_allclose(first, frame["y"][0], rtol=0.3)


def test_networks_go_on_from_other_rows_without_training():
    panel = from_frame(waves((60, 45)))
    early, _ = panel.split(5)
    fitted = fit_panel(early, 4, QUICK)
    same = on_panel(fitted, early)
    for first, again in zip(predict_panel(fitted), predict_panel(same), strict=True):
        np.testing.assert_allclose(first, again, rtol=1e-5)
    later = on_panel(fitted, panel)
    assert later.networks is fitted.networks and later.data.scales == fitted.data.scales
    for f, s in zip(predict_panel(later), panel.series, strict=True):
        assert np.abs(f - s.values[-12:-8]).mean() < np.abs(f - s.values[-17:-13]).mean()


def test_values_that_the_networks_have_no_place_for_are_refused():
    frame = waves((30,), ("a",))
    fitted = fit_panel(from_frame(frame), 3, QUICK)
    spoiled = from_frame(frame.with_columns(y=pl.col("y") - 55))
    with pytest.raises(DataError, match=r"(?s)series a is -5 at 2020-01-01.*trained on positive"):
        on_panel(fitted, spoiled)


def test_a_series_of_which_nothing_is_left_is_refused():
    panel = from_frame(waves((3, 40), ("a", "b")))
    with pytest.raises(DataError, match=r"(?s)series a has 3 points, and 3 are held out.*leave it"):
        evaluate(panel, 3, QUICK)


# Doors.


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_the_forecast_comes_in_the_kind_of_frame_that_was_given(kind):
    frame = waves()
    arrays = {name: frame[name].to_numpy() for name in ("ds", "y")}
    columns = {"unique_id": frame["unique_id"].to_list(), **arrays}
    given = {"pandas": pd.DataFrame(columns), "polars": frame}.get(kind)
    if given is None:
        given = pytest.importorskip("pyarrow").table(columns)
    forecast = Forecaster(horizon=3, settings=QUICK).fit(given).predict()
    assert type(forecast) is type(given)
    rows_ = nw.from_native(forecast).rows(named=True)
    assert list(rows_[0]) == ["unique_id", "ds", "y_hat"]
    assert [row["unique_id"] for row in rows_] == ["a"] * 3 + ["b"] * 3
    days = [str(row["ds"])[:10] for row in rows_]
    assert days[:3] == ["2025-01-01", "2025-02-01", "2025-03-01"]
    assert days[3:] == ["2023-10-01", "2023-11-01", "2023-12-01"]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("kind", ["pandas", "polars", "lazy"])
def test_a_fitted_forecaster_is_copied_and_pickled(kind, again):
    frame = pl.DataFrame({"ds": np.arange(20), "y": np.arange(20) % 4 + 1.0})
    given = {"pandas": pd.DataFrame(frame.to_dict()), "lazy": frame.lazy()}.get(kind, frame)
    model = Forecaster(horizon=2, settings=QUICK).fit(given)
    first, second = model.predict(), again(model).predict()
    assert type(first) is type(second) and first.equals(second)


def test_ids_and_dates_come_back_as_they_were():
    days = pl.date_range(pl.date(2024, 1, 1), pl.date(2024, 1, 20), eager=True)
    frame = pl.DataFrame({"unique_id": [7] * 20, "ds": days, "y": np.arange(20.0)})
    found = Forecaster(horizon=2, settings=QUICK).fit(frame).predict()
    assert found.schema["unique_id"] == pl.Int64 and found.schema["ds"] == pl.Date
    assert found["unique_id"].to_list() == [7, 7] and str(found["ds"][0]) == "2024-01-21"


def test_columns_that_cannot_be_read():
    model = Forecaster(horizon=2, settings=QUICK)
    periods = pd.DataFrame({"ds": pd.period_range("2024", periods=20, freq="M"), "y": range(20)})
    with pytest.raises(DataError, match=r"(?s)frame, column ds.*cannot be read.*give dates"):
        model.fit(periods)
    twice = pd.DataFrame([[1, 2.0, 3.0]], columns=pd.Index(["ds", "y", "y"]))
    with pytest.raises(DataError, match="two columns have the same name"):
        model.fit(twice)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"horizon": 2.5}, "the horizon is 2.5"),
        ({"horizon": "3"}, "the horizon is '3'"),
        ({"seasons": 7}, "the seasons are 7"),
        ({"seasons": (7.5,)}, r"the seasons are \(7.5,\)"),
        ({"seasons": (0,)}, r"the seasons are \(0,\)"),
        ({"freq": 7}, "freq is 7"),
        ({"seed": "a"}, "the seed is 'a'"),
        ({"cell": lambda x: x}, "the cell is a function"),
    ],
)
def test_settings_of_a_forecaster_that_are_refused(given, text):
    with pytest.raises(DataError, match=text):
        Forecaster(**{"horizon": 3, **given})


def test_an_unknown_cell_is_refused_at_once():
    with pytest.raises(EquationError, match='no cell "elmann"'):
        Forecaster("elmann", horizon=3)


def test_frames_that_are_refused():
    model = Forecaster(horizon=3, settings=QUICK)
    with pytest.raises(DataError, match="a list is no data frame"):
        model.fit([1, 2, 3])
    with pytest.raises(DataError, match="no column 'y'; there are: ds, x"):
        model.fit(pl.DataFrame({"ds": [1, 2], "x": [1.0, 2.0]}))
    with pytest.raises(DataError, match="there are no rows"):
        model.fit(pl.DataFrame({"ds": [], "y": []}))
    with pytest.raises(DataError, match="series y has no observed value"):
        model.fit(pl.DataFrame({"ds": [1, 2], "y": [float("nan"), None]}))
    with pytest.raises(DataError, match="row 1 has no time"):
        model.fit(pl.DataFrame({"ds": [1, None], "y": [1.0, 2.0]}))
    with pytest.raises(DataError, match="has not been fitted"):
        model.predict()
    with pytest.raises(DataError, match="the horizon is 0"):
        Forecaster(horizon=0).fit(waves())


def test_settings_that_are_refused():
    with pytest.raises(DataError, match="hidden is 0"):
        Settings(hidden=0)
    with pytest.raises(DataError, match="steps is 0"):
        Settings(steps=0)


# The comparison.


def test_the_held_out_part_is_not_seen():
    frame = waves((70,), ("a",))
    spoiled = frame.with_columns(
        y=pl.when(pl.int_range(pl.len()) >= 66).then(1e6).otherwise(pl.col("y"))
    )
    found = [evaluate(from_frame(f, holdout=4), 4, QUICK) for f in (frame, spoiled)]
    for first, second in zip(found[0].rows, found[1].rows, strict=True):
        np.testing.assert_array_equal(first.forecasts[0], second.forecasts[0])
    assert found[1].model.metrics["MAE"] > 1e5


def test_every_table_has_the_simple_rows():
    found = evaluate(from_frame(waves()), 4, QUICK)
    assert [row.name for row in found.rows] == [
        "Naive", "Seasonal naive", "Linear autoregression", "refold gru",
    ]  # fmt: skip
    assert found.ranked_by == "MASE"
    known = found.known.series[1].values
    np.testing.assert_array_equal(found.rows[1].forecasts[1], known[-12:-8])
    linear = baselines.autoregression(known, (12,)).predict(known, 4)
    np.testing.assert_array_equal(found.linear.forecasts[1], linear)
    by_hand = [
        np.abs(found.held_out.series[i].values - row).mean()
        for i, row in enumerate(found.naive.forecasts)
    ]
    assert found.naive.metrics["MAE"] == pytest.approx(np.mean(by_hand))


def test_two_seasons_are_two_rows():
    t = np.arange(200)
    panel = from_frame(pl.DataFrame({"ds": t, "y": np.sin(t)}), seasons=(6, 24))
    names = [row.name for row in evaluate(panel, 3, QUICK).rows]
    assert names[1:3] == ["Seasonal (6) naive", "Seasonal (24) naive"]


def ranked(model: float, naive: float, linear: float) -> str:
    """The verdict for rows with these errors."""
    found = evaluate(from_frame(waves((40,), ("a",))), 2, replace(QUICK, steps=1))
    wanted = {"Naive": naive, "Seasonal naive": naive + 1, "Linear autoregression": linear}
    rows = [
        replace(row, metrics={**row.metrics, "MAE": wanted.get(row.name, model)})
        for row in found.rows
    ]
    return " ".join(verdict(replace(found, rows=tuple(rows))))


def test_the_verdict_says_who_wins():
    won = ranked(model=1.0, naive=4.0, linear=2.0)
    assert "beats the naive forecasts" in won and "75% lower" in won and "50% lower" in won
    lost = ranked(model=4.0, naive=2.0, linear=3.0)
    assert "does NOT beat the naive forecasts" in lost and "Naive has 2" in lost
    assert "linear autoregression is better: 3" in lost
    assert "as good" in ranked(model=1.0, naive=2.0, linear=1.0)
    assert "less than 1% lower" in ranked(model=1.0, naive=1.001, linear=1.0)


def test_a_panel_goes_through_by_hand():
    panel = from_frame(waves())
    fitted = fit_panel(panel, 4, QUICK)
    values = predict_panel(fitted)
    assert [len(v) for v in values] == [4, 4]
    assert fitted.parameters == sum(p.numel() for p in fitted.networks[0].parameters())
    assert [run.steps for run in fitted.runs] == [QUICK.steps] * QUICK.members
