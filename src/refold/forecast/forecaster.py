"""The forecaster: a panel in, the next values of every series out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from refold.data.scale import Transform
from refold.data.window import Look, Past
from refold.errors import DataError
from refold.train.fit import Fit, Run, fit

from .course import Course, course
from .model import OriginNetwork, forecast
from .panel import Panel
from .processes import mean_of_all, started
from .sequences import Learner, Scaled, chain, draws, mean_of_own, past_of, scaled
from .settings import Settings

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]

# Fewer known points than this leave nothing to learn from beside the horizon.
MARGIN = 6
# The decay of the average of the weights: over the last fifty steps.
_AVERAGE = 0.98
# Series that are forecast together: enough to fill the products, few enough to fit a cache.
_TOGETHER = 512


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """Networks trained on one panel, and what they need to be used."""

    panel: Panel
    horizon: int
    settings: Settings
    data: Scaled
    courses: tuple[Course, ...]
    pasts: tuple[Past, ...]
    networks: tuple[OriginNetwork, ...]
    runs: tuple[Run, ...]
    seconds: float

    @property
    def parameters(self) -> int:
        """Trained numbers in one network."""
        return sum(p.numel() for p in self.networks[0].parameters())

    @property
    def look(self) -> Look:
        """What the first of the networks looks at."""
        return self.courses[0].look


def fit_panel(
    panel: Panel,
    horizon: int,
    settings: Settings,
    progress: Progress | None = None,
    transform: Transform | None = None,
    distributed: bool = False,
) -> Fitted:
    """Train on every series of a panel at once.

    `progress` is told after each network: networks done, networks in all. `transform` None takes the
    one that suits the values; networks that are to be shown other values later need one that suits
    them. distributed: this process is one of several, started by torchrun, that train the same
    networks; each takes its part of every batch.

    Errors  DataError for a series that is too short.
    """
    began = time.perf_counter()
    check_length(panel, horizon)
    courses, usual, networks, runs = [], [], [], []
    with one_thread():
        data = scaled(panel, horizon, transform)
        for member in range(settings.members):
            way = _course(panel, horizon, settings, member)
            past = past_of(panel, data, way)
            network, run = _trained(past, data, way, settings, member, distributed)
            parts = ((courses, way), (usual, past.usual), (networks, network), (runs, run))
            for kept, one in parts:
                kept.append(one)
            if progress:
                progress(member + 1, settings.members)
        found = (tuple(courses), pasts_at_end(panel, data, courses, usual))
    found = (*found, tuple(networks), tuple(runs))
    return Fitted(panel, horizon, settings, data, *found, time.perf_counter() - began)


def pasts_at_end(
    panel: Panel, data: Scaled, courses: Sequence[Course], usual: Sequence[float]
) -> tuple[Past, ...]:
    """What each network looks back on from the end of the series; usual: of the panel it learned.

    It is made anew after training too, where there is one that goes further back: sums that begin
    elsewhere are rounded otherwise, and a forecast is to be the same after `load` to the last bit.
    """
    return tuple(
        past_of(panel, data, way, way.origins * way.stride, one)
        for way, one in zip(courses, usual, strict=True)
    )


def _course(panel: Panel, horizon: int, settings: Settings, member: int) -> Course:
    return course(panel.seasons, horizon, [len(s) for s in panel.series], settings, member)


def _trained(
    past: Past,
    data: Scaled,
    way: Course,
    settings: Settings,
    member: int,
    distributed: bool,
) -> tuple[OriginNetwork, Run]:
    seed = settings.seed * settings.members + member
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = OriginNetwork(past.features, past.bases, way.look.horizon, way, settings)
    processes = started() if distributed else 1
    drawn, number = draws(past, way, seed, processes)
    share = -(-way.batch // processes)
    plan = Fit(
        epochs=-(-way.steps // -(-number // (share * processes))),
        rate=settings.rate,
        schedule="cosine",
        warm_up=max(1, way.steps // 10),
        average=_AVERAGE,
        batch_size=share,
        validation=0.0,
        patience=None,
        seed=seed,
    )
    learner = Learner(network, past, data, way, mean_of_all if distributed else mean_of_own)
    return network, fit(learner, drawn, plan, distributed=distributed)


@contextmanager
def one_thread() -> Iterator[None]:
    """The products of one origin are too small to be shared: threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def predict_panel(fitted: Fitted) -> list[Floats]:
    """The next values of every series, in its own units: one (H,) each.

    The mean of the networks is taken in the transformed units: for a logarithm, it is the
    geometric mean.
    """
    parts = zip(fitted.networks, fitted.pasts, fitted.courses, strict=True)
    with one_thread():
        z = torch.stack([_ahead(*part) for part in parts]).mean(dim=0)
    return [fitted.data.invert(i, own) for i, own in enumerate(z.numpy().astype(np.float64))]


@torch.no_grad()
def _ahead(network: OriginNetwork, past: Past, way: Course) -> torch.Tensor:
    """From the last column of every series: (N, H)."""
    found = []
    for rows in torch.arange(len(past.z)).split(_TOGETHER):
        columns = chain(torch.full_like(rows, past.columns - 1), way)
        found.append(forecast(network, past, rows, columns, 1)[0])
    return torch.cat(found)


def on_panel(fitted: Fitted, panel: Panel) -> Fitted:
    """The same networks before other series, or before the same ones further on. Nothing is trained.

    A series keeps the scale that it was trained with; a new one gets its own.

    Errors  DataError for values that the transform of the networks has no place for.
    """
    transform = fitted.data.transform
    refuse_outside(panel, transform)
    names = (s.name for s in fitted.panel.series)
    scales = dict(zip(names, fitted.data.scales, strict=True))
    data = scaled(panel, fitted.horizon, transform, scales)
    pasts = pasts_at_end(panel, data, fitted.courses, [past.usual for past in fitted.pasts])
    return replace(fitted, panel=panel, data=data, pasts=pasts)


def refuse_outside(panel: Panel, transform: Transform) -> None:
    """Errors  DataError with the first value that has no logarithm, or no square root."""
    if transform == "none":
        return
    for series in panel.series:
        bad = series.values <= 0 if transform == "log" else series.values < 0
        if bad.any():
            at = int(bad.argmax())
            stamp = panel.texts(series.stamps[at : at + 1])[0]
            fact = f"series {series.name} is {series.values[at]:g} at {stamp}, and the networks "
            fact += "were trained on " + (
                "positive values" if transform == "log" else "values of 0 and more"
            )
            raise DataError(fact, "fit again, with these values in the table")


def check_length(panel: Panel, horizon: int, held_out: int = 0) -> None:
    """Is there a series to learn this horizon from, and a point of each to forecast it from?

    Errors  DataError with the longest series, or with one that has no point left.
    """
    if horizon < 1:
        raise DataError(f"the horizon is {horizon}", "give at least 1", "horizon")
    longest, shortest = max(panel.series, key=len), min(panel.series, key=len)
    need = horizon + MARGIN + held_out
    if len(longest) < need:
        fact = f"series {longest.name} has {len(longest)} points"
        fact += (
            ", the others no more" * (len(panel.series) > 1) + f"; horizon {horizon} needs {need}"
        )
        if held_out:
            fact += f" ({held_out} held out, {horizon} to learn from, {MARGIN} before them)"
        most = max(0, (len(longest) - MARGIN) // (2 if held_out else 1))
        raise DataError(
            fact, f"ask for a horizon of at most {most}" if most else "give more points"
        )
    if len(shortest) <= held_out:
        fact = f"series {shortest.name} has {len(shortest)} points, and {held_out} are held out"
        raise DataError(fact, "leave it out, or ask for a shorter horizon")
