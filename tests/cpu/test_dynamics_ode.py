"""Spectra, the real logarithm, and the network as a differential equation: one unit of flow is one step."""

import math

import pytest
import torch
from torch.testing import assert_close

import refold as rf
from refold.dynamics.logarithm import logarithm
from refold.dynamics.ode import METHODS, as_step

F64 = torch.float64


@rf.cell
def linear(h=rf.State("n"), *, W=rf.Weight("n n"), b=rf.Bias("n")):
    return W @ h + b


def scalar(w, u=0.1):
    return rf.dynamics(linear, parameters={"W": [[w]], "b": [u]})


def relu(matrix, bias, at):
    given = {"W_h": matrix, "W_x": torch.zeros(len(bias), 0), "b": bias}
    return rf.dynamics("elman_relu", state=torch.as_tensor(at, dtype=F64), parameters=given)


# Spectrum -------------------------------------------------------------------------------------------------------------


def test_time_constants_and_periods():
    turn, angle = 0.9, 2 * math.pi / 12
    block = [
        [turn * math.cos(angle), -turn * math.sin(angle)],
        [turn * math.sin(angle), turn * math.cos(angle)],
    ]
    matrix = torch.block_diag(torch.tensor(block, dtype=F64), torch.tensor([[-0.5]], dtype=F64))
    found = rf.dynamics(linear, parameters={"W": matrix, "b": torch.zeros(3)}).spectrum()
    assert_close(found.periods, torch.tensor([12.0, 12.0, 2.0], dtype=F64))
    expected = torch.tensor([-1 / math.log(0.9)] * 2 + [-1 / math.log(0.5)], dtype=F64)
    assert_close(found.time_constants, expected)
    assert_close(found.singular_values, torch.tensor([0.9, 0.9, 0.5], dtype=F64))
    assert (found.peak, found.growth) == (1, pytest.approx(0.9))
    assert found.departure == pytest.approx(0.0, abs=1e-6)
    vector = found.directions[:, 0]
    assert_close(found.jacobian.to(vector.dtype) @ vector, found.eigenvalues[0] * vector)


def test_transient_growth_of_a_matrix_that_is_not_normal():
    d = rf.dynamics(linear, parameters={"W": [[0.9, 10.0], [0.0, 0.9]], "b": [0.0, 0.0]})
    found = d.spectrum()
    assert (found.growth, found.peak) == (pytest.approx(38.746, abs=1e-3), 9)
    powers = [torch.linalg.matrix_power(found.jacobian, t) for t in range(1, 300)]
    assert found.growth == pytest.approx(max(float(torch.linalg.matrix_norm(p, 2)) for p in powers))
    assert found.departure > 0.9
    grows = rf.dynamics(linear, parameters={"W": [[1.1]], "b": [0.0]}).spectrum()
    assert math.isinf(grows.growth) and "without bound" in str(grows)
    assert float(grows.time_constants) == pytest.approx(-1 / math.log(1.1))


def test_at_a_state_and_an_input():
    layer = rf.Recurrent("elman", 1, 3, dtype=F64)
    p, h = layer.parameters_of(), torch.randn(3, dtype=F64)
    found = rf.dynamics(layer).spectrum(h, [0.5])
    a = torch.tanh(p["W_h"] @ h + 0.5 * p["W_x"][:, 0] + p["b"])
    assert_close(found.jacobian, (1 - a**2)[:, None] * p["W_h"], rtol=0, atol=1e-15)


# The logarithm --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 12])
@pytest.mark.parametrize("scale", [0.1, 1.0, 2.0])
def test_the_logarithm_of_an_exponential(size, scale):
    for seed in range(5):
        random = torch.Generator().manual_seed(seed)
        matrix = scale * torch.randn(size, size, generator=random, dtype=F64) / math.sqrt(size)
        if (
            float(torch.linalg.eigvals(matrix).imag.abs().max()) > 3
        ):  # another branch is the principal one
            continue
        whole = torch.linalg.matrix_exp(matrix)
        assert_close(logarithm(whole), matrix, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "matrix",
    [
        [[1.0, 1.0], [0.0, 1.0]],  # not diagonalisable
        [[0.9, 10.0], [0.0, 0.9]],
        [[0.0, -1.0], [1.0, 0.0]],
        [[-0.5, 0.0], [0.0, -0.5]],
        [[-0.5, 0.0, 0.3], [0.0, -0.5, 0.1], [0.0, 0.0, 0.7]],
        [
            [-2.0, 0.0, 0.0, 0.0],
            [0.0, -2.0, 0.0, 0.0],
            [0.0, 0.0, -3.0, 0.0],
            [0.0, 0.0, 0.0, -3.0],
        ],
        [[0.999, -0.03], [0.03, 0.999]],
    ],
)
def test_one_unit_of_flow_is_the_matrix(matrix):
    matrix = torch.tensor(matrix, dtype=F64)
    assert_close(torch.linalg.matrix_exp(logarithm(matrix)), matrix, rtol=0, atol=1e-12)


def test_a_pair_of_negative_eigenvalues_turns():
    found = logarithm(torch.diag(torch.tensor([-0.5, -0.5], dtype=F64)))
    expected = torch.tensor([[math.log(0.5), math.pi], [-math.pi, math.log(0.5)]], dtype=F64)
    assert_close(found.abs(), expected.abs(), rtol=0, atol=1e-14)


# The equation ---------------------------------------------------------------------------------------------------------


def test_one_unit_of_exact_flow_is_one_step():
    torch.manual_seed(0)
    for size in (1, 3, 8):
        matrix = torch.linalg.matrix_exp(torch.randn(size, size, dtype=F64) / math.sqrt(size))
        bias, h = torch.randn(size, dtype=F64), torch.randn(5, size, dtype=F64)
        d = rf.dynamics(linear, parameters={"W": matrix, "b": bias})
        found = d.ode()
        assert_close(found.flow(h, 1.0), h @ matrix.mT + bias, rtol=0, atol=1e-12)
        steps = h
        for _ in range(5):
            steps = steps @ matrix.mT + bias
        assert_close(found.flow(h, 5.0), steps, rtol=1e-11, atol=1e-11)
        assert found.agrees and found.valid.startswith("everywhere")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_fixed_point_and_goes_back(method):
    torch.manual_seed(1)
    matrix = torch.linalg.matrix_exp(0.5 * torch.randn(4, 4, dtype=F64))
    bias = torch.randn(4, dtype=F64)
    d = rf.dynamics(linear, parameters={"W": matrix, "b": bias}, dt=0.2)
    found = d.ode(method)
    rest = torch.linalg.solve(torch.eye(4, dtype=F64) - matrix, bias)
    assert_close(found.fixed_point, rest, rtol=0, atol=1e-11)
    assert_close(found.field(rest), torch.zeros(4, dtype=F64), rtol=0, atol=1e-11)
    back, forcing = found.back()
    assert_close(back, matrix, rtol=0, atol=1e-12)
    assert_close(forcing, bias, rtol=0, atol=1e-12)
    assert_close(
        as_step(found.matrix * 0.2, found.forcing * 0.2, method)[0], matrix, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    ("w", "exact", "taylor", "euler"),
    [
        (0.5, -0.69315, -1.0, -0.5),
        (0.9, -0.10536, -0.11111, -0.10),
        (0.99, -0.01005, -0.01010, -0.01),
        (1.1, 0.09531, 0.09091, 0.10),
    ],
)
def test_growth_exponents_of_one_unit(w, exact, taylor, euler):
    d = scalar(w)
    for method, expected in (("exact", exact), ("taylor", taylor), ("euler", euler)):
        assert float(d.ode(method).matrix) == pytest.approx(expected, abs=5e-6)
    assert float(d.ode("tustin").matrix) == pytest.approx(2 * (w - 1) / (w + 1))
    assert float(d.ode().fixed_point) == pytest.approx(0.1 / (1 - w))
    assert float(d.ode().time_constants) == pytest.approx(-1 / math.log(w))


def test_tustin_is_stable_where_the_map_is():
    for mu, taylor_stable, euler_stable in (
        (-0.5, False, True),
        (-2.0, True, True),
        (0.8, True, True),
    ):
        stable = abs(mu) < 1
        assert (float(scalar(mu).ode("tustin").matrix) < 0) == stable
        assert scalar(mu).ode("tustin").agrees
        assert (float(scalar(mu).ode("taylor").matrix) < 0) == (
            taylor_stable and abs(mu - 0.5) < 0.5
        )
        assert (float(scalar(mu).ode("euler").matrix) < 0) == euler_stable
    assert not scalar(-2.0).ode("euler").agrees
    assert "not that of the map" in str(scalar(-2.0).ode("euler"))


def test_the_error_of_each_method_has_its_order():
    """W = e^(eps A) over a time of 3: halving eps halves the error of taylor and euler, and quarters that of tustin."""
    torch.manual_seed(2)
    a, u = 0.5 * torch.randn(4, 4, dtype=F64), torch.randn(4, dtype=F64)
    errors: dict[str, list[float]] = {m: [] for m in METHODS}
    for eps in (0.1, 0.05):
        d = rf.dynamics(linear, parameters={"W": torch.linalg.matrix_exp(eps * a), "b": eps * u})
        h = d.states(round(3 / eps))[-1]
        for method in METHODS:
            found = d.ode(method).flow(d.start, 3 / eps)
            errors[method].append(float((found - h).norm() / h.norm()))
    ratio = {m: e[0] / e[1] for m, e in errors.items()}
    assert ratio["taylor"] == pytest.approx(2, abs=0.3) and ratio["euler"] == pytest.approx(
        2, abs=0.3
    )
    assert ratio["tustin"] == pytest.approx(4, abs=0.5)
    assert max(errors["exact"]) < 1e-12


def test_of_rectifiers_it_holds_while_they_are_active():
    matrix = [[0.5, 0.1], [0.2, 0.6]]
    d = relu(matrix, [0.3, 0.4], [1.0, 1.0])
    found = d.ode()
    assert found.valid == "as long as the same units are active"
    assert_close(found.flow(d.start, 7.0), d.states(7)[7], rtol=0, atol=1e-12)
    with pytest.raises(rf.RefoldError, match="eigenvalue 0: along its direction every state jumps"):
        relu(matrix, [0.3, -9.0], [1.0, 1.0]).ode()


def test_of_any_other_cell_it_is_the_linearisation():
    d = rf.dynamics(rf.Recurrent("gru", 1, 3, dtype=F64))
    (point,) = d.fixed_points(64).points
    found = d.ode("exact", point.state)
    assert_close(found.fixed_point, point.state, rtol=0, atol=1e-9)
    near = point.state + 1e-5
    assert_close(
        found.flow(near[None], 1.0),
        d.system.step(near[None], torch.zeros(1, 1, dtype=F64)),
        rtol=0,
        atol=1e-9,
    )
    assert found.valid.startswith("near the state")
    assert "h' = F(h, x) - h" in d.ode("euler", point.state).valid


@pytest.mark.parametrize(
    ("matrix", "method", "text"),
    [
        ([[-0.5]], "exact", "negative eigenvalue -0.5 once: the state alternates"),
        ([[-0.5, 1.0], [0.0, -0.5]], "exact", "2 times, with 1 direction"),
        ([[0.5, 0.0], [0.0, 0.0]], "exact", "eigenvalue 0"),
        ([[0.5, 0.0], [0.0, 0.0]], "taylor", "eigenvalue 0: it is not invertible"),
        ([[-1.0]], "tustin", "eigenvalue -1: it alternates for ever"),
        ([[0.5]], "forward", "choose one of exact, tustin, taylor, euler"),
    ],
)
def test_where_there_is_none_the_reason_is_told(matrix, method, text):
    d = rf.dynamics(linear, parameters={"W": matrix, "b": torch.zeros(len(matrix))})
    with pytest.raises(rf.RefoldError, match=text):
        d.ode(method)
