"""Levels and seasons that are learned: as the recursion by hand, causal, and through all verbs."""

import numpy as np
import polars as pl
import pytest
import torch
from torch.testing import assert_close

import refold as rf
from refold.data.decomposition import summands
from refold.data.window import Look, past
from refold.forecast import (
    Covariates,
    Forecaster,
    Settings,
    fit_panel,
    from_frame,
    on_panel,
    predict_panel,
)
from refold.forecast.forecaster import Fitted
from refold.forecast.model import OriginNetwork
from refold.forecast.smoothing import Smoothing, Tracked, rings_of, tracked

QUICK = Settings(scaling="smoothing", members=1, steps=6, hidden=8, recent=6, blocks=2)
LOOK = Look(seasons=(3, 6), horizon=8, recent=4, blocks=2)


def seasonal(lengths=(80, 60), seed=0, missing=()) -> pl.DataFrame:
    """Positive series with a season of 6 that is a factor, and a level that drifts."""
    random, parts = np.random.default_rng(seed), []
    for i, n in enumerate(lengths):
        t = np.arange(n)
        level = np.exp(3 + np.cumsum(random.normal(0, 0.02, n)))
        y = level * (1 + 0.4 * np.sin(2 * np.pi * (t + 2 * i) / 6))
        y[[at for series, at in missing if series == i]] = np.nan
        parts.append(pl.DataFrame({"unique_id": [f"s{i}"] * n, "ds": t, "y": y}))
    return pl.concat(parts).with_columns(pl.col("y").fill_nan(None))


def learned(fitted: Fitted | None) -> tuple[Smoothing, Tracked]:
    """What the first network has learned of levels and seasons, and of what."""
    assert fitted is not None
    network, seen = fitted.networks[0], fitted.pasts[0]
    assert isinstance(network, OriginNetwork) and isinstance(seen, Tracked)
    assert network.smoothing is not None
    return network.smoothing, seen


# ---------------------------------------------------------------- the decomposition it begins with


def test_a_decomposition_finds_both_seasons_and_leaves_the_level():
    t = np.arange(70.0)
    phase = np.arange(70)
    short, long = np.array([1.0, -2.0, 1.0]), np.array([0.5, 0.0, 0.0, -0.5, 0.0, 0.0, 0.0])
    found = summands(5 + 0.3 * t + short[phase % 3] + long[phase % 7], [3, 7])
    np.testing.assert_allclose(found[0], short, atol=0.03)
    np.testing.assert_allclose(found[1], long, atol=0.03)
    missing = 5 + 0.3 * t + short[phase % 3]
    missing[[10, 11, 30]] = np.nan
    np.testing.assert_allclose(summands(missing, [3])[0], short, atol=0.2)


def test_a_season_that_is_chance_is_nearly_left_out():
    random = np.random.default_rng(0)
    means = [np.std(summands(random.normal(size=60), [12])[0]) for _ in range(40)]
    assert np.mean(means) < 0.5 * 4**-0.5  # means of four values alone have a deviation of 1 / 2


def test_a_season_that_does_not_pass_twice_adds_nothing():
    np.testing.assert_array_equal(summands(np.arange(7.0), [4])[0], np.zeros(4))
    np.testing.assert_array_equal(summands(np.full(8, np.nan), [4])[0], np.zeros(4))


# ---------------------------------------------------------------- the recursion


def panel_of(lengths=(40, 29), missing=None, seed=0):
    """A Tracked of random series, in double precision, and a Smoothing whose numbers are random."""
    random = np.random.default_rng(seed)
    series = [random.normal(size=n) for n in lengths]
    gaps = [np.zeros(n, dtype=bool) for n in lengths]
    for i, at in missing or ():
        gaps[i][at] = True
    held = past(series, LOOK, max(lengths), missing=gaps if missing else ())
    names = [f"s{i}" for i in range(len(lengths))]
    seen = tracked(held, names, names)
    smoothing = Smoothing(seen, len(names))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in smoothing.parameters():
            parameter.copy_(torch.randn_like(parameter) / 3)
    return seen, smoothing


def by_hand(y, gaps, rates, short, long):
    """Levels, the summands that each value met, and those that are left: Taylor 2003 without a trend."""
    s, u, level, levels, met = list(short), list(long), y[0] - short[0] - long[0], [], []
    for value, gap in zip(y, gaps, strict=True):
        alpha, gamma, delta = (0.0, 0.0, 0.0) if gap else rates
        now, later = s.pop(0), u.pop(0)
        new = alpha * (value - now - later) + (1 - alpha) * level
        s.append(gamma * (value - new - later) + (1 - gamma) * now)
        u.append(delta * (value - new - now) + (1 - delta) * later)
        level = new
        levels.append(level)
        met.append((now, later))
    return np.array(levels), np.array(met).T, s, u


@pytest.mark.parametrize("missing", [None, [(0, 5), (0, 6), (1, 20)]])
def test_levels_and_seasons_are_those_of_the_recursion(missing):
    seen, smoothing = panel_of(missing=missing)
    rows = torch.arange(2)
    level, shorter, longer = smoothing.followed(seen, rows)
    rates, start = smoothing._begun(seen, rows)
    shared = torch.stack([p.reshape(()) for p in smoothing.recurrence.parameters_of().values()])
    for i in range(2):
        first = int(seen.first[i])
        y = seen.z[i, first:].numpy().astype(float)
        gaps = np.zeros(len(y), dtype=bool)
        gaps[[at for series, at in missing or () if series == i]] = True
        own = torch.sigmoid(rates[i] + shared).tolist()
        levels, met, s, u = by_hand(y, gaps, own, start[i, :3].tolist(), start[i, 3:].tolist())
        for mine, theirs in (
            (level[i, first:], levels),
            (shorter[i, first:], np.append(met[0], s)),
            (longer[i, first:], np.append(met[1], u)),
        ):
            assert_close(mine.detach().double(), torch.from_numpy(theirs), rtol=0, atol=1e-5)


def test_what_is_seen_at_an_origin_does_not_know_what_comes_after_it():
    """Beyond a ring's own length the summands go round again: those of step t + k stand in the ring at t."""
    seen, smoothing = panel_of()
    rows, columns = torch.arange(2), torch.tensor([[30, 30]]) + int(seen.columns - 40)
    before = smoothing(seen, rows)
    ahead, z, level = before.ahead(rows, columns), before.past.z, before.past.level
    with torch.no_grad():
        seen.z[:, int(columns[0, 0]) + 1 :] += 7.0
    after = smoothing(seen, rows)
    known = int(columns[0, 0]) + 1
    assert torch.equal(ahead, after.ahead(rows, columns))
    assert torch.equal(z[:, :known], after.past.z[:, :known])
    assert torch.equal(level[:, :known], after.past.level[:, :known])
    assert not torch.equal(level[:, known:], after.past.level[:, known:])
    # Horizon 8, rings of 3 and 6: step 7 has the summands of steps 1 in both, 8 of 2.
    assert_close(ahead[..., 6], ahead[..., 0])
    assert_close(ahead[..., 7], ahead[..., 1])


def test_without_a_season_or_with_one_a_ring_stays_at_0():
    assert rings_of(()) == (1, 1)
    assert rings_of((12,)) == (12, 1)
    assert rings_of((24, 168)) == (24, 168)
    frame = seasonal()
    for seasons in ((), (6,)):
        model = Forecaster(horizon=4, seasons=seasons, settings=QUICK).fit(frame)
        smoothing, seen = learned(model.fitted)
        _, shorter, longer = smoothing.followed(seen, torch.arange(2))
        assert (longer == 0).all()
        assert (shorter == 0).all() == (not seasons)


def test_rates_and_first_summands_are_trained_with_the_network():
    panel = from_frame(seasonal(), seasons=(6,))
    fitted = fit_panel(panel, 4, QUICK)
    smoothing, _ = learned(fitted)
    for parameter in smoothing.parameters():
        assert torch.isfinite(parameter).all()
    moved = smoothing.moved.detach()
    assert (moved[:, :6] != 0).all()  # every first summand has had a gradient
    assert (moved[:, 6:] == 0).all()  # the ring that no season needs has none
    assert (smoothing.rates[:, :2] != 0).all()
    alpha = smoothing.recurrence.parameters_of()["alpha"]
    assert float(alpha.detach()) != 0.0


# ---------------------------------------------------------------- forecasts


def away(frame: pl.DataFrame, settings: Settings, horizon=6) -> float:
    """Mean relative error on the last horizon."""
    found = Forecaster(horizon=horizon, seasons=(6,), settings=settings).backtest(frame, windows=1)
    return float((found.frame["y_hat"] / found.frame["y"] - 1).abs().mean())


def test_a_factor_of_the_level_is_forecast_as_one():
    """The level drifts by 2 % a step: a forecast errs by about that, not by the season's 40 %."""
    frame = seasonal((120, 120, 100))
    assert away(frame, Settings(scaling="smoothing", members=1, steps=80)) < 0.08


@pytest.mark.parametrize("shift", [-20.0, 0.0])
def test_values_that_are_not_positive_have_summands(shift):
    frame = seasonal()
    lowest = float(frame["y"].min())  # type: ignore[arg-type]
    frame = frame.with_columns(y=pl.col("y") - lowest + shift)
    found = Forecaster(horizon=6, seasons=(6,), settings=QUICK).fit(frame).predict()
    assert found["y_hat"].is_finite().all()
    assert (found["y_hat"].min() >= 0) == (shift == 0.0)


def test_newer_rows_carry_the_level_on():
    whole, old = seasonal((80, 60)), 70
    early = whole.filter(pl.col("ds") < old)
    model = Forecaster(horizon=4, seasons=(6,), settings=QUICK).fit(early)
    fitted = model.fitted
    assert fitted is not None
    expected = predict_panel(on_panel(fitted, from_frame(whole, seasons=(6,))))
    for t in range(old, 80):
        model.update(whole.filter(pl.col("ds") == t))
    found = model.predict().partition_by("unique_id")
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine["y_hat"].to_numpy(), theirs)


def test_a_series_that_comes_later_has_the_mean_of_the_rates():
    model = Forecaster(horizon=4, seasons=(6,), settings=QUICK).fit(seasonal())
    new = seasonal((50,), seed=3).with_columns(unique_id=pl.lit("new"))
    alone = model.update(new).predict().filter(pl.col("unique_id") == "new")
    smoothing, seen = learned(model.fitted)
    assert seen.own.tolist() == [0, 1, -1]
    rates, start = smoothing._begun(seen, torch.tensor([2]))
    assert_close(rates[0, :2], 5 * smoothing.rates.mean(dim=0)[:2])
    assert torch.equal(start[0], seen.start[2])
    assert alone["y_hat"].is_finite().all()


def test_a_kept_model_is_the_same(tmp_path):
    frame = seasonal(missing=[(0, 20), (1, 33)])
    model = Forecaster(horizon=4, seasons=(6,), settings=QUICK).fit(frame)
    model.update(seasonal((30,), seed=3).with_columns(unique_id=pl.lit("new")))
    model.save(tmp_path / "model")
    again = Forecaster.load(tmp_path / "model")
    assert again.predict().equals(model.predict())
    assert again.settings.scaling == "smoothing"


def test_part_of_the_series_is_forecast_as_in_the_whole():
    panel = from_frame(seasonal((80, 60, 70)), seasons=(6,))
    fitted = fit_panel(panel, 4, QUICK)
    whole = predict_panel(fitted)
    part = from_frame(seasonal((80, 60, 70)).filter(pl.col("unique_id") == "s2"), seasons=(6,))
    np.testing.assert_allclose(predict_panel(on_panel(fitted, part))[0], whole[2], rtol=1e-5)


def test_intervals_heads_covariates_and_explanations():
    frame = seasonal()
    promo = pl.Series(np.arange(frame.height) % 4 == 0).cast(pl.Float64)
    frame = frame.with_columns(promo=promo)
    named = Covariates(historical=["promo"])
    for head in ("student", "quantiles"):
        settings = Settings(**{**vars_of(QUICK), "head": head})
        model = Forecaster(horizon=4, seasons=(6,), settings=settings, covariates=named).fit(frame)
        found = model.predict(level=80)
        assert (found["y_hat-lo-80"] < found["y_hat-hi-80"]).all()
        assert model.simulate(3)["y_hat"].is_finite().all()
    told = model.explain(repeats=2)
    assert "covariate promo" in told["inputs"].to_list()
    assert told["rise"].is_finite().all()


def vars_of(settings: Settings) -> dict:
    return {name: getattr(settings, name) for name in Settings.__dataclass_fields__}


def test_what_cannot_be_smoothed_is_refused():
    for over in ("segments", "steps"):
        with pytest.raises(rf.RefoldError, match=f"a network over {over} has no such one"):
            Settings(over=over, scaling="smoothing")
    with pytest.raises(rf.RefoldError, match="scaling is 'log'"):
        Settings(scaling="log")  # type: ignore[arg-type]
