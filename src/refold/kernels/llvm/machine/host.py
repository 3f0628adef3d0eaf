"""What machine this is, to the compiler: its processor, how wide its vectors are and how many it has."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch

from refold.errors import KernelError
from refold.kernels.llvm import LOCK, llvm


# Named tuples where nothing leaves this file: a dataclass takes half a millisecond of the twenty for a load.
class Vectors(NamedTuple):
    """One kind of vector registers."""

    bits: int
    registers: int
    has_fma: bool
    needs: tuple[str, ...]  # features of the processor
    hide: (
        str  # what keeps LLVM from using anything wider: a feature takes all that build on it along
    )


# Widest first: the first that the processor has is the default.
X86 = {
    # Knights Landing has avx512f alone: too little to be worth a kind of its own.
    "avx512": Vectors(512, 32, True, ("avx512f", "avx512vl", "avx512dq", "avx512bw"), ""),
    "avx2": Vectors(256, 16, True, ("avx2", "fma"), "-avx512f"),
    "sse": Vectors(128, 16, False, (), "-avx"),
}
ARM = {"neon": Vectors(128, 32, True, (), "")}
KINDS = {"x86_64": X86, "aarch64": ARM, "arm64": ARM}
NAMES = tuple(name for kinds in (X86, ARM) for name in kinds)


@dataclass(frozen=True, slots=True)
class Host:
    """A target of the compiler: everything that decides what code is emitted.

    Units   vector_bits in bits; vector_registers: how many vectors of that width the processor names
    """

    triple: str
    cpu: str
    features: str  # as LLVM takes them: +fma,-avx512f
    vectors: str  # avx512, avx2, sse or neon
    vector_bits: int
    vector_registers: int
    has_fma: bool

    def lanes(self, dtype: torch.dtype) -> int:
        """How many values of a type one vector holds.

        Errors  KernelError for a type other than float32 and float64
        """
        if dtype not in (torch.float32, torch.float64):
            raise KernelError(
                f"compiled kernels know float32 and float64, not {dtype}.",
                'Convert the layer and its input with .to(torch.float32), or use backend="reference".',
            )
        return self.vector_bits // (8 * dtype.itemsize)


class Machine(NamedTuple):
    """What LLVM finds out about the processor."""

    triple: str
    cpu: str
    features: Mapping[str, bool]
    flat: str


@cache
def machine() -> Machine:
    """The processor of this machine, asked once."""
    with LOCK:
        features = llvm.get_host_cpu_features()
        triple = llvm.get_process_triple()
        name = llvm.get_host_cpu_name()
    if os.name == "nt":
        triple += "-elf"  # the loader of object files in memory knows no other format there
    return Machine(triple, name, dict(features), features.flatten())


def kinds(found: Machine) -> dict[str, Vectors]:
    """The kinds of vectors that a processor has, widest first.

    Errors  KernelError when the compiler knows none of its family
    """
    family = found.triple.split("-")[0]
    if family not in KINDS:
        raise KernelError(
            f"the compiler knows the vectors of {', '.join(KINDS)}; this processor is {family}.",
            'Use backend="reference".',
        )
    return {
        name: kind
        for name, kind in KINDS[family].items()
        if all(found.features.get(need, False) for need in kind.needs)
    }


def host(vectors: str | None = None) -> Host:
    """This machine, with its widest vectors, or with narrower ones.

    `vectors` is "avx512", "avx2", "sse" or "neon"; without it the environment's REFOLD_VECTORS decides, and without
    that the processor.

    Errors  KernelError for a name that is none of these, and for vectors that this processor has not
    Example host().lanes(torch.float32)  ->  16 where there is AVX-512
    """
    return describe(machine(), *asked(vectors))


def asked(vectors: str | None) -> tuple[str | None, str]:
    """The kind asked for, and who asked."""
    if vectors is not None:
        return vectors, f'vectors="{vectors}"'
    named = os.environ.get("REFOLD_VECTORS") or None
    return named, f"REFOLD_VECTORS={named}"


def describe(found: Machine, vectors: str | None = None, where: str = "") -> Host:
    """A processor as the compiler sees it, with the vectors named, or with its widest."""
    have = kinds(found)
    name = next(iter(have)) if vectors is None else vectors
    if name not in NAMES:
        raise KernelError(
            f'there are no vectors "{name}".', f"Choose one of {', '.join(NAMES)}.", where
        )
    if name not in have:
        raise KernelError(
            f"{name} is asked for; this processor ({found.cpu}) has {', '.join(have)}.",
            f"Choose one of {', '.join(have)}, or leave the choice to refold.",
            where,
        )
    kind = have[name]
    features = ",".join(part for part in (found.flat, kind.hide) if part)
    return Host(found.triple, found.cpu, features, name, kind.bits, kind.registers, kind.has_fma)
