"""What a forecaster is asked for: a horizon, a spacing, seasons."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from refold.errors import DataError


def check_asked(horizon: object, freq: object, seasons: object) -> None:
    """Errors  DataError for the first that cannot be."""
    if not _is_whole(horizon):
        fact = f"the horizon is {horizon!r}"
        raise DataError(fact, "give a whole number of at least 1", "Forecaster")
    if freq is not None and not isinstance(freq, str):
        raise DataError(f"freq is {freq!r}", 'give text, such as "MS" or "30min"', "Forecaster")
    if seasons is None:
        return
    if not isinstance(seasons, Sequence) or not all(_is_whole(s) for s in seasons):
        fact = f"the seasons are {seasons!r}"
        raise DataError(
            fact, "give whole numbers of steps, such as (12,); () for none", "Forecaster"
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1
