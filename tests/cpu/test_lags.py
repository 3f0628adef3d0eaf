"""The gradient against the lag: where it can be worked out, and against the adjoints it is made of."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import refold as rf
from refold.data.batch import Batch
from refold.errors import DataError, RefoldError
from refold.train.gradients.bptt import gradients
from refold.train.gradients.lags import lag_curve

F64 = torch.float64
EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-15}
SUMS: dict[str, Any] = {"steps": "sum", "sequences": "sum"}
T, B = 12, 5
BACKENDS = ["reference", "derived", "llvm"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@rf.cell
def linear(x=rf.Input("m"), h=rf.State("n"), *, w=rf.Weight("n"), V=rf.Weight("n m")):
    return w * h + V @ x


def layer_of(cell, *args, **options):
    return rf.Recurrent(cell, 2, 4, *args, dtype=F64, **options)


def by_hand(network, x, d, layer, state, lengths, from_start=False):
    """For each lag the norms of dE/dstate, from the adjoints of each row alone."""
    found: list[list[float]] = [[] for _ in range(T)]
    for b, n in enumerate(lengths):
        if n == 0:
            continue
        target = d[b : b + 1] if d.ndim == 2 else d[:n, b : b + 1]
        mask = None if d.ndim == 2 else torch.arange(n)[:, None] == n - 1
        row = gradients(network, x[:n, b : b + 1], target, **SUMS, mask=mask)
        norms = row.states[layer][state][:, 0].norm(dim=-1).tolist()
        for lag, norm in enumerate(norms if from_start else norms[::-1]):
            found[lag].append(norm)
    return found


def compare(curve, found):
    for lag, norms in enumerate(found):
        if not norms:
            assert math.isnan(float(curve.mean[lag])) and math.isnan(float(curve.median[lag]))
            continue
        values = torch.tensor(norms, dtype=F64)
        assert_close(curve.mean[lag], values.mean(), **EXACT)
        assert_close(curve.median[lag], values.median(), **EXACT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("w", [0.5, 1.0, 1.25])
def test_of_one_weight_it_is_a_power_of_the_lag(w, backend):
    """h(t) = w h(t-1) + x(t): dE/dh(T - lag) = w^lag dE/dh(T)."""
    layer = rf.Recurrent(linear, 1, 1, dtype=F64, backend=backend)
    with torch.no_grad():
        layer.parameters_of()["w"].fill_(w)
    found = lag_curve(layer, torch.randn(T, B, 1, dtype=F64), torch.randn(T, B, 1, dtype=F64))
    (curve,) = found.curves
    assert found.lags.tolist() == list(range(T))
    assert (curve.layer, curve.state) == ("l0", "h")
    for values in (curve.median, curve.mean):
        assert_close(values / values[0], w ** torch.arange(T, dtype=F64), **EXACT)
    assert curve.growth == pytest.approx(math.log(w), abs=1e-12)
    assert curve.half_life == (2 if w == 0.5 else math.inf)  # at lag 1 it is a half, not below it


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_unequal_length_are_aligned_by_their_ends(backend):
    network = rf.Network(layer_of("lstm", num_layers=2, backend=backend), head=2)
    lengths = [T - 1, 3, 0, 7, 7]
    x, d = torch.randn(T, B, 2, dtype=F64), torch.randn(T, B, 2, dtype=F64)
    for b, n in enumerate(lengths):
        x[n:, b] = torch.nan
        d[n:, b] = torch.nan
    found = lag_curve(network, x, d, lengths=lengths)
    names = [(curve.layer, curve.state) for curve in found.curves]
    assert names == [("l0", "h"), ("l0", "c"), ("l1", "h"), ("l1", "c")]
    for k, curve in enumerate(found.curves):
        compare(curve, by_hand(network, x, d, k // 2, "hc"[k % 2], lengths))
    batch = Batch(x, torch.tensor(lengths), d, torch.tensor(lengths))
    for one, other in zip(found.curves, lag_curve(network, batch).curves, strict=True):
        assert_close(one.mean, other.mean, rtol=0, atol=0, equal_nan=True)


def test_the_last_error_is_the_last_that_counts():
    network = rf.Network(layer_of("gru"), head=1)
    x, d = torch.randn(T, B, 2, dtype=F64), torch.randn(T, B, 1, dtype=F64)
    last = [4, 9, 0, 11, 2]
    mask = torch.zeros(T, B, dtype=torch.bool)
    for b, t in enumerate(last):
        mask[: t + 1 : 2, b] = mask[t, b] = True
    cut = [t + 1 for t in last]
    for each in (mask, mask.unsqueeze(-1)):
        (curve,) = lag_curve(network, x, d, mask=each).curves
        compare(curve, by_hand(network, x, d, 0, "h", cut))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_one_output_for_a_sequence(bidirectional):
    """The reverse direction ends at step 0, and its lags are counted from there."""
    network = rf.Network(layer_of("gru", bidirectional=bidirectional), 3, "many-to-one")
    lengths, x = [T, 3, 0, 7, 7], torch.randn(T, B, 2, dtype=F64)
    d = torch.randint(3, (B,))
    found = lag_curve(network, x, d, "cross_entropy", lengths=lengths)
    assert [curve.layer for curve in found.curves] == ["l0", "l0_reverse"][: 1 + bidirectional]
    rows = [gradients(network, x[:n, b : b + 1], d[b : b + 1], "cross_entropy", **SUMS)
            for b, n in enumerate(lengths) if n]  # fmt: skip
    for k, curve in enumerate(found.curves):
        norms = [row.states[k]["h"][:, 0].norm(dim=-1).tolist() for row in rows]
        norms = norms if k else [row[::-1] for row in norms]
        compare(curve, [[row[lag] for row in norms if lag < len(row)] for lag in range(T)])


def test_a_state_that_is_not_read_is_counted_from_where_it_is_felt():
    network = rf.Network(layer_of("lstm"), head=1)
    x = torch.randn(T, B, 2, dtype=F64)
    h, c = lag_curve(network, x, x[..., :1]).curves
    assert float(c.median[0]) == 0 and float(h.median[0]) > 0
    below = [k for k in range(1, T) if c.median[k] < c.median[1] / 2]
    assert c.half_life == below[0] - 1
    assert c.growth < 0 and h.growth < 0


def test_what_nothing_is_felt_of():
    layer = layer_of("elman")
    with torch.no_grad():
        layer.parameters_of()["W_h"].zero_()
    x = torch.randn(T, B, 2, dtype=F64)
    (curve,) = lag_curve(layer, x, torch.zeros(T, B, 4, dtype=F64)).curves
    assert curve.half_life == 1 and math.isnan(curve.growth)
    y = layer(x)[0].detach()
    (curve,) = lag_curve(layer, x, y).curves  # no error at all
    assert curve.half_life == math.inf and math.isnan(curve.growth)


def test_it_is_told_in_a_few_lines():
    layer = rf.Recurrent(linear, 1, 1, dtype=F64)
    with torch.no_grad():
        for name, value in {"w": 0.5, "V": 0.0}.items():
            layer.parameters_of()[name].fill_(value)
    x = torch.zeros(T, 1, 1, dtype=F64)
    assert str(lag_curve(layer, x, x + 1)) == (
        "l0 h  half-life 2 steps, growth -0.693 nats a step; at lag 0: 2, 1: 1, 10: 0.002"
    )


def test_nothing_is_left_behind():
    network = rf.Network(layer_of("gru"), head=1)
    x = torch.randn(T, B, 2, dtype=F64)
    state = torch.get_rng_state()
    with torch.no_grad():
        found = lag_curve(network, x, x[..., :1])
    assert found.curves[0].mean.requires_grad is False
    assert all(p.grad is None for p in network.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_refusals():
    x, d = torch.zeros(T, B, 2, dtype=F64), torch.zeros(T, B, 4, dtype=F64)
    with pytest.raises(RefoldError, match=r"lag_curve\(network\)\nthe network is a GRU, whose"):
        lag_curve(nn.GRU(2, 4), x, d)  # type: ignore[arg-type]
    writer = rf.Network(layer_of("elman"), 2, "one-to-many")
    with pytest.raises(
        RefoldError, match=r"is a one-to-many, whose errors.*\ngive an rf\.Recurrent"
    ):
        lag_curve(writer, x[:1], d)
    nothing = torch.zeros(T, B, dtype=torch.bool)
    with pytest.raises(DataError, match=r"lag_curve\(\.\.\.\)\nno error counts.*\nlet the mask"):
        lag_curve(layer_of("elman"), x, d, mask=nothing)
    with pytest.raises(DataError, match="no error counts"):
        lag_curve(layer_of("elman"), x, d, lengths=[0] * B)
    with pytest.raises(DataError, match="d is a NoneType"):
        lag_curve(layer_of("elman"), x)
