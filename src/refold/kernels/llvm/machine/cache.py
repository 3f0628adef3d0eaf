"""Compiled code on disk, so that the next process need not build it again.

One file for each entry: a line that names the format, a checksum, the bytes. Whatever does not pass the checksum counts
as absent and is built again; nothing is ever unpickled. Writers write beside and rename, so that a reader sees a whole
entry or none; nobody waits for anybody.
"""

import hashlib
import os
import stat
import time
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import llvmlite

from refold.kernels.folder import PART, place, sources, write
from refold.kernels.llvm import llvm

from .host import Host

FORMAT = b"refold machine code 1\n"
CHECK = hashlib.sha256().digest_size
SUFFIX = ".code"
LIMIT = 128 << 20  # bytes: about ten thousand kernels
STALE = 3600.0  # seconds after which an unfinished file has no writer any more: writing takes milliseconds


class Cache(NamedTuple):
    """A folder of entries, at most `limit` bytes of them, the least recently used dropped first.

    `reason` says why there is no folder, when there is none.
    """

    folder: Path | None
    limit: int = LIMIT
    reason: str = ""

    def load(self, name: str) -> bytes | None:
        """The bytes stored under a name; None when there are none, or when they are damaged."""
        if self.folder is None:
            return None
        path = self.folder / (name + SUFFIX)
        try:
            about = path.stat()
            if not stat.S_ISREG(about.st_mode) or about.st_size > self.limit:
                return None
            held = path.read_bytes()
        except OSError:
            return (
                None  # absent, dropped by another process just now, or not ours to read: build it
            )
        data = held[len(FORMAT) + CHECK :]
        if held[: len(FORMAT) + CHECK] != FORMAT + checksum(name, data):
            return None
        mark_used(path)
        return data

    def store(self, name: str, data: bytes) -> str:
        """Keep bytes under a name. Gives why they could not be kept, or nothing."""
        if self.folder is None:
            return self.reason
        if len(data) + len(FORMAT) + CHECK > self.limit:
            return f"the entry has {len(data)} bytes; the cache holds {self.limit}"
        try:
            write(self.folder / (name + SUFFIX), FORMAT + checksum(name, data) + data)
            shrink(self.folder, self.limit, keep=name + SUFFIX)
        except OSError as fault:
            return f"{self.folder} cannot be written: {fault.strerror or fault}"
        return ""


def open_cache() -> Cache:
    """The cache of this user: the folder REFOLD_CACHE, or `refold` in the folder for caches."""
    try:
        folder = place()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        about = folder.stat()
    except (OSError, RuntimeError) as fault:  # RuntimeError: a user without a home
        return Cache(None, reason=f"there is no folder for the cache: {fault}")
    return Cache(None, reason=f"{folder} {fault}") if (fault := distrust(about)) else Cache(folder)


def distrust(about: os.stat_result) -> str:
    """Why a folder is no place for code that will be run: another user could have put it there."""
    if os.name == "nt":
        return ""  # its folders for one user are closed to others by the system
    if about.st_uid not in (os.geteuid(), 0):
        return f"belongs to user {about.st_uid}, not to {os.geteuid()}"
    if about.st_mode & stat.S_IWOTH:
        return "can be written by every user"
    return ""


def name_of(key: str, target: Host) -> str:
    """The name of an entry: all that decides its bytes, as one checksum."""
    parts = (key, repr(sorted(asdict(target).items())), *versions())
    whole = hashlib.sha256()
    for part in parts:
        whole.update(f"{len(part)}:".encode())
        whole.update(part.encode())
    return whole.hexdigest()


@cache
def versions() -> tuple[str, ...]:
    """The versions of what emits and of what compiles."""
    number = ".".join(map(str, llvm.llvm_version_info))
    return (version("refold"), sources(), llvmlite.__version__, number)


def checksum(name: str, data: bytes) -> bytes:
    """Of an entry's bytes and of its name: an entry under another's name is not taken for it."""
    return hashlib.sha256(name.encode() + b"\0" + data).digest()


def mark_used(path: Path) -> None:
    """Make an entry the last to go."""
    try:
        os.utime(path)
    except OSError:
        return  # a cache that can only be read is still of use; or the entry has just been dropped


def shrink(folder: Path, limit: int, keep: str) -> None:
    """Drop unfinished files that nobody writes any more, then the least recently used entries past the limit."""
    entries, total = [], 0
    with os.scandir(folder) as found:
        for item in found:
            try:
                about = item.stat(follow_symlinks=False)
            except OSError:
                continue  # another process was quicker
            if item.name.startswith(PART) and about.st_mtime < time.time() - STALE:
                drop(Path(item.path))
            elif item.name.endswith(SUFFIX):
                total += about.st_size
                entries.append((item.name != keep, -about.st_mtime_ns, about.st_size, item.path))
    for _, _, size, path in sorted(entries, reverse=True):
        if total <= limit:
            break
        drop(Path(path))
        total -= size


def drop(path: Path) -> None:
    """Remove a file that another process may be removing too."""
    try:
        path.unlink()
    except OSError:
        return  # gone already, or kept by its owner: the bound is held by whoever can
