"""`refold doctor`: what it finds on this machine, and what it says where something is missing."""

import json

import pytest

import refold as rf
from refold.cli import examine
from refold.errors import KernelError
from refold.kernels.llvm.machine.host import Machine, kinds, machine

FACTS = ["versions", "processor", "vectors", "threads", "cache", "gpu"]


@pytest.fixture
def doctor(refold, monkeypatch, tmp_path):
    """The command with a cache of its own: (exit code, what --json gives)."""
    monkeypatch.delenv("REFOLD_VECTORS", raising=False)
    monkeypatch.setenv("REFOLD_CACHE", str(tmp_path / "cache"))

    def call():
        code, out, err = refold("doctor", "--json")
        assert err == ""
        return code, json.loads(out)

    return call


def test_everything_is_well(doctor, tmp_path):
    code, found = doctor()
    assert code == 0
    assert list(found["machine"]) == FACTS
    assert found["machine"]["vectors"]["name"] == next(iter(kinds(machine())))
    assert found["machine"]["cache"]["folder"] == str(tmp_path / "cache")
    assert found["remedies"] == {}
    assert list(found["cells"]) == list(rf.cells.all())
    for name, told in found["cells"].items():
        kernel = examine.layer(name).kernel
        assert told == {"backend": kernel.backend, "reason": kernel.reason}
        assert kernel.backend == "llvm"
    check = found["check"]
    assert check["passed"] is True
    assert list(check["errors"])[:2] == ["y", "dE/dx"]
    assert all(0 < check["errors"][key] <= check["limits"][key] for key in check["errors"])


def test_the_cache_is_counted(doctor):
    doctor()  # builds what the check needs
    _, found = doctor()
    cache = found["machine"]["cache"]
    assert cache["entries"] > 0
    assert cache["bytes"] > 1000 * cache["entries"]


def test_people_are_told_the_same(refold, doctor):
    code, out, err = refold("doctor")
    assert (code, err) == (0, "")
    for word in (*FACTS, *rf.cells.all(), "agrees", machine().cpu):
        assert word in out
    assert "to do" not in out


def test_narrower_vectors(refold, doctor, monkeypatch):
    *wider, last = kinds(machine())
    monkeypatch.setenv("REFOLD_VECTORS", last)
    code, found = doctor()
    assert code == 0
    assert found["machine"]["vectors"]["name"] == last
    assert found["check"]["passed"] is True
    if wider:
        remedy = f"Unset REFOLD_VECTORS: this processor has {wider[0]}."
        assert found["remedies"] == {"vectors": remedy}
        code, out, _ = refold("doctor")
        assert f"vectors: {remedy}" in out


def test_vectors_that_do_not_exist(doctor, monkeypatch):
    monkeypatch.setenv("REFOLD_VECTORS", "avx1024")
    code, found = doctor()
    assert code == 0
    assert found["machine"]["vectors"] is None
    assert found["remedies"]["vectors"].startswith("Choose one of avx512")
    assert found["check"]["passed"] is None
    assert "avx1024" in found["check"]["note"]


def test_a_cache_that_cannot_be_made(refold, doctor, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REFOLD_CACHE", str(tmp_path / "file" / "cache"))
    code, found = doctor()
    assert code == 0
    assert found["machine"]["cache"]["folder"] is None
    assert "there is no folder for the cache" in found["machine"]["cache"]["reason"]
    assert found["remedies"]["cache"].startswith("Set REFOLD_CACHE to a folder of your own")
    assert found["check"]["passed"] is True
    code, out, _ = refold("doctor")
    assert code == 0
    assert "to do" in out


def test_a_cache_that_cannot_be_written(doctor, monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(examine.tempfile, "TemporaryFile", full)
    found = examine.folder()
    assert found.told.endswith("cannot be written: No space left on device")
    assert found.remedy


def test_one_thread_says_why(monkeypatch):
    monkeypatch.setattr(examine.pool, "why_alone", lambda: "torch was built without OpenMP")
    found = examine.threads()
    assert found.told == "1: torch was built without OpenMP"
    assert "several processes" in found.remedy


def test_another_processor(monkeypatch):
    def strange():
        raise KernelError("the compiler knows other vectors.", 'Use backend="reference".')

    monkeypatch.setattr(examine, "host", strange)
    found = examine.vectors()
    assert found.value is None
    assert found.remedy == 'Use backend="reference".'
    assert Machine("riscv64-linux", "cpu", {}, "").triple  # what such a machine is told by


def test_code_that_disagrees_fails(refold, doctor, monkeypatch):
    monkeypatch.setattr(examine, "TIMES", 1e-3)
    code, found = doctor()
    assert code == 1
    assert found["check"]["passed"] is False
    assert found["remedies"]["check"].startswith('Use backend="reference"')
    code, out, _ = refold("doctor")
    assert code == 1
    assert "FAILS" in out
    assert "farthest off is" in out


def test_code_that_breaks_fails(doctor, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(examine, "compare", broken)
    code, found = doctor()
    assert code == 1
    assert found["check"]["note"] == "lstm: ZeroDivisionError: by nothing"


def test_a_nan_is_no_agreement(monkeypatch):
    monkeypatch.setattr(examine, "distance", lambda *_: float("nan"))
    assert examine.compare("lstm", examine.layer("lstm")).passed is False


def test_the_check_leaves_the_random_numbers_alone():
    import torch

    before = torch.get_rng_state()
    examine.check()
    assert torch.equal(before, torch.get_rng_state())
