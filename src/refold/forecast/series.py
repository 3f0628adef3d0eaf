"""One series on its grid, and what stands where no value was observed.

A missing value is filled in from those *before* it, as a forecast of it would be made: last season's
value, moved to the level of today. So nothing that is filled in knows what came later, a part of a
series is filled as the whole is, and newer rows leave the past as it was. Every error is measured on
observed values only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .calendar import Frequency, Stamps
from .covariates import Values
from .growth import longer

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Values over which a level is taken: few enough to be of today, enough that none of them rules it.
_LEVEL = 12


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One series: stamps (N,) and values (N,), in order of time.

    missing (N,): where no value was observed; what stands there in `values` was filled in. None:
    nowhere. beside: its covariates, where there are any. asked: of irregular stamps, those that are to be
    forecast, where they are known.
    """

    name: str
    stamps: Stamps
    values: Floats
    missing: Bools | None = None
    beside: Values | None = None
    asked: Stamps | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: slice) -> Series:
        """A part of it, as a series."""
        missing = None if self.missing is None else self.missing[part]
        start, stop, _ = part.indices(len(self))
        beside = self.beside.part(start, stop) if self.beside else None
        return Series(self.name, self.stamps[part], self.values[part], missing, beside)

    @property
    def observed(self) -> Floats:
        """The values, NaN where none was observed: (N,)."""
        return self.values if self.missing is None else np.where(self.missing, np.nan, self.values)

    @property
    def known(self) -> Floats:
        """The observed values alone, N of them or fewer."""
        return self.values if self.missing is None else self.values[~self.missing]

    def ahead(self, frequency: Frequency, steps: int) -> Stamps:
        """The next stamps: those that are asked for, and on from there by the frequency. (steps,)."""
        asked = self.stamps[:0] if self.asked is None else self.asked[:steps]
        last = asked[-1] if len(asked) else self.stamps[-1]
        return np.concatenate([asked, frequency.after(last, steps - len(asked))])

    def followed_by(self, later: Series) -> Series:
        """With the rows that follow its last one."""
        missing = None
        if self.missing is not None or later.missing is not None:
            missing = np.concatenate([np.isnan(self.observed), np.isnan(later.observed)])
        stamps = longer(self.stamps, later.stamps)
        values = longer(self.values, later.values)
        beside = self.beside
        if self.beside and later.beside:
            beside = self.beside.followed_by(later.beside, len(self))
        return Series(self.name, stamps, values, missing, beside)

    def filled(self, seasons: tuple[int, ...]) -> Series:
        """The same with every missing value filled in; the first one has to be observed."""
        if self.missing is None:
            return self
        return replace(self, values=filled(self.observed, seasons))


def filled(values: Floats, seasons: tuple[int, ...]) -> Floats:
    """Values (N,) with every NaN replaced, from those before it; the first is none.

    The longest season that has passed goes on, moved by what the level has moved by since then;
    without a season the last value does. What is filled in stays within what was seen before: a
    positive series stays positive.

    Example
        >>> filled(np.array([1.0, 5.0, 2.0, np.nan]), (2,))
        array([1., 5., 2., 5.])
    """
    found = values.copy()
    lowest, highest = np.fmin.accumulate(values), np.fmax.accumulate(values)
    for t in np.flatnonzero(np.isnan(values)):
        season = next((s for s in reversed(seasons) if s <= t), 1)
        guess = found[t - season]
        width = min(_LEVEL, t - season)
        if season > 1 and width:
            guess += found[t - width : t].mean() - found[t - season - width : t - season].mean()
        found[t] = min(max(guess, lowest[t]), highest[t])
    return found
