"""Forecasts from many origins at once, by networks that were trained before all of them.

`on_panel` and `predict_panel` forecast from the ends of series; here one batch holds any steps of
them. What networks know of a series besides their weights, its scale, its linear autoregression and
the size of its naive error, is of the part that they were trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .distribution import in_units, is_counted
from .families import FAMILIES
from .forecaster import Fitted, one_thread, pasts_at_end, refuse_outside
from .panel import Panel
from .sequences import Measured, Scaled, further_on
from .ways import Seen, way_of

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Rolled:
    """Networks before a panel that goes on after what they were trained on.

    data: of that panel; pasts: one for each network.
    """

    fitted: Fitted
    data: Scaled
    pasts: tuple[Seen, ...]

    def ahead(self, rows: Tensor, back: Tensor) -> Tensor:
        """Forecasts of some series (B,) from origins with so many values behind them (B,): (B, H).

        Units  as networks see the series, but a count as a number of things; `values` leads back. The
        mean over the networks, and the centre of a distribution.
        """
        fitted, head = self.fitted, self.fitted.settings.head
        parts = (fitted.networks, self.pasts, fitted.courses, (rows, back))
        with one_thread(), torch.no_grad():
            found = way_of(fitted.settings).ahead(*parts)
        if head == "point":
            return found
        return in_units(FAMILIES[head](), found, Measured(self.data, rows))[..., 0]

    def values(self, i: int, z: Tensor) -> Floats:
        """Forecasts of series i in its own units."""
        found = z.numpy().astype(np.float64)
        return found if is_counted(self.fitted.settings.head) else self.data.invert(i, found)


def rolled(fitted: Fitted, panel: Panel, back: int) -> Rolled:
    """The networks before the same series, further on; origins lie up to `back` steps before the end.

    Errors  DataError for values that the transform of the networks has no place for.
    """
    refuse_outside(panel, fitted.data.transform)
    way, usual = way_of(fitted.settings), [past.usual for past in fitted.pasts]
    most = back + max(way.reach(course) for course in fitted.courses)
    data = further_on(panel, fitted.data, fitted.panel, fitted.horizon, most)
    pasts = pasts_at_end(panel, data, fitted.settings, fitted.courses, usual, back)
    return Rolled(fitted, data, pasts)
