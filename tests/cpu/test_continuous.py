"""Continuous cells, reservoirs and the gallery against their oracles: values and every gradient, on every backend.

The shared tests of the zoo feed one input. Here a cell may read a time step beside it, or nothing at all, and have
weights that are not learned.
"""

import oracle
import pytest
import torch
from cases import (
    BATCH,
    HIDDEN,
    INPUT,
    STEPS,
    Case,
    as_state,
    both_backends,
    by_name,
    exact,
    noise,
    projection,
    relative,
    seeded,
)
from oracles import continuous, gallery, reservoir
from torch import Tensor

import refold as rf

CASES: dict[str, Case] = continuous.CASES | reservoir.CASES | gallery.CASES


def made(name: str, backend: str, **options) -> rf.Recurrent:
    case = CASES[name]
    torch.manual_seed(3)  # fixed weights are drawn when the layer is made
    size = 0 if name in gallery.CLOSED else INPUT
    settings = {"dtype": torch.float64, **case.sizes, **options}
    return seeded(rf.Recurrent(case.cell, size, HIDDEN, backend=backend, **settings))


def inputs(layer: rf.Recurrent) -> Tensor:
    """x, and after it the time since the last step, which is positive and irregular."""
    x = noise(STEPS, BATCH, layer.input_features)
    if layer.input_features > INPUT:
        x[..., INPUT:] = x[..., INPUT:].abs() + 0.1
    return x.requires_grad_()


def everything(layer: rf.Recurrent) -> dict[str, Tensor]:
    """Learned and fixed weights by their names in the equation."""
    return dict(layer.get_submodule("l0").named())  # type: ignore[operator]


def both(name: str, layer: rf.Recurrent, x: Tensor, states: tuple[Tensor, ...]):
    """Outputs, states at all steps and final states: the layer's, and the oracle's."""
    y, final = layer(x, as_state(states), return_states="all")
    mine = by_name(y["output"], final) | dict(y)
    run = oracle.unfold(CASES[name].step, everything(layer), x, tuple(s[0] for s in states))
    theirs = by_name(run.y, tuple(s[None] for s in run.final))
    return mine, theirs | dict(zip(CASES[name].states, run.states, strict=True))


def given(name: str) -> tuple[Tensor, ...]:
    sizes = CASES[name].states.values()
    return tuple(noise(1, BATCH, n, seed=21 + k).requires_grad_() for k, n in enumerate(sizes))


@both_backends
@pytest.mark.parametrize("name", CASES)
def test_values(name: str, backend: str) -> None:
    layer = made(name, backend)
    mine, theirs = both(name, layer, inputs(layer), given(name))
    assert mine.keys() == theirs.keys()
    for key, value in theirs.items():
        exact(mine[key], value, msg=lambda m, key=key: f"{key}: {m}")


@both_backends
@pytest.mark.parametrize("name", [name for name in CASES if name not in gallery.THRESHOLDS])
def test_gradient_of_every_argument(name: str, backend: str) -> None:
    layer = made(name, backend)
    x, states = inputs(layer), given(name)
    mine, theirs = both(name, layer, x, states)
    named = {f"initial {k}": s for k, s in enumerate(states)} | layer.parameters_of()
    if layer.input_features:
        named["x"] = x
    a = torch.autograd.grad(projection(mine), list(named.values()))
    b = torch.autograd.grad(projection(theirs), list(named.values()))
    for key, one, other in zip(named, a, b, strict=True):
        relative(one, other, what=f"dE/d {key}")


@pytest.mark.parametrize("name", gallery.THRESHOLDS)
def test_thresholds_have_no_gradient(name: str) -> None:
    layer = made(name, "derived")
    y, _ = layer(inputs(layer), as_state(given(name)))
    for gradient in torch.autograd.grad(y.sum(), list(layer.parameters())):
        assert not gradient.any()


@both_backends
@pytest.mark.parametrize("name", ["ltc", "cfc", "cfc_pure"])
def test_no_time_and_much_time(name: str, backend: str) -> None:
    """dt = 0 leaves a liquid network where it is; after a long time the outcome no longer depends on how long."""
    layer = made(name, backend)
    x, (h,) = inputs(layer).detach(), given(name)
    if name == "ltc":
        x[0, :, INPUT:] = 0.0
        exact(layer(x[:1], h)[0][0], h[0])
    x[..., INPUT:] = 1e6
    one, _ = layer(x[:1], h)
    x[..., INPUT:] = 1e8
    torch.testing.assert_close(layer(x[:1], h)[0], one, rtol=1e-4, atol=1e-4)


@both_backends
def test_liquid_states_stay_in_their_range(backend: str) -> None:
    """Hasani et al. 2021, theorem 2: between min(0, A) and max(0, A), whatever the input."""
    layer = made("ltc", backend)
    x = inputs(layer).detach()
    x[..., :INPUT] *= 1e3
    y, _ = layer(x)
    A = layer.parameters_of()["A"].detach()
    assert bool((y >= A.clamp(max=0) - 1e-12).all())
    assert bool((y <= A.clamp(min=0) + 1e-12).all())
