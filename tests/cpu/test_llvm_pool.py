"""Rows split among torch's own threads: the same split and the same bits every time, from anywhere, never a hang."""

import ctypes
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from refold.errors import KernelError
from refold.kernels.llvm import llvm
from refold.kernels.llvm.machine import pool
from refold.kernels.llvm.machine.compile import assembly, compile_module
from refold.kernels.llvm.machine.host import Host, host

pytestmark = pytest.mark.skipif(
    bool(pool.why_alone()), reason=f"one thread here: {pool.why_alone()}"
)

# Functions over rows, each with a context of its own:
#   mark     int64 *        every row gets the number of its piece's first row, plus 1000 times its calls
#   halve    float *        x[i] *= 0.5: shows how denormals are treated
#   sums     {float *, float *}   out[i] = sum over 64 columns of a row, in order
#   meet     {int64 here, int64 all, int64 met}   each call waits (not for ever) until `all` calls are inside
#   wait     int64 *        waits (not for ever) until the number is not 0; then 2 is written behind it
TEXT = """
define void @mark(ptr %x, i64 %begin, i64 %end) {
entry:
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %j, %loop ]
  %p = getelementptr i64, ptr %x, i64 %i
  %v = load i64, ptr %p
  %a = add i64 %v, 1000
  %w = add i64 %a, %begin
  store i64 %w, ptr %p
  %j = add i64 %i, 1
  %more = icmp slt i64 %j, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}
define void @halve(ptr %x, i64 %begin, i64 %end) {
entry:
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %j, %loop ]
  %p = getelementptr float, ptr %x, i64 %i
  %v = load float, ptr %p
  %w = fmul float %v, 0.5
  store float %w, ptr %p
  %j = add i64 %i, 1
  %more = icmp slt i64 %j, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}
define void @sums(ptr %context, i64 %begin, i64 %end) {
entry:
  %x = load ptr, ptr %context
  %y.at = getelementptr ptr, ptr %context, i64 1
  %y = load ptr, ptr %y.at
  br label %row
row:
  %i = phi i64 [ %begin, %entry ], [ %i.next, %stored ]
  %base = mul i64 %i, 64
  br label %column
column:
  %k = phi i64 [ 0, %row ], [ %k.next, %column ]
  %s = phi float [ 0.0, %row ], [ %t, %column ]
  %at = add i64 %base, %k
  %p = getelementptr float, ptr %x, i64 %at
  %v = load float, ptr %p
  %t = fadd float %s, %v
  %k.next = add i64 %k, 1
  %more = icmp slt i64 %k.next, 64
  br i1 %more, label %column, label %stored
stored:
  %q = getelementptr float, ptr %y, i64 %i
  store float %t, ptr %q
  %i.next = add i64 %i, 1
  %rows = icmp slt i64 %i.next, %end
  br i1 %rows, label %row, label %done
done:
  ret void
}
define void @meet(ptr %context, i64 %begin, i64 %end) {
entry:
  %all.at = getelementptr i64, ptr %context, i64 1
  %all = load i64, ptr %all.at
  %old = atomicrmw add ptr %context, i64 1 seq_cst
  br label %loop
loop:
  %n = phi i64 [ 0, %entry ], [ %m, %again ]
  %here = load atomic i64, ptr %context seq_cst, align 8
  %met = icmp sge i64 %here, %all
  br i1 %met, label %yes, label %again
again:
  %m = add i64 %n, 1
  %on = icmp slt i64 %m, 2000000000
  br i1 %on, label %loop, label %done
yes:
  %met.at = getelementptr i64, ptr %context, i64 2
  %count = atomicrmw add ptr %met.at, i64 1 seq_cst
  br label %done
done:
  ret void
}
define void @wait(ptr %flag, i64 %begin, i64 %end) {
entry:
  br label %loop
loop:
  %n = phi i64 [ 0, %entry ], [ %m, %again ]
  %now = load atomic i64, ptr %flag seq_cst, align 8
  %set = icmp ne i64 %now, 0
  br i1 %set, label %yes, label %again
again:
  %m = add i64 %n, 1
  %on = icmp slt i64 %m, 4000000000
  br i1 %on, label %loop, label %done
yes:
  %answer = getelementptr i64, ptr %flag, i64 1
  store i64 2, ptr %answer
  br label %done
done:
  ret void
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REFOLD_CACHE", str(tmp_path_factory.mktemp("cache")))
        return compile_module(TEXT, host())


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("REFOLD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def marks(library, begin: int, end: int, **settings) -> list[int]:
    x = torch.zeros(end + 3, dtype=torch.int64)
    pool.run(library.address("mark"), x.data_ptr(), begin, end, **settings)
    assert not x[:begin].any()  # nothing outside the range
    assert not x[end:].any()
    return x[begin:end].tolist()


def expected(begin: int, end: int, count: int) -> list[int]:
    """The rule in other words: as equal as can be, the longer runs first, every row once."""
    rows, found = end - begin, []
    for piece in range(count):
        length = rows // count + (piece < rows % count)
        found += [1000 + begin + len(found)] * length
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("begin", "end"), [(0, 1), (0, 2), (5, 8), (0, 7), (3, 31), (0, 1000)])
def test_the_split(library, threads, count, begin, end):
    threads(count)
    assert marks(library, begin, end) == expected(begin, end, min(count, end - begin))


def test_least_rows_for_a_thread(library, threads):
    threads(4)
    assert marks(library, 0, 11, least=3) == expected(0, 11, 3)
    assert marks(library, 0, 11, least=6) == expected(0, 11, 1)
    assert marks(library, 0, 11, least=100) == expected(0, 11, 1)
    assert marks(library, 0, 12, least=3) == expected(0, 12, 4)


def test_an_empty_range_calls_nothing(threads):
    for count in (1, 3):
        threads(count)
        pool.run(0, 0, 4, 4)  # the function at address 0 would end the process


def test_far_rows_do_not_overflow(library, threads):
    threads(3)
    far = (1 << 62) + 5
    x = torch.zeros(10, dtype=torch.int64)
    pool.run(library.address("mark"), x.data_ptr() - 8 * far, far, far + 10)
    assert x.tolist() == expected(far, far + 10, 3)


def test_results_do_not_depend_on_the_number_of_threads(library, threads):
    x = torch.randn(501, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for count in (1, 2, 3, 5, 8):
        threads(count)
        y = torch.full((501,), float("nan"))
        context = (ctypes.c_void_p * 2)(x.data_ptr(), y.data_ptr())
        for _ in range(20):
            pool.run(library.address("sums"), ctypes.addressof(context), 0, 501)
        found.append(y)
    torch.testing.assert_close(found[0], x.sum(1), rtol=1e-5, atol=1e-5)
    for y in found[1:]:
        assert torch.equal(y, found[0])


@pytest.mark.parametrize("count", [2, 3])
def test_threads_run_at_the_same_time(library, threads, count):
    threads(count)
    context = (ctypes.c_int64 * 3)(0, count, 0)
    pool.run(library.address("meet"), ctypes.addressof(context), 0, count)
    assert list(context) == [count, count, count]


UPWARD = {"x86_64": 0x800, "aarch64": 0x400000}  # FE_UPWARD of C


def test_every_thread_rounds_as_the_callers_does(library, threads):
    upward = UPWARD[host().triple.split("-")[0]]
    libm = ctypes.CDLL("libm.so.6")
    x = torch.rand(300, 64, generator=torch.Generator().manual_seed(0))
    large = torch.rand(300_000, generator=torch.Generator().manual_seed(0))

    def sums(count):
        threads(count)
        y = torch.full((300,), float("nan"))
        context = (ctypes.c_void_p * 2)(x.data_ptr(), y.data_ptr())
        pool.run(library.address("sums"), ctypes.addressof(context), 0, 300)
        return y

    nearest = sums(1)
    thirds = large / 3
    assert torch.equal(sums(3), nearest)  # the pool's threads are born
    libm.fesetround(upward)  # for this thread alone
    try:
        up, split = sums(1), sums(3)
    finally:
        libm.fesetround(0)
    assert (up > nearest).float().mean() > 0.5
    assert torch.equal(split, up)
    assert torch.equal(large / 3, thirds)  # torch's own work on the same threads is as before
    assert torch.equal(sums(3), nearest)


def test_denormals_stay_or_go_for_any_number_of_threads(library, threads):
    tiny = torch.full((64,), 2e-38)
    kept = tiny * 0.5
    assert kept.ne(0).all()

    def halved(count):
        threads(count)
        x = tiny.clone()
        pool.run(library.address("halve"), x.data_ptr(), 0, 64)
        return x

    assert torch.equal(halved(3), kept)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        assert not halved(1).any()
        assert not halved(3).any()
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(halved(3), kept)


def test_four_python_threads_at_once(library, threads):
    threads(3)
    faults = []
    gate = threading.Barrier(4)

    def work(number):
        try:
            torch.set_num_threads(3)
            gate.wait()
            for turn in range(100):
                end = 10 + number + turn
                assert marks(library, number, end) == expected(number, end, 3)
        except BaseException as fault:
            faults.append(fault)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not faults


@pytest.mark.parametrize("count", [1, 2])
def test_python_goes_on_meanwhile(library, threads, count):
    threads(count)
    flag = (ctypes.c_int64 * 2)(0, 0)

    def release():
        time.sleep(0.05)
        flag[0] = 1  # needs the interpreter's lock, while the main thread is inside the pool

    other = threading.Thread(target=release)
    other.start()
    began = time.perf_counter()
    pool.run(library.address("wait"), ctypes.addressof(flag), 0, 2)
    seconds = time.perf_counter() - began
    other.join()
    assert list(flag) == [1, 2], "the function gave up: the interpreter's lock was held"
    assert seconds < 2


def test_the_pool_is_torchs_own():
    libraries = {
        line.split(maxsplit=5)[5]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if re.search(r"/lib(gomp|iomp|omp)[^/]*$", line)
    }
    assert libraries == {pool.openmp().library}
    assert torch.backends.openmp.is_available()


def test_the_number_of_threads_is_torchs(threads):
    for count in (1, 2, 5):
        threads(count)
        assert pool.threads() == count


def test_calls_cost_little(library, threads):
    def cost(count):
        threads(count)
        x = torch.zeros(64, dtype=torch.int64)
        address, context = library.address("mark"), x.data_ptr()
        best = 1e9
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(1000):
                pool.run(address, context, 0, 2)
            best = min(best, time.perf_counter() - began)
        return 1e3 * best  # microseconds a call

    one, two = cost(1), cost(2)
    print(f"\n{one:.1f} us a call with one thread, {two:.1f} us with two")
    assert one < 10, one


FORK = """
import ctypes, os, signal, sys
import torch
torch.set_num_threads(2)
{before}
def run():
    from refold.kernels.llvm.machine import pool
    from refold.kernels.llvm.machine.compile import compile_module
    from refold.kernels.llvm.machine.host import host
    library = compile_module({text!r}, host())
    x = torch.zeros(9, dtype=torch.int64)
    pool.run(library.address("mark"), x.data_ptr(), 0, 9)
    return x.tolist(), pool.threads()
{early}
child = os.fork()
if child == 0:
    signal.alarm(20)
    torch.set_num_threads(2)
    found, threads = run()
    grandchild = os.fork()
    if grandchild == 0:
        signal.alarm(10)
        os._exit(0 if run() == ([1000] * 9, 1) else 1)
    ok = os.waitpid(grandchild, 0)[1] == 0 and (found, threads) == ([1000] * 9, 1)
    os._exit(0 if ok else 1)
code = os.waitpid(child, 0)[1]
signal.alarm(20)
found, threads = run()
print(code, threads, found == [1000] * 5 + [1005] * 4)
"""


@pytest.mark.parametrize("early", ["run()", ""], ids=["used before", "imported after"])
def test_a_forked_child_runs_alone_and_its_parent_goes_on(early):
    # Torch itself waits for ever in such a child: its pool's threads are not there.
    before = "torch.randn(1000, 1000).tanh().sum()"
    script = FORK.format(before=before, early=early, text=TEXT)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("0 2 True\n", "")


LIMITED = """
import torch
torch.set_num_threads(3)
from refold.kernels.llvm.machine import pool
from refold.kernels.llvm.machine.compile import compile_module
from refold.kernels.llvm.machine.host import host
library = compile_module({text!r}, host())
x = torch.zeros(9, dtype=torch.int64)
pool.run(library.address("mark"), x.data_ptr(), 0, 9)
print(pool.threads(), x.tolist())
"""


def test_every_row_is_done_when_openmp_gives_fewer_threads():
    done = subprocess.run(
        [sys.executable, "-c", LIMITED.format(text=TEXT)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_THREAD_LIMIT": "1"},
    )
    assert done.stdout == f"3 {expected(0, 9, 3)}\n"


def test_without_torchs_pool_one_thread_runs_and_says_why(library, threads, monkeypatch):
    threads(3)
    monkeypatch.setattr(sys, "platform", "darwin")
    bare = pool.openmp.__wrapped__()
    assert bare.reason == "torch's OpenMP pool is entered on Linux only, not on darwin"
    monkeypatch.setattr(pool, "openmp", lambda: bare)
    assert pool.why_alone() == bare.reason
    assert pool.threads() == 1
    assert marks(library, 0, 9) == expected(0, 9, 1)


def test_a_torch_without_openmp_says_so(monkeypatch):
    monkeypatch.setattr(pool, "SYMBOLS", ("no_such_entry",))
    assert pool.openmp.__wrapped__().reason == "torch was built without OpenMP"


@pytest.mark.parametrize(("begin", "end", "least"), [(3, 2, 1), (0, 5, 0)])
def test_ranges_that_cannot_be_split(begin, end, least):
    with pytest.raises(KernelError) as caught:
        pool.run(0, 0, begin, end, least=least)
    assert str(caught.value) == (
        f"rows {begin} to {end}, at least {least} for a thread, cannot be split.\n"
        "Give begin <= end and least >= 1."
    )


@pytest.mark.parametrize(
    ("triple", "get", "set_"),
    [
        ("x86_64-unknown-linux-gnu", "stmxcsr", "ldmxcsr"),
        ("aarch64-unknown-linux-gnu", ", FPCR", "FPCR, "),
    ],
)
def test_the_way_in_compiles_for_every_processor(triple, get, set_):
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = Host(triple, "", "", "", 128, 32, has_fma=True)
    lines = assembly(pool.split_ir(target), target)
    assert lines.count(get) == 2  # the caller's, and the thread's own
    assert lines.count(set_) == 2  # the caller's, and back
