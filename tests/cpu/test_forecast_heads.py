"""Heads: their losses against torch.distributions, quantiles, scores, and what they learn of data
whose distribution is known."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from forecast_cases import QUICK, table, waves
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from refold.errors import DataError
from refold.forecast import (
    Forecaster,
    Settings,
    backtest_panel,
    calibrate,
    evaluate,
    fit_panel,
    from_frame,
    interval_note,
    predict_distribution,
    predict_panel,
    predicted,
)
from refold.forecast.families import FAMILIES, HEADS, LEVELS, NegativeBinomial, Quantiles
from refold.forecast.forecaster import on_panel
from refold.forecast.heads import Head, lifted
from refold.forecast.sequences import Measured, scaled

WITH = tuple(name for name in HEADS if name != "point")


class Plain:
    """A measure of series that are what the network sees: counts are the squares of z."""

    def errors(self, z: Tensor, goal: Tensor) -> Tensor:
        return (z - goal).abs()

    def count(self, z: Tensor) -> Tensor:
        return z.square()


def parameters(name: str, shape=(3, 2, 4), seed=0) -> Tensor:
    """What a head gives for numbers at random."""
    generator = torch.Generator().manual_seed(seed)
    centre, raw = torch.randn(shape, generator=generator), None
    family = FAMILIES[name]()
    raw = torch.randn((*shape, family.spreads), generator=generator)
    expected = torch.rand(shape, generator=generator) + 0.1
    spread = family.spread(raw, expected) if family.spreads else raw
    return torch.cat([centre[..., None] + 5, spread], dim=-1).double()


# Losses


def test_a_normal_loss_is_a_negative_log_density():
    given, goal = parameters("normal"), torch.randn(3, 2, 4).double() * 3
    found = FAMILIES["normal"]().loss(given, goal, Plain())
    centre, scale = given.unbind(-1)
    assert_close(found, -torch.distributions.Normal(centre, scale).log_prob(goal))


def test_a_student_loss_is_a_negative_log_density():
    given, goal = parameters("student"), torch.randn(3, 2, 4).double() * 30
    centre, scale, freedom = given.unbind(-1)
    assert (freedom > 2).all()
    found = FAMILIES["student"]().loss(given, goal, Plain())
    assert_close(found, -torch.distributions.StudentT(freedom, centre, scale).log_prob(goal))


@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
def test_losses_of_counts_are_negative_log_probabilities(name):
    given = parameters(name)
    k = torch.randint(0, 60, (3, 2, 4)).double()
    mean = given[..., 0].square()
    spread = torch.distributions.Poisson(mean)
    if name == "negative_binomial":
        more = given[..., 1] * mean
        spread = torch.distributions.NegativeBinomial(1 / given[..., 1], probs=more / (1 + more))
    found = FAMILIES[name]().loss(given, k.sqrt(), Plain())
    assert_close(found.double(), -spread.log_prob(k), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mean", [1e-6, 1.0, 1e7])
@pytest.mark.parametrize("count", [0.0, 1.0, 1e7])
@pytest.mark.parametrize("raw", [-200.0, 0.0, 200.0])
def test_counts_of_any_size_have_a_finite_loss_and_slope(mean, count, raw):
    free = torch.tensor([math.sqrt(mean), raw], requires_grad=True)
    spread = NegativeBinomial().spread(free[1:], torch.ones(()))
    given = torch.cat([free[:1], spread])[None]
    loss = NegativeBinomial().loss(given, torch.tensor([math.sqrt(count)]), Plain())
    loss.sum().backward()
    assert free.grad is not None and torch.isfinite(loss).all() and torch.isfinite(free.grad).all()


def test_without_dispersion_a_negative_binomial_is_poisson():
    k = torch.arange(12).double()
    mean = torch.full((12, 1), 3.0).double().sqrt()
    least = torch.full((12, 1), 1e-6).double()
    found = NegativeBinomial().loss(torch.cat([mean, least], -1), k.sqrt(), Plain())
    assert_close(found, FAMILIES["poisson"]().loss(mean, k.sqrt(), Plain()), rtol=1e-4, atol=1e-4)


def test_the_loss_of_quantiles_is_twice_the_pinball_losses():
    given, goal = parameters("quantiles"), torch.randn(3, 2, 4).double() + 5
    found = Quantiles().loss(given, goal, Plain())
    edges = np.concatenate([[0], (np.array(LEVELS)[1:] + np.array(LEVELS)[:-1]) / 2, [1]])
    by_hand = torch.zeros_like(goal)
    for level, width in zip(LEVELS, np.diff(edges), strict=True):
        away = goal - Quantiles().quantile(given, torch.tensor(level, dtype=torch.float64))
        by_hand += 2 * width * torch.maximum(level * away, (level - 1) * away)
    assert_close(found, by_hand)


def test_a_loss_is_lowest_where_the_distribution_is_right():
    draws = 0.5 + 2.0 * torch.distributions.StudentT(4.0).sample((4000,))
    free = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.Adam([free], lr=0.05)
    student = FAMILIES["student"]()
    for _ in range(400):
        spread = student.spread(free[1:], torch.ones(()))
        loss = student.loss(torch.cat([free[:1], spread]).expand(4000, 3), draws, Plain()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    centre, scale, freedom = torch.cat(
        [free[:1], student.spread(free[1:], torch.ones(()))]
    ).tolist()
    assert centre == pytest.approx(0.5, abs=0.15)
    assert scale == pytest.approx(2.0, rel=0.1)
    assert freedom == pytest.approx(4.0, rel=0.3)


# Quantiles and scores


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(WITH), st.floats(-60, 60), st.integers(0, 9))
def test_quantiles_never_cross(name, size, seed):
    family = FAMILIES[name]()
    raw = size * torch.randn(1, 3, family.spreads, generator=torch.Generator().manual_seed(seed))
    spread = family.spread(raw, torch.full((1, 3), 0.3)) if family.spreads else raw
    given = torch.cat([torch.full((1, 3, 1), 2.0), spread], dim=-1).double()
    shares = torch.linspace(0.002, 0.998, 41, dtype=torch.float64)
    found = torch.stack([family.quantile(given, share) for share in shares])
    assert torch.isfinite(found).all() and (found.diff(dim=0) >= 0).all()


@pytest.mark.parametrize("name", WITH)
def test_a_value_lies_where_its_score_says(name):
    given, family = parameters(name), FAMILIES[name]()
    given[..., 0] = given[..., 0].abs() + 1
    chance = torch.full(given.shape[:-1], 0.5, dtype=torch.float64)
    value = family.quantile(given, torch.tensor(0.9, dtype=torch.float64))
    score = family.score(given, value, chance)
    assert_close(family.at(given, score), value, rtol=1e-9, atol=1e-9)
    assert (family.score(given, value + 3, chance) > score).all()
    if family.counts:
        below = family.score(given, value, torch.zeros_like(chance))
        above = family.score(given, value, torch.ones_like(chance))
        share = torch.special.ndtri(torch.tensor(0.9, dtype=torch.float64))
        assert ((below <= share) & (share <= above)).all()


def test_quantiles_that_fall_together_still_give_scores():
    given = torch.zeros(1, 1, len(LEVELS), dtype=torch.float64)
    half = torch.full((1, 1), 0.5, dtype=torch.float64)
    for value in (-1.0, 0.0, 1.0):
        assert torch.isfinite(Quantiles().score(given, torch.full((1, 1), value).double(), half))


# The head


@pytest.mark.parametrize("name", WITH)
def test_a_head_leaves_the_centre_alone_and_is_wide_where_errors_are_expected(name):
    head = Head(name, 8, 3)
    centre, u, expected = torch.randn(2, 5, 3), torch.randn(2, 5, 8), torch.ones(2, 5, 3)
    found = head(centre, u, expected)
    assert found.shape == (2, 5, 3, 1 + head.family.spreads)
    assert_close(found[..., 0], centre, rtol=0, atol=0)
    if not head.family.counts:
        wider = head(centre, u, 2 * expected)
        assert_close(wider[..., 1], 2 * found[..., 1])
        level = torch.full((2, 5, 1), 7.0)
        moved = lifted(found, level, head)
        assert_close(moved[..., 0], centre + 7)
        assert_close(moved[..., 1:], found[..., 1:], rtol=0, atol=0)


def test_a_point_forecast_has_no_further_weights():
    fitted = fit_panel(from_frame(table(np.arange(40.0) % 5 + 1)), 3, QUICK)
    assert fitted.networks[0].head is None and predict_distribution(fitted) is None


def test_a_count_has_a_slope_wherever_its_root_is():
    panel = from_frame(table(np.arange(40) % 5))
    data = scaled(panel, 3)
    assert data.transform == "sqrt"
    z = torch.linspace(-4, 4, 50)[:, None].requires_grad_()
    count = Measured(data, torch.tensor([0])).count(z)
    assert z.grad_fn is None and (count > 0).all()
    (slope,) = torch.autograd.grad(count.sum(), z)
    assert (slope > 0).all()
    z = torch.tensor([[data.apply(0, np.array([4.0]))[0]]])
    assert_close(Measured(data, torch.tensor([0])).count(z).item(), 4.0, rtol=1e-3, atol=0)


# What is learned


def drawn(kind: str, series=16, n=130) -> np.ndarray:
    random = np.random.default_rng(1)
    base = 20 + 10 * np.sin(2 * np.pi * np.arange(n) / 12)
    if kind == "negative_binomial":
        return random.negative_binomial(4, 4 / (4 + base), size=(series, n))
    if kind == "poisson":
        return random.poisson(base / 4, size=(series, n))
    noise = random.standard_t(3, size=(series, n)) if kind == "student" else None
    noise = random.normal(size=(series, n)) if noise is None else noise
    return base + 60 + 4 * noise


@pytest.mark.parametrize("kind", WITH)
def test_intervals_hold_what_they_say_of_data_with_a_known_distribution(kind):
    panel = from_frame(table(drawn(kind)), seasons=(12,))
    known, late = panel.split(12)
    fitted = fit_panel(known, 12, Settings(members=1, head=kind, hidden=16, steps=160))
    found = predict_distribution(fitted)
    assert found is not None
    values = np.stack([s.values for s in late.series])
    inside = {}
    for level in (50, 90):
        low, high = (np.stack(found.quantile(0.5 + s * level / 200)) for s in (-1, 1))
        inside[level] = ((low <= values) & (values <= high)).mean()
    # 192 values: a standard error of 3.6 and of 2.2 points; counts hold a little more than asked.
    counts = found.family.counts
    assert 0.36 < inside[50] < (0.75 if counts else 0.64)
    assert 0.82 < inside[90] < 0.98
    assert abs(found.scores(list(values)).mean()) < 0.3
    if kind == "student":
        assert 2 < float(found.parameters[..., 2].mean()) < 6


@pytest.mark.parametrize("kind", ["poisson", "negative_binomial"])
def test_a_forecast_of_counts_is_their_mean_and_its_quantiles_are_counts(kind):
    panel = from_frame(table(drawn(kind, series=6)), seasons=(12,))
    fitted = fit_panel(panel, 12, Settings(members=1, head=kind, hidden=16, steps=120))
    found = predict_distribution(fitted)
    assert found is not None
    mean = np.mean(predict_panel(fitted))
    assert mean == pytest.approx(20 if kind == "negative_binomial" else 5, rel=0.15)
    high = np.stack(found.quantile(0.9))
    np.testing.assert_array_equal(high, high.round())


# Through the forecaster


@pytest.mark.parametrize("name", ["student", "quantiles"])
def test_predict_has_the_intervals_of_the_head_without_another_training(name, monkeypatch):
    model = Forecaster(horizon=3, seasons=(6,), settings=replace(QUICK, head=name)).fit(waves())
    monkeypatch.setattr("refold.forecast.frames.calibrate", None)
    found = model.predict(level=[80, 95])
    assert model.fitted is not None
    spread = predict_distribution(model.fitted)
    assert spread is not None
    np.testing.assert_array_equal(found["y_hat-hi-80"], np.concatenate(spread.quantile(0.9)))
    np.testing.assert_array_equal(found["y_hat"], np.concatenate(spread.centre))
    assert (found["y_hat-lo-95"] <= found["y_hat-lo-80"]).all()
    assert (found["y_hat-lo-80"] <= found["y_hat"]).all()
    assert (found["y_hat"] <= found["y_hat-hi-80"]).all()


@pytest.mark.parametrize("name", ["normal", "quantiles", "poisson"])
def test_a_calibration_moves_the_intervals_to_where_values_came_to_lie(name):
    frame = waves().with_columns(pl.col("y").round())
    settings = replace(QUICK, head=name)
    model = Forecaster(horizon=3, seasons=(6,), settings=settings).fit(frame).calibrate()
    assert model.calibration is not None and model.fitted is not None
    spread = predict_distribution(model.fitted)
    assert spread is not None
    below, above = model.calibration.reach(80)
    found = model.predict(level=80)
    np.testing.assert_array_equal(found["y_hat-lo-80"], np.concatenate(spread.at(below)))
    np.testing.assert_array_equal(found["y_hat-hi-80"], np.concatenate(spread.at(above)))
    told = interval_note(settings, model.calibration, [80])
    assert told.startswith(
        f"quantiles of the forecast's own distribution ({name}), moved: conformal"
    )


def test_scores_of_a_calibration_are_those_of_the_distribution():
    panel = from_frame(waves(), seasons=(6,))
    settings = replace(QUICK, head="normal")
    found = calibrate(panel, 3, settings, origins=1)
    known, late = panel.split(3)
    fitted = fit_panel(known, 3, settings, transform="log")
    spread = predict_distribution(fitted)
    assert spread is not None
    np.testing.assert_array_equal(found.scores, spread.scores([s.values for s in late.series]))


def test_the_table_of_a_comparison_has_coverage_and_crps():
    panel = from_frame(waves(), seasons=(6,))
    found = evaluate(panel, 3, replace(QUICK, head="student"), levels=[80])
    metrics = found.model.metrics
    assert 0 <= metrics["80 % inside"] <= 1 and metrics["80 % MSIS"] > 0
    assert 0 < metrics["CRPS"] < 1.05 * metrics["MAE"]
    tested = backtest_panel(panel, 3, replace(QUICK, head="student"), windows=2, levels=[80])
    assert tested.calibration is None and "80 % inside" in tested.model.metrics


def test_a_model_with_a_head_is_kept_and_goes_on(tmp_path):
    frame = waves()
    settings = replace(QUICK, head="student")
    model = Forecaster(horizon=3, seasons=(6,), settings=settings).fit(
        frame.filter(pl.col("ds") < 70)
    )
    model.save(tmp_path / "model")
    again = Forecaster.load(tmp_path / "model")
    assert again.settings.head == "student"
    assert again.predict(level=90).equals(model.predict(level=90))
    later = again.update(frame).predict(level=90)
    assert later["ds"].to_list()[:1] == [72]


def test_members_are_averaged_parameter_by_parameter():
    panel = from_frame(waves(), seasons=(6,))
    fitted = fit_panel(panel, 3, replace(QUICK, head="normal", members=2))
    both = predict_distribution(fitted)
    each = [
        predict_distribution(
            replace(
                fitted,
                networks=fitted.networks[i : i + 1],
                pasts=fitted.pasts[i : i + 1],
                courses=fitted.courses[i : i + 1],
            )
        )
        for i in range(2)
    ]
    assert both is not None and each[0] is not None and each[1] is not None
    mean = (each[0].parameters + each[1].parameters) / 2
    assert_close(both.parameters, mean, rtol=1e-5, atol=1e-6)


def test_without_a_calibration_a_point_forecast_has_no_intervals():
    fitted = fit_panel(from_frame(waves()), 3, QUICK)
    assert predicted(fitted, None, [80]).bands == ()


# What is refused


def test_a_head_that_there_is_not():
    with pytest.raises(DataError, match=r"(?s)no head 'cauchy'.*point, quantiles, normal, student"):
        Settings(head="cauchy")


@pytest.mark.parametrize("value", [1.5, -1.0])
def test_what_is_no_count_is_refused_by_heads_of_counts(value):
    y = np.arange(30.0) % 4
    settings = replace(QUICK, head="poisson")
    with pytest.raises(
        DataError, match=rf"(?s)series s0 is {value:g} at 20, and the head poisson.*another head"
    ):
        fit_panel(from_frame(table(np.where(np.arange(30) == 20, value, y))), 3, settings)
    fitted = fit_panel(from_frame(table(y)), 3, settings)
    half = from_frame(table(np.where(np.arange(30) == 7, 2.5, y)))
    with pytest.raises(DataError, match=r"series s0 is 2\.5 at 7"):
        on_panel(fitted, half)
