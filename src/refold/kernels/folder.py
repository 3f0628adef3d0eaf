"""The user's folder for what is worked out once and of use to later processes: compiled code, measured speeds.

No torch and no compiler here: `refold cells` reads a file of it and starts at once.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PART = "part-"  # what a writer has not finished
ROOMS = ("ir", "plan", "kernels")  # what decides which code is emitted


def place() -> Path:
    """Where the entries lie."""
    if named := os.environ.get("REFOLD_CACHE"):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "refold"
    named = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return (Path(named) if named else Path.home() / ".cache") / "refold"


def write(path: Path, whole: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=PART, dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(whole)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def sources() -> str:
    """When the compiler's own files last changed: a version number stands still while one works on them."""
    root = Path(__file__).parents[1]
    return repr(sorted(entry for room in ROOMS for entry in stamps(root / room, room)))


def stamps(folder: Path, name: str) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of every Python file in a folder and below."""
    with os.scandir(folder) as found:
        for item in found:
            if item.name.endswith(".py"):
                about = item.stat()
                yield f"{name}/{item.name}", about.st_size, about.st_mtime_ns
            elif item.is_dir():
                yield from stamps(Path(item.path), f"{name}/{item.name}")
