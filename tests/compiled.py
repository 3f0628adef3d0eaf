"""The compiled backend under test: layers of any size, everything that a call gives, and how far it may be off."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cases
import oracle
import torch
from cases import CASES, as_state, by_name
from torch import Tensor
from torch.testing import assert_close

import refold as rf

BACKEND = "llvm"
TESTS = Path(__file__).parent


@rf.cell(source="every kind of declaration and of pass in one")
def kitchen(
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
    h = rf.tanh(rf.layer_norm(a(x, u, h)) + s * (A @ h) + level)
    new = decay * trace + C @ rf.softmax(h)
    level = rf.sigmoid(gain * level) + rf.mean(trace)
    return rf.Step(h, new, level, output=rf.concat(new, h))


@rf.cell(source="a cell that reads nothing")
def clock(h=rf.State("n"), *, W=rf.Weight("n n"), b=rf.Bias("n")):
    return rf.sin(W @ h + b)


def label(cell: str | rf.Cell) -> str:
    return cell if isinstance(cell, str) else cell.name


# ---------------------------------------------------------------- layers and what they are given


def layer_of(
    cell: str | rf.Cell,
    hidden: int,
    backend: str = BACKEND,
    inputs: int = cases.INPUT,
    **options,
) -> rf.Recurrent:
    """A layer of a case's cell, or of any, its own letters about half as wide, its weights of moderate size."""
    made = CASES[cell].cell if isinstance(cell, str) else cell
    letters = CASES[cell].sizes if isinstance(cell, str) else {"p": 0} if made is kitchen else {}
    settings = {"dtype": torch.float64, **dict.fromkeys(letters, hidden // 2 + 1), **options}
    return drawn(rf.Recurrent(made, inputs, hidden, backend=backend, **settings))


def drawn(layer: rf.Recurrent, seed: int = 11) -> rf.Recurrent:
    """Every parameter seeded and clearly not zero, the same in both precisions; sums of products stay about 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            columns = parameter.shape[-1] if parameter.dim() == 2 else 4
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            parameter.copy_(values / columns**0.5)
    return layer


def normal(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    """Noise whose numbers are the same in both precisions."""
    return cases.noise(*shape, seed=seed, dtype=torch.float32).to(dtype)


def given(
    layer: rf.Recurrent, steps: int, batch: int, seed: int = 1
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """x and initial states that fit a layer, with gradients."""
    dtype = next(iter(layer.state_dict().values())).dtype
    x = normal(steps, batch, layer.input_features, seed=seed, dtype=dtype)
    runs = layer.num_layers * layer.directions
    states = [
        normal(runs, batch, width, seed=seed + 20 + k, dtype=dtype).requires_grad_()
        for k, width in enumerate(layer.state_sizes.values())
    ]
    return x.requires_grad_(), tuple(states)


def ragged(steps: int, batch: int, seed: int = 0) -> list[int]:
    """Lengths in no order; where there are rows enough, one is empty and one is whole."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, steps + 1, (batch,), generator=generator).tolist()
    if batch > 2:
        lengths[1], lengths[2] = 0, steps
    return lengths


# ---------------------------------------------------------------- everything that a call gives

Lengths = Sequence[int] | None


def values_of(
    layer: rf.Recurrent, x: Tensor, states: tuple[Tensor, ...], lengths: Lengths = None
) -> dict[str, Tensor]:
    """The output and each state at every step, and the final states."""
    y, final = layer(x, as_state(states), lengths, return_states="all")
    return by_name(y["output"], final) | dict(y)


def leaves_of(layer: rf.Recurrent, x: Tensor, states: tuple[Tensor, ...]) -> dict[str, Tensor]:
    named = {"x": x, **{f"initial {k}": s for k, s in enumerate(states)}}
    named |= dict(layer.named_parameters())
    return {name: t for name, t in named.items() if t.requires_grad}


def error_of(values: dict[str, Tensor], parts: Collection[str] | None = None) -> Tensor:
    """One number in which every entry of the parts counts, each with its own factor."""
    names = sorted(values)
    shares = [
        (values[k] * normal(*values[k].shape, seed=40 + i, dtype=values[k].dtype)).sum()
        for i, k in enumerate(names)
        if parts is None or k in parts
    ]
    return torch.stack(shares).sum()


def gradients_of(
    values: dict[str, Tensor], leaves: dict[str, Tensor], parts: Collection[str] | None = None
) -> dict[str, Tensor]:
    found = torch.autograd.grad(
        error_of(values, parts), list(leaves.values()), materialize_grads=True
    )
    return {f"dE/d {name}": g for name, g in zip(leaves, found, strict=True)}


def everything(
    layer: rf.Recurrent,
    x: Tensor,
    states: tuple[Tensor, ...],
    lengths: Lengths = None,
    parts: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """Values and gradients of a call, by name."""
    values = values_of(layer, x, states, lengths)
    return values | gradients_of(values, leaves_of(layer, x, states), parts)


def oracle_values(
    name: str,
    layer: rf.Recurrent,
    x: Tensor,
    states: tuple[Tensor, ...],
    lengths: Lengths = None,
) -> dict[str, Tensor]:
    """As `values_of`, for one layer, from the papers' formulas and the layer's own weights."""
    first = tuple(s[0] for s in states)
    run = oracle.unfold(CASES[name].step, cases.parameters(layer), x, first, lengths)
    ends = by_name(run.y, tuple(s[None] for s in run.final))
    return ends | dict(zip(CASES[name].states, run.states, strict=True))


# ---------------------------------------------------------------- how far a result may be off


Named = Mapping[Any, Tensor]


def same(
    mine: Named,
    theirs: Named,
    tolerance: float = 1e-12,
    what: str = "",
    floor: float = 0.0,
) -> None:
    """Equal within `tolerance` of each tensor's largest finite entry; NaN and infinities in the same places.

    floor  what counts as nothing: a gradient that is zero by the mathematics comes out as noise
    """
    assert mine.keys() == theirs.keys()
    for key, value in theirs.items():
        finite = value.detach().abs().nan_to_num(0.0, 0.0, 0.0)
        scale = float(finite.max()) if value.numel() else 0.0
        message = partial(named_message, f"{what} {key}")
        assert_close(
            mine[key],
            value,
            rtol=0.0,
            atol=max(tolerance * scale, floor),
            equal_nan=True,
            msg=message,
        )


def named_message(name: str, text: str) -> str:
    return f"{name}: {text}"


def identical(mine: Named, theirs: Named, what: str = "") -> None:
    """The same bits, NaN being NaN."""
    assert mine.keys() == theirs.keys()
    for key, value in theirs.items():
        message = partial(named_message, f"{what} {key}")
        assert_close(mine[key], value, rtol=0.0, atol=0.0, equal_nan=True, msg=message)


def rounding(single: Tensor, double: Tensor) -> float:
    """Root-mean-square error of single precision, in units of the values' own scale."""
    if not double.numel():
        return 0.0
    scale = float(double.detach().square().mean().sqrt())
    error = float((single.detach().double() - double.detach()).square().mean().sqrt())
    return error / scale if scale else error


def as_good(
    mine: dict[str, Tensor],
    reference: dict[str, Tensor],
    exactly: dict[str, Tensor],
    what: str = "",
) -> list[tuple[float, float]]:
    """In single precision: off by at most 4 times what the reference is off in single precision (floor: 2e-8).

    The error of a single number is luck, there is nothing to take a mean of: those may be off by 64 times, and come
    back, (ours, the reference's), for a test to compare many of them.
    """
    assert mine.keys() == exactly.keys()
    bad, alone = [], []
    for key, true in exactly.items():
        assert mine[key].dtype == torch.float32
        ours, theirs = rounding(mine[key], true), rounding(reference[key], true)
        few = 0 < true.numel() < 8
        if not ours <= (64 if few else 4) * max(theirs, 2e-8):
            bad.append(f"{what} {key}: off by {ours:.2e}, the reference by {theirs:.2e}")
        if few:
            alone.append((ours, theirs))
    assert not bad, "\n".join(bad)
    return alone


# ---------------------------------------------------------------- processes and threads


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def process(
    *words: object, seconds: float = 120.0, **environment: object
) -> subprocess.CompletedProcess[str]:
    """Run Python on some words in a process of its own, so that a crash or a hang is seen."""
    paths = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    added = {name: str(value) for name, value in environment.items()}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env={**os.environ, "PYTHONPATH": paths, **added},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def script(text: str, *words: object, seconds: float = 120.0, **environment: object) -> str:
    """What Python text prints; it must end well, and a warning is an error."""
    run = process("-W", "error", "-c", text, *words, seconds=seconds, **environment)
    assert run.returncode == 0, f"exit {run.returncode}\n{run.stdout}\n{run.stderr}"
    return run.stdout
