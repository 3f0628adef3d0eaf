"""Heads and paths as a user of the command line meets them."""

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
    """A good file of 60 months, whole numbers."""
    days = pl.date_range(pl.date(2020, 1, 1), pl.date(2024, 12, 1), "1mo", eager=True)
    values = (20 + np.arange(60) + 5 * np.sin(np.arange(60))).round().astype(int)
    pl.DataFrame({"day": days, "sold": values}).write_csv(tmp_path / "shop.csv")
    return tmp_path / "shop.csv"


def plain(text):
    return " ".join(text.split())


def test_a_head_in_everything_that_forecast_writes(refold, quick, shop, tmp_path):
    words = ("-H", 3, "--level", "80", "--head", "negative_binomial", "--out", "out")
    code, out, _ = refold("forecast", shop, *words)
    assert code == 0
    told = "quantiles of the forecast's own distribution (negative binomial)"
    assert f"Intervals: {told}." in plain(out) and "80 % inside" in out
    frame = pl.read_csv(tmp_path / "out/forecast.csv")
    high = frame["y_hat-hi-80"].to_numpy()
    np.testing.assert_array_equal(high, high.round())
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    for word in (
        "own distribution (negative binomial)",
        "--head negative_binomial",
        '<th scope="col">CRPS</th>',
    ):
        assert word in page


def test_backtest_with_a_head_trains_once(refold, quick, shop, tmp_path, monkeypatch):
    monkeypatch.setattr("refold.forecast.backtest.calibrate", None)
    words = ("-H", 3, "--windows", 2, "--level", 80, "--head", "student", "--no-plot")
    code, out, _ = refold("backtest", shop, *words)
    assert code == 0 and "own distribution (student)" in plain(out)
    frame = pl.read_csv(tmp_path / "refold-backtest/backtest.csv")
    assert (frame["y_hat-lo-80"] < frame["y_hat-hi-80"]).all()


def test_fit_then_simulate(refold, quick, shop, tmp_path):
    assert refold("fit", shop, "-H", 3, "--head", "normal", "--no-intervals")[0] == 0
    code, out, _ = refold("simulate", "refold-model", "--paths", 4, "-H", 5, "--seed", 7)
    assert code == 0
    told = "Written to refold-paths: paths.csv (4 paths of 5 months for each series)"
    assert told in plain(out)
    frame = pl.read_csv(tmp_path / "refold-paths/paths.csv")
    assert frame.columns == ["unique_id", "ds", "path", "y_hat"] and frame.height == 20
    assert frame["ds"][:5].to_list() == [
        "2025-01-01", "2025-02-01", "2025-03-01", "2025-04-01", "2025-05-01",
    ]  # fmt: skip
    model = Forecaster.load(tmp_path / "refold-model")
    again = model.simulate(4, horizon=5, seed=7)
    np.testing.assert_allclose(frame["y_hat"], again["y_hat"], rtol=1e-12)


def test_simulate_after_newer_rows(refold, quick, shop, tmp_path):
    assert refold("fit", shop, "-H", 3)[0] == 0
    newer = "day,sold\n2025-01-01,80\n2025-02-01,81\n"
    (tmp_path / "newer.csv").write_text(newer)
    code, out, _ = refold("simulate", "refold-model", "--data", "newer.csv", "--paths", 2)
    assert code == 0 and "2 new rows" in out
    frame = pl.read_csv(tmp_path / "refold-paths/paths.csv")
    assert frame["ds"][0] == "2025-03-01" and frame["path"].to_list() == [1, 1, 1, 2, 2, 2]


def test_predict_beyond_the_trained_horizon(refold, quick, shop, tmp_path):
    assert refold("fit", shop, "-H", 3, "--head", "quantiles")[0] == 0
    code, out, _ = refold("predict", "refold-model", "-H", 7, "--level", 80)
    assert code == 0 and "moved: conformal, from" in plain(out)
    frame = pl.read_csv(tmp_path / "refold-forecast/forecast.csv")
    assert frame.height == 7 and (frame["y_hat-lo-80"] <= frame["y_hat-hi-80"]).all()
    assert refold("predict", "refold-model", "-H", 2)[0] == 0
    short = pl.read_csv(tmp_path / "refold-forecast/forecast.csv")
    assert short["y_hat"].to_list() == frame["y_hat"][:2].to_list()


def test_what_is_refused(refold, quick, shop, tmp_path):
    code, out, err = refold("forecast", shop, "-H", 3, "--head", "cauchy")
    assert code == 2 and "there is no head 'cauchy'" in err and out == ""
    assert refold("fit", shop, "-H", 3, "--no-intervals")[0] == 0
    cases = (
        (
            ("simulate", "refold-model"),
            "kept without the errors that intervals are made of, and paths",
        ),
        (("simulate", "refold-model", "--paths", 0), "paths is 0"),
        (("simulate", "refold-model", "-H", 0), "horizon is 0"),
        (("simulate", "refold-model", "--seed", -1), "seed is -1"),
        (("simulate", "nowhere"), "there is no such folder"),
        (
            ("predict", "refold-model", "-H", 4),
            "kept without the errors that intervals are made of",
        ),
        (("predict", "refold-model", "-H", 0), "the horizon is 0"),
    )
    for words, text in cases:
        code, out, err = refold(*words)
        assert code == 2 and text in plain(err) and out == "", words
    assert not (tmp_path / "refold-paths").exists()


def test_a_table_of_fractions_is_no_table_of_counts(refold, quick, tmp_path):
    (tmp_path / "half.csv").write_text("y\n" + "\n".join(str(0.5 * i) for i in range(40)))
    code, _, err = refold("fit", "half.csv", "-H", 3, "--head", "poisson")
    assert code == 2 and "series half is 0.5 at 2, and the head poisson is of counts" in plain(err)
    assert not (tmp_path / "refold-model").exists()
