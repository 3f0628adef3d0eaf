"""The rules for networks that see the last values before an origin, and nothing further back.

As in course.py nothing here knows a data set: what decides is the seasons, the horizon, how many series
there are and how long they are; a number in `Settings` takes the place of the rule for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .settings import Scaling, Settings

# Series up to this many get a vector of their own: with more, each is trained too seldom.
_FEW = 64
# Windows in a step of the optimiser, over all series.
_TOGETHER = 448
# Segments that a horizon without a season is cut into.
_CUTS = 4
# More steps of a recurrence in single values cost time and forget what came first.
_LONGEST = 512
# Irregular values that are looked back at, at least.
_ROWS = 32


@dataclass(frozen=True, slots=True)
class Lookback:
    """How one network is trained on windows.

    Units  back: values before an origin; segment: values in one step of the recurrence; dilations: of each layer, in
    such steps; steps: of the optimiser; together: windows in one of them, of every series where they have names, of any
    where they have none; names: the series that have a vector of their own, () where there are too many; seasons: those
    that pass within a window.
    """

    back: int
    horizon: int
    segment: int
    dilations: tuple[int, ...]
    names: tuple[str, ...]
    steps: int
    together: int
    hidden: int
    dropout: float
    squared: bool
    seasons: tuple[int, ...] = ()
    scaling: Scaling = "window"

    @property
    def batch(self) -> int:
        """What `fit` is given at a time: one draw of windows."""
        return 1


def over_segments(
    seasons: tuple[int, ...], horizon: int, names: Sequence[str], points: int, settings: Settings
) -> Lookback:
    """A few whole segments of a season each, or of a part of the horizon where no season passes in it."""
    waves = bool(seasons) and seasons[0] <= horizon
    segment = settings.segment or (seasons[0] if waves else max(1, -(-horizon // _CUTS)))
    back = -(-(settings.look_back or _back(seasons, horizon)) // segment) * segment
    return _lookback(back, segment, (1,), seasons, horizon, names, points, settings)


def over_steps(
    seasons: tuple[int, ...], horizon: int, names: Sequence[str], points: int, settings: Settings
) -> Lookback:
    """Single values, by layers of which the second looks back a season, the third the next longer one."""
    back = settings.look_back or min(_LONGEST, _back(seasons, horizon))
    dilations = settings.dilations or _dilations(seasons, back, settings.layers)
    return _lookback(back, 1, dilations, seasons, horizon, names, points, settings)


def over_times(
    seasons: tuple[int, ...], horizon: int, names: Sequence[str], points: int, settings: Settings
) -> Lookback:
    """Single values with the time between them, by one layer. Rows have no season that would say how many."""
    back = settings.look_back or min(_LONGEST, max(_ROWS, _back(seasons, horizon)))
    return _lookback(back, 1, (1,), seasons, horizon, names, points, settings)


def _lookback(
    back: int,
    segment: int,
    dilations: tuple[int, ...],
    seasons: tuple[int, ...],
    horizon: int,
    names: Sequence[str],
    points: int,
    settings: Settings,
) -> Lookback:
    number = len(names)
    together = settings.batch or max(1, min(_TOGETHER, points) // number)
    return Lookback(
        back,
        horizon,
        segment,
        dilations,
        tuple(names) if number <= _FEW else (),
        settings.steps or _steps(points),
        together if number <= _FEW else settings.batch or _TOGETHER,
        settings.hidden or _hidden(points),
        _dropout(settings),
        settings.error == "squared",
        tuple(s for s in seasons if s <= back),
        settings.scaling,
    )


def _back(seasons: tuple[int, ...], horizon: int) -> int:
    """Two of the longest season, or of the horizon without one."""
    return 2 * (seasons[-1] if seasons else horizon)


def _dilations(seasons: tuple[int, ...], back: int, layers: int | None) -> tuple[int, ...]:
    """1, then each season that a window holds twice; further layers look twice as far as the one below."""
    found = [1, *(s for s in seasons if 2 * s <= back)]
    layers = layers or len(found)
    while len(found) < layers:
        further = 2 * found[-1]
        found.append(further if 2 * further <= back else found[-1])
    return tuple(found[:layers])


def _hidden(points: int) -> int:
    """Units: a small panel is soon known by heart."""
    return next(units for units, least in ((256, 50_000), (128, 5_000), (64, 0)) if points >= least)


def _dropout(settings: Settings) -> float:
    """Units that are left out make errors in training that a distribution takes for its own: it would be too wide."""
    if settings.dropout is not None:
        return settings.dropout
    return 0.5 if settings.head == "point" else 0.1


def _steps(points: int) -> int:
    """Steps of the optimiser: few points are sooner known by heart."""
    return round(600 * min(2.0, max(0.25, (points / 60_000) ** 0.5)))
