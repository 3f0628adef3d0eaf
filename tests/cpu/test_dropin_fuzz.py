"""Random settings, batches and states: rf.nn against torch.nn, outputs and every gradient, in float64."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import refold as rf

# torch's own layers say these: the one in the constructor (ours says it too), the other of its own LSTM.
pytestmark = [
    pytest.mark.filterwarnings("ignore:dropout option adds dropout:UserWarning"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported:UserWarning"),
]

CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]
QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=CHECKS
)
LONG = settings(QUICK, max_examples=1000)


@st.composite
def cases(draw: Any) -> dict[str, Any]:
    """A layer's settings and a batch's shape."""
    name = draw(st.sampled_from(["RNN", "LSTM", "GRU"]))
    hidden = draw(st.integers(1, 9))
    options: dict[str, Any] = {
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
        "dropout": draw(st.sampled_from([0.0, 0.0, 0.4, 1.0])),
    }
    if name == "RNN":
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    if name == "LSTM" and hidden > 1:
        options["proj_size"] = draw(st.integers(0, hidden - 1))
    form = draw(st.sampled_from(["batch", "unbatched", "sorted", "unsorted"]))
    batch = 1 if form == "unbatched" else draw(st.integers(1, 5))
    steps = draw(st.integers(1, 6))
    lengths = draw(st.lists(st.integers(1, steps), min_size=batch, max_size=batch))
    return {
        "name": name,
        "sizes": (draw(st.integers(1, 5)), hidden),
        "options": options,
        "form": form,
        "steps": steps,
        "lengths": sorted(lengths, reverse=True) if form == "sorted" else lengths,
        "given": draw(st.booleans()),
        "training": draw(st.booleans()),
        "scattered": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
    }


def outcome(home: Any, case: dict[str, Any]) -> dict[str, Tensor]:
    """What a layer gives, and the gradients of all that is differentiable."""
    torch.manual_seed(case["seed"])
    inputs, hidden = case["sizes"]
    layer = getattr(home, case["name"])(inputs, hidden, dtype=torch.float64, **case["options"])
    layer.train(case["training"])
    batch, steps, first = len(case["lengths"]), case["steps"], layer.batch_first
    packed = case["form"] in ("sorted", "unsorted")
    rows = () if case["form"] == "unbatched" else (batch,)
    shape = (*rows, steps, inputs) if first and rows else (steps, *rows, inputs)
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    layers = layer.num_layers * (2 if layer.bidirectional else 1)
    widths = [layer.proj_size or hidden, *([hidden] if case["name"] == "LSTM" else [])]
    states = [
        torch.randn(layers, *rows, w, dtype=torch.float64, requires_grad=True) for w in widths
    ]
    seen = torch.stack([x, x], -1)[..., 0] if case["scattered"] else x
    read: Any = seen
    if packed:
        ordered = case["form"] == "sorted"
        read = pack_padded_sequence(seen, torch.tensor(case["lengths"]), first, ordered)
    hx = None
    if case["given"]:
        hx = tuple(states) if len(states) > 1 else states[0]
    torch.manual_seed(case["seed"] + 1)
    y, final = layer(read, hx)
    if packed:
        assert isinstance(y, PackedSequence)
        for mine, theirs in zip(y[1:], read[1:], strict=True):
            assert (mine is None) == (theirs is None)
        y = pad_packed_sequence(y, first)[0]
    finals = final if isinstance(final, tuple) else (final,)
    found = {"output": y, **{f"final {k}": f for k, f in enumerate(finals)}}
    weigh = torch.Generator().manual_seed(5)
    parts = [
        (t * torch.randn(t.shape, generator=weigh, dtype=t.dtype)).sum() for t in found.values()
    ]
    total = torch.stack(parts).sum()
    leaves = {"x": x, **dict(layer.named_parameters())}
    if case["given"]:
        leaves |= {f"start {k}": s for k, s in enumerate(states)}
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    for name, leaf, gradient in zip(leaves, leaves.values(), gradients, strict=True):
        # Where dropout leaves nothing, one says zero and the other nothing.
        found[f"gradient {name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return found


def agree(case: dict[str, Any]) -> None:
    mine, theirs = outcome(rf.nn, case), outcome(nn, case)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(
            mine[name], value, rtol=1e-10, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}"
        )


@QUICK
@given(cases())
def test_random_layers_agree_with_torch(case):
    agree(case)


@pytest.mark.slow
@LONG
@given(cases())
def test_a_thousand_random_layers_agree_with_torch(case):
    agree(case)
