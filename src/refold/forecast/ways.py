"""Over what a network recurs: forecast origins, segments of a window, or single steps.

A way says what a network looks at, how it is built, what it is trained on and how it is asked. Whatever is above it
(training, members, backtests, models that are kept) is the same for all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from refold.data.batch import Sequences
from refold.data.beside import Beside
from refold.data.window import Past
from refold.errors import DataError

from . import sequences, windows
from .course import Course, course
from .hindcast import Hindcast, of_origins, of_windows
from .lookback import Lookback, over_segments, over_steps, over_times
from .model import OriginNetwork, tell
from .panel import Panel
from .segments import SegmentNetwork
from .sequences import Mean, Scaled, chain
from .settings import Over, Settings
from .skill import begin_by_skill
from .smoothing import Smoothing, Tracked
from .steps import StepNetwork
from .times import TimeNetwork, times_of

# Origins: which series (B,), and how many of their values lie behind each (B,).
Origins = tuple[Tensor, Tensor]

# Origins that are forecast from together: enough to fill the products, few enough to fit a cache.
_TOGETHER = 512


class Trained(Protocol):
    """What the rules say of a network, as far as training it asks: `Course` and `Lookback`.

    Units  steps: of the optimiser; batch: what is drawn for one of them.
    """

    @property
    def steps(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def hidden(self) -> int: ...


class Seen(Protocol):
    """A panel as tensors: `Past` and `Windows`. usual: the width that is usual in the panel that was trained on."""

    @property
    def usual(self) -> float: ...


class Way(Protocol):
    """How forecasts come about.

    course: the rules, for one of the networks that are averaged. past: the panel as tensors, to be trained on; at_end:
    to be forecast from, at origins up to `back` steps before the end; looks: what these hang on, so that networks which
    look at the same share them; reach: how many values before the end are looked at. prepared: with what else is
    derived from all series once. network: as it starts. learner: with its error, for `fit`. draws: what an epoch trains
    on, and how many that are; processes: that share each batch. ahead: the mean forecast of the networks after the end
    of every series (N, H), or from some origins (B, H), in the units of `Scaled.values`; with a head, parameters
    (.., H, K). reads: what a recurrence reads for it, (T, N, hidden). hindcasts: forecasts with distributions from
    origins that were trained on, part by part. told: the network in words.
    """

    def course(self, panel: Panel, horizon: int, settings: Settings, member: int) -> Trained: ...
    def prepared(self, panel: Panel, data: Scaled, course: Any) -> Scaled: ...
    def looks(self, course: Any) -> Hashable: ...
    def reach(self, course: Any) -> int: ...
    def past(self, panel: Panel, data: Scaled, course: Any) -> Seen: ...
    def at_end(
        self, panel: Panel, data: Scaled, course: Any, usual: float, back: int = 0
    ) -> Seen: ...
    def network(self, past: Any, course: Any, settings: Settings) -> Any: ...
    def learner(
        self, network: Any, past: Any, data: Scaled, course: Any, mean: Mean
    ) -> nn.Module: ...
    def draws(
        self, past: Any, course: Any, seed: int, processes: int
    ) -> tuple[Callable[[int], Sequences], int]: ...
    def ahead(
        self, networks: Any, pasts: Any, courses: Any, at: Origins | None = None
    ) -> Tensor: ...
    def reads(self, network: Any, past: Any, course: Any) -> Tensor: ...
    def hindcasts(
        self, network: Any, panel: Panel, data: Scaled, course: Any
    ) -> Iterator[Hindcast]: ...
    def told(self, course: Any) -> str: ...


class OverOrigins:
    """A recurrence over forecast origins: see model.py."""

    def course(self, panel: Panel, horizon: int, settings: Settings, member: int) -> Course:
        found = course(panel.seasons, horizon, [len(s) for s in panel.series], settings, member)
        if settings.scaling == "window":
            return found
        return replace(found, smoothed=tuple(s.name for s in panel.series))

    def prepared(self, panel: Panel, data: Scaled, course: Course) -> Scaled:
        return sequences.with_lines(panel, data) if course.lines else data

    def looks(self, course: Course) -> Hashable:
        return course.look, course.stride, course.origins, course.span

    def reach(self, course: Course) -> int:
        # A level and seasons hang on all that came before.
        return (
            sys.maxsize if course.smoothed else sequences.reach_at_end(course) + course.look.reach
        )

    def past(self, panel: Panel, data: Scaled, course: Course) -> Past:
        return sequences.past_of(panel, data, course)

    def at_end(
        self, panel: Panel, data: Scaled, course: Course, usual: float, back: int = 0
    ) -> Past:
        return sequences.past_at_end(panel, data, course, usual, back)

    def network(self, past: Past, course: Course, settings: Settings) -> OriginNetwork:
        horizon = course.look.horizon
        network = OriginNetwork(past.features, past.bases, horizon, course, settings, past.beside)
        if isinstance(past, Tracked):
            network.smoothing = Smoothing(past, len(course.smoothed))
        return network

    def learner(
        self, network: OriginNetwork, past: Past, data: Scaled, course: Course, mean: Mean
    ) -> nn.Module:
        if course.lines:
            begin_by_skill(network, network.viewed(past), course)
        return sequences.Learner(network, past, data, course, mean)

    def draws(
        self, past: Past, course: Course, seed: int, processes: int
    ) -> tuple[Callable[[int], Sequences], int]:
        return sequences.draws(past, course, seed, processes)

    def ahead(
        self,
        networks: Sequence[OriginNetwork],
        pasts: Sequence[Past],
        courses: Sequence[Course],
        at: Origins | None = None,
    ) -> Tensor:
        parts = _parted(at or _ends(pasts[0].z))
        return torch.cat([sequences.mean_ahead(networks, pasts, courses, *part) for part in parts])

    def reads(self, network: OriginNetwork, past: Past, course: Course) -> Tensor:
        rows = torch.arange(len(past.z))
        ends = torch.full_like(rows, past.columns - 1)
        told = tell(past, rows, chain(ends, course), 1, network.smoothing)
        return network.reads(told.features, told.beside)

    def hindcasts(
        self, network: OriginNetwork, panel: Panel, data: Scaled, course: Course
    ) -> Iterator[Hindcast]:
        return of_origins(network, self.past(panel, data, course), course)

    def told(self, course: Course) -> str:
        bases = [*course.look.names, *["linear autoregression"] * course.lines]
        mixed = f"a weighted mean of {', '.join(bases)}" if len(bases) > 1 else f"the {bases[0]}"
        return f"over forecast origins; all steps at once, as {mixed} plus a correction"


_RELATIVE = {
    "window": "relative to the last value",
    "mean": "relative to the mean of the window",
    "instance": "relative to the mean of the window, in its deviations",
    "standard": "relative to the mean of the series",
}


@dataclass(frozen=True, slots=True)
class OverWindows:
    """A recurrence over the last values before an origin: see segments.py and steps.py."""

    rules: Callable[..., Lookback]
    build: Callable[[Lookback, Settings, Beside | None], nn.Module]

    def course(self, panel: Panel, horizon: int, settings: Settings, member: int) -> Lookback:
        if settings.head != "point" and settings.error != "absolute":
            fact = (
                f"error is {settings.error!r}, and the head {settings.head} has a loss of its own"
            )
            raise DataError(fact, 'leave error out, or take head="point"', "Settings")
        names, points = [s.name for s in panel.series], sum(len(s) for s in panel.series)
        return self.rules(panel.seasons, horizon, names, points, settings)

    def prepared(self, panel: Panel, data: Scaled, course: Lookback) -> Scaled:
        return data

    def looks(self, course: Lookback) -> Hashable:
        return course

    def reach(self, course: Lookback) -> int:
        return course.back

    def past(self, panel: Panel, data: Scaled, course: Lookback) -> windows.Windows:
        return windows.windows_of(panel, data, course)

    def at_end(
        self, panel: Panel, data: Scaled, course: Lookback, usual: float, back: int = 0
    ) -> windows.Windows:
        return windows.windows_of(panel, data, course, back)

    def network(self, past: windows.Windows, course: Lookback, settings: Settings) -> nn.Module:
        return self.build(course, settings, past.beside)

    def learner(
        self, network: Any, past: windows.Windows, data: Scaled, course: Lookback, mean: Mean
    ) -> nn.Module:
        if network.spreads is not None:
            windows.begin_by_errors(network.spreads, past)
        return windows.Learner(network, past, course.squared, mean, data)

    def draws(
        self, past: windows.Windows, course: Lookback, seed: int, processes: int
    ) -> tuple[Callable[[int], Sequences], int]:
        return windows.draws(past, course.together, course.steps, seed, processes)

    def ahead(
        self,
        networks: Sequence[Any],
        pasts: Sequence[windows.Windows],
        courses: Sequence[Lookback],
        at: Origins | None = None,
    ) -> Tensor:
        parts = list(_parted(at or _ends(pasts[0].z)))
        found = [
            torch.cat([windows.ahead_of(network, past, *part) for part in parts])
            for network, past in zip(networks, pasts, strict=True)
        ]
        return torch.stack(found).mean(dim=0)

    def reads(self, network: Any, past: windows.Windows, course: Lookback) -> Tensor:
        told = windows.at_end(past)
        return network.reads(told.windows, told.between or told.along)

    def hindcasts(
        self, network: Any, panel: Panel, data: Scaled, course: Lookback
    ) -> Iterator[Hindcast]:
        return of_windows(network, self.past(panel, data, course))

    def told(self, course: Lookback) -> str:
        over = f"over {course.back // course.segment} segments of {course.segment} values"
        if course.segment == 1:
            layers = len(course.dilations)
            over = f"over the last {course.back} values, {layers} layer{'s' * (layers > 1)}"
            over += f" with dilations {', '.join(map(str, course.dilations))}" * (layers > 1)
        return f"{over}; all steps at once, {_RELATIVE[course.scaling]}"


class OverTimes(OverWindows):
    """A recurrence over the last values before an origin and the time between them: see times.py."""

    def course(self, panel: Panel, horizon: int, settings: Settings, member: int) -> Lookback:
        if panel.frequency.kind != "irregular":
            fact = (
                "the stamps were brought to a grid, and a network over times takes them as they are"
            )
            raise DataError(fact, "read the table with irregular=True", "Settings")
        given = {"covariates": panel.columns, f"the head {settings.head}": settings.head != "point"}
        refused = [name for name, there in given.items() if there]
        if refused:
            fact = f"{refused[0]} cannot be told of times between steps"
            raise DataError(fact, "leave that out, or bring the stamps to a grid", "Settings")
        return OverWindows.course(self, panel, horizon, settings, member)

    def past(self, panel: Panel, data: Scaled, course: Lookback) -> windows.Windows:
        found = windows.windows_of(panel, data, course)
        return replace(found, times=times_of(panel, found.columns, course.horizon))

    def at_end(
        self, panel: Panel, data: Scaled, course: Lookback, usual: float, back: int = 0
    ) -> windows.Windows:
        found = windows.windows_of(panel, data, course, back)
        return replace(found, times=times_of(panel, found.columns, course.horizon))

    def told(self, course: Lookback) -> str:
        return (
            f"over the last {course.back} values and the time between them; carried on from there to all "
            f"times ahead, {_RELATIVE[course.scaling]}"
        )


def _ends(z: Tensor) -> Origins:
    """The end of every series, (N, C)."""
    return torch.arange(len(z)), torch.zeros(len(z), dtype=torch.long)


def _parted(at: Origins) -> Iterator[Origins]:
    return zip(*(each.split(_TOGETHER) for each in at), strict=True)


WAYS: dict[Over, Way] = {
    "origins": OverOrigins(),
    "segments": OverWindows(over_segments, SegmentNetwork),
    "steps": OverWindows(over_steps, StepNetwork),
    "times": OverTimes(over_times, TimeNetwork),
}


def way_of(settings: Settings) -> Way:
    """The way that settings name."""
    return WAYS[settings.over]
