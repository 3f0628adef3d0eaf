"""Fixed points and cycles where they are known, and those of networks that learned three bits of memory."""

import math
from collections import Counter

import pytest
import torch
from torch.testing import assert_close

import refold as rf
from bench.flip_flop import flip_flop, trained

F64 = torch.float64
ROOT = 0.8585596366401103  # of h = tanh(1.5 h)


def one_unit(w):
    return rf.dynamics(
        "elman", parameters={"W_h": [[w]], "W_x": torch.zeros(1, 0), "b": torch.zeros(1)}
    )


def test_the_tanh_of_a_layer_and_of_a_function():
    for d in (one_unit(1.5), rf.dynamics(lambda h: torch.tanh(1.5 * h), state=[0.1])):
        found = d.fixed_points(64, follow=200)
        assert [p.kind for p in found.points] == ["stable", "stable", "unstable"]
        states = torch.tensor([[-ROOT], [ROOT], [0.0]], dtype=F64)
        assert_close(found.states, states, rtol=0, atol=4e-16)
        slopes = [1.5 * (1 - ROOT**2)] * 2 + [1.5]
        values = [complex(p.multipliers[0]) for p in found.points]
        assert values == pytest.approx(slopes, abs=1e-14)
        assert max(p.residual for p in found.points) < 1e-15
        assert [p.index for p in found.points] == [0, 0, 1]
        assert found.points[0].basin + found.points[1].basin == 1.0
        assert found.lost == 0 and not len(found.slow)


def test_below_the_threshold_there_is_one():
    (point,) = one_unit(0.9).fixed_points(32).points
    assert point.kind == "stable" and float(point.state.abs()) < 1e-12


def test_at_a_constant_input():
    d = rf.dynamics("elman", parameters={"W_h": [[0.5]], "W_x": [[1.0]], "b": [0.0]})
    (point,) = d.fixed_points(8, [0.7]).points
    assert float(torch.tanh(0.5 * point.state + 0.7) - point.state) == pytest.approx(0, abs=1e-15)


def test_the_henon_map_has_two_saddles():
    def henon(h):
        return torch.stack([1 - 1.4 * h[0] ** 2 + h[1], 0.3 * h[0]])

    found = rf.dynamics(henon, state=[0.1, 0.1]).fixed_points(64)
    roots = sorted((-0.7 + s * math.sqrt(0.49 + 5.6)) / 2.8 for s in (-1, 1))
    assert sorted(float(p.state[0]) for p in found.points) == pytest.approx(roots, abs=1e-14)
    assert {p.kind for p in found.points} == {"saddle"}


def test_cycles_of_the_logistic_map():
    """At r = 3.2 the cycle of two is ((r + 1) +- sqrt((r - 3)(r + 1))) / 2r, its multiplier 4 + 2r - r^2."""
    r = 3.2
    d = rf.dynamics(lambda h: r * h * (1 - h), state=[0.3])
    (cycle,) = d.cycles(2, follow=300).points
    root = math.sqrt((r - 3) * (r + 1))
    expected = [(r + 1 - root) / (2 * r), (r + 1 + root) / (2 * r)]
    assert sorted(cycle.orbit[:, 0].tolist()) == pytest.approx(expected, abs=1e-14)
    assert complex(cycle.multipliers[0]) == pytest.approx(4 + 2 * r - r**2, abs=1e-12)
    assert (cycle.kind, cycle.period) == ("stable", 2)
    fixed = d.fixed_points().points
    assert sorted(float(p.state) for p in fixed) == pytest.approx([0, 1 - 1 / r], abs=1e-14)


@pytest.mark.parametrize(("p", "count"), [(1, 2), (2, 1), (3, 2), (4, 3), (5, 6)])
def test_the_cycles_of_full_chaos_can_be_counted(p, count):
    """Of 4 h (1 - h) the p-th iterate has 2^p fixed points; those of smaller periods are left out."""
    found = rf.dynamics(lambda h: 4 * h * (1 - h), state=[0.5]).cycles(
        p, torch.linspace(0.001, 0.999, 400)[:, None]
    )
    assert len(found.points) == count
    values = {round(abs(complex(c.multipliers[0])), 4) for c in found.points}
    assert values <= {2.0**p, 4.0**p}


def test_where_nothing_rests_the_slow_point_is_found():
    """h + (h^2 + 0.001): no root, and a passage that is slowest at 0."""
    found = rf.dynamics(lambda h: h + h**2 + 0.001, state=[0.0]).fixed_points(32)
    assert not found.points
    assert_close(found.slow, torch.zeros(1, 1, dtype=F64), rtol=0, atol=1e-6)
    assert float(found.slow_speeds) == pytest.approx(0.001, rel=1e-9)
    assert "slow point" in str(found)


def test_where_units_saturate_a_small_speed_is_no_root():
    """A gate that is all but shut keeps its state: the speed is 1e-13, and there is one fixed point, far off."""
    found = rf.dynamics(lambda h: h + 1e-13 * (3 - h), state=[0.0]).fixed_points(16)
    assert [round(float(p.state), 6) for p in found.points] in ([], [3.0])


def rests(d, starts, x, steps):
    """The states at which runs from the starts come to rest, each once, by nothing but the steps themselves."""
    h, held = starts, torch.as_tensor(x, dtype=F64)[None]
    for _ in range(steps):
        h = d.system.step(h, held)
    kept = []
    for row in h[(d.system.step(h, held) - h).norm(dim=-1) < 1e-9]:
        if all(float((row - k).norm()) > 1e-3 for k in kept):
            kept.append(row)
    return kept


@pytest.mark.parametrize("seed", [3, 7, 9])
def test_wherever_a_start_runs_to_rest_is_found(seed):
    """Fields of six that compete: far out everything slows down, and Newton's method overshoots."""
    torch.manual_seed(seed)
    weights = 3 * torch.rand(6, 6, dtype=F64).fill_diagonal_(0)
    x = 0.5 * torch.rand(6, dtype=F64)
    d = rf.dynamics("cohen_grossberg", parameters={"C": weights, "W_x": torch.eye(6)})
    starts = torch.randn(64, 6, dtype=F64)
    found = d.fixed_points(starts, x)
    known = rests(d, starts, x, 4000)
    assert known
    for state in known:
        away = (torch.stack([p.state for p in found.stable]) - state).norm(dim=-1)
        assert float(away.min()) < 1e-6
    assert max(p.residual for p in found.points) < 1e-12
    assert float(found.states.abs().max()) < 100
    assert found.lost <= 4 and found.rooted + found.slowed + found.lost == found.tried == 64


def test_gates_that_shut_lead_no_search_astray():
    """With weights of three times the usual size all but nothing moves far out; every start comes to the one point."""
    torch.manual_seed(0)
    layer = rf.Recurrent("gru", 1, 32, dtype=F64)
    with torch.no_grad():
        for name, value in layer.parameters_of().items():
            value.mul_(3.0 if "W" in name else 1.0)
    found = rf.dynamics(layer).fixed_points(64)
    assert found.rooted == 64 and len(found.points) == 1
    assert found.points[0].basin == found.points[0].starts == 1.0


def test_the_ends_of_all_starts_are_told():
    told = str(rf.dynamics(lambda h: h + h**2 + 0.001, state=[0.0]).fixed_points(32))
    assert "starts: 0.0% ended at a root, 100.0% at a slow point, 0.0% at none" in told
    assert "starts:" not in str(one_unit(1.5).fixed_points(8))


def test_without_runs_there_are_no_basins():
    found = one_unit(1.5).fixed_points(16, follow=0)
    assert len(found.points) == 3 and all(math.isnan(p.basin) for p in found.points)
    with pytest.raises(rf.DataError, match="follow is -1"):
        one_unit(1.5).fixed_points(16, follow=-1)


def test_starts_can_be_given_and_draws_repeat():
    d = one_unit(1.5)
    (point,) = d.fixed_points(torch.tensor([[0.5]])).points
    assert float(point.state) == pytest.approx(ROOT, abs=1e-15)
    assert str(d.fixed_points(16, seed=3)) == str(d.fixed_points(16, seed=3))


def test_a_period_that_is_none_is_refused():
    with pytest.raises(rf.DataError, match="p is 0"):
        one_unit(1.5).cycles(0)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_three_bits_are_eight_stable_points_and_the_saddles_between(cell):
    network, error = trained(cell, 16, 300)
    assert error < 0.06
    x, _ = flip_flop(64, 16, torch.Generator().manual_seed(1))
    d = rf.dynamics(network, x)
    found = d.fixed_points(512, follow=500)
    assert len(found.stable) == 8
    h = torch.stack([p.state[:16] for p in found.stable]).float()
    assert network.head is not None
    bits = network.head(h).sign()
    assert len({tuple(row) for row in bits.tolist()}) == 8
    assert sum(p.basin for p in found.stable) > 0.95
    # Between two memories that differ in one bit lies a saddle that one direction leaves: the 12 edges of a cube.
    assert Counter(p.index for p in found.saddles)[1] == 12
    assert max(p.residual for p in (*found.stable, *found.saddles)) < 1e-12
    for p in found.points:
        assert p.index == int(
            (torch.linalg.eigvals(d.jacobians(p.state)[0]).abs() > 1 + 1e-6).sum()
        )
