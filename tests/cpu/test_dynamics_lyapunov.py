"""Lyapunov exponents where they are known: textbook maps and flows, linear networks, the sum rule."""

import math

import pytest
import torch
from torch.testing import assert_close

import refold as rf
from bench.flip_flop import flip_flop, trained

F64 = torch.float64


@rf.cell
def linear(h=rf.State("n"), *, W=rf.Weight("n n")):
    return W @ h


@rf.flow(source="Lorenz 1963", dt=0.01)
def lorenz(
    x=rf.State(""),
    y=rf.State(""),
    z=rf.State(""),
    *,
    sigma=rf.Scalar(10.0),
    rho=rf.Scalar(28.0),
    beta=rf.Scalar(8 / 3),
):
    return sigma * (y - x), x * (rho - z) - y, x * y - beta * z


def henon(h):
    return torch.stack([1 - 1.4 * h[0] ** 2 + h[1], 0.3 * h[0]])


def test_the_henon_map():
    random = torch.Generator().manual_seed(0)
    starts = 0.1 * torch.randn(8, 2, generator=random)
    found = rf.dynamics(henon, state=starts).lyapunov(k=2, steps=5000)
    assert found.exponents.tolist() == pytest.approx([0.419, -1.623], abs=3e-3)
    assert float(found.exponents.sum()) == pytest.approx(math.log(0.3), abs=1e-12)
    assert found.residual < 1e-12
    assert found.dimension == pytest.approx(1.258, abs=2e-3)
    assert abs(float(found.exponents[0]) - 0.4192) < 4 * float(found.errors[0])


def test_the_logistic_map():
    found = rf.dynamics(lambda h: 4 * h * (1 - h), state=[0.3]).lyapunov(steps=20_000)
    assert float(found.exponents) == pytest.approx(math.log(2), abs=2e-3)
    assert found.entropy == pytest.approx(math.log(2), abs=2e-3)
    assert found.dimension == 1.0


@pytest.mark.slow
def test_lorenz_as_a_flow():
    random = torch.Generator().manual_seed(0)
    starts = torch.tensor([1.0, 1.0, 20.0]) + torch.randn(16, 3, generator=random)
    d = rf.dynamics(lorenz, state=starts)
    assert d.dt == 0.01
    found = d.lyapunov(steps=20_000, warm_up=2_000)
    assert found.rates.tolist() == pytest.approx([0.906, 0.0, -14.57], abs=0.01)
    assert float(found.rates.sum()) == pytest.approx(-(10 + 1 + 8 / 3), abs=1e-3)
    assert found.residual < 1e-12
    assert found.dimension == pytest.approx(2.062, abs=2e-3)


def test_a_function_as_a_flow():
    """h' = A h: the exponents are the real parts of the eigenvalues, by the unit of time."""
    matrix = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=F64)
    d = rf.dynamics(lambda h: matrix @ h, state=[1.0, 0.0], flow=True, dt=0.05)
    found = d.lyapunov(steps=400)
    assert found.rates.tolist() == pytest.approx([-0.1, -0.1], abs=1e-6)
    assert_close(found.exponents, found.rates * 0.05)


def test_a_linear_network_has_the_logarithms_of_its_eigenvalues():
    torch.manual_seed(0)
    basis, values = (
        torch.randn(5, 5, dtype=F64),
        torch.tensor([1.3, -0.9, 0.7, 0.5, 0.2], dtype=F64),
    )
    matrix = basis @ torch.diag(values) @ basis.inverse()
    found = rf.dynamics(linear, parameters={"W": matrix}).lyapunov(5, steps=2000, warm_up=1000)
    assert_close(found.exponents, values.abs().log(), rtol=0, atol=1e-10)
    assert found.residual < 1e-12


def test_of_an_orthogonal_network_all_are_0():
    matrix = torch.linalg.qr(torch.randn(6, 6, dtype=F64)).Q
    found = rf.dynamics(linear, parameters={"W": matrix}, state=torch.ones(6)).lyapunov(steps=500)
    assert_close(found.exponents, torch.zeros(6, dtype=F64), rtol=0, atol=1e-12)


def test_the_sum_rule_on_a_trained_lstm():
    network, _ = trained("lstm", 8, 60)
    for seed in range(3):
        x, _ = flip_flop(400, 2, torch.Generator().manual_seed(seed))
        found = rf.dynamics(network, 2 * x).lyapunov(16, warm_up=20)
        assert found.residual < 1e-10
        assert found.rows == 2 and found.steps == 380 and found.open_loop


def test_the_largest_are_the_first_of_all():
    d = rf.dynamics(rf.Recurrent("gru", 2, 6, dtype=F64), torch.randn(600, 1, 2, dtype=F64))
    some, every = d.lyapunov(3), d.lyapunov(6)
    assert_close(some.exponents, every.exponents[:3], rtol=0, atol=1e-10)
    assert math.isnan(some.residual) and every.residual < 1e-12
    assert "per time" in str(every)


def test_standard_errors_are_of_the_size_of_the_spread():
    """Over 40 runs the exponents of the logistic map lie about as far from ln 2 as they say."""
    starts = torch.rand(40, 1, generator=torch.Generator().manual_seed(1))
    apart = [
        (float(f.exponents) - math.log(2)) / float(f.errors)
        for s in starts
        for f in [rf.dynamics(lambda h: 4 * h * (1 - h), state=s).lyapunov(steps=600)]
    ]
    assert 0.3 < torch.tensor(apart).square().mean().sqrt() < 2.0


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"k": 3}, "give k from 1 to 2"),
        ({"k": True}, "k is True"),
        ({"steps": 10, "warm_up": 10}, "leave at least one step"),
    ],
)
def test_what_cannot_be_is_refused(asked, text):
    with pytest.raises(rf.DataError, match=text):
        rf.dynamics(henon, state=[0.1, 0.1]).lyapunov(**asked)


def test_a_run_that_leaves_the_numbers_says_where():
    with pytest.raises(rf.DataError, match="no longer finite after step"):
        rf.dynamics(henon, state=[10.0, 0.0]).lyapunov(steps=50)
