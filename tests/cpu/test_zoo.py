"""Every cell of the zoo: listed as it should be, and up the ladder of correctness on all backends.

The oracles are in `cases` and, family by family, in `oracles`. A layer is made once for each backend and precision and
serves several tests.
"""

from functools import cache
from importlib import import_module
from typing import Any

import compiled
import oracle
import pytest
import torch
from cases import CASES, HIDDEN, INPUT, Case, as_state, as_tuple, both_backends, by_name
from compiled import error_of, everything, gradients_of, leaves_of, same, values_of
from oracles.gallery import THRESHOLDS
from oracles.lstm import NORMALISERS
from torch import Tensor
from torch.func import functional_call
from torch.testing import assert_close

import refold as rf
from refold.cells.vanilla import multi_lag_with

STEPS, BATCH = 4, 3
WIDE = 16  # units in single precision, where an error is a mean over them
FAMILIES = rf.cells.families()
ORACLES: dict[str, Case] = {
    name: case
    for family in FAMILIES
    for name, case in import_module(f"oracles.{family}").CASES.items()
}
ORACLES |= {name: case for name, case in CASES.items() if name in rf.cells.all()}
every_cell = pytest.mark.parametrize("name", rf.cells.all())
smooth_cell = pytest.mark.parametrize("name", [n for n in rf.cells.all() if n not in THRESHOLDS])


# ---------------------------------------------------------------- layers, and what they are given


@cache
def layer_of(name: str, backend: str, dtype: torch.dtype, hidden: int = HIDDEN) -> rf.Recurrent:
    """A layer whose weights and buffers are the same numbers for every backend and precision."""
    sizes: dict[str, Any] = dict(ORACLES[name].sizes)
    options = {"backend": backend, "dtype": dtype, **sizes}
    layer = rf.Recurrent(name, INPUT, hidden, **options)
    if (backend, dtype) == ("reference", torch.float32):
        torch.manual_seed(5)
        layer.reset_parameters()  # the fixed weights, which `drawn` leaves
        return compiled.drawn(layer)
    made = layer_of(name, "reference", torch.float32, hidden)
    settings = {k for k, v in made.named_buffers() if not v.dim()}  # 0.1 is not 0.1 in single
    weights = {k: v for k, v in made.state_dict().items() if k not in settings}
    assert set(layer.load_state_dict(weights, strict=False).missing_keys) <= settings
    return layer


def given(layer: rf.Recurrent, batch: int = BATCH) -> tuple[Tensor, tuple[Tensor, ...]]:
    """x and initial states; an input of one number is a time step, not negative; a normaliser is above 1."""
    x, states = compiled.given(layer, STEPS, batch)
    data, width = x.detach(), 0
    for leaf in layer.cell.graph.leaves_of("input"):
        if not leaf.shape:
            data[..., width] = data[..., width].abs()
        width += 1 if not leaf.shape else INPUT
    for name, state in zip(layer.state_sizes, states, strict=True):
        if name == NORMALISERS.get(layer.cell.name):
            state.detach().abs_().add_(1.0)
    return data.requires_grad_(), states


def oracle_values(
    name: str, layer: rf.Recurrent, x: Tensor, states: tuple[Tensor, ...]
) -> dict[str, Tensor]:
    """As `values_of`, from the papers' formulas and the layer's own weights."""
    weights = layer.get_submodule("l0").named()  # type: ignore[operator]
    run = oracle.unfold(ORACLES[name].step, weights, x, tuple(s[0] for s in states))
    ends = by_name(run.y, tuple(s[None] for s in run.final))
    return ends | dict(zip(layer.state_sizes, run.states, strict=True))


# ---------------------------------------------------------------- what is said of a cell


@every_cell
def test_a_cell_has_an_oracle_a_source_and_a_use(name: str) -> None:
    cell, case = rf.cells.get(name), ORACLES[name]
    assert cell.name == name
    assert len(cell.source) > 8
    assert 20 < len(cell.about) < 250
    assert cell.about.endswith(".")
    named = case.cell if isinstance(case.cell, str) else case.cell.name
    assert named == name


def test_every_cell_is_in_one_family() -> None:
    members = [name for family in FAMILIES.values() for name in family]
    assert len(members) == len(set(members))
    assert members == list(rf.cells.all())
    assert set(ORACLES) == set(members)


@every_cell
def test_states_come_back_as_they_are_declared(name: str) -> None:
    layer, case = layer_of(name, "reference", torch.float64), ORACLES[name]
    x, states = given(layer)
    assert dict(layer.state_sizes) == dict(case.states)
    assert layer.output_size == case.output
    y, final = layer(x, as_state(states))
    assert y.shape == (STEPS, BATCH, case.output)
    assert [s.shape for s in as_tuple(final)] == [s.shape for s in states]
    assert all(v.isfinite().all() for v in (y, *as_tuple(final)))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_any_number_of_delays(k: int) -> None:
    """h(t) = tanh(sum of W_j h(t-j) + W_x x + b), written with a list of what came before."""
    cell = multi_lag_with(k)
    layer = compiled.drawn(rf.Recurrent(cell, INPUT, HIDDEN, dtype=torch.float64))
    p = layer.parameters_of()
    x, past = compiled.normal(7, 1, INPUT), [torch.zeros(HIDDEN).double() for _ in range(k)]
    y, final = layer(x)
    for t in range(7):
        past.insert(0, torch.tanh(p["W_h"] @ torch.cat(past[:k]) + p["W_x"] @ x[t, 0] + p["b"]))
        assert_close(y[t, 0], past[0], rtol=0.0, atol=1e-13)
    assert_close(final[0, 0], torch.cat(past[:k]), rtol=0.0, atol=1e-13)


def test_weights_start_as_the_papers_have_them() -> None:
    identity = rf.Recurrent("irnn", INPUT, HIDDEN).parameters_of()["W_h"]
    assert torch.equal(identity, torch.eye(HIDDEN))
    turn = rf.Recurrent("elman_orthogonal", INPUT, HIDDEN).parameters_of()["W_h"]
    assert_close(turn @ turn.T, torch.eye(HIDDEN))


# ---------------------------------------------------------------- the ladder


@both_backends
@every_cell
def test_values_and_all_gradients_are_the_oracles(name: str, backend: str) -> None:
    layer = layer_of(name, backend, torch.float64)
    x, states = given(layer)
    leaves = leaves_of(layer, x, states)
    theirs = oracle_values(name, layer, x, states)
    mine = values_of(layer, x, states)
    same(mine, theirs, what=name)
    if name not in THRESHOLDS:
        same(gradients_of(mine, leaves), gradients_of(theirs, leaves), what=name, floor=1e-14)


@smooth_cell
def test_a_projection_is_a_central_difference(name: str) -> None:
    """<v, J u> along one random direction u of all arguments at once."""
    layer = layer_of(name, "llvm", torch.float64)
    x, states = given(layer)
    leaves = leaves_of(layer, x, states)
    slopes = gradients_of(values_of(layer, x, states), leaves)
    along = {k: direction(v, 60 + i) for i, (k, v) in enumerate(leaves.items())}
    slope = sum(float((slopes[f"dE/d {k}"] * u).sum()) for k, u in along.items())
    step = 2e-6
    ends = [moved(layer, leaves, along, sign * step) for sign in (1, -1)]
    assert abs(slope) > 1e-2
    assert_close((ends[0] - ends[1]) / (2 * step), slope, rtol=1e-6, atol=1e-7)


def direction(like: Tensor, seed: int) -> Tensor:
    return compiled.normal(like.numel(), seed=seed).reshape(like.shape)


def moved(
    layer: rf.Recurrent, leaves: dict[str, Tensor], along: dict[str, Tensor], step: float
) -> float:
    """The error with every argument a step further."""
    with torch.no_grad():
        at = {k: v + step * along[k] for k, v in leaves.items()}
        states = tuple(v for k, v in at.items() if k.startswith("initial"))
        weights = {k: v for k, v in at.items() if "." in k}
        call = (at["x"], as_state(states))
        y, final = functional_call(layer, weights, call, {"return_states": "all"})
        return float(error_of(by_name(y["output"], final) | y))


@smooth_cell
def test_single_precision_is_as_good_as_the_references(name: str) -> None:
    found = []
    for backend, dtype in (
        ("llvm", torch.float32),
        ("reference", torch.float32),
        ("reference", torch.float64),
    ):
        layer = layer_of(name, backend, dtype, WIDE)
        found.append(everything(layer, *given(layer, 9)))
    compiled.as_good(*found, what=name)


# ---------------------------------------------------------------- identities


@every_cell
def test_streaming_is_the_whole_run(name: str) -> None:
    layer = layer_of(name, "llvm", torch.float64)
    x, states = given(layer)
    with torch.no_grad():
        y, final = layer(x, as_state(states))
        state, outputs = as_state(states), []
        for t in range(STEPS):
            out, state = layer(x[t : t + 1], state)
            outputs.append(out)
    same(by_name(torch.cat(outputs), state), by_name(y, final), 1e-13, name)


@pytest.mark.parametrize("backend", ["reference", "llvm"])
@every_cell
def test_a_ragged_batch_is_each_row_alone(name: str, backend: str) -> None:
    layer = layer_of(name, backend, torch.float64)
    x, states = given(layer)
    leaves, lengths = leaves_of(layer, x, states), [2, STEPS, 1]
    mine = by_name(*layer(x, as_state(states), lengths))
    rows = [
        by_name(*layer(x[:n, b : b + 1], as_state([s[:, b : b + 1] for s in states])))
        for b, n in enumerate(lengths)
    ]
    for row, n in zip(rows, lengths, strict=True):
        row["output"] = torch.nn.functional.pad(row["output"], (0, 0, 0, 0, 0, STEPS - n))
    theirs = {key: torch.cat([row[key] for row in rows], 1) for key in mine}
    same(mine, theirs, what=name)
    if name not in THRESHOLDS:
        same(gradients_of(mine, leaves), gradients_of(theirs, leaves), what=name, floor=1e-14)
