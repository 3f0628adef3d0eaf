"""Frequencies: which stamps a series can have, and which follow its last one.

A frequency puts every legal stamp on a grid of whole numbers, so that neighbours differ by 1: a
duplicate is a difference of 0, a gap one of more than 1, and the future is the last number plus
1, 2, ... Stamps are numpy datetime64[us], or int64 where steps are just numbered.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refold.errors import DataError

# datetime64[us] or int64, the same for all series of a panel.
Stamps = NDArray[Any]
Kind = Literal["number", "fixed", "month", "business day", "irregular"]

_US = {
    "us": 1,
    "ms": 10**3,
    "s": 10**6,
    "min": 60 * 10**6,
    "h": 3600 * 10**6,
    "D": 86400 * 10**6,
    "W": 7 * 86400 * 10**6,
}
_DAY = _US["D"]
_SAME = {"H": "h", "T": "min", "S": "s", "L": "ms", "U": "us", "d": "D", "w": "W", "b": "B"}
_MONTHS = {"M": 1, "ME": 1, "MS": 1, "Q": 3, "QE": 3, "QS": 3, "A": 12, "Y": 12, "YE": 12, "YS": 12}
_ALIAS = re.compile(r"^(\d*)\s*([A-Za-z]*)(?:-([A-Za-z]{3}))?$")
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_PLURALS = {"D": "days", "W": "weeks", "h": "hours", "min": "minutes", "s": "seconds"}

# Two weeks of quarter hours. A network that looks back over longer seasons is too slow to train.
_LONGEST_SEASON = 1344


@dataclass(frozen=True, slots=True)
class Frequency:
    """The spacing of a series.

    count is the number of units between neighbours: whole numbers, microseconds, months or
    business days, as kind says; irregular stamps are a median step apart. day is the
    day of the month on which monthly stamps fall; 31 is its last day.
    """

    kind: Kind
    count: int
    alias: str
    day: int = 1

    def grid(self, stamps: Stamps, start: Stamps) -> NDArray[np.float64]:
        """Positions on the grid; a stamp that is off the grid has a fraction.

        Shapes  stamps (N,); start () is the stamp at position 0.
        """
        if self.kind == "irregular":
            return np.arange(len(stamps), dtype=np.float64)  # every row is a step
        if self.kind == "month":
            return self._month_grid(stamps, start)
        if self.kind == "business day":
            days = stamps.astype("datetime64[D]")
            off = ~np.is_busday(days) | (_time_of_day(stamps) != _time_of_day(start))
            first = start.astype("datetime64[D]")
            return (np.busday_count(first, days) + 0.5 * off) / self.count
        return (stamps - start).astype(np.int64) / self.count

    def _month_grid(self, stamps: Stamps, start: Stamps) -> NDArray[np.float64]:
        wanted = _month_stamps(_months(stamps), self.day, _time_of_day(start))
        off = 0.5 * (wanted != stamps)
        return (_months(stamps) - _months(start) + off) / self.count

    def after(self, last: Stamps, steps: int) -> Stamps:
        """The next `steps` stamps after `last`: (steps,)."""
        ahead = np.arange(1, steps + 1) * self.count
        if self.kind == "month":
            return _month_stamps(_months(last) + ahead, self.day, _time_of_day(last))
        if self.kind == "business day":
            days = np.busday_offset(last.astype("datetime64[D]"), ahead, roll="forward")
            return days.astype("datetime64[us]") + _time_of_day(last)
        counted = np.asarray(last).dtype.kind == "i"
        return last + (ahead if counted else ahead.astype("timedelta64[us]"))

    @property
    def seasons(self) -> tuple[int, ...]:
        """The seasons of the calendar, in steps: a year, a week, a day. () where none is plain."""
        if self.kind == "month":
            return (12 // self.count,) if self.count < 12 and 12 % self.count == 0 else ()
        if self.kind == "business day":
            return (5,) if self.count == 1 else ()
        if self.kind in ("number", "irregular"):
            return ()
        if self.count % _US["W"] == 0:
            return (52,) if self.count == _US["W"] else ()
        return tuple(p // self.count for p in (_DAY, _US["W"]) if _is_season(p, self.count))

    @property
    def in_days(self) -> bool:
        """Is a step a day or longer?"""
        return self.kind in ("month", "business day") or (
            self.kind == "fixed" and self.count >= _DAY
        )

    @property
    def unit(self) -> str:
        """One step in words, in the plural: "months", "half hours", "steps"."""
        if self.kind == "number":
            return "steps" if self.count == 1 else f"steps of {self.count}"
        if self.kind == "irregular":
            return "rows"
        if self.kind == "business day":
            return "business days" if self.count == 1 else f"steps of {self.count} business days"
        if self.kind == "month":
            named = {1: "months", 3: "quarters", 12: "years"}
            return named.get(self.count, f"steps of {self.count} months")
        if self.count == 30 * _US["min"]:
            return "half hours"
        for name in ("W", "D", "h", "min", "s"):
            if self.count % _US[name] == 0:
                times = self.count // _US[name]
                return _PLURALS[name] if times == 1 else f"steps of {times} {_PLURALS[name]}"
        return f"steps of {self.count} microseconds"


def parse(alias: str, stamps: Stamps) -> Frequency:
    """The frequency that a pandas offset alias names, anchored where the stamps are.

    Errors  DataError for an alias that is not known, or that does not fit the stamps' type.

    Example
        >>> parse("30min", np.array(["2024-01-01"], "datetime64[us]")).unit
        'half hours'
    """
    found = _ALIAS.match(alias.strip())
    count, name = (int(found[1] or 1), found[2]) if found else (0, "")
    name = _SAME.get(name, name)
    numbered = stamps.dtype.kind == "i"
    if count < 1 or (name and name not in _US and name not in _MONTHS and name != "B"):
        raise DataError(f"{alias!r} is not a frequency", _known(), "--freq")
    if numbered != (not name):
        held = "whole numbers" if numbered else "dates"
        remedy = "give the step as a number, such as 1" if numbered else _known()
        raise DataError(f"the time column holds {held}, not steps of {alias!r}", remedy, "--freq")
    if numbered:
        return Frequency("number", count, str(count))
    if name == "B":
        return Frequency("business day", count, alias)
    if name in _MONTHS:
        day = 1 if name.endswith("S") else _anchor(stamps)
        return Frequency("month", count * _MONTHS[name], alias, day)
    return Frequency("fixed", count * _US[name], alias)


def infer(series: list[Stamps]) -> Frequency:
    """The frequency of sorted stamps, taken from the commonest distance over all series.

    Errors  DataError when no series has two stamps, or when no distance is common.
    """
    steps = np.concatenate([np.diff(stamps).astype(np.int64) for stamps in series])
    steps = steps[steps > 0]
    if max(map(len, series)) == 1:
        fact = "each series has one row" if len(series) > 1 else "the series has one row"
        remedy = "give more rows; if rows are of one series, another column names it (--id)"
        raise DataError(fact + ", and nothing can be learned from it", remedy, "frequency")
    if not len(steps):
        fact = "no series has two different stamps, so no frequency can be seen"
        raise DataError(fact, "name it (--freq, freq=); " + _known(), "frequency")
    if series[0].dtype.kind == "i":
        return _numbered(int(_commonest(steps)[0]))
    monthly = _monthly(series)
    if monthly is not None:
        return monthly
    step, share = _commonest(steps)
    if _is_business(series, int(step)):
        return Frequency("business day", 1, "B")
    if share < 0.5:
        fact = f"the stamps are irregular: their commonest distance, {_told(int(step))}, is "
        fact += f"{share:.0%} of all"
        raise DataError(
            fact,
            "bring the rows to one spacing (--resample D, resample=), name it (--freq, freq=), or take the "
            "stamps as they are (--over times)",
            "frequency",
        )
    return Frequency("fixed", int(step), _fixed_alias(int(step), series[0]))


def irregular(series: list[Stamps]) -> Frequency:
    """Stamps as they are, of series in order of time: what lies ahead is a median step apart.

    Errors  DataError where no series has two stamps.
    """
    steps = np.concatenate([np.diff(stamps).astype(np.int64) for stamps in series])
    steps = steps[steps > 0]
    if not len(steps):
        fact = "no series has two different stamps, so no step can be seen"
        raise DataError(fact, "give more rows", "frequency")
    return Frequency("irregular", max(1, int(np.median(steps))), "irregular")


def text(stamp: np.datetime64 | np.int64 | int, *, seconds: bool = False) -> str:
    """A stamp as ISO text, without a time of day where that is midnight."""
    if not isinstance(stamp, np.datetime64):
        return str(int(stamp))
    day, rest = str(stamp.astype("datetime64[us]")).split("T")
    if not seconds and rest.startswith("00:00:00.000000"):
        return day
    return f"{day} {rest.removesuffix('.000000')}"


def _known() -> str:
    return "aliases: MS ME QS QE YS YE W D B h 30min 15min s, with a number in front for multiples"


def _numbered(count: int) -> Frequency:
    return Frequency("number", count, str(count))


def _commonest(steps: NDArray[np.int64]) -> tuple[int, float]:
    values, counts = np.unique(steps, return_counts=True)
    best = int(counts.argmax())
    return int(values[best]), float(counts[best] / counts.sum())


def _monthly(series: list[Stamps]) -> Frequency | None:
    """Months, quarters or years, where every stamp has its month to itself, always the same day."""
    everything = np.concatenate(series)
    day = _anchor(everything)
    times = _time_of_day(everything)
    wanted = _month_stamps(_months(everything), day, times)
    if (times != times[0]).any() or (wanted != everything).any():
        return None
    steps = np.concatenate([np.diff(_months(stamps)) for stamps in series])
    if (steps < 0).any() or not (steps > 0).any():
        return None
    count, _ = _commonest(steps[steps > 0])
    letter, times_ = ("Y", count // 12) if count % 12 == 0 else ("M", count)
    letter, times_ = ("Q", count // 3) if count % 3 == 0 and letter == "M" else (letter, times_)
    alias = (str(times_) if times_ > 1 else "") + letter + ("S" if day == 1 else "E")
    return Frequency("month", count, alias, day)


def _is_business(series: list[Stamps], step: int) -> bool:
    """Days, never a Saturday or Sunday, with weekends stepped over."""
    if step != _DAY:
        return False
    days = np.concatenate(series).astype("datetime64[D]")
    over_weekends = any((np.diff(s).astype(np.int64) == 3 * _DAY).any() for s in series)
    return over_weekends and bool(np.is_busday(days).all())


def _is_season(period: int, step: int) -> bool:
    return period % step == 0 and 1 < period // step <= _LONGEST_SEASON


def _fixed_alias(step: int, stamps: Stamps) -> str:
    if step == _US["W"]:
        day = int((stamps[0].astype("datetime64[D]").astype(np.int64) + 3) % 7)
        return f"W-{_WEEKDAYS[day]}"
    name = next(n for n in ("W", "D", "h", "min", "s", "ms", "us") if step % _US[n] == 0)
    return (str(step // _US[name]) if step != _US[name] else "") + name


def _told(step: int) -> str:
    return Frequency("fixed", step, "").unit.removeprefix("steps of ")


def _months(stamps: Stamps) -> NDArray[np.int64]:
    return stamps.astype("datetime64[M]").astype(np.int64)


def _time_of_day(stamps: Stamps) -> NDArray[Any]:
    return stamps - stamps.astype("datetime64[D]").astype("datetime64[us]")


def _anchor(stamps: Stamps) -> int:
    """The day of the month on which all stamps fall; 31 where each is the last of its month."""
    days = stamps.astype("datetime64[D]")
    ends = (stamps.astype("datetime64[M]") + 1).astype("datetime64[D]") - 1
    if bool((days == ends).all()):
        return 31
    return int((days - days.astype("datetime64[M]").astype("datetime64[D]")).astype(int).max()) + 1


def _month_stamps(months: NDArray[np.int64], day: int, time: NDArray[Any]) -> Stamps:
    first = months.astype("datetime64[M]")
    last = (first + 1).astype("datetime64[D]") - 1
    days = np.minimum(first.astype("datetime64[D]") + (day - 1), last)
    return days.astype("datetime64[us]") + time
