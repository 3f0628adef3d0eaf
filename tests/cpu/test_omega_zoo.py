"""Omega for every cell: the immediate derivative against differences, and compiled code against the derived adjoint."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import compiled
import pytest
import torch
from cases import CASES, INPUT, Case, as_state
from compiled import as_good, same
from oracles.gallery import THRESHOLDS
from oracles.lstm import NORMALISERS
from random_cells import Draw, drawn_call, outcome
from torch import Tensor
from torch.testing import assert_close

import refold as rf
from refold.ir.graph import FIXED, SLOT, Graph, Slot
from refold.ir.rewrite import fold, simplified
from refold.ir.sink import sunk
from refold.ir.wrap import Form, wrapped
from refold.kernels.base import build
from refold.kernels.loop import Lines
from refold.nn.omega import FORMS, Omega
from refold.plan.adjoint import reverse
from refold.plan.omega import gathered, measuring
from refold.plan.split import hoist

STEPS, BATCH, WIDE = 4, 3, 16
ORACLES: dict[str, Case] = {
    name: case
    for family in rf.cells.families()
    for name, case in import_module(f"oracles.{family}").CASES.items()
}
ORACLES |= {name: case for name, case in CASES.items() if name in rf.cells.all()}
# Compiling takes a third of a second: `make test` has time for some of them.
QUICK = list(rf.cells.all())[::12]
every_cell = pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in rf.cells.all()]
)
SIZES = [{"m": 3, "n": 5, "k": 2}, {"m": 2, "n": 16, "k": 7}, {"m": 9, "n": 19, "k": 1}]


# ---------------------------------------------------------------- against differences


def reverse_step(cell: rf.Cell, form: str) -> tuple[Graph, Graph, Graph]:
    """What is made of parameters once, a step, and its reverse step with Omega, forward values being lines in it."""
    measured = wrapped(cell, Form(omega=form)).cell
    assert measured.norms is not None
    once, step = hoist(simplified(sunk(measured.graph)))
    everything = {leaf.slot for leaf in step.leaves}
    return once, step, gathered(fold(reverse(step, measuring(measured.norms, everything))))


def worked_out(
    lines: Lines, sources: Mapping[Slot, Tensor], held: Mapping[int, Tensor], like: Tensor
) -> dict[int, Tensor]:
    """All values of a graph; those that are held are as they are given."""
    values = lines.numbers(like) | {i: sources[slot] for slot, i in lines.slots.items()}
    for i, node in enumerate(lines.graph.nodes):
        if i in held:
            values[i] = held[i]
        elif node.op not in (SLOT, "const", "size"):
            lines.work_out([i], values)
    return values


def drawn_sources(once: Graph, graph: Graph, sizes: Mapping[str, int]) -> dict[Slot, Tensor]:
    generator = torch.Generator().manual_seed(4)
    sources = {}
    for leaf in {leaf.slot: leaf for leaf in (*once.leaves, *graph.leaves)}.values():
        width = [size.at(sizes) for size in leaf.shape] or [1]
        shape = width if leaf.kind in FIXED else [BATCH, *width]
        numbers = torch.randn(shape, generator=generator, dtype=torch.float64)
        sources[leaf.slot] = numbers if leaf.shape else numbers.abs()
    made = worked_out(Lines(once, sizes), sources, {}, torch.zeros(1).double())
    return sources | {o.slot: made[o.node] for o in once.outputs}


def totals(lines: Lines, values: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """The sums over rows that parameters get."""
    sums: dict[str, Tensor] = {}
    for output in lines.graph.outputs_of("total"):
        value = values[output.node]
        if lines.graph.nodes[output.node].op != "outer":
            value = value.expand(BATCH, value.shape[-1]).sum(0)
        sums[output.slot.name] = sums.get(output.slot.name, 0) + value
    return sums


def against_differences(cell: rf.Cell, sizes: Mapping[str, int], form: str) -> bool:
    """Nudge what is fixed where the reverse step reads it, and hold all forward values; whether anything came of it."""
    once, step, graph = reverse_step(cell, form)
    lines, sources = Lines(graph, sizes), drawn_sources(once, graph, sizes)
    like = next(v for s, v in sources.items() if s.kind == "carry")
    (weight,) = (o for o in graph.outputs_of("input") if o.slot.name.startswith("omega"))
    with_omega = worked_out(
        lines, {**sources, weight.slot: torch.ones(BATCH, 1).double()}, {}, like
    )
    values = worked_out(lines, {**sources, weight.slot: torch.zeros(BATCH, 1).double()}, {}, like)
    reached = graph.after(i for s, i in lines.slots.items() if s.kind in ("carry", "given"))
    held = {i: v for i, v in values.items() if i in lines.varying and i not in reached}
    deltas = {o.node for o in graph.outputs_of("delta")}
    held |= {i: values[i] for i in graph.before(deltas) & lines.varying}
    fixed = [leaf for leaf in step.leaves if leaf.kind in FIXED]
    found, plain = totals(lines, with_omega), totals(lines, values)
    slope = torch.zeros(()).double()
    nudged: dict[float, Tensor] = {}
    direction = {leaf.slot: torch.randn_like(sources[leaf.slot]) for leaf in fixed}
    for leaf in fixed:
        if leaf.name in found:
            change = (found[leaf.name] - plain[leaf.name]).reshape(direction[leaf.slot].shape)
            slope = slope + (change * direction[leaf.slot]).sum()
    for eps in (1e-6, -1e-6):
        moved = sources | {slot: sources[slot] + eps * d for slot, d in direction.items()}
        moved[weight.slot] = torch.zeros(BATCH, 1).double()
        nudged[eps] = worked_out(lines, moved, held, like)[weight.node].expand(BATCH, 1).sum()
    assert_close((nudged[1e-6] - nudged[-1e-6]) / 2e-6, slope, rtol=1e-5, atol=1e-7)
    return bool(slope != 0)


@pytest.mark.parametrize("form", FORMS)
def test_the_immediate_derivative_of_every_cell_is_the_difference(form: str) -> None:
    torch.manual_seed(2)
    moving = 0
    for name, case in ORACLES.items():
        sizes = {"m": INPUT, "n": 4, **case.sizes}
        if name not in THRESHOLDS:
            moving += against_differences(rf.cells.get(name), sizes, form)
    assert moving > 70


@rf.cell(source="what arrives at the two states is one line")
def shared(h=rf.State("n"), s=rf.State("n"), *, W=rf.Weight("n n"), V=rf.Weight("n n")):
    both = h + s
    return rf.tanh(W @ both), V @ both


@rf.cell(source="one weight in three places, one of them a number's")
def again(h=rf.State("n"), level=rf.State(""), *, W=rf.Weight("n n"), s=rf.Scalar(0.5, learn=True)):
    inner = rf.tanh(W @ h) * s
    return W @ inner + level, s * level + rf.sum(W @ h)


@pytest.mark.parametrize("cell", [shared, again], ids=lambda c: c.name)
@pytest.mark.parametrize("form", FORMS)
def test_the_immediate_derivative_where_lines_meet(cell: rf.Cell, form: str) -> None:
    torch.manual_seed(2)
    assert against_differences(cell, {"m": 1, "n": 5}, form)
    measured = wrapped(cell, Form(omega=form)).cell
    device, dtype, sizes = torch.device("cpu"), torch.float64, {"m": 1, "n": 5}
    call = drawn_call(measured, sizes, STEPS, 7, 3)
    mine, derived = (build(measured, sizes, b, device, dtype) for b in ("llvm", "derived"))
    same(outcome(mine, call), outcome(derived, call), 1e-10, cell.name)


@pytest.mark.parametrize("form", FORMS)
def test_the_immediate_derivative_of_random_cells_is_the_difference(form: str) -> None:
    torch.manual_seed(2)
    moving = [against_differences(Draw(seed).cell(), SIZES[seed % 3], form) for seed in range(60)]
    assert sum(moving) > 30


# ---------------------------------------------------------------- compiled


def trained(
    name: str, backend: str, dtype: torch.dtype, form: str, hidden: int = 4
) -> dict[str, Tensor]:
    """Omega of each step, and all gradients, of a ragged batch."""
    layer = _layer(name, backend, dtype, hidden)
    x, states = compiled.given(layer, STEPS, BATCH)
    _allowed(layer, x, states)
    with layer.keeping_norms(Omega(1.0, form)) as terms:
        y, _ = layer(x, as_state(states), [4, 2, 3])
    (weights, _), wanted = terms.counted[0], compiled.leaves_of(layer, x, states)
    v = compiled.normal(*y.shape, seed=5, dtype=dtype)
    found = torch.autograd.grad((y * v).sum(), [weights, *wanted.values()], materialize_grads=True)
    return {"omega": found[0]} | dict(zip(wanted, found[1:], strict=True))


def _layer(name: str, backend: str, dtype: torch.dtype, hidden: int) -> rf.Recurrent:
    """A layer whose weights, the fixed ones too, are the same numbers for every backend and precision."""
    sizes: dict[str, Any] = dict(ORACLES[name].sizes)
    torch.manual_seed(5)
    first = rf.Recurrent(name, INPUT, hidden, **sizes)
    layer = rf.Recurrent(name, INPUT, hidden, backend=backend, dtype=dtype, **sizes)
    weights = {k: v for k, v in first.state_dict().items() if v.dim()}
    layer.load_state_dict(weights, strict=False)
    return compiled.drawn(layer)


def _allowed(layer: rf.Recurrent, x: Tensor, states: tuple[Tensor, ...]) -> None:
    """An input of one number is a time step, not negative; a normaliser is above 1."""
    width = 0
    for leaf in layer.cell.graph.leaves_of("input"):
        if not leaf.shape:
            x.data[..., width] = x.data[..., width].abs()
        width += 1 if not leaf.shape else INPUT
    for name, state in zip(layer.state_sizes, states, strict=True):
        if name == NORMALISERS.get(layer.cell.name):
            state.data.abs_().add_(1.0)


@every_cell
def test_compiled_is_derived(name: str) -> None:
    form = FORMS[len(name) % 2]
    expected = trained(name, "derived", torch.float64, form)
    assert all(v.isfinite().all() for v in expected.values())
    same(trained(name, "llvm", torch.float64, form), expected, 1e-10, name, floor=1e-13)


@every_cell
def test_single_precision_is_as_good_as_the_references(name: str) -> None:
    """Thresholds fall to other sides in single precision, and so they do in the reference."""
    if name in THRESHOLDS:
        return
    mine, theirs, exactly = (
        trained(name, backend, dtype, "ratio", WIDE)
        for backend, dtype in (
            ("llvm", torch.float32),
            ("derived", torch.float32),
            ("derived", torch.float64),
        )
    )
    as_good(mine, theirs, exactly, name)


@pytest.mark.parametrize(
    "seeds", [range(6), pytest.param(range(6, 150), marks=pytest.mark.slow)], ids=len
)
def test_random_cells_are_the_derived_adjoint(seeds: range) -> None:
    for seed in seeds:
        cell = wrapped(Draw(seed).cell(), Form(omega=FORMS[seed // 2 % 2])).cell
        sizes, memory = SIZES[seed % 3], ("fast", "small")[seed // 4 % 2]
        device, dtype = torch.device("cpu"), torch.float64
        derived = build(cell, sizes, "derived", device, dtype)
        mine = build(cell, sizes, "llvm", device, dtype, memory)
        for rows, uneven in ((1 + seed % 6, False), (19, True)):
            call = drawn_call(cell, sizes, STEPS, rows, seed, ragged=uneven, probes=seed % 5 == 0)
            what = f"cell {seed}, {rows} rows:"
            same(outcome(mine, call), outcome(derived, call), 1e-8, what, floor=1e-12)
