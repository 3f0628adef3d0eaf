"""Where fixed points change in kind, at values that are known; and maps of the state space."""

import math

import pytest
import torch
from torch.testing import assert_close

import refold as rf

F64 = torch.float64


def units(matrix, bias=None, **more):
    n = len(matrix)
    given = {"W_h": matrix, "W_x": torch.zeros(n, 0), "b": torch.zeros(n) if bias is None else bias}
    return rf.dynamics("elman", parameters=given, **more)


def told(found):
    return [(e.kind, round(e.value, 5)) for e in found.events]


def test_a_pitchfork_of_one_unit():
    found = units([[1.0]]).bifurcation("W_h", torch.linspace(0.5, 1.6, 8))
    assert told(found) == [("pitchfork", 1.0)]
    assert [len(p.points) for p in found.points] == [1, 1, 1, 1, 3, 3, 3, 3]
    assert (found.events[0].before, found.events[0].after) == (1, 3)
    assert found.attractor.shape == (8, 8, 32, 1)
    rest = found.attractor[-1, :, -1, 0].abs()
    assert rest[0] == 0  # from 0 itself, which is not stable but at rest
    assert_close(rest[1:], found.points[-1].points[0].state.abs().expand(7))


def test_of_a_function_by_its_keyword():
    """The logistic map: 0 passes its stability on at 1, and at 3 a cycle of two begins."""
    d = rf.dynamics(lambda h, r=3.0: r * h * (1 - h), state=[0.3])
    found = d.bifurcation("r", torch.linspace(0.5, 3.5, 7), exponents=True)
    assert told(found) == [("transcritical", 1.0), ("flip", 3.0)]
    assert found.exponents[0].item() == pytest.approx(math.log(0.5), abs=1e-6)
    assert (
        found.exponents[-1].item() < 0
        and len(found.attractor[-1, 0, :, 0].round(decimals=6).unique()) == 4
    )
    with pytest.raises(rf.DataError, match="no parameter 'q'"):
        d.bifurcation("q", [1.0])


def test_two_folds_of_one_unit_with_a_bias():
    """h = tanh(5 h + b): the slope is 1 where h^2 = 4/5, so b = +-(5 s - atanh s)."""
    s = math.sqrt(0.8)
    edge = 5 * s - math.atanh(s)
    found = units([[5.0]]).bifurcation("b", [-4.0, -1.0, 1.5, 4.0])
    assert told(found) == [("fold", round(-edge, 5)), ("fold", round(edge, 5))]


def test_a_rotation_begins_where_a_pair_leaves_the_circle():
    angle = 1.0
    turn = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    found = units(turn).bifurcation("W_h", torch.linspace(0.75, 1.3, 5))
    assert told(found) == [("neimark-sacker", 1.0)]
    multiplier = found.events[0].multiplier
    assert abs(math.atan2(multiplier.imag, multiplier.real)) == pytest.approx(1.0, abs=1e-3)
    assert "neimark-sacker at 1" in str(found)


def test_an_element_of_a_matrix_and_a_layer_of_a_stack():
    d = units([[0.5, 0.0], [0.0, 0.5]])
    found = d.bifurcation("W_h[0, 0]", [0.5, 0.8, 1.3, 1.5])
    assert told(found) == [("pitchfork", 1.0)]
    stack = rf.Recurrent("leaky", 2, 2, 2, dtype=F64)
    values = rf.dynamics(stack).bifurcation("l1.alpha", [0.1, 0.2], starts=4, steps=40)
    assert len(values.points) == 2
    for name, text in (
        ("W", "no parameter 'W'"),
        ("W_h[3, 0]", "name an element"),
        ("l7.W_h", "l7.W_h"),
    ):
        with pytest.raises(rf.DataError, match=text):
            rf.dynamics(stack).bifurcation(name, [1.0])
    with pytest.raises(rf.DataError, match="torch's names"):
        rf.dynamics(rf.nn.GRU(1, 2)).bifurcation("W_h", [1.0])


def test_nothing_changes_where_nothing_does():
    layer = rf.Recurrent("elman", 1, 2, dtype=F64)
    before = layer.parameters_of()["W_h"].clone()
    found = rf.dynamics(layer).bifurcation("W_h", [0.1, 0.2, 0.3])
    assert not found.events and "no fixed point changes" in str(found)
    assert torch.equal(layer.parameters_of()["W_h"], before)


# Phase portraits ------------------------------------------------------------------------------------------------------


def test_a_plane_of_two_units():
    d = units([[1.5, 0.5], [0.5, 1.5]], state=torch.tensor([0.1, -0.2]))
    found = d.phase_portrait(9)
    assert found.grid.shape == (81, 2) and found.explained == 1.0
    h = found.center + found.grid @ found.axes
    none = torch.zeros(1, 0, dtype=F64)
    assert_close(found.change, d.system.step(h, none) - h)
    assert_close(found.speed, found.change.norm(dim=-1))
    assert found.at.shape == (len(found.points.points), 2)
    assert found.runs.shape == (201, 1, 2)
    assert "own axes" in str(found)


def test_a_line_of_one_unit():
    found = units([[1.5]], state=torch.tensor([0.1])).phase_portrait(5)
    assert found.grid.shape == (5, 1)
    assert_close(found.change, torch.tanh(1.5 * found.grid) - found.grid)


def test_a_principal_plane_of_many():
    layer = rf.Recurrent("lstm", 2, 6, dtype=F64)
    found = rf.dynamics(layer, torch.randn(50, 4, 2)).phase_portrait(4)
    assert_close(found.axes @ found.axes.mT, torch.eye(2, dtype=F64))
    assert 0 < found.explained < 1 and found.runs.shape == (51, 4, 2)
    with pytest.raises(rf.DataError, match="at least 2"):
        rf.dynamics(layer).phase_portrait(1)
