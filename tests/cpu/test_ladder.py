"""The ladder of correctness: values, gradients and projections of every cell against the oracle."""

import math
from functools import partial
from typing import Any

import cases
import oracle
import pytest
import torch
from cases import (
    BATCH,
    STEPS,
    arguments,
    as_state,
    as_tuple,
    both_backends,
    by_name,
    every_cell,
    exact,
    initial,
    make,
    noise,
    oracle_all,
    parameters,
    projection,
    relative,
    run_all,
    seeded,
)
from torch import Tensor
from torch.func import functional_call
from torch.testing import assert_close

import refold as rf

TORCH = {
    "elman": (torch.nn.RNN, {"nonlinearity": "tanh"}),
    "elman_relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
    "gru": (torch.nn.GRU, {}),
    "lstm": (torch.nn.LSTM, {}),
}


# ---------------------------------------------------------------- rung 1: values


@both_backends
@every_cell
def test_values(name: str, backend: str) -> None:
    layer = make(name, backend)
    x, states, _ = arguments(name, layer)
    mine, theirs = run_all(layer, x, states), oracle_all(name, parameters(layer), x, states)
    assert mine.keys() == theirs.keys()
    for key, value in theirs.items():
        exact(mine[key], value, msg=lambda m, key=key: f"{key}: {m}")
    y, final = layer(x, as_state(states))
    exact(y, theirs["output"])
    for k, state in enumerate(as_tuple(final)):
        exact(state, theirs[f"final {k}"])


@both_backends
def test_a_fixed_scalar_is_overridden_by_keyword(backend: str) -> None:
    x, state = noise(STEPS, BATCH, cases.INPUT), initial("leaky", BATCH)
    layer = make("leaky", backend, alpha=0.3)
    expected = oracle.unfold(partial(oracle.leaky, alpha=0.3), parameters(layer), x, (state[0][0],))
    exact(layer(x, state[0])[0], expected.y)


@both_backends
@every_cell
def test_no_state_given_is_a_state_of_zeros(name: str, backend: str) -> None:
    layer = make(name, backend)
    x = noise(STEPS, BATCH, cases.INPUT)
    zeros = tuple(torch.zeros_like(s) for s in initial(name, BATCH))
    given = run_all(layer, x, zeros)
    y, final = layer(x, return_states="all")
    for key, value in (by_name(y["output"], final) | dict(y)).items():
        assert torch.equal(value, given[key]), key


# ---------------------------------------------------------------- rung 2: gradients


@both_backends
@every_cell
def test_gradient_of_every_argument(name: str, backend: str) -> None:
    """From every value the layer gives: outputs, all states at all steps, final states."""
    layer = make(name, backend)
    x, states, named = arguments(name, layer)
    mine = torch.autograd.grad(projection(run_all(layer, x, states)), list(named.values()))
    loss = projection(oracle_all(name, parameters(layer), x, states))
    theirs = torch.autograd.grad(loss, list(named.values()))
    for key, a, b in zip(named, mine, theirs, strict=True):
        relative(a, b, what=f"dE/d {key}")


@both_backends
@pytest.mark.parametrize("part", ["output", "final 0", "final 1"])
@pytest.mark.parametrize("name", ["lstm", "two_layer_feedback"])
def test_gradient_from_one_value_alone(name: str, part: str, backend: str) -> None:
    """The others then come without a gradient, which must count as zero."""
    layer = make(name, backend)
    x, states, named = arguments(name, layer)
    y, final = layer(x, as_state(states))
    mine = torch.autograd.grad(projection({part: by_name(y, final)[part]}), list(named.values()))
    theirs = torch.autograd.grad(
        projection({part: oracle_all(name, parameters(layer), x, states)[part]}),
        list(named.values()),
    )
    for key, a, b in zip(named, mine, theirs, strict=True):
        relative(a, b, what=f"dE/d {key}")


@both_backends
@pytest.mark.parametrize("wanted", ["x", "initial 1", "f.W_h", "p_o", "g.b"])
def test_gradient_of_one_argument_alone(wanted: str, backend: str) -> None:
    """What needs no gradient gets none, and what does is right without the others."""
    layer = make("lstm_peephole", backend)
    x, states, named = arguments("lstm_peephole", layer)
    theirs = torch.autograd.grad(
        projection(oracle_all("lstm_peephole", parameters(layer), x, states)), named[wanted]
    )
    for key, tensor in named.items():
        tensor.requires_grad_(key == wanted)
    projection(run_all(layer, x, states)).backward()
    assert {key for key, tensor in named.items() if tensor.grad is not None} == {wanted}
    found = named[wanted].grad
    assert found is not None
    relative(found, theirs[0], what=wanted)


@both_backends
def test_without_gradients_nothing_is_recorded(backend: str) -> None:
    layer = make("lstm", backend)
    x = noise(STEPS, BATCH, cases.INPUT)
    expected, _ = layer(x)
    with torch.no_grad():
        y, (h, c) = layer(x)
    assert expected.requires_grad
    assert not (y.requires_grad or h.requires_grad or c.requires_grad)
    assert torch.equal(y, expected)
    with torch.inference_mode():
        assert torch.equal(layer(x)[0], expected)


@both_backends
def test_gradients_add_up_over_calls_and_take_any_stride(backend: str) -> None:
    """Two calls in one graph; x, states and the incoming gradient are not contiguous."""
    layer = make("gru", backend)
    x, state = noise(cases.INPUT, BATCH, STEPS).permute(2, 1, 0), noise(1, cases.HIDDEN, BATCH).mT
    v = noise(cases.HIDDEN, BATCH, STEPS, seed=9).permute(2, 1, 0)
    assert not (x.is_contiguous() or state.is_contiguous() or v.is_contiguous())
    y, last = layer(x, state)
    again, _ = layer(x, last)
    mine = torch.autograd.grad([y, again], list(layer.parameters()), [v, v])
    run = oracle.unfold(oracle.gru, parameters(layer), torch.cat([x, x]), (state[0],))
    named = parameters(layer)
    theirs = torch.autograd.grad(run.y, list(named.values()), torch.cat([v, v]))
    by_id = {id(p): g for p, g in zip(layer.parameters(), mine, strict=True)}
    for (key, p), g in zip(named.items(), theirs, strict=True):
        relative(by_id[id(p)], g, what=key)


@both_backends
def test_power_of_a_scalar(backend: str) -> None:
    """h(t) = w h(t-1), h(0) = 1, E = h(T)^2 / 2: dE/dw = T w^(2T - 1)."""

    @rf.cell
    def line(x=rf.Input("m"), h=rf.State("n"), *, W_h=rf.Weight("n n"), W_x=rf.Weight("n m")):
        return W_h @ h + W_x @ x

    layer = rf.Recurrent(line, 1, 1, backend=backend, dtype=torch.float64)
    w = parameters(layer)["W_h"]
    with torch.no_grad():
        w.fill_(0.5)
    _, h = layer(torch.zeros(10, 1, 1).double(), torch.ones(1, 1, 1).double())
    (h**2 / 2).sum().backward()
    assert w.grad is not None
    assert abs(w.grad.item() - 1.9073486328125e-5) < 1e-12 * 1.9073486328125e-5
    assert 1.9073486328125e-5 == 10 * 0.5**19


@rf.cell
def every_kind(
    x=rf.Input("m"),
    u=rf.Input("p"),
    gain=rf.Input(""),
    h=rf.State("n"),
    trace=rf.State("p"),
    level=rf.State(""),
    *,
    a=rf.Affine("n"),
    W=rf.Weight("n n"),
    C=rf.Weight("p n"),
    s=rf.Scalar(0.5, learn=True),
    decay=rf.Scalar(0.9),
):
    A = W - W.T
    h = rf.tanh(a(x, u, h) + s * (A @ h) + level)
    new = decay * trace + C @ rf.softmax(h)
    level = rf.sigmoid(gain * level) + rf.mean(trace)
    return rf.Step(h, new, level, output=rf.concat(new, h))


def every_kind_by_hand(p: oracle.Parameters, x: Tensor, states: oracle.States) -> Any:
    h, trace, level = states
    x, u, gain = x[:3], x[3:5], x[5]
    pre = p["a.W_x"] @ x + p["a.W_u"] @ u + p["a.W_h"] @ h + p["a.b"]
    h = torch.tanh(pre + p["s"] * ((p["W"] - p["W"].T) @ h) + level)
    new = 0.8 * trace + p["C"] @ (h.exp() / h.exp().sum())
    level = torch.sigmoid(gain * level) + trace.sum() / 2
    return torch.cat([new, h]), (h, new, level)


@both_backends
def test_a_cell_with_every_kind_of_declaration(backend: str) -> None:
    """Several inputs and states, a number among each, weights combined before the loop, scalars."""
    layer = rf.Recurrent(every_kind, 3, 4, backend=backend, dtype=torch.float64, p=2, decay=0.8)
    cases.seeded(layer)
    assert layer.output_size == 6
    assert dict(layer.state_sizes) == {"h": 4, "trace": 2, "level": 1}
    x = noise(STEPS, BATCH, 6).requires_grad_()
    states = tuple(noise(1, BATCH, w, seed=70 + w).requires_grad_() for w in (4, 2, 1))
    lengths = [STEPS, 2, 4]
    y, final = layer(x, states, lengths)
    first = (states[0][0], states[1][0], states[2][0])
    run = oracle.unfold(every_kind_by_hand, parameters(layer), x, first, lengths)
    mine, theirs = by_name(y, final), by_name(run.y, tuple(s[None] for s in run.final))
    for key, value in theirs.items():
        exact(mine[key], value)
    leaves = {"x": x, **dict(enumerate(states)), **parameters(layer)}
    a = torch.autograd.grad(projection(mine), list(leaves.values()))
    b = torch.autograd.grad(projection(theirs), list(leaves.values()))
    for key, one, other in zip(leaves, a, b, strict=True):
        relative(one, other, what=f"dE/d {key}")


@rf.cell
def switch(x=rf.Input("m"), h=rf.State("n"), *, W=rf.Weight("n m"), b=rf.Bias("n"), c=rf.Bias("n")):
    return rf.where(b + c > rf.stop_gradient(W @ x), 0.3 * h, 0.5 * h)


@both_backends
def test_what_only_decides_gets_a_gradient_of_zero(backend: str) -> None:
    """x and the weights reach a condition and a stop_gradient alone."""
    layer = cases.seeded(rf.Recurrent(switch, 3, 4, backend=backend, dtype=torch.float64))
    x, h = noise(STEPS, BATCH, 3).requires_grad_(), noise(1, BATCH, 4).requires_grad_()
    y, _ = layer(x, h)
    leaves = [h, x, *parameters(layer).values()]
    start, *others = torch.autograd.grad(y.sum(), leaves, materialize_grads=True)
    p = {key: w.detach() for key, w in parameters(layer).items()}
    above = p["b"] + p["c"] > x.detach() @ p["W"].T
    shares = 0.5 - 0.2 * above.double()
    exact(start[0], shares.cumprod(0).sum(0))
    assert all(torch.count_nonzero(g) == 0 for g in others)


# ---------------------------------------------------------------- rung 3: one random projection


@both_backends
@every_cell
def test_projection_against_a_central_difference(name: str, backend: str) -> None:
    """<v, J u> along one random direction u of all arguments at once."""
    layer = make(name, backend)
    x, states, _ = arguments(name, layer)
    weights = dict(layer.named_parameters())
    tensors = [x, *states, *weights.values()]
    directions = [noise(*t.shape, seed=60 + k) for k, t in enumerate(tensors)]

    def energy(step: float) -> Tensor:
        moved = [t + step * u for t, u in zip(tensors, directions, strict=True)]
        inner = dict(zip(weights, moved[1 + len(states) :], strict=True))
        call = (moved[0], as_state(moved[1 : 1 + len(states)]))
        y, final = functional_call(layer, inner, call)
        return projection(by_name(y, final))

    gradients = torch.autograd.grad(energy(0.0), tensors)
    along = torch.stack([(g * u).sum() for g, u in zip(gradients, directions, strict=True)]).sum()
    step = 1e-5
    with torch.no_grad():
        difference = (energy(step) - energy(-step)) / (2 * step)
    assert abs(along.item()) > 1e-3
    assert_close(along, difference, rtol=1e-7, atol=0.0)


# ---------------------------------------------------------------- rung 4: single precision


def rounding(single: Tensor, double: Tensor) -> float:
    """Root-mean-square error of single precision, in units of the values' own scale."""
    error = (single.detach().double() - double.detach()).square().mean().sqrt()
    return float(error / double.detach().square().mean().sqrt())


def in_both_precisions(name: str, backend: str, seed: int) -> list[tuple[float, float]]:
    """For each value and gradient: the layer's rounding in float32, and that of the papers' formulas."""
    results: list[tuple[list[Tensor], list[Tensor]]] = []
    for dtype in (torch.float32, torch.float64):
        layer = seeded(make(name, backend, dtype=dtype), seed)
        x, states, _ = arguments(name, layer)
        x = x.detach().to(dtype).requires_grad_()
        states = tuple(s.detach().to(dtype).requires_grad_() for s in states)
        leaves = [x, *states, *parameters(layer).values()]
        pair: list[list[Tensor]] = []
        for values in (
            run_all(layer, x, states),
            oracle_all(name, parameters(layer), x, states),
        ):
            gradients = torch.autograd.grad(projection(values), leaves)
            pair.append([*(values[key] for key in sorted(values)), *gradients])
        results.append((pair[0], pair[1]))
    (mine, formulas), (_, exactly) = results
    assert all(one.dtype == torch.float32 for one in mine)
    return [
        (rounding(one, true), rounding(other, true))
        for one, other, true in zip(mine, formulas, exactly, strict=True)
    ]


@both_backends
@every_cell
def test_float32_is_as_good_as_the_oracle_in_float32(name: str, backend: str) -> None:
    """At most 4 times the error that the papers' formulas make in float32 (floor: 2e-8).

    Over several draws: a bias of four numbers can be rounded well by luck, on one side or the other.
    """
    draws = [in_both_precisions(name, backend, seed) for seed in range(11, 16)]
    for found in zip(*draws, strict=True):
        mine, formulas = (
            math.sqrt(sum(e * e for e in side) / len(side)) for side in zip(*found, strict=True)
        )
        assert mine <= 4 * max(formulas, 2e-8)


# ---------------------------------------------------------------- torch.nn with its own weights


def torch_module(name: str, layers: int, bidirectional: bool) -> torch.nn.RNNBase:
    make_module, options = TORCH[name]
    torch.manual_seed(7)
    return make_module(
        cases.INPUT,
        cases.HIDDEN,
        num_layers=layers,
        bidirectional=bidirectional,
        dtype=torch.float64,
        **options,
    )


@both_backends
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (3, False), (2, True)])
@pytest.mark.parametrize("name", TORCH)
def test_torch_nn_with_its_own_weights(
    name: str, layers: int, bidirectional: bool, backend: str
) -> None:
    """torch's weights copied: values, and gradients of x, states and the weights of all layers."""
    module = torch_module(name, layers, bidirectional)
    layer = make(name, backend, num_layers=layers, bidirectional=bidirectional)
    cases.copy_from_torch(layer, module)
    x = noise(STEPS, BATCH, cases.INPUT).requires_grad_()
    states = initial(name, BATCH, layers * (1 + bidirectional))
    y, final = layer(x, as_state(states))
    theirs_y, theirs_final = module(x, as_state(states))
    mine, theirs = by_name(y, final), by_name(theirs_y, theirs_final)
    for key, value in theirs.items():
        exact(mine[key], value)

    runs = [(k, r) for k in range(layers) for r in [False, True][: layer.directions]]
    weights = {
        key: t for run in runs for key, t in oracle.to_torch(parameters(layer, *run), *run).items()
    }
    again_y, again = functional_call(module, weights, (x, as_state(states)))
    leaves = {"x": x, **{f"initial {k}": s for k, s in enumerate(states)}}
    leaves |= {f"{run} {key}": p for run in runs for key, p in parameters(layer, *run).items()}
    a = torch.autograd.grad(projection(mine), list(leaves.values()))
    b = torch.autograd.grad(projection(by_name(again_y, again)), list(leaves.values()))
    for key, one, other in zip(leaves, a, b, strict=True):
        relative(one, other, what=f"dE/d {key}")
