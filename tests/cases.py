"""The cells under test with their oracles, and how a layer is made, fed and read in the tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import oracle
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import refold as rf

INPUT, HIDDEN = 3, 4
STEPS, BATCH = 6, 3
exact = partial(assert_close, rtol=0.0, atol=1e-12)
# The two ways the reference kernel takes gradients, torch autograd through the step and the plan's own derived
# adjoint; and what the compiler makes of the same plan.
BACKENDS = ("reference", "derived", "llvm")


@rf.cell(source="two layers, the second fed back to the first")
def two_layer_feedback(
    x=rf.Input("m"),
    h1=rf.State("n"),
    h2=rf.State("q"),
    *,
    W_x=rf.Weight("n m"),
    W_1=rf.Weight("n n"),
    U=rf.Weight("n q"),
    b_1=rf.Bias("n"),
    W_2=rf.Weight("q q"),
    V=rf.Weight("q n"),
    b_2=rf.Bias("q"),
):
    h1 = rf.tanh(W_1 @ h1 + U @ h2 + W_x @ x + b_1)
    h2 = rf.tanh(W_2 @ h2 + V @ h1 + b_2)
    return rf.Step(h1, h2, output=h2)


@rf.cell(source="Elman 1990, with a rectifier")
def elman_relu(
    x=rf.Input("m"), h=rf.State("n"), *, W_x=rf.Weight("n m"), W_h=rf.Weight("n n"), b=rf.Bias("n")
):
    return rf.relu(W_h @ h + W_x @ x + b)


@dataclass(frozen=True)
class Case:
    """A cell, the oracle's step for it, its own sizes, and what each state is as wide as."""

    cell: rf.Cell | str
    step: oracle.Step
    sizes: Mapping[str, int] = field(default_factory=dict)
    states: Mapping[str, int] = field(default_factory=lambda: {"h": HIDDEN})
    output: int = HIDDEN


CASES = {
    "elman": Case("elman", oracle.elman),
    "elman_relu": Case(elman_relu, oracle.elman_relu),
    "jordan": Case("jordan", oracle.jordan, {"k": 2}, {"y": 2}, 2),
    "two_layer_feedback": Case(
        two_layer_feedback, oracle.two_layer_feedback, {"q": 2}, {"h1": HIDDEN, "h2": 2}, 2
    ),
    "leaky": Case("leaky", oracle.leaky),
    "gru": Case("gru", oracle.gru),
    "gru_cho": Case("gru_cho", oracle.gru_cho),
    "mgu": Case("mgu", oracle.mgu),
    "lstm": Case("lstm", oracle.lstm, {}, {"h": HIDDEN, "c": HIDDEN}),
    "lstm_peephole": Case("lstm_peephole", oracle.lstm_peephole, {}, {"h": HIDDEN, "c": HIDDEN}),
}


def make(name: str, backend: str = "reference", **options) -> rf.Recurrent:
    """A layer of the case's cell with seeded, clearly non-zero parameters (float64 by default)."""
    case = CASES[name]
    settings = {"dtype": torch.float64, **case.sizes, **options}
    layer = rf.Recurrent(case.cell, INPUT, HIDDEN, backend=backend, **settings)
    return seeded(layer)


def seeded(layer: rf.Recurrent, seed: int = 11) -> rf.Recurrent:
    """Biases start at zero in most cells, and a zero hides a wrong gradient: fill them all."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2
            parameter.copy_(values)
    return layer


def parameters(layer: rf.Recurrent, index: int = 0, reverse: bool = False) -> dict[str, Tensor]:
    """What is learned, by the names of the equation."""
    named = layer.parameters_of(layer=index, reverse=reverse)
    return {name: p for name, p in named.items() if isinstance(p, torch.nn.Parameter)}


def noise(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def initial(name: str, batch: int, runs: int = 1, seed: int = 21) -> tuple[Tensor, ...]:
    """Random initial states, each (runs, B, size), with gradients."""
    sizes = CASES[name].states.values()
    return tuple(
        noise(runs, batch, size, seed=seed + k).requires_grad_() for k, size in enumerate(sizes)
    )


def as_state(states: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
    """What a layer takes and gives: a tensor for one state, a tuple for several."""
    return states[0] if len(states) == 1 else tuple(states)


def as_tuple(state: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else tuple(state)


def copy_from_torch(layer: rf.Recurrent, module: torch.nn.RNNBase) -> None:
    """torch's weights into the layer, by the equation's names, in every layer and direction."""
    with torch.no_grad():
        for index in range(layer.num_layers):
            for reverse in [False, True][: layer.directions]:
                theirs = oracle.from_torch(module, index, reverse)
                mine = parameters(layer, index, reverse)
                assert mine.keys() == theirs.keys()
                for name, parameter in mine.items():
                    parameter.copy_(theirs[name])


def relative(mine: Tensor, theirs: Tensor, tolerance: float = 1e-12, what: str = "") -> None:
    """Equal within `tolerance` of the largest entry, which must not be zero."""
    scale = float(theirs.detach().abs().max())
    assert scale > 1e-8, f"{what}: nothing to compare"
    assert_close(mine, theirs, rtol=0.0, atol=tolerance * scale, msg=lambda m: f"{what}: {m}")


def by_name(y: Tensor, final: Tensor | tuple[Tensor, ...]) -> dict[str, Tensor]:
    """What a layer gives, by what it is."""
    return {"output": y, **{f"final {k}": s for k, s in enumerate(as_tuple(final))}}


def run_all(layer: rf.Recurrent, x: Tensor, states: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Everything a layer gives: the output and each state at every step, and the final states."""
    y, final = layer(x, as_state(states), return_states="all")
    return by_name(y["output"], final) | dict(y)


def oracle_all(
    name: str, p: dict[str, Tensor], x: Tensor, states: tuple[Tensor, ...]
) -> dict[str, Tensor]:
    run = oracle.unfold(CASES[name].step, p, x, tuple(s[0] for s in states))
    ends = by_name(run.y, tuple(s[None] for s in run.final))
    return ends | dict(zip(CASES[name].states, run.states, strict=True))


def projection(values: dict[str, Tensor]) -> Tensor:
    """One scalar in which every entry of every value counts, each with its own random factor."""
    parts = [
        (values[k] * noise(*values[k].shape, seed=40 + i)).sum()
        for i, k in enumerate(sorted(values))
    ]
    return torch.stack(parts).sum()


def arguments(
    name: str, layer: rf.Recurrent
) -> tuple[Tensor, tuple[Tensor, ...], dict[str, Tensor]]:
    """x, the initial states, and both together with every parameter, by name."""
    x = noise(STEPS, BATCH, INPUT).requires_grad_()
    states = initial(name, BATCH)
    named = {f"initial {k}": s for k, s in enumerate(states)}
    return x, states, {"x": x, **named, **parameters(layer)}


both_backends = pytest.mark.parametrize("backend", BACKENDS)
every_cell = pytest.mark.parametrize("name", CASES)
