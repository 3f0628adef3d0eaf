"""The folder of a run: one run at a time, and its last two checkpoints.

    step-000001200.safetensors   after 1200 steps; the two newest are kept, should one be damaged
    step-000001100.damaged       one that was passed over at a resume; nothing reads it
    lock                         held by the run's process, with its number inside

A file gets its name when it is whole, so a kill at any moment leaves the newest checkpoint readable.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from refold.errors import CheckpointError

from .file import PART, Damaged, read, write

KEPT = 2
LOCK = "lock"

_NAME = re.compile(r"step-(\d+)\.safetensors")


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


@dataclass(frozen=True, slots=True, eq=False)
class Last:
    """The newest good checkpoint of a folder.

    Units  step counts the steps of the run until then; reason says why a newer file was passed
    over, and is empty when there was none.
    """

    step: int
    path: Path
    tensors: dict[str, Tensor]
    document: dict[str, Any]
    reason: str


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of a run, held by this process; made by `run_folder`."""

    path: Path

    def save(self, step: int, tensors: Mapping[str, Tensor], document: dict[str, Any]) -> Path:
        """Write the checkpoint after `step` steps, and drop all but the newest two.

        Errors  CheckpointError as of `checkpoint.write`; the earlier checkpoints stay.
        """
        path = self.path / f"step-{step:09d}.safetensors"
        write(path, tensors, document)
        for old in list(checkpoints(self.path).values())[KEPT:]:
            with suppress(OSError):  # one file too many is no reason to stop a run
                old.unlink()
        return path

    def last(self) -> Last:
        """The checkpoint to go on from; damaged newer ones are renamed, so as not to count again.

        Errors  CheckpointError as of `last`.
        """
        found = last(self.path)
        for step, path in checkpoints(self.path).items():
            if step > found.step:
                with suppress(OSError):  # it would only take the place of a second good one
                    path.replace(path.with_suffix(".damaged"))
        return found


@contextmanager
def run_folder(path: str | Path, *, resume: bool) -> Iterator[RunFolder]:
    """Hold a folder for one run: made when absent, locked, and cleared of unfinished files.

    The lock is the system's: it ends with the process, however that ends. `resume` says whether
    there has to be a checkpoint, or must not be one.

    Errors  CheckpointError, before anything is trained, for a path that is a file or cannot be
    written, a folder that another process holds, and one that does not fit `resume`.

    Example
        >>> with run_folder("runs/a", resume=False) as folder:
        ...     folder.save(10, {"w": torch.ones(2)}, {"step": 10})
        PosixPath('runs/a/step-000000010.safetensors')
    """
    folder = Path(path)
    if resume:
        _refuse_empty(folder)
    handle = _opened(folder)
    try:
        _hold(handle, folder)
        _prepare(handle, folder)
        if not resume:
            _refuse_taken(folder)
        yield RunFolder(folder)
    finally:
        if handle in _HELD:  # not so in a forked process, which let go of it
            _HELD.remove(handle)
            os.close(handle)


def checkpoints(path: str | Path) -> dict[int, Path]:
    """The checkpoints in a folder by their steps, the newest first, good or not.

    Errors  CheckpointError for a file, and for a folder that cannot be read.
    """
    try:
        names = os.listdir(path)  # noqa: PTH208, names are what is matched
    except FileNotFoundError:
        return {}
    except OSError as error:
        fact = f"the folder cannot be read: {error.strerror or error}"
        raise CheckpointError(fact, "name the folder of a run", str(path)) from error
    steps = {int(match[1]): Path(path, name) for name in names if (match := _NAME.fullmatch(name))}
    return dict(sorted(steps.items(), reverse=True))


def last(path: str | Path) -> Last:
    """The newest good checkpoint in a folder; neither the lock nor a change is needed.

    Errors  CheckpointError when there is none, when all are damaged (each named), and for one that
    is not damaged and cannot be read: it is not passed over.
    """
    _refuse_empty(Path(path))
    passed: list[str] = []
    for step, file in checkpoints(path).items():
        try:
            tensors, document = read(file)
        except Damaged as error:
            passed.append(f"{file.name}: {error.fact}")
            continue
        return Last(step, file, tensors, document, "; ".join(passed))
    fact = "no checkpoint here can be used: " + "; ".join(passed)
    raise CheckpointError(
        fact, "restore one from a copy, or start a new run in another folder", str(path)
    )


def refuse_other_settings(old: Mapping[str, Any], new: Mapping[str, Any], path: str | Path) -> None:
    """Stop a resume with other settings than those the run began with.

    Errors  CheckpointError naming every field that differs, its old and its new value.
    """
    names = [*old, *(name for name in new if name not in old)]
    pairs = {name: (old.get(name, _ABSENT), new.get(name, _ABSENT)) for name in names}
    changed = [
        f"{name} was {was!r}, now it is {now!r}"
        for name, (was, now) in pairs.items()
        if was != now and repr(was) != repr(now)  # NaN is not equal to NaN, and reads the same
    ]
    if changed:
        remedy = "resume with the settings of the run, or start a new run in another folder"
        raise CheckpointError("; ".join(changed), remedy, str(path))


def _refuse_empty(folder: Path) -> None:
    if not checkpoints(folder):
        fact = "there is no checkpoint here to resume from"
        remedy = "pass resume=False to start a run here, or name another folder"
        raise CheckpointError(fact, remedy, str(folder))


def _refuse_taken(folder: Path) -> None:
    for step in checkpoints(folder):
        fact = f"there is a run of {step} steps here"
        remedy = "go on with resume=True (--resume), or name another folder"
        raise CheckpointError(fact, remedy, str(folder))


# The lock


def _opened(folder: Path) -> int:
    """The lock's file, open; the folder is made on the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except (FileExistsError, NotADirectoryError) as error:
        fact = "a file is in the place of the folder, or of one above it"
        raise CheckpointError(fact, "name another folder", str(folder)) from error
    except OSError as error:
        raise _unwritable(folder, error) from error
    _HELD.add(handle)
    return handle


def _unwritable(folder: Path, error: OSError) -> CheckpointError:
    fact = f"nothing can be written here: {error.strerror or error}"
    return CheckpointError(fact, "name a folder of your own", str(folder))


def _hold(handle: int, folder: Path) -> None:
    try:
        _lock(handle)
    except BlockingIOError as error:
        holder = os.read(handle, 32).decode(errors="replace").strip()
        fact = f"another run is at work here, in process {holder or 'unknown'}"
        remedy = "wait for it, end it, or name another folder"
        raise CheckpointError(fact, remedy, str(folder)) from error
    except OSError as error:
        fact = f"files cannot be locked here: {error.strerror or error}"
        raise CheckpointError(fact, "name a folder on a local disk", str(folder)) from error


def _prepare(handle: int, folder: Path) -> None:
    """Say who holds the folder, remove what a killed process left unfinished, try a file."""
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        probe = folder / f".step-probe{PART}"
        probe.touch()
        for file in folder.glob(f".step-*{PART}"):
            file.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from error


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> None:
        """Lock one byte far behind the number: others could not read a locked one."""
        os.lseek(handle, 1 << 30, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from error
        finally:
            os.lseek(handle, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


_HELD: set[int] = set()


def _let_go() -> None:
    """In a forked process: a copy of the lock there would outlive the run that is killed."""
    for handle in _HELD:
        os.close(handle)
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
