"""The folder that a command writes into: all of its files appear in it, or none does.

Files are first written into a hidden folder inside it, so on the same disk, and then moved up.
What they replace is kept until all of them stand, and comes back if one of them cannot.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from refold.errors import DataError

_FLAG = "--out"


def check(out: Path, names: Iterable[str], source: Path) -> None:
    """Can files of these names be written into `out`? Asked before the work, not after.

    Errors  DataError with the reason; one is that `source`, which is read, would be replaced.
    """
    try:
        if out.exists() and not out.is_dir():
            raise DataError(f"{out} is a file, not a folder", "name another folder", _FLAG)
        _refuse_taken(out, names)
        nearest = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
        for name in names:
            if (out / name).exists() and (out / name).samefile(source):
                fact = f"{out / name} is the table that is read, and would be replaced"
                raise DataError(fact, "name another folder", _FLAG)
    except OSError as error:
        raise _unwritable(out, error) from error
    try:
        Path(tempfile.mkdtemp(prefix=".refold-", dir=nearest)).rmdir()
    except OSError as error:
        fact = f"nothing can be written in {nearest}: {error.strerror}"
        raise DataError(fact, "name a folder of your own", _FLAG) from error


def write(out: Path, files: Mapping[str, bytes], former: Iterable[str] = ()) -> None:
    """Write files by their names, and remove the `former` ones that no longer belong to them.

    Whatever stops it, a full disk or a signal, the folder is left as it was.

    Errors  DataError when a file cannot be written.
    """
    fresh: list[Path] = []
    try:
        _refuse_taken(out, files)
        fresh = [path for path in (out, *out.parents) if not path.exists()]
        out.mkdir(parents=True, exist_ok=True)
        _exchange(out, files, former)
    except BaseException as error:
        for path in fresh:
            with suppress(OSError):
                path.rmdir()
        if isinstance(error, OSError):
            raise _unwritable(out, error) from error
        raise


def _refuse_taken(out: Path, names: Iterable[str]) -> None:
    for name in names:
        if (out / name).is_dir():
            fact = f"{out / name} is a folder, and a file of that name is to be written"
            raise DataError(fact, "rename that folder, or name another one", _FLAG)


def _unwritable(out: Path, error: OSError) -> DataError:
    fact = f"{out} cannot be written: {error.strerror or error}"
    return DataError(fact, "name another folder", _FLAG)


def _exchange(out: Path, files: Mapping[str, bytes], former: Iterable[str]) -> None:
    hidden = Path(tempfile.mkdtemp(prefix=".refold-", dir=out))
    new, old = hidden / "new", hidden / "old"
    try:
        new.mkdir()
        old.mkdir()
        for name, content in files.items():
            (new / name).write_bytes(content)
        _move(out, new, old, [*files, *former])
    finally:
        shutil.rmtree(new, ignore_errors=True)
        # Not empty only where a file could not be put back: it is then still there.
        with suppress(OSError):
            old.rmdir()
            hidden.rmdir()


def _move(out: Path, new: Path, old: Path, names: Iterable[str]) -> None:
    """What is in `out` to `old`, and what is in `new` to `out`: all of it, or back again."""
    wanted = [path.name for path in new.iterdir()]
    try:
        for name in names:
            if os.path.lexists(out / name):
                (out / name).replace(old / name)
        for name in wanted:
            (new / name).replace(out / name)
    except BaseException:
        for name in wanted:
            if not (new / name).exists():
                (out / name).unlink()
        for path in old.iterdir():
            path.replace(out / path.name)
        raise
    for path in old.iterdir():
        path.unlink()
