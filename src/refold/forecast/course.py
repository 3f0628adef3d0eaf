"""The rules: what a network looks at and how it is trained, from the panel's own measures.

Nothing here knows a data set. What decides is the seasons, the horizon, how many series there are
and how long they are; a number in `Settings` takes the place of the rule for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refold.data.window import Look

from .settings import Settings

# Horizons in all series together that are trained on, counted back from the end: what came long
# ago is less like what is to come, and few series have to be looked at further back than many.
_HORIZONS = 5000
# ... but in no series fewer than these: 14 steps at horizon 6 did better than 18 on the yearly training
# parts of M4.
_FEWEST = 7 / 3
# Origins in a chain at most: more carry a slow cycle no further, and cost as much again.
_ORIGINS = 64
# Horizons before the first origin that counts, where the recurrence collects its state.
_AHEAD = 4
# Parts of a horizon between the origins of walks, by member, with several continuations and with one.
_MIXED, _ALONE = (4, 3), (3, 3, 4)
# Chains in all batches together: large batches need no more steps than it takes to see so many.
_CHAINS = 250_000
# Points trained on for each unit, between the limits: more units learn a small panel by heart.
_POINTS_FOR_A_UNIT = 2000
_UNITS = (32, 128)
# From so few series a network cannot learn how a value hangs on those before it: a linear
# autoregression of each series tells it. With more it would say little, and takes long to fit.
_FEW = 64


@dataclass(frozen=True, slots=True)
class Course:
    """How one network is trained.

    Units  stride: steps between origins; origins: of a chain, of which the last `counted` have
    their error counted; span: steps before the end in which counted origins lie; steps: of the
    optimiser; batch: chains in one of them.
    """

    look: Look
    stride: int
    origins: int
    counted: int
    span: int
    steps: int
    batch: int
    hidden: int
    dropout: float
    noise: float
    lines: bool
    # Series whose level and seasons are learned: all that are trained on, or none.
    smoothed: tuple[str, ...] = ()


def course(
    seasons: tuple[int, ...],
    horizon: int,
    lengths: Sequence[int],
    settings: Settings,
    member: int = 0,
) -> Course:
    """The rules in one place. Members differ in what they look at: their errors differ more."""
    number, longest = len(lengths), max(lengths)
    span = min(longest, max(round(_FEWEST * horizon), _HORIZONS * horizon // number))
    batch = settings.batch or min(512, max(16, number // 6))
    used = sum(min(span, n) for n in lengths)
    few = number < _FEW
    look = _look(seasons, horizon, settings, member, few)
    stride = _stride(span, look, member)
    counted = min(settings.origins or _ORIGINS, max(2, -(-span // stride)))
    ahead = -(-_AHEAD * horizon // stride)
    origins = min(counted + ahead, max(counted, -(-longest // stride)))
    small = used < 20 * _POINTS_FOR_A_UNIT
    low, high = _UNITS
    return Course(
        look,
        stride,
        origins,
        counted,
        span,
        settings.steps or _steps(sum(lengths), batch, look),
        batch,
        settings.hidden or min(high, max(low, used // _POINTS_FOR_A_UNIT // 16 * 16)),
        _first(settings.dropout, 0.2 if small else 0.1),
        _first(
            settings.noise, 0.2 if used < 50 * _POINTS_FOR_A_UNIT else 0.0 if look.waves else 0.1
        ),
        few,
    )


def _first(given: float | None, rule: float) -> float:
    return rule if given is None else given


def _look(
    seasons: tuple[int, ...], horizon: int, settings: Settings, member: int, few: bool
) -> Look:
    """How far back: two or three of the longest season, or some horizons without one.

    Many series without a season tell a network better how to go on from the last value than drifts
    do: on yearly training parts of M4, a mean of these did worse than none.
    """
    waves, mixed = bool(seasons) and seasons[0] <= horizon, bool(seasons) or few
    recent = max(seasons[0], horizon, 12) if waves else max(2 * horizon, 12)
    recent = min(recent, settings.recent)
    back = 2 if waves else 2 + (member + 1) // 2 % 2
    blocks = settings.blocks
    if seasons and not waves:
        blocks = max(blocks, back * seasons[-1] // horizon)
    if not mixed and member % 2:
        recent, blocks = min(recent, max(horizon, 8)), 0
    return Look(seasons, horizon, recent, blocks, back, mixed)


def _stride(span: int, look: Look, member: int) -> int:
    """Steps between origins.

    Waves: a divisor of the season, so that all origins are at few phases of it, the smallest that
    makes a chain of at most 64; a season at most. Walks: a part of the horizon, for windows less far
    apart have most in common; members differ in it where they differ in nothing else.
    """
    if not look.waves:
        parts = _MIXED if look.mixed else _ALONE
        return max(1, look.horizon // parts[member % len(parts)])
    divisors = [s for s in range(1, look.season + 1) if look.season % s == 0]
    return next((s for s in divisors if s >= span / _ORIGINS), look.season)


def _steps(points: int, batch: int, look: Look) -> int:
    """Steps of the optimiser: few points are sooner known by heart, and waves sooner understood."""
    most = min(480 if look.waves else 960, max(1, _CHAINS // batch))
    return min(most, round(120 * max(0.5, (points / 500) ** 0.5)))
