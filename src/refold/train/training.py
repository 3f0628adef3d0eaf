"""A run under way: epochs, the batches of each, the parts of each batch."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from refold.data.batch import Batch
from refold.errors import RefoldError

from .clip import Clipper
from .errors import Reduction
from .feed import Feed, Part, batches_of
from .guard import (
    gradient_norm,
    naming_row,
    nonfinite_step,
    refuse_validation,
    refuse_weights,
)
from .lags import LagCurve, lag_curve
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
        self.rate = Rate(settings.schedule, self.optimiser, settings.patience)
        self.clipper = Clipper(settings.clipping)
        self.progress = Progress()
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
        began, progress, span = time.perf_counter(), self.progress, self.settings.gradient.span
        work = [train.lengths[i] for i in chosen]
        mine = [chosen[i] for i in self.team.share(work)]
        batch = train.data.batch(mine).to(self.device) if mine else None
        way, longest = self.settings.gradient, max(work)
        self.walk = None if batch is None else way.walk(self.objective, batch, longest)
        if self.walk and self.carried:
            self.walk.restore(self.carried)
        self.carried = {}
        parts = 1 if span is None else max(1, math.ceil(longest / span))
        for part in range(progress.part, parts):
            done = (progress.done + len(chosen) * part / parts) / len(train.lengths)
            self.rate.before_step((progress.epoch - 1 + done) / self.settings.epochs)
            taken = self._step(train, chosen, mine, batch, part)
            ended = time.perf_counter()
            tokens = sum(work) if span is None else sum(_within(n, part, span) for n in work)
            line = StepLine(
                progress.epoch,
                progress.step,
                taken.loss,
                taken.norm,
                taken.clipped,
                self.rate.now,
                ended - began,
                tokens,
                taken.omega,
            )
            began = ended
            told.step(line, 1 / parts)
            if taken.error:
                raise taken.error
            progress.part = (part + 1) % parts
            progress.done += 0 if progress.part else len(chosen)
            self._between_steps(taken)

    def _step(
        self, train: Part, chosen: list[int], mine: list[int], batch: Batch | None, part: int
    ) -> Taken:
        """The gradient of a part, clipped, and a step of the optimiser, if all is finite."""
        progress, span, team = self.progress, self.settings.gradient.span, self.team
        progress.step += 1
        for parameter in self.parameters.values():
            parameter.grad = None
        counts, share = train.counts(chosen, span, part), 1.0
        if team.number > 1 and self.objective.over == "mean":
            share = train.counts(mine, span, part) / max(1, counts)
        error, omega = torch.zeros((), device=self.device), 0.0
        if self.walk and batch is not None and (span is None or part * span < len(batch.x)):
            if self.settings.omega is None:
                error = self.walk.backward(part)
            else:
                error, omega = self._with_omega(self.walk, part, train, chosen, mine, share)
        flags = [float(bool(self.asked)), float(self.saver.due(progress.step)), omega]
        error, flags = team.together(self.parameters, share, error, flags)
        # The one wait for the device in a step, but for a look at targets that are classes.
        loss, norm = torch.stack([error, gradient_norm(self.parameters)]).tolist()
        where = (progress.epoch, progress.step)
        stop = nonfinite_step(loss, norm, self.parameters, *where)
        if stop and batch is not None and not math.isfinite(loss):
            stop = naming_row(stop, self.objective, batch, mine)
        clipped = norm if stop else self.clipper(self.parameters, norm)
        if not stop:
            self.optimiser.step()
        progress.met.append((loss, counts))
        told = None if self.settings.omega is None else flags[2]
        return Taken(loss, norm, clipped, told, stop, flags[0] > 0, flags[1] > 0)

    def _with_omega(
        self,
        walk: Walk,
        part: int,
        train: Part,
        chosen: list[int],
        mine: list[int],
        share: float,
    ) -> tuple[Tensor, float]:
        """The error of a part, and Omega: this process's part of a mean over all rows that run.

        Gradients will be multiplied by `share`, which is not Omega's: hence the scale.
        """
        assert self.settings.omega is not None
        scale = 1.0 / share if share else 1.0
        with regularised(self.network, self.settings.omega, scale) as terms:

            def count(begin: int, piece: float) -> None:
                running = [sum(train.lengths[i] > begin for i in rows) for rows in (mine, chosen)]
                terms.piece = piece * running[0] / max(1, running[1])

            error = walk.backward(part, count)
        return error, float(terms.value())

    def _between_steps(self, taken: Taken) -> None:
        if taken.leave or taken.save:
            self.save()
        if taken.leave:
            self.asked.end()

    # After an epoch ---------------------------------------------------------------------------------------------------

    def _judge(self, told: Told) -> None:
        """Validate, and hold on to the best weights."""
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


def _within(length: int, part: int, span: int) -> int:
    """The steps of a sequence in a part."""
    return min(max(0, length - part * span), span)


def _overall(found: list[tuple[float, int]], over: Reduction) -> float:
    """The error over all batches, from (error, number of counted sequences) of each."""
    if over == "sum":
        return math.fsum(error for error, _ in found)
    number = sum(weight for _, weight in found)
    return math.fsum(error * weight for error, weight in found) / max(1, number)
