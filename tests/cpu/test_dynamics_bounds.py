"""Interval arithmetic: no state, no entry of a Jacobian outside its bounds, for every cell."""

import math
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import refold as rf
from refold.dynamics import intervals
from refold.dynamics.bounds import Bound, bounds
from refold.dynamics.folded import Folded, folded
from refold.dynamics.intervals import Line
from refold.plan.cost import letters

F64 = torch.float64
WITHIN = 1 + 1e-12
# Flows of several stages, and cells whose states can grow without end or by a factor that has no bound.
NONE = {
    "antisymmetric", "antisymmetric_gated", "lipschitz", "lstm_1997", "lstm_1997_blocks", "janet", "lstm_layer_norm",
    "mc_lstm", "slstm", "slstm_exp", "cornn", "unicornn", "additive", "shunting", "gru_ode", "ltc", "cohen_grossberg",
    "ctrnn", "holt_winters",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def made(name: str, layers: int = 1, scale: float = 1.0) -> Folded:
    sizes: dict[str, Any] = dict.fromkeys(sorted(letters(rf.cells.get(name).graph) - {"m", "n"}), 3)
    layer = rf.Recurrent(name, 4, 4, layers, dtype=F64, **sizes)
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(scale)
    return folded(layer)


def box(system: Folded, wide: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    high = torch.full((system.inputs,), wide, dtype=F64)
    return -high, high


def between(low: torch.Tensor, high: torch.Tensor, count: int) -> torch.Tensor:
    """Random rows, a third of the numbers at an end."""
    share = torch.rand(count, len(low), dtype=F64)
    share = torch.where(torch.rand_like(share) < 1 / 3, share.round(), share)
    return low + (high - low) * share


@pytest.mark.parametrize("scale", [0.3, 1.0])
@pytest.mark.parametrize("name", rf.cells.all())
def test_no_state_and_no_slope_is_outside(name: str, scale: float) -> None:
    system = made(name, scale=scale)
    start = torch.randn(3, system.size, dtype=F64) / 4
    if name in ("mc_lstm", "slstm", "slstm_exp"):
        start = system.starts.expand(3, -1)
    found = bounds(system, start, box(system))
    if not found:
        assert name in NONE or scale == 1.0
        return
    (bound,) = found
    h, x = between(bound.low, bound.high, 300), between(*box(system), 300)
    after, jacobian = system.linear(h, x)
    jacobian = jacobian.abs().nan_to_num(0.0)  # a slope that is none, as of a square root at 0
    assert bool((jacobian <= bound.matrix * WITHIN + 1e-14).all())
    assert bool((after >= bound.low - 1e-12).all() and (after <= bound.high + 1e-12).all())
    h = start.repeat(50, 1)
    for _ in range(30):
        h = system.step(h, between(*box(system), len(h)))
        assert bool((h >= bound.low - 1e-12).all() and (h <= bound.high + 1e-12).all())


@pytest.mark.parametrize("name", ["elman", "gru", "lstm", "mgu", "lstm_coupled", "li_gru"])
def test_it_is_known_of_common_cells_at_their_usual_size(name: str) -> None:
    system = made(name)
    assert bounds(system, torch.zeros(1, system.size, dtype=F64), box(system))


@pytest.mark.parametrize("name", ["gru", "lstm", "elman"])
def test_products_along_a_run_are_below_the_power(name: str) -> None:
    system = made(name, scale=0.4)
    (bound,) = bounds(system, torch.zeros(1, system.size, dtype=F64), box(system))
    h, product = torch.zeros(20, system.size, dtype=F64), torch.eye(system.size, dtype=F64)
    for lag in range(1, 21):
        x = between(*box(system), 20)
        h, jacobian = system.linear(h, x)
        product = jacobian @ product
        largest = float(torch.linalg.matrix_norm(product, 2).max())
        assert largest <= bound.left(lag) * WITHIN
    assert bound.left(200) < bound.left(20)


def test_upper_layers_read_what_the_lower_can_give() -> None:
    system = made("gru", 3, 0.5)
    found = bounds(system, torch.zeros(1, system.size, dtype=F64), box(system, 2.0))
    assert len(found) == 3
    h = torch.zeros(100, system.size, dtype=F64)
    low, high = torch.cat([b.low for b in found]), torch.cat([b.high for b in found])
    for _ in range(20):
        h, jacobian = system.linear(h, between(*box(system, 2.0), 100))
        assert bool((h >= low).all() and (h <= high).all())
        for k, bound in enumerate(found):
            own = jacobian[:, 4 * k : 4 * k + 4, 4 * k : 4 * k + 4].abs()
            assert bool((own <= bound.matrix * WITHIN).all())


@pytest.mark.parametrize("name", ["elman", "esn"])
def test_without_a_start_it_holds_for_any_state(name: str) -> None:
    system = made(name, scale=0.5)
    (bound,) = bounds(system, None, box(system))
    h = system.step(100 * torch.randn(200, system.size, dtype=F64), between(*box(system), 200))
    for _ in range(5):
        assert bool((h >= bound.low).all() and (h <= bound.high).all())
        h, jacobian = system.linear(h, between(*box(system), 200))
        assert bool((jacobian.abs() <= bound.matrix * WITHIN).all())


def test_the_bounds_of_one_unit_by_hand() -> None:
    """tanh(0.5 h + x), x within 1: |h| is below the root r of r = tanh(0.5 r + 1), and no slope is above 0.5."""
    given = {"W_h": [[0.5]], "W_x": [[1.0]], "b": [0.0]}
    system = rf.dynamics("elman", parameters=given).system
    assert isinstance(system, Folded)
    (bound,) = bounds(system, torch.zeros(1, 1, dtype=F64), box(system))
    root = 0.9
    for _ in range(100):
        root = math.tanh(0.5 * root + 1)
    assert root <= float(bound.high) < root + 1e-3 and float(bound.low) == -float(bound.high)
    assert_close(bound.matrix, torch.tensor([[0.5]], dtype=F64))


def test_what_has_no_bound_has_none() -> None:
    wide = Bound(torch.zeros(1), torch.zeros(1), torch.tensor([[math.inf]], dtype=F64))
    assert wide.radius == math.inf
    system = made("elman_relu", scale=4.0)
    assert bounds(system, torch.zeros(1, 4, dtype=F64), box(system)) == ()


def line(low: float, high: float, slope: float = 1.0) -> Line:
    ends = [torch.tensor([v], dtype=F64) for v in (low, high)]
    return Line(ends[0], ends[1], torch.tensor([[slope]], dtype=F64))


@pytest.mark.parametrize("op", sorted(set(intervals.RISING) - {"floor", "round", "sign"}))
@pytest.mark.parametrize(("low", "high"), [(0.2, 3.0), (0.5, 0.5), (-0.9, -0.3), (-0.7, 2.0)])
def test_functions_between_ends(op: str, low: float, high: float) -> None:
    if low < 0 and op in ("log", "sqrt"):
        pytest.skip("not defined below 0")
    h = torch.linspace(low, high, 101, dtype=F64).requires_grad_()
    function = intervals.RISING[op][0]
    y = function(h)
    (slope,) = torch.autograd.grad(y.sum(), h)
    found = intervals.rising(op, line(low, high))
    assert_close((found.low, found.high), (y.min()[None].detach(), y.max()[None].detach()))
    assert found.change is not None
    assert float(slope.abs().max()) * (1 - 1e-3) <= float(found.change) * WITHIN
    assert float(found.change) <= float(slope.abs().max()) * 1.01 + 1e-9


def test_arithmetic_with_and_without_ends() -> None:
    a, b, whole = line(-1.0, 2.0), line(0.5, 4.0), line(-math.inf, math.inf)
    assert_close(intervals.product(a, b).low, torch.tensor([-4.0], dtype=F64))
    assert_close(intervals.product(a, a).low, torch.tensor([0.0], dtype=F64))
    assert_close(intervals.quotient(a, b).high, torch.tensor([4.0], dtype=F64))
    assert float(intervals.quotient(b, a).high) == math.inf
    nothing = intervals.product(line(0.0, 0.0, 0.0), whole)
    assert (float(nothing.low), float(nothing.high), float(nothing.change or 0)) == (0, 0, 0)
    gate = Line(torch.tensor([0.2]).double(), torch.tensor([0.6]).double())
    kept = intervals.mixed(gate, line(-1, 1), line(-1, 1, 0.5))
    assert (float(kept.low), float(kept.high)) == pytest.approx((-1, 1))
    assert kept.change is not None and float(kept.change) == pytest.approx(0.8 + 0.2 * 0.5)
