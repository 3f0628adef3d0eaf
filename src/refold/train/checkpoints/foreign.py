"""What a file is that is no checkpoint, and how a damaged one differs from what was written.

Only for the text of an error: nothing here decides whether a file is good.
"""

from __future__ import annotations

import codecs
import json
from typing import BinaryIO

HEADER_LIMIT = 100_000_000  # bytes: that of the safetensors format

# How other files begin that are taken for a checkpoint.
_KINDS = (
    (b"PK\x03\x04", "a zip archive, as torch.save writes; refold opens no pickle"),
    (b"\x80", "a pickle; refold opens none, for opening one can run any code"),
    (b"\x89PNG", "a PNG picture"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"GGUF", "a GGUF file"),
)


def kind(file: BinaryIO, size: int, opening: bytes) -> str:
    """What a file of `size` bytes is that does not begin with 8 bytes and `opening`."""
    file.seek(0)
    start = file.read(4096)
    if not start:
        return "the file is empty"
    if not any(start):
        return f"the checkpoint is damaged: its first {len(start)} bytes are all 0"
    if 8 < size < 8 + len(opening) and opening.startswith(start[8:]):
        return f"the checkpoint is damaged: it is cut after {size} bytes"
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and length <= min(size - 8, HEADER_LIMIT):
        file.seek(8)
        return "it is " + _safetensors_kind(file.read(length))
    return "it is " + _other_kind(start)


def _safetensors_kind(header: bytes) -> str:
    try:
        about = json.loads(header).get("__metadata__", {})
    except (ValueError, AttributeError, RecursionError):
        return "a checkpoint or another safetensors file, with a damaged header"
    if isinstance(about, dict) and "refold" in about:
        return "a checkpoint that another program has written anew"
    return "a safetensors file, but refold did not write it: it has no checksum and no document"


def _other_kind(start: bytes) -> str:
    for opening, name in _KINDS:
        if start.startswith(opening):
            return name
    if start[:1] == b"\x08" and start[2:3] in (b"\x12", b"\x3a", b"\x42"):
        return "an ONNX model"  # it has no mark of its own: its first fields have to do
    if _is_text(start):
        return f"a text file; it begins with {start[:40].decode(errors='replace')!r}"
    return f"not a checkpoint; it begins with the bytes {start[:8].hex(' ')}"


def _is_text(start: bytes) -> bool:
    try:  # incremental: the last letter may be cut
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\t\n\r\f" for letter in text)


def difference(data: bytes) -> str:
    """How damaged bytes differ from what was written, as far as they still tell."""
    length = int.from_bytes(data[:8], "little")
    if 8 + length > len(data):
        return f"it has {len(data)} bytes, and its header alone would have {length}"
    try:
        header = json.loads(data[8 : 8 + length])
        ends = [about["data_offsets"][1] for name, about in header.items() if name[:2] != "__"]
        whole = 8 + length + max(ends, default=0)
        missing = int(whole) - len(data)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
        return "its header is not what was written"
    if missing > 0:
        return f"it is cut after {len(data)} of {whole} bytes"
    if missing < 0:
        return f"it has {len(data)} bytes, and {whole} were written"
    return "its bytes do not have the checksum that was written with them"
