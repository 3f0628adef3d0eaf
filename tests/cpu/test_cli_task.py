"""`refold task`: the list, a task that is learned and one that is not, and what is refused."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from refold import cells
from refold.cli.attempt import (
    Attempt,
    Exam,
    Judged,
    _verdict,
    built,
    examined,
    fresh,
    start_for,
)
from refold.data import tasks
from refold.errors import RefoldError
from refold.train.fit import Run

# Two steps, of which the first has to be said again: learned in a second.
EASY = (
    *("permutation", "--set", "symbols=4", "--length", 2, "--cell", "elman", "--hidden", 8),
    *("--init", "torch", "--rate", 0.02, "--every", 20, "--steps", 400),
    *("--held-out", 50, "--trials", 200),
)
SMALL = Attempt(
    tasks.task("temporal-order"), cells.get("lstm"), (10, 14), hidden=6, batch=4, every=3
)


@pytest.fixture
def told(refold):
    """The exit code, and what --json gives."""

    def call(*words) -> tuple[int, Any]:
        code, out, err = refold("task", *words, "--json")
        assert err == ""
        return code, json.loads(out)

    return call


def test_the_list_has_every_task_with_its_source(refold):
    code, out, err = refold("task", "list")
    assert (code, err) == (0, "")
    for name in tasks.names():
        (line,) = [line for line in out.splitlines() if line.startswith(f"{name} ")]
        assert tasks.task(name).source.split()[0] in line


def test_the_list_as_data(told):
    code, rows = told("list")
    assert code == 0
    assert [row["name"] for row in rows] == tasks.names()
    assert rows[3]["about"] == tasks.task("temporal-order").about
    assert all(all(row.values()) for row in rows)


def test_a_task_that_is_learned(refold):
    code, out, err = refold("task", *EASY, "--test-length", 3)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("permutation  the first of T symbols of 4")
    assert (
        "T 2; elman with 8 units, torch; adam at 0.02 (linear), clip 1; batches of 20; seed 0"
        in lines[1]
    )
    assert lines[2].startswith("solved in ") and lines[2].endswith("of 200 sequences wrong")
    assert lines[4].split()[:4] == ["2", "0.00%", "of", "200"]
    assert lines[5].split()[0] == "3" and lines[5].split()[-1] == f"{math.log(2):.4g}"
    assert "guess      ln 2" in out
    assert "published  solved in a part of the runs only" in out
    assert " of training, " in out


def test_a_task_that_is_not_learned(refold):
    words = ("--length", 30, "--steps", 4, "--every", 2, "--hidden", 4, "--trials", 300)
    code, out, err = refold("task", "temporal-order", *words, "--held-out", 20, "--clip", 0)
    assert (code, err) == (1, "")
    assert "no clipping" in out
    assert "not solved in 4 steps: " in out and "nothing is remembered" in out


def test_the_same_words_give_the_same_numbers(told):
    (code, first), (_, again), (_, other) = (told(*EASY, "--seed", s) for s in (3, 3, 4))
    assert code == 0 and first["solved"]
    assert first["exam"] == again["exam"] and first["steps"] == again["steps"]
    assert first["exam"]["error"] != other["exam"]["error"]
    assert first["settings"]["rate"] == 0.02 and first["cell"] == "elman"
    assert first["weights"] == 8 * 4 + 8 * 8 + 8 + 8 * 4 + 4


def test_a_loss_in_place_of_the_criterion(told):
    code, found = told(*EASY, "--enough", 0.4)
    assert code == 0 and found["stopped"] == "enough"
    assert found["exam"]["error"] <= 0.4
    assert "0.4 was asked for" in found["verdict"]


def test_omega_is_trained_with_and_told(refold, tmp_path):
    words = ("temporal-order", "--cell", "elman", "--length", "20..30", "--omega", 4, "--hidden", 8)
    words += ("--steps", 6, "--every", 3, "--held-out", 20, "--trials", 50, "--init", "torch")
    code, out, err = refold("task", *words, "--log", "ratio.jsonl")
    assert (code, err) == (1, "")
    assert "clip 1, Omega 4 (ratio); batches" in out
    refold("task", *words, "--omega-form", "squared", "--log", "squared.jsonl")
    logs = ((tmp_path / f"{form}.jsonl").read_text().splitlines() for form in ("ratio", "squared"))
    ratio, squared = (json.loads(lines[0])["omega"] for lines in logs)
    assert 0 < ratio < squared  # (r - 1)^2 and (r^2 - 1)^2, gradients of most steps shrink, r < 1


def test_temporal_order_with_omega_is_learned_as_it_comes(told):
    """Short sequences, and no setting of the optimiser or the start."""
    words = ("temporal-order", "--cell", "elman", "--length", "10..12", "--omega", 4)
    code, found = told(*words, "--steps", 3000, "--held-out", 200, "--trials", 1000)
    assert code == 0 and found["exam"]["wrong"] < 0.01
    assert (found["settings"]["start"], found["settings"]["rate"]) == ("irnn", 1e-4)


def test_a_run_that_is_taken_up_again_ends_as_one_that_was_not(told):
    words = ("temporal-order", "--length", "10..14", "--hidden", 5, "--every", 4, "--held-out", 10)
    words += ("--schedule", "constant")  # any other depends on how long the run is
    _, whole = told(*words, "--trials", 50, "--steps", 16)
    told(*words, "--trials", 50, "--steps", 8, "--checkpoint", "run")
    _, rest = told(*words, "--trials", 50, "--steps", 16, "--checkpoint", "run", "--resume")
    assert rest["resumed"] == 8 and rest["steps"] == 16
    assert rest["exam"] == whole["exam"]


def test_a_line_for_every_step(told, tmp_path):
    told(*EASY, "--steps", 40, "--log", "steps.jsonl")
    lines = (tmp_path / "steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert len(lines) in (20, 40)


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_can_be_attempted(told, name):
    task = tasks.task(name)
    length = max(task.shortest, 12)
    words = (
        "--steps",
        2,
        "--every",
        1,
        "--batch",
        2,
        "--held-out",
        3,
        "--trials",
        3,
        "--hidden",
        3,
    )
    code, found = told(name, "--length", f"{length}..{length + 2}", "--cell", "gru", *words)
    assert code == (not found["solved"])
    assert math.isfinite(found["exam"]["error"]) and found["exam"]["guess"] > 0
    assert found["steps"] == 2 and found["exam"]["length"] == [length, length + 2]


# What is trained, and on what.


def test_every_epoch_has_sequences_of_its_own_and_an_exam_others():
    first, again, second = fresh(SMALL, 1), fresh(SMALL, 1), fresh(SMALL, 2)
    assert len(first) == 12 and set(first.lengths) <= set(range(10, 15))
    assert [torch.equal(a, b) for a, b in zip(first.x, again.x, strict=True)] == [True] * 12
    assert any(
        a.shape != b.shape or not torch.equal(a, b) for a, b in zip(first.x, second.x, strict=True)
    )


def test_training_has_the_loss_and_validation_the_share_that_is_wrong():
    network, batch = built(SMALL), fresh(SMALL, 1).batch(range(12))
    y = network(batch.x, batch.lengths)
    loss = torch.nn.functional.cross_entropy(y, batch.d)  # type: ignore[arg-type]
    judged = Judged(network, SMALL.task, by_loss=False)
    assert_close(judged.train().error(batch), loss)
    wrong = float((y.argmax(1) != batch.d).double().mean())
    assert judged.eval().error(batch).item() == pytest.approx(wrong)
    assert_close(Judged(network, SMALL.task, by_loss=True).eval().error(batch), loss)


def test_an_exam_is_of_as_many_sequences_as_are_asked_for():
    network = built(SMALL)
    exam = examined(network, replace(SMALL, trials=260), (11, 11))
    parts = [SMALL.task.held_out(n, 11, (0, 1, k)) for k, n in enumerate((250, 10))]
    wrong, error = 0, 0.0
    for part in parts:
        batch = part.batch(range(len(part)))
        y = network(batch.x).detach()
        wrong += int((y.argmax(1) != batch.d).sum())
        error += float(torch.nn.functional.cross_entropy(y, batch.d, reduction="sum"))  # type: ignore[arg-type]
    assert exam.wrong == wrong / 260
    assert exam.error == pytest.approx(error / 260, rel=1e-5)
    assert exam.guess == pytest.approx(math.log(4))


def test_a_guess_over_a_range_is_the_mean_of_its_lengths():
    given = replace(SMALL, task=tasks.task("copy"), trials=5, cell=cells.get("elman"))
    exam = examined(built(given), given, (10, 12))
    assert exam.guess == pytest.approx(sum(10 * math.log(8) / (n + 20) for n in (10, 11, 12)) / 3)


# How weights start.


def test_the_start_is_decided_by_the_seed_and_leaves_the_callers_random_state():
    before = torch.get_rng_state()
    first, again, other = built(SMALL), built(SMALL), built(replace(SMALL, seed=1))
    assert torch.equal(before, torch.get_rng_state())
    pairs = zip(first.parameters(), again.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(a, b) and not torch.equal(a, c) for a, b, c in pairs)


def test_the_start_of_pascanu():
    given = replace(SMALL, cell=cells.get("elman"), hidden=60, start="basic-tanh")
    for weight in built(given).parameters():
        if weight.ndim == 1:
            assert not weight.any()
        else:
            assert float(weight.detach().std()) == pytest.approx(0.1, rel=0.15)


def test_recurrent_weights_start_as_they_are_told_to():
    elman = replace(SMALL, cell=cells.get("elman"))
    matrix = dict(built(replace(elman, start="orthogonal")).named_parameters())["layer.l0.W_h"]
    assert_close(matrix @ matrix.T, torch.eye(6))
    matrix = dict(built(replace(elman, start="identity", gain=0.5)).named_parameters())[
        "layer.l0.W_h"
    ]
    assert torch.equal(matrix, 0.5 * torch.eye(6))
    biases = dict(built(replace(SMALL, start="chrono")).named_parameters())["layer.l0.f.b"].detach()
    assert bool((biases >= 0).all()) and float(biases.max()) <= math.log(13)  # log U(1, T - 1)


def test_the_start_of_sums():
    given = replace(SMALL, cell=cells.get("elman"), hidden=60, start="irnn", gain=0.9)
    weights = dict(built(given).named_parameters())
    assert torch.equal(weights["layer.l0.W_h"], 0.9 * torch.eye(60))
    assert float(weights["layer.l0.W_x"].detach().std()) == pytest.approx(0.01, rel=0.15)
    assert not weights["layer.l0.b"].any() and weights["head.bias"].all()


@pytest.mark.parametrize(
    ("cell", "start"),
    [
        *(("lstm", "chrono"), ("gru", "chrono"), ("min_gru", "chrono")),
        *(("elman", "irnn"), ("leaky", "irnn")),
        ("elman_relu", "torch"),  # what is negative is lost
        ("elman_orthogonal", "torch"),  # has a start of its own
        *(("indrnn", "torch"), ("lru", "torch"), ("lem", "torch"), ("hopfield", "torch")),
    ],
)
def test_a_cell_starts_as_it_keeps_its_past(cell, start):
    assert start_for(cells.get(cell), 100) == start


def test_gates_are_not_set_for_memories_of_a_step():
    assert start_for(cells.get("lstm"), 2) == "torch"


def test_a_start_that_there_is_not():
    with pytest.raises(
        RefoldError, match="there is no start 'warm'\none of: torch, chrono, irnn, basic-tanh"
    ):
        built(replace(SMALL, start="warm"))


# What is said.


@pytest.mark.parametrize(
    ("wrong", "error", "stopped", "solved", "said"),
    [
        (0.002, 0.1, "enough", True, "solved in 500 steps: 0.20% of 10,000 sequences wrong"),
        (
            0.02,
            0.1,
            "enough",
            False,
            "not solved: enough on 1,000 held-out sequences, not in the exam: 2.00%",
        ),
        (
            0.75,
            1.39,
            "epochs",
            False,
            "the loss, 1.39, is that of a guess (1.386): nothing is remembered",
        ),
        (
            0.5,
            0.7,
            "epochs",
            False,
            "the loss, 0.7, is below that of a guess (1.386): something is remembered",
        ),
    ],
)
def test_what_happened_is_said_in_words(wrong, error, stopped, solved, said):
    exam = Exam((10, 14), 10_000, wrong, error, math.log(4))
    run = Run(1, (1.0,), (wrong,), 500, 1.0, stopped)
    assert said in _verdict(SMALL, exam, run, solved)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("temporal",), "there is no task 'temporal'"),
        (("copy", "--length", "ten"), "'ten' is neither a number of steps nor a range"),
        (("copy", "--length", "5..3"), "length is (5, 3)"),
        (("copy", "--length", "1..x"), "write --length 100, or --length 50..200"),
        (("copy", "--set", "items"), "write --set NAME=VALUE"),
        (("copy", "--set", "tau=3"), "its settings are symbols=8, items=10"),
        (("temporal-order", "--set", "positions=end"), "positions is 'end'"),
        (("copy", "--cell", "lstmm"), 'there is no cell "lstmm"'),
        (("copy", "--init", "warm"), "there is no start 'warm'"),
        (("copy", "--optimiser", "lbfgs"), "no optimiser 'lbfgs'"),
        (("copy", "--schedule", "step"), "no schedule 'step'"),
        (("copy", "--enough", 0), "enough is 0"),
        (("copy", "--steps", 0), "--steps"),
    ],
)
def test_what_is_refused(refold, words, told):
    code, _, err = refold("task", *words)
    assert code == 2
    assert told in err
