"""Forecasts from windows, over segments and over steps: what they see, what they learn, how they are kept."""

import re
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import refold as rf
from refold.data.batch import Batch
from refold.errors import DataError
from refold.forecast import (
    Forecaster,
    Settings,
    evaluate,
    fit_panel,
    from_frame,
    on_panel,
    predict_panel,
)
from refold.forecast.forecaster import pasts_at_end
from refold.forecast.lookback import Lookback, over_segments, over_steps
from refold.forecast.model import OriginNetwork
from refold.forecast.segments import SegmentNetwork
from refold.forecast.sequences import scaled
from refold.forecast.steps import StepNetwork
from refold.forecast.windows import (
    Learner,
    Windows,
    ahead,
    draws,
    first_origins,
    forecast,
    windows_of,
)

QUICK = Settings(over="segments", members=1, steps=20, hidden=16, batch=8)
COURSE = Lookback(
    back=8, horizon=5, segment=4, dilations=(1,), names=("a", "b"), steps=3, together=6, hidden=6, dropout=0.0,
    squared=False,
)  # fmt: skip


def waves(lengths=(60, 45), ids=("a", "b"), offset=50.0) -> pl.DataFrame:
    parts = []
    for name, n in zip(ids, lengths, strict=True):
        t = np.arange(n)
        stamps = pd.date_range("2020-01-01", periods=n, freq="MS").to_numpy()
        y = offset + 0.3 * t + 10 * np.sin(2 * np.pi * t / 12)
        stamps = stamps.astype("datetime64[us]")
        parts.append(pl.DataFrame({"unique_id": [name] * n, "ds": stamps, "y": y}))
    return pl.concat(parts)


def seen(course=COURSE, lengths=(60, 45)):
    """A panel as windows, with what is derived from it."""
    panel = from_frame(waves(lengths))
    data = scaled(panel, course.horizon)
    return windows_of(panel, data, course), panel, data


# The network over segments.


def by_hand(network: SegmentNetwork, x: torch.Tensor, which: int) -> torch.Tensor:
    """SegRNN as published, one window at a time: encode, then each future segment from the last state."""
    p = dict(network.named_parameters())
    w = network.recurrence.parameters_of()

    def gru(e, h):
        r, z = (torch.sigmoid(w[f"{g}.W_x"] @ e + w[f"{g}.W_h"] @ h + w[f"{g}.b"]) for g in "rz")
        n = torch.tanh(w["i.W_x"] @ e + w["i.b"] + r * (w["W_n"] @ h + w["b_n"]))
        return (1 - z) * n + z * h

    h = torch.zeros(6, dtype=torch.float64)
    for segment in x.split(4):
        h = gru(torch.relu(p["embed.weight"] @ segment + p["embed.bias"]), h)
    asked = [torch.cat([position, p["series"][which]]) for position in p["position"]]
    return torch.cat([p["head.weight"] @ gru(q, h) + p["head.bias"] for q in asked])[:5]


def test_the_network_is_segrnn():
    network = SegmentNetwork(COURSE, Settings(over="segments")).double().eval()
    x = torch.randn(3, 2, 8, dtype=torch.float64)
    found = network(x, torch.tensor([1, 0]))
    for i in range(3):
        torch.testing.assert_close(found[i, 0], by_hand(network, x[i, 0], 1))
        torch.testing.assert_close(found[i, 1], by_hand(network, x[i, 1], 0))


@pytest.mark.parametrize("build", [SegmentNetwork, StepNetwork])
def test_an_unknown_series_has_the_mean_of_the_vectors(build):
    network = build(COURSE, Settings()).double().eval()
    x = torch.randn(2, 1, 8, dtype=torch.float64)
    found = network(x, torch.tensor([-1]))
    with torch.no_grad():
        network.series.copy_(network.series.mean(dim=0).expand(2, -1))
    torch.testing.assert_close(found, network(x, torch.tensor([1])))


# What is seen.


@pytest.mark.parametrize("build", [SegmentNetwork, StepNetwork])
def test_a_forecast_sees_its_window_and_nothing_else(build):
    past, _, _ = seen()
    network = build(COURSE, Settings()).eval()
    rows, columns = torch.arange(2), torch.tensor([[30, 30]])
    before = forecast(network, past, rows, columns)
    for step, moves in ((31, False), (22, False), (23, True), (30, True)):
        other = past.z.clone()
        other[:, step] += 1.0
        after = forecast(network, replace(past, z=other), rows, columns)
        assert torch.equal(before, after) != moves


@pytest.mark.parametrize("over", ["segments", "steps"])
def test_a_shifted_series_has_a_shifted_forecast(over):
    quick = replace(QUICK, over=over)
    found = []
    for offset in (-40.0, -140.0):  # negative values: no logarithm is taken
        frame = waves(offset=offset)
        found.append(Forecaster(horizon=4, settings=quick).fit(frame).predict()["y_hat"])
    np.testing.assert_allclose(found[0] - 100, found[1], rtol=1e-4)


def test_a_short_series_is_continued_backwards_with_its_first_value():
    past, _, data = seen(lengths=(60, 5))
    assert past.first.tolist() == [0, 55]
    np.testing.assert_allclose(past.z[1, :56] * past.unit[1], data.values[1][0], rtol=1e-6)
    np.testing.assert_allclose(past.z[1, 55:] * past.unit[1], data.values[1], rtol=1e-6)


def test_from_many_origins_as_from_each_end():
    quick = replace(QUICK, members=2)
    panel = from_frame(waves())
    fitted = fit_panel(panel, 4, quick)
    origins = torch.tensor([40, 55, 59])
    parts = [
        ahead(cast(Any, network), windows_of(panel, fitted.data, cast(Lookback, course)), origins)
        for network, course in zip(fitted.networks, fitted.courses, strict=True)
    ]
    many = torch.stack(parts).mean(dim=0)
    for one, origin in zip(many, origins.tolist(), strict=True):
        early = panel.split(59 - origin)[0] if origin < 59 else panel
        values = predict_panel(on_panel(fitted, early))
        for i, value in enumerate(values):
            mine = fitted.data.invert(i, one[i].double().numpy())
            np.testing.assert_allclose(mine, value, rtol=1e-5)


def test_what_is_seen_from_the_end_is_the_end():
    panel = from_frame(waves())
    data = scaled(panel, 5)
    settings = Settings(over="segments")
    (end,) = pasts_at_end(panel, data, settings, [COURSE], [1.0])
    whole = windows_of(panel, data, COURSE)
    assert isinstance(end, Windows)
    torch.testing.assert_close(end.z, whole.z[:, -8:])


# What is trained on.


class Fixed(torch.nn.Module):
    """A forecast of the last value, moved."""

    spreads = None

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = torch.nn.Parameter(torch.tensor(by))

    def forward(self, windows, own, along):
        return self.by.expand(*windows.shape[:2], 5)


def batch_of(*origins: int) -> Batch:
    return Batch(torch.tensor(origins)[:, None, None].float(), torch.tensor([len(origins)]))


@pytest.mark.parametrize("squared", [False, True])
def test_the_error_is_that_of_targets_that_exist(squared):
    past, _, _ = seen()
    learner = Learner(Fixed(0.3), past, squared)
    # From 57 two steps are known. At 10, the second series (from 15 on) has not begun.
    found, wanted = learner.error(batch_of(57, 10)), []
    for i, origin, known in ((0, 57, 2), (1, 57, 2), (0, 10, 5)):
        ahead_ = past.z[i, origin + 1 : origin + 1 + known] - past.z[i, origin] - 0.3
        wanted.append(ahead_.square() if squared else ahead_.abs())
    torch.testing.assert_close(found, torch.cat(wanted).mean())


def test_first_origins_have_a_full_window_or_a_third_of_the_series():
    past, _, _ = seen(lengths=(60, 12))
    assert first_origins(past).tolist() == [7, 48 + 4]


def test_draws_cover_every_origin_and_repeat_by_seed():
    past, _, _ = seen()
    drawn, number = draws(past, together=200, steps=80, seed=3)
    assert number == 50
    found = torch.cat([one[:, 0] for one in drawn(1).x])
    assert sorted(set(found.tolist())) == list(range(7, 59))
    again, _ = draws(past, together=200, steps=80, seed=3)
    assert torch.equal(torch.cat([one[:, 0] for one in again(1).x]), found)
    assert not torch.equal(torch.cat([one[:, 0] for one in drawn(2).x]), found)


def test_many_series_are_drawn_one_by_one():
    names = [f"s{i}" for i in range(70)]
    panel = from_frame(waves(lengths=[20 + i for i in range(70)], ids=names))
    course = over_segments(panel.seasons, 4, names, 3815, Settings())
    assert course.names == () and course.together == 448
    past = windows_of(panel, scaled(panel, 4), course)
    drawn, _ = draws(past, together=2000, steps=5, seed=0)
    pairs = torch.cat(list(drawn(1).x)).long()
    low = first_origins(past)[pairs[:, 0]]
    assert (pairs[:, 1] >= low).all() and (pairs[:, 1] <= past.columns - 2).all()
    longest = pairs[pairs[:, 0] == 69, 1]
    assert longest.min() == first_origins(past)[69] and longest.max() == past.columns - 2
    assert set(pairs[:, 0].tolist()) == set(range(70))


@pytest.mark.parametrize("over", ["segments", "steps"])
def test_it_learns_what_no_naive_forecast_knows(over):
    # Every season is the mirror of the one before: all naive forecasts are wrong in sign.
    t = np.arange(240)
    sign = np.where((t // 6) % 2 == 0, 1.0, -1.0)
    y = sign * np.array([3.0, 1.0, -2.0, 2.0, -1.0, -3.0])[t % 6]
    panel = from_frame(pl.DataFrame({"ds": t, "y": y}), seasons=(6,))
    settings = Settings(
        over=over, members=1, steps=150, hidden=32, batch=32, dropout=0.0, rate=1e-2
    )
    found = evaluate(panel, 6, settings)
    assert found.model.metrics["MAE"] < 0.2 * found.naive.metrics["MAE"]


def test_series_are_told_apart_by_their_vectors():
    # From a flat window one series always rises by 1, the other falls by 1.
    y = np.tile([0.0, 0.0, 1.0], 40)
    parts = [
        pl.DataFrame({"unique_id": n, "ds": np.arange(120), "y": s * y})
        for n, s in (("a", 1.0), ("b", -1.0))
    ]
    panel = from_frame(pl.concat(parts), seasons=())
    known = panel.split(1)[0]
    settings = Settings(
        over="segments",
        members=1,
        steps=400,
        hidden=16,
        batch=32,
        rate=1e-2,
        look_back=2,
        segment=1,
    )
    up, down = predict_panel(fit_panel(known, 1, replace(settings, dropout=0.0)))
    assert up[0] > 0.5 and down[0] < -0.5


# The forecaster.


@pytest.mark.parametrize("over", ["segments", "steps"])
def test_saved_updated_and_backtested_as_any_other(over, tmp_path):
    frame = waves()
    model = Forecaster("gru", horizon=4, settings=replace(QUICK, over=over, members=2)).fit(frame)
    first = model.predict(level=80)
    model.save(tmp_path / "model")
    again = Forecaster.load(tmp_path / "model")
    assert again.predict(level=80).equals(first)
    newer = waves(lengths=(63, 48)).filter(pl.col("ds") >= pl.datetime(2023, 10, 1))
    both = [one.update(newer).predict(level=80) for one in (model, again)]
    assert both[0].equals(both[1]) and both[0]["ds"][0] == pd.Timestamp("2025-04-01")
    found = model.backtest(windows=2)
    assert found.metrics["method"][-1] == "refold gru" and found.frame.height == 2 * 2 * 4


@pytest.mark.parametrize("over", ["segments", "steps"])
def test_a_new_series_is_forecast_after_an_update(over):
    model = Forecaster(horizon=4, settings=replace(QUICK, over=over)).fit(waves())
    before = model.predict()
    after = model.update(waves(lengths=(40,), ids=("c",))).predict()
    assert after["unique_id"].unique().sort().to_list() == ["a", "b", "c"]
    assert after.filter(pl.col("unique_id") != "c").equals(before)
    assert after["y_hat"].is_finite().all()


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru_cho"])
@pytest.mark.parametrize("over", ["segments", "steps"])
def test_any_cell(cell, over):
    found = Forecaster(cell, horizon=3, settings=replace(QUICK, over=over)).fit(waves()).predict()
    assert found["y_hat"].is_finite().all()


def test_a_cell_that_reads_two_vectors_is_refused():
    @rf.cell
    def two(x=rf.Input("m"), v=rf.Input("k"), h=rf.State("n"), *, a=rf.Affine("n")):
        return rf.tanh(a(x, v, h))

    with pytest.raises(DataError, match="cell two reads x, v"):
        Forecaster(two, horizon=3, settings=QUICK).fit(waves())


def test_same_seed_same_forecast_other_seed_another():
    one, two, other = (
        Forecaster(horizon=4, settings=QUICK, seed=seed).fit(waves()).predict()
        for seed in (0, 0, 1)
    )
    assert one.equals(two) and not one["y_hat"].equals(other["y_hat"])


def test_more_series_than_have_vectors():
    names = [f"s{i}" for i in range(70)]
    frame = waves(lengths=[20 + i % 9 for i in range(70)], ids=names)
    model = Forecaster(horizon=3, settings=QUICK).fit(frame)
    assert model.predict()["y_hat"].is_finite().all()
    assert model.fitted is not None
    assert cast(SegmentNetwork, model.fitted.networks[0]).series.numel() == 0


# Layers.


def test_layers_of_a_recurrence_over_origins():
    settings = Settings(layers=2, dilations=(1, 3), members=1, steps=3, origins=20)
    model = Forecaster(horizon=4, settings=settings).fit(waves())
    assert model.fitted is not None
    layer = cast(OriginNetwork, model.fitted.networks[0]).recurrence
    assert layer.num_layers == 2 and layer.stack == rf.Stack("residual", (1, 3))
    assert model.predict()["y_hat"].is_finite().all()


def test_dilations_follow_the_seasons():
    for seasons, layers, dilations in (
        ((), None, (1,)),
        ((12,), None, (1, 12)),
        ((24, 168), None, (1, 24, 168)),
        ((24, 168), 2, (1, 24)),
        ((), 3, (1, 2, 4)),
        ((12,), 3, (1, 12, 12)),
    ):
        course = over_steps(seasons, 12, ["a"], 500, Settings(over="steps", layers=layers))
        assert course.dilations == dilations


# Rules and refusals.


def test_a_look_back_is_whole_segments():
    hourly = over_segments((24, 168), 720, ["a"], 9000, Settings())
    assert (hourly.segment, hourly.back) == (24, 336)
    weekly = over_segments((52,), 13, ["a"], 900, Settings())
    assert (weekly.segment, weekly.back) == (4, 104)
    given = over_segments((24,), 96, ["a"], 9000, Settings(look_back=100))
    assert (given.segment, given.back) == (24, 120)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"over": "segmnts"}, "over is 'segmnts'.*choose one of origins, segments, steps"),
        ({"error": "cubed"}, "error is 'cubed'.*absolute, squared"),
        ({"look_back": 0}, "look_back is 0"),
        ({"dilations": (1, 0)}, "dilations is .*give whole numbers"),
        ({"dilations": ()}, "dilations is"),
        ({"dilations": (1, 2.5)}, "dilations is"),
        ({"layers": 3, "dilations": (1, 2)}, "3 layers and 2 dilations"),
        ({"over": "segments", "layers": 2}, "over segments has one layer"),
        ({"over": "segments", "dilations": (4,)}, "over segments has one layer"),
    ],
)
def test_what_cannot_be_set(given, text):
    with pytest.raises(DataError) as error:
        Settings(**given)
    assert re.search(text, str(error.value).replace("\n", " "))


# The command.


def test_the_command_says_what_it_recurs_over(refold, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "refold.forecast.Settings", lambda **given: Settings(**{"members": 1, "steps": 3, **given})
    )
    words = ("forecast", "--example", "airpassengers", "--horizon", 12, "--over", "segments")
    code, _, _ = refold(*words, "--out", "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert code == 0 and "over 2 segments of 12 values" in page and "--over segments" in page


def test_the_command_refuses_another_recurrence(refold, tmp_path):
    code, _, err = refold("fit", "--example", "airpassengers", "--horizon", 12, "--over", "hours")
    assert code == 2 and "there is no recurrence over 'hours'" in err
    assert "choose one of origins, segments, steps" in err and not list(tmp_path.iterdir())
