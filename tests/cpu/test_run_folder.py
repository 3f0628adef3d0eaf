"""The folder of a run: one run at a time, two checkpoints, and a resume from the newest good one."""

import errno
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from refold.errors import CheckpointError
from refold.train.checkpoints import folder as folders
from refold.train.checkpoints.file import Damaged
from refold.train.checkpoints.folder import (
    RunFolder,
    checkpoints,
    last,
    refuse_other_settings,
    run_folder,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="other signals and permissions there")


def save(folder: RunFolder, *steps: int) -> list[Path]:
    return [
        folder.save(step, {"w": torch.full((50,), float(step))}, {"at": step}) for step in steps
    ]


def run_of(path: Path, *steps: int) -> list[Path]:
    with run_folder(path, resume=False) as folder:
        return save(folder, *steps)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


# What is kept, and found again


def test_a_run_is_saved_and_resumed(tmp_path):
    path = tmp_path / "runs" / "a"
    run_of(path, 10, 20)
    with run_folder(path, resume=True) as folder:
        found = folder.last()
        assert (found.step, found.document, found.reason) == (20, {"at": 20}, "")
        assert found.path == path / "step-000000020.safetensors"
        assert_close(found.tensors["w"], torch.full((50,), 20.0), rtol=0, atol=0)
        save(folder, 30)
    assert last(path).step == 30


def test_the_newest_two_are_kept(tmp_path):
    run_of(tmp_path, 5, 999_999_999, 1_000_000_000, 7)
    names = ["step-1000000000.safetensors", "step-999999999.safetensors"]
    assert [path.name for path in checkpoints(tmp_path).values()] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", *names]


def test_a_step_that_is_saved_twice_is_replaced(tmp_path):
    with run_folder(tmp_path, resume=False) as folder:
        save(folder, 1, 2)
        folder.save(2, {}, {"at": "the end"})
    assert list(checkpoints(tmp_path)) == [2, 1]
    assert last(tmp_path).document == {"at": "the end"}


def test_other_files_are_left_alone(tmp_path):
    others = ["steps.jsonl", "step-1.txt", "step-x.safetensors", "step-2.safetensors.gz", ".x.part"]
    for name in others:
        (tmp_path / name).write_text("mine")
    run_of(tmp_path, 1, 2, 3)
    assert all((tmp_path / name).read_text() == "mine" for name in others)


def test_a_file_that_cannot_be_dropped_does_not_stop_the_run(tmp_path, monkeypatch):
    def fail(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with run_folder(tmp_path, resume=False) as folder:
        save(folder, 1, 2)
        monkeypatch.setattr(Path, "unlink", fail)
        save(folder, 3)
        monkeypatch.undo()
    assert list(checkpoints(tmp_path)) == [3, 2, 1]


# Damage


def test_a_damaged_checkpoint_is_passed_over_and_told(tmp_path):
    _, newest = run_of(tmp_path, 10, 20)
    damage(newest)
    with run_folder(tmp_path, resume=True) as folder:
        found = folder.last()
        assert (found.step, found.document) == (10, {"at": 10})
        assert found.reason == (
            "step-000000020.safetensors: the checkpoint is damaged: "
            "its bytes do not have the checksum that was written with them"
        )
        # Renamed: the next save keeps 10 beside 15, not what is damaged.
        assert list(checkpoints(tmp_path)) == [10]
        assert (tmp_path / "step-000000020.damaged").exists()
        save(folder, 15)
        assert list(checkpoints(tmp_path)) == [15, 10]
        save(folder, 20)
    assert (last(tmp_path).step, last(tmp_path).reason) == (20, "")


def test_to_look_changes_nothing(tmp_path):
    _, newest = run_of(tmp_path, 10, 20)
    damage(newest)
    before = sorted(tmp_path.iterdir())
    assert last(tmp_path).step == 10
    assert sorted(tmp_path.iterdir()) == before


def test_a_damaged_file_that_cannot_be_renamed_is_still_passed_over(tmp_path, monkeypatch):
    _, newest = run_of(tmp_path, 10, 20)
    damage(newest)

    def fail(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with run_folder(tmp_path, resume=True) as folder:
        monkeypatch.setattr(Path, "replace", fail)
        assert folder.last().step == 10


def test_two_damaged_checkpoints_are_both_named_and_kept(tmp_path):
    older, newest = run_of(tmp_path, 10, 20)
    damage(older)
    newest.write_bytes(b"")
    with (
        pytest.raises(CheckpointError) as caught,
        run_folder(tmp_path, resume=True) as folder,
    ):
        folder.last()
    assert str(caught.value) == (
        f"{tmp_path}\n"
        "no checkpoint here can be used: step-000000020.safetensors: the file is empty; "
        "step-000000010.safetensors: the checkpoint is damaged: "
        "its bytes do not have the checksum that was written with them\n"
        "restore one from a copy, or start a new run in another folder"
    )
    assert older.exists() and newest.exists()


def test_a_newer_checkpoint_that_is_not_damaged_is_not_passed_over(tmp_path, monkeypatch):
    run_of(tmp_path, 10)
    (tmp_path / "step-000000020.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"step-000000020\.safetensors\nit is a folder") as it:
        last(tmp_path)
    assert not isinstance(it.value, Damaged)


# Refused before anything is trained


def test_a_folder_with_a_run_is_not_begun_again(tmp_path):
    run_of(tmp_path, 10, 20)
    text = (
        "there is a run of 20 steps here\ngo on with resume=True .--resume., or name another folder"
    )
    with pytest.raises(CheckpointError, match=text), run_folder(tmp_path, resume=False):
        pass
    assert last(tmp_path).step == 20


def test_without_a_checkpoint_nothing_is_resumed_or_made(tmp_path):
    text = "there is no checkpoint here to resume from\npass resume=False to start a run here"
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match=text), run_folder(path, resume=True):
            pass
        with pytest.raises(CheckpointError, match=text):
            last(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_the_place_of_the_folder(below, tmp_path):
    (tmp_path / "a").write_text("mine")
    text = "a file is in the place of the folder, or of one above it\nname another folder"
    with (
        pytest.raises(CheckpointError, match=text),
        run_folder(tmp_path / "a" / below, resume=False),
    ):
        pass
    text = "the folder cannot be read: Not a directory\nname the folder of a run"
    with pytest.raises(CheckpointError, match=text):
        last(tmp_path / "a" / below)
    assert (tmp_path / "a").read_text() == "mine"


@pytest.fixture
def strangers_folder():
    """A folder with a run that this process may read and not write, though it be root."""
    folder = Path(tempfile.mkdtemp())
    run_of(folder, 10)
    (folder / folders.LOCK).chmod(0o666)
    folder.chmod(0o555)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    folder.chmod(0o700)
    shutil.rmtree(folder)


@posix
@pytest.mark.parametrize("below", ["", "new"])
def test_a_folder_that_cannot_be_written(below, strangers_folder):
    path = strangers_folder / below
    text = "nothing can be written here: Permission denied\nname a folder of your own"
    with pytest.raises(CheckpointError, match=text), run_folder(path, resume=not below):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def fail(handle: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folders, "_lock", fail)
    text = "files cannot be locked here: No locks available\nname a folder on a local disk"
    with pytest.raises(CheckpointError, match=text), run_folder(tmp_path, resume=False):
        pass


# One run at a time


def test_two_runs_in_one_process(tmp_path):
    text = (
        f"another run is at work here, in process {os.getpid()}\n"
        "wait for it, end it, or name another folder"
    )
    with run_folder(tmp_path, resume=False) as folder:
        for resume in (False, True):
            with pytest.raises(CheckpointError, match=text), run_folder(tmp_path, resume=resume):
                pass
            save(folder, 1)
    with run_folder(tmp_path, resume=True):
        pass


def test_an_error_lets_go_of_the_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), run_folder(tmp_path, resume=False):
        _ = 1 / 0
    with run_folder(tmp_path, resume=False):
        pass
    assert not folders._HELD


# The holder has a forked worker, which lives until its standard input ends.
HOLDER = """
import os, sys, torch
from refold.train.checkpoints.folder import run_folder
with run_folder(sys.argv[1], resume=False) as folder:
    folder.save(1, {"w": torch.ones(1)}, {})
    if os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""


@posix
def test_a_second_process_and_a_kill(tmp_path):
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        text = f"another run is at work here, in process {holder.pid}\n"
        for resume in (False, True):
            with pytest.raises(CheckpointError, match=text), run_folder(tmp_path, resume=resume):
                pass
        holder.kill()
        assert holder.wait() == -signal.SIGKILL
        with run_folder(tmp_path, resume=True) as folder:  # though the worker is still alive
            assert folder.last().step == 1
        assert (tmp_path / folders.LOCK).read_text() == f"{os.getpid()}\n"


# Killed within the third save: when its file is on the disk and has no name yet.
KILLED = """
import os, signal, sys, torch
from refold.train.checkpoints.folder import run_folder
rename, calls = os.replace, []
def replace(*paths):
    calls.append(paths)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*paths)
os.replace = replace
with run_folder(sys.argv[1], resume=False) as folder:
    for step in (1, 2, 3):
        folder.save(step, {"w": torch.full((50,), float(step))}, {"at": step})
"""


@posix
def test_a_kill_in_the_middle_of_a_save(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    stale = [path for path in tmp_path.iterdir() if path.name.endswith(".part")]
    assert len(stale) == 1 and stale[0].stat().st_size > 200
    with run_folder(tmp_path, resume=True) as folder:
        assert not stale[0].exists()
        assert (folder.last().step, folder.last().reason) == (2, "")
        save(folder, 3)
    assert list(checkpoints(tmp_path)) == [3, 2]


# Settings


def test_the_same_settings_are_accepted():
    settings = {"rate": 1, "clip": math.nan, "betas": (0.9, 0.999), "log": None}
    refuse_other_settings(settings, {**settings, "rate": 1.0, "clip": float("nan")}, "a")


@pytest.mark.parametrize(
    ("new", "fact"),
    [
        ({"rate": 0.01, "loss": "huber"}, "rate was 0.1, now it is 0.01"),
        (
            {"rate": 0.01, "loss": "a"},
            "rate was 0.1, now it is 0.01; loss was 'huber', now it is 'a'",
        ),
        ({"rate": 0.1}, "loss was 'huber', now it is absent"),
        ({"rate": 0.1, "loss": "huber", "clip": None}, "clip was absent, now it is None"),
    ],
)
def test_other_settings_are_named_with_both_values(new, fact):
    remedy = "resume with the settings of the run, or start a new run in another folder"
    with pytest.raises(CheckpointError, match="^" + re.escape(f"runs/a\n{fact}\n{remedy}") + "$"):
        refuse_other_settings({"rate": 0.1, "loss": "huber"}, new, "runs/a")
