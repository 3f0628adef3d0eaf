"""What networks are told at some origins, in groups that can be exchanged among them.

Over origins a group is a part of the features, with the continuations that are made of it. Over segments and steps it
is a part of the window, relative to its last value. A covariate is a group of its own either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from refold.data import window
from refold.data.beside import Beside, Place, exchanged, is_seen, with_columns_of
from refold.data.window import Past

from . import windows
from .beside import places
from .course import Course
from .lookback import Lookback
from .model import OriginNetwork, Told, answered, tell
from .rolled import Rolled
from .sequences import chain

LINE = "linear autoregression"
COVARIATE = "covariate "
# Parts of a window at most: of more, each says what its neighbours say too.
_PARTS = 6


class View(Protocol):
    """What one network is told. exchanged: one group as other origins have it, order (B,) says which. forecast: the
    centre of all steps ahead, in the units of `Scaled.values`: (B, H)."""

    @property
    def names(self) -> Sequence[str]: ...
    def exchanged(self, name: str, order: Tensor) -> View: ...
    def forecast(self) -> Tensor: ...


@dataclass(frozen=True, slots=True, eq=False)
class Goal:
    """What came, z (B, H) in the units of `Scaled.values`, and where it was observed."""

    z: Tensor
    exists: Tensor


def views_of(before: Rolled, rows: Tensor, back: Tensor) -> tuple[list[View], Goal]:
    """What each network is told at origins with so many values behind them (B,), and what came."""
    fitted, past = before.fitted, before.pasts[0]
    named = {COVARIATE + name: place for name, place in places(fitted.panel).items()}
    members = list(zip(fitted.networks, before.pasts, fitted.courses, strict=True))
    if isinstance(past, Past):
        columns = (past.columns - 1 - back)[None]
        goal, exists = window.targets(past, rows, columns)
        found = [OriginView.of(*member, rows, back, named) for member in members]  # type: ignore[arg-type]
        return list(found), Goal(goal[0], exists[0])
    assert isinstance(past, windows.Windows)
    goal, exists = windows.targets(past, rows, (past.columns - 1 - back)[None])
    seen = [WindowView.of(*member, rows, back, named) for member in members]  # type: ignore[arg-type]
    return list(seen), Goal(goal[0] * past.unit[rows, None], exists[0])


@dataclass(frozen=True, slots=True, eq=False)
class OriginView:
    """What a network over origins is told at some of them.

    Shapes  groups (T, B, features of it) each; told: all of them, and what goes beside; of: which group
            each continuation is of; width (1, B, 1, 1), their unit. columns: where covariates stand in
            `seen`.
    """

    network: OriginNetwork
    groups: dict[str, Tensor]
    told: Told
    of_bases: tuple[str, ...]
    width: Tensor
    covariates: Beside | None
    places: dict[str, Place]

    @staticmethod
    def of(
        network: OriginNetwork,
        past: Past,
        course: Course,
        rows: Tensor,
        back: Tensor,
        named: dict[str, Place],
    ) -> OriginView:
        columns = chain(past.columns - 1 - back, course)
        told = tell(past, rows, columns, 1, network.smoothing)
        past = network.viewed(past)
        return OriginView(
            network,
            window.told(past, rows, columns),
            told,
            (*past.look.groups, *[LINE] * (past.line is not None)),
            window.unit(past, rows, columns[-1:])[..., None, None],
            past.beside,
            named,
        )

    @property
    def names(self) -> Sequence[str]:
        """The groups of inputs, each once."""
        own = [name for name in self.groups if name not in (window.MOVES, window.COVARIATES)]
        return list(dict.fromkeys((*own, *self.of_bases, *self.places)))

    def exchanged(self, name: str, order: Tensor) -> OriginView:
        """One group as other origins have it."""
        if name in self.places:
            return self._other_covariate(self.places[name], order)
        groups = dict(self.groups)
        # What a walk's last moves were is said by its recent values too.
        for moved in (name, *[window.MOVES] * (name == window.RECENT)):
            if moved in groups:
                groups[moved] = groups[moved][:, order]
        own = torch.tensor([group == name for group in self.of_bases])
        there = (self.told.bases / self.width)[:, order] * self.width
        bases = torch.where(own[:, None], there, self.told.bases)
        return self._told_anew(groups, bases=bases)

    def _other_covariate(self, place: Place, order: Tensor) -> OriginView:
        assert self.covariates is not None and self.told.beside is not None
        seen = self.groups[window.COVARIATES]
        own = is_seen(self.covariates, place, seen.shape[-1])
        groups = {**self.groups, window.COVARIATES: torch.where(own, seen[:, order], seen)}
        beside = exchanged(self.covariates, self.told.beside, place, order)
        return self._told_anew(groups, beside=beside)

    def _told_anew(self, groups: dict[str, Tensor], **parts: Any) -> OriginView:
        told = self.told._replace(features=window.joined(groups), **parts)
        return replace(self, groups=groups, told=told)

    @torch.no_grad()
    def forecast(self) -> Tensor:
        """The centre of all steps ahead, z: (B, H)."""
        found = answered(self.network, self.told)[0]
        return found if self.network.head is None else found[..., 0]


@dataclass(frozen=True, slots=True, eq=False)
class WindowView:
    """What a network over windows is told at some origins. parts: of the window, by name: first and last column."""

    network: windows.OnWindows
    past: windows.Windows
    told: windows.Told
    parts: dict[str, tuple[int, int]]
    places: dict[str, Place]

    @staticmethod
    def of(
        network: windows.OnWindows,
        past: windows.Windows,
        course: Lookback,
        rows: Tensor,
        back: Tensor,
        named: dict[str, Place],
    ) -> WindowView:
        told = windows.tell(past, rows, (past.columns - 1 - back)[None])
        return WindowView(network, past, told, _parts(course), named)

    @property
    def names(self) -> Sequence[str]:
        """The groups of inputs, each once."""
        return [*self.parts, *self.places]

    def exchanged(self, name: str, order: Tensor) -> WindowView:
        """One group as other origins have it."""
        if name in self.places:
            return self._other_covariate(self.places[name], order)
        first, last = self.parts[name]
        at = torch.arange(self.past.back)
        own = (first <= at) & (at < last)
        seen = torch.where(own, self.told.windows[:, order], self.told.windows)
        return replace(self, told=self.told._replace(windows=seen))

    def _other_covariate(self, place: Place, order: Tensor) -> WindowView:
        beside, along = self.past.beside, self.told.along
        assert beside is not None and along is not None
        held: dict[str, Any] = {"told": exchanged(beside, along.told, place, order)}
        if place.held == "static":
            held["static"] = with_columns_of(along.static, along.static[order], place)
        elif place.held != "static_codes":
            mine: Tensor = getattr(along, place.held)
            held[place.held] = with_columns_of(mine, mine[:, order], place)
        return replace(self, told=self.told._replace(along=along._replace(**held)))

    @torch.no_grad()
    def forecast(self) -> Tensor:
        """The centre of all steps ahead, in the units of `Scaled.values`: (B, H)."""
        found = windows.answered(self.network, self.past, self.told)[0]
        z = windows.in_values(self.network, found, self.past.unit[self.told.rows])
        return z if self.network.spreads is None else z[..., 0]


def _parts(course: Lookback) -> dict[str, tuple[int, int]]:
    """A window in a few parts of whole segments, seasons or horizons, the last one first."""
    width = course.segment if course.segment > 1 else (*course.seasons, course.horizon)[0]
    width *= -(-course.back // (width * _PARTS))
    found = {}
    for near in range(0, course.back, width):
        far = min(near + width, course.back)
        name = f"values {near + 1} to {far} back" if near else f"last {far} values"
        found[name] = (course.back - far, course.back - near)
    return found
