"""Rolling origins: from where the last part of a panel is forecast again, as if it were not known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from refold.errors import DataError

from .forecaster import MARGIN
from .panel import Panel

# Errors of a step: twice what 98 percent ask for. More origins cost time, and data to learn from.
_ENOUGH = 100


def rolling(panel: Panel, horizon: int, windows: int, step: int) -> Iterator[tuple[Panel, Panel]]:
    """What is known at each of the last origins, the earliest first, and what then came.

    The last origin is a horizon before the end of each series; origins are `step` apart.
    """
    for after in range((windows - 1) * step, -1, -step):
        known, rest = panel.split(horizon + after)
        came = tuple(s[:horizon] for s in rest.series)
        yield known, replace(panel, series=came)


def origins_for(panel: Panel, horizon: int, wanted: int | None) -> int:
    """How many origins the series have room for.

    Errors  DataError for more than the longest has room for, or where it has room for none.
    """
    longest = max(map(len, panel.series))
    room = longest - (2 * horizon + MARGIN) + 1
    if room < 1 or (wanted is not None and not 1 <= wanted <= room):
        fact = f"the longest series has {longest} points, and intervals at horizon {horizon} need "
        fact += f"{2 * horizon + MARGIN + max(0, (wanted or 1) - 1)}: {MARGIN} and a horizon to "
        fact += f"learn from, and the {'origins' if (wanted or 1) > 1 else 'horizon'} to measure on"
        if wanted is not None and wanted < 1:
            fact = f"origins is {wanted}"
        remedy = f"take at most {room} origins" if room >= 1 else "give longer series"
        raise DataError(fact, remedy, "intervals")
    if wanted is not None:
        return wanted
    enough = -(-_ENOUGH // len(panel.series))
    return max(1, min(enough, room, longest // 3 - horizon + 1))
