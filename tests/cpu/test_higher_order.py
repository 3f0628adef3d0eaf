"""Derivatives of derivatives, and torch.func: what only the reference path gives."""

from collections.abc import Callable
from typing import Any

import cases
import pytest
import torch
from cases import (
    BATCH,
    CASES,
    STEPS,
    arguments,
    as_state,
    as_tuple,
    both_backends,
    every_cell,
    exact,
    make,
    noise,
    oracle_all,
    parameters,
    projection,
    relative,
    run_all,
)
from torch import Tensor
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

import refold as rf
from refold.errors import KernelError


def as_function(
    layer: rf.Recurrent, states: int
) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
    """The layer as a function of x, its states and its parameters; and the parameters."""
    names = [name for name, _ in layer.named_parameters()]

    def function(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        weights = dict(zip(names, rest[states:], strict=True))
        y, final = functional_call(layer, weights, (x, as_state(rest[:states])))
        return (y, *as_tuple(final))

    return function, [p.detach().clone().requires_grad_() for p in layer.parameters()]


def tiny(name: str) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
    """Two hidden units, one input, two steps: small enough for a second numerical derivative."""
    case = CASES[name]
    sizes: dict[str, Any] = dict.fromkeys(case.sizes, 1)
    layer = rf.Recurrent(case.cell, 1, 2, backend="reference", dtype=torch.float64, **sizes)
    cases.seeded(layer)
    widths = layer.state_sizes.values()
    states = [noise(1, 1, w, seed=80 + k).requires_grad_() for k, w in enumerate(widths)]
    function, weights = as_function(layer, len(states))
    return function, [noise(2, 1, 1, seed=79).requires_grad_(), *states, *weights]


@pytest.mark.parametrize("name", [name for name in CASES if name != "elman_relu"])
def test_second_order_gradients(name: str) -> None:
    """torch's own numerical check of the gradient of the gradient, every argument."""
    function, tensors = tiny(name)
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_hessian_vector_product_equals_the_oracles(name: str) -> None:
    layer = make(name)
    x, states, named = arguments(name, layer)
    products = []
    for values in (run_all(layer, x, states), oracle_all(name, parameters(layer), x, states)):
        first = torch.autograd.grad(projection(values), list(named.values()), create_graph=True)
        along = torch.stack(
            [(g * noise(*g.shape, seed=k)).sum() for k, g in enumerate(first)]
        ).sum()
        products.append(torch.autograd.grad(along, list(named.values())))
    for key, mine, theirs in zip(named, *products, strict=True):
        relative(mine, theirs, what=key)


def test_the_derived_adjoint_refuses_a_second_derivative() -> None:
    """Its reverse run leaves no graph behind: a gradient of the gradient would be too short."""
    layer = make("gru", "derived")
    x = noise(STEPS, BATCH, cases.INPUT).requires_grad_()
    y, _ = layer(x)
    with pytest.raises(KernelError, match="reference"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


@every_cell
def test_vmap_over_sequences(name: str) -> None:
    layer = make(name)
    x = noise(STEPS, BATCH, cases.INPUT)
    mine = vmap(lambda one: layer(one)[0], in_dims=1, out_dims=1)(x)
    exact(mine, layer(x)[0])


def test_vmap_over_an_ensemble_of_weights() -> None:
    layers = [cases.seeded(make("lstm"), seed=k) for k in range(3)]
    weights, buffers = stack_module_state(layers)
    x = noise(STEPS, BATCH, cases.INPUT)

    def one(w: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
        return functional_call(layers[0], (w, b), (x,))[0]

    exact(vmap(one)(weights, buffers), torch.stack([layer(x)[0] for layer in layers]))


@every_cell
def test_per_sample_gradients(name: str) -> None:
    """vmap(grad) over the batch against one backward pass per sequence."""
    layer = make(name)
    x, d = noise(BATCH, STEPS, cases.INPUT), noise(BATCH, STEPS, CASES[name].output, seed=2)
    weights = {key: p.detach() for key, p in layer.named_parameters()}

    def error(w: dict[str, Tensor], one: Tensor, target: Tensor) -> Tensor:
        return (functional_call(layer, w, (one,))[0] - target).square().sum()

    together = vmap(grad(error), in_dims=(None, 0, 0))(weights, x, d)
    for b in range(BATCH):
        layer.zero_grad()
        (layer(x[b])[0] - d[b]).square().sum().backward()
        for key, p in layer.named_parameters():
            assert p.grad is not None
            relative(together[key][b], p.grad, what=key)


@both_backends
def test_functional_call_uses_the_weights_it_is_given(backend: str) -> None:
    layer, other = make("gru", backend), cases.seeded(make("gru", backend), seed=5)
    x = noise(STEPS, BATCH, cases.INPUT)
    before = layer(x)[0]
    exact(functional_call(layer, dict(other.named_parameters()), (x,))[0], other(x)[0])
    assert torch.equal(layer(x)[0], before)
    assert float((before - other(x)[0]).detach().abs().max()) > 1e-3


# torch's own forward mode loads a module that uses what torch itself has deprecated.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@every_cell
def test_forward_mode(name: str) -> None:
    """J u by forward mode is the transpose of the reverse mode: <v, J u> = <J^T v, u>."""
    layer = make(name)
    x, states, _ = arguments(name, layer)
    function, weights = as_function(layer, len(states))
    primals = tuple(t.detach() for t in (x, *states, *weights))
    tangents = tuple(noise(*t.shape, seed=3 + k) for k, t in enumerate(primals))
    values, along = jvp(function, primals, tangents)[:2]
    exact(values[0], layer(x, as_state(states))[0])
    pull = torch.func.vjp(function, *primals)[1]
    v = tuple(noise(*value.shape, seed=90 + k) for k, value in enumerate(values))
    left = [(a * b).sum() for a, b in zip(v, along, strict=True)]
    right = [(a * b).sum() for a, b in zip(pull(v), tangents, strict=True)]
    relative(torch.stack(left).sum(), torch.stack(right).sum(), 1e-11, what="<v, J u>")
