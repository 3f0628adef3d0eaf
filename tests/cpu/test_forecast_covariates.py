"""Covariates: read, checked, learned from, known ahead, kept."""

import datetime as dt
from dataclasses import replace

import numpy as np
import pandas as pd
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
    appended,
    backtest_panel,
    calibrate,
    evaluate,
    fit_panel,
    from_frame,
    from_table,
    on_panel,
    predict_panel,
    read_table,
    with_future_frame,
)
from refold.forecast.beside import beside, standard
from refold.forecast.conditioned import Conditioned

QUICK = Settings(members=1, steps=5, rate=1e-3, origins=20)
LEARNS = Settings(members=1, steps=120, origins=40)


# What is read.


def test_columns_by_role_and_kind():
    panel = from_frame(shops(), covariates=ALL)
    kinds = [(c.name, c.role, c.levels) for c in panel.columns]
    assert kinds == [
        ("promo", "known", None), ("day", "known", ("plain", "promo")),
        ("warmth", "historical", None), ("shop", "static", ("a", "b")),
    ]  # fmt: skip
    values = panel.series[1].beside
    assert values is not None and len(panel.series[1]) == 90
    assert values.known.shape == (97, 2) and values.historical.shape == (90, 1)
    assert values.static.tolist() == [2.0]
    np.testing.assert_array_equal(values.known[:, 0], values.known[:, 1] - 1)
    assert panel.notes[-1].startswith("covariates: promo (known, numbers), day (known, 2 levels)")


@pytest.mark.parametrize("kind", ["pandas", "pyarrow", "csv", "parquet"])
def test_the_same_from_every_kind_of_table(kind, tmp_path):
    frame = shops().with_columns(open=pl.col("promo") > 0)
    named = Covariates(static=["shop"], known=["promo", "open"], categorical=["promo"])
    expected = from_frame(frame, covariates=named)
    if kind == "csv":
        frame.write_csv(tmp_path / "x.csv")
        found = from_table(read_table(tmp_path / "x.csv", target="y", covariates=named))
    elif kind == "parquet":
        frame.write_parquet(tmp_path / "x.parquet")
        found = from_table(read_table(tmp_path / "x.parquet", target="y", covariates=named))
    else:
        if kind == "pyarrow":
            pytest.importorskip("pyarrow")
        columns = {name: frame[name].to_list() for name in frame.columns}
        given = pd.DataFrame(columns) if kind == "pandas" else frame.to_arrow()
        if kind == "pandas":
            given["shop"] = given["shop"].astype("category")
        found = from_frame(given, covariates=named)
    assert [c.name for c in found.columns] == ["promo", "open", "shop"]
    assert [len(c.levels or ()) for c in found.columns] == [2, 2, 2]
    for first, second in zip(expected.series, found.series, strict=True):
        assert first.beside is not None and second.beside is not None
        np.testing.assert_array_equal(first.beside.known, second.beside.known)
        np.testing.assert_array_equal(first.beside.static, second.beside.static)


REFUSED = [
    ("promo", 30, float("inf"), "row 30: known covariate 'promo' at 2024-01-31 inf is no finite number"),
    ("day", 95, None, r"(?s)row 95: known covariate 'day' at 2024-04-05 is missing.*none was missing before"),
    ("shop", 100, "a", r"(?s)series s1, row 100: static covariate 'shop' differs.*name it as known"),
]  # fmt: skip


@pytest.mark.parametrize(("column", "row", "value", "text"), REFUSED)
def test_cells_that_are_refused(column, row, value, text):
    with pytest.raises(DataError, match=text):
        from_frame(spoiled(shops(), column, row, value), covariates=ALL)


def test_a_historical_covariate_need_not_be_known_ahead():
    panel = from_frame(spoiled(shops(), "warmth", 95, None), covariates=ALL)
    assert panel.series[0].beside is not None


def test_a_missing_value_whose_covariates_are_known():
    panel = from_frame(spoiled(shops(), "y", 40, None), covariates=ALL)
    assert panel.series[0].missing is not None and panel.series[0].missing.sum() == 1
    assert not any(c.absent for c in panel.columns)


def test_names_that_are_refused():
    with pytest.raises(DataError, match="column 'a' is named 2 times"):
        Covariates(static=["a"], known=["a"])
    with pytest.raises(DataError, match="'b' is named as categorical, and as nothing else"):
        Covariates(static=["a"], categorical=["b"])
    with pytest.raises(DataError, match="known is 'promo'"):
        Covariates(known="promo")
    with pytest.raises(DataError, match=r"(?s)no column 'price'; there are: .*add the covariate"):
        from_frame(shops(), covariates=Covariates(known=["price"]))


# What a network is told.


def test_what_stands_where():
    panel = from_frame(shops(count=2), covariates=ALL)
    scale = standard(panel)
    assert scale is not None
    held = beside(panel, scale, 60, 7)
    assert held is not None and held.numbers.shape == (2, 2, 67) and held.codes.shape == (1, 2, 67)
    assert held.levels == (3, 3) and (held.known_numbers, held.known_codes) == (1, 1)
    promo = shops(count=2).filter(unique_id="s1")["promo"].to_numpy()
    trained = np.concatenate(
        [shops(count=2).filter(unique_id=u)["promo"][:90] for u in ("s0", "s1")]
    )
    expected = (promo[30:] - trained.mean()) / trained.std()
    np.testing.assert_allclose(held.numbers[0, 1], expected, rtol=1e-5)
    rows, columns = torch.tensor([1]), torch.tensor([[59]])
    places = told.sources(columns, 7, ((7, 0),))
    assert places[0, 0, 0].tolist() == [60, 59, 53] and places[0, 0, 6].tolist() == [66, 59, 59]
    found = told.ahead(held, places, 7, rows, columns)[0, 0]
    np.testing.assert_allclose(found[:, 0], expected[-7:], rtol=1e-5)
    np.testing.assert_allclose(
        found[:, 1], expected[-7:] - expected[53:60].mean(), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(found[:, 3], expected[-7:] - expected[53:60], rtol=1e-4, atol=1e-6)


def test_what_is_ahead_of_an_origin_is_not_among_its_historical_numbers():
    frame = shops(count=1)
    panel = from_frame(frame, covariates=Covariates(historical=["warmth"]))
    held = beside(panel, standard(panel), 60, 7)
    assert held is not None
    rows, columns = torch.tensor([0]), torch.tensor([[40]])
    before = told.seen(held, 14, rows, columns)
    held.numbers[:, :, 41:] += 1.0
    torch.testing.assert_close(told.seen(held, 14, rows, columns), before, rtol=0, atol=0)


def test_a_level_that_is_not_trained_on_is_zeros():
    frame = spoiled(shops(), "day", 95, "feast")  # behind the end of a series only
    panel = from_frame(frame, covariates=ALL)
    assert panel.columns[1].levels == ("feast", "plain", "promo")
    fitted = fit_panel(panel, 7, QUICK)
    covariates = fitted.networks[0].covariates
    assert covariates is not None
    assert isinstance(covariates, Conditioned)
    weight = dict(covariates.named_parameters())["vectors.0.weight"]
    assert not weight[:2].any() and weight[2:].any(dim=1).all()


# What is learned.


def test_what_is_known_ahead_is_used_step_by_step():
    frame = shops(n=120)
    plain = evaluate(from_frame(frame), 7, LEARNS)
    for known in (["promo"], ["day"]):
        found = evaluate(from_frame(frame, covariates=Covariates(known=known)), 7, LEARNS)
        assert found.model.metrics["MAE"] < 0.4 * plain.model.metrics["MAE"]


def test_a_historical_covariate_that_runs_ahead_of_the_values():
    rng, parts = np.random.default_rng(0), []
    for i in range(6):
        x = rng.normal(size=160)
        y = 10 * np.concatenate([np.zeros(3), x[:-3]]) + 0.5 * rng.normal(size=160)
        ds = np.arange(160)
        parts.append(pl.DataFrame({"unique_id": [f"s{i}"] * 160, "ds": ds, "y": y, "x": x}))
    frame = pl.concat(parts)
    plain = evaluate(from_frame(frame, seasons=()), 3, LEARNS)
    named = Covariates(historical=["x"])
    found = evaluate(from_frame(frame, seasons=(), covariates=named), 3, LEARNS)
    assert found.model.metrics["MAE"] < 0.5 * plain.model.metrics["MAE"]


def test_a_static_category_that_says_which_way_an_event_goes():
    rng, parts = np.random.default_rng(0), []
    for i in range(40):
        # An event raises one kind of shop and lowers the other, too rarely to be seen in a window.
        event = (rng.random(100) < 0.03).astype(float)
        event[95:] = [0, 1, 0, 1, 1]
        y = 100 + np.where(i % 2, 30, -30) * event + rng.normal(size=100)
        columns = {"ds": np.arange(100), "y": y, "event": event, "kind": ["ab"[i % 2]] * 100}
        parts.append(pl.DataFrame({"unique_id": [f"s{i}"] * 100, **columns}))
    frame = pl.concat(parts)
    errors = {}
    for static in ((), ("kind",)):
        panel = from_frame(frame, seasons=(), covariates=Covariates(static, known=["event"]))
        found = evaluate(panel, 5, replace(LEARNS, steps=200))
        errors[static] = found.model.metrics["MAE"]
    assert errors[("kind",)] < 0.6 * errors[()], errors


def test_without_covariates_nothing_changes():
    frame = shops()
    panel = from_frame(frame)
    named = from_frame(frame, covariates=Covariates())
    assert named.columns == () and named.series[0].beside is None
    first, second = (predict_panel(fit_panel(p, 7, QUICK)) for p in (panel, named))
    np.testing.assert_array_equal(np.stack(first), np.stack(second))


# What is known ahead.


def test_rows_behind_the_end_or_a_frame_of_their_own():
    frame = shops()
    whole = Forecaster(horizon=7, settings=QUICK, covariates=ALL).fit(frame)
    known = frame.filter(pl.col("y").is_not_null())
    ahead = frame.filter(pl.col("y").is_null()).select("unique_id", "ds", "promo", "day")
    model = Forecaster(horizon=7, settings=QUICK, covariates=ALL).fit(known)
    text = r"(?s)series s0: known covariate 'promo' has no value at 2024-03-31, and 7 steps.*future"
    with pytest.raises(DataError, match=text):
        model.predict()
    assert model.predict(future=ahead).equals(whole.predict())
    with pytest.raises(DataError, match="has no value at 2024-04-03"):
        model.predict(future=ahead.filter(pl.col("ds") != dt.date(2024, 4, 3)))
    other = ahead.with_columns(promo=1 - pl.col("promo"))
    assert (model.predict(future=other)["y_hat"] != whole.predict()["y_hat"]).any()
    with pytest.raises(DataError, match="row 0: series x is not known"):
        model.predict(future=ahead.with_columns(unique_id=pl.lit("x")))
    with pytest.raises(DataError, match="there is no column 'day'"):
        model.predict(future=ahead.drop("day"))
    plain = Forecaster(horizon=7, settings=QUICK).fit(known)
    with pytest.raises(DataError, match="has no covariate that is known ahead"):
        plain.predict(future=ahead)


def test_a_level_that_was_never_seen_has_the_index_of_the_unknown():
    frame = shops()
    model = Forecaster(horizon=7, settings=QUICK, covariates=ALL).fit(frame)
    ahead = frame.filter(pl.col("y").is_null()).with_columns(day=pl.lit("feast"))
    assert model.fitted is not None
    panel = with_future_frame(model.fitted.panel, ahead)
    values = panel.series[0].beside
    assert (
        values is not None
        and (values.known[90:, 1] == 0).all()
        and (values.known[:90, 1] > 0).all()
    )
    assert model.predict(future=ahead)["y_hat"].is_finite().all()


# All verbs.


def test_backtest_calibrate_and_intervals():
    panel = from_frame(shops(n=100), covariates=ALL)
    for refit in (False, True):
        found = backtest_panel(panel, 7, QUICK, windows=2, refit=refit, levels=(80.0,))
        assert np.isfinite(found.model.metrics["MAE"])
    assert np.isfinite(calibrate(panel, 7, QUICK, origins=3).scores).all()
    model = Forecaster(horizon=7, settings=QUICK, covariates=ALL).fit(shops(n=100))
    assert model.predict(level=80)["y_hat-lo-80"].is_finite().all()


def test_the_held_out_part_is_not_seen():
    frame = shops(count=2)
    late = pl.col("ds") > dt.date(2024, 3, 23)
    other = frame.with_columns(
        y=pl.when(late).then(pl.col("y") * 3).otherwise("y"),
        warmth=pl.when(late).then(9.0).otherwise("warmth"),
    )
    first, second = (evaluate(from_frame(f, covariates=ALL), 7, QUICK) for f in (frame, other))
    np.testing.assert_array_equal(np.stack(first.model.forecasts), np.stack(second.model.forecasts))


def test_saved_and_loaded_it_says_the_same(tmp_path):
    frame = shops()
    model = Forecaster(horizon=7, settings=QUICK, covariates=ALL).fit(frame)
    model.save(tmp_path / "model")
    again = Forecaster.load(tmp_path / "model")
    assert again.predict().equals(model.predict())
    assert again.covariates == replace(model.covariates, categorical=("day", "shop"))
    ahead = frame.filter(pl.col("y").is_null()).with_columns(day=pl.lit("feast"), promo=pl.lit(0.0))
    assert again.predict(future=ahead).equals(model.predict(future=ahead))


def test_newer_rows_bring_their_covariates():
    frame = shops(n=90)
    rows = frame.with_columns(n=pl.int_range(pl.len()).over("unique_id"))
    old = rows.filter(pl.col("n") < 80)
    newer = rows.filter(pl.col("n") >= 75)
    model = Forecaster(horizon=7, settings=QUICK, covariates=ALL).fit(old)
    assert model.fitted is not None
    found = model.update(newer).predict()
    assert [str(day) for day in found["ds"][:1]] == ["2024-03-31"]
    whole = from_frame(frame, covariates=ALL)
    for one, other in zip(model.fitted.panel.series, whole.series, strict=True):
        assert one.beside is not None and other.beside is not None
        np.testing.assert_array_equal(one.beside.known, other.beside.known)
        np.testing.assert_array_equal(one.beside.historical, other.beside.historical)
    fitted = Forecaster(horizon=7, settings=QUICK, covariates=ALL).fit(old).fitted
    assert fitted is not None
    expected = predict_panel(on_panel(fitted, whole))
    np.testing.assert_array_equal(found["y_hat"], np.concatenate(expected))
    with pytest.raises(DataError, match="there is no column 'shop'"):
        model.update(newer.drop("shop"))
    same = appended(whole, from_frame(newer, like=whole), 7)
    assert [len(s) for s in same.series] == [90, 90, 90]


# The commands.


def test_the_commands(refold, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "refold.forecast.Settings",
        lambda **given: Settings(**{"members": 1, "steps": 3, "rate": 1e-3, **given}),
    )
    frame = shops(count=2)
    frame.filter(pl.col("y").is_not_null()).write_csv(tmp_path / "shops.csv")
    frame.filter(pl.col("y").is_null()).select("unique_id", "ds", "promo", "day").write_csv(
        tmp_path / "ahead.csv"
    )
    flags = ["--static", "shop", "--known", "promo,day", "--historical", "warmth", "--no-plot"]
    code, out, err = refold("forecast", "shops.csv", "-H", 7, *flags)
    assert (
        code == 2
        and "'promo' has no value at 2024-03-31" in err
        and not (tmp_path / "refold-forecast").exists()
    )
    code, out, _ = refold(
        "forecast", "shops.csv", "-H", 7, *flags, "--future", "ahead.csv", "--out", "a"
    )
    assert code == 0 and "covariates: promo (known, numbers)" in " ".join(out.split())
    page = (tmp_path / "a/report.html").read_text(encoding="utf-8")
    assert "--known promo,day --historical warmth --future ahead.csv" in page
    assert refold("backtest", "shops.csv", "-H", 7, "--windows", 2, *flags)[0] == 0
    code, _, err = refold(
        "fit", "shops.csv", "-H", 7, *flags[:-1], "--no-intervals", "--out", "model"
    )
    assert code == 0, err
    code, _, err = refold("predict", "model")
    assert code == 2 and "has no value" in err
    assert refold("predict", "model", "--future", "ahead.csv", "--out", "b")[0] == 0
    assert pl.read_csv(tmp_path / "b/forecast.csv").height == 14
    code, _, err = refold("forecast", "shops.csv", "-H", 7, "--known", "price")
    assert code == 2 and "no column 'price' for a covariate" in err
