"""The file of a checkpoint: exact both ways, and refused, with the reason, whenever it is not whole."""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.testing import assert_close

from refold.errors import CheckpointError
from refold.train.checkpoints import file as checkpoint
from refold.train.checkpoints.file import read, write

DTYPES = list(checkpoint._NAMES)


def numbers(dtype: torch.dtype, *shape: int) -> Tensor:
    """Random bytes as numbers: NaN with all their payloads, subnormals, both zeros."""
    size = math.prod(shape) * dtype.itemsize
    top = 2 if dtype == torch.bool else 256
    flat = torch.randint(0, top, (size,), dtype=torch.uint8)
    return flat.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)


def same_bits(found: Tensor, wanted: Tensor) -> None:
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    if wanted.numel():
        fresh = [
            torch.empty(each.shape, dtype=each.dtype).copy_(each.detach())
            for each in (found, wanted)
        ]
        flat = [each.reshape(-1).view(torch.uint8) for each in fresh]
        assert_close(*flat, rtol=0, atol=0)


def made(tmp_path: Path, **about: Any) -> Path:
    path = tmp_path / "run.safetensors"
    write(path, {"w": torch.arange(6.0), "n": torch.tensor(3)}, {"step": 3, **about})
    return path


# Both ways


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_comes_back_to_the_bit(dtype, tmp_path):
    torch.manual_seed(0)
    tensors = {str(shape): numbers(dtype, *shape) for shape in [(), (1,), (0,), (3, 0, 2), (5, 7)]}
    write(tmp_path / "a", tensors, {})
    found, document = read(tmp_path / "a")
    assert document == {} and found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        same_bits(found[name], tensor)


def test_dtypes_of_all_widths_stand_in_one_file(tmp_path):
    tensors = {f"{i}": numbers(dtype, 3) for i, dtype in enumerate(DTYPES)}
    write(tmp_path / "a", tensors, {})
    for name, tensor in read(tmp_path / "a")[0].items():
        same_bits(tensor, tensors[name])


def test_every_tensor_is_aligned_for_readers_that_map_the_file(tmp_path):
    write(tmp_path / "a", {f"{i}": numbers(dtype, 3) for i, dtype in enumerate(DTYPES)}, {})
    data = (tmp_path / "a").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for i, dtype in enumerate(DTYPES):
        assert (8 + length + header[f"{i}"]["data_offsets"][0]) % dtype.itemsize == 0


def test_views_are_written_as_what_they_show(tmp_path):
    base = torch.randn(4, 6)
    tensors = {
        "transposed": base.T,
        "every other": base[:, ::2],
        "one for all": base[:1].expand(3, 6),
        "same": base,
        "same again": base,
        "turned": torch.tensor([2j]).conj().imag,
        "one of many": base[:1, 3:4],
        "a part": base[1:3],
        "learnt": torch.nn.Parameter(base),
    }
    write(tmp_path / "a", tensors, {})
    found, _ = read(tmp_path / "a")
    for name, tensor in tensors.items():
        same_bits(found[name], tensor.resolve_neg())
    found["same"] += 1  # what is read is the reader's own
    same_bits(found["same again"], base)


DOCUMENT = {
    "none": None,
    "whole": [0, -1, 2**70, True],
    "real": [0.1, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3],
    "beyond": [math.inf, -math.inf],
    "text": ["", "Ωmega ✓", '\x00\n"\\', "\ud800"],
    "betas": (0.9, (0.999, [])),
    "state": {0: {"step": 1.0}, (1, "a"): 2, None: 3, 1.5: 4},
    "$": {"$": "float", "of": "nan"},
    "milestones": Counter({3: 1, 5: 2}),
}


def test_a_document_comes_back_with_its_kinds(tmp_path):
    write(tmp_path / "a", {}, DOCUMENT)
    _, found = read(tmp_path / "a")
    assert repr(found) == repr(DOCUMENT)  # which tells 1 from 1.0 and True, and 0.0 from -0.0
    assert isinstance(found["milestones"], Counter)


def test_nan_comes_back(tmp_path):
    write(tmp_path / "a", {}, {"loss": [math.nan]})
    assert math.isnan(read(tmp_path / "a")[1]["loss"][0])


def test_other_tools_read_it(tmp_path):
    path = made(tmp_path)
    found = safetensors.torch.load_file(path)
    same_bits(found["w"], torch.arange(6.0))
    with safetensors.safe_open(path, "pt") as file:
        about = file.metadata()
    assert about.keys() == {"sha256", "format", "refold", "torch", "document"}
    assert about["torch"] == torch.__version__ and about["format"] == "1"
    assert json.loads(about["document"]) == {"step": 3}


def test_the_same_content_is_the_same_bytes(tmp_path):
    tensors = {"b": torch.ones(3), "a": torch.ones(2, dtype=torch.int8)}
    write(tmp_path / "a", tensors, {"step": 1})
    write(tmp_path / "b", dict(reversed(tensors.items())), {"step": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_checksum_is_that_of_the_file_with_its_place_zeroed(tmp_path):
    data = made(tmp_path).read_bytes()
    place = data.index(b'"sha256":"') + len(b'"sha256":"')
    zeroed = data[:place] + b"0" * 64 + data[place + 64 :]
    assert data[place : place + 64].decode() == hashlib.sha256(zeroed).hexdigest()


# What cannot be written


class Odd:
    pass


UNWRITTEN = {
    "name": ({3: torch.ones(1)}, {}, "a tensor is named 3\nname it with text"),
    "surrogate": ({"\ud800": torch.ones(1)}, {}, r"a tensor is named '\\ud800'\nname it with text"),
    "taken": ({"__metadata__": torch.ones(1)}, {}, "__metadata__ is taken"),
    "list": ({"w": [1.0]}, {}, "w is a list, not a torch tensor"),
    "complex": ({"w": torch.ones(1) * 1j}, {}, "w is torch.complex64.*\n.*view_as_real"),
    "sparse": ({"w": torch.eye(2).to_sparse()}, {}, "w is torch.sparse_coo on cpu"),
    "meta": ({"w": torch.ones(2, device="meta")}, {}, "w is torch.strided on meta"),
    "no dict": ({}, [1], "the document is a list\ngive a dict"),
    "value": ({}, {"a": {"b": [1, Odd()]}}, r"document\['a'\]\['b'\]\[1\] is a Odd"),
    "key": ({}, {"a": {Odd: 1}}, r"a key of document\['a'\] is a type"),
    "tensor": ({}, {"a": torch.ones(1)}, r"document\['a'\] is a Tensor"),
    "digits": ({}, {"a": 10**5000}, "the document cannot be written as JSON: Exceeds"),
}


@pytest.mark.parametrize("name", UNWRITTEN)
def test_what_a_file_cannot_hold_is_refused(name, tmp_path):
    tensors, document, text = UNWRITTEN[name]
    with pytest.raises(CheckpointError, match=text) as caught:
        write(tmp_path / "a", tensors, document)
    assert caught.value.where == str(tmp_path / "a") and caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_a_document_within_itself_is_refused(tmp_path):
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(
        CheckpointError, match=r"the document cannot be written as JSON: .*recursion"
    ):
        write(tmp_path / "a", {}, {"a": endless})


def test_a_document_too_long_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "HEADER_LIMIT", 1000)
    with pytest.raises(CheckpointError, match=r"have \d+ bytes, a file takes 1000\nput long lists"):
        write(tmp_path / "a", {}, {"losses": [0.1] * 1000})


# A write that is stopped


def failing(monkeypatch, name: str, error: BaseException) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(os, name, fail)


STOPS = [
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ENOSPC, "No space left on device"),
    KeyboardInterrupt(),
    SystemExit(143),
    MemoryError(),
]


@pytest.mark.parametrize("error", STOPS, ids=repr)
@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_a_write_that_is_stopped_leaves_what_was_there(place, error, tmp_path, monkeypatch):
    path = made(tmp_path)
    before = path.read_bytes()
    failing(monkeypatch, place, error)
    kind = CheckpointError if isinstance(error, OSError) else type(error)
    with pytest.raises(kind):
        write(path, {"w": torch.zeros(100)}, {})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    read(path)


def test_a_full_disk_says_how_much_is_missing(tmp_path, monkeypatch):
    path = made(tmp_path)
    size = path.stat().st_size
    failing(monkeypatch, "fsync", OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(CheckpointError) as caught:
        made(tmp_path)
    free = shutil.disk_usage(tmp_path).free
    text = r"the disk is full: the checkpoint needs (\d+) bytes, (\d+) are free"
    needed, told = map(int, re.fullmatch(text, caught.value.fact).groups())  # type: ignore[union-attr]
    assert needed == size and told == pytest.approx(free, rel=0.1)
    assert caught.value.remedy.endswith("what was there before is as it was")


CHILD = """
import sys, torch
from refold.train.checkpoints.file import read, write
from refold.errors import CheckpointError
{before}
path = sys.argv[1] + "/run.safetensors"
write(path, {{"w": torch.ones(10)}}, {{"step": 1}})
try:
    write(path, {{"w": torch.ones(1_000_000)}}, {{"step": 2}})
except CheckpointError as error:
    print(error.fact)
    print(error.remedy)
import os
print(os.listdir(sys.argv[1]), read(path)[1])
"""


def child(before: str, *words: str | Path) -> list[str]:
    command = [*map(str, words[:-1]), sys.executable, "-c", CHILD.format(before=before), words[-1]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    if words[:-1] and done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()[-80:]}")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")
def test_a_file_too_large_for_its_limit(tmp_path):
    limit = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
"""
    fact, remedy, after = child(limit, tmp_path)
    assert re.fullmatch(r"the checkpoint has 40\d{5} bytes, more than a file may have here", fact)
    assert remedy.startswith("raise the limit (ulimit -f), or name a folder on another disk")
    assert after == "['run.safetensors'] {'step': 1}"


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no namespaces here")
def test_a_disk_that_is_full(tmp_path):
    mount = f'mount -t tmpfs -o size=1m none {tmp_path} && exec "$@"'
    words = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh")
    fact, remedy, after = child("", *words, tmp_path)
    told = re.fullmatch(r"the disk is full: the checkpoint needs (\d+) bytes, (\d+) are free", fact)
    assert told and int(told[1]) > 4_000_000 and 900_000 < int(told[2]) < 1 << 20
    assert remedy.startswith("free some, or name a folder on another disk")
    assert after == "['run.safetensors'] {'step': 1}"


def test_a_folder_that_is_not_there(tmp_path):
    text = "the checkpoint cannot be written: No such file or directory\nname a file in a folder"
    with pytest.raises(CheckpointError, match=text):
        write(tmp_path / "absent" / "a", {}, {})
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_the_file(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(CheckpointError, match="the checkpoint cannot be written: "):
        write(tmp_path / "a", {}, {})
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_system_that_cannot_sync_folders_still_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(OSError(errno.EINVAL, "")))
    write(tmp_path / "a", {}, {"step": 1})
    monkeypatch.undo()
    assert read(tmp_path / "a")[1] == {"step": 1}


@pytest.fixture
def strangers_folder():
    """A folder that this process may read and not write, though it be root."""
    folder = Path(tempfile.mkdtemp())
    made(folder)
    secret = folder / "secret.safetensors"
    secret.touch(mode=0o000)
    folder.chmod(0o555)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    folder.chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are other there")
def test_without_permission(strangers_folder):
    path = strangers_folder / "run.safetensors"
    assert read(path)[1] == {"step": 3}
    with pytest.raises(
        CheckpointError, match="the checkpoint cannot be written: Permission denied"
    ):
        write(path, {}, {})
    with pytest.raises(
        CheckpointError, match="cannot be read: Permission denied\nmake it readable"
    ):
        read(strangers_folder / "secret.safetensors")
