"""Rows of a batch split among the threads that torch has already: its own OpenMP pool.

A second pool beside torch's waiting threads loses up to half the speed. The pool is entered through GOMP_parallel of
the very library that torch calls, so no other is loaded.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from ctypes import c_int64, c_void_p
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import torch

from refold.errors import KernelError

from .compile import Library, compile_module
from .host import Host, host

Rows = Callable[[int, int, int], None]


def run(function: int, context: int, begin: int, end: int, *, least: int = 1) -> None:
    """Call `void function(void *context, int64 begin, int64 end)` on the rows begin..end-1, split among threads.

    function  its address; it must not touch Python: the interpreter's lock is released meanwhile
    context   the address that it is given; the caller keeps alive what lies there
    least     rows that a thread is worth: fewer threads for short ranges

    The rows go to `threads()` threads in runs as equal as can be, the longer ones first: the same runs every time. The
    caller's thread takes the first; one thread is a plain call. Every thread rounds, and treats denormals, as the
    caller's does. Safe from several Python threads at once, and in a forked child.

    Errors  KernelError when end lies before begin, or least below 1
    """
    if end < begin or least < 1:
        raise KernelError(
            f"rows {begin} to {end}, at least {least} for a thread, cannot be split.",
            "Give begin <= end and least >= 1.",
        )
    rows = end - begin
    count = min(threads(), rows // least)
    if count > 1:
        way = entrance()
        way.start(way.table, function, context, begin, rows // count, rows % count, count)
    elif rows:
        plain(function)(context, begin, end)


def threads() -> int:
    """How many threads `run` splits a long range among: torch.get_num_threads(), or 1 where `why_alone()` says why."""
    return 1 if why_alone() else torch.get_num_threads()


def why_alone() -> str:
    """Why `run` stays on the caller's thread whatever torch.get_num_threads() is; nothing when it does not."""
    if os.getpid() != _HOME:
        return "a forked process has none of its parent's OpenMP threads, and would wait for them"
    return openmp().reason


# The loop over pieces, not one piece for each thread: OpenMP may give fewer threads than asked for (inside another
# parallel region, under OMP_THREAD_LIMIT). The run of each piece is the same whoever takes it.
IR = """
%job = type {{ ptr, ptr, i64, i64, i64, i32, i32, ptr }}
; function, context, begin, share, rest, pieces, mode, table
{declare}

define internal void @work(ptr %job) {{
entry:
  %old = alloca i32
  {save_old}
  %function.at = getelementptr %job, ptr %job, i32 0, i32 0
  %context.at = getelementptr %job, ptr %job, i32 0, i32 1
  %begin.at = getelementptr %job, ptr %job, i32 0, i32 2
  %share.at = getelementptr %job, ptr %job, i32 0, i32 3
  %rest.at = getelementptr %job, ptr %job, i32 0, i32 4
  %pieces.at = getelementptr %job, ptr %job, i32 0, i32 5
  %mode.at = getelementptr %job, ptr %job, i32 0, i32 6
  %table.at = getelementptr %job, ptr %job, i32 0, i32 7
  {set_mode}
  %function = load ptr, ptr %function.at
  %context = load ptr, ptr %context.at
  %begin = load i64, ptr %begin.at
  %share = load i64, ptr %share.at
  %rest = load i64, ptr %rest.at
  %pieces = load i32, ptr %pieces.at
  %table = load ptr, ptr %table.at
  %number.at = getelementptr ptr, ptr %table, i32 1
  %team.at = getelementptr ptr, ptr %table, i32 2
  %number.of = load ptr, ptr %number.at
  %team.of = load ptr, ptr %team.at
  %number = call i32 %number.of()
  %team = call i32 %team.of()
  br label %loop
loop:
  %piece = phi i32 [ %number, %entry ], [ %next, %body ]
  %more = icmp slt i32 %piece, %pieces
  br i1 %more, label %body, label %done
body:
  %wide = sext i32 %piece to i64
  %shares = mul i64 %wide, %share
  %longer = icmp slt i64 %wide, %rest
  %before = select i1 %longer, i64 %wide, i64 %rest
  %extra = zext i1 %longer to i64
  %skipped = add i64 %shares, %before
  %first = add i64 %begin, %skipped
  %length = add i64 %share, %extra
  %last = add i64 %first, %length
  call void %function(ptr %context, i64 %first, i64 %last)
  %next = add i32 %piece, %team
  br label %loop
done:
  {restore_old}
  ret void
}}

define void @start(ptr %table, ptr %function, ptr %context, i64 %begin, i64 %share, i64 %rest, i32 %pieces) {{
  %job = alloca %job
  %function.at = getelementptr %job, ptr %job, i32 0, i32 0
  store ptr %function, ptr %function.at
  %context.at = getelementptr %job, ptr %job, i32 0, i32 1
  store ptr %context, ptr %context.at
  %begin.at = getelementptr %job, ptr %job, i32 0, i32 2
  store i64 %begin, ptr %begin.at
  %share.at = getelementptr %job, ptr %job, i32 0, i32 3
  store i64 %share, ptr %share.at
  %rest.at = getelementptr %job, ptr %job, i32 0, i32 4
  store i64 %rest, ptr %rest.at
  %pieces.at = getelementptr %job, ptr %job, i32 0, i32 5
  store i32 %pieces, ptr %pieces.at
  %mode.at = getelementptr %job, ptr %job, i32 0, i32 6
  {save_mode}
  %table.at = getelementptr %job, ptr %job, i32 0, i32 7
  store ptr %table, ptr %table.at
  %parallel = load ptr, ptr %table
  call void %parallel(ptr @work, ptr %job, i32 %pieces, i32 0)
  ret void
}}
"""

# How a processor's rounding and denormal mode is read and set: a thread of the pool keeps the one it was born with.
X86_MODE = {
    "declare": "declare void @llvm.x86.sse.stmxcsr(ptr)\ndeclare void @llvm.x86.sse.ldmxcsr(ptr)",
    "save_mode": "call void @llvm.x86.sse.stmxcsr(ptr %mode.at)",
    "save_old": "call void @llvm.x86.sse.stmxcsr(ptr %old)",
    "set_mode": "call void @llvm.x86.sse.ldmxcsr(ptr %mode.at)",
    "restore_old": "call void @llvm.x86.sse.ldmxcsr(ptr %old)",
}
ARM_MODE = {
    "declare": "declare i64 @llvm.aarch64.get.fpcr()\ndeclare void @llvm.aarch64.set.fpcr(i64)",
    "save_mode": """%mode64 = call i64 @llvm.aarch64.get.fpcr()
  %mode = trunc i64 %mode64 to i32
  store i32 %mode, ptr %mode.at""",
    "save_old": "%old64 = call i64 @llvm.aarch64.get.fpcr()",
    "set_mode": """%mode = load i32, ptr %mode.at
  %mode64 = zext i32 %mode to i64
  call void @llvm.aarch64.set.fpcr(i64 %mode64)""",
    "restore_old": "call void @llvm.aarch64.set.fpcr(i64 %old64)",
}


def split_ir(target: Host) -> str:
    """The functions that split a range, as IR: there is no C compiler to ask."""
    return IR.format(**(X86_MODE if target.triple.startswith("x86_64") else ARM_MODE))


@dataclass(frozen=True, slots=True)
class OpenMP:
    """Torch's pool: its library, and the addresses of SYMBOLS; or why there is none."""

    library: str
    table: tuple[int, ...]
    reason: str = ""


SYMBOLS = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")


@cache
def openmp() -> OpenMP:
    """The OpenMP library that torch calls, found without loading one.

    Names are looked up as torch's own were bound: first among what the whole process sees, then among the libraries
    that torch was linked with.
    """
    if sys.platform != "linux":
        return OpenMP(
            "", (), f"torch's OpenMP pool is entered on Linux only, not on {sys.platform}"
        )
    for path in (None, torch._C.__file__):
        library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        if all(hasattr(library, name) for name in SYMBOLS):
            table = tuple(ctypes.cast(library[name], c_void_p).value or 0 for name in SYMBOLS)
            return OpenMP(file_of(table[0]), table)
    return OpenMP("", (), "torch was built without OpenMP")


def file_of(address: int) -> str:
    """The file that an address was loaded from."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, file = line.split(maxsplit=5)
        low, high = (int(part, 16) for part in span.split("-"))
        if low <= address < high:
            return file
    return ""


@dataclass(frozen=True, slots=True)
class Entered:
    """Everything that must stay alive while the pool can be entered."""

    library: Library
    table: "ctypes.Array[c_void_p]"
    start: Callable[..., None]


@cache
def entrance() -> Entered:
    """The compiled way into the pool, built once."""
    target = host()
    library = compile_module(split_ir(target), target)
    addresses = openmp().table
    table = (c_void_p * len(addresses))(*addresses)
    kind = ctypes.CFUNCTYPE(
        None, c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int64, ctypes.c_int32
    )
    return Entered(library, table, kind(library.address("start")))


ROWS = ctypes.CFUNCTYPE(None, c_void_p, c_int64, c_int64)


@lru_cache(maxsize=1024)
def plain(function: int) -> Rows:
    """A function at an address, as Python calls it: with the interpreter's lock released."""
    return ROWS(function)


def forked() -> bool:
    """Whether this process was forked and is still its parent's program.

    The threads of the parent's pool are gone here, and the pool does not know it. That `fork` came before this import
    can be learnt from the system only.
    """
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False  # no Linux, no GOMP_parallel
    return bool(int(fields[6]) & FORKED_WITHOUT_EXEC)


FORKED_WITHOUT_EXEC = 0x40  # PF_FORKNOEXEC of the kernel
_HOME = 0 if forked() else os.getpid()  # the process whose pool may be entered
