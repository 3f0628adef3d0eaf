"""The compiler for CPUs: any plan as machine code for the processor at hand. Data flows down this list.

    lowering    a plan as passes over memory
    emission    passes as LLVM IR; arithmetic: exp, tanh and all other functions on vectors
    machine     IR as code in memory: the processor, the build, the cache on disk, torch's threads
    running     code over batches: the backend itself, autograd, streaming steps, torch's operators

Whoever imports a file of this folder loads llvmlite, once and here: nothing outside imports it before a compiled kernel
is asked for.
"""

import os
import threading

from refold.collector import no_collection

# Around everything here that enters LLVM, which llvmlite keeps under a lock of its own: a fork waits until nobody is
# inside, so that the child finds both locks open.
LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release
    )

with no_collection():
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
