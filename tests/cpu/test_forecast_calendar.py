"""Frequencies: read off the stamps, and continued as pandas continues them."""

import numpy as np
import pandas as pd
import pytest

from refold.errors import DataError
from refold.forecast import calendar

ALIASES = ["MS", "ME", "QS", "QE", "YS", "YE", "W-FRI", "W-MON", "D", "B", "h", "30min", "15min"]
ALIASES += ["2MS", "3h", "2D", "s", "10s", "7min"]


def stamps_of(index: pd.DatetimeIndex) -> np.ndarray:
    return index.to_numpy().astype("datetime64[us]")


@pytest.mark.parametrize("alias", ALIASES)
def test_inferred_and_continued_like_pandas(alias):
    expected = stamps_of(pd.date_range("2023-11-20", periods=60, freq=alias))
    frequency = calendar.infer([expected[:40]])
    np.testing.assert_array_equal(frequency.after(expected[39], 20), expected[40:])
    np.testing.assert_array_equal(frequency.grid(expected, expected[0]), np.arange(60))


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_names_the_same_steps(alias):
    expected = stamps_of(pd.date_range("2023-11-20", periods=30, freq=alias))
    frequency = calendar.parse(alias, expected[:20])
    np.testing.assert_array_equal(frequency.after(expected[19], 10), expected[20:])


def test_a_day_of_the_month_past_its_end_is_its_last_day():
    stamps = np.array(["2023-12-30", "2024-01-30", "2024-02-29", "2024-03-30"], "datetime64[us]")
    frequency = calendar.infer([stamps])
    assert (frequency.kind, frequency.day) == ("month", 30)
    assert str(frequency.after(stamps[-1], 1)[0])[:10] == "2024-04-30"


def test_whole_numbers():
    frequency = calendar.infer([np.array([10, 15, 20, 25])])
    assert frequency.after(np.array(25), 3).tolist() == [30, 35, 40]
    assert frequency.unit == "steps of 5"


@pytest.mark.parametrize(
    ("alias", "seasons", "unit"),
    [
        ("MS", (12,), "months"),
        ("QE", (4,), "quarters"),
        ("YS", (), "years"),
        ("W-SUN", (52,), "weeks"),
        ("D", (7,), "days"),
        ("B", (5,), "business days"),
        ("h", (24, 168), "hours"),
        ("30min", (48, 336), "half hours"),
        ("5h", (), "steps of 5 hours"),
        ("2W", (), "steps of 2 weeks"),
        ("2B", (), "steps of 2 business days"),
        ("5MS", (), "steps of 5 months"),
        ("7us", (), "steps of 7 microseconds"),
    ],
)
def test_seasons_and_words(alias, seasons, unit):
    frequency = calendar.parse(alias, np.array(["2024-01-01"], "datetime64[us]"))
    assert (frequency.seasons, frequency.unit) == (seasons, unit)


@pytest.mark.parametrize("alias", ["fortnight", "0D", "-1h", "X", ""])
def test_unknown_alias(alias):
    with pytest.raises(DataError, match=r"not a frequency|not steps of"):
        calendar.parse(alias, np.array(["2024-01-01"], "datetime64[us]"))


def test_an_alias_for_numbered_steps_is_a_number():
    with pytest.raises(DataError, match=r"holds whole numbers, not steps of 'MS'"):
        calendar.parse("MS", np.array([1, 2, 3]))
    assert calendar.parse("2", np.array([1, 3])).count == 2


def test_one_stamp_has_no_frequency():
    stamp = np.array(["2024-01-01"], "datetime64[us]")
    with pytest.raises(DataError, match="the series has one row, and nothing can be learned"):
        calendar.infer([stamp])
    with pytest.raises(DataError, match="no series has two different stamps"):
        calendar.infer([np.repeat(stamp, 2)])


def test_irregular_stamps():
    days = np.cumsum([0, 1, 5, 2, 9, 4, 11, 3, 8])
    stamps = np.datetime64("2024-01-01", "us") + days.astype("timedelta64[D]")
    with pytest.raises(DataError, match="irregular: their commonest distance"):
        calendar.infer([stamps])


def test_text_leaves_midnight_out():
    assert calendar.text(np.datetime64("2024-01-01", "us")) == "2024-01-01"
    assert calendar.text(np.datetime64("2024-01-01T06:30", "us")) == "2024-01-01 06:30:00"
    assert calendar.text(np.int64(7)) == "7"
