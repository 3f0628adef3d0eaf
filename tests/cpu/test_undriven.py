"""Networks that nothing drives: an input without features, in every way that a layer can be run."""

import pytest
import torch
from cases import (
    BATCH,
    CASES,
    HIDDEN,
    STEPS,
    as_state,
    exact,
    initial,
    oracle_all,
    parameters,
    projection,
    relative,
    run_all,
    seeded,
)
from torch.testing import assert_close

import refold as rf

BACKENDS = pytest.mark.parametrize("backend", ["reference", "derived", "auto"])
F64 = torch.float64


def undriven(name: str, backend: str, **options) -> rf.Recurrent:
    case = CASES[name]
    given = {"dtype": F64, **case.sizes, **options}
    return seeded(rf.Recurrent(case.cell, 0, HIDDEN, backend=backend, **given))


@BACKENDS
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_loop(name: str, backend: str) -> None:
    layer, x, states = undriven(name, backend), torch.zeros(STEPS, BATCH, 0), initial(name, BATCH)
    x = x.double().requires_grad_()
    mine = run_all(layer, x, states)
    theirs = oracle_all(name, parameters(layer), x, states)
    for key, value in theirs.items():
        exact(mine[key], value)
    leaves = {f"initial {k}": s for k, s in enumerate(states)} | parameters(layer)
    a = torch.autograd.grad(projection(mine), [*leaves.values(), x])
    b = torch.autograd.grad(projection(theirs), list(leaves.values()))
    assert a[-1].shape == x.shape
    for key, one, other in zip(leaves, a[:-1], b, strict=True):
        assert one.shape == leaves[key].shape
        if one.numel():
            relative(one, other, what=f"dE/d {key}")


@BACKENDS
@pytest.mark.parametrize("name", ["elman", "gru", "lstm"])
def test_it_runs_as_with_an_input_of_zeros(name: str, backend: str) -> None:
    """Layers, both directions, ragged rows: the same numbers as compiled code has for one feature that is 0."""
    wired = {"num_layers": 2, "bidirectional": True}
    layer = undriven(name, backend, **wired)
    case = CASES[name]
    other = rf.Recurrent(case.cell, 1, HIDDEN, backend="llvm", dtype=F64, **wired)
    with torch.no_grad():
        for theirs, mine in zip(other.parameters(), layer.parameters(), strict=True):
            theirs.zero_() if theirs.shape != mine.shape else theirs.copy_(mine)
    states = as_state(initial(name, BATCH, 4))
    lengths = [STEPS - k % 3 for k in range(BATCH)]
    y, final = layer(torch.zeros(STEPS, BATCH, 0, dtype=F64), states, lengths=lengths)
    expected, end = other(torch.zeros(STEPS, BATCH, 1, dtype=F64), states, lengths=lengths)
    assert_close((y, final), (expected, end), rtol=1e-12, atol=1e-14)


def test_compiled_code_says_that_it_needs_a_feature() -> None:
    with pytest.raises(rf.KernelError, match="the input x has none"):
        rf.Recurrent("elman", 0, 2, backend="llvm")
    assert "the input x has none" in rf.Recurrent("elman", 0, 2).kernel.reason


def test_in_single_precision_it_learns() -> None:
    torch.manual_seed(0)
    layer = rf.Recurrent("elman", 0, 2)
    optimiser = torch.optim.Adam(layer.parameters(), 0.05)
    start, aim = torch.tensor([[[0.5, -0.5]]]), torch.tensor([0.2, 0.7])
    errors = []
    for _ in range(100):
        error = (layer(torch.zeros(5, 1, 0), start)[0][-1] - aim).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.01 * errors[0]
