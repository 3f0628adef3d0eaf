"""Columns of frames under names of the user's own: on every verb, in every answer, in every error."""

import datetime as dt
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import refold as rf
from refold.forecast import Covariates, Settings

QUICK = Settings(steps=3, members=1, hidden=8)
OWN: Any = {"id": "shop", "time": "day", "target": "sales"}
PLAIN = {"shop": "unique_id", "day": "ds", "sales": "y"}


def table(length: int = 40, start: int = 0) -> pl.DataFrame:
    """Two shops, numbered; the second one is a day ahead."""
    parts = []
    for shop in (7, 3):
        t = start + np.arange(length)
        days = [dt.date(2024, 1, shop) + dt.timedelta(int(k)) for k in t]
        sales = 10.0 * shop + 3 * np.sin(2 * np.pi * t / 7) + 0.1 * (t * shop % 5)
        parts.append(pl.DataFrame({"shop": [shop] * length, "day": days, "sales": sales}))
    return pl.concat(parts)


@pytest.fixture(scope="module")
def named() -> rf.Forecaster:
    return rf.Forecaster(horizon=3, settings=QUICK).fit(table(), **OWN)


@pytest.fixture(scope="module")
def plain() -> rf.Forecaster:
    return rf.Forecaster(horizon=3, settings=QUICK).fit(table().rename(PLAIN))


def same(own: pl.DataFrame, plain: pl.DataFrame) -> None:
    """The same table but for the three names."""
    assert own.columns[:2] == ["shop", "day"]
    assert_frame_equal(own.rename(PLAIN, strict=False), plain)


def test_answers_have_the_names_that_were_given(named, plain):
    same(named.predict(), plain.predict())
    same(named.simulate(4), plain.simulate(4))
    same(named.backtest(windows=2).frame, plain.backtest(windows=2).frame)
    assert named.backtest(windows=2).frame.columns == ["shop", "day", "cutoff", "sales", "y_hat"]
    same(named.anomalies(level=80), plain.anomalies(level=80))
    assert "sales" in named.anomalies(level=80).columns
    assert named.explain(repeats=2).columns == plain.explain(repeats=2).columns


def test_verbs_with_a_frame_of_their_own_take_the_names_too():
    new = rf.Forecaster(horizon=3, settings=QUICK)
    found = new.backtest(table(), windows=2, **OWN)
    assert found.frame.columns == ["shop", "day", "cutoff", "sales", "y_hat"]
    assert new.anomalies(table(), level=80, **OWN).columns[:3] == ["shop", "day", "sales"]
    assert new.explain(table(), repeats=2, **OWN).height > 1
    with pytest.raises(rf.RefoldError, match="no column 'ds'"):
        new.backtest(table(), windows=2, id="shop", target="sales")


def test_rows_that_come_later_are_called_as_the_first_unless_it_is_said(named):
    later = table(2, start=40)
    expected = rf.Forecaster(horizon=3, settings=QUICK).fit(table(), **OWN).update(later).predict()
    renamed = rf.Forecaster(horizon=3, settings=QUICK).fit(table(), **OWN)
    renamed.update(later.rename({"sales": "sold"}), target="sold")
    assert renamed.predict().equals(expected)
    assert expected["day"].min() > named.predict()["day"].min()


def test_many_rows_and_few_are_read_alike():
    """A few plain rows are read without a query engine; more than these are not."""
    later = table(600, start=40)
    few = rf.Forecaster(horizon=3, settings=QUICK).fit(table(), **OWN)
    for start in range(40, 640, 200):
        few.update(table(200, start=start))
    many = rf.Forecaster(horizon=3, settings=QUICK).fit(table(), **OWN).update(later)
    assert few.predict().equals(many.predict())


def test_a_kept_model_knows_the_names(named, tmp_path):
    named.save(tmp_path / "model")
    again = rf.Forecaster.load(tmp_path / "model")
    assert again.predict().equals(named.predict())
    assert again.update(table(1, start=40)).predict().columns == ["shop", "day", "y_hat"]


@pytest.mark.parametrize("kind", ["pandas", "pyarrow"])
def test_frames_of_other_libraries(named, kind):
    frame = table().to_pandas() if kind == "pandas" else table().to_arrow()
    found = rf.Forecaster(horizon=3, settings=QUICK).fit(frame, **OWN).predict()
    values = nw.from_native(found, eager_only=True)
    assert values.columns == ["shop", "day", "y_hat"]
    np.testing.assert_array_equal(values["y_hat"].to_numpy(), named.predict()["y_hat"].to_numpy())
    assert isinstance(found, pd.DataFrame) == (kind == "pandas")


def test_one_series_is_named_after_its_target():
    frame = table().filter(pl.col("shop") == 7).drop("shop")
    found = (
        rf.Forecaster(horizon=3, settings=QUICK).fit(frame, time="day", target="sales").predict()
    )
    assert found.columns == ["unique_id", "day", "y_hat"]
    assert found["unique_id"].unique().to_list() == ["sales"]


def test_columns_that_are_called_as_others_usually_are():
    frame = table().rename({"shop": "y", "day": "unique_id", "sales": "ds"})
    found = rf.Forecaster(horizon=3, settings=QUICK)
    frame = found.backtest(frame, windows=1, id="y", time="unique_id", target="ds").frame
    assert frame.columns == ["y", "unique_id", "cutoff", "ds", "y_hat"]
    assert frame["y"].unique(maintain_order=True).to_list() == [7, 3]


def test_what_is_known_ahead_is_called_as_in_the_first_table():
    frame = table().with_columns(promo=pl.Series(np.arange(80) % 3 == 0).cast(pl.Float64))
    model = rf.Forecaster(horizon=3, settings=QUICK, covariates=Covariates(known=["promo"]))
    model.fit(frame, **OWN)
    ahead = table(3, start=40).with_columns(promo=pl.lit(1.0)).drop("sales")
    assert model.predict(future=ahead).columns == ["shop", "day", "y_hat"]
    with pytest.raises(rf.RefoldError, match="there is no column 'shop'"):
        model.predict(future=ahead.rename({"shop": "unique_id"}))


@pytest.mark.parametrize(
    ("change", "names", "told"),
    [
        (lambda f: f.drop("day"), OWN, "no column 'day'; there are: shop, sales"),
        (lambda f: f.drop("shop"), OWN, "no column 'shop'"),
        (lambda f: f, {**OWN, "time": "shop"}, "id, time and target are 'shop', 'shop', 'sales'"),
        (lambda f: f, {**OWN, "target": "y_hat"}, "target is column 'y_hat', and a forecast has"),
        (lambda f: f, {**OWN, "id": 3}, "id is 3"),
        (
            lambda f: f.with_columns(sales=pl.lit("many")),
            OWN,
            "frame, column sales\nrow 0: the value 'many' of series 7",
        ),
        (
            lambda f: f.with_columns(day=pl.lit("soon")),
            OWN,
            "frame, column day\nrow 0 holds 'soon'",
        ),
    ],
)
def test_errors_name_the_columns_of_the_user(change, names, told):
    with pytest.raises(rf.RefoldError) as caught:
        rf.Forecaster(horizon=3, settings=QUICK).fit(change(table()), **names)
    assert told in str(caught.value)


def test_a_covariate_is_no_id():
    with pytest.raises(
        rf.RefoldError, match="column 'shop' is a covariate, and id, time or target"
    ):
        covariates = Covariates(static=["shop"])
        rf.Forecaster(horizon=3, settings=QUICK, covariates=covariates).fit(table(), **OWN)
