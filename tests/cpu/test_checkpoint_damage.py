"""Files that are no checkpoint, or no longer the one that was written: each is named, none is believed."""

import errno
import hashlib
import itertools
import json
import os
import pickle
import random
import re
import struct
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch.testing import assert_close

from refold.errors import CheckpointError
from refold.train.checkpoints import file as checkpoint
from refold.train.checkpoints.file import Damaged, read, write

DIGEST = checkpoint._DIGEST


def made(tmp_path: Path) -> Path:
    path = tmp_path / "run.safetensors"
    write(path, {"w": torch.arange(6.0), "n": torch.tensor(3)}, {"step": 3})
    return path


def signed(data: bytes) -> bytes:
    """The same bytes with the checksum that fits them: what only someone on purpose would make."""
    zeroed = data[: DIGEST.start] + b"0" * 64 + data[DIGEST.stop :]
    return (
        zeroed[: DIGEST.start] + hashlib.sha256(zeroed).hexdigest().encode() + zeroed[DIGEST.stop :]
    )


def remade(path: Path, change: Any) -> None:
    """Change the header of a checkpoint, and give it the right checksum again."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(signed(struct.pack("<Q", len(text)) + text + data[8 + length :]))


# Files that are none


def foreign() -> dict[str, tuple[bytes, str]]:
    tensors = {"w": torch.ones(3)}
    return {
        "empty": (b"", "the file is empty"),
        "zeros": (bytes(5000), "damaged: its first 4096 bytes are all 0"),
        "text": (b"unique_id,ds,y\n1,2,3\n", "a text file; it begins with 'unique_id,ds,y"),
        "letters": ("é".encode() * 5000, "a text file; it begins with 'éééé"),
        "json": (b'{"step": 3}', "a text file; it begins with"),
        "pickle": (pickle.dumps({"w": 1}), "a pickle; refold opens none"),
        "png": (b"\x89PNG\r\n\x1a\n" + bytes(range(100)), "a PNG picture"),
        "onnx": (b"\x08\x0a\x12\x07pytorch\x1a\x05" + bytes(range(100)), "an ONNX model"),
        "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(range(100)), "an HDF5 file"),
        "gzip": (b"\x1f\x8b\x08" + bytes(range(100)), "a gzip archive"),
        "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(range(100)), "a GGUF file"),
        "bytes": (b"\xfe\xed" + bytes(range(100)), "begins with the bytes fe ed 00 01 02 03 04 05"),
        "short": (b"\xfe", "not a checkpoint; it begins with the bytes fe"),
        "safetensors": (safetensors.torch.save(tensors), "refold did not write it"),
        "other's": (safetensors.torch.save(tensors, {"format": "pt"}), "refold did not write it"),
        "broken": (struct.pack("<Q", 9) + b'{"w":[1,2' + bytes(9), "with a damaged header"),
    }


@pytest.mark.parametrize("name", foreign())
def test_a_file_of_another_kind_is_named(name, tmp_path):
    content, text = foreign()[name]
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(Damaged, match=text) as caught:
        read(tmp_path / "a")
    assert caught.value.where == str(tmp_path / "a")
    assert caught.value.remedy == "name another checkpoint, or restore this file from a copy"


def test_a_model_of_onnx_is_named(tmp_path):
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([], "g", [value], [value])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "a"))
    with pytest.raises(Damaged, match="it is an ONNX model"):
        read(tmp_path / "a")


def test_a_file_of_torch_save_is_named_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "run",))

    torch.save({"w": torch.ones(3), "trap": Trap()}, tmp_path / "zip")
    (tmp_path / "pickle").write_bytes(pickle.dumps(Trap()))
    for name, text in (("zip", "a zip archive, as torch.save writes"), ("pickle", "a pickle")):
        with pytest.raises(Damaged, match=text):
            read(tmp_path / name)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_another_program_wrote_anew_is_refused(tmp_path):
    path = made(tmp_path)
    with safetensors.safe_open(path, "pt") as file:
        about = {"a first": "1", **file.metadata()}
    content = b""
    while not content or content[8 : 8 + 26] == b'{"__metadata__":{"sha256":':
        content = safetensors.torch.save(safetensors.torch.load_file(path), about)
    path.write_bytes(content)
    with pytest.raises(Damaged, match="a checkpoint that another program has written anew"):
        read(path)


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, text in (
        (tmp_path, "it is a folder"),
        (tmp_path / "pipe", "it is not a regular file"),
        (Path(os.devnull), "it is not a regular file"),
    ):
        with pytest.raises(CheckpointError, match=text + "\nname the file of a checkpoint"):
            read(path)


def test_an_absent_file(tmp_path):
    with pytest.raises(
        CheckpointError, match="there is no such file\nlook for a wrong path"
    ) as caught:
        read(tmp_path / "absent")
    assert not isinstance(caught.value, Damaged)


def test_a_disk_that_cannot_read(tmp_path, monkeypatch):
    path = made(tmp_path)

    def fail(*_: Any) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoint, "_bytes_in", fail)
    with pytest.raises(Damaged, match="the disk cannot read the checkpoint: Input/output error"):
        read(path)


# Damage


def test_damage_is_told_apart(tmp_path):
    path = made(tmp_path)
    good = path.read_bytes()
    size, length = len(good), int.from_bytes(good[:8], "little")
    weight = bytearray(good)
    weight[-1] ^= 1
    padding = good[: 8 + length - 1] + b"\t" + good[8 + length :]
    for bad, text in (
        (good[:20], "it is cut after 20 bytes"),
        (good[:200], f"it has 200 bytes, and its header alone would have {length}"),
        (good[:-1], f"it is cut after {size - 1} of {size} bytes"),
        (good + b"abc", f"it has {size + 3} bytes, and {size} were written"),
        (bytes(weight), "its bytes do not have the checksum"),
        (padding, "its bytes do not have the checksum"),
        (good.replace(b'"F32"', b'"F32}'), "its header is not what was written"),
    ):
        path.write_bytes(bad)
        with pytest.raises(Damaged, match="the checkpoint is damaged: " + text):
            read(path)


def flipped(data: bytearray, draw: random.Random) -> bytes:
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def cut(data: bytearray, draw: random.Random) -> bytes:
    return bytes(data[: draw.randrange(len(data))])


def extended(data: bytearray, draw: random.Random) -> bytes:
    place = draw.choice([0, len(data), draw.randrange(len(data))])
    return bytes(data[:place] + draw.randbytes(draw.randint(1, 64)) + data[place:])


def swapped(data: bytearray, draw: random.Random) -> bytes:
    size = draw.choice([16, 64, 512])
    a, b = draw.sample(range(len(data) // size), 2)
    one, two = slice(a * size, (a + 1) * size), slice(b * size, (b + 1) * size)
    data[one], data[two] = data[two], data[one]
    return bytes(data)


def zeroed(data: bytearray, draw: random.Random) -> bytes:
    start, size = draw.randrange(len(data)), draw.choice([1, 16, 512])
    data[start : start + size] = bytes(len(data[start : start + size]))
    return bytes(data)


def foreign_header(data: bytearray, draw: random.Random) -> bytes:
    other = safetensors.torch.save({"w": torch.ones(draw.randint(1, 99))}, {"format": "pt"})
    length = int.from_bytes(other[:8], "little")
    return other[: 8 + length] + bytes(data[8 + int.from_bytes(data[:8], "little") :])


def shortened(data: bytearray, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return bytes(data[:start] + data[start + draw.randint(1, 64) :])


WAYS = (flipped, cut, extended, swapped, zeroed, foreign_header, shortened)


def test_two_hundred_damaged_files_give_two_hundred_errors(tmp_path):
    torch.manual_seed(0)
    path, draw = tmp_path / "run.safetensors", random.Random(0)
    tensors = {"w": torch.randn(30, 40), "c": torch.randn(7).double(), "n": torch.arange(9)}
    write(path, tensors, {"step": 3, "losses": [0.1 * i for i in range(99)]})
    good, refused, ways = path.read_bytes(), 0, itertools.cycle(WAYS)
    while refused < 200:
        bad = next(ways)(bytearray(good), draw)
        if bad == good:  # a block of zeros that was zeroed
            continue
        path.write_bytes(bad)
        with pytest.raises(Damaged) as caught:
            read(path)
        assert caught.value.where and caught.value.fact and caught.value.remedy
        refused += 1
    path.write_bytes(good)
    assert_close(read(path)[0]["w"], tensors["w"], rtol=0, atol=0)


def test_every_single_byte_counts(tmp_path):
    path = tmp_path / "run.safetensors"
    write(path, {"w": torch.ones(3)}, {})
    good = path.read_bytes()
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 0x20  # the case of a letter, too
        path.write_bytes(bad)
        with pytest.raises(Damaged):
            read(path)


# Files that state a right checksum


def test_a_newer_format_is_not_called_damaged(tmp_path):
    path = made(tmp_path)

    def newer(header):
        header["__metadata__"] |= {
            "format": "2",
            "refold": "9.1",
            "document": "in another spelling",
        }

    remade(path, newer)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert not isinstance(caught.value, Damaged)
    assert re.search(
        r"format 2, of refold 9\.1; this is refold \S+, which reads formats up to 1\n"
        r"install refold 9\.1 or later",
        str(caught.value),
    )


LIES = {
    "no format": lambda h: h["__metadata__"].pop("format"),
    "no document": lambda h: h["__metadata__"].pop("document"),
    "format": lambda h: h["__metadata__"].update(format="one"),
    "document": lambda h: h["__metadata__"].update(document="[1]"),
    "no JSON": lambda h: h["__metadata__"].update(document="{"),
    "depth": lambda h: h["__metadata__"].update(document="[" * 100_000),
    "spelling": lambda h: h["__metadata__"].update(document='{"$": "code", "of": "exit()"}'),
    "key": lambda h: h["__metadata__"].update(document='{"$": "dict", "of": [[[], 1]]}'),
    "dtype": lambda h: h["w"].update(dtype="F999"),
    "shape": lambda h: h["w"].update(shape=[2**62]),
    "product": lambda h: h["w"].update(shape=[2**62, 2**62, 0]),
    "negative": lambda h: h["w"].update(shape=[-6]),
    "end": lambda h: h["w"].update(data_offsets=[8, 2**62]),
    "overlap": lambda h: h.update(v=h["w"]),
    "hole": lambda h: h.pop("w"),
    "kind": lambda h: h.update(w=[1, 2, 3]),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_made_on_purpose_is_refused_too(lie, tmp_path):
    path = made(tmp_path)
    remade(path, LIES[lie])
    with pytest.raises(Damaged, match="the checksum is right, but the content is not") as caught:
        read(path)
    assert caught.value.remedy == "write it with refold.train.checkpoints.file.write"


def test_a_header_that_lies_takes_no_memory(tmp_path):
    path = made(tmp_path)
    good = path.read_bytes()
    tracemalloc.start()
    try:
        for length in (2**40, 2**63, 2**64 - 1):
            for rest in (good[8:], b"{" + good[9:], b'{"w"' + good[8:]):
                path.write_bytes(struct.pack("<Q", length) + rest)
                with pytest.raises(Damaged):
                    read(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
