"""What a compiler for CPUs stands on; the emitter of plans is still to come, and no layer uses this folder yet.

    host      what this machine's processor has, or a narrower one that is forced
    compile   IR to machine code in memory; cache: the same from disk
    pool      rows of a batch split among torch's own threads
    vmath     exp, tanh and all other elementwise ops as IR, on lanes; with polynomials and turns

Whoever imports a file of this folder loads llvmlite, once and here: nothing outside imports it before a compiled kernel
is asked for.
"""

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Around everything here that enters LLVM, which llvmlite keeps under a lock of its own: a fork waits until nobody is
# inside, so that the child finds both locks open.
LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release
    )


@contextmanager
def no_collection() -> Iterator[None]:
    """Hold Python's garbage collector: beside the heap of torch, a run of it costs as much as a build."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


with no_collection():
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
