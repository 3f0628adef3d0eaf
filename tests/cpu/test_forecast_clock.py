"""Time zones: days are days of the wall clock, hours are hours, and the zone comes back."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from refold.forecast import Forecaster, Settings, forecast_csv, from_frame, from_table, read_table
from refold.forecast.clock import Clock

QUICK = Settings(members=1, steps=1)
# Each passes a change of the clock in Europe, on 2020-03-29.
STAMPS = {
    "D": ("2020-03-01", "D"),
    "W": ("2019-06-02", "W-SUN"),
    "B": ("2020-02-03", "B"),
    "MS": ("2018-01-01", "MS"),
    "h": ("2020-03-28", "h"),
    "30min": ("2020-03-28 23:00", "30min"),
}


def stamps(name: str, count: int, zone: str) -> pd.DatetimeIndex:
    start, freq = STAMPS[name]
    return pd.date_range(start, periods=count, freq=freq, tz=zone)


def table(index: pd.DatetimeIndex, kind: str):
    frame = pd.DataFrame({"ds": index, "y": np.arange(len(index)) % 7 + 1.0})
    if kind == "pandas":
        return frame
    naive = index.tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[us]")
    ds = pl.Series(naive).dt.replace_time_zone("UTC").dt.convert_time_zone(str(index.tz))
    return pl.DataFrame({"ds": ds, "y": frame["y"].to_numpy()})


@pytest.mark.parametrize("kind", ["pandas", "polars"])
@pytest.mark.parametrize("name", STAMPS)
def test_stamps_go_on_in_their_zone(name, kind):
    zone = "Europe/Berlin"
    expected = stamps(name, 63, zone)
    model = Forecaster(horizon=3, settings=QUICK).fit(table(expected[:60], kind))
    found = model.predict()["ds"]
    assert list(found) == list(expected[60:])
    assert f"{found.dtype}".count(zone) == 1
    assert model.fitted is not None and model.fitted.panel.frequency.alias.startswith(name)


def test_days_of_utc_that_a_local_clock_shows_at_two_times():
    index = stamps("D", 60, "UTC").tz_convert("Europe/Berlin")
    panel = from_frame(table(index, "polars"))
    assert panel.clock == Clock("Europe/Berlin", utc=True)
    seen = panel.texts(panel.series[0].stamps[[28, 29]])
    assert seen == ["2020-03-29 01:00:00", "2020-03-30 02:00:00"]


def test_an_offset_without_a_name_comes_back():
    index = stamps("D", 33, "+05:30")
    found = Forecaster(horizon=3, settings=QUICK).fit(table(index[:30], "pandas")).predict()["ds"]
    assert list(found) == list(index[30:])
    assert found.dt.tz.utcoffset(None) == pd.Timedelta(hours=5, minutes=30)


def test_an_hour_that_does_not_exist_is_the_next_one():
    wall = pl.Series(np.array(["2020-03-28T02:30", "2020-03-29T02:30"], "datetime64[us]"))
    found = Clock("Europe/Berlin").aware(wall).dt.strftime("%H:%M%:z").to_list()
    assert found == ["02:30+01:00", "03:30+02:00"]


@pytest.mark.parametrize(
    ("name", "zone", "note", "first"),
    [
        ("D", "Europe/Berlin", "offsets from UTC change", "2020-04-30"),
        ("h", "Europe/Berlin", "times are in UTC", "2020-03-30 11:00:00+00:00"),
        ("D", "Asia/Kolkata", "times are in UTC+05:30", "2020-04-30 00:00:00+05:30"),
        ("h", "America/Caracas", "times are in UTC-04:00", "2020-03-30 12:00:00-04:00"),
        ("D", "UTC", "times are in UTC", "2020-04-30 00:00:00+00:00"),
    ],
)
def test_text_with_offsets(tmp_path, name, zone, note, first):
    index = stamps(name, 60, zone)
    pd.DataFrame({"t": index.map(str), "y": np.arange(60)}).to_csv(tmp_path / "a.csv", index=False)
    panel = from_table(read_table(tmp_path / "a.csv"))
    assert panel.frequency.alias == name and any(note in text for text in panel.notes)
    assert forecast_csv(panel, [np.zeros(2)]).splitlines()[1] == f"a,{first},0.0"


def test_a_named_zone_in_parquet(tmp_path):
    table(stamps("D", 60, "Europe/Berlin"), "polars").write_parquet(tmp_path / "a.parquet")
    panel = from_table(read_table(tmp_path / "a.parquet"))
    assert "times are in Europe/Berlin" in panel.notes
    assert forecast_csv(panel, [np.zeros(1)]).splitlines()[1] == "a,2020-04-30 00:00:00+02:00,0.0"
