"""From IR to machine code: right, no wider than asked for, loaded from disk without IR, and refused with a reason."""

import ctypes
import ctypes.util
import gc
import json
import os
import re
import subprocess
import sys
import threading
import time
import weakref

import pytest
import torch
from llvmlite import ir

from refold.errors import KernelError
from refold.kernels.llvm import LOCK, llvm
from refold.kernels.llvm.machine.compile import assembly, compile_module
from refold.kernels.llvm.machine.host import Host, host, kinds, machine

FAULT = "This is a fault of the compiler, not of your equation: please report it with the equation."
KINDS = list(kinds(machine()))
ROWS = 20  # more accumulators than 16 registers hold: wide machines would name the upper ones


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("REFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REFOLD_VECTORS", raising=False)


def tile(lanes: int, name: str = "tile", rows: int = ROWS) -> str:
    """y[r] = sum over k of a[r, k] * w[k, :], the kernel's inner loop, over n > 0 values of k."""
    vector = f"<{lanes} x float>"
    phis = "\n".join(
        f"  %c{r} = phi {vector} [ zeroinitializer, %entry ], [ %d{r}, %loop ]" for r in range(rows)
    )
    body = "\n".join(
        f"""  %i{r} = add i64 %row, {r}
  %p{r} = getelementptr float, ptr %a, i64 %i{r}
  %s{r} = load float, ptr %p{r}
  %u{r} = insertelement {vector} poison, float %s{r}, i32 0
  %v{r} = shufflevector {vector} %u{r}, {vector} poison, <{lanes} x i32> zeroinitializer
  %m{r} = fmul contract {vector} %v{r}, %w.k
  %d{r} = fadd contract {vector} %c{r}, %m{r}"""
        for r in range(rows)
    )
    stores = "\n".join(
        f"""  %q{r} = getelementptr {vector}, ptr %y, i64 {r}
  store {vector} %d{r}, ptr %q{r}, align 4"""
        for r in range(rows)
    )
    return f"""
define void @{name}(ptr %a, ptr %w, ptr %y, i64 %n) {{
entry:
  br label %loop
loop:
  %k = phi i64 [ 0, %entry ], [ %k.next, %loop ]
{phis}
  %row = mul i64 %k, {rows}
  %w.at = getelementptr {vector}, ptr %w, i64 %k
  %w.k = load {vector}, ptr %w.at, align 4
{body}
  %k.next = add i64 %k, 1
  %more = icmp slt i64 %k.next, %n
  br i1 %more, label %loop, label %done
done:
{stores}
  ret void
}}
"""


TILE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
UNARY = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)


def plus(number: float, name: str = "plus") -> str:
    return (
        f"define double @{name}(double %x) {{\n %y = fadd double %x, {number}\n ret double %y\n}}\n"
    )


def run_tile(library, a, w):
    y = torch.full((ROWS, w.shape[1]), float("nan"))
    call = TILE(library.address("tile"))
    call(a.data_ptr(), w.data_ptr(), y.data_ptr(), len(a))
    return y


@pytest.mark.parametrize("vectors", KINDS)
def test_code_is_right_and_no_wider_than_asked_for(vectors):
    target = host(vectors)
    text = tile(16)  # as wide as any: narrower machines take it in parts
    library = compile_module(text, target)
    generator = torch.Generator().manual_seed(0)
    a, w = torch.randn(7, ROWS, generator=generator), torch.randn(7, 16, generator=generator)
    torch.testing.assert_close(run_tile(library, a, w), a.T @ w, rtol=1e-5, atol=1e-6)

    lines = assembly(text, target)
    words = set(re.findall(r"[\w.]+", lines))
    wider = {"avx512": (), "avx2": ("%zmm",), "sse": ("%zmm", "%ymm"), "neon": ()}[vectors]
    assert not [register for register in wider if register in lines]
    if vectors in ("avx2", "sse"):
        upper = {w for w in words if re.fullmatch(r"[xyz]mm(1[6-9]|2\d|3[01])|k[0-7]", w)}
        assert not upper
    if vectors == "avx512":
        assert words >= {f"zmm{n}" for n in range(ROWS)}  # every accumulator in a register
    fused = any(word.startswith(("vfmadd", "fmla")) for word in words)
    assert fused == target.has_fma
    if vectors == "sse":
        mnemonics = {line.split()[0] for line in lines.splitlines() if line.startswith("\t")}
        assert not {word for word in mnemonics if word.startswith("v")}
        assert "mulps" in words


def test_prefer_narrow_tuning_does_not_split_wide_vectors():
    # LLVM prefers 256 bits on several Intel processors with AVX-512; vectors written out must stay whole.
    if "avx512" not in KINDS:
        pytest.skip("no AVX-512 to emit for")
    triple = host("avx512").triple
    intel = Host(triple, "icelake-server", "+prefer-256-bit", "avx512", 512, 32, has_fma=True)
    lines = assembly(tile(16), intel)
    assert "%zmm" in lines
    assert "%ymm" not in lines


def test_neon_takes_wide_vectors_in_parts():
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    arm = Host("aarch64-unknown-linux-gnu", "neoverse-n1", "", "neon", 128, 32, has_fma=True)
    lines = assembly(tile(4), arm)
    assert len(re.findall(r"\tfmla\tv\d+\.4s", lines)) == ROWS
    assert len(re.findall(r"\tfmla\tv\d+\.4s", assembly(tile(16, rows=4), arm))) == 16


def test_no_vectors_and_no_unrolling_but_those_written():
    text = """
define void @double(ptr %x, i64 %n) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %j, %loop ]
  %p = getelementptr float, ptr %x, i64 %i
  %v = load float, ptr %p
  %w = fmul float %v, 3.0
  store float %w, ptr %p
  %j = add i64 %i, 1
  %more = icmp slt i64 %j, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""
    lines = assembly(text, host())
    products = re.findall(r"\t(v?mul[sp]s|fmul)\b.*", lines)
    assert len(products) == 1
    assert "mulps" not in lines


def test_tables_memory_functions_and_libm():
    # What the loader must relocate: a table under a running index, another table, a call, a libm function.
    numbers = ", ".join(f"double {n}.0" for n in range(100, 200))
    text = f"""
@table = private constant [100 x double] [{numbers}]
declare double @cbrt(double)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
define double @entry(i64 %i) {{
  %p = getelementptr [100 x double], ptr @table, i64 0, i64 %i
  %v = load double, ptr %p
  ret double %v
}}
define double @cube_root(double %x) {{
  %y = call double @cbrt(double %x)
  ret double %y
}}
define void @copy(ptr %to, ptr %from, i64 %bytes) {{
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 %bytes, i1 false)
  ret void
}}
"""
    # That the process sees libm is not said: Python may have its own copy, and torch's may be private.
    ctypes.CDLL(ctypes.util.find_library("m"), mode=ctypes.RTLD_GLOBAL)
    library = compile_module(text, host())
    assert set(library.functions) == {"entry", "cube_root", "copy"}
    entry = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int64)(library.address("entry"))
    assert [entry(i) for i in (0, 41, 99)] == [100.0, 141.0, 199.0]
    assert UNARY(library.address("cube_root"))(27.0) == pytest.approx(3.0, rel=1e-15)
    source, copied = torch.arange(1000), torch.zeros(1000, dtype=torch.int64)
    copy = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    copy(library.address("copy"))(copied.data_ptr(), source.data_ptr(), 8000)
    assert torch.equal(source, copied)


def test_modules_of_llvmlite_and_functions_that_make_them():
    def make():
        module = ir.Module("m")
        kind = ir.FunctionType(ir.DoubleType(), [ir.DoubleType()])
        function = ir.Function(module, kind, "half")
        builder = ir.IRBuilder(function.append_basic_block())
        builder.ret(builder.fmul(function.args[0], ir.Constant(ir.DoubleType(), 0.5)))
        return module

    for source in (make(), make):
        library = compile_module(source, host(), key=f"half {source}")
        assert UNARY(library.address("half"))(3.0) == 1.5


def test_a_key_stands_for_the_ir():
    calls = []

    def make():
        calls.append(gc.isenabled())
        return plus(1.0)

    first = compile_module(make, host(), key="plus one")
    assert (first.built, first.cached, first.note) == (True, True, "")
    assert compile_module(make, host(), key="plus one") is first  # in this process: shared
    gone = weakref.ref(first)
    del first
    assert gone() is None
    second = compile_module(make, host(), key="plus one")  # from disk
    assert (second.built, second.cached) == (False, True)
    assert UNARY(second.address("plus"))(1.0) == 2.0
    assert calls == [False]  # made once, and with the garbage collector held
    assert gc.isenabled()
    other = compile_module(make, host(KINDS[-1]), key="plus one")
    assert other.built == (len(KINDS) > 1)  # each target has code of its own


def test_code_stays_while_its_library_lives():
    libraries = [compile_module(plus(float(n)), host()) for n in range(20)]
    functions = [UNARY(library.address("plus")) for library in libraries]
    gc.collect()
    assert [function(0.5) for function in functions] == [n + 0.5 for n in range(20)]


def test_threads_build_at_once():
    found: dict[int, float] = {}
    faults = []

    def work(number):
        try:
            same = compile_module(plus(1.0), host())
            own = compile_module(plus(float(number)), host())
            found[number] = UNARY(same.address("plus"))(0.0) + UNARY(own.address("plus"))(0.0)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert found == {n: n + 1.0 for n in range(8)}
    assert gc.isenabled()


FRESH = """
import json, sys, time
import torch, refold
began = time.process_time()
from refold.kernels.llvm.machine.compile import compile_module
from refold.kernels.llvm.machine.host import host
imported = time.process_time()
def source():
    return open(sys.argv[1]).read()
library = compile_module(source, host(), key="kernels")
done = time.process_time()
print(json.dumps([library.built, len(library.functions), 1e3 * (imported - began), 1e3 * (done - imported)]))
"""


def test_a_fresh_process_loads_from_disk(tmp_path, record_property):
    # Forty tiles: as much machine code as the forward and backward steps of a cell with many gates.
    source = tmp_path / "kernels.ll"
    source.write_text("\n".join(tile(16, f"tile{n}", 4 + n % 8) for n in range(40)))

    def fresh(text=source):
        done = subprocess.run(
            [sys.executable, "-c", FRESH, str(text)], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    built, count, _, build = fresh()
    assert (built, count) == (True, 40)
    times = []
    for _ in range(3):
        built, count, modules, load = fresh(tmp_path / "absent")  # the IR is not even looked at
        assert (built, count) == (False, 40)
        times.append((modules + load, modules, load))
    total, modules, load = min(times)
    record_property("load", f"{modules:.1f} ms to import, {load:.1f} ms to load, {build:.0f} built")
    print(f"\nimport {modules:.1f} ms, load {load:.1f} ms; build {build:.0f} ms")
    # The figures on a quiet machine are 20 ms for all of it and 5 ms without llvmlite's own import.
    assert total < 60, times
    assert load < 15, times


FORKING = """
import ctypes, os, signal, sys, threading
import torch
from refold.kernels.llvm.machine.compile import compile_module
from refold.kernels.llvm.machine.host import host

def plus(n):
    text = f"define i64 @plus(i64 %x) {{ %y = add i64 %x, {n}\\n ret i64 %y }}"
    library = compile_module(text, host())
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(library.address("plus"))(1)

busy = True
def build():
    n = 1000
    while busy:
        n += 1
        assert plus(n) == n + 1
thread = threading.Thread(target=build)
thread.start()
children = []
for n in range(60):
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a lock left closed would wait for ever
        os._exit(0 if plus(n) == n + 1 else 1)
    children.append(child)
codes = [os.waitpid(child, 0)[1] for child in children]
busy = False
thread.join()
sys.exit(codes != [0] * 60)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_while_another_thread_builds():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_threads_share_free_and_load_again():
    # The last user of a library frees it while another thread asks for it.
    compile_module(plus(5.0), host())
    faults = []

    def work():
        try:
            for _ in range(150):
                library = compile_module(plus(5.0), host())
                assert UNARY(library.address("plus"))(1.0) == 6.0
                del library
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_freeing_waits_for_the_lock_that_a_fork_takes():
    library = compile_module(plus(6.0), host())
    held, gone = threading.Event(), threading.Event()
    seen = []

    def hold():
        with LOCK:
            held.set()
            time.sleep(0.2)
            seen.append(gone.is_set())

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    del library
    gone.set()
    other.join()
    assert seen == [False]


def refusal(call) -> str:
    with pytest.raises(KernelError) as caught:
        call()
    assert gc.isenabled()
    return str(caught.value)


def test_what_llvm_refuses():
    text = refusal(lambda: compile_module("define nonsense", host()))
    assert text.startswith("LLVM refuses the module: ")
    assert "expected type" in text
    assert text.endswith(FAULT)
    wrong = "define float @f(float %x) { \n %y = fadd float %x, %z\n ret float %y }"
    assert "use of undefined value '%z'" in refusal(lambda: compile_module(wrong, host()))
    late = """define i64 @f(i1 %c) {
entry:
  br i1 %c, label %a, label %b
a:
  %v = add i64 1, 2
  br label %b
b:
  ret i64 %v
}"""
    assert "does not dominate" in refusal(lambda: compile_module(late, host()))


def test_calls_that_lead_nowhere():
    text = """
declare void @no_such_function()
@no_such_value = external global i64
define i64 @f() {
  call void @no_such_function()
  %v = load i64, ptr @no_such_value
  ret i64 %v
}"""
    assert refusal(lambda: compile_module(text, host())) == (
        "the module calls no_such_function, no_such_value, which this process does not have.\n"
        + FAULT
    )


def test_a_library_from_disk_that_uses_what_another_process_had(monkeypatch):
    text = """
declare double @cbrt(double)
define double @f(double %x) {
  %y = call double @cbrt(double %x)
  ret double %y
}"""
    compile_module(text, host())
    gc.collect()
    monkeypatch.setattr(llvm, "address_of_symbol", lambda name: None)
    assert "the module calls cbrt, which" in refusal(lambda: compile_module(text, host()))


def test_a_module_without_functions():
    for text in ("", "define internal void @f() { ret void }"):
        assert refusal(lambda text=text: compile_module(text, host())) == (
            "the module defines no function that can be called.\n" + FAULT
        )


def test_an_address_of_nothing():
    library = compile_module(plus(1.0) + plus(2.0, "two"), host())
    # "malloc" is in the process, but not in the library
    assert refusal(lambda: library.address("malloc")) == (
        'the library has no function "malloc"; it has plus, two.\n' + FAULT
    )
