"""Tables of entries, against the definition: which rows run at a step, and where the steps beside it lie."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from refold.kernels.llvm.running.tables import Table, uniform

LENGTHS = [[3, 3], [4, 2, 2, 1], [5, 0], [2, 2, 0, 0], [1], [0, 0], []]
every = pytest.mark.parametrize(
    ("lengths", "backwards"), [(lengths, b) for lengths in LENGTHS for b in (False, True)]
)


def table_of(lengths: list[int], backwards: bool) -> Table:
    steps = max(lengths, default=0)
    counts = [sum(length > t for length in lengths) for t in range(steps)]
    return Table(np.array(counts, np.int64), len(lengths), backwards)


def at(table: Table, t: int, row: int) -> tuple[int, int]:
    """Where a row of a step lies packed, and in turns."""
    return int(table.counts[:t].sum()) + row, t % 2 * table.batch + row


@every
@pytest.mark.parametrize("reverse", [False, True])
def test_each_row_of_each_step_runs_once_with_the_right_neighbours(
    lengths: list[int], backwards: bool, reverse: bool
) -> None:
    table = table_of(lengths, backwards)
    seen = []
    for begin, end, has_before, has_after, *places in table.entries(reverse).memory.tolist():
        assert begin < end
        for row in range(begin, end):
            t = next(t for t in range(table.steps) if at(table, t, 0) == (places[0], places[3]))
            assert t < lengths[row]
            before, after = (t + 1, t - 1) if backwards else (t - 1, t + 1)
            assert has_before == (0 <= before < lengths[row])
            if has_before:
                assert (places[1] + row, places[4] + row) == at(table, before, row)
            if reverse:  # a forward program asks for nothing that comes later
                assert has_after == (0 <= after < lengths[row])
                if has_after:
                    assert (places[2] + row, places[5] + row) == at(table, after, row)
            seen.append((t, row))
    times = range(table.steps)
    order = times if backwards == reverse else times[::-1]
    assert [t for t, _ in seen] == [t for t in order for length in lengths if length > t]
    assert len(set(seen)) == len(seen)


@every
def test_ends_and_predecessors_of_rows(lengths: list[int], backwards: bool) -> None:
    table = table_of(lengths, backwards)
    running = [row for row, length in enumerate(lengths) if length]
    ends = [at(table, lengths[row] - 1, row) for row in running]
    begins = [at(table, 0, row) for row in running]
    first, last = (ends, begins) if backwards else (begins, ends)
    for turns, rows in ((False, table.rows), (True, 2 * table.batch)):
        memory = torch.arange(rows)[:, None]
        assert table.first(memory, turns).flatten().tolist() == [place[turns] for place in first]
        assert table.last(memory, turns).flatten().tolist() == [place[turns] for place in last]
    found = [(inside, start + i) for inside, start, rows in table.before() for i in range(rows)]
    expected = []
    for t in range(table.steps):
        for row in range(int(table.counts[t])):
            before = t + 1 if backwards else t - 1
            inside = 0 <= before < lengths[row]
            expected.append((inside, at(table, before, row)[0] if inside else row))
    assert found == expected


@every
def test_pieces_share_the_work(lengths: list[int], backwards: bool) -> None:
    table = table_of(sorted(lengths * 9, reverse=True), backwards)
    for threads in (1, 2, 3):
        bounds = table.bounds(threads).memory.tolist()
        assert bounds[0] == 0
        assert bounds[-1] >= table.active
        assert bounds == sorted(bounds)
        assert len(bounds) - 1 <= threads
        work = [table.lengths()[a:b].sum() for a, b in pairwise(bounds)]
        assert max(work) - min(work) <= 2 * max(lengths, default=0)


def test_uniform_batches_are_tables_with_equal_counts() -> None:
    for backwards in (False, True):
        plain, table = table_of([4, 4, 4], backwards), uniform(4, 3, backwards)
        for reverse in (False, True):
            assert np.array_equal(plain.entries(reverse).memory, table.entries(reverse).memory)
        assert table is uniform(4, 3, backwards)
        part = table.part(1, 3)
        assert (part.steps, part.rows, part.uniform) == (2, 6, True)


@pytest.mark.parametrize("name", ["entries", "bounds"])
def test_threads_that_make_the_same_at_once_share_it(monkeypatch, name):
    """Code keeps addresses: what a thread was given has to be what the table holds on to."""
    whole, others = getattr(Table, f"_{name}"), []

    def overtaken(self, asked):
        if not others:
            others.append(None)  # another thread begins later, and is done before this one
            others[0] = getattr(self, name)(asked)
        return whole(self, asked)

    monkeypatch.setattr(Table, f"_{name}", overtaken)
    table = Table(np.full(3, 5, np.int64), 5, False)
    found = getattr(table, name)(1)
    assert found is others[0] and found is getattr(table, name)(1)
