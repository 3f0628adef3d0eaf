"""backtest, fit and predict as a user meets them, and intervals in what `forecast` writes."""

import datetime as dt
import shutil

import numpy as np
import polars as pl
import pytest

from refold.forecast import Forecaster, Settings


@pytest.fixture
def quick(monkeypatch):
    """Defaults that train in no time: for what does not depend on the training."""
    monkeypatch.setattr(
        "refold.forecast.Settings",
        lambda **given: Settings(**{"members": 1, "steps": 3, "rate": 1e-3, **given}),
    )


@pytest.fixture
def shop(tmp_path):
    """A good file of 60 months."""
    days = pl.date_range(pl.date(2020, 1, 1), pl.date(2024, 12, 1), "1mo", eager=True)
    values = 20 + np.arange(60) + 5 * np.sin(np.arange(60))
    pl.DataFrame({"day": days, "sold": values}).write_csv(tmp_path / "shop.csv")
    return tmp_path / "shop.csv"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def plain(text):
    return " ".join(text.split())


# Settings by flags


def test_irregular_stamps_are_taken_as_they_are(refold, quick, tmp_path):
    minutes = np.random.default_rng(0).exponential(30, size=80).cumsum()
    stamps = [dt.datetime(2024, 1, 1) + dt.timedelta(minutes=float(m)) for m in minutes]
    pl.DataFrame({"when": stamps, "level": np.sin(minutes / 60)}).write_csv(tmp_path / "tank.csv")
    code, _, err = refold("forecast", "tank.csv", "-H", 3, "--no-plot")
    assert code == 2 and "--over times" in plain(err)
    code, out, err = refold("forecast", "tank.csv", "-H", 3, "--no-plot", "--over", "times")
    assert code == 0, err
    assert "irregular stamps, taken as they are" in plain(out) and "refold cfc" in plain(out)
    ahead = pl.read_csv(tmp_path / "refold-forecast/forecast.csv", try_parse_dates=True)["ds"]
    assert ahead[0] > stamps[-1] and ahead.diff().drop_nulls().n_unique() == 1
    code, _, err = refold("forecast", "tank.csv", "-H", 3, "--over", "times", "--cell", "gru")
    assert code == 2 and "reads no time step" in plain(err)


def test_scaling_by_smoothing(refold, quick, shop, tmp_path):
    code, _, err = refold("fit", shop, "-H", 3, "--scaling", "smoothing", "--no-intervals")
    assert code == 0, err
    assert Forecaster.load(tmp_path / "refold-model").settings.scaling == "smoothing"
    code, _, _ = refold("forecast", shop, "-H", 3, "--no-plot", "--scaling", "smoothing")
    page = (tmp_path / "refold-forecast/report.html").read_text(encoding="utf-8")
    assert code == 0 and "exponential smoothing" in page and "--scaling smoothing" in page
    code, _, err = refold("fit", shop, "-H", 3, "--scaling", "size")
    assert code == 2 and "choose one of window, smoothing" in plain(err)


# Intervals


def test_levels_in_everything_that_forecast_writes(refold, quick, shop, tmp_path):
    code, out, _ = refold("forecast", shop, "-H", 3, "--level", "95,80", "--out", "out")
    assert code == 0
    frame = pl.read_csv(tmp_path / "out/forecast.csv")
    assert frame.columns == [
        "unique_id", "ds", "y_hat", "y_hat-lo-80", "y_hat-hi-80", "y_hat-lo-95", "y_hat-hi-95",
    ]  # fmt: skip
    assert (frame["y_hat-lo-95"] <= frame["y_hat-lo-80"]).all()
    assert "80 % inside" in out and "95 % MSIS" in out
    assert "Intervals: conformal, from 18 errors of each step" in plain(out)
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    held = "Do the intervals hold what they say?"
    for word in (
        "95 % inside",
        "80 % interval",
        "low 95 %",
        "conformal, from",
        "--level 95,80",
        held,
    ):
        assert word in page


def test_a_level_with_too_few_errors_is_said_or_refused_before_training(refold, shop, monkeypatch):
    monkeypatch.setattr("refold.forecast.fit_panel", None)
    monkeypatch.setattr("refold.forecast.intervals.fit_panel", None)
    code, out, err = refold("forecast", shop, "-H", 3, "--level", "99.5", "--no-plot")
    assert code == 2 and "99.5 % needs 199 errors of the forecaster, and there are 51" in err
    assert "level of at most 98" in err
    for level, text in (("a", "'a' is not a list of percents"), ("0.95", "a level is 0.95")):
        code, out, err = refold("forecast", shop, "-H", 3, "--level", level)
        assert code == 2 and text in err and out == ""


def test_a_stated_widening(refold, quick, shop):
    code, out, _ = refold("forecast", shop, "-H", 3, "--level", "95", "--no-plot")
    assert code == 0
    assert "for 95 % these are too few, so the 54 errors of all steps are taken together" in plain(
        out
    )


# backtest


def test_backtest(refold, quick, shop, tmp_path):
    code, out, _ = refold("backtest", shop, "-H", 3, "--windows", 4, "--level", 80)
    assert code == 0
    assert names(tmp_path / "refold-backtest") == ["backtest.csv", "backtest.png", "report.html"]
    frame = pl.read_csv(tmp_path / "refold-backtest/backtest.csv")
    assert frame.columns == [
        "unique_id", "ds", "cutoff", "y", "y_hat", "y_hat-lo-80", "y_hat-hi-80",
    ]  # fmt: skip
    assert frame["cutoff"].unique(maintain_order=True).to_list() == [
        "2023-12-01", "2024-03-01", "2024-06-01", "2024-09-01",
    ]  # fmt: skip
    assert frame["ds"][0] == "2024-01-01" and set(frame["unique_id"]) == {"shop"}
    for word in ("Naive", "Linear autoregression", "refold gru", "OWA", "80 % inside"):
        assert word in out
    assert "on 3 months from each of 4 origins" in plain(out).lower()
    page = (tmp_path / "refold-backtest/report.html").read_text(encoding="utf-8")
    for word in (
        "after 2023-12-01",
        "networks were trained once",
        "refold backtest",
        "--windows 4 --step 3",
        "<svg",
        "Do the intervals hold what they say?",
    ):
        assert word in page


def test_backtest_with_refit_and_a_step(refold, quick, shop, tmp_path):
    code, out, _ = refold(
        "backtest", shop, "-H", 3, "--windows", 2, "--step", 1, "--refit", "--no-plot", "--out", "b"
    )
    assert code == 0 and names(tmp_path / "b") == ["backtest.csv", "report.html"]
    page = (tmp_path / "b/report.html").read_text(encoding="utf-8")
    assert "--windows 2 --step 1 --refit" in page and "<svg" not in page
    assert "trained anew for each origin" in page and "Intervals" not in out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("-H", 3, "--windows", 0), "windows is 0"),
        (("-H", 3, "--step", 0), "step is 0"),
        (("-H", 3, "--windows", 40), "40 windows 3 apart at horizon 3 need 129"),
        (("-H", 3, "--level", "x"), "'x' is not a list of percents"),
        ((), "no horizon is given"),
        (("-H", 3, "--out", "shop.csv"), "shop.csv is a file, not a folder"),
    ],
)
def test_what_backtest_refuses(refold, shop, tmp_path, words, text, monkeypatch):
    monkeypatch.setattr("refold.forecast.backtest.fit_panel", None)
    code, out, err = refold("backtest", shop, *words)
    assert code == 2 and text in plain(err) and "fix:" in err and out == ""
    assert names(tmp_path) == ["shop.csv"]


# fit and predict


def test_fit_then_predict(refold, quick, shop, tmp_path):
    code, out, _ = refold("fit", shop, "-H", 3, "--out", "model")
    assert code == 0 and names(tmp_path / "model") == ["about.json", "model.safetensors"]
    assert "Forecast with: refold predict model" in out
    assert "intervals: conformal, from 18 errors of each step" in plain(out)
    code, out, _ = refold("predict", "model", "--level", "80", "--out", "next")
    assert code == 0 and names(tmp_path / "next") == ["forecast.csv"]
    frame = pl.read_csv(tmp_path / "next/forecast.csv")
    assert frame["ds"].to_list() == ["2025-01-01", "2025-02-01", "2025-03-01"]
    assert frame.columns[2:] == ["y_hat", "y_hat-lo-80", "y_hat-hi-80"]
    here = Forecaster.load(tmp_path / "model").predict(level=80)
    np.testing.assert_allclose(frame["y_hat-hi-80"], here["y_hat-hi-80"], rtol=1e-12)


@pytest.mark.parametrize("rows", ["newer", "all"])
def test_predict_after_newer_rows(refold, quick, shop, tmp_path, rows):
    lines = shop.read_text().splitlines()
    (tmp_path / "old.csv").write_text("\n".join(lines[:-4]) + "\n")
    kept = lines if rows == "all" else [lines[0], *lines[-4:]]
    (tmp_path / "newer.csv").write_text("\n".join(kept) + "\n")
    assert refold("fit", "old.csv", "-H", 3, "--out", "m")[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    code, out, _ = refold("predict", "m", "--data", "newer.csv", "--out", "out")
    assert code == 0 and "4 new rows" in out
    frame = pl.read_csv(tmp_path / "out/forecast.csv")
    assert frame["ds"][0] == "2025-01-01" and frame["unique_id"][0] == "old"
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before


def test_predict_with_several_series_and_a_new_one(refold, quick, tmp_path):
    parts = [
        pl.DataFrame({"site": [name] * n, "step": range(n), "load": np.arange(n) % 7 + 1.0})
        for name, n in (("north", 40), ("south", 25), ("west", 30))
    ]
    pl.concat(parts[:2]).write_parquet(tmp_path / "grid.parquet")
    pl.concat(parts).write_csv(tmp_path / "newer.csv")
    words = ("--target", "load", "--time", "step", "--id", "site")
    assert refold("fit", "grid.parquet", "-H", 2, *words, "--no-intervals", "--out", "m")[0] == 0
    code, out, err = refold("predict", "m", "--data", "newer.csv", "--out", "out")
    assert code == 0 and "30 new rows, 1 new series among them" in out, err
    frame = pl.read_csv(tmp_path / "out/forecast.csv")
    assert frame["unique_id"].to_list() == ["north"] * 2 + ["south"] * 2 + ["west"] * 2
    assert frame["ds"].to_list() == [40, 41, 25, 26, 30, 31]


def test_what_predict_refuses(refold, quick, shop, tmp_path):
    assert refold("fit", shop, "-H", 3, "--no-intervals", "--out", "m")[0] == 0
    code, _, err = refold("predict", "m", "--level", "80")
    assert code == 2 and "without the errors that intervals are made of" in plain(err)
    code, _, err = refold("predict", "none")
    assert code == 2 and "there is no such folder" in err
    (tmp_path / "gap.csv").write_text("day,sold\n2025-02-01,3\n")
    code, _, err = refold("predict", "m", "--data", "gap.csv")
    assert code == 2 and "2025-01-01 is missing" in plain(err)
    (tmp_path / "steps.csv").write_text("y\n3\n4\n")
    assert refold("fit", "steps.csv", "-H", 3)[0] == 2
    (tmp_path / "rows.csv").write_text("y\n" + "3\n4\n" * 10)
    assert refold("fit", "rows.csv", "-H", 3, "--out", "r")[0] == 0
    code, _, err = refold("predict", "r", "--data", "steps.csv")
    assert code == 2 and "its rows say no time" in plain(err)
    model = tmp_path / "m/model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    code, _, err = refold("predict", "m")
    assert code == 2 and "the checkpoint is damaged" in err and "Traceback" not in err
    assert "refold-forecast" not in names(tmp_path)


def test_a_model_without_intervals_says_why(refold, quick, shop, tmp_path):
    short = shop.read_text().splitlines()[:11]
    (tmp_path / "short.csv").write_text("\n".join(short) + "\n")
    code, out, _ = refold("fit", "short.csv", "-H", 3, "--out", "m")
    assert code == 0 and "no intervals: the longest series has 10 points" in plain(out)
    assert refold("predict", "m", "--out", "out")[0] == 0


def test_a_model_can_be_moved(refold, quick, shop, tmp_path):
    assert refold("fit", shop, "-H", 3, "--out", "m")[0] == 0
    shutil.move(tmp_path / "m", tmp_path / "elsewhere")
    shop.unlink()
    assert refold("predict", "elsewhere", "--out", "out")[0] == 0


def test_the_help_of_every_verb(refold):
    for verb, flags in (
        ("backtest", ("--windows", "--step", "--refit", "--level", "--horizon")),
        ("fit", ("--horizon", "--no-intervals", "--cell", "--out")),
        ("predict", ("--data", "--level", "--out")),
    ):
        code, out, _ = refold(verb, "--help")
        assert code == 0 and all(flag in out for flag in flags)
    code, out, _ = refold("--help")
    assert code == 0 and all(verb in out for verb in ("forecast", "backtest", "fit", "predict"))
