"""What forecasts hang on: a group that carries everything is named, and one that carries nothing is not."""

from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from refold.data import window
from refold.data.beside import exchanged, is_seen
from refold.data.window import Look, Past
from refold.errors import DataError
from refold.forecast import (
    Covariates,
    Forecaster,
    Settings,
    find_importance,
    fit_panel,
    from_frame,
    importance_frame,
)
from refold.forecast.beside import places
from refold.forecast.course import Course
from refold.forecast.lookback import over_steps
from refold.forecast.rolled import rolled
from refold.forecast.sequences import chain
from refold.forecast.views import LINE, WindowView, _parts, views_of
from refold.forecast.windows import Windows

QUICK = Settings(members=2, steps=5, rate=1e-3, origins=20)


def table(number=2, length=80) -> pl.DataFrame:
    noise = np.random.default_rng(0).normal(size=(number, length))
    days = pl.date_range(pl.date(2024, 1, 1), pl.date(2024, 12, 31), eager=True)[:length]
    y = 50 + 5 * np.sin(2 * np.pi * np.arange(length) / 7) + noise
    return pl.concat(
        [pl.DataFrame({"unique_id": f"s{i}", "ds": days, "y": own}) for i, own in enumerate(y)]
    )


@pytest.mark.parametrize(
    "look",
    [Look((), 4, 8, 3), Look((7,), 4, 8, 3, 3), Look((7,), 14, 14, 3), Look((7, 21), 14, 14, 3, 3)],
)
@pytest.mark.parametrize("lines", [False, True])
def test_every_input_and_every_continuation_is_of_a_group(look, lines):
    z = [np.random.default_rng(i).normal(size=60).cumsum() for i in range(3)]
    line = [np.zeros((60, look.horizon))] * 3 if lines else None
    past = window.past(z, look, 60, line)
    rows, columns = torch.arange(3), torch.full((2, 3), past.columns - 1)
    told = window.told(past, rows, columns)
    assert torch.equal(window.joined(told), window.seen(past, rows, columns))
    assert sum(part.shape[-1] for part in told.values()) == past.features
    groups = (*look.groups, *[LINE] * lines)
    assert len(groups) == past.bases
    assert set(groups) - set(told) <= {"drift", LINE}
    for name, group in zip(look.names, groups, strict=False):
        season = "season" in name
        assert ("season" in group) == season
        assert not season or name.removesuffix(" + level") in group.replace("season of", "season")


def test_the_error_is_that_of_the_forecasts():
    panel = from_frame(table())
    found = find_importance(panel, 4, QUICK, origins=5, repeats=2)
    before = rolled(found.fitted, panel, 9)
    each = []
    for i, series in enumerate(panel.series):
        own = series.values
        # Of what was trained on; no season passes within the horizon.
        naive = np.abs(np.diff(own[:-8])).mean()
        for back in range(4, 9):
            z = before.ahead(torch.tensor([i]), torch.tensor([back]))
            end = len(own) - back
            each.append(np.abs(own[end : end + 4] - before.values(i, z[0])).mean() / naive)
    assert found.error == pytest.approx(np.mean(each), rel=1e-4)


def test_where_only_the_season_says_anything_it_is_named():
    """A pattern of 7 days without order, and nothing else: last values say nothing."""
    days = pl.date_range(pl.date(2023, 1, 1), pl.date(2024, 12, 31), eager=True)[:210]
    noise = np.random.default_rng(1).normal(size=(70, 210))
    y = 100 + np.tile([0, 30, -20, 10, -35, 25, -10], 30) + noise
    parts = [pl.DataFrame({"unique_id": f"s{i}", "ds": days, "y": own}) for i, own in enumerate(y)]
    found = find_importance(
        from_frame(pl.concat(parts)), 7, Settings(members=1, steps=60), origins=14, repeats=5
    )
    rise = dict(zip(found.names, found.means, strict=True))
    seasons = sum(value for name, value in rise.items() if "season" in name)
    assert "season" in found.names[0] and LINE not in found.names
    assert seasons > 10 * max(rise["recent values"], rise["drift"], rise["size and age"])
    assert found.told()[0].startswith(f"Forecasts hang most on the {found.names[0]}")
    assert "size and age" in found.told()[1]


def test_an_exchange_with_oneself_changes_nothing(monkeypatch):
    monkeypatch.setattr(torch, "randperm", lambda n, generator: torch.arange(n))
    found = find_importance(from_frame(table()), 4, QUICK, origins=5, repeats=2)
    np.testing.assert_allclose(found.rises, 0.0, atol=1e-6)


def test_the_same_seed_gives_the_same_and_another_one_nearly_so():
    panel = from_frame(table())
    first, again = (find_importance(panel, 4, QUICK, origins=5, repeats=3) for _ in range(2))
    np.testing.assert_array_equal(first.rises, again.rises)
    assert first.names == again.names and (np.diff(first.means) <= 0).all()


def test_frames():
    frame = table()
    model = Forecaster(horizon=4, settings=QUICK)
    found = model.explain(frame, origins=5, repeats=3)
    assert found.columns == ["inputs", "rise", "deviation", "share"]
    records = find_importance(from_frame(frame), 4, QUICK, origins=5, repeats=3)
    assert importance_frame(records).equals(found)
    given = pd.DataFrame({c: frame[c].to_list() for c in frame.columns}).astype({"ds": "M8[us]"})
    assert isinstance(model.explain(given, origins=5, repeats=2), pd.DataFrame)
    before = model.fit(frame).predict()
    assert model.explain(origins=5, repeats=3).equals(found) and model.predict().equals(before)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"repeats": 1}, "repeats is 1"),
        ({"origins": 0}, "origins is 0"),
        ({"origins": 100}, r"take at most 67 origins"),
    ],
)
def test_what_is_refused(given, text, monkeypatch):
    monkeypatch.setattr("refold.forecast.importance.fit_panel", None)
    with pytest.raises(DataError, match=text):
        find_importance(from_frame(table()), 4, QUICK, **given)
    with pytest.raises(DataError, match="nothing can be exchanged"):
        find_importance(from_frame(table(1)), 4, QUICK, origins=1)
    with pytest.raises(DataError, match="has not been fitted"):
        Forecaster(horizon=4).explain()


# Covariates, missing values, heads


def promoted(number=3, length=120) -> pl.DataFrame:
    """Sales that a promotion known ahead rules; the other columns say nothing."""
    rng = np.random.default_rng(3)
    days = pl.date_range(pl.date(2024, 1, 1), pl.date(2024, 12, 31), eager=True)[:length]
    parts = []
    for i in range(number):
        promo = (rng.random(length) < 0.3).astype(float)
        columns = {
            "promo": promo,
            "noise": rng.normal(size=length),
            "warm": rng.normal(size=length),
        }
        y = 50 + 30 * promo + rng.normal(size=length)
        named = {"shop": "ab"[i % 2], "kind": pl.Series(rng.choice(["p", "q"], length))}
        parts.append(pl.DataFrame({"unique_id": f"s{i}", "ds": days, "y": y, **columns, **named}))
    return pl.concat(parts)


ALL = Covariates(static=["shop"], known=["promo", "noise", "kind"], historical=["warm"])


def test_the_covariate_that_rules_is_named():
    panel = from_frame(promoted(), covariates=ALL)
    found = find_importance(panel, 7, Settings(members=1, steps=80), origins=14, repeats=3)
    assert found.names[0] == "covariate promo"
    rise = dict(zip(found.names, found.means, strict=True))
    others = ("noise", "kind", "warm", "shop")
    assert rise["covariate promo"] > 5 * max(rise[f"covariate {name}"] for name in others)


def test_every_number_of_the_covariates_is_of_one():
    panel = from_frame(promoted(), covariates=ALL)
    fitted = fit_panel(panel, 7, QUICK)
    past, course = fitted.pasts[0], fitted.courses[0]
    assert isinstance(past, Past) and isinstance(course, Course) and past.beside is not None
    columns = chain(torch.full((3,), past.columns - 1), course)
    seen = window.told(past, torch.arange(3), columns)[window.COVARIATES]
    told = window.covariates(past, torch.arange(3), columns, 1)
    named, order = places(panel), torch.tensor([1, 2, 0])
    assert told is not None and set(named) == {c.name for c in panel.columns}
    of = torch.stack([is_seen(past.beside, one, seen.shape[-1]) for one in named.values()])
    assert (of.sum(dim=0) == 1).all()
    whole = told
    for one in named.values():
        whole = exchanged(past.beside, whole, one, order)
    for name in ("codes", "ahead", "ahead_codes"):
        assert torch.equal(getattr(whole, name), getattr(told, name)[:, order])
    # One alone is as if its column had been another series'.
    moved = past.beside.numbers.clone()
    moved[1] = moved[1, order]
    other = replace(past, beside=replace(past.beside, numbers=moved))
    expected = window.covariates(other, torch.arange(3), columns, 1)
    alone = exchanged(past.beside, told, named["noise"], order)
    assert expected is not None and torch.equal(alone.ahead, expected.ahead)
    there = window.told(other, torch.arange(3), columns)[window.COVARIATES]
    own = is_seen(past.beside, named["noise"], seen.shape[-1])
    assert torch.equal(torch.where(own, seen[:, order], seen), there)


@pytest.mark.parametrize("head", ["student", "quantiles", "poisson"])
def test_errors_of_distributions_and_of_what_was_observed(head):
    frame = table().with_columns(y=pl.col("y").round())
    gone = (pl.col("unique_id") == "s1") & (pl.int_range(pl.len()).over("unique_id") == 75)
    frame = frame.with_columns(y=pl.when(gone).then(None).otherwise(pl.col("y")))
    panel = from_frame(frame)
    found = find_importance(panel, 4, replace(QUICK, head=head), origins=5, repeats=2)
    before, each = rolled(found.fitted, panel, 9), []
    for i, series in enumerate(panel.series):
        own = series.observed
        for back in range(4, 9):
            z = before.ahead(torch.tensor([i]), torch.tensor([back]))
            end, unit = len(own) - back, found.fitted.data.unit[i].item()
            each.append(np.abs(own[end : end + 4] - before.values(i, z[0])) / unit)
    assert found.error == pytest.approx(np.nanmean(each), rel=1e-4)
    assert np.isnan(each).sum() > 0


# Over segments and steps


@pytest.mark.parametrize("head", ["point", "student", "poisson"])
@pytest.mark.parametrize("over", ["segments", "steps"])
def test_the_error_over_windows_is_that_of_the_forecasts(over, head):
    panel = from_frame(table().with_columns(pl.col("y").round()))
    settings = replace(QUICK, over=over, head=head, origins=None)
    found = find_importance(panel, 4, settings, origins=5, repeats=2)
    before, each = rolled(found.fitted, panel, 9), []
    for i, series in enumerate(panel.series):
        unit = found.fitted.data.unit[i].item()
        for back in range(4, 9):
            z = before.ahead(torch.tensor([i]), torch.tensor([back]))
            end = len(series) - back
            each.append(np.abs(series.values[end : end + 4] - before.values(i, z[0])).mean() / unit)
    assert found.error == pytest.approx(np.mean(each), rel=1e-4)
    assert any(name.startswith("last ") for name in found.names)


def test_parts_of_a_window_cover_it_once():
    for back, segment, seasons in (
        (14, 7, (7,)),
        (14, 1, (7,)),
        (12, 1, ()),
        (336, 24, (24,)),
        (5, 5, ()),
    ):
        course = over_steps((), 4, ["a"], 500, Settings(over="steps", look_back=back))
        parts = _parts(replace(course, segment=segment, seasons=seasons))
        covered = sorted(at for first, last in parts.values() for at in range(first, last))
        assert covered == list(range(back)) and len(parts) <= 6
        assert next(iter(parts)) == f"last {back - next(iter(parts.values()))[0]} values"


@pytest.mark.parametrize("over", ["segments", "steps"])
def test_over_windows_the_covariate_that_rules_is_named(over):
    panel = from_frame(promoted(), covariates=ALL)
    settings = Settings(over=over, members=1, steps=150, hidden=32)
    found = find_importance(panel, 7, settings, origins=14, repeats=3)
    assert found.names[0] == "covariate promo"
    rise = dict(zip(found.names, found.means, strict=True))
    assert rise["covariate promo"] > 4 * max(
        rise[f"covariate {name}"] for name in ("noise", "kind", "warm", "shop")
    )


@pytest.mark.parametrize("over", ["segments", "steps"])
def test_over_windows_a_covariate_is_exchanged_whole(over):
    """One after the other exchanged, with all parts of the window: the forecast is that of the other origin."""
    panel = from_frame(promoted(), covariates=ALL)
    fitted = fit_panel(panel, 7, replace(QUICK, over=over, members=1))
    before, order = rolled(fitted, panel, 10), torch.tensor([1, 2, 0])
    # Of one series: its vector is no input that is exchanged.
    rows, back = torch.zeros(3, dtype=torch.long), torch.tensor([8, 9, 10])
    (view,), _ = views_of(before, rows, back)
    past = before.pasts[0]
    assert isinstance(view, WindowView) and isinstance(past, Windows)
    last = view.told.level[0] * past.unit[0]
    whole: WindowView = view
    for name in view.names:
        whole = whole.exchanged(name, order)
    torch.testing.assert_close(whole.forecast() - last, (view.forecast() - last)[order])
    for name in ("covariate promo", "covariate noise"):
        assert not torch.equal(view.exchanged(name, order).forecast(), view.forecast())
