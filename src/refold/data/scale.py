"""A number for every series that makes it comparable with the others.

A series y is seen by a network as z = (g(y) - centre) / unit. g is the logarithm where every value
is positive (changes are then relative), the square root where some values are zero (the spread of
counts grows with the root of their level), and the identity where some are negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Transform = Literal["log", "sqrt", "none"]

# A forecast further out than the whole range seen in training, once more, is cut off there: it is
# the error of a diverging recursion, and its exponential would overflow.
_RANGES = 1.0
# The logarithm of about 1e304: its exponential is still a number.
_HIGHEST = 700.0


def choose_transform(values: Sequence[Floats]) -> Transform:
    """The transform that suits all of these series together: one model sees them all."""
    lowest = min(float(y.min()) for y in values)
    if lowest > 0:
        return "log"
    return "sqrt" if lowest == 0 else "none"


@dataclass(frozen=True, slots=True)
class Scale:
    """z = (g(y) - centre) / unit, for one series.

    Units  z is in standard deviations of g(y) over the part the scale was fitted on.
    """

    transform: Transform
    centre: float
    unit: float
    low: float
    high: float

    @staticmethod
    def fit(y: Floats, transform: Transform) -> Scale:
        """The scale of one series; a constant series has unit 1."""
        g = _forward(y, transform)
        # Of a series of 1e-200 or 1e200, the squares are no longer numbers: its size comes first.
        size = float(np.abs(g).max()) or 1.0
        spread = float((g / size).std()) * size
        centre = float((g / size).mean()) * size
        # Rounding leaves a constant series with a spread of about 1e-16 of its level.
        unit = spread if spread > 1e-12 * abs(centre) else 1.0
        z = (g - centre) / unit
        margin = _RANGES * max(float(z.max() - z.min()), 1.0)
        return Scale(transform, centre, unit, float(z.min()) - margin, float(z.max()) + margin)

    def apply(self, y: Floats) -> Floats:
        """y in the units of the network."""
        return (_forward(y, self.transform) - self.centre) / self.unit

    def invert(self, z: Floats) -> Floats:
        """z in the units of the series."""
        g = np.clip(z, self.low, self.high) * self.unit + self.centre
        if self.transform == "log":
            return np.exp(np.minimum(g, _HIGHEST))
        return np.square(np.maximum(g, 0.0)) if self.transform == "sqrt" else g


def _forward(y: Floats, transform: Transform) -> Floats:
    if transform == "log":
        return np.log(y)
    return np.sqrt(y) if transform == "sqrt" else np.asarray(y, dtype=np.float64)
