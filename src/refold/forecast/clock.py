"""Stamps with a time zone: read by the clock on the wall, or in UTC.

Steps of a day and longer are steps of the wall clock: the day on which clocks change has 23 or 25
hours, and is a day. Shorter steps are steps of UTC, in which no hour is missing or comes twice.
Forecasts come back in the zone of the stamps.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from refold.errors import DataError

from .stamps import is_even, spacing


@dataclass(frozen=True, slots=True)
class Clock:
    """What stamps without a zone mean.

    zone: a named one ("Europe/Berlin"), an offset that never changes ("+05:30"), or "" for a clock
    that is not known by name. utc: the stamps are in UTC; else they are what the clock shows.
    """

    zone: str
    utc: bool = False

    @property
    def offset(self) -> str:
        """The offset that never changes; "" where there is none."""
        return self.zone if self.zone[:1] in ("+", "-") else ""

    @property
    def note(self) -> str:
        """In words."""
        if not self.zone:
            return (
                "times are by the clock of the table; its offsets from UTC change and are left out"
            )
        if self.utc and self.zone != "UTC":
            return f"times of {self.zone}, counted in UTC"
        return f"times are in {'UTC' + self.offset if self.offset else self.zone}"

    def aware(self, stamps: pl.Series) -> pl.Series:
        """Stamps with their zone, where it has a name."""
        if not self.zone or self.offset:
            return stamps
        if self.utc:
            return stamps.dt.replace_time_zone("UTC").dt.convert_time_zone(self.zone)
        found = _localised(stamps, self.zone)
        # 02:30 does not exist on the day on which 02:00 becomes 03:00; an hour later does.
        return pl.select(
            pl.coalesce(found, _localised(stamps.dt.offset_by("1h"), self.zone))
        ).to_series()


def _localised(stamps: pl.Series, zone: str) -> pl.Series:
    return stamps.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")


def offset_of(wall: pl.Series, utc: pl.Series) -> str:
    """The zone of stamps of which only the offsets are known: "" where these change."""
    minutes = (wall - utc).dt.total_minutes().unique()
    if len(minutes) > 1:
        return ""
    ahead = int(minutes[0])
    return (
        f"{'-' if ahead < 0 else '+'}{abs(ahead) // 60:02d}:{abs(ahead) % 60:02d}"
        if ahead
        else "UTC"
    )


def read_clock(
    wall: pl.Series, utc: pl.Series, ids: pl.Series, zone: str
) -> tuple[pl.Series, Clock]:
    """The stamps without their zone, and the clock that they are on."""
    known = Clock(zone)
    if known.offset or zone == "UTC":
        return wall, known
    if _of_days(wall, ids) and (is_even(wall, ids) or not is_even(utc, ids)):
        return wall, known
    return utc, Clock(zone or "UTC", utc=True)


def _of_days(wall: pl.Series, ids: pl.Series) -> bool:
    try:
        return spacing(wall, ids).in_days
    except DataError:
        return False  # irregular on the wall: perhaps not in UTC
