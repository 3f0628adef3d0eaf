"""Several processes that train one network: beside one with the larger batch, and everything that can happen to one."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from several import REFUSED, Case, Host, data, lines, network, trained
from torch._C._distributed_c10d import HashStore
from torch.testing import assert_close

from refold.cli.task import _own
from refold.errors import RefoldError
from refold.train.checkpoints.folder import checkpoints
from refold.train.fit import fit
from refold.train.meeting import word
from refold.train.workers import Workers, workers

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def host():
    one = Host()
    yield one
    one.close()


# Who takes what


@given(st.lists(st.integers(0, 400), max_size=60), st.integers(1, 9))
def test_work_is_parted_evenly_and_completely(work, number):
    shares = [Workers(rank, number).share(work) for rank in range(number)]
    assert sorted(i for share in shares for i in share) == list(range(len(work)))
    assert all(share == sorted(share) for share in shares)
    loads = [sum(work[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(work, default=0)
    assert shares == [Workers(rank, number).share(list(work)) for rank in range(number)]


def test_parts_are_even_by_work_and_not_by_number():
    work = [100, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10]
    assert Workers(0, 2).share(work) == [0]
    assert Workers(1, 2).share(work) == list(range(1, 11))


def test_a_single_process_takes_everything_as_it_comes():
    assert Workers().share([1, 5, 3]) == [0, 1, 2]


# Beside one process

CASES = {
    "full": Case(),
    "full, summed": Case(sequences="sum"),
    "rows that count nothing": Case(silent=(0, 1, 5, 6, 9)),
    "rows that count nothing, summed": Case(
        silent=(0, 1, 5, 6, 9), sequences="sum", gradient=(8, 8)
    ),
    # Parts of 7 steps: where one process has the sequence of 30, the other has none of 29 or more.
    "truncated": Case(gradient=(7, 10), learn_state=True),
    "truncated, summed": Case(gradient=(7, 7), sequences="sum", learn_state=True),
    "a target for each sequence": Case(target="sequence"),
    # Seven sequences: the last batch has one, and one process none.
    "fewer rows than processes": Case(lengths=(9, 30, 4, 17, 22, 6, 13), gradient=(6, 12)),
    "with Omega": Case(omega=4.0),
    "with Omega, summed": Case(omega=4.0, sequences="sum"),
    "with Omega, truncated": Case(omega=4.0, gradient=(7, 10)),
    "batches of one": Case(batch_size=1, epochs=2),
    "an average of the weights": Case(average=0.9),
}


NEAR = {"float32": (1e-5, 1e-6), "float64": (1e-9, 1e-11)}
PAIRS = [(name, "float32") for name in CASES] + [("full", "float64"), ("truncated", "float64")]


@pytest.mark.parametrize(("name", "dtype"), PAIRS)
def test_two_processes_are_one_with_the_doubled_batch(host, name, dtype, tmp_path):
    case, (rtol, atol) = replace(CASES[name], dtype=dtype), NEAR[dtype]
    (tmp_path / "one").mkdir()
    run, weights = trained(replace(case, batch_size=2 * case.batch_size), tmp_path / "one")
    codes, found = host.run(case, tmp_path)
    assert codes == [0, 0]
    assert found[0] == found[1], "both end with the same bits"
    assert_close(found[0]["validation"], list(run.validation), rtol=rtol, atol=atol)
    assert_close(found[0]["train"], list(run.train), rtol=rtol, atol=atol)
    ends = [torch.tensor(w, dtype=getattr(torch, dtype)) for w in found[0]["weights"]]
    assert_close(ends, weights, rtol=1e-5, atol=1e-5)
    here, there = lines(tmp_path), lines(tmp_path / "one")
    for key in (
        "step",
        "epoch",
        "tokens",
        "rate",
        "loss",
        "gradient_norm",
        "clipped_norm",
        *["omega"] * bool(case.omega),
    ):
        assert_close(
            [line[key] for line in here], [line[key] for line in there], rtol=rtol, atol=atol
        )


def test_three_processes(host, tmp_path):
    (tmp_path / "one").mkdir()
    run, _ = trained(Case(batch_size=9), tmp_path / "one")
    codes, found = host.run(Case(), tmp_path, number=3)
    assert codes == [0, 0, 0] and found[0] == found[1] == found[2]
    assert_close(found[0]["validation"], list(run.validation), rtol=1e-5, atol=0)


def test_one_run_after_another(host, tmp_path):
    """The second finds the others at an address of its own."""
    _, once = host.run(Case(epochs=1), tmp_path)
    codes, found = host.run(Case(epochs=1, times=3), tmp_path)
    assert codes == [0, 0] and found == once


def test_one_message_has_every_precision_and_no_gradient_where_nobody_has_one(monkeypatch):
    sent = []

    def all_reduce(flat):  # the other process has the same
        sent.append(flat.dtype)
        flat.mul_(2)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    kinds = (torch.float32, torch.float64, torch.float32)
    single, double, idle = (torch.nn.Parameter(torch.zeros(2, 2, dtype=kind)) for kind in kinds)
    third = torch.full((2, 2), 1 / 3, dtype=torch.float64)
    single.grad, double.grad = third.float(), third.clone()
    parameters = {"single": single, "double": double, "idle": idle}
    error, flags = Workers(0, 2).together(parameters, 0.25, torch.tensor(3.0), [1.0, 0.0])
    assert sent == [torch.float64]
    assert_close(double.grad, third / 2, rtol=1e-15, atol=0)
    assert_close(single.grad, third.float() / 2, rtol=0, atol=0)
    assert idle.grad is None
    assert (float(error), flags) == (1.5, [2.0, 0.0])


@pytest.mark.parametrize("late", [0, 1, 2])
def test_what_dead_processes_have_left_in_the_store_is_not_believed(late):
    """As after a restart: names, a word and that it was seen, all of processes that are gone."""
    store, last = HashStore(), {"word": "old", "late": threading.Event()}
    for key, value in {"1": "a", "2": "b", "old/1": "", "old/2": ""}.items():
        store.set(f"refold/{key}", value)
    store.set("refold", "old a b")

    def one(rank):
        if rank == late:
            last["late"].wait(60)
        return word(store, rank, 3)

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(one, rank) for rank in range(3)]
        last["late"].set()
        found = {future.result(60) for future in futures}
    assert len(found) == 1 and found != {"old"}


def test_a_process_that_nobody_comes_to_meet():
    store = HashStore()
    store.set_timeout(timedelta(seconds=0.05))
    store.set("refold", "old a b")
    with pytest.raises(RuntimeError, match="process 1 of 3 has waited in vain for another one"):
        word(store, 1, 3)


# What can happen to one of them

SAVED = Case(gradient=(6, 9), dropout=0.3, save_every=4, learn_state=True)


@pytest.fixture(scope="module")
def undisturbed(host, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    codes, found = host.run(SAVED, folder)
    assert codes == [0, 0] and found[0]["digest"] == found[1]["digest"]
    assert [line["step"] for line in lines(folder)] == list(range(1, found[0]["steps"] + 1))
    return found[0]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_other_and_nothing_is_lost(
    host, undisturbed, victim, tmp_path
):
    codes, found = host.run(replace(SAVED, after=(victim, 10, signal.SIGKILL)), tmp_path)
    other = 1 - victim
    assert codes[victim] == -signal.SIGKILL and codes[other] == REFUSED
    where, fact, remedy = found[other]["error"].splitlines()
    assert where == "fit(..., distributed=True)"
    assert (
        fact.startswith(f"process {other} of 2 no longer reaches another one: ")
        and ".cc" not in fact
    )
    assert remedy == "see what that one said; with a checkpoint, start again and resume"

    codes, found = host.run(SAVED, tmp_path)
    assert codes == [0, 0] and found[0]["resumed"] == 8
    assert found[0]["digest"] == found[1]["digest"] == undisturbed["digest"]
    assert found[0]["validation"] == undisturbed["validation"]
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, undisturbed["steps"] + 1))


@pytest.mark.parametrize("asked", [0, 1])
def test_one_that_is_asked_to_stop_takes_the_other_along(host, undisturbed, asked, tmp_path):
    codes, _ = host.run(replace(SAVED, after=(asked, 5, signal.SIGTERM)), tmp_path)
    assert codes == [143, 143]
    assert next(iter(checkpoints(tmp_path / "run"))) == 6, (
        "the step that was told of it is the last"
    )
    codes, found = host.run(SAVED, tmp_path)
    assert codes == [0, 0] and found[0]["resumed"] == 6
    assert found[0]["digest"] == found[1]["digest"] == undisturbed["digest"]


@pytest.mark.parametrize("numbers", [(2, 1), (1, 2), (2, 3)])
def test_a_run_goes_on_with_another_number_of_processes(host, numbers, tmp_path):
    case = Case(save_every=50, batch_size=2, epochs=4)
    codes, _ = host.run(replace(case, after=(0, 4, signal.SIGTERM)), tmp_path, numbers[0])
    assert codes == [143] * numbers[0]
    codes, found = host.run(case, tmp_path, numbers[1])
    assert codes == [0] * numbers[1] and found[0]["resumed"] == 5
    assert len({each["digest"] for each in found}) == 1
    assert len(found[0]["train"]) == 4
    every = sum(data(case).split(0.2)[0].lengths)
    for epoch in range(1, 5):  # no sequence is left out or met twice
        assert sum(line["tokens"] for line in lines(tmp_path) if line["epoch"] == epoch) == every


def test_a_number_that_is_not_finite_stops_all_and_the_one_that_has_it_names_its_row(
    host, tmp_path
):
    codes, found = host.run(Case(wrong=3, batch_size=6), tmp_path)
    assert codes == [REFUSED, REFUSED]
    texts = sorted((each["error"] for each in found), key=len)
    for text in texts:
        assert text.startswith("fit: epoch 1, step 1\n")
        assert "the loss is inf" in text
    assert "sequence" not in texts[0]
    assert "the error of sequence 3 is not finite from its step 0 on" in texts[1]


def test_processes_with_other_data_are_told_so(host, tmp_path):
    codes, found = host.run(Case(apart=1), tmp_path)
    assert codes == [REFUSED, REFUSED] and found[0] == found[1]
    assert found[0]["error"].splitlines()[1:] == [
        "steps is 100 in process 0, 101 in process 1",
        "give every process the same network, data and settings",
    ]


# torchrun

KILLED_ONCE = """
import os, several
if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    several.signal_after(3, 9)
from refold.cli.main import run
run()
"""
TASK = (
    "task",
    "permutation",
    "--length",
    "4..9",
    "--hidden",
    "5",
    "--every",
    "4",
    "--trials",
    "50",
)


def torchrun(folder, program, *words, restarts=0):
    """What the command prints, as JSON."""
    path = os.pathsep.join(str(Path(__file__).parents[up]) for up in (1, 2))
    several = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*several, f"--max-restarts={restarts}", *program, *TASK, "--json", *words],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_a_task_under_torchrun_is_the_task_with_the_doubled_batch(refold, tmp_path):
    found, _ = torchrun(tmp_path, ("-m", "refold"), "--steps", "16", "--batch", "6")
    code, out, _ = refold(*TASK, "--json", "--steps", "16", "--batch", "12")
    one = json.loads(out)
    assert code == 1 and not one["solved"] and not found["solved"]
    assert (found["settings"]["processes"], found["steps"]) == (2, one["steps"])
    assert found["exam"]["error"] == pytest.approx(one["exam"]["error"], rel=1e-5)


@pytest.mark.slow
def test_torchrun_starts_again_and_the_run_goes_on_from_its_checkpoint(tmp_path):
    (tmp_path / "killed_once.py").write_text(KILLED_ONCE)
    saved = ("--schedule", "constant", "--checkpoint", "run", "--resume")
    torchrun(tmp_path, ("-m", "refold"), *saved, "--steps", "8")
    found, said = torchrun(tmp_path, ("killed_once.py",), *saved, "--steps", "16", restarts=1)
    assert "SIGKILL" in said or "exitcode: -9" in said
    assert (found["resumed"], found["steps"]) == (8, 16)
    whole, _ = torchrun(tmp_path, ("-m", "refold"), *saved[:2], "--steps", "16")
    assert found["exam"] == whole["exam"]


def test_each_process_of_a_task_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert _own("cuda", 4) == "cuda:3"
    assert (_own("cuda", 1), _own("cpu", 4), _own("cuda:0", 4)) == ("cuda", "cpu", "cuda:0")


# Nobody there


def test_without_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    text = (
        r"^fit\(..., distributed=True\)\n"
        "distributed=True, and this process has no RANK and no WORLD_SIZE\n"
        "start it as: torchrun --nproc-per-node 2 script.py$"
    )
    with pytest.raises(RefoldError, match=text), workers(True, CPU):
        pass
    with pytest.raises(RefoldError, match=text):
        fit(network(Case()), data(Case()), distributed=True)


def test_without_an_address(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    text = (
        "the processes cannot be joined: .* MASTER_ADDR expected, but not set\nlook at MASTER_ADDR"
    )
    with pytest.raises(RefoldError, match=text), workers(True, CPU):
        pass
