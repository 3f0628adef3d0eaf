"""Over what a network recurs: forecast origins, segments of a window, or single steps.

A way says what a network looks at, how it is built, what it is trained on and how it is asked. Whatever is above it
(training, members, backtests, models that are kept) is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from refold.data.batch import Sequences

from . import sequences, windows
from .course import Course, course
from .lookback import Lookback, over_segments, over_steps
from .model import OriginNetwork, forecast
from .panel import Panel
from .segments import SegmentNetwork
from .sequences import Scaled
from .settings import Over, Settings
from .steps import StepNetwork

# Series that are forecast together: enough to fill the products, few enough to fit a cache.
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
    to be forecast from. network: as it starts. learner: with its error, for `fit`. draws: what an epoch trains on, and
    how many that are. ahead: the forecasts of every series after its end, (N, H) in the units of `Scaled.values`.
    told: the network in words.
    """

    def course(self, panel: Panel, horizon: int, settings: Settings, member: int) -> Trained: ...
    def past(self, panel: Panel, data: Scaled, course: Any) -> Seen: ...
    def at_end(self, panel: Panel, data: Scaled, course: Any, usual: float) -> Seen: ...
    def network(self, past: Any, course: Any, settings: Settings) -> nn.Module: ...
    def learner(self, network: Any, past: Any, data: Scaled, course: Any) -> nn.Module: ...
    def draws(
        self, past: Any, course: Any, seed: int
    ) -> tuple[Callable[[int], Sequences], int]: ...
    def ahead(self, network: Any, past: Any, course: Any) -> Tensor: ...
    def told(self, course: Any) -> str: ...


class OverOrigins:
    """A recurrence over forecast origins: see model.py."""

    def course(self, panel: Panel, horizon: int, settings: Settings, member: int) -> Course:
        return course(panel.seasons, horizon, [len(s) for s in panel.series], settings, member)

    def past(self, panel: Panel, data: Scaled, course: Course) -> sequences.Past:
        return sequences.past_of(panel, data, course)

    def at_end(self, panel: Panel, data: Scaled, course: Course, usual: float) -> sequences.Past:
        return sequences.past_of(panel, data, course, course.origins * course.stride, usual)

    def network(self, past: sequences.Past, course: Course, settings: Settings) -> OriginNetwork:
        return OriginNetwork(past.features, past.bases, course.look.horizon, course, settings)

    def learner(
        self, network: OriginNetwork, past: sequences.Past, data: Scaled, course: Course
    ) -> nn.Module:
        return sequences.Learner(network, past, data, course)

    def draws(
        self, past: sequences.Past, course: Course, seed: int
    ) -> tuple[Callable[[int], Sequences], int]:
        return sequences.draws(past, course, seed)

    def ahead(self, network: OriginNetwork, past: sequences.Past, course: Course) -> Tensor:
        found = []
        for rows in torch.arange(len(past.z)).split(_TOGETHER):
            columns = sequences.chain(torch.full_like(rows, past.columns - 1), course)
            found.append(forecast(network, past, rows, columns, 1)[0])
        return torch.cat(found)

    def told(self, course: Course) -> str:
        bases = [*course.look.names, *["linear autoregression"] * course.lines]
        return (
            f"over forecast origins; all steps at once, as a weighted mean of {', '.join(bases)}, "
            "plus a correction"
        )


@dataclass(frozen=True, slots=True)
class OverWindows:
    """A recurrence over the last values before an origin: see segments.py and steps.py."""

    rules: Callable[..., Lookback]
    build: Callable[[Lookback, Settings], nn.Module]

    def course(self, panel: Panel, horizon: int, settings: Settings, member: int) -> Lookback:
        names, points = [s.name for s in panel.series], sum(len(s) for s in panel.series)
        return self.rules(panel.seasons, horizon, names, points, settings)

    def past(self, panel: Panel, data: Scaled, course: Lookback) -> windows.Windows:
        return windows.windows_of(panel, data, course)

    def at_end(self, panel: Panel, data: Scaled, course: Lookback, usual: float) -> windows.Windows:
        return windows.windows_of(panel, data, course, whole=False)

    def network(self, past: windows.Windows, course: Lookback, settings: Settings) -> nn.Module:
        return self.build(course, settings)

    def learner(
        self, network: nn.Module, past: windows.Windows, data: Scaled, course: Lookback
    ) -> nn.Module:
        return windows.Learner(network, past, course.squared)

    def draws(
        self, past: windows.Windows, course: Lookback, seed: int
    ) -> tuple[Callable[[int], Sequences], int]:
        return windows.draws(past, course.together, course.steps, seed)

    def ahead(self, network: nn.Module, past: windows.Windows, course: Lookback) -> Tensor:
        return windows.ahead(network, past)[0]

    def told(self, course: Lookback) -> str:
        over = f"over {course.back // course.segment} segments of {course.segment} values"
        if course.segment == 1:
            layers = len(course.dilations)
            over = f"over the last {course.back} values, {layers} layer{'s' * (layers > 1)}"
            over += f" with dilations {', '.join(map(str, course.dilations))}" * (layers > 1)
        return f"{over}; all steps at once, relative to the last value"


WAYS: dict[Over, Way] = {
    "origins": OverOrigins(),
    "segments": OverWindows(over_segments, SegmentNetwork),
    "steps": OverWindows(over_steps, StepNetwork),
}


def way_of(settings: Settings) -> Way:
    """The way that settings name."""
    return WAYS[settings.over]
