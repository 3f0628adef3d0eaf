"""Heads over segments and steps: units, losses, coverage, paths, every verb."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from forecast_cases import table, waves
from torch.testing import assert_close

from refold.data.batch import Batch
from refold.errors import DataError
from refold.forecast import (
    Forecaster,
    Settings,
    anomalies_frame,
    backtest_panel,
    calibrate,
    find_anomalies,
    fit_panel,
    from_frame,
    predict_distribution,
    simulate_panel,
)
from refold.forecast.families import HEADS, Quantiles
from refold.forecast.heads import WindowHead
from refold.forecast.simulate import _ranks, _scores_seen
from refold.forecast.windows import Learner, Windows, begin_by_errors, forecast, windows_of

WITH = tuple(name for name in HEADS if name != "point")
WINDOWED = ("segments", "steps")
QUICK = Settings(members=1, steps=20, hidden=16, batch=8)


def drawn(kind: str, series=16, n=130) -> np.ndarray:
    random = np.random.default_rng(1)
    base = 20 + 10 * np.sin(2 * np.pi * np.arange(n) / 12)
    if kind == "negative_binomial":
        return random.negative_binomial(4, 4 / (4 + base), size=(series, n))
    if kind == "poisson":
        return random.poisson(base / 4, size=(series, n))
    return base + 60 + 4 * random.normal(size=(series, n))


# Parameters


@pytest.mark.parametrize("name", WITH)
def test_parameters_are_in_the_units_of_the_values(name):
    """In units twice as small, centre and scale are twice as large; degrees of freedom and dispersions stay."""
    head, free = WindowHead(name, 8, 3, 3), {"student": (2,), "negative_binomial": (1,)}
    found = torch.cat([torch.randn(2, 5, 3, 1), head.raw_of(torch.randn(2, 5, 8))], dim=-1)
    one, two = head(found, torch.ones(5)), head(found, torch.full((5,), 2.0))
    assert one.shape == (2, 5, 3, 1 + head.family.spreads)
    for i in range(one.shape[-1]):
        factor = 1 if i in free.get(name, ()) else 2
        assert_close(two[..., i], factor * one[..., i])
    assert_close(one[..., 0], found[..., 0], rtol=0, atol=0)


def test_spreads_begin_with_what_naive_forecasts_err_by():
    t = np.arange(60)
    panel = from_frame(table([np.tile([0.0, 4.0], 30) + (t % 3 == 0) - 5]), seasons=())
    fitted = fit_panel(panel, 4, replace(QUICK, over="steps"))
    past = fitted.pasts[0]
    assert isinstance(past, Windows)
    head = WindowHead("normal", 8, 4, 4)
    begin_by_errors(head, past)
    z = past.z[0].numpy()
    expected = [np.abs(z[k:] - z[:-k]).mean() for k in range(1, 5)]
    np.testing.assert_allclose(head.expected.numpy(), expected, rtol=1e-5)
    begin_by_errors(head, replace(past, seasons=(2,)))
    seasonal = [min(expected[k - 1], expected[-(-k // 2) * 2 - 1]) for k in range(1, 5)]
    np.testing.assert_allclose(head.expected.numpy(), seasonal, rtol=1e-5)


@pytest.mark.parametrize("over", WINDOWED)
@pytest.mark.parametrize("name", WITH)
def test_the_loss_is_that_of_the_family_over_targets_that_exist(over, name):
    frame = waves().with_columns(pl.col("y").round())
    settings = replace(QUICK, over=over, head=name)
    fitted = fit_panel(from_frame(frame, seasons=(6,)), 3, settings)
    past = windows_of(fitted.panel, fitted.data, fitted.courses[0])  # type: ignore[arg-type]
    network = fitted.networks[0].eval()
    learner = Learner(network, past, data=fitted.data)
    found = learner.error(Batch(torch.tensor([40.0, 70.0])[:, None, None], torch.tensor([2])))
    spread, wanted = network.spreads, []
    assert isinstance(spread, WindowHead)
    for origin, known in ((40, 3), (70, 1)):
        given = forecast(network, past, torch.arange(2), torch.full((1, 2), origin))  # type: ignore[arg-type]
        given = given[0, :, :known].double()
        came = slice(origin + 1, origin + 1 + known)
        z = torch.from_numpy(np.stack([y[came] for y in fitted.data.values]))
        y = torch.from_numpy(np.stack([s.values[came] for s in fitted.panel.series]))
        wanted.append(by_hand(name, given, z, y, fitted, past.unit.double()).flatten())
    assert_close(found.double(), torch.cat(wanted).mean(), rtol=2e-4, atol=2e-4)


class InDeviations:
    """Errors as they are counted over windows."""

    def __init__(self, unit: torch.Tensor) -> None:
        self.unit = unit

    def errors(self, z: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        return (z - goal).abs() / self.unit.view(-1, *(1,) * (z.ndim - 1))

    def count(self, z: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


def by_hand(name, given, z, y, fitted, unit):
    """The loss of torch's own distributions; of quantiles, twice their pinball losses in deviations."""
    d = torch.distributions
    if name == "normal":
        return -d.Normal(given[..., 0], given[..., 1]).log_prob(z)
    if name == "student":
        return -d.StudentT(given[..., 2], given[..., 0], given[..., 1]).log_prob(z)
    if name == "quantiles":
        return Quantiles().loss(given, z, InDeviations(unit))
    data = fitted.data
    root = data.slope.double()[:, None] * given[..., 0] + data.offset.double()[:, None]
    mean = data.unit.double()[:, None] * torch.nn.functional.softplus(root, beta=10).square()
    if name == "poisson":
        return -d.Poisson(mean).log_prob(y)
    more = given[..., 1] * mean
    return -d.NegativeBinomial(1 / given[..., 1], probs=more / (1 + more)).log_prob(y)


# What is learned


@pytest.mark.parametrize(
    ("over", "kind"), [*(("segments", kind) for kind in WITH), ("steps", "quantiles")]
)
def test_intervals_hold_what_they_say(over, kind):
    panel = from_frame(table(drawn(kind)), seasons=(12,))
    known, late = panel.split(12)
    settings = Settings(over=over, members=1, head=kind, hidden=32, steps=160)
    found = predict_distribution(fit_panel(known, 12, settings))
    assert found is not None
    values, inside = np.stack([s.values for s in late.series]), {}
    for level in (50, 90):
        low, high = (np.stack(found.quantile(0.5 + s * level / 200)) for s in (-1, 1))
        inside[level] = ((low <= values) & (values <= high)).mean()
    # 192 values: a standard error of 3.6 and of 2.2 points; counts hold a little more than asked.
    assert 0.36 < inside[50] < (0.75 if found.family.counts else 0.64)
    assert 0.82 < inside[90] < 0.98
    assert abs(found.scores(list(values)).mean()) < 0.35


@pytest.mark.parametrize("over", WINDOWED)
def test_it_says_when_it_is_certain(over):
    """Every other week is high and noisy: the distribution of the steps to come is wide there alone."""
    high, random = np.arange(280) // 7 % 2, np.random.default_rng(0)
    noise = [np.where(high, 6.0, 0.5) * random.normal(size=280) for _ in range(6)]
    y = 20 * high - 5 + np.stack(noise)
    panel = from_frame(table(y), seasons=(14,))
    settings = Settings(
        over=over, members=1, head="normal", hidden=32, steps=300, rate=1e-2, look_back=28
    )
    found = predict_distribution(fit_panel(panel, 14, settings))
    assert found is not None
    scale = found.parameters[..., 1].mean(dim=0)
    # A week of noise may have begun or ended a day early or late, by what a window shows: two days are left out.
    assert scale[9:].mean() > 2.5 * scale[2:7].mean()


# Through the forecaster


@pytest.mark.parametrize("over", WINDOWED)
@pytest.mark.parametrize("name", ["student", "quantiles", "poisson"])
def test_kept_calibrated_and_gone_on_with(over, name, tmp_path):
    frame = waves().with_columns(pl.col("y").round())
    settings = replace(QUICK, over=over, head=name, members=2)
    old = frame.filter(pl.col("ds") < 70)
    model = Forecaster(horizon=3, seasons=(6,), settings=settings).fit(old)
    first = model.predict(level=[80, 95])
    assert (first["y_hat-lo-95"] <= first["y_hat-lo-80"]).all()
    assert (first["y_hat-lo-80"] <= first["y_hat-hi-80"]).all()
    model.save(tmp_path / "model")
    again = Forecaster.load(tmp_path / "model")
    assert again.predict(level=[80, 95]).equals(first)
    assert again.update(frame).predict(level=90)["ds"].to_list()[:1] == [72]
    assert again.simulate(3, horizon=7).equals(model.update(frame).simulate(3, horizon=7))
    panel = from_frame(frame, seasons=(6,))
    tested = backtest_panel(panel, 3, replace(settings, members=1), windows=2, levels=[80])
    assert tested.calibration is None and "80 % inside" in tested.model.metrics
    assert "CRPS" in tested.model.metrics
    scores = calibrate(panel, 3, replace(settings, members=1), origins=2).scores
    assert scores.shape == (4, 3) and np.isfinite(scores).all()


@pytest.mark.parametrize("over", WINDOWED)
def test_members_in_threads_are_those_one_after_the_other(over):
    settings, found = replace(QUICK, over=over, head="student", members=2), []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            fitted = fit_panel(from_frame(waves(), seasons=(6,)), 3, settings)
        finally:
            torch.set_num_threads(before)
        distribution = predict_distribution(fitted)
        assert distribution is not None
        found.append(distribution.parameters)
    assert torch.equal(*found)


@pytest.mark.parametrize("over", WINDOWED)
def test_paths_hang_together_and_have_the_distribution_of_the_forecast(over):
    steps = np.random.default_rng(3).normal(size=(6, 220))
    panel = from_frame(table(steps.cumsum(axis=1)), seasons=())
    settings = Settings(over=over, members=1, head="normal", hidden=32, steps=150)
    fitted = fit_panel(panel, 4, settings)
    spread, paths = predict_distribution(fitted), simulate_panel(fitted, 300, 9)
    assert spread is not None
    for own, wanted in zip(paths, spread.quantile(0.5), strict=True):
        assert (np.abs((own[:, :4] < wanted).mean(axis=0) - 0.5) < 0.1).all()
    own = paths[0]
    # Of a random walk 1 and 4 steps ahead: 0.5; and what is drawn is fed back.
    assert 0.2 < np.corrcoef(own[:, 0], own[:, 3])[0, 1] < 0.85
    assert np.corrcoef(own[:, 3], own[:, 7])[0, 1] > 0.4
    shares = _ranks(_scores_seen(fitted))
    assert len(shares) > 50 and np.corrcoef(shares[:, 0], shares[:, 3])[0, 1] > 0.2


@pytest.mark.parametrize("over", WINDOWED)
def test_scores_of_missing_values_are_left_out(over):
    frame = waves().with_columns(pl.when(pl.col("ds") == 50).then(None).otherwise("y").alias("y"))
    fitted = fit_panel(from_frame(frame, seasons=(6,)), 3, replace(QUICK, over=over, head="normal"))
    whole = fit_panel(
        from_frame(waves(), seasons=(6,)), 3, replace(QUICK, over=over, head="normal")
    )
    assert len(_scores_seen(fitted)) == len(_scores_seen(whole)) - 6


@pytest.mark.parametrize("over", WINDOWED)
def test_anomalies_are_judged_by_the_centre(over):
    frame = waves(120).with_columns(
        pl.col("y") + pl.when(pl.col("ds") == 110).then(80.0).otherwise(0.0)
    )
    settings = replace(QUICK, over=over, head="student", steps=60)
    found = anomalies_frame(find_anomalies(from_frame(frame, seasons=(6,)), 3, settings, level=90))
    odd = found.filter(pl.col("ds") == 110)
    assert odd["is_anomaly"].all() and (odd["score"] > 2).all()


def test_a_squared_error_and_a_likelihood_are_two_losses():
    settings = replace(QUICK, over="steps", head="student", error="squared")
    with pytest.raises(
        DataError, match=r"(?s)error is 'squared', and the head student.*leave error out"
    ):
        fit_panel(from_frame(waves()), 3, settings)
