"""anomalies, importance and tune as a user meets them."""

import json

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
    """A good file of 60 months, with one that is wrong."""
    days = pl.date_range(pl.date(2020, 1, 1), pl.date(2024, 12, 1), "1mo", eager=True)
    values = 20 + np.arange(60) + 5 * np.sin(np.arange(60))
    values[50] += 200
    pl.DataFrame({"day": days, "sold": values}).write_csv(tmp_path / "shop.csv")
    return tmp_path / "shop.csv"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def plain(text):
    return " ".join(text.split())


# anomalies


def test_anomalies(refold, quick, shop, tmp_path):
    code, out, _ = refold("anomalies", shop, "-H", 3, "--level", 90)
    assert code == 0
    folder = tmp_path / "refold-anomalies"
    assert names(folder) == ["anomalies.csv", "anomalies.png", "report.html"]
    frame = pl.read_csv(folder / "anomalies.csv")
    assert frame.height == 20 and frame["ds"][0] == "2023-05-01"
    assert frame.filter("is_anomaly")["ds"].to_list().count("2024-03-01") == 1
    assert "of 20 values lie outside of the 90 % interval" in plain(out) and "2024-03-01" in out
    page = (folder / "report.html").read_text(encoding="utf-8")
    for word in ("2024-03-01", "So many would by chance alone: 2.", "--level 90", "<svg"):
        assert word in page
    assert "--last 20 --ahead 1" in page


def test_anomalies_without_a_plot_and_with_a_few_values(refold, quick, shop, tmp_path):
    words = ("--level", 90, "--last", 12, "--ahead", 2, "--no-plot", "--out", "a")
    code, _, _ = refold("anomalies", shop, "-H", 3, *words)
    assert code == 0 and names(tmp_path / "a") == ["anomalies.csv", "report.html"]
    assert pl.read_csv(tmp_path / "a/anomalies.csv").height == 12


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("-H", 3, "--level", 99), "99 % needs 99 errors of the forecaster, and there are 20"),
        (("-H", 3, "--level", "80,90"), "2 levels are given"),
        (("-H", 3, "--level", 90, "--last", 40), "to judge the last 40 takes 86"),
        (("-H", 3, "--level", 90, "--ahead", 4), "ahead is 4"),
        ((), "no horizon is given"),
    ],
)
def test_what_anomalies_refuses(refold, shop, tmp_path, words, text, monkeypatch):
    monkeypatch.setattr("refold.forecast.anomalies.fit_panel", None)
    code, _, err = refold("anomalies", shop, *words)
    assert code == 2 and text in plain(err) and "fix:" in err
    assert names(tmp_path) == ["shop.csv"]


# importance


def test_importance(refold, quick, shop, tmp_path):
    code, out, _ = refold("importance", shop, "-H", 3, "--origins", 6, "--repeats", 3)
    assert code == 0
    folder = tmp_path / "refold-importance"
    assert names(folder) == ["importance.csv", "importance.png", "report.html"]
    frame = pl.read_csv(folder / "importance.csv")
    assert frame.columns == ["inputs", "rise", "deviation", "share"]
    assert {"recent values", "season of 12", "linear autoregression"} <= set(frame["inputs"])
    assert "Forecasts hang most on the" in plain(out)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "--origins 6 --repeats 3" in page and "<svg" in page


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("-H", 3, "--repeats", 1), "repeats is 1"),
        (("-H", 3, "--origins", 90), "take at most 49 origins"),
        ((), "no horizon is given"),
    ],
)
def test_what_importance_refuses(refold, shop, tmp_path, words, text, monkeypatch):
    monkeypatch.setattr("refold.forecast.importance.fit_panel", None)
    code, _, err = refold("importance", shop, *words)
    assert code == 2 and text in plain(err) and "fix:" in err
    assert names(tmp_path) == ["shop.csv"]


# tune


@pytest.fixture
def few(monkeypatch):
    """Trials of a few steps."""
    from refold.forecast import tuning

    monkeypatch.setitem(tuning._NUMBERS, "steps", (3, 6))
    monkeypatch.setitem(tuning._NUMBERS, "hidden", (4, 16))
    monkeypatch.setattr(tuning, "_MEMBERS", (1,))


def test_tune_then_fit_with_what_was_found(refold, quick, few, shop, tmp_path):
    words = ("--trials", 3, "--windows", 2, "--study", "study.log")
    code, out, _ = refold("tune", shop, "-H", 3, *words)
    assert code == 0
    folder = tmp_path / "refold-tuning"
    assert names(folder) == ["report.html", "settings.json", "trials.csv", "tuning.png"]
    assert pl.read_csv(folder / "trials.csv").height == 3
    assert "On the last 3 months, held out, MAE is" in plain(out)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "--trials 3 --windows 2" in page and "<svg" in page
    settings = json.loads((folder / "settings.json").read_text())
    assert "seed" not in settings and settings["members"] == 1

    kept = {**settings, "cell": "lstm", "hidden": 5}
    (tmp_path / "s.json").write_text(json.dumps(kept))
    code, _, _ = refold("fit", shop, "-H", 3, "--settings", "s.json", "--out", "m")
    assert code == 0
    about = json.loads((tmp_path / "m/about.json").read_text())
    assert (about["settings"]["cell"], about["settings"]["hidden"]) == ("lstm", 5)
    words = ("--settings", "s.json", "--windows", 1, "--no-plot", "--out", "b")
    code, _, _ = refold("backtest", shop, "-H", 3, *words)
    page = (tmp_path / "b/report.html").read_text(encoding="utf-8")
    assert code == 0 and "--settings s.json --seed 0" in page and "lstm with 5 units" in page


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "cannot be read"),
        ("[]", "'no settings'; settings are cell, hidden"),
        ('{"units": 5}', "has 'units'"),
        ('{"hidden": 5.5}', "has hidden 5.5"),
        ('{"cell": 5}', "has cell 5"),
        ('{"cell": "gruu"}', "gruu"),
        ('{"hidden": 0}', "hidden is 0"),
    ],
)
def test_files_of_settings_that_are_refused(refold, shop, tmp_path, text, told):
    (tmp_path / "s.json").write_text(text)
    code, out, err = refold("fit", shop, "-H", 3, "--settings", "s.json")
    assert code == 2 and told in plain(err) and out == ""


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("-H", 3, "--trials", 0), "trials is 0"),
        (("-H", 3, "--windows", 40), "40 windows 3 apart at horizon 3 need 129"),
        ((), "no horizon is given"),
    ],
)
def test_what_tune_refuses(refold, shop, tmp_path, words, text, monkeypatch):
    monkeypatch.setattr("refold.forecast.tuning.fit_panel", None)
    code, _, err = refold("tune", shop, *words)
    assert code == 2 and text in plain(err) and "fix:" in err
    assert names(tmp_path) == ["shop.csv"]


# --ray


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--refit",), "--refit trains at every origin, and --ray parts forecasts"),
        (("--workers", 0), "workers is 0"),
    ],
)
def test_what_ray_refuses(refold, shop, tmp_path, words, text, monkeypatch):
    monkeypatch.setattr("refold.forecast.backtest.fit_panel", None)
    code, out, err = refold("backtest", shop, "-H", 3, "--ray", *words)
    assert code == 2 and text in plain(err) and "fix:" in err and out == ""
    assert names(tmp_path) == ["shop.csv"]


def test_backtest_and_predict_in_parts_write_what_they_write_in_one(
    refold, quick, shop, tmp_path, monkeypatch
):
    """The command with chunks that are done here, one after another."""
    from contextlib import nullcontext

    def one_by_one(ray, task, jobs):
        yield from ((k, task(job)) for k, job in jobs.items())

    monkeypatch.setattr("refold.forecast.spread._cluster", lambda workers: nullcontext())
    monkeypatch.setattr("refold.forecast.spread._as_they_come", one_by_one)
    days = pl.read_csv(shop)
    parts = [days.with_columns(shop=pl.lit(name)) for name in ("a", "b", "c")]
    pl.concat(parts).write_csv(tmp_path / "shops.csv")
    given = ("shops.csv", "-H", 3, "--windows", 2, "--no-plot", "--out")
    for more, out in ((("--ray", "--workers", 1), "parted"), ((), "whole")):
        code, _, _ = refold("backtest", *given, out, *more)
        assert code == 0 and names(tmp_path / out) == ["backtest.csv", "report.html"]
    one, other = (pl.read_csv(tmp_path / f"{out}/backtest.csv") for out in ("parted", "whole"))
    np.testing.assert_allclose(one["y_hat"], other["y_hat"], rtol=1e-5)
    assert one.drop("y_hat").equals(other.drop("y_hat"))

    refold("fit", "shops.csv", "-H", 3, "--no-intervals", "--out", "model")
    for more, out in ((("--ray", "--workers", 1), "p"), ((), "q")):
        code, _, _ = refold("predict", "model", "--out", out, *more)
        assert code == 0 and names(tmp_path / out) == ["forecast.csv"]
    one, other = (pl.read_csv(tmp_path / f"{out}/forecast.csv") for out in ("p", "q"))
    np.testing.assert_allclose(one["y_hat"], other["y_hat"], rtol=1e-5)
    code, out, err = refold("predict", "model", "-H", 9, "--ray", "--out", "longer")
    assert code == 2 and "9 steps are asked for" in plain(err) and out == ""
    assert not (tmp_path / "longer").exists()


def test_settings_of_every_way_come_from_a_file(refold, quick, shop, tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"over": "steps", "dilations": [1, 3], "look_back": 16, "error": "squared"}')
    words = ("fit", shop, "-H", 3, "--no-intervals", "--settings", path, "--out", "m")
    code, _, err = refold(*words)
    assert code == 0, err
    fitted = Forecaster.load(tmp_path / "m").fitted
    assert fitted and (fitted.settings.over, fitted.settings.dilations) == ("steps", (1, 3))
    code, _, err = refold(*words, "--over", "segments")
    assert code == 2 and "one layer" in plain(err)
    for text, told in (
        ('{"over": 3}', "over 3"),
        ('{"dilations": 3}', "dilations 3"),
        ('{"members": null}', "members None"),
        ('{"head": "oracle"}', "no head 'oracle'"),
    ):
        path.write_text(text)
        code, _, err = refold(*words)
        assert code == 2 and told in plain(err)
