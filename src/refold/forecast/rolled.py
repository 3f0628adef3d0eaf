"""Forecasts from many origins at once, by networks that were trained before all of them.

`on_panel` and `predict_panel` forecast from the ends of series; here one batch holds any steps of
them. What networks know of a series besides their weights, its scale and its linear
autoregression, is of the part that they were trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refold.data.window import Past

from .course import Course
from .forecaster import Fitted, one_thread, refuse_outside
from .model import OriginNetwork, forecast
from .panel import Panel
from .sequences import Scaled, chain, past_of, scaled

Floats = NDArray[np.float64]

# Origins that are forecast together: a chain of each has to fit into the memory.
_TOGETHER = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Rolled:
    """Networks before a panel that goes on after what they were trained on.

    data: of that panel; pasts: one for each network.
    """

    fitted: Fitted
    data: Scaled
    pasts: tuple[Past, ...]

    @property
    def members(self) -> Iterator[tuple[OriginNetwork, Past, Course]]:
        """Each network, what it looks back on, and how it was trained."""
        return zip(self.fitted.networks, self.pasts, self.fitted.courses, strict=True)

    @torch.no_grad()
    def ahead(self, rows: Tensor, back: Tensor) -> Tensor:
        """Forecasts of some series (B,) from origins with so many values behind them (B,): (B, H).

        Units  as networks see the series; `data.invert` leads back. The mean over the networks.
        """
        parts = list(zip(rows.split(_TOGETHER), back.split(_TOGETHER), strict=True))
        with one_thread():
            found = [
                torch.cat([self._part(*member, *part) for part in parts]) for member in self.members
            ]
        return torch.stack(found).mean(dim=0)

    def _part(
        self, network: OriginNetwork, past: Past, way: Course, rows: Tensor, back: Tensor
    ) -> Tensor:
        columns = chain(past.columns - 1 - back, way)
        return forecast(network, past, rows, columns, 1)[0]

    def values(self, i: int, z: Tensor) -> Floats:
        """Forecasts of series i in its own units."""
        return self.data.invert(i, z.numpy().astype(np.float64))


def rolled(fitted: Fitted, panel: Panel, back: int) -> Rolled:
    """The networks before the same series, further on; origins lie up to `back` steps before the end.

    Errors  DataError for values that the transform of the networks has no place for.
    """
    refuse_outside(panel, fitted.data.transform)
    early = {s.name: s for s in fitted.panel.series}
    known = replace(panel, series=tuple(early[s.name] for s in panel.series))
    names = (s.name for s in fitted.panel.series)
    scales = dict(zip(names, fitted.data.scales, strict=True))
    data = scaled(panel, fitted.horizon, fitted.data.transform, scales)
    pasts = tuple(
        past_of(panel, data, way, way.origins * way.stride + back, past.usual, known)
        for way, past in zip(fitted.courses, fitted.pasts, strict=True)
    )
    return Rolled(fitted, data, pasts)
