"""The distributions of a forecast: one for every series and step, in the units of the series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refold.errors import DataError

from .families import FAMILIES, Family
from .panel import Panel
from .sequences import Measured, Scaled

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """What is expected of the next values.

    Shapes  parameters (N, H, 1 + spreads), float64. What is asked for comes as one (H,) for each
    series; shares and scores may be single, (H,), (N, H), or (S, N, H), which gives each (S, H).
    """

    data: Scaled
    family: Family
    parameters: Tensor

    @staticmethod
    def of(data: Scaled, head: str, found: Tensor) -> Distribution:
        """found: the parameters as networks give them, a count's mean in their units."""
        family, measure = FAMILIES[head](), Measured(data, torch.arange(len(found)))
        return Distribution(data, family, in_units(family, found, measure))

    @property
    def centre(self) -> list[Floats]:
        """The forecast of a single number: the median, and of counts the mean."""
        return self._values(self.parameters[..., 0])

    def quantile(self, share: float | Floats) -> list[Floats]:
        """The values that a share lies below, 0 < share < 1."""
        asked = torch.as_tensor(share, dtype=torch.float64)
        return self._values(self.family.quantile(self.parameters, asked))

    def at(self, score: float | Floats) -> list[Floats]:
        """The values with these scores; see `families`."""
        asked = torch.as_tensor(score, dtype=torch.float64)
        return self._values(self.family.at(self.parameters, asked))

    def scores(self, values: Sequence[Floats], seed: int = 0) -> Floats:
        """The scores of what came: (N, H). seed: of the chance that places a count within its own
        probability, without which the scores of counts would not be evenly spread."""
        z = np.stack(list(values))
        if not self.family.counts:
            z = np.stack([self.data.apply(i, y) for i, y in enumerate(z)])
        chance = np.random.default_rng(seed).random(z.shape)
        given = (torch.from_numpy(each) for each in (z, chance))
        return self.family.score(self.parameters, *given).numpy()

    def _values(self, z: Tensor) -> list[Floats]:
        found = [z[..., i, :].numpy() for i in range(len(self.parameters))]
        return found if self.family.counts else [self.data.invert(*i) for i in enumerate(found)]


def in_units(family: Family, found: Tensor, measure: Measured) -> Tensor:
    """Parameters as networks give them, in float64, and a count's mean as a number of things."""
    found = found.double()
    if not family.counts:
        return found
    return torch.cat([measure.count(found[..., 0])[..., None], found[..., 1:]], dim=-1)


def is_counted(head: str) -> bool:
    """Is this head one of counts?"""
    return head != "point" and FAMILIES[head]().counts


def refuse_uncounted(panel: Panel, head: str) -> None:
    """Errors  DataError with the first value that is no count, for a head that is of counts."""
    if not is_counted(head):
        return
    for series in panel.series:
        bad = (series.values < 0) | (series.values != np.round(series.values))
        if bad.any():
            at = int(bad.argmax())
            stamp = panel.texts(series.stamps[at : at + 1])[0]
            fact = (
                f"series {series.name} is {series.values[at]:g} at {stamp}, and the head {head} is "
            )
            raise DataError(
                fact + "of counts: whole numbers from 0 on", "take another head", "head"
            )
