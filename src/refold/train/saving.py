"""When a run is saved, what of it, and how it goes on from there.

A checkpoint holds all that decides what comes next: weights, best weights, optimiser, schedule,
what clipping remembers, the place in the data, every random state, states that are carried on
within a batch. So a run that was cut off anywhere ends with the same bits as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from refold.errors import CheckpointError, RefoldError

from .checkpoints.folder import Last, RunFolder, checkpoints, refuse_other_settings, run_folder
from .checkpoints.states import (
    joined,
    optimiser_state,
    part,
    restore_optimiser,
    restore_scheduler,
    restore_weights,
    scheduler_state,
    weights,
)
from .workers import Workers

if TYPE_CHECKING:
    from .training import Training


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a run is saved, and how often.

    Units  seconds: between two checkpoints; steps: of the optimiser, and in place of seconds. One
    is written at the end, and when the run is told to stop, in any case.

    Errors  CheckpointError for numbers that are not above 0.
    """

    folder: str | Path
    # What is lost at worst is a minute of work; a checkpoint takes milliseconds.
    seconds: float = 60.0
    steps: int | None = None

    def __post_init__(self) -> None:
        for name in ("seconds", "steps"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (name == "steps" and value is None) and not (number and value > 0):
                fact, remedy = f"{name} is {value!r}", "give a number above 0"
                raise CheckpointError(fact, remedy, f"Checkpoint({name}=...)")


class Saver:
    """Saves a run into a folder; without one it does nothing."""

    def __init__(
        self, plan: Checkpoint | None, folder: RunFolder | None, start: Last | None
    ) -> None:
        self._plan, self._folder, self._start = plan, folder, start
        self._saved = time.monotonic()
        self.reason = start.reason if start else ""

    def due(self, step: int) -> bool:
        """Is it time for a checkpoint?"""
        if self._plan is None:
            return False
        if self._plan.steps is not None:
            return step % self._plan.steps == 0
        return time.monotonic() - self._saved >= self._plan.seconds

    def save(self, run: Training) -> None:
        """Write a checkpoint; each process takes part, and the first one writes.

        Errors  CheckpointError as of `checkpoint.write`.
        """
        if self._plan is None:
            return
        each = run.team.gathered(_own(run))
        if self._folder is not None:
            self._folder.save(run.progress.step, *_whole(run, each))
        self._saved = time.monotonic()

    def restore(self, run: Training) -> None:
        """Bring a run to where its last checkpoint was.

        Errors  CheckpointError for one of other settings, data, network or optimiser.
        """
        if self._start is not None:
            _restore(run, self._start)


def _own(run: Training) -> dict[str, Any]:
    """What each process has for itself."""
    random = {"torch": torch.get_rng_state()}
    if run.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(run.device)
    carried = {} if run.walk is None or not run.progress.part else run.walk.carried()
    return {"random": random, "carried": {name: t.cpu() for name, t in carried.items()}}


def _whole(run: Training, each: list[dict[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    optimiser, told = optimiser_state(run.optimiser)
    parts = {f"{kind}{rank}": own[kind] for rank, own in enumerate(each) for kind in own}
    tensors = joined(
        weights=weights(run.network),
        best=run.best,
        optimiser=optimiser,
        order={"state": run.order},
        average={} if run.average is None else run.average.weights,
        **parts,
    )
    document = {
        "progress": run.progress.told(),
        "settings": run.settings.told(),
        "data": run.feed.told(),
        "workers": run.team.number,
        "optimiser": told,
        "schedule": scheduler_state(run.rate.scheduler) if run.rate.scheduler else None,
        "clip": [run.clipper.average, run.clipper.seen],
    }
    return tensors, document


def _restore(run: Training, start: Last) -> None:
    document, tensors, path = start.document, start.tensors, start.path
    refuse_other_settings(document["settings"], run.settings.told(), path)
    refuse_other_settings(document["data"], run.feed.told(), path)
    restore_weights(run.network, part(tensors, "weights"), path)
    run.best = {name: t.to(run.device) for name, t in part(tensors, "best").items()}
    if run.average is not None:
        run.average.restore(part(tensors, "average"))
    restore_optimiser(run.optimiser, part(tensors, "optimiser"), document["optimiser"], path)
    if run.rate.scheduler:
        restore_scheduler(run.rate.scheduler, document["schedule"], path)
    run.clipper.average, run.clipper.seen = document["clip"]
    run.progress.restore(document["progress"])
    run.order = part(tensors, "order")["state"]
    if document["workers"] != run.team.number:
        # Other shares: the batch under way is begun again, and dropout draws anew.
        run.progress.part = 0
        return
    rank = run.team.rank
    random = part(tensors, f"random{rank}")
    torch.set_rng_state(random["torch"])
    if "cuda" in random and run.device.type == "cuda":
        torch.cuda.set_rng_state(random["cuda"], run.device)
    run.carried = {n: t.to(run.device) for n, t in part(tensors, f"carried{rank}").items()}


@contextmanager
def saving(
    checkpoint: Checkpoint | str | Path | None, resume: bool, team: Workers
) -> Iterator[Saver]:
    """A saver for a run; the folder is the first process's alone while it lasts.

    With `resume`, a run goes on where there is a checkpoint, and begins where there is none.

    Errors  RefoldError for resume without a folder; CheckpointError as of `run_folder`.
    """
    if checkpoint is None:
        if resume:
            fact, remedy = "resume is True, and no checkpoint is named", "give checkpoint=FOLDER"
            raise RefoldError(fact, remedy, "fit(..., resume=True)")
        yield Saver(None, None, None)
        return
    plan = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
    if team.rank > 0:  # one process looks into the folder, and tells the others
        yield Saver(plan, None, team.from_first(None))
        return
    goes_on = resume and bool(checkpoints(plan.folder))
    with run_folder(plan.folder, resume=goes_on) as folder:
        yield Saver(plan, folder, team.from_first(folder.last() if goes_on else None))
