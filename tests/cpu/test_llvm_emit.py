"""Compiled programs against an interpreter in NumPy: any size, any batch, every kind of vectors."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from llvm_programs import (
    Compiled,
    Interpreter,
    lstm_backward,
    lstm_forward,
    memory_for,
    normed,
    two_sizes,
)

from refold.errors import KernelError
from refold.kernels.llvm.emission.emit import module_of
from refold.kernels.llvm.lowering.program import Access, Line, Store
from refold.kernels.llvm.lowering.schedule import tiles
from refold.kernels.llvm.machine.host import host, kinds, machine

KINDS = list(kinds(machine()))
RAGGED = [9, 9, 8, 7, 7, 1, 1]  # rows at each step: two tile sizes, one tile, a single row
PROGRAMS = {
    "lstm forward": lambda: (lstm_forward(5, 20), False),
    "lstm backward": lambda: (lstm_backward(20), True),
    "folds": lambda: (normed(5, 37), False),
    "two sizes": lambda: (two_sizes(3, 20, 7), True),
}


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REFOLD_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("REFOLD_VECTORS", raising=False)
        yield


def wide(memory):
    """The same in the widest type of numbers."""
    memory = memory.copy()
    memory.arrays = [a.astype(np.longdouble) for a in memory.arrays]
    memory.matrices = {slot: m.astype(np.longdouble) for slot, m in memory.matrices.items()}
    return memory


def check(program, memory, compiled, bounds):
    """Every number of every buffer: what is written, and what must stay."""
    right = wide(memory)
    Interpreter(program, right).run()
    result = memory.copy()
    compiled.run(result, bounds)
    unit = np.finfo(memory.arrays[0].dtype).eps
    for buffer, got, want in zip(program.buffers, result.arrays, right.arrays, strict=True):
        scale = max(1.0, float(np.nanmax(abs(want), initial=0)))
        np.testing.assert_allclose(
            got, want.astype(got.dtype), rtol=0, atol=200 * unit * scale, err_msg=str(buffer)
        )
    return result


@pytest.mark.parametrize("vectors", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_does_what_it_says(name, dtype, vectors):
    program, backwards = PROGRAMS[name]()
    compiled = Compiled(program, host(vectors), dtype)
    for counts in ([1, 1, 1], [5, 5], RAGGED, [33, 33, 20]):
        for two in ((), ("h", "s", "c")):
            memory = memory_for(program, counts, dtype, two_steps=two, backwards=backwards)
            check(program, memory, compiled, [0, counts[0]])


@pytest.mark.parametrize("vectors", KINDS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_row_does_not_depend_on_its_neighbours(name, vectors):
    program, backwards = PROGRAMS[name]()
    compiled = Compiled(program, host(vectors), torch.float32)
    memory = memory_for(program, [13, 13, 12, 4], torch.float32, backwards=backwards)
    whole = memory.copy()
    compiled.run(whole, [0, 13])
    for bounds in ([0, 6, 13], [0, 1, 2, 5, 9, 13], list(range(14))):
        parts = memory.copy()
        compiled.run(parts, bounds)
        for buffer, a, b in zip(program.buffers, whole.arrays, parts.arrays, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"{buffer}, {bounds}")


@pytest.mark.parametrize("n", [1, 2, 7, 16, 17, 33, 48, 65, 100, 128])
def test_any_size(n):
    for program, backwards in ((lstm_forward(n, n), False), (normed(1, n), False)):
        compiled = Compiled(program, host(), torch.float32)
        for counts in ([1, 1], [8, 3]):
            memory = memory_for(program, counts, torch.float32, backwards=backwards)
            check(program, memory, compiled, [0, counts[0]])


def test_nan_and_infinity_reach_the_rows_that_they_stand_in_and_no_other():
    program = normed(3, 20)
    compiled = Compiled(program, host(), torch.float32)
    memory = memory_for(program, [7, 7], torch.float32)
    memory.arrays[0][2, 1] = np.nan  # x of row 2 in the first step
    memory.arrays[0][4, 0] = np.inf
    clean = memory.copy()
    clean.arrays[0][:] = np.where(np.isfinite(clean.arrays[0]), clean.arrays[0], 0)
    compiled.run(memory, [0, 7])
    compiled.run(clean, [0, 7])
    h, other = (m.arrays[1].reshape(2, 7, 20) for m in (memory, clean))
    touched = [2, 4]
    assert np.isnan(h[:, touched]).all()
    rest = [r for r in range(7) if r not in touched]
    np.testing.assert_array_equal(h[:, rest], other[:, rest])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiles_fit_the_registers_and_the_weights_fit_their_area(dtype):
    for kind in KINDS:
        target = host(kind)
        for make in PROGRAMS.values():
            program, _ = make()
            for step, tile in zip(program.passes, tiles(program, target, dtype), strict=True):
                if tile is None:
                    continue
                used = np.zeros(tile.size, int)
                for p in tile.packs:
                    for block in range(-(-p.rows // p.width)):
                        for k in range(p.columns):
                            at = p.offset + block * p.block_stride + k * p.k_stride
                            used[at : at + p.width] += 1
                assert (used == 1).all()
                wide = max(len(g.accumulators) for g in tile.groups) * tile.vectors
                assert wide * (tile.rows * tile.split + 1) + 1 <= target.vector_registers
                assert sum(len(g.accumulators) for g in tile.groups) == len(step.accumulators)


def test_neighbouring_operands_are_one_loop():
    (tile,) = tiles(lstm_backward(24), host(), torch.float32)
    assert tile is not None
    ((segment,),) = (group.segments for group in tile.groups)
    assert segment.size == 4 * 24 and segment.skipped
    (tile,) = tiles(lstm_forward(3, 24), host(), torch.float32)
    assert tile is not None
    for group in tile.groups:
        assert [s.size for s in group.segments] == [3, 24]
        assert all(s.accumulators == group.accumulators for s in group.segments)


def test_only_contraction_is_allowed():
    text = Compiled(two_sizes(3, 20, 7), host(), torch.float32).text
    assert set(re.findall(r"f(?:add|sub|mul|div) ((?:[a-z]+ )*)[<f]", text)) <= {"contract ", ""}


def test_a_type_without_vectors_is_refused():
    with pytest.raises(KernelError, match="float32 and float64"):
        tiles(lstm_forward(3, 4), host(), torch.float16)


def test_the_check_itself_finds_errors():
    program = lstm_forward(3, 20)
    compiled = Compiled(program, host(), torch.float32)
    memory = memory_for(program, [5, 5], torch.float32)
    wrong = memory.copy()
    wrong.matrices = {slot: m * 1.001 for slot, m in memory.matrices.items()}
    right = wide(memory)
    Interpreter(program, right).run()
    compiled.run(wrong, [0, 5])
    assert abs(wrong.arrays[1] - right.arrays[1]).max() > 200 * np.finfo(np.float32).eps


def changed(program, **fields):
    (sweep,) = program.passes
    return replace(program, passes=(replace(sweep, **fields),))


def test_a_program_that_reaches_beside_its_rows_is_refused():
    program = lstm_forward(3, 20)
    (sweep,) = program.passes
    far = (*sweep.stores, Store(0, Access(5, 61)))
    alone = (*sweep.lines, Line("read", attr=Access(2, 0, "after")))
    still = (*sweep.lines, Line("read", attr=Access(3, 0, "before")))
    for wrong, fact in (
        (
            changed(program, stores=far),
            "pass 0: a store takes columns 61 to 81 of kept, which has 80",
        ),
        (
            changed(program, lines=alone),
            "takes state c of the step after, which some rows do not have",
        ),
        (changed(program, lines=still), "takes the step before of first h, which has no steps"),
    ):
        with pytest.raises(KernelError, match=fact):
            module_of(wrong, tiles(wrong, host(), torch.float32), host(), torch.float32)
