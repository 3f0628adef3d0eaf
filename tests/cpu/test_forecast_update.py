"""Newer rows: where they may follow, what is passed over, and what is refused with nothing changed."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from refold.errors import DataError
from refold.forecast import Forecaster, Settings, from_frame, on_panel, predict_panel

QUICK = Settings(members=1, steps=5, rate=1e-3, origins=20)


def table(lengths=(60, 45), start="2020-01-01", freq="MS") -> pl.DataFrame:
    parts = []
    for i, n in enumerate(lengths):
        stamps = pd.date_range(start, periods=n, freq=freq).to_numpy().astype("datetime64[us]")
        y = 50 + 10 * np.sin(np.arange(n)) + np.random.default_rng(i).normal(size=n)
        parts.append(pl.DataFrame({"unique_id": [f"s{i}"] * n, "ds": stamps, "y": y}))
    return pl.concat(parts)


def old_and_new(frame: pl.DataFrame, count: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All but the last rows of every series, and those."""
    parts = frame.partition_by("unique_id", maintain_order=True)
    return pl.concat(p.head(-count) for p in parts), pl.concat(p.tail(count) for p in parts)


def test_a_forecast_goes_on_from_the_new_rows():
    whole = table()
    old, new = old_and_new(whole, 4)
    model = Forecaster(horizon=3, settings=QUICK).fit(old)
    networks = model.fitted.networks if model.fitted else ()
    found = model.update(new).predict()
    assert model.fitted is not None and model.fitted.networks is networks
    assert [str(day)[:7] for day in found["ds"]] == [
        "2025-01", "2025-02", "2025-03", "2023-10", "2023-11", "2023-12",
    ]  # fmt: skip
    # As if the networks had been shown the whole panel at once.
    fitted = Forecaster(horizon=3, settings=QUICK).fit(old).fitted
    assert fitted is not None
    expected = predict_panel(on_panel(fitted, from_frame(whole)))
    np.testing.assert_array_equal(found["y_hat"], np.concatenate(expected))


def test_row_by_row_is_all_at_once():
    old, new = old_and_new(table((60,)), 3)
    first = Forecaster(horizon=3, settings=QUICK).fit(old).update(new).predict()
    second = Forecaster(horizon=3, settings=QUICK).fit(old)
    for i in range(3):
        second.update(new[i : i + 1])
    assert second.predict().equals(first)


def test_series_without_new_rows_are_forecast_as_before():
    old, new = old_and_new(table(), 4)
    model = Forecaster(horizon=3, settings=QUICK).fit(old)
    assert model.fitted is not None
    before, first = model.fitted.data.scales, model.predict()
    second = model.update(new.filter(pl.col("unique_id") == "s1")).predict()
    assert model.fitted.data.scales == before
    np.testing.assert_allclose(second["y_hat"][:3], first["y_hat"][:3], rtol=1e-5)
    assert (second["y_hat"][3:] != first["y_hat"][3:]).all()


def test_known_rows_that_say_the_same_are_passed_over():
    whole = table()
    old, new = old_and_new(whole, 4)
    first = Forecaster(horizon=3, settings=QUICK).fit(old).update(new).predict()
    second = Forecaster(horizon=3, settings=QUICK).fit(old).update(whole).update(whole).predict()
    assert first.equals(second)


def test_a_series_without_newer_rows_stays_and_a_new_one_is_added():
    old, new = old_and_new(table((60, 45, 30)), 4)
    known = old.filter(pl.col("unique_id") != "s2")
    third = table((60, 45, 30)).filter(pl.col("unique_id") == "s2")
    model = Forecaster(horizon=3, settings=QUICK).fit(known)
    model.update(pl.concat([new.filter(pl.col("unique_id") == "s1"), third]))
    found = model.predict(level=80)
    assert found["unique_id"].unique(maintain_order=True).to_list() == ["s0", "s1", "s2"]
    assert [str(found["ds"][i])[:7] for i in (0, 3, 6)] == ["2024-09", "2023-10", "2022-07"]
    assert found["y_hat"].is_finite().all()


@pytest.mark.parametrize("freq", ["ME", "W-TUE", "B", "h", "QS"])
def test_one_row_of_every_spacing(freq):
    old, new = old_and_new(table((40,), freq=freq), 1)
    found = Forecaster(horizon=2, settings=QUICK).fit(old).update(new).predict()
    last = pd.date_range("2020-01-01", periods=42, freq=freq)[-2:]
    assert found["ds"].to_list() == list(last.to_pydatetime())


def test_rows_with_a_time_zone():
    hours = pd.date_range("2024-03-30", periods=60, freq="h", tz="Europe/Berlin")
    days = pd.date_range("2024-03-01", periods=60, freq="D", tz="Europe/Berlin")
    for stamps in (hours, days):
        frame = pd.DataFrame({"ds": stamps, "y": np.arange(60) % 24 + 1.0})
        whole = Forecaster(horizon=2, settings=QUICK).fit(frame.head(58))
        elsewhere = frame.tail(2).assign(ds=frame["ds"].tail(2).dt.tz_convert("Asia/Tokyo"))
        for newer in (frame.tail(2), elsewhere):
            model = Forecaster(horizon=2, settings=QUICK).fit(frame.head(58))
            found = model.update(newer).predict()
            assert found["ds"][0] == stamps[-1] + (stamps[-1] - stamps[-2])
        assert whole.predict()["ds"][0] == stamps[58]


def numbered(values, first=0, name="y") -> pl.DataFrame:
    n = len(values)
    return pl.DataFrame(
        {"unique_id": [name] * n, "ds": np.arange(first, first + n), "y": np.asarray(values, float)}
    )


REFUSED = [
    (numbered([1.0], 41), r"(?s)y is known up to 39, and the next row is of 41: 40 is missing.*every row"),
    (numbered([9.0], 5), r"(?s)y is 6 at 5, and 9 is given.*leave out the rows that are known"),
    (numbered([1.0], -1), r"(?s)y begins at 0, and a row of -1 is given"),
    (numbered([1.0] * 5, 0, "z"), r"(?s)z has 5 points; horizon 3 needs 9.*not among the 1 that are known"),
    (numbered([-1.0], 40), r"(?s)y is -1 at 40, and the networks were trained on positive values\nfit again"),
    (numbered([1.0, 2.0], 40)[[0, 0]], r"has two values at 40"),
    (pl.DataFrame({"ds": [40.5], "y": [1.0]}), "whole numbers"),
    (pl.DataFrame({"ds": ["2024-01-01"], "y": [1.0]}), r"(?s)holds dates, the known rows whole numbers"),
    (pl.DataFrame({"ds": [40], "y": [None]}), "is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("newer", "text"), REFUSED)
def test_what_is_refused_changes_nothing(newer, text):
    model = Forecaster(horizon=3, settings=QUICK).fit(numbered(np.arange(40) % 9 + 1.0))
    before = model.predict()
    with pytest.raises(DataError, match=text):
        model.update(newer)
    assert model.predict().equals(before)


def test_dates_that_are_refused():
    model = Forecaster(horizon=3, settings=QUICK).fit(table((60,)))
    with pytest.raises(DataError, match=r"2025-01-02 does not fall on months"):
        model.update(table((1,), "2025-01-02", "D"))
    weekly = Forecaster(horizon=3, settings=QUICK).fit(table((40,), freq="W-TUE"))
    text = "newer rows\nseries s0: 2020-10-14 does not fall on weeks counted from 2020-01-07\ngive"
    with pytest.raises(DataError, match=text):
        weekly.update(table((2,), "2020-10-14", "W-WED"))
    zoned = table((1,), "2025-01-01").with_columns(pl.col("ds").dt.replace_time_zone("UTC"))
    with pytest.raises(DataError, match=r"(?s)have one time zone, the known rows have none"):
        model.update(zoned)
    with pytest.raises(DataError, match="known rows dates"):
        model.update(numbered([1.0], 60))
    with pytest.raises(DataError, match=r"(?s)Forecaster\.update.*has not been fitted"):
        Forecaster(horizon=3).update(table())
