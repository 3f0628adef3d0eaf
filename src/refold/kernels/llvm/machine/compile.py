"""LLVM IR to machine code that can be called, built at most once a machine."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from refold.collector import no_collection
from refold.errors import KernelError
from refold.kernels.llvm import LOCK, llvm

from . import cache
from .host import Host

if TYPE_CHECKING:
    from llvmlite import ir

    Text = str | ir.Module
    Source = Text | Callable[[], Text]

FAULT = "This is a fault of the compiler, not of your equation: please report it with the equation."


class Loaded:
    """Code in memory, until nobody needs it. No weak reference leads here: what is being freed cannot come back."""

    __slots__ = ("engine",)

    def __init__(self, engine: llvm.ExecutionEngine):
        self.engine = engine

    def __del__(self, leaving: Callable[[], bool] = sys.is_finalizing) -> None:
        # The name `sys` may be gone by the time the interpreter leaves; a default value is not.
        if not leaving():
            with LOCK:  # freeing memory enters LLVM too
                self.engine.close()


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Library:
    """Machine code in memory: it stays there as long as this object lives."""

    functions: Mapping[str, int]  # name -> address
    built: bool  # False: read from the cache
    cached: bool  # the next process will find it on disk
    note: str  # why it is not cached, when it is not
    code: Loaded

    def address(self, name: str) -> int:
        """Where a function lies in memory.

        Errors  KernelError when the library has no function of that name
        """
        if name not in self.functions:
            raise KernelError(
                f'the library has no function "{name}"; it has {", ".join(self.functions)}.', FAULT
            )
        return self.functions[name]


# Two layers of one plan share their code.
_LIVE: "WeakValueDictionary[str, Library]" = WeakValueDictionary()


def compile_module(source: "Source", host: Host, key: str | None = None) -> Library:
    """Machine code for a module of LLVM IR, from the cache on disk when it was built before.

    source  the IR, or a function that makes it, which is called only when the code must be built
    host    what to build for: `host()`
    key     all that the IR depends on besides the versions of refold and llvmlite; without it, the text of the IR

    Errors  KernelError when LLVM refuses the IR, or when it calls what is not there
    Example compile_module(ir, host()).address("forward")
    """
    with LOCK, no_collection():
        if key is None:
            source = key = text_of(source)
        name = cache.name_of(key, host)
        library = _LIVE.get(name)
        if library is None:
            library = _LIVE[name] = obtain(source, host, name)
        return library


def obtain(source: "Source", host: Host, name: str) -> Library:
    """Read the code from disk, or build it and leave it there."""
    disk = cache.open_cache()
    entry = disk.load(name)
    built = entry is None
    note = ""
    if entry is None:
        entry = build(text_of(source), host)
        note = disk.store(name, entry)
    code, functions = link(entry, host)
    return Library(functions, built, not note, note, code)


def text_of(source: "Source") -> str:
    """The IR as text."""
    return str(source() if callable(source) else source)


def build(text: str, host: Host) -> bytes:
    """One entry of the cache: what can be called, what is called outside, and the object file."""
    with optimised(text, host) as (module, target):
        names = [f.name for f in module.functions if is_public(f)]
        if not names:
            raise KernelError("the module defines no function that can be called.", FAULT)
        head = json.dumps([names, outside(module)])
        return head.encode("ascii") + b"\n" + target.emit_object(module)


def assembly(source: "Source", host: Host) -> str:
    """The machine code as text, to be read."""
    with LOCK, no_collection(), optimised(text_of(source), host) as (module, target):
        return target.emit_assembly(module)


@contextmanager
def optimised(text: str, host: Host) -> Iterator[tuple[llvm.ModuleRef, llvm.TargetMachine]]:
    """The IR read, checked and optimised, and the code generator for it.

    All is closed by hand, the module before the context that it lives in: an error's traceback, freed by the garbage
    collector in any order, would free memory twice.
    """
    with (
        target_machine(host) as target,
        llvm.create_context() as context,
        parsed(text, context) as module,
    ):
        module.triple = host.triple
        module.data_layout = str(target.target_data)
        optimise(module, target)
        check_calls(outside(module))
        yield module, target


@contextmanager
def parsed(text: str, context: llvm.ContextRef) -> Iterator[llvm.ModuleRef]:
    """The IR read and checked."""
    with refused():
        module = llvm.parse_assembly(text, context)
    with module:
        with refused():
            module.verify()
        yield module


@contextmanager
def refused() -> Iterator[None]:
    """LLVM's own complaint, as an error of refold's."""
    try:
        yield
    except RuntimeError as fault:
        raise KernelError(f"LLVM refuses the module: {str(fault).strip()}", FAULT) from fault


def optimise(module: llvm.ModuleRef, target: llvm.TargetMachine) -> None:
    """Run the passes of LLVM that the emitter counts on: a tenth of the time that all of them take.

    No pass that reorders sums: of two products added, the first is fused with the addition, and which one that is must
    not depend on the code around.
    """
    options = llvm.create_pipeline_tuning_options()
    with (
        llvm.create_pass_builder(target, options) as builder,
        llvm.create_new_module_pass_manager() as passes,
    ):
        passes.add_always_inliner_pass()
        passes.add_sroa_pass()
        passes.add_simplify_cfg_pass()
        passes.add_instruction_combine_pass()
        passes.run(module, builder)


def target_machine(host: Host) -> llvm.TargetMachine:
    """LLVM's code generator for a host.

    Relocations go by the place of the code itself (pic): the loader may put it anywhere in memory, and tables with it.
    """
    target = llvm.Target.from_triple(host.triple)
    return target.create_target_machine(
        cpu=host.cpu, features=host.features, opt=2, reloc="pic", codemodel="small"
    )


def outside(module: llvm.ModuleRef) -> list[str]:
    """What the module uses and does not define."""
    used = (*module.functions, *module.global_variables)
    return [v.name for v in used if v.is_declaration and not v.name.startswith("llvm.")]


def check_calls(names: list[str]) -> None:
    """What the module uses must be in this process: the loader would end the process otherwise."""
    missing = [name for name in names if not llvm.address_of_symbol(name)]
    if missing:
        raise KernelError(
            f"the module calls {', '.join(missing)}, which this process does not have.", FAULT
        )


def is_public(function: llvm.ValueRef) -> bool:
    """Whether a function is defined here and seen from outside."""
    return not function.is_declaration and function.linkage == llvm.Linkage.external


def link(entry: bytes, host: Host) -> tuple[Loaded, dict[str, int]]:
    """Put an entry's code into memory, ready to run."""
    head, _, code = entry.partition(b"\n")
    names, used = json.loads(head)
    check_calls(used)
    # An engine must be given a module. It is empty, and taken away again before it costs a run of the code generator.
    with llvm.parse_assembly("") as module:
        engine = llvm.create_mcjit_compiler(module, target_machine(host))
        engine.remove_module(module)
    with llvm.ObjectFileRef.from_data(code) as file:
        engine.add_object_file(file)
    engine.finalize_object()
    return Loaded(engine), {name: engine.get_function_address(name) for name in names}
