"""The errors of the LTSF protocol, beside a loop that forecasts from one origin after the other."""

import numpy as np
import polars as pl
import pytest

from bench import ltsf
from refold.forecast import Settings, fit_panel, on_panel, predict_panel

HOURS, TRAIN, BEGIN, HORIZON = 200, 120, 150, 6


@pytest.fixture
def panel(tmp_path):
    """A file as ETTh1.csv, of two columns."""
    t = np.arange(HOURS)
    stamps = np.datetime64("2016-07-01") + t * np.timedelta64(1, "h")
    noise = np.random.default_rng(0).normal(size=(2, HOURS))
    columns = {"HUFL": np.sin(t / 4) + noise[0], "OT": 100 * np.cos(t / 5) + 30 * noise[1]}
    frame = pl.DataFrame({"date": np.datetime_as_string(stamps, "s"), **columns})
    frame.write_csv(tmp_path / "ETTh1.csv")
    return ltsf.read(tmp_path / "ETTh1.csv", HOURS)


def test_errors_are_means_over_all_windows_in_deviations_of_the_training_hours(panel):
    settings = Settings(over="segments", look_back=12, segment=6, members=2, steps=5, hidden=8)
    fitted = fit_panel(ltsf.first(panel, TRAIN), HORIZON, settings)
    away = []
    for begin in range(BEGIN, HOURS - HORIZON + 1):
        found = predict_panel(on_panel(fitted, ltsf.first(panel, begin)))
        for series, f in zip(panel.series, found, strict=True):
            deviation = series.values[:TRAIN].std()
            away.append((f - series.values[begin : begin + HORIZON]) / deviation)
    squared, absolute = ltsf.errors(fitted, panel, BEGIN, HOURS)
    assert squared == pytest.approx(np.square(away).mean(), rel=1e-4)
    assert absolute == pytest.approx(np.abs(away).mean(), rel=1e-4)


def test_only_the_hours_asked_for_are_read(tmp_path, panel):
    assert [len(s) for s in ltsf.read(tmp_path / "ETTh1.csv", 60).series] == [60, 60]


def test_a_row_holds_means_over_seeds():
    found = [
        {"seed": seed, "MSE": mse, "MAE": 0.5, "seconds": 60} for seed, mse in ((0, 0.4), (1, 0.42))
    ]
    assert ltsf.row("96", found, ("a",)) == ["96", "0.4100", "0.5000", "2", "0.0100", "a", "1.0"]
