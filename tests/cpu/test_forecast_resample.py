"""Irregular stamps, brought to one spacing where it is asked for."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from refold.errors import DataError
from refold.forecast import Covariates, Forecaster, Resample, Settings, from_frame

QUICK = Settings(members=1, steps=5, rate=1e-3, origins=20)


def visits(days: int = 60, skipped: int = 30) -> pl.DataFrame:
    """One to three values a day, at any time of it, none on one day."""
    rng, rows = np.random.default_rng(0), []
    for day in range(days):
        for minute in sorted(rng.choice(1440, size=0 if day == skipped else rng.integers(1, 4))):
            stamp = dt.datetime(2024, 1, 1) + dt.timedelta(days=day, minutes=int(minute))
            rows.append({"ds": stamp, "y": float(day + 1), "price": float(minute)})
    return pl.DataFrame(rows)


def test_irregular_stamps_are_refused_with_the_remedy():
    with pytest.raises(DataError, match=r"(?s)stamps are irregular.*--resample D, resample="):
        from_frame(visits())


@pytest.mark.parametrize("aggregate", ["mean", "sum", "last"])
def test_values_of_a_step_become_one(aggregate):
    frame = visits()
    panel = from_frame(frame, resample=Resample("D", aggregate), covariates=Covariates())
    (series,) = panel.series
    assert panel.frequency.alias == "D" and len(series) == 60
    assert series.missing is not None and np.flatnonzero(series.missing).tolist() == [30]
    days = frame.group_by(pl.col("ds").dt.date(), maintain_order=True)
    of = {"mean": pl.col("y").mean(), "sum": pl.col("y").sum(), "last": pl.col("y").last()}
    np.testing.assert_allclose(series.known, days.agg(of[aggregate])["y"])
    assert f"{frame.height} rows brought to 59 of D: {aggregate}" in panel.notes


@pytest.mark.parametrize(
    ("step", "count", "unit"), [("W", 9, "weeks"), ("12h", 120, "hours"), ("MS", 2, "months")]
)
def test_any_step_that_begins_where_it_is_named_for(step, count, unit):
    panel = from_frame(visits(skipped=-1), resample=Resample(step))
    assert panel.frequency.unit.endswith(unit)
    assert abs(len(panel.series[0]) - count) <= 1


def test_a_step_without_an_observed_value_is_missing_not_zero():
    frame = visits().with_columns(y=pl.when(pl.col("ds").dt.day() == 5).then(None).otherwise("y"))
    (series,) = from_frame(frame, resample=Resample("D", "sum")).series
    assert series.missing is not None and series.missing[4] and series.missing[35]


def test_of_covariates_the_last_of_a_step_is_taken():
    frame = visits(skipped=-1)
    panel = from_frame(frame, resample=Resample("D"), covariates=Covariates(historical=["price"]))
    last = frame.group_by(pl.col("ds").dt.date(), maintain_order=True).agg(pl.col("price").last())
    values = panel.series[0].beside
    assert values is not None
    np.testing.assert_array_equal(values.historical[:, 0], last["price"])


def test_kept_and_gone_on_from(tmp_path):
    frame = visits()
    early = pl.col("ds") < dt.datetime(2024, 2, 20)
    model = Forecaster(horizon=3, settings=QUICK, resample="D").fit(frame.filter(early))
    model.save(tmp_path / "model")
    again = Forecaster.load(tmp_path / "model")
    assert again.resample == Resample("D")
    found = again.update(frame.filter(~early)).predict()
    assert [str(day)[:10] for day in found["ds"]] == ["2024-03-01", "2024-03-02", "2024-03-03"]


def test_what_is_refused():
    for step in ("ME", "0D", "many", ""):
        with pytest.raises(DataError, match="is no step to resample to"):
            Resample(step)
    with pytest.raises(DataError, match="aggregate is 'mode'"):
        Resample("D", "mode")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="whole numbers, which cannot be brought"):
        from_frame(pl.DataFrame({"ds": [1, 2, 3], "y": [1.0, 2.0, 3.0]}), resample=Resample("D"))


def test_the_command(refold, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "refold.forecast.Settings",
        lambda **given: Settings(**{"members": 1, "steps": 3, "rate": 1e-3, **given}),
    )
    visits().drop("price").write_csv(tmp_path / "visits.csv")
    code, _, err = refold("forecast", "visits.csv", "-H", 3, "--no-plot")
    assert code == 2 and "--resample D" in err
    words = ["--resample", "D", "--aggregate", "sum", "--no-plot"]
    code, out, err = refold("forecast", "visits.csv", "-H", 3, *words)
    assert code == 0, err
    assert "of D: sum" in " ".join(out.split()) and "1 of 60 values are missing" in " ".join(
        out.split()
    )
    page = (tmp_path / "refold-forecast/report.html").read_text(encoding="utf-8")
    assert "--resample D --aggregate sum" in page
    code, _, err = refold("forecast", "visits.csv", "-H", 3, "--aggregate", "sum")
    assert code == 2 and "an aggregate is given, and no step" in err
