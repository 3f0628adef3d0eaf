"""bench/omega.py in small: torch's double backward finds the same Omega, and the table marks what misses."""

import pytest

from bench import measure, omega

DRY = measure.Options("llvm", 0.0, (1,), busy=False, dry=True, part="")
RUNS = {"without", "with Omega", "at once", "step by step"}


@pytest.mark.parametrize("name", omega.CELLS)
def test_a_cell_beside_double_backward(name: str) -> None:
    found = omega.timed(name, omega.TINY[0], DRY)
    assert found.keys() == {"cell", "shape", *RUNS}
    assert min(found[key] for key in RUNS) > 0


def test_the_table_marks_what_misses() -> None:
    row = {"cell": "elman", "shape": (1, 2, 3, 4), "without": 1.0, "with Omega": 2.0}
    text = omega.rows_table([{**row, "at once": 20.0, "step by step": 41.0}])
    assert text.splitlines()[2] == (
        "| elman | 1, 2, 3, 4 | 1.00 | 2.00 | **2.00** ✗ | 20 ms, x 10 | 41 ms, x 20 |"
    )
