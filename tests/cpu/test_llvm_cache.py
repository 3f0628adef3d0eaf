"""The cache on disk: whole entries or none, whatever happens to its files, its folder and its writers."""

import ast
import ctypes
import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from refold.kernels.llvm.machine import cache
from refold.kernels.llvm.machine.cache import (
    FORMAT,
    LIMIT,
    PART,
    STALE,
    SUFFIX,
    Cache,
    distrust,
    name_of,
    open_cache,
    place,
)
from refold.kernels.llvm.machine.compile import compile_module
from refold.kernels.llvm.machine.host import host, kinds, machine

resource = pytest.importorskip("resource")  # POSIX: what it tests, other systems have not
DATA = bytes(range(256)) * 20
SPARE = 256  # bytes beside the data: more than the head of a file


@pytest.fixture
def disk(tmp_path) -> Cache:
    return Cache(tmp_path)


def names_in(disk: Cache) -> list[str]:
    assert disk.folder is not None
    return sorted(path.name for path in disk.folder.iterdir())


def test_what_is_stored_is_loaded(disk):
    assert disk.load("a") is None
    assert disk.store("a", DATA) == ""
    assert disk.store("b", b"") == ""
    assert disk.load("a") == DATA
    assert disk.load("b") == b""
    assert disk.store("a", DATA[::-1]) == ""
    assert disk.load("a") == DATA[::-1]
    assert names_in(disk) == ["a" + SUFFIX, "b" + SUFFIX]


def flip(whole: bytes, at: int) -> bytes:
    return whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]


DAMAGE = {
    "empty": lambda whole: b"",
    "one byte": lambda whole: whole[:1],
    "cut in the head": lambda whole: whole[: len(FORMAT) + 7],
    "cut after the head": lambda whole: whole[: len(FORMAT) + 32],
    "last byte gone": lambda whole: whole[:-1],
    "one byte more": lambda whole: whole + b"\0",
    "bit in the format": lambda whole: flip(whole, 3),
    "bit in the checksum": lambda whole: flip(whole, len(FORMAT) + 5),
    "first bit of the data": lambda whole: flip(whole, len(FORMAT) + 32),
    "last bit of the data": lambda whole: flip(whole, len(whole) - 1),
    "zeros, as after a power cut": lambda whole: bytes(len(whole)),
    "foreign": lambda whole: b"\x7fELF" + os.urandom(4000),
    "another format": lambda whole: whole.replace(b"code 1", b"code 0"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_entries_are_built_again(damage, monkeypatch, tmp_path):
    monkeypatch.setenv("REFOLD_CACHE", str(tmp_path))

    def value():
        text = "define i64 @f() { ret i64 42 }"
        library = compile_module(text, host())
        call = ctypes.CFUNCTYPE(ctypes.c_int64)(library.address("f"))
        return library.built, library.cached, call()

    assert value() == (True, True, 42)
    assert value() == (False, True, 42)
    (path,) = tmp_path.glob("*" + SUFFIX)
    path.write_bytes(damage(path.read_bytes()))
    assert value() == (True, True, 42)
    assert value() == (False, True, 42)


def test_an_entry_of_another_name_is_foreign(disk):
    disk.store("a", DATA)
    (disk.folder / ("a" + SUFFIX)).rename(disk.folder / ("b" + SUFFIX))
    assert disk.load("b") is None


def test_things_that_are_no_files(disk):
    for name, make in (("folder", os.mkdir), ("pipe", os.mkfifo)):
        make(disk.folder / (name + SUFFIX))
        assert disk.load(name) is None  # a pipe would be waited for
    assert disk.store("pipe", DATA) == ""
    assert disk.load("pipe") == DATA
    assert disk.store("folder", DATA) == f"{disk.folder} cannot be written: Is a directory"
    (disk.folder / ("loop" + SUFFIX)).symlink_to(disk.folder / ("loop" + SUFFIX))
    assert disk.load("loop") is None
    assert not list(disk.folder.glob(PART + "*"))


def test_a_giant_file_is_not_read(tmp_path):
    small = Cache(tmp_path, limit=10_000)
    with (tmp_path / ("a" + SUFFIX)).open("wb") as file:
        file.truncate(1 << 40)  # sparse: larger than memory
    assert small.load("a") is None
    assert small.store("a", DATA) == ""
    assert small.load("a") == DATA
    assert small.store("b", bytes(10_000)) == "the entry has 10000 bytes; the cache holds 10000"


def test_the_least_recently_used_go_first(tmp_path):
    disk = Cache(tmp_path, limit=4 * (len(DATA) + SPARE))
    past = time.time() - 1000
    for number in range(4):
        disk.store(f"{number}", DATA)
        os.utime(tmp_path / f"{number}{SUFFIX}", (past + number, past + number))
    assert disk.load("0") == DATA  # used: now the youngest
    disk.store("4", DATA)
    assert {n for n in range(5) if disk.load(str(n))} == {0, 2, 3, 4}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= disk.limit
    # what was stored this moment stays, even beside entries of a clock that runs ahead
    for path in tmp_path.iterdir():
        future = time.time() + 1000
        os.utime(path, (future, future))
    disk.store("5", DATA)
    assert disk.load("5") == DATA


def test_files_of_others_stay(tmp_path):
    (tmp_path / "notes.txt").write_bytes(bytes(50_000))
    disk = Cache(tmp_path, limit=2 * (len(DATA) + SPARE))
    for number in range(5):
        disk.store(f"{number}", DATA)
    assert (tmp_path / "notes.txt").exists()
    assert len(list(tmp_path.glob("*" + SUFFIX))) == 2


def test_unfinished_files_go_when_their_writer_must_be_gone(disk):
    for name, age in (("old", STALE + 60), ("new", 60)):
        path = disk.folder / (PART + name)
        path.write_bytes(DATA)
        then = time.time() - age
        os.utime(path, (then, then))
    disk.store("a", DATA)
    assert names_in(disk) == ["a" + SUFFIX, PART + "new"]


# Forks in a process of their own: this one has threads (pytest-xdist), which a fork warns of.
def in_a_process_of_its_own(script: str, *words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


FORKS = """
import os, random, signal, sys, time
def children(count, work):
    found = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(60)
                work(number)
                code = 0
            finally:
                os._exit(code)
        found.append(child)
    return found
def codes(found):
    return [os.waitpid(child, 0)[1] for child in found]
"""

EIGHT = (
    FORKS
    + """
import ctypes
from refold.kernels.llvm.machine.compile import compile_module
from refold.kernels.llvm.machine.host import host
gate, open_gate = os.pipe()
target = host()
def work(number):
    os.close(open_gate)
    os.read(gate, 1)  # all begin when the parent closes its end
    for n in range(20):
        functions = "\\n".join(
            f"define i64 @f{k}(i64 %x) {{ %y = mul i64 %x, {n + k}\\n ret i64 %y }}" for k in range(30)
        )
        library = compile_module(functions, target)
        assert library.cached, library.note
        for k in range(30):
            call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(library.address(f"f{k}"))
            assert call(7) == 7 * (n + k)
found = children(8, work)
os.close(open_gate)
assert codes(found) == [0] * 8
print(sorted(os.listdir(os.environ["REFOLD_CACHE"])))
"""
)


def test_eight_processes_build_the_same_entries_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("REFOLD_CACHE", str(tmp_path))
    left = ast.literal_eval(in_a_process_of_its_own(EIGHT).strip())
    assert len(left) == 20
    assert all(name.endswith(SUFFIX) for name in left)  # nobody left anything unfinished


KILLED = (
    FORKS
    + """
from pathlib import Path
from refold.kernels.llvm.machine.cache import Cache
folder = Path(sys.argv[1])
datas = [bytes([n]) * (200_000 + n) for n in range(16)]
names = [f"{n:02}" for n in range(16)]
disk = Cache(folder, limit=1 << 30)
def write(number):
    while True:
        n = random.randrange(16)
        assert disk.store(names[n], datas[n]) == ""
random.seed(0)
seen = 0
for name, data in zip(names, datas):
    assert disk.store(name, data) == ""
for _ in range(15):
    found = children(3, write)
    until = time.monotonic() + random.uniform(0.02, 0.1)
    while time.monotonic() < until:
        for name, data in zip(names, datas):
            assert disk.load(name) == data, name  # the old one until the new one is whole
            seen += 1
    for child in found:
        os.kill(child, signal.SIGKILL)
    assert codes(found) == [signal.SIGKILL] * 3
for name, data in zip(names, datas):
    assert disk.load(name) == data
print(seen, len(list(folder.glob("part-*"))))
"""
)


def test_killed_writers_leave_whole_entries(tmp_path):
    seen, left = map(int, in_a_process_of_its_own(KILLED, tmp_path).split())
    assert seen > 0
    print(
        f"\n{seen} whole entries read beside 45 writers that were killed; {left} unfinished files"
    )


CROWD = (
    FORKS
    + """
from pathlib import Path
from refold.kernels.llvm.machine.cache import Cache
disk = Cache(Path(sys.argv[1]), limit=20 * 10_000)
def write(number):
    for n in range(100):
        assert disk.store(f"{number}-{n}", bytes(9_000)) == ""
        disk.load(f"{(number + 1) % 4}-{n}")
assert codes(children(4, write)) == [0] * 4
assert disk.store("last", bytes(9_000)) == ""
assert disk.load("last") == bytes(9_000)
print(sum(path.stat().st_size for path in disk.folder.iterdir()))
"""
)


def test_the_bound_holds_for_a_crowd(tmp_path):
    total = int(in_a_process_of_its_own(CROWD, tmp_path))
    assert 100_000 < total <= 200_000


def test_a_disk_that_fills_up_while_an_entry_is_written(disk):
    disk.store("a", DATA)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # the rest of a write fails
    try:
        note = disk.store("b", DATA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert note == f"{disk.folder} cannot be written: {os.strerror(errno.EFBIG)}"
    assert names_in(disk) == ["a" + SUFFIX]  # and nothing unfinished
    assert disk.load("a") == DATA


def answer(text: str):
    library = compile_module(text, host())
    call = ctypes.CFUNCTYPE(ctypes.c_int64)(library.address("f"))
    assert call() == 42
    return library


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no folder closed even to root")
def test_a_folder_that_cannot_be_written(monkeypatch):
    monkeypatch.setenv("REFOLD_CACHE", f"/proc/{os.getpid()}")
    library = answer("define i64 @f() { ret i64 42 }")
    assert (library.built, library.cached) == (True, False)
    assert library.note.startswith(f"/proc/{os.getpid()} cannot be written: ")


def test_a_folder_that_cannot_be_made(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REFOLD_CACHE", str(tmp_path / "file" / "cache"))
    library = answer("define i64 @f() { ret i64 42 }")
    assert (library.built, library.cached) == (True, False)
    assert library.note.startswith("there is no folder for the cache: ")


def test_a_folder_that_goes_away(tmp_path):
    disk = Cache(tmp_path / "gone")
    assert disk.load("a") is None
    assert disk.store("a", DATA).startswith(f"{tmp_path / 'gone'} cannot be written: ")


def test_code_is_not_run_from_a_folder_that_others_write(monkeypatch, tmp_path):
    monkeypatch.setenv("REFOLD_CACHE", str(tmp_path))
    tmp_path.chmod(0o777)
    library = answer("define i64 @f() { ret i64 42 }")
    assert (library.cached, library.note) == (False, f"{tmp_path} can be written by every user")
    assert not list(tmp_path.iterdir())
    tmp_path.chmod(0o755)
    assert open_cache() == Cache(tmp_path, LIMIT)


def test_whose_folder_it_is():
    def owned(user, mode=0o700):
        return os.stat_result((stat.S_IFDIR | mode, 0, 0, 1, user, 0, 0, 0, 0, 0))

    me = os.geteuid()
    assert distrust(owned(me)) == ""
    assert distrust(owned(0)) == ""
    assert distrust(owned(me + 1)) == f"belongs to user {me + 1}, not to {me}"
    assert distrust(owned(me, 0o707)) == "can be written by every user"


def test_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("REFOLD_CACHE", "~/mine")
    assert place() == tmp_path / "mine"
    monkeypatch.setenv("REFOLD_CACHE", "")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert place() == tmp_path / "xdg" / "refold"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert place() == tmp_path / ".cache" / "refold"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert place() == tmp_path / "Library" / "Caches" / "refold"
    opened = open_cache()
    assert opened.folder is not None
    assert stat.S_IMODE(opened.folder.stat().st_mode) & 0o077 == 0


def test_a_user_without_a_home(monkeypatch):
    monkeypatch.setenv("REFOLD_CACHE", "~no-such-user-here/cache")
    opened = open_cache()
    assert opened.folder is None
    assert opened.reason.startswith("there is no folder for the cache: ")


def test_a_name_stands_for_everything_that_decides(monkeypatch):
    names = [name_of("key", host(vectors)) for vectors in kinds(machine())]
    names += [name_of("yek", host()), name_of("", host())]
    for number in range(len(cache.versions())):
        changed = list(cache.versions())
        changed[number] += "+"
        with monkeypatch.context() as patch:
            patch.setattr(cache, "versions", lambda changed=changed: tuple(changed))
            names.append(name_of("key", host()))
    assert len(set(names)) == len(names)
    assert name_of("key", host()) == names[0]


def test_the_compilers_own_files_are_part_of_its_version():
    listed = {name for name, _, _ in ast.literal_eval(cache.sources())}
    assert {"ir/ops.py", "plan/plan.py", "kernels/llvm/machine/cache.py"} <= listed


def test_nothing_is_unpickled():
    for path in Path(cache.__file__).parent.glob("*.py"):
        words = {
            node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)
        }
        text = path.read_text()
        assert not words & {"pickle", "marshal", "shelve", "eval", "exec"}, path
        assert "import pickle" not in text
        assert "import marshal" not in text
