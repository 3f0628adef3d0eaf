"""Work on many series in chunks, on Ray's workers; what is finished is kept.

Every chunk is a task, and its result is written to a file of its own as soon as it is there. A worker
that is killed loses the chunk it had, which another one does again; a command that is ended goes on
from the files when it is given again.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refold.errors import DataError, RefoldError

from .forecaster import Progress
from .panel import Panel

Arrays = dict[str, NDArray[Any]]
Task = Callable[[Any], Arrays]

# Chunks for each worker: where one takes longer, the others have something left to do.
_EACH = 4
# How often a chunk is done again whose worker has died.
_AGAIN = 3
_ABOUT = "about.json"


@dataclass(frozen=True, slots=True)
class Spread:
    """Where parts are kept, and how many workers there are to be: None takes all cores.

    With RAY_ADDRESS set, the cluster there is used, else one is started on this machine.
    """

    folder: Path
    workers: int | None = None

    def chunks(self, panel: Panel) -> list[tuple[int, int]]:
        """Which series are done together: from, to."""
        number = len(panel.series)
        size = max(1, -(-number // (_EACH * (self.workers or os.cpu_count() or 1))))
        return [(start, min(number, start + size)) for start in range(0, number, size)]

    def begin(self, about: Mapping[str, Any]) -> None:
        """Open the folder. Parts of the same work stay, those of another one are refused.

        Errors  DataError
        """
        told, path = json.dumps(about, sort_keys=True), self.folder / _ABOUT
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if path.exists() and path.read_text(encoding="utf-8") != told:
                fact = f"{self.folder} holds parts of other work: other series, settings or words"
                raise DataError(fact, "remove that folder, or name another one", "--out")
            _write(path, told.encode())
        except OSError as error:
            fact = f"{self.folder} cannot be written: {error.strerror or error}"
            raise DataError(fact, "name another folder", "--out") from error

    def run(
        self, task: Task, jobs: Sequence[Any], progress: Progress | None = None
    ) -> list[Arrays]:
        """The results of all jobs, in order. Those that have a part are not done again.

        Errors  RefoldError where Ray is not installed, or a chunk's worker dies again and again; what
        a task refuses.
        """
        paths = [self.folder / f"part-{k + 1:04}-of-{len(jobs):04}.npz" for k in range(len(jobs))]
        left = [k for k, path in enumerate(paths) if not path.exists()]
        if left:
            with _cluster(self.workers) as ray:
                for k, found in _as_they_come(ray, task, {k: jobs[k] for k in left}):
                    _write_arrays(paths[k], found)
                    if progress:
                        progress(sum(path.exists() for path in paths), len(paths))
        return [_read(path) for path in paths]

    def end(self) -> None:
        """Remove the parts: the result stands."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _as_they_come(ray: Any, task: Task, jobs: Mapping[int, Any]) -> Iterator[tuple[int, Arrays]]:
    remote = ray.remote(max_retries=_AGAIN)(task)
    pending = {remote.remote(job): k for k, job in jobs.items()}
    while pending:
        (done,), _ = ray.wait(list(pending), num_returns=1)
        k = pending.pop(done)
        try:
            found = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, RefoldError):
                raise error.cause from error
            raise
        except ray.exceptions.RayError as error:
            fact = f"the worker of chunk {k + 1} died {_AGAIN + 1} times: {type(error).__name__}"
            remedy = "give the command again: it goes on from the chunks that are finished"
            raise RefoldError(fact, remedy, "ray") from error
        yield k, found


@contextmanager
def _cluster(workers: int | None) -> Iterator[Any]:
    """Ray, as it runs already, at RAY_ADDRESS, or started here and stopped again."""
    if importlib.util.find_spec("ray") is None:
        raise RefoldError("Ray is not installed", "install it: pip install 'refold[ray]'", "--ray")
    import ray

    own = not ray.is_initialized()
    if own:
        there = os.environ.get("RAY_ADDRESS")
        local: dict[str, Any] = {} if there else {"num_cpus": workers, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        yield ray
    finally:
        if own:
            ray.shutdown()


def _write_arrays(path: Path, arrays: Arrays) -> None:
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    new.replace(path)


def _write(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def _read(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as held:
        return {name: held[name] for name in held.files}
