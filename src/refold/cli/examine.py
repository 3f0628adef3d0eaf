"""What `refold doctor` finds out: the machine as the compiler sees it, each cell's backend, a run beside the reference.

This file loads torch and the compiler; `doctor` imports it when it is called.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import torch
from torch import Tensor

from refold import cells
from refold.errors import RefoldError
from refold.kernels.llvm.machine import cache, pool
from refold.kernels.llvm.machine.host import host, kinds, machine
from refold.nn.layer import Recurrent
from refold.plan.cost import letters

TIMES, FLOOR = (
    4.0,
    2e-8,
)  # how far from float64 a float32 backend may be, in errors of the reference
STEPS, LENGTHS, INPUTS, HIDDEN = 9, [9, 4, 1, 7, 9], 3, 11  # rows of all kinds, no full vector


@dataclass(frozen=True, slots=True)
class Finding:
    """A fact about this machine: what is told, the same as data, and what to do where something is missing."""

    name: str
    told: str
    value: object
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The backend that a cell of the zoo gets here, and why; no backend where the layer cannot be built."""

    cell: str
    backend: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Check:
    """A small compiled cell beside the reference in float64.

    passed  None when nothing compiled could be run
    errors  root mean square relative to the values' own, of outputs and gradients
    limits  what each may be: four times the error of the reference in float32
    """

    passed: bool | None
    note: str
    errors: dict[str, float] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Examination:
    """Everything that was found."""

    machine: tuple[Finding, ...]
    cells: tuple[Chosen, ...]
    check: Check


def examine() -> Examination:
    """Look at this machine and run the check."""
    return Examination(tuple(findings()), tuple(map(choose, cells.all())), check())


def findings() -> Iterator[Finding]:
    """The machine, line by line."""
    numbers = {name: version(name) for name in ("refold", "torch", "llvmlite")}
    numbers["python"] = python_version()
    yield Finding("versions", ", ".join(f"{k} {v}" for k, v in numbers.items()), numbers)
    found = machine()
    yield Finding("processor", f"{found.cpu}, {found.triple.split('-')[0]}", found.cpu)
    yield vectors()
    yield threads()
    yield folder()
    yield gpu()


def vectors() -> Finding:
    """The vectors that code is built for."""
    try:
        target, widest = host(), next(iter(kinds(machine())))
    except RefoldError as error:
        return Finding("vectors", _fact(error), None, error.remedy)
    value = {
        "name": target.vectors,
        "bits": target.vector_bits,
        "registers": target.vector_registers,
        "fused multiply-add": target.has_fma,
    }
    told = f"{target.vectors}: {target.vector_bits} bits, {target.vector_registers} registers"
    if target.vectors == widest:
        return Finding("vectors", told, value)
    remedy = f"Unset REFOLD_VECTORS: this processor has {widest}."
    return Finding("vectors", f"{told}, as REFOLD_VECTORS asks", value, remedy)


def threads() -> Finding:
    """Who runs a batch, and on how many threads."""
    count, alone = pool.threads(), pool.why_alone()
    library = pool.openmp().library
    value = {"count": count, "cores": os.cpu_count(), "pool": library or None, "alone": alone}
    if alone:
        remedy = "Batches run on one thread; run several processes to use more cores."
        return Finding("threads", f"1: {alone}", value, remedy)
    told = f"{count} of {os.cpu_count()} cores, from torch's OpenMP pool ({library})"
    return Finding("threads", told, value)


def folder() -> Finding:
    """Where compiled code is kept, and how much of it."""
    disk = cache.open_cache()
    reason = disk.reason or (_unwritable(disk.folder) if disk.folder else "")
    if disk.folder is None or reason:
        remedy = "Set REFOLD_CACHE to a folder of your own; until then every process builds anew."
        return Finding("cache", reason, {"folder": None, "reason": reason}, remedy)
    sizes = [p.stat().st_size for p in disk.folder.glob(f"*{cache.SUFFIX}")]
    value = {"folder": str(disk.folder), "entries": len(sizes), "bytes": sum(sizes)}
    told = (
        f"{disk.folder}: {len(sizes)} entries, {sum(sizes) / 1e6:.1f} of {disk.limit / 1e6:.0f} MB"
    )
    return Finding("cache", told, value)


def _unwritable(folder: Path) -> str:
    """Why nothing can be written into a folder; nothing when it can."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as fault:
        return f"{folder} cannot be written: {fault.strerror or fault}"


def gpu() -> Finding:
    """Graphics processors that torch sees."""
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("gpu", ", ".join(names) or "none that torch can use", names)


def choose(name: str) -> Chosen:
    """The backend of a cell of the zoo."""
    try:
        kernel = layer(name).kernel
    except RefoldError as error:
        return Chosen(name, None, " ".join(filter(None, (_fact(error), error.remedy))))
    return Chosen(name, kernel.backend, kernel.reason)


def layer(name: str, backend: str = "auto", dtype: torch.dtype = torch.float32) -> Recurrent:
    """A small layer of a cell of the zoo."""
    sizes: dict[str, Any] = dict.fromkeys(letters(cells.get(name).graph) - {"m", "n"}, HIDDEN)
    return Recurrent(name, INPUTS, HIDDEN, backend=backend, dtype=dtype, **sizes)


def check(name: str = "lstm") -> Check:
    """Does compiled code say here what the reference says?

    A run that ends in any error has failed, and its error is the note.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found = layer(name)
            if found.kernel.backend == "reference":
                return Check(None, f"nothing compiled to check ({found.kernel.reason})")
            return compare(name, found)
    except RefoldError as error:
        return Check(None, f"nothing compiled to check ({_fact(error)})")
    except Exception as error:
        return Check(False, f"{name}: {type(error).__name__}: {error}")


def compare(name: str, found: Recurrent) -> Check:
    """Outputs and gradients of a layer, the float32 reference and the float64 reference."""
    x, weight = torch.randn(STEPS, len(LENGTHS), INPUTS), torch.randn(len(LENGTHS), HIDDEN)
    results = []
    for dtype, backend in ((torch.float64, "reference"), (torch.float32, "reference"), (None, "")):
        one = layer(name, backend, dtype) if dtype else found
        one.load_state_dict(found.state_dict())
        results.append(run(one, x.to(dtype), weight.to(dtype)))
    exact, single, compiled = results
    errors = {key: distance(compiled[key], exact[key]) for key in exact}
    limits = {key: TIMES * max(distance(single[key], exact[key]), FLOOR) for key in exact}
    passed = all(errors[key] <= limits[key] for key in exact)  # a NaN fails
    note = f"{name}, {found.kernel.backend} against reference"
    return Check(passed, note, errors, limits)


def run(one: Recurrent, x: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Outputs, and the gradients of a weighted sum of them."""
    x = x.clone().requires_grad_()
    y, _ = one(x, lengths=LENGTHS)
    params = one.parameters_of()
    wanted = {"x": x, **params}
    found = torch.autograd.grad((y * weight).sum(), tuple(wanted.values()))
    named = {f"dE/d{key}": g for key, g in zip(wanted, found, strict=True)}
    return {"y": y.detach(), **named}


def distance(a: Tensor, exact: Tensor) -> float:
    """The root mean square of the difference, relative to that of the exact values."""
    return float((a.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def _fact(error: RefoldError) -> str:
    return f"{error.where}: {error.fact}" if error.where else error.fact
