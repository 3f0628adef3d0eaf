"""What a comparison says, in words."""

from __future__ import annotations

import numpy as np

from .evaluate import Ranking


def verdict(found: Ranking) -> list[str]:
    """What the comparison says, in sentences; the first is the answer."""
    model, naive, linear = found.model, found.naive, found.linear
    mine, theirs, line = (found.score(row) for row in (model, naive, linear))
    by = found.ranked_by
    if mine < theirs:
        first = (
            f"The network beats the naive forecasts: on {found.part}, its {by} is {_number(mine)}, "
            f"{_lower(mine, theirs)} than that of the better one ({naive.name}, {_number(theirs)})."
        )
    else:
        first = (
            f"The network does NOT beat the naive forecasts: on {found.part}, its {by} is "
            f"{_number(mine)}; {naive.name} has {_number(theirs)} and costs nothing. Use that one."
        )
    if mine < line:
        second = f"It is {_lower(mine, line)} than the linear autoregression's {_number(line)}."
    elif mine == line:
        second = "The linear autoregression is as good."
    else:
        second = (
            f"The linear autoregression is better: {_number(line)}. "
            "The series may be close to linear, or too short for a network."
        )
    return [first, second, f"This rests on {found.basis}."]


def _lower(mine: float, theirs: float) -> str:
    if not np.isfinite(theirs) or theirs == 0:
        return "lower"
    share = 1 - mine / theirs
    return f"{share:.0%} lower" if share >= 0.01 else "less than 1% lower"


def _number(value: float) -> str:
    return f"{value:,.0f}" if 10000 <= abs(value) < 1e9 else f"{value:,.4g}"
