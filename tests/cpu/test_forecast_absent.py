"""Cells of covariates that are missing: what stands for them, what a network is told, and where they are refused."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from shop_tables import ALL, shops, spoiled

from refold.data import beside as told
from refold.errors import DataError
from refold.forecast import (
    Covariates,
    Forecaster,
    Settings,
    evaluate,
    fit_panel,
    from_frame,
    from_table,
    predict_panel,
    read_table,
)
from refold.forecast.beside import beside, places, standard
from refold.forecast.covariates import ABSENT

QUICK = Settings(members=1, steps=5, rate=1e-3, origins=20)

# What stands there.


def test_a_number_goes_on_from_the_last_one_seen_and_says_so():
    frame = shops(count=2)
    for row in (0, 1, 40, 41):
        frame = spoiled(frame, "warmth", row, None)
    panel = from_frame(frame, covariates=Covariates(known=["promo"], historical=["warmth"]))
    assert [c.absent for c in panel.columns] == [False, True]
    scale = standard(panel)
    assert scale is not None
    whole = np.concatenate([frame.filter(unique_id=u)["warmth"][:90] for u in ("s0", "s1")])
    whole = whole[~np.isnan(whole)]
    np.testing.assert_allclose([scale.centre[1], scale.unit[1]], [whole.mean(), whole.std()])
    held = beside(panel, scale, 90, 7)
    assert held is not None and held.numbers.shape[0] == 3
    promo, warmth, flag = held.numbers
    warm = (frame["warmth"].to_numpy()[:90] - scale.centre[1]) / scale.unit[1]
    np.testing.assert_allclose(warmth[0, 2:40], warm[2:40], rtol=1e-5)
    assert warmth[0, :2].tolist() == [0, 0]
    np.testing.assert_allclose(warmth[0, 40:42], warm[[39, 39]], rtol=1e-5)
    assert torch.nonzero(flag).tolist() == [[0, 0], [0, 1], [0, 40], [0, 41]]
    assert len(promo.unique()) == 2
    assert places(panel)["warmth"].columns == (1, 2) and places(panel)["promo"].columns == (0,)


def test_the_mean_is_that_of_what_was_trained_on():
    """A cell before the first stands at 0, whatever comes in the held-out part."""
    frame = spoiled(shops(count=1), "warmth", 0, None)
    panel = from_frame(frame, covariates=Covariates(historical=["warmth"]))
    known, _ = panel.split(20)
    held = beside(known, standard(known), 70, 7)
    assert held is not None and held.numbers[0, 0, 0] == 0
    seen = frame["warmth"].to_numpy()[1:70]
    expected = (seen - seen.mean()) / seen.std()
    np.testing.assert_allclose(held.numbers[0, 0, 1:70], expected, rtol=1e-4, atol=1e-5)


def test_a_category_has_a_level_of_its_own_for_what_is_missing():
    frame = spoiled(spoiled(shops(), "day", 30, None), "day", 31, "NA")
    panel = from_frame(frame, covariates=ALL)
    held = beside(panel, standard(panel), 90, 7)
    assert held is not None and held.levels == (4, 3)
    assert held.codes[0, 0, 30:32].tolist() == [3, 3] and held.codes[0, 0, 29] in (1, 2)
    assert torch.nonzero(held.codes[0] == 3).tolist() == [[0, 30], [0, 31]]


def test_a_static_covariate_is_missing_where_no_row_has_it():
    size = pl.col("unique_id").replace_strict({"s0": 3.0, "s1": 5.0}, default=None)
    frame = shops().with_columns(size=size)
    frame = spoiled(spoiled(frame, "size", 0, None), "shop", 1, None)
    panel = from_frame(frame, covariates=Covariates(static=["size", "shop"]))
    static = [s.beside.static.tolist() for s in panel.series if s.beside]
    assert static == [[3.0, 1.0], [5.0, 2.0], [ABSENT, 1.0]]
    assert [c.absent for c in panel.columns] == [True, False]
    held = beside(panel, standard(panel), 90, 7)
    assert held is not None
    np.testing.assert_allclose(held.static, [[-1, 0], [1, 0], [0, 1]])
    with pytest.raises(DataError, match="static covariate 'size' differs"):
        from_frame(spoiled(frame, "size", 5, 4.0), covariates=Covariates(static=["size"]))


def test_a_gap_is_a_row_of_missing_cells():
    frame = shops()
    gap = pl.concat([frame[:40], frame[41:]])
    panel = from_frame(gap, covariates=ALL)
    values = panel.series[0].beside
    assert (
        values is not None and np.isinf(values.known[40]).all() and np.isinf(values.historical[40])
    )
    assert [c.absent for c in panel.columns] == [True, True, True, False]
    first, second = (from_frame(f, covariates=ALL) for f in (gap, spoiled(frame, "y", 40, None)))
    np.testing.assert_array_equal(first.series[0].values, second.series[0].values)


def test_it_is_told_in_words(tmp_path):
    frame = spoiled(spoiled(shops(), "warmth", 100, float("nan")), "day", 30, None)
    panel = from_frame(frame, covariates=ALL)
    assert "day (known, 2 levels, some missing)" in panel.notes[-2]
    assert panel.notes[-1].startswith(
        "missing cells of covariates: 1 of 270 of day, 1 of 270 of warmth; numbers go on from the last one seen"
    )
    frame.write_csv(tmp_path / "x.csv")
    table = from_table(read_table(tmp_path / "x.csv", target="y", covariates=ALL))
    assert table.notes[-1] == panel.notes[-1] and table.columns == panel.columns


# What is learned.


@pytest.mark.parametrize("over", ["origins", "segments", "steps"])
def test_that_a_cell_is_missing_can_say_everything(over):
    """Wherever the price is not given, the shop is shut: only the flag says so."""
    rng, parts = np.random.default_rng(0), []
    for i in range(6):
        shut = rng.random(127) < 0.2
        y = 100 - 60 * shut + rng.normal(size=127)
        price = [None if s else 5.0 + p for s, p in zip(shut, rng.normal(size=127), strict=True)]
        ds = np.arange(127)
        parts.append(pl.DataFrame({"unique_id": [f"s{i}"] * 127, "ds": ds, "y": y, "price": price}))
    frame = pl.concat(parts)
    settings = Settings(over=over, members=1, steps=150, rate=1e-2)
    plain = evaluate(from_frame(frame, seasons=()), 7, settings)
    panel = from_frame(frame, seasons=(), covariates=Covariates(known=["price"]))
    found = evaluate(panel, 7, settings)
    assert found.model.metrics["MAE"] < 0.5 * plain.model.metrics["MAE"]


# All verbs.


@pytest.mark.parametrize("over", ["origins", "segments", "steps"])
def test_kept_and_gone_on_with(over, tmp_path):
    settings = replace(QUICK, over=over)
    frame = spoiled(spoiled(shops(), "promo", 30, None), "day", 33, None)
    model = Forecaster(horizon=7, settings=settings, covariates=ALL).fit(frame)
    model.save(tmp_path / "model")
    again = Forecaster.load(tmp_path / "model")
    assert again.predict().equals(model.predict())
    ahead = frame.filter(pl.col("y").is_null())
    with_gap = spoiled(ahead, "promo", 3, None)  # it has learned what that means
    assert again.predict(future=with_gap)["y_hat"].is_finite().all()
    assert not again.predict(future=with_gap).equals(model.predict())
    newer = ahead.head(7).with_columns(y=pl.lit(50.0), promo=pl.lit(None, pl.Float64))
    assert again.update(newer.head(3)).fitted is not None


def test_where_none_was_missing_none_may_be():
    frame = shops()
    model = Forecaster(horizon=7, settings=QUICK, covariates=ALL).fit(frame)
    ahead = frame.filter(pl.col("y").is_null())
    text = (
        r"(?s)series s0, row 3: known covariate 'promo' at 2024-04-03 is missing.*none was missing"
    )
    with pytest.raises(DataError, match=text):
        model.predict(future=spoiled(ahead, "promo", 3, None))
    newer = ahead.filter(unique_id="s0").with_columns(y=pl.lit(50.0))
    with pytest.raises(DataError, match="row 2: historical covariate 'warmth' at 2024-04-02"):
        model.update(spoiled(newer, "warmth", 2, None))
    text = r"(?s)series s0 has no row for 2024-04-02, so covariate 'promo' is not known there"
    with pytest.raises(DataError, match=text):
        model.update(pl.concat([newer[:2], newer[3:]]))


def test_what_is_no_number_is_no_missing_cell():
    frame = shops().with_columns(pl.col("promo").cast(pl.String))
    with pytest.raises(
        DataError, match="row 30: known covariate 'promo' at 2024-01-31 'much' is no finite"
    ):
        from_frame(spoiled(frame, "promo", 30, "much"), covariates=Covariates(known=["promo"]))


def test_forecasts_hang_on_no_cell_of_the_held_out_part():
    frame = spoiled(shops(count=2), "warmth", 5, None)
    other = spoiled(frame, "warmth", 88, None)
    found = []
    for each in (frame, other):
        panel = from_frame(each, covariates=ALL)
        found.append(np.stack(predict_panel(fit_panel(panel.split(7)[0], 7, QUICK))))
    np.testing.assert_array_equal(*found)


def test_the_flag_of_a_covariate_moves_with_it():
    frame = spoiled(shops(), "promo", 30, None)
    panel = from_frame(frame, covariates=ALL)
    held = beside(panel, standard(panel), 90, 7)
    assert held is not None and held.known_numbers == 2
    place = places(panel)["promo"]
    assert place.columns == (0, 1)
    seen = told.seen(held, 14, torch.arange(3), torch.full((1, 3), 89))
    of = told.is_seen(held, place, seen.shape[-1])
    assert of.sum() == 2 * held.near(14)
