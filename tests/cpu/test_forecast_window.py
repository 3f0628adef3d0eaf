"""Windows: what is known at an origin, and nothing that comes after it; and the rules for them."""

import dataclasses
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from refold.data import window
from refold.data.scale import Scale, choose_transform
from refold.data.window import Look, Past
from refold.forecast.course import course
from refold.forecast.model import OriginNetwork
from refold.forecast.panel import Panel, from_frame
from refold.forecast.sequences import (
    Learner,
    Measured,
    chain,
    draws,
    first_origins,
    measured,
    naive_lag,
    past_of,
    scaled,
    with_lines,
)
from refold.forecast.settings import Settings

WAVES = Look(seasons=(4,), horizon=6, recent=5, blocks=2)
WALKS = Look(seasons=(8,), horizon=3, recent=12, blocks=3, back=2)


def one(z: np.ndarray, look: Look, step: int, what=window.continuations) -> torch.Tensor:
    """What a function of windows gives at one step of one series."""
    found = window.past([z], look, len(z))
    back = len(z) - 1 - step
    return what(found, torch.tensor([0]), torch.tensor([[found.columns - 1 - back]]))[0, 0]


def close(found: torch.Tensor, wanted: Any) -> None:
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_continuations_of_waves_by_hand():
    z = np.arange(40.0) + np.tile([0.0, 10.0, -3.0, 5.0], 10)
    level = z[27:31].mean()
    found = dict(zip(WAVES.names, one(z, WAVES, 30) + level, strict=True))
    ahead = np.arange(1, 7)
    close(found["last value"], np.full(6, z[30]))
    close(found["season 4"], [z[27], z[28], z[29], z[30], z[27], z[28]])
    # A straight line plus a season: moved to today's level, the last season is what comes.
    close(found["season 4 + level"], z[30 + ahead])
    close(found["2 seasons of 4 ago"], [z[23], z[24], z[25], z[26], z[23], z[24]])
    close(found["2 seasons of 4 ago + level"], z[30 + ahead])
    close(found["drift of 6"], z[30] + ahead * (z[30] - z[24]) / 6)
    close(found["mean"], np.full(6, z[25:31].mean()))


def test_continuations_of_walks_by_hand():
    z = np.random.default_rng(0).normal(size=40).cumsum()
    found = dict(zip(WALKS.names, one(z, WALKS, 30) + z[30], strict=True))
    ahead = np.arange(1, 4)
    close(found["season 8 + level"], z[30] + z[30 + ahead - 8] - z[22])
    close(found["2 seasons of 8 ago + level"], z[30] + z[30 + ahead - 16] - z[14])
    for width in (1, 3, 8):
        close(found[f"drift of {width}"], z[30] + ahead * (z[30] - z[30 - width]) / width)


def test_a_drift_is_over_what_exists():
    z = np.array([1.0, 3.0, 5.0, 9.0])
    found = dict(zip(WALKS.names, one(z, WALKS, 2), strict=True))
    close(found["drift of 8"], [2.0, 4.0, 6.0])


def test_a_linear_forecast_is_one_more_continuation():
    z, line = np.arange(30.0), np.arange(90.0).reshape(30, 3)
    found = window.past([z], WALKS, 30, [line])
    rows, columns = torch.tensor([0]), torch.tensor([[found.columns - 6]])
    close(window.continuations(found, rows, columns)[0, 0, -1], line[24] - z[24])
    assert found.bases == len(WALKS.names) + 1


def test_units_and_expected_errors_by_hand():
    z = np.random.default_rng(1).normal(size=60).cumsum()
    step = np.abs(np.diff(z))[42:50].mean()
    close(one(z, WALKS, 50, window.unit), 3 * step)
    close(one(z, WALKS, 50, window.expected), step * np.sqrt([1, 2, 3]))
    close(one(z, WAVES, 50, window.unit), z[43:51].std())


def test_a_season_that_repeats_is_expected_to_err_little():
    z = np.tile([0.0, 10.0, -3.0, 5.0], 10) + 0.01 * np.random.default_rng(2).normal(size=40)
    assert one(z, WAVES, 35, window.expected).max() < 0.1


def test_padding_repeats_the_first_season_of_waves_and_the_first_value_of_walks():
    found = window.past([np.array([1.0, 2.0, 3.0, 4.0, 5.0])], WAVES, 5).z[0, -9:]
    close(found, [1, 2, 3, 4, 1, 2, 3, 4, 5])
    close(window.past([np.array([7.0, 8.0])], WAVES, 2).z[0, -4:], [7, 7, 7, 8])
    close(window.past([np.arange(9.0)], WALKS, 9).z[0, -11:], [0, 0, *range(9)])


def test_series_end_together_and_only_what_is_looked_at_is_kept():
    long, short = np.arange(100.0), np.arange(7.0)
    found = window.past([long, short], WAVES, 20)
    assert found.columns == 20 + WAVES.reach
    close(found.z[0], long[-found.columns :])
    close(found.z[1, -7:], short)
    assert found.first.tolist() == [0, found.columns - 7]


def test_targets_end_with_the_series():
    found = window.past([np.array([1.0, 2.0, 3.0])], Look((), 2, 9, 1), 3)
    columns = found.columns - 3 + torch.arange(3)[:, None]
    goal, exists = window.targets(found, torch.tensor([0]), columns)
    close(goal[0, 0], [2, 3])
    assert exists[:, 0].tolist() == [[True, True], [True, False], [False, False]]


@pytest.mark.parametrize("look", [WAVES, WALKS])
def test_nothing_that_comes_after_an_origin_is_seen(look):
    z = np.random.default_rng(3).normal(size=80).cumsum()
    later = z.copy()
    later[60:] *= 3.0
    pair = [window.past([y], look, 80) for y in (z, later)]
    columns = (pair[0].columns - 80 + torch.arange(30, 80))[:, None]
    for what in (window.seen, window.continuations, window.expected, window.unit):
        # What is usual over all series is a floor under the units, and comes from the very end.
        pair = [replaced(one, usual=1e-6) for one in pair]
        first, second = (what(one, torch.tensor([0]), columns) for one in pair)
        torch.testing.assert_close(first[:30], second[:30], rtol=0, atol=0)
        assert (first[30:] != second[30:]).flatten(1).any(dim=1).all()


def replaced(past: Past, **given) -> Past:
    return dataclasses.replace(past, **given)


@pytest.mark.parametrize("look", [WAVES, WALKS])
def test_units_of_a_series_do_not_reach_the_features(look):
    z = np.random.default_rng(4).normal(size=60).cumsum()
    torch.testing.assert_close(
        one(z, look, 50, window.seen),
        one(1000 * z + 7, look, 50, window.seen),
        rtol=1e-3,
        atol=1e-3,
    )


def test_features_are_cut():
    z = np.concatenate([np.zeros(30), 1e3 + np.arange(20) % 2])
    assert one(z, WALKS, 40, window.seen).abs().max() == 6.0


@pytest.mark.parametrize(
    ("values", "transform"),
    [([1.0, 4.0, 9.0], "log"), ([0.0, 4.0, 9.0], "sqrt"), ([-1.0, 4.0, 9.0], "none")],
)
def test_scales_go_there_and_back(values, transform):
    y = np.array(values)
    assert choose_transform([y]) == transform
    scale = Scale.fit(y, transform)
    z = scale.apply(y)
    np.testing.assert_allclose([z.mean(), z.std()], [0, 1], atol=1e-12)
    np.testing.assert_allclose(scale.invert(z), y, atol=1e-12)


def test_one_series_with_a_zero_takes_the_logarithm_from_all():
    assert choose_transform([np.array([1.0, 2.0]), np.array([0.0, 2.0])]) == "sqrt"


def test_a_constant_series_has_a_scale():
    scale = Scale.fit(np.full(5, 0.1 + 0.2), "log")
    assert scale.unit == 1.0
    np.testing.assert_allclose(scale.invert(np.zeros(2)), [0.3, 0.3])


def test_a_diverging_forecast_is_cut_off():
    scale = Scale.fit(np.array([1.0, 2.0, 3.0, 4.0]), "log")
    assert np.isfinite(scale.invert(np.array([1e9]))).all()


# Courses: the rules.


def test_many_series_are_looked_at_less_far_back_than_few():
    many, some, few = (course((), 6, [80] * n, Settings()) for n in (23000, 500, 1))
    assert (many.span, some.span, few.span) == (14, 60, 80)
    assert many.batch == 512 and few.batch == 16
    assert many.hidden == 128 and few.hidden == 32
    assert few.lines and not some.lines
    assert few.noise > many.noise and few.dropout > many.dropout


def test_strides_divide_the_season_of_waves():
    strides = [course((12,), 12, [n], Settings()).stride for n in (60, 144, 400, 10**4)]
    assert strides == [1, 3, 12, 12]


def test_members_look_at_other_windows():
    courses = [course((52,), 13, [1000] * 400, Settings(), member) for member in range(4)]
    assert len({(c.stride, c.look.back) for c in courses}) == 4


def test_many_series_without_a_season_go_on_from_the_last_value():
    many, next_, third = (course((), 6, [40] * 64, Settings(), member) for member in range(3))
    assert many.look.names == next_.look.names == ("last value",)
    assert many.look.groups == (window.RECENT,) and not many.look.drifts
    assert (many.stride, next_.stride, third.stride) == (2, 2, 1)
    assert (next_.look.recent, next_.look.blocks) == (8, 0)
    few, seasonal = course((), 6, [40] * 63, Settings()), course((12,), 6, [80] * 64, Settings())
    assert few.look.mixed and seasonal.look.mixed and len(few.look.names) == 5


def test_what_is_set_takes_the_place_of_its_rule():
    given = Settings(hidden=7, origins=9, dropout=0.0, noise=0.5, steps=11, batch=3)
    found = course((12,), 12, [300] * 10, given)
    assert (found.hidden, found.counted, found.dropout, found.noise) == (7, 9, 0.0, 0.5)
    assert (found.steps, found.batch) == (11, 3)


def test_the_naive_forecast_to_beat():
    assert [naive_lag(s, 12) for s in ((), (12,), (52,), (6, 24))] == [1, 12, 1, 6]


# From a panel to chains.


def panel_of(*series: np.ndarray, seasons: tuple[int, ...] = (4,)) -> Panel:
    parts = [
        pl.DataFrame({"unique_id": [str(i)] * len(y), "ds": np.arange(len(y)), "y": y})
        for i, y in enumerate(series)
    ]
    return from_frame(pl.concat(parts), seasons=seasons)


def walk(length: int, seed: int = 0) -> np.ndarray:
    return np.exp(0.1 * np.random.default_rng(seed).normal(size=length).cumsum())


def learner(panel: Panel, horizon: int, **given) -> tuple[Learner, Past]:
    settings = Settings(**given)
    data = with_lines(panel, scaled(panel, horizon))
    way = course(panel.seasons, horizon, [len(s) for s in panel.series], settings)
    past = past_of(panel, data, way)
    network = OriginNetwork(past.features, past.bases, horizon, way, settings)
    return Learner(network, past, data, way), past


def test_chains_visit_every_origin_that_counts_and_no_other():
    panel = panel_of(walk(70), walk(31, 1))
    data = with_lines(panel, scaled(panel, 5))
    way = course((4,), 5, [70, 31], Settings(origins=7))
    past = past_of(panel, data, way)
    drawn, number = draws(past, way, seed=0)
    first = first_origins(past, way)
    visited: list[set[int]] = [set(), set()]
    for epoch in range(1, 9):
        rows, ends = drawn(epoch).batch(range(number)).x[0].long().unbind(-1)
        columns = chain(ends, way)[-way.counted :]
        for row, own in zip(rows.tolist(), columns.T, strict=True):
            visited[row] |= {int(c) for c in own if c >= first[row]}
    assert visited == [set(range(int(f), past.columns)) for f in first]


def test_the_same_epoch_has_the_same_chains_and_another_has_others():
    panel = panel_of(walk(200))
    way = course((4,), 5, [200], Settings(origins=5))
    past = past_of(panel, with_lines(panel, scaled(panel, 5)), way)
    drawn, number = draws(past, way, seed=0)
    first, again, other = (drawn(epoch).batch(range(number)).x for epoch in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("transform", ["log", "sqrt", "none"])
def test_measured_is_the_series_over_its_naive_error(transform):
    y = walk(50) - {"log": 0.0, "sqrt": walk(50).min(), "none": 1.5}[transform]
    panel = panel_of(y, seasons=())
    data = scaled(panel, 2)
    assert data.transform == transform
    unit = np.abs(np.diff(y)).mean()
    centre = data.scales[0].centre / unit if transform == "none" else 0.0
    found = measured(torch.tensor(data.values[0]), data.transform, data.slope[0], data.offset[0])
    np.testing.assert_allclose(found + centre, y / unit, rtol=1e-5, atol=1e-5)


def test_the_error_counts_what_exists_and_nothing_else():
    for y in (walk(40), walk(40) - 1.5):  # logarithms, plain values
        mine, _ = learner(panel_of(y, seasons=()), 3)
        data = mine._data
        goal = torch.zeros(2, 1, 3) + 0.1
        exists = torch.tensor([[[True, True, False]], [[True, False, False]]])
        rows = torch.tensor([0])
        z = goal + torch.tensor([[[0.3, 0.0, float("inf")]], [[0.0, 0.0, 0.0]]]).clamp(max=50.0)
        error = Measured(data, rows).errors(z, goal)
        found = (error * exists).sum() / exists.sum()
        f, d = (measured(t, data.transform, data.slope[0], data.offset[0]) for t in (z, goal))
        away = (f - d).abs()[0, 0, 0] / data.usual[1]
        if data.transform == "log":
            relative = 200 * (f - d).abs()[0, 0, 0] / (f + d)[0, 0, 0] / data.usual[0]
            away = 0.5 * away + 0.5 * relative
        torch.testing.assert_close(found, away / 3)


def test_an_outlier_counts_by_its_logarithm():
    mine, _ = learner(panel_of(walk(40) - 1.5, seasons=()), 1)
    goal, rows = torch.zeros(1, 1, 1), torch.tensor([0])
    z = goal + 1020.0 / mine._data.slope[0]
    found = Measured(mine._data, rows).errors(z, goal)[0, 0, 0]
    wanted = torch.tensor((20 + np.log1p(1000.0)) / mine._data.usual[1], dtype=torch.float32)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=0)


def test_every_weight_learns_and_stays_finite():
    mine, past = learner(panel_of(walk(60), walk(5, 1), walk(200, 2)), 5)
    batch = draws(past, mine._course, seed=0)[0](1).batch(range(3))
    error = mine.error(batch)
    error.backward()
    for name, p in mine.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), name
        assert p.grad.abs().max() > 0, name


def test_what_is_usual_is_the_naive_forecasts_error_at_the_end():
    y = np.array([4.0, 5.0, 4.0, 5.0, 4.0, 10.0, 5.0])
    data = scaled(panel_of(y, seasons=()), 2)
    f, d = np.array([4.0, 4.0]), y[-2:]
    wanted = (
        np.mean(200 * np.abs(f - d) / (f + d)),
        np.abs(f - d).mean() / np.abs(np.diff(y)).mean(),
    )
    assert data.usual == pytest.approx(wanted)
