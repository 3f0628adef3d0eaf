"""Random equations, compiled: all ops in all combinations, at sizes that fill vectors and at sizes that do not."""

from statistics import geometric_mean, median

import pytest
import torch
from cases import CASES
from compiled import (
    BACKEND,
    as_good,
    everything,
    given,
    kitchen,
    label,
    layer_of,
    ragged,
    rounding,
    same,
)
from random_cells import Draw, drawn_call, outcome

import refold as rf
from refold.kernels.base import Kernel, build

COUNT, BATCHES = 500, 25
# Vectors hold 2 to 16 numbers: less than one, whole ones, one and a rest, several and a rest.
SIZES = [
    {"m": 3, "n": 5, "k": 2},
    {"m": 2, "n": 16, "k": 7},
    {"m": 9, "n": 19, "k": 1},
    {"m": 1, "n": 37, "k": 16},
    {"m": 5, "n": 64, "k": 33},
]
STEPS = 4
CPU = torch.device("cpu")


def kernel_of(
    cell: rf.Cell,
    seed: int,
    memory: str,
    backend: str = BACKEND,
    dtype: torch.dtype = torch.float64,
) -> Kernel:
    return build(cell, SIZES[seed % len(SIZES)], backend, CPU, dtype, memory)


def agree(seed: int, memory: str) -> None:
    """One tile of 1 to 6 rows; two tile sizes; more rows than tiles hold, ragged."""
    cell, sizes = Draw(seed).cell(), SIZES[seed % len(SIZES)]
    mine, reference = kernel_of(cell, seed, memory), kernel_of(cell, seed, "fast", "reference")
    probes = seed % 5 == 0
    for rows, uneven in ((1 + seed % 6, seed % 2 == 0), (7, False), (33, True)):
        call = drawn_call(cell, sizes, STEPS, rows, seed, ragged=uneven, probes=probes)
        expected = outcome(reference, call)
        assert all(v.isfinite().all() for v in expected.values())
        what = f"cell {seed}, {memory}, {rows} rows:"
        same(outcome(mine, call), expected, 1e-9, what, floor=1e-12)


def quick(seed: int) -> bool:
    """Compiling takes a third of a second a cell: `make test` has time for a third of them."""
    return seed % 3 == 0


@pytest.mark.parametrize("batch", range(BATCHES))
def test_random_cells_are_the_reference(batch: int) -> None:
    """A third of the cells, each with one of the two ways of remembering."""
    for seed in filter(quick, range(batch, COUNT, BATCHES)):
        agree(seed, ("fast", "small")[seed // BATCHES % 2])


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(BATCHES))
def test_all_random_cells_are_the_reference_with_either_memory(batch: int) -> None:
    for seed in range(batch, COUNT, BATCHES):
        agree(seed, "fast")
        agree(seed, "small")


@pytest.mark.parametrize(
    ("first", "last"), [(0, 20), pytest.param(20, 100, marks=pytest.mark.slow)]
)
def test_float32_of_random_cells_is_as_good_as_the_references(first: int, last: int) -> None:
    """Errors in units of the reference's own (floor: 2e-8), in the mean of four calls at most 4; of all, about 1.

    A tensor of few numbers needs the four calls and more room: there is nothing to take a mean of in one.
    """
    everywhere, bad = [], []
    for seed in range(first, last):
        for key, (size, ratio) in single_precision(seed).items():
            everywhere.append(ratio)
            if ratio > (4 if size >= 8 else 16):
                bad.append(f"cell {seed}, {key}, {size} numbers: {ratio:.1f}")
    assert not bad, "\n".join(bad)
    assert median(everywhere) < 1.25


def single_precision(seed: int) -> dict[str, tuple[int, float]]:
    """For every value and gradient of a cell: how many numbers, and our error in units of the reference's own."""
    cell, sizes = Draw(seed).cell(), SIZES[seed % len(SIZES)]
    mine, reference = kernel_of(cell, seed, "fast"), kernel_of(cell, seed, "fast", "reference")
    ratios: dict[str, list[float]] = {}
    numbers: dict[str, int] = {}
    for draw in range(4):
        calls = [
            drawn_call(cell, sizes, STEPS, 33, 1000 * draw + seed, dtype, ragged=seed % 2 == 0)
            for dtype in (torch.float32, torch.float64)
        ]
        true = outcome(reference, calls[1])
        ours, theirs = outcome(mine, calls[0]), outcome(reference, calls[0])
        for key, value in true.items():
            numbers[key] = value.numel()
            own = max(rounding(theirs[key], value), 2e-8)
            ratios.setdefault(key, []).append(max(rounding(ours[key], value) / own, 1e-3))
    return {key: (numbers[key], geometric_mean(r)) for key, r in ratios.items()}


def test_inference_keeps_less_and_gives_the_same() -> None:
    for seed in range(1, COUNT, 50):
        cell, sizes = Draw(seed).cell(), SIZES[seed % len(SIZES)]
        mine = kernel_of(cell, seed, "fast")
        call = drawn_call(cell, sizes, STEPS, 7, seed, ragged=seed % 2 == 0)
        expected = mine(call)
        with torch.no_grad():
            found = mine(call)
        both = [
            dict(enumerate((run.output, *run.history, *run.final))) for run in (found, expected)
        ]
        same(both[0], both[1], 1e-13, f"cell {seed}")


# ---------------------------------------------------------------- narrow vectors


@pytest.mark.parametrize("vectors", ["avx2", "sse"])
def test_narrow_vectors_give_the_same_answers(
    vectors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells with all kinds of passes, in both precisions."""
    narrow(vectors, monkeypatch)
    for name in ("lstm", "gru_cho", kitchen):
        on_the_ladder(name)
    for seed in (200, 203, 204):
        agree(seed, "fast")


@pytest.mark.slow
@pytest.mark.parametrize("vectors", ["avx2", "sse"])
def test_narrow_vectors_give_the_same_answers_for_all_cells(
    vectors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cells of the ladder, in both precisions, and 30 random ones."""
    narrow(vectors, monkeypatch)
    for name in (*CASES, kitchen):
        on_the_ladder(name)
    for seed in range(200, 230):
        agree(seed, "fast")


def narrow(vectors: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from refold.kernels.llvm.machine.host import host, kinds, machine

    if vectors not in kinds(machine()):
        pytest.skip(f"this processor has no {vectors}")
    monkeypatch.setenv("REFOLD_VECTORS", vectors)
    assert host().vectors == vectors


def on_the_ladder(name: str | rf.Cell) -> None:
    found = []
    for backend, dtype in (
        (BACKEND, torch.float32),
        ("reference", torch.float32),
        ("reference", torch.float64),
        (BACKEND, torch.float64),
    ):
        layer = layer_of(name, 19, backend, dtype=dtype)
        x, states = given(layer, STEPS, 7)
        found.append(everything(layer, x, states, ragged(STEPS, 7)))
    as_good(*found[:3], what=label(name))
    same(found[3], found[2], 1e-12, label(name), floor=1e-13)
