"""Flows: a differential equation stepped by a solver is an ordinary cell, of the order that the solver has."""

import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cases import BACKENDS, both_backends, exact, noise, relative, seeded
from torch import Tensor

import refold as rf

SOLVERS = ("euler", "exponential_euler", "heun", "rk4")
every_solver = pytest.mark.parametrize("solver", SOLVERS)


@rf.flow(source="a linear system")
def linear(h=rf.State("n"), *, W=rf.Weight("n n"), b=rf.Bias("n")):
    return W @ h + b


@rf.flow(source="a continuous-time network")
def network(
    x=rf.Input("m"), h=rf.State("n"), *, W=rf.Weight("n n"), U=rf.Weight("n m"), a=rf.Weight("n")
):
    drive = W @ rf.tanh(h) + U @ x
    return drive - a * h * h * h - 0.3 * h


@rf.flow(solver="exponential_euler")
def relaxing(h=rf.State("n"), *, a=rf.Weight("n"), b=rf.Bias("n")):
    return a * h + b


def made(cell: rf.Cell, backend: str = "reference", n: int = 3, m: int = 0, **settings):
    return seeded(rf.Recurrent(cell, m, n, backend=backend, dtype=torch.float64, **settings))


def nothing(steps: int, rows: int) -> Tensor:
    """The x of a cell without inputs."""
    return torch.zeros(steps, rows, 0, dtype=torch.float64)


# ---------------------------------------------------------------- order


def slope_of(errors: list[float]) -> float:
    """How the error falls as dt is halved, from the last two halvings."""
    return math.log2(errors[-2] / errors[-1])


ORDER = {"euler": 1, "exponential_euler": 1, "heun": 2, "rk4": 4}


@every_solver
def test_order_on_a_linear_equation(solver: str) -> None:
    """Against h(1) = exp(W) h(0) + W^-1 (exp(W) - 1) b."""
    start = noise(1, 2, 3)
    errors = []
    for steps in (16, 32, 64):
        layer = made(rf.stepped(linear, solver=solver, dt=1 / steps))
        W, b = layer.parameters_of()["W"].detach(), layer.parameters_of()["b"].detach()
        grown = torch.linalg.matrix_exp(W)
        true = start[0] @ grown.T + (torch.linalg.inv(W) @ (grown @ b - b))
        _, end = layer(nothing(steps, 2), start)
        errors.append(float((end[0] - true).detach().norm()))
    assert slope_of(errors) == pytest.approx(ORDER[solver], abs=0.15)


@every_solver
def test_order_on_a_nonlinear_equation(solver: str) -> None:
    """Against a solution with steps so small that its own error does not count."""
    start, x = noise(1, 2, 3), noise(1, 2, 2)
    fine = made(rf.stepped(network, solver="rk4", dt=1 / 2048), "llvm", m=2)
    with torch.no_grad():
        true = fine(x.expand(2048, -1, -1), start)[1]
    errors = []
    for steps in (16, 32, 64):
        layer = made(rf.stepped(network, solver=solver, dt=1 / steps), m=2)
        end = layer(x.expand(steps, -1, -1), start)[1]
        errors.append(float((end - true).detach().norm()))
    assert errors[-1] > 1e-13  # still the solver's error, and not that of rounding
    assert slope_of(errors) == pytest.approx(ORDER[solver], abs=0.2)


@both_backends
@pytest.mark.parametrize("dt", [1e-9, 0.01, 0.3, 2.0, 40.0])
def test_exponential_euler_is_exact_for_a_relaxation(dt: float, backend: str) -> None:
    layer = made(relaxing, backend, dt=dt)
    with torch.no_grad():
        layer.parameters_of()["a"].copy_(torch.tensor([-1.0, -0.02, -3.0]))
    a, b = (layer.parameters_of()[k].detach() for k in "ab")
    start = noise(1, 2, 3)
    decay = torch.exp(a * dt * torch.arange(1, 5, dtype=torch.float64)[:, None, None])
    exact(layer(nothing(4, 2), start)[0], decay * start - (1 - decay) * b / a)


def test_a_coarse_exponential_step_stays_where_euler_explodes() -> None:
    start, calls = noise(1, 1, 3), nothing(40, 1)
    for solver, bound in (("exponential_euler", True), ("euler", False)):
        layer = made(rf.stepped(relaxing, solver=solver, dt=5.0))
        with torch.no_grad():
            layer.parameters_of()["a"].fill_(-1.0)
        assert bool(layer(calls, start)[0].abs().max() < 10) is bound


# ---------------------------------------------------------------- (exp(z) - 1) / z


@both_backends
@pytest.mark.parametrize(
    "z", [0.0, 1e-300, 1e-12, -1e-9, -1e-4, 0.1, -0.499999, 0.5, -0.500001, 3.0, -80.0]
)
def test_the_exponential_factor_and_its_slope(z: float, backend: str) -> None:
    """From h = 0, with dt = b = 1, a step of dh/dt = z h + b gives (exp(z) - 1)/z, the integral of exp(z s) over s."""
    layer = made(relaxing, backend, n=1, dt=1.0)
    with torch.no_grad():
        layer.parameters_of()["a"].fill_(z)
        layer.parameters_of()["b"].fill_(1.0)
    y, _ = layer(nothing(1, 1))
    (slope,) = torch.autograd.grad(y.sum(), layer.parameters_of()["a"])
    points, weights = np.polynomial.legendre.leggauss(64)
    s = (points + 1) / 2
    value = (weights / 2 * np.exp(z * s)).sum()
    rise = (weights / 2 * s * np.exp(z * s)).sum()
    assert y.item() == pytest.approx(value, rel=2e-15)
    assert slope.item() == pytest.approx(rise, rel=5e-15 if abs(z) < 1 else 1e-13)


def test_the_exponential_factor_keeps_nan_and_does_not_make_one() -> None:
    layer = made(relaxing, n=2, dt=1.0)
    with torch.no_grad():
        layer.parameters_of()["a"].copy_(torch.tensor([float("nan"), 0.0]))
    y, _ = layer(nothing(1, 1))
    (slope,) = torch.autograd.grad(y[..., 1].sum(), layer.parameters_of()["b"])
    assert bool(y[..., 0].isnan()) and bool(y[..., 1].isfinite()) and bool(slope[1].isfinite())


# ---------------------------------------------------------------- what is explicit

WEIGHT = noise(3, 3, seed=4)
h0 = torch.tensor([[0.7, -0.4, 1.3]], dtype=torch.float64)
EXPLICIT: dict[str, tuple[Callable, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    # the right side in the language | in torch | its derivative by the same element, by hand
    "a power": (lambda h, W: -h * h, lambda h: -h * h, lambda h: -2 * h),
    "a quotient": (
        lambda h, W: h / (1 + h * h),
        lambda h: h / (1 + h * h),
        lambda h: (1 - h * h) / (1 + h * h) ** 2,
    ),
    "an activation": (
        lambda h, W: rf.tanh(2 * h),
        lambda h: torch.tanh(2 * h),
        lambda h: 2 - 2 * torch.tanh(2 * h) ** 2,
    ),
    "a size": (lambda h, W: -rf.abs(h), lambda h: -h.abs(), lambda h: -h.sign()),
    "a choice": (
        lambda h, W: rf.where(h > 0, -h, -2 * h),
        lambda h: torch.where(h > 0, -h, -2 * h),
        lambda h: torch.where(h > 0, -1.0, -2.0 + 0 * h),
    ),
    "a bound": (
        lambda h, W: rf.minimum(h, 0.5),
        lambda h: h.clamp(max=0.5),
        lambda h: (h < 0.5).double(),
    ),
    "a reduction is held": (
        lambda h, W: rf.sum(h) * h,
        lambda h: h.sum(-1, keepdim=True) * h,
        lambda h: h.sum(-1, keepdim=True),
    ),
    "a product is held": (
        lambda h, W: (W @ h) - h,
        lambda h: h @ WEIGHT.T - h,
        lambda h: -torch.ones_like(h),
    ),
    "a stopped gradient is held": (
        lambda h, W: rf.stop_gradient(h) * h,
        lambda h: h * h,
        lambda h: h,
    ),
    "nothing": (lambda h, W: W @ rf.tanh(h), lambda h: torch.tanh(h) @ WEIGHT.T, torch.zeros_like),
    "itself": (lambda h, W: h, lambda h: h, torch.ones_like),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", EXPLICIT)
def test_the_explicit_diagonal(case: str, backend: str) -> None:
    equation, right, diagonal = EXPLICIT[case]

    @rf.flow(solver="exponential_euler", dt=0.8)
    def cell(h=rf.State("n"), *, W=rf.Weight("n n"), b=rf.Bias("n")):
        return equation(h, W) + 0 * (W @ b)

    layer = made(cell, backend)
    with torch.no_grad():
        layer.parameters_of()["W"].copy_(WEIGHT)
    z = 0.8 * diagonal(h0)
    factor = torch.where(z == 0, 1.0, torch.expm1(z) / torch.where(z == 0, 1.0, z))
    y, _ = layer(nothing(1, 1), h0[None])
    exact(y[0], h0 + 0.8 * factor * right(h0))


# ---------------------------------------------------------------- gradients


def by_hand(solver: str, f: Callable, J: Callable, h: Tensor, dt: float | Tensor) -> Tensor:
    """One step of the textbook's formulas."""
    k1 = f(h)
    if solver == "euler":
        return h + dt * k1
    if solver == "exponential_euler":
        return h + torch.expm1(dt * J(h)) / J(h) * k1
    if solver == "heun":
        return h + dt * (k1 + f(h + dt * k1)) / 2
    k2 = f(h + dt * k1 / 2)
    k3 = f(h + dt * k2 / 2)
    k4 = f(h + dt * k3)
    return h + dt * (k1 + 2 * k2 + 2 * k3 + k4) / 6


@both_backends
@every_solver
def test_gradients_against_autograd_through_the_formulas(solver: str, backend: str) -> None:
    layer = made(rf.stepped(network, solver=solver, dt=0.2), backend, m=2)
    p = layer.parameters_of()
    x, h = noise(7, 2, 2).requires_grad_(), noise(1, 2, 3, seed=5).requires_grad_()
    y, _ = layer(x, h)
    state, found = h[0], []
    for t in range(7):

        def f(s: Tensor, t: int = t) -> Tensor:
            return torch.tanh(s) @ p["W"].T + x[t] @ p["U"].T - p["a"] * s**3 - 0.3 * s

        state = by_hand(solver, f, lambda s: -3 * p["a"] * s**2 - 0.3, state, 0.2)
        found.append(state)
    exact(y, torch.stack(found))
    leaves = {"x": x, "h": h, **p}
    seeds = noise(7, 2, 3, seed=8)
    a = torch.autograd.grad((y * seeds).sum(), list(leaves.values()))
    b = torch.autograd.grad((torch.stack(found) * seeds).sum(), list(leaves.values()))
    for name, one, other in zip(leaves, a, b, strict=True):
        relative(one, other, 1e-10, name)


# ---------------------------------------------------------------- dt


@rf.flow(solver="exponential_euler")
def irregular(x=rf.Input("m"), dt=rf.Input(""), h=rf.State("n"), *, U=rf.Weight("n m")):
    return U @ x - h


@both_backends
def test_irregular_steps_depend_on_their_sum_alone(backend: str) -> None:
    layer = made(irregular, backend, m=2)
    x = noise(1, 3, 2)
    h = noise(1, 3, 3, seed=2)
    gaps = torch.tensor([0.03, 1.7, 0.4, 0.0, 5.0], dtype=torch.float64)
    many = torch.cat([x.expand(5, -1, -1), gaps[:, None, None].expand(-1, 3, 1)], -1)
    once = torch.cat([x, gaps.sum().expand(1, 3, 1)], -1)
    exact(layer(many, h)[1], layer(once, h)[1])


@both_backends
@every_solver
def test_dt_as_an_input_and_its_gradient(solver: str, backend: str) -> None:
    layer = made(rf.stepped(irregular, solver=solver, substeps=2), backend, m=2)
    (U,) = layer.parameters_of().values()
    x = noise(6, 2, 3)
    x[..., 2] = x[..., 2].abs() + 0.1
    x.requires_grad_()
    y, _ = layer(x)
    h = torch.zeros(2, 3, dtype=torch.float64)
    found = []
    for t in range(6):
        drive, dt = x[t, :, :2] @ U.T, x[t, :, 2:] / 2
        for _ in range(2):
            h = by_hand(solver, lambda s, d=drive: d - s, lambda s: -torch.ones_like(s), h, dt)
        found.append(h)
    exact(y, torch.stack(found))
    a, b = (torch.autograd.grad(v.square().sum(), [x, U]) for v in (y, torch.stack(found)))
    relative(a[0], b[0], 1e-10, "x and dt")
    relative(a[1], b[1], 1e-10, "U")


@both_backends
@every_solver
def test_substeps_are_steps_with_the_input_held(solver: str, backend: str) -> None:
    coarse = made(rf.stepped(network, solver=solver, dt=0.4, substeps=4), backend, m=2)
    fine = made(rf.stepped(network, solver=solver, dt=0.1), backend, m=2)
    x = noise(5, 2, 2)
    exact(coarse(x)[0], fine(x.repeat_interleave(4, 0))[0][3::4])


def test_dt_is_a_setting_of_the_layer() -> None:
    x = noise(5, 2, 2)
    exact(made(network, m=2, dt=0.3)(x)[0], made(rf.stepped(network, dt=0.3), m=2)(x)[0])
    default = made(network, m=2)(x)[0]
    exact(default, made(network, m=2, dt=0.1)(x)[0])
    assert not torch.allclose(default, made(network, m=2, dt=0.3)(x)[0])


@both_backends
def test_dt_can_be_learned(backend: str) -> None:
    @rf.flow(solver="exponential_euler")
    def cell(h=rf.State("n", start=1.0), *, dt=rf.Scalar(0.5, learn=True)):
        return -h

    layer = rf.Recurrent(cell, 0, 2, backend=backend, dtype=torch.float64)
    y, _ = layer(nothing(3, 1))
    exact(y[-1, 0, 0], torch.tensor(math.exp(-1.5), dtype=torch.float64))
    (slope,) = torch.autograd.grad(y[-1, 0, 0], layer.parameters_of()["dt"])
    assert slope.item() == pytest.approx(-3 * math.exp(-1.5), rel=1e-12)


# ---------------------------------------------------------------- several states, outputs, restepping


@rf.flow(source="a mass on a spring", dt=0.1)
def spring(q=rf.State("n"), p=rf.State("n"), *, k=rf.Scalar(1.0)):
    return rf.Step(p, -k * q, output=0.5 * (p * p + k * q * q))


@both_backends
def test_several_states_and_an_output_at_the_new_ones(backend: str) -> None:
    layer = rf.Recurrent(spring, 0, 1, backend=backend, dtype=torch.float64)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    y, _ = layer(nothing(63, 1), (one, 0 * one), return_states="all")
    t = 0.1 * torch.arange(1, 64, dtype=torch.float64)
    torch.testing.assert_close(y["q"][:, 0, 0], t.cos(), rtol=0, atol=1e-5)
    torch.testing.assert_close(y["p"][:, 0, 0], -t.sin(), rtol=0, atol=1e-5)
    exact(y["output"], 0.5 * (y["p"] ** 2 + y["q"] ** 2))


def test_a_restepped_flow_is_the_same_equation() -> None:
    again = rf.stepped(network, solver="heun", dt=0.05, substeps=2, name="network_heun")
    assert again.name == "network_heun" and again.source == network.source
    kept = [[leaf for leaf in cell.graph.leaves if leaf.name != "dt"] for cell in (again, network)]
    assert kept[0] == kept[1]
    assert rf.stepped(rf.stepped(network, solver="euler"), solver="rk4", dt=0.1) == network
    assert rf.stepped(rf.stepped(network, dt=0.3), solver="heun").steps == rf.stepped(
        network, solver="heun", dt=0.3
    ).steps  # fmt: skip


def test_a_flow_travels_as_its_graph() -> None:
    loaded = pickle.loads(pickle.dumps(network))
    assert loaded == network
    x = noise(4, 2, 2)
    exact(made(loaded, m=2)(x)[0], made(network, m=2)(x)[0])
    with pytest.raises(rf.EquationError, match="which has no differential equation to step"):
        rf.stepped(loaded, solver="euler")
