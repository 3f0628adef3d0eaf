"""The file of a checkpoint: named tensors and a JSON document, whole or refused.

It is a safetensors file, which any tool for these reads. Its `__metadata__` holds

    sha256     of all bytes of the file, with these 64 characters taken as "0"
    format     the version of this layout; refold, torch: the versions that wrote it
    document   JSON, in the spelling of document.py

in this order, and before all else: the checksum stands at the same place in every file, of every
version, and is looked at before anything is believed. Nothing in a file is ever run.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from refold.errors import CheckpointError

from .document import meant, spelled
from .foreign import HEADER_LIMIT, difference, kind

FORMAT = 1
PART = ".part"  # how the name of a file ends that is still being written

_OPENING = b'{"__metadata__":{"sha256":"'
_DIGEST = slice(8 + len(_OPENING), 8 + len(_OPENING) + 64)
_ZEROS = b"0" * 64
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_RESTORE = "name another checkpoint, or restore this file from a copy"


class Damaged(CheckpointError):
    """The bytes of a file are not those of a checkpoint: cut, changed, or another program's."""


# Writing


def write(path: str | Path, tensors: Mapping[str, Tensor], document: dict[str, Any]) -> None:
    """Write a checkpoint in the place of what is there: all of it, or nothing.

    The new file is complete and on the disk before it gets its name; a reader, or a power cut,
    sees the old file or the new one. Whatever stops it, an error or Ctrl-C, the old file is as it
    was and nothing is left beside it. The same tensors and document give the same bytes.

    `document` is a dict of what JSON has, tuples, and floats that are not finite. Tensors of any
    device are written as they are; two names for one tensor are two tensors in the file.

    Errors  CheckpointError for a disk that is full (bytes needed, bytes free), a place that cannot
    be written, a tensor or a value that the file cannot hold (its name, its place in the document).

    Example
        >>> write("run.safetensors", {"w": torch.ones(2)}, {"step": 1, "best": math.inf})
        >>> read("run.safetensors")
        ({'w': tensor([1., 1.])}, {'step': 1, 'best': inf})
    """
    path = Path(path)
    entries, parts = _laid_out(path, tensors)
    header = _header(path, entries, spelled(document, str(path)))
    header[_DIGEST] = _digest([header, *parts]).encode()
    _replace(path, [header, *parts])


def _laid_out(
    path: Path, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Any], list[memoryview | bytes]]:
    """What the header says of every tensor, and the bytes of all of them, in the same order."""
    for name, tensor in tensors.items():
        _check_tensor(path, name, tensor)
    entries, parts, at = {}, [], 0
    # Wide numbers first, so that each is aligned for readers that map the file into memory.
    for name in sorted(tensors, key=lambda name: (-tensors[name].itemsize, name)):
        tensor = tensors[name]
        parts.append(_bytes_of(tensor))
        end = at + tensor.nbytes
        shape, dtype = list(tensor.shape), _NAMES[tensor.dtype]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    return entries, parts


def _check_tensor(path: Path, name: Any, tensor: Any) -> None:
    if not isinstance(name, str) or not _is_unicode(name) or name == "__metadata__":
        fact = f"a tensor is named {name!r}"
        raise CheckpointError(fact, "name it with text; __metadata__ is taken", str(path))
    if not isinstance(tensor, Tensor):
        fact = f"{name} is a {type(tensor).__name__}, not a torch tensor"
        raise CheckpointError(fact, "put it into the document, or into a tensor", str(path))
    if tensor.dtype not in _NAMES:
        fact = f"{name} is {tensor.dtype}, which a checkpoint has no name for"
        remedy = "convert it; complex numbers are torch.view_as_real(...)"
        raise CheckpointError(fact, remedy, str(path))
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        fact = f"{name} is {tensor.layout} on {tensor.device}: it has no bytes in a row"
        raise CheckpointError(fact, "convert it, for instance with .to_dense()", str(path))


def _is_unicode(text: str) -> bool:
    """Half a surrogate pair is text for Python, and for no other reader of the file."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _bytes_of(tensor: Tensor) -> memoryview | bytes:
    if not tensor.numel():
        return b""
    # resolve_neg: a view can hold its numbers with the sign still to be turned. as_strided: one
    # number counts as contiguous whatever its stride, but cannot be seen as bytes with another.
    held = tensor.detach().cpu().resolve_neg().contiguous()
    flat = held.as_strided((held.numel(),), (1,))
    return flat.view(torch.uint8).numpy().data


def _header(path: Path, entries: dict[str, Any], document: str) -> bytearray:
    about = {
        "sha256": _ZEROS.decode(),
        "format": str(FORMAT),
        "refold": _version(),
        "torch": str(torch.__version__),
        "document": document,
    }
    text = json.dumps({"__metadata__": about, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors start at a multiple of 8
    if len(text) > HEADER_LIMIT:
        fact = f"names and document have {len(text)} bytes, a file takes {HEADER_LIMIT}"
        raise CheckpointError(fact, "put long lists of numbers into tensors", str(path))
    return bytearray(len(text).to_bytes(8, "little") + text)


@cache
def _version() -> str:
    return version("refold")


def _digest(parts: Iterable[bytes | bytearray | memoryview]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()


def _replace(path: Path, parts: list[bytes | bytearray | memoryview]) -> None:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        with part.open("xb") as file:
            for each in parts:
                file.write(each)
            file.flush()
            os.fsync(file.fileno())  # before it gets its name: a name must not outlive its bytes
        os.replace(part, path)  # noqa: PTH105, tests stop it here
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            needed = sum(len(each) for each in parts)
            raise _unwritten(path, error, needed) from error
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name outlive a power cut, where the system can: both files are whole anyway."""
    if os.name == "nt":
        return  # it opens no folders
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _unwritten(path: Path, error: OSError, needed: int) -> CheckpointError:
    kept = "; what was there before is as it was"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path.parent).free
        fact = f"the disk is full: the checkpoint needs {needed} bytes, {free} are free"
        remedy = "free some, or name a folder on another disk"
    elif error.errno == errno.EFBIG:
        fact = f"the checkpoint has {needed} bytes, more than a file may have here"
        remedy = "raise the limit (ulimit -f), or name a folder on another disk"
    else:
        fact = f"the checkpoint cannot be written: {error.strerror or error}"
        remedy = "name a file in a folder that is there, and yours to write in"
    return CheckpointError(fact, remedy + kept, str(path))


# Reading


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the document of a checkpoint: exactly what was written.

    The file is compared with its checksum first. No more memory is taken than it has bytes, twice.
    The checksum finds accidents; it is no signature against someone who writes a file on purpose,
    and such a file can state other numbers, but nothing in it is run.

    Errors  Damaged, a CheckpointError, for a file that is cut, changed, or not a checkpoint (it
    says what instead); CheckpointError for one that is absent, unreadable, or of a newer format.
    """
    path = Path(path)
    try:
        data = _bytes_in(path)
    except OSError as error:
        raise _unread(path, error) from error
    if data[_DIGEST] != _digest_in(data):
        fact = f"the checkpoint is damaged: {difference(data)}"
        raise Damaged(fact, _RESTORE, str(path))
    return _contents(path, data)


def _bytes_in(path: Path) -> bytes:
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        what = "a folder" if stat.S_ISDIR(about.st_mode) else "not a regular file"
        raise CheckpointError(f"it is {what}", "name the file of a checkpoint", str(path))
    with path.open("rb") as file:
        # Before all is read: what else it is can be large.
        if file.read(_DIGEST.start)[8:] != _OPENING:
            raise Damaged(kind(file, about.st_size, _OPENING), _RESTORE, str(path))
        file.seek(0)
        return file.read()


def _digest_in(data: bytes) -> bytes:
    view = memoryview(data)
    return _digest([view[: _DIGEST.start], _ZEROS, view[_DIGEST.stop :]]).encode()


def _contents(path: Path, data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        _refuse_newer(path, about)
        return load(data), meant(about["document"])
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # whatever a file can contain that someone gave a right checksum
        fact = f"the checksum is right, but the content is not a checkpoint's: {error!r}"
        raise Damaged(
            fact, "write it with refold.train.checkpoints.file.write", str(path)
        ) from error


def _refuse_newer(path: Path, about: dict[str, str]) -> None:
    """The one place where versions are compared; a change of layout adds its translation here."""
    found = int(about["format"])
    if found > FORMAT:
        fact = (
            f"the checkpoint has format {found}, of refold {about['refold']}; "
            f"this is refold {_version()}, which reads formats up to {FORMAT}"
        )
        raise CheckpointError(fact, f"install refold {about['refold']} or later", str(path))


def _unread(path: Path, error: OSError) -> CheckpointError:
    told = error.strerror or str(error)
    if isinstance(error, FileNotFoundError):
        return CheckpointError("there is no such file", "look for a wrong path", str(path))
    if error.errno == errno.EIO:
        return Damaged(f"the disk cannot read the checkpoint: {told}", _RESTORE, str(path))
    remedy = "make it readable for this user, or name another"
    return CheckpointError(f"the checkpoint cannot be read: {told}", remedy, str(path))
