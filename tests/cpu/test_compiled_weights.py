"""Weights of compiled layers: copied, written to in any way, frozen, converted; nothing old is used again."""

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import cases
import pytest
import torch
from cases import by_name
from compiled import (
    BACKEND,
    everything,
    given,
    gradients_of,
    identical,
    layer_of,
    ragged,
    same,
    values_of,
)
from torch import Tensor, nn
from torch.func import functional_call, vmap

import refold as rf

STEPS, BATCH, HIDDEN = 5, 7, 19


def twins(name: Any = "lstm", **options) -> tuple[rf.Recurrent, rf.Recurrent]:
    """The layer, and the same with the reference backend."""
    mine, reference = (layer_of(name, HIDDEN, b, **options) for b in (BACKEND, "reference"))
    return mine, reference


def warm(layer: rf.Recurrent, x: Tensor, states: tuple[Tensor, ...]) -> None:
    """Calls without gradients, which find all that does not change from call to call prepared."""
    with torch.no_grad():
        for _ in range(3):
            layer(x, states)


# ---------------------------------------------------------------- copies


def _through_a_file(layer: rf.Recurrent) -> rf.Recurrent:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[rf.Recurrent], rf.Recurrent]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "torch.save": _through_a_file,
}


@pytest.mark.parametrize("used", ["never", "with gradients", "without"])
@pytest.mark.parametrize("how", COPIES)
def test_copies_are_layers_of_their_own(how: str, used: str) -> None:
    layer, _ = twins("lstm", num_layers=2)
    x, states = given(layer, STEPS, BATCH)
    if used == "with gradients":
        layer(x, states)[0].sum().backward()
    elif used == "without":
        warm(layer, x, states)
    other = COPIES[how](layer)
    if used == "without":
        with torch.no_grad():
            for p in other.parameters():
                p.mul_(2.0)
            both = by_name(*other(x, states)), by_name(*layer(x, states))
            for p in other.parameters():
                p.mul_(0.5)
            identical(by_name(*other(x, states)), both[1])
        assert not torch.equal(both[0]["output"], both[1]["output"])
    layer.zero_grad()
    other.zero_grad()
    first = everything(layer, x, states)
    identical(everything(other, x, states), first)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.5)
    identical(everything(layer, x, states), first)
    assert not torch.equal(values_of(other, x, states)["output"], first["output"])


# ---------------------------------------------------------------- weights that change


def _another_data(layer: rf.Recurrent) -> None:
    for p in layer.parameters():
        p.data = p.data * 0.5


def _others(layer: rf.Recurrent) -> None:
    for module in layer.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(p.detach() * 0.5))


def _numpy_halved(p: Tensor) -> None:
    p.detach().numpy()[...] *= 0.5


WRITES: dict[str, Callable[[rf.Recurrent], object]] = {
    "in place": lambda layer: [p.mul_(0.5) for p in layer.parameters()],
    "through .data": lambda layer: [p.data.mul_(0.5) for p in layer.parameters()],
    "another .data": _another_data,
    "through numpy": lambda layer: [_numpy_halved(p) for p in layer.parameters()],
    "an optimiser": lambda layer: torch.optim.SGD(layer.parameters(), lr=0.5).step(),
    "a state dict": lambda layer: layer.load_state_dict(
        {k: v * 0.5 for k, v in layer.state_dict().items()}
    ),
    "an assigned state dict": lambda layer: layer.load_state_dict(
        {k: v * 0.5 for k, v in layer.state_dict().items()}, assign=True
    ),
    "a vector of parameters": lambda layer: nn.utils.vector_to_parameters(
        0.5 * nn.utils.parameters_to_vector(layer.parameters()), layer.parameters()
    ),
    "other Parameters": _others,
    "drawn anew": lambda layer: (torch.manual_seed(3), layer.reset_parameters()),
    "one number": lambda layer: cases.parameters(layer)["f.W_h"].view(-1)[7].fill_(2.0),
    "one bias": lambda layer: cases.parameters(layer)["f.b"][3].fill_(2.0),
}


UNCOUNTED = ("through .data", "through numpy")  # torch's counters of changes do not see these


@pytest.mark.parametrize("steps", [1, STEPS])
@pytest.mark.parametrize("how", WRITES)
def test_weights_are_read_as_they_are_now(how: str, steps: int) -> None:
    """However they were changed since the last call: nothing made of old weights is used again.

    But for one case: single steps without gradients hold packed weights until torch counts a change.
    """
    layer, reference = twins("lstm")
    x, states = given(layer, steps, BATCH)
    for made in (layer, reference):
        made.eval()
        for p in made.parameters():
            p.grad = p.detach().clone()
        with torch.no_grad():
            for _ in range(3):
                made(x, states)
            WRITES[how](made)
        made.zero_grad()
    if steps > 1 or how not in UNCOUNTED:
        with torch.no_grad():
            same(by_name(*layer(x, states)), by_name(*reference(x, states)))
    same(everything(layer, x, states), everything(reference, x, states))
    with torch.no_grad():
        same(by_name(*layer(x, states)), by_name(*reference(x, states)))


@pytest.mark.parametrize("steps", [1, STEPS])
def test_a_warm_layer_notices_whatever_is_different(steps: int) -> None:
    """Other tensors, other layouts, other weights, modes, types and mistakes, after calls that were all alike."""
    layer, reference = twins("lstm", num_layers=2)
    x, states = given(layer, steps, BATCH)
    weights = {k: p.detach() * 0.5 for k, p in layer.named_parameters()}
    other, _ = given(layer, steps, 3)
    wide = torch.stack([x, x], 1).detach()[:, 0]
    calls: dict[str, Callable[[rf.Recurrent], Any]] = {
        "the same": lambda made: made(x, states),
        "no state": lambda made: made(x),
        "other rows": lambda made: made(other),
        "other steps": lambda made: made(torch.cat([x, x]), states),
        "unbatched": lambda made: made(x[:, 0]),
        "strides": lambda made: made(wide, tuple(s.mT.contiguous().mT for s in states)),
        "a sign to be applied": lambda made: made(torch._neg_view(x), states),  # type: ignore[attr-defined]
        "lengths": lambda made: made(x, states, ragged(steps, BATCH)),
        "all states": lambda made: (made(x, states, return_states="all")[0]["c"], ()),
        "other weights": lambda made: functional_call(made, weights, (x, states)),
        "the old weights": lambda made: made(x, states),
        "a list of states": lambda made: made(x, list(states)),
        "autocast": lambda made: _in_autocast(made, x, states),
        "vmap": lambda made: (_quiet_vmap(made, x), ()),
        "in inference mode": lambda made: _in_inference(made, x, states),
        "after all": lambda made: made(x, states),
    }
    for what, call in calls.items():
        warm(layer, x, states)
        with torch.no_grad():
            same(by_name(*call(layer)), by_name(*call(reference)), what=what)
    mistakes: list[tuple[Any, ...]] = [
        (x.float(), states),
        (x[..., :2], states),
        (x, states[0]),
        (x, (states[0], states[1][:, :3])),
        (x, (states[0], states[1].float())),
        (x.to("meta"), states),
        (x.to_sparse(), states),
        (None, states),
        (x, (*states, states[0])),
    ]
    for mistake in mistakes:
        warm(layer, x, states)
        with torch.no_grad(), pytest.raises(rf.KernelError):
            layer(*mistake)
    warm(layer, x, states)
    with torch.no_grad():
        for dtype in (torch.float32, torch.float64):
            converted = tuple(s.to(dtype) for s in states)
            found = by_name(*layer.to(dtype)(x.to(dtype), converted))
            double = {key: v.double() for key, v in found.items()}
            same(double, by_name(*reference(x, states)), 1e-5)


def _in_autocast(layer: rf.Recurrent, x: Tensor, states: tuple[Tensor, ...]) -> Any:
    compiled = layer.kernel.backend == BACKEND
    with torch.autocast("cpu", torch.bfloat16, enabled=compiled):
        return layer(x, states)


def _in_inference(layer: rf.Recurrent, x: Tensor, states: tuple[Tensor, ...]) -> Any:
    with torch.inference_mode():
        y, final = layer(x, states)
    return y.clone(), tuple(s.clone() for s in final)


def _quiet_vmap(layer: rf.Recurrent, x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return vmap(lambda one: layer(one)[0], in_dims=1, out_dims=1)(x)


@pytest.mark.parametrize("steps", [1, STEPS])
def test_a_frozen_layer_and_one_that_is_freed_again(steps: int) -> None:
    layer, reference = twins("lstm", num_layers=2)
    x, states = given(layer, steps, BATCH)
    plain = x.detach(), tuple(s.detach() for s in states)
    for made in (layer, reference):
        made.requires_grad_(False)
    y, _ = layer(*plain)
    assert not y.requires_grad
    same({"y": y}, {"y": reference(*plain)[0]})
    same(everything(layer, x, states), everything(reference, x, states))
    for made in (layer, reference):
        made.requires_grad_(True)
    same(everything(layer, *plain), everything(reference, *plain))


def test_dropout_between_layers() -> None:
    """The same mask as the reference's from the same seed; none in evaluation; everything gone at 1."""
    found = []
    for layer in twins("lstm", num_layers=3, dropout=0.5):
        x, states = given(layer, STEPS, BATCH)
        torch.manual_seed(6)
        found.append(everything(layer, x, states))
        layer.eval()
        found.append(values_of(layer, x, states))
    same(found[0], found[2])
    same(found[1], found[3])
    assert not torch.equal(found[0]["output"], found[1]["output"])
    gone, one = layer_of("lstm", HIDDEN, num_layers=2, dropout=1.0), twins("lstm")[0]
    x, _ = given(gone, STEPS, BATCH)
    gradients = gradients_of(by_name(*gone(x)), {"x": x}, ["output"])
    assert torch.count_nonzero(gradients["dE/d x"]) == 0
    assert torch.count_nonzero(gradients_of(by_name(*one(x)), {"x": x})["dE/d x"]) > 0


def test_training_goes_the_same_way() -> None:
    """Five steps of an optimiser, clipping, evaluation between them."""
    found = []
    for layer in twins("gru_cho", num_layers=2):
        x, _ = given(layer, STEPS, BATCH)
        optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
        errors = {}
        for step in range(5):
            optimiser.zero_grad()
            error = layer(x.detach(), lengths=ragged(STEPS, BATCH))[0].square().sum()
            error.backward()
            nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
            optimiser.step()
            with torch.no_grad():
                errors[f"{step}"] = torch.stack([error, layer(x)[0].square().sum()])
        found.append(errors)
    same(found[0], found[1], 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_layer_converted_after_use(dtype: torch.dtype) -> None:
    layer, reference = twins("lstm", dtype=torch.float32)
    x, states = given(layer, STEPS, BATCH)
    everything(layer, x, states)
    layer, reference = layer.to(dtype), reference.to(dtype)
    x, states = given(layer, STEPS, BATCH)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    same(everything(layer, x, states), everything(reference, x, states), tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_types_that_are_not_compiled_are_refused_with_a_remedy(dtype: torch.dtype) -> None:
    layer, _ = twins("lstm", dtype=torch.float32)
    layer = layer.to(dtype)
    with pytest.raises(rf.KernelError, match="reference") as caught:
        layer(torch.zeros(2, 3, cases.INPUT, dtype=dtype))
    assert str(dtype).removeprefix("torch.") in str(caught.value)
