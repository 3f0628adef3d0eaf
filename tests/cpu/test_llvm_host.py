"""The machine as the compiler sees it: the widest vectors, narrower ones on demand, and what it refuses."""

import pytest
import torch

from refold.errors import KernelError
from refold.kernels.llvm.machine.host import Machine, describe, host, kinds, machine

ZEN4 = ("avx", "avx2", "fma", "avx512f", "avx512vl", "avx512dq", "avx512bw")


def made(family: str, *features: str) -> Machine:
    flat = ",".join(f"+{name}" for name in features)
    return Machine(f"{family}-unknown-linux-gnu", "some-cpu", dict.fromkeys(features, True), flat)


@pytest.mark.parametrize(
    ("found", "vectors", "bits", "registers", "fma"),
    [
        (made("x86_64", *ZEN4), "avx512", 512, 32, True),
        (made("x86_64", "avx", "avx2", "fma"), "avx2", 256, 16, True),
        (made("x86_64", "avx", "avx2", "fma", "avx512f"), "avx2", 256, 16, True),  # Knights Landing
        (made("x86_64", "avx", "avx2"), "sse", 128, 16, False),  # no fused multiply-add
        (made("x86_64"), "sse", 128, 16, False),
        (made("aarch64", "neon"), "neon", 128, 32, True),
        (made("arm64"), "neon", 128, 32, True),
    ],
)
def test_widest_vectors_are_the_default(found, vectors, bits, registers, fma):
    target = describe(found)
    assert (target.vectors, target.vector_bits, target.vector_registers, target.has_fma) == (
        vectors,
        bits,
        registers,
        fma,
    )
    assert target.features.startswith(found.flat)


def test_this_machine(monkeypatch):
    monkeypatch.delenv("REFOLD_VECTORS", raising=False)
    target = host()
    assert target.vectors == next(iter(kinds(machine())))
    assert target == host(target.vectors)
    assert hash(target) == hash(host())
    assert target.cpu
    assert target.triple


@pytest.mark.parametrize(
    ("vectors", "single", "double"), [("avx512", 16, 8), ("avx2", 8, 4), ("sse", 4, 2)]
)
def test_lanes(vectors, single, double):
    target = describe(made("x86_64", *ZEN4), vectors)
    assert (target.lanes(torch.float32), target.lanes(torch.float64)) == (single, double)


def test_narrower_vectors_hide_the_wider():
    zen4 = made("x86_64", *ZEN4)
    assert describe(zen4, "avx512").features == zen4.flat
    assert describe(zen4, "avx2").features == zen4.flat + ",-avx512f"
    assert describe(zen4, "sse").features == zen4.flat + ",-avx"
    assert describe(made("x86_64"), "sse").features == "-avx"


def test_the_environment_forces_and_the_argument_wins(monkeypatch):
    names = list(kinds(machine()))
    monkeypatch.setenv("REFOLD_VECTORS", names[-1])
    assert host().vectors == names[-1]
    assert host(names[0]).vectors == names[0]
    monkeypatch.setenv("REFOLD_VECTORS", "")
    assert host().vectors == names[0]


def refusal(call) -> str:
    with pytest.raises(KernelError) as caught:
        call()
    return str(caught.value)


def test_unknown_vectors(monkeypatch):
    assert refusal(lambda: host("mmx")) == (
        'vectors="mmx"\nthere are no vectors "mmx".\nChoose one of avx512, avx2, sse, neon.'
    )
    monkeypatch.setenv("REFOLD_VECTORS", "AVX2")
    assert refusal(host) == (
        'REFOLD_VECTORS=AVX2\nthere are no vectors "AVX2".\nChoose one of avx512, avx2, sse, neon.'
    )


def test_vectors_that_the_processor_has_not():
    haswell = made("x86_64", "avx", "avx2", "fma")
    assert refusal(lambda: describe(haswell, "avx512", 'vectors="avx512"')) == (
        'vectors="avx512"\n'
        "avx512 is asked for; this processor (some-cpu) has avx2, sse.\n"
        "Choose one of avx2, sse, or leave the choice to refold."
    )
    other = "neon" if "sse" in kinds(machine()) else "sse"
    assert f"{other} is asked for; this processor" in refusal(lambda: host(other))


def test_unknown_processor():
    assert refusal(lambda: describe(made("riscv64"))) == (
        "the compiler knows the vectors of x86_64, aarch64, arm64; this processor is riscv64.\n"
        'Use backend="reference".'
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int32, torch.complex64])
def test_types_that_have_no_lanes(dtype):
    assert refusal(lambda: host().lanes(dtype)) == (
        f"compiled kernels know float32 and float64, not {dtype}.\n"
        'Convert the layer and its input with .to(torch.float32), or use backend="reference".'
    )
