"""A run under way: epochs, the batches of each, the parts of each batch."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from refold.errors import RefoldError

from .average import Average
from .clip import Clipper
from .errors import Reduction
from .feed import Feed, Part, Shared, batches_of
from .gradients.lags import LagCurve, lag_curve
from .guard import (
    gradient_norm,
    naming_row,
    nonfinite_step,
    refuse_validation,
    refuse_weights,
)
from .log import StepLine, Told
from .objective import Objective
from .omega import regularised
from .progress import Progress, Weights, copied, put_back
from .saving import Saver
from .schedule import Rate
from .settings import Fit, optimiser_of
from .signals import Asked
from .walk import Carried, Walk
from .workers import Workers

Stop = Literal["epochs", "patience", "enough"]


class Training:
    """Everything that a run needs, and how far it is.

    progress  where it goes on; order: the random state from which this epoch is shuffled
    walk      the batch under way; carried: what it goes on from when that is resumed
    """

    def __init__(
        self,
        network: nn.Module,
        parameters: dict[str, nn.Parameter],
        feed: Feed,
        settings: Fit,
        team: Workers,
        saver: Saver,
        asked: Asked,
    ) -> None:
        self.network, self.parameters, self.feed = network, parameters, feed
        self.settings, self.team, self.saver, self.asked = settings, team, saver, asked
        self.device = next(iter(parameters.values())).device
        self.objective = Objective(network, settings.loss, settings.reduce)
        self.optimiser = optimiser_of(settings, parameters)
        self.rate = Rate(settings.schedule, self.optimiser, settings.patience, settings.warm_up)
        self.clipper = Clipper(settings.clipping)
        self.progress = Progress()
        self.average = None if settings.average is None else Average(settings.average, parameters)
        self.best: Weights = copied(network, parameters)
        self.order = torch.Generator().manual_seed(settings.seed).get_state()
        self.walk: Walk | None = None
        self.carried: Carried = {}
        self.lags: list[LagCurve] = []
        self._began = time.perf_counter()

    @property
    def stopped(self) -> Stop | None:
        """Why the run is over; None while it is not."""
        progress, settings = self.progress, self.settings
        found, past = progress.validation, progress.epoch - 1
        if found and settings.enough is not None and min(found) <= settings.enough:
            return "enough"
        if found and settings.patience and past - progress.best_epoch >= settings.patience:
            return "patience"
        return "epochs" if past >= settings.epochs else None

    def epoch(self, told: Told) -> None:
        """Train on all sequences once, and validate."""
        progress, train = self.progress, self.feed.train(self.progress.epoch)
        order = torch.Generator()
        order.set_state(self.order)
        rows = torch.randperm(len(train.lengths), generator=order).tolist()
        self.network.train()
        for chosen in batches_of(rows[progress.done :], self.batch_size):
            self._batch(train, chosen, told)
        refuse_weights(self.parameters, progress.epoch, progress.step)
        progress.train.append(_overall(progress.met, self.objective.over))
        self._judge(told)
        self._look_back(told)
        progress.epoch, progress.done, progress.met = progress.epoch + 1, 0, []
        self.order = order.get_state()

    @property
    def batches(self) -> int:
        """Batches in all epochs together."""
        return self.settings.epochs * math.ceil(self._sequences / self.batch_size)

    @property
    def behind(self) -> int:
        """Batches that lie behind."""
        behind = self.batches // self.settings.epochs * (self.progress.epoch - 1)
        return behind + self.progress.done // self.batch_size

    @property
    def _sequences(self) -> int:
        return len(self.feed.train(self.progress.epoch).lengths)

    @property
    def batch_size(self) -> int:
        """Sequences in a batch, of all processes together."""
        return self.settings.batch_size * self.team.number

    def save(self) -> None:
        """Write a checkpoint, where there is a folder for it."""
        now = time.perf_counter()
        self.progress.seconds, self._began = self.progress.seconds + now - self._began, now
        self.saver.save(self)

    def restore_best(self) -> None:
        put_back(self.network, self.best)
        self.network.eval()

    # One batch --------------------------------------------------------------------------------------------------------

    def _batch(self, train: Part, chosen: list[int], told: Told) -> None:
        """Walk through a batch, with a step of the optimiser for each of its parts."""
        began, progress, way = time.perf_counter(), self.progress, self.settings.gradient
        mine = [chosen[i] for i in self.team.share([train.lengths[i] for i in chosen])]
        batch = train.data.batch(mine).to(self.device) if mine else None
        shared = Shared(train, chosen, mine, batch)
        self.walk = None if batch is None else way.walk(self.objective, batch, shared.steps)
        if self.walk and self.carried:
            self.walk.restore(self.carried)
        self.carried = {}
        parts = 1 if way.span is None else max(1, math.ceil(shared.steps / way.span))
        for part in range(progress.part, parts):
            done = (progress.done + len(chosen) * part / parts) / len(train.lengths)
            self.rate.before_step(
                (progress.epoch - 1 + done) / self.settings.epochs, progress.step + 1
            )
            taken = self._step(shared, part)
            ended = time.perf_counter()
            tokens = shared.tokens(way.span, part)
            told.step(self._line(taken, ended - began, tokens), 1 / parts)
            began = ended
            if taken.error:
                raise taken.error
            progress.part = (part + 1) % parts
            progress.done += 0 if progress.part else len(chosen)
            self._between_steps(taken)

    def _line(self, taken: Taken, seconds: float, tokens: int) -> StepLine:
        return StepLine(
            self.progress.epoch,
            self.progress.step,
            taken.loss,
            taken.norm,
            taken.clipped,
            self.rate.now,
            seconds,
            tokens,
            taken.omega,
        )

    def _step(self, shared: Shared, part: int) -> Taken:
        """The gradient of a part, clipped, and a step of the optimiser, if all is finite."""
        progress = self.progress
        progress.step += 1
        for parameter in self.parameters.values():
            parameter.grad = None
        count, share = shared.counted(self.settings.gradient.span, part)
        share = share if self.objective.over == "mean" else 1.0
        error, omega = self._backward(shared, part, share)
        flags = [float(bool(self.asked)), float(self.saver.due(progress.step)), omega]
        error, flags = self.team.together(self.parameters, share, error, flags)
        # The one wait for the device in a step, but for a look at targets that are classes.
        loss, norm = torch.stack([error, gradient_norm(self.parameters)]).tolist()
        stop = nonfinite_step(loss, norm, self.parameters, progress.epoch, progress.step)
        if stop and shared.batch is not None and not math.isfinite(loss):
            stop = naming_row(stop, self.objective, shared.batch, shared.mine)
        clipped = norm if stop else self.clipper(self.parameters, norm)
        if not stop:
            self.optimiser.step()
            if self.average is not None:
                self.average.take(progress.step)
        progress.met.append((loss, count))
        told = None if self.settings.omega is None else flags[2]
        return Taken(loss, norm, clipped, told, stop, flags[0] > 0, flags[1] > 0)

    def _backward(self, shared: Shared, part: int, share: float) -> tuple[Tensor, float]:
        """The error of this process's sequences, and its part of Omega's mean over all that run.

        Gradients will be multiplied by `share`, which is not Omega's: hence its scale.
        """
        span, omega = self.settings.gradient.span, self.settings.omega
        if self.walk is None or not shared.has(span, part):
            return torch.zeros((), device=self.device), 0.0
        if omega is None:
            return self.walk.backward(part), 0.0
        scale = omega.left(self.progress.step - 1) / (share or 1.0)
        with regularised(self.network, omega, scale) as terms:

            def count(begin: int, piece: float) -> None:
                terms.piece = piece * shared.running(begin)

            error = self.walk.backward(part, count)
        return error, float(terms.value())

    def _between_steps(self, taken: Taken) -> None:
        if taken.leave or taken.save:
            self.save()
        if taken.leave:
            self.asked.end()

    # After an epoch ---------------------------------------------------------------------------------------------------

    def _judge(self, told: Told) -> None:
        """Validate, and hold on to the best weights: their average, where there is one."""
        with nullcontext() if self.average is None else self.average.in_use():
            self._judged(told)

    def _judged(self, told: Told) -> None:
        progress = self.progress
        if self.feed.held_out is None:
            progress.best_epoch, self.best = progress.epoch, copied(self.network, self.parameters)
            return
        self.network.eval()
        found = self._validated(self.feed.held_out)
        refuse_validation(found, progress.epoch, progress.step)
        told.epoch(progress.step, found)
        if found < min(progress.validation, default=math.inf):
            progress.best_epoch, self.best = progress.epoch, copied(self.network, self.parameters)
        progress.validation.append(found)
        self.rate.after_epoch(found)

    def _look_back(self, told: Told) -> None:
        """The curve of gradients against the lag, on the first sequences that are validated."""
        if not self.settings.lags:
            return
        part = self.feed.held_out or self.feed.train(self.progress.epoch)
        chosen = list(range(min(self.settings.batch_size, len(part.lengths))))
        self.network.eval()
        batch = part.data.batch(chosen).to(self.device)
        settings = self.settings
        found = lag_curve(self.network, batch, loss=settings.loss, features=settings.features)  # type: ignore[arg-type]
        self.lags.append(found)
        told.lags(self.progress.step, found)

    @torch.no_grad()
    def _validated(self, held_out: Part) -> float:
        """The error of all of a part, whatever the batch size and the number of processes."""
        errors, counts = [], []
        for chosen in batches_of(list(range(len(held_out.lengths))), self.batch_size):
            mine = [chosen[i] for i in self.team.share([held_out.lengths[i] for i in chosen])]
            if mine:
                batch = held_out.data.batch(mine).to(self.device)
                errors.append(self.objective.error(batch, teach=False))
                counts.append(held_out.counts(mine, None, 0))
        found = torch.stack(errors).tolist() if errors else []
        if self.objective.over == "sum":
            return self.team.summed([math.fsum(found)], self.device)[0]
        weighed = math.fsum(e * n for e, n in zip(found, counts, strict=True))
        total, number = self.team.summed([weighed, float(sum(counts))], self.device)
        return total / max(1.0, number)


@dataclass(frozen=True, slots=True)
class Taken:
    """A step that was taken, or with `error` was not; leave, save: what is asked for after it."""

    loss: float
    norm: float
    clipped: float
    omega: float | None
    error: RefoldError | None
    leave: bool
    save: bool


def _overall(found: list[tuple[float, int]], over: Reduction) -> float:
    """The error over all batches, from (error, number of counted sequences) of each."""
    if over == "sum":
        return math.fsum(error for error, _ in found)
    number = sum(weight for _, weight in found)
    return math.fsum(error * weight for error, weight in found) / max(1, number)
