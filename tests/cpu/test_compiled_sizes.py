"""Numbers of inputs, units and rows from one upwards: wherever a vector, a tile or a block could end."""

import pytest
import torch
from compiled import BACKEND, everything, given, kitchen, layer_of, ragged, same

import refold as rf

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 33)


def all_rows(
    cell: str | rf.Cell, inputs: int, hidden: int, rows: tuple[int, ...], dtype: torch.dtype
) -> None:
    layer, twin = (
        layer_of(cell, hidden, b, inputs, dtype=dtype, bidirectional=True)
        for b in (BACKEND, "reference")
    )
    tolerance = 1e-11 if dtype == torch.float64 else 3e-4
    for batch in rows:
        x, states = given(layer, 3, batch)
        for lengths in (None, ragged(3, batch)):
            mine, theirs = (everything(made, x, states, lengths) for made in (layer, twin))
            what = f"{inputs} inputs, {hidden} units, {batch} rows"
            same(mine, theirs, tolerance, what, floor=tolerance / 100)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("inputs", "hidden"), [(1, 1), (2, 3), (5, 8), (16, 17), (33, 32), (100, 9), (3, 130)]
)
def test_sizes(inputs: int, hidden: int, dtype: torch.dtype) -> None:
    for cell in ("lstm", "elman"):
        all_rows(cell, inputs, hidden, (1, 2, 5, 7, 13, 33), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("hidden", range(1, 50))
def test_every_number_of_units(hidden: int, dtype: torch.dtype) -> None:
    # The norm of two numbers is hardly differentiable: in float32 there is nothing to compare.
    third = kitchen if dtype == torch.float64 else "two_layer_feedback"
    all_rows(("lstm", "gru_cho", third)[hidden % 3], 1 + 7 * hidden % 20, hidden, ROWS, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [127, 128, 255, 300, 513])
def test_large_layers(hidden: int) -> None:
    for cell in ("lstm", "gru_cho"):
        all_rows(cell, hidden // 3, hidden, (1, 6, 7, 64), torch.float64)


def test_many_rows_and_many_steps() -> None:
    layer, twin = (layer_of("gru", 5, b) for b in (BACKEND, "reference"))
    for steps, batch in ((1, 1000), (2, 333), (300, 2), (1000, 1)):
        x, states = given(layer, steps, batch)
        for lengths in (None, ragged(steps, batch)):
            mine, theirs = (everything(made, x, states, lengths) for made in (layer, twin))
            same(mine, theirs, 1e-10, f"{steps} steps, {batch} rows")
