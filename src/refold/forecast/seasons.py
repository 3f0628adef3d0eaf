"""Seasons: given, of the calendar, or looked for in numbered steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from refold.data.window import seasons_within

from .calendar import Frequency

Floats = NDArray[np.float64]


def find_seasons(
    series: Sequence[Floats], frequency: Frequency, given: Sequence[int] | None, holdout: int
) -> tuple[tuple[int, ...], str]:
    """The seasons in steps, shortest first, and in words where they come from.

    The last `holdout` values of each series do not take part in the search.
    """
    longest = max(len(s) for s in series) - holdout
    if given is not None:
        found = seasons_within(given, longest)
        how = "given"
    elif frequency.kind == "number":
        found = seasons_within(_seen_seasons([y[: len(y) - holdout] for y in series]), longest)
        how = "found in the data"
    else:
        found = seasons_within(frequency.seasons, longest)
        how = "from the calendar"
    if not found:
        return (), "no season" + (" that fits twice into the series" if given else "")
    return found, f"season {' and '.join(map(str, found))} {frequency.unit}, {how}"


def _seen_seasons(series: Sequence[Floats]) -> tuple[int, ...]:
    """Up to two periods that stand out in the autocorrelation of the differences.

    The first is the shortest peak that comes near the highest one; the second a multiple of it
    that fits better still: a week over a day.
    """
    values = max(series, key=len)
    if len(values) < 12:
        return ()
    steps = np.diff(values)
    # The squares of very small or large steps are no longer numbers: their size comes first.
    steps = steps / (float(np.abs(steps).max()) or 1.0)
    if not steps.std() > 0:
        return ()
    r = _autocorrelation(steps)[: min(len(steps) // 3, 1000)]
    inner = np.arange(2, len(r) - 1)
    peaks = inner[(r[inner] > r[inner - 1]) & (r[inner] >= r[inner + 1])]
    # Twice the standard error of white noise, and enough to be worth a model's attention.
    peaks = peaks[r[peaks] > max(0.3, 2 / np.sqrt(len(steps)))]
    if not len(peaks):
        return ()
    first = int(peaks[r[peaks] >= 0.8 * r[peaks].max()][0])
    longer = [int(p) for p in peaks if p >= 2 * first and r[p] > r[first] + 0.02 and p % first == 0]
    return (first, max(longer, key=lambda p: r[p])) if longer else (first,)


def _autocorrelation(x: Floats) -> Floats:
    centred = x - x.mean()
    spectrum = np.abs(np.fft.rfft(centred, 2 * len(x))) ** 2
    r = np.fft.irfft(spectrum)[: len(x)]
    # Each lag over the pairs it has: long lags would look weaker than they are.
    return r / r[0] * (len(x) / (len(x) - np.arange(len(x))))
