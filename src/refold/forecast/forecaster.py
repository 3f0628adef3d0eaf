"""The forecaster: a panel in, the next values of every series out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from refold.data.batch import Sequences
from refold.data.scale import Transform
from refold.errors import DataError
from refold.train.fit import Fit, Run, fit

from .beside import check_future
from .distribution import Distribution, is_counted, refuse_uncounted
from .panel import Panel
from .processes import mean_of_all, place, started
from .sequences import Mean, Scaled, further_on, mean_of_own, scaled
from .settings import Settings
from .together import Task, together
from .ways import Seen, Trained, way_of

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]

# Fewer known points than this leave nothing to learn from beside the horizon.
MARGIN = 6
# The decay of the average of the weights: over the last fifty steps.
_AVERAGE = 0.98
# Seeds of several processes, and of any number of networks, do not meet.
_APART = 2**40


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """Networks trained on one panel, and what they need to be used."""

    panel: Panel
    horizon: int
    settings: Settings
    data: Scaled
    courses: tuple[Trained, ...]
    pasts: tuple[Seen, ...]
    networks: tuple[nn.Module, ...]
    runs: tuple[Run, ...]
    seconds: float

    @property
    def parameters(self) -> int:
        """Trained numbers in one network."""
        return sum(p.numel() for p in self.networks[0].parameters())


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
    refuse_uncounted(panel, settings.head)
    if is_counted(settings.head):
        transform = "sqrt"  # where no count was 0 yet, one may come
    # Several processes have to talk in one order: each trains its networks one by one.
    threads, way = 1 if distributed else torch.get_num_threads(), way_of(settings)
    with one_thread():
        data = scaled(panel, horizon, transform)
        members = range(settings.members)
        courses = tuple(way.course(panel, horizon, settings, member) for member in members)
        data = way.prepared(panel, data, courses[0])
        usual, trainings = _trainings(panel, data, courses, settings, distributed)

        def told(done: int) -> None:
            if progress:
                progress(done, settings.members)

        networks, runs = zip(*together(trainings, threads, told), strict=True)
        pasts = pasts_at_end(panel, data, settings, courses, usual)
    found = (courses, pasts, networks, runs)
    return Fitted(panel, horizon, settings, data, *found, time.perf_counter() - began)


def _trainings(
    panel: Panel,
    data: Scaled,
    courses: Sequence[Trained],
    settings: Settings,
    distributed: bool,
) -> tuple[list[float], list[Task[tuple[nn.Module, Run]]]]:
    """The width that is usual for each network, and what trains it; networks share their pasts."""
    way, pasts = way_of(settings), {}
    usual, trainings = [], []
    for member, course in enumerate(courses):
        key = way.looks(course)
        if key not in pasts:
            pasts[key] = way.past(panel, data, course)
        usual.append(pasts[key].usual)
        trainings.append(_training(pasts[key], data, course, settings, member, distributed))
    return usual, trainings


def pasts_at_end(
    panel: Panel,
    data: Scaled,
    settings: Settings,
    courses: Sequence[Trained],
    usual: Sequence[float],
    back: int = 0,
) -> tuple[Seen, ...]:
    """What each network looks back on from the end of the series; usual: of the panel it learned.
    Origins may lie up to `back` steps before the end.

    It is made anew after training too, where there is one that goes further back: sums that begin
    elsewhere are rounded otherwise, and a forecast is to be the same after `load` to the last bit.
    Networks that look at the same share it.
    """
    way, made = way_of(settings), {}
    keys = [(way.looks(course), one) for course, one in zip(courses, usual, strict=True)]
    for key, course in zip(keys, courses, strict=True):
        if key not in made:
            made[key] = way.at_end(panel, data, course, key[-1], back)
    return tuple(made[key] for key in keys)


def _training(
    past: Seen,
    data: Scaled,
    course: Trained,
    settings: Settings,
    member: int,
    distributed: bool,
) -> Task[tuple[nn.Module, Run]]:
    seed, way = settings.seed * settings.members + member, way_of(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = way.network(past, course, settings)
    processes = started() if distributed else 1
    drawn, number = way.draws(past, course, seed, processes)
    share = -(-course.batch // processes)
    plan = Fit(
        epochs=-(-course.steps // -(-number // (share * processes))),
        rate=settings.rate,
        schedule="cosine",
        warm_up=max(1, course.steps // 10),
        average=_AVERAGE,
        batch_size=share,
        validation=0.0,
        patience=None,
        seed=seed,
    )
    mean: Mean = mean_of_all if distributed else mean_of_own

    def trained(check: Callable[[], None]) -> tuple[nn.Module, Run]:
        def wanted(epoch: int) -> Sequences:
            check()
            return drawn(epoch)

        learner = way.learner(network, past, data, course, mean)
        # Noise and dropout of each process are of its own chains.
        with network.chance.seeded(seed + place() * _APART if distributed else seed):
            return network, fit(learner, wanted, plan, distributed=distributed)

    return trained


@contextmanager
def one_thread() -> Iterator[None]:
    """The products of one origin are too small to be shared: threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def predict_panel(fitted: Fitted, ahead: torch.Tensor | None = None) -> list[Floats]:
    """The next values of every series, in its own units: one (H,) each.

    The mean of the networks is taken in the transformed units: for a logarithm, it is the
    geometric mean. ahead: what `mean_ahead` gives, where it is there already.

    Errors  DataError where a covariate is not known as far ahead.
    """
    found = predict_distribution(fitted, ahead)
    if found is not None:
        return found.centre
    ahead = mean_ahead(fitted) if ahead is None else ahead
    z = ahead.numpy().astype(np.float64)
    return [fitted.data.invert(i, own) for i, own in enumerate(z)]


def predict_distribution(fitted: Fitted, ahead: torch.Tensor | None = None) -> Distribution | None:
    """The distributions of the next values, where the networks have a head for them.

    The parameters of the networks are averaged: the centre as that of point forecasts, spreads and
    distances between quantiles as they are. ahead: as in `predict_panel`.
    """
    head = fitted.settings.head
    if head == "point":
        return None
    return Distribution.of(fitted.data, head, mean_ahead(fitted) if ahead is None else ahead)


def mean_ahead(fitted: Fitted) -> torch.Tensor:
    """The next values as networks see them, their mean: (N, H); with a head, (N, H, K)."""
    check_future(fitted.panel, fitted.horizon)
    with one_thread(), torch.no_grad():
        return way_of(fitted.settings).ahead(fitted.networks, fitted.pasts, fitted.courses)


def on_panel(fitted: Fitted, panel: Panel) -> Fitted:
    """The same networks before other series, or before the same ones further on. Nothing is trained.

    A series keeps the scale and the autoregression that it was trained with; a new one gets its own.

    Errors  DataError for values that the transform of the networks has no place for.
    """
    refuse_outside(panel, fitted.data.transform)
    refuse_uncounted(panel, fitted.settings.head)
    return further(fitted, panel)


def further(fitted: Fitted, panel: Panel) -> Fitted:
    """`on_panel` without a look at all values: what it takes does not grow with the series."""
    courses, settings, way = fitted.courses, fitted.settings, way_of(fitted.settings)
    most = max(way.reach(course) for course in courses)
    data = further_on(panel, fitted.data, fitted.panel, fitted.horizon, most)
    usual = [past.usual for past in fitted.pasts]
    pasts = pasts_at_end(panel, data, settings, courses, usual)
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
