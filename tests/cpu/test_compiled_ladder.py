"""The ladder for compiled code, at sizes that fill vectors and tiles, and at sizes that do not.

The tests of the other backends run on this one too, at their small sizes; here are those that need more rows or units.
"""

import cases
import oracle
import pytest
import torch
from cases import CASES, as_state, by_name, every_cell
from compiled import (
    BACKEND,
    as_good,
    clock,
    drawn,
    error_of,
    everything,
    given,
    gradients_of,
    kitchen,
    label,
    layer_of,
    leaves_of,
    normal,
    oracle_values,
    ragged,
    same,
    values_of,
)
from torch import Tensor

import refold as rf

STEPS = 4
# Units and rows: less than a vector and a tile; a whole vector and two tiles; several of both, with a remainder each.
SIZES = [(5, 6), (16, 7), (19, 33)]
sizes = pytest.mark.parametrize(("hidden", "batch"), SIZES)


# ---------------------------------------------------------------- values and gradients


@sizes
@every_cell
def test_values_and_all_gradients_are_the_oracles(name: str, hidden: int, batch: int) -> None:
    layer = layer_of(name, hidden)
    x, states = given(layer, STEPS, batch)
    theirs = oracle_values(name, layer, x, states)
    mine = everything(layer, x, states)
    same(mine, theirs | gradients_of(theirs, leaves_of(layer, x, states)), what=name)


@sizes
@every_cell
def test_a_ragged_batch_is_the_oracles(name: str, hidden: int, batch: int) -> None:
    layer, lengths = layer_of(name, hidden), ragged(STEPS, batch)
    x, states = given(layer, STEPS, batch)
    theirs = oracle_values(name, layer, x, states, lengths)
    mine = everything(layer, x, states, lengths)
    same(mine, theirs | gradients_of(theirs, leaves_of(layer, x, states)), what=name)


@sizes
@every_cell
def test_without_gradients_the_same_comes_out(name: str, hidden: int, batch: int) -> None:
    """Inference keeps less and runs other code: a last digit may be rounded otherwise, no more."""
    layer = layer_of(name, hidden)
    x, states = given(layer, STEPS, batch)
    for lengths in (None, ragged(STEPS, batch)):
        with torch.no_grad():
            found = values_of(layer, x, states, lengths)
        same(found, values_of(layer, x, states, lengths), 1e-14)


@pytest.mark.parametrize(
    "parts",
    [
        ["output"],
        ["final 0"],
        ["final 1"],
        ["first"],
        ["second"],
        ["final 0", "second"],
        ["output", "final 1"],
        ["output", "first"],
        ["first", "second"],
    ],
    ids=" and ".join,
)
@pytest.mark.parametrize("name", ["lstm", "two_layer_feedback"])
def test_gradients_from_some_values_alone(name: str, parts: list[str]) -> None:
    """Whatever nothing is said about counts as zero."""
    layer = layer_of(name, 5)
    named: dict[str, str] = dict(zip(("first", "second"), CASES[name].states, strict=True))
    wanted = [named.get(part, part) for part in parts]
    x, states = given(layer, STEPS, 7)
    lengths = ragged(STEPS, 7)
    leaves = leaves_of(layer, x, states)
    mine = gradients_of(values_of(layer, x, states, lengths), leaves, wanted)
    theirs = gradients_of(oracle_values(name, layer, x, states, lengths), leaves, wanted)
    same(mine, theirs)


@pytest.mark.parametrize(
    "wanted",
    [["x"], ["initial 0"], ["initial 1"], ["l0.f.W_h"], ["l0.g.b"], ["l0.p_o"], ["x", "l0.i.W_x"]],
    ids=" and ".join,
)
def test_gradients_of_some_arguments_alone(wanted: list[str]) -> None:
    """What needs no gradient gets none, and the others are right without it."""
    layer = layer_of("lstm_peephole", 5)
    x, states = given(layer, STEPS, 7)
    leaves = leaves_of(layer, x, states)
    theirs = gradients_of(oracle_values("lstm_peephole", layer, x, states), leaves)
    for key, tensor in leaves.items():
        tensor.requires_grad_(key in wanted)
    error_of(values_of(layer, x, states)).backward()
    found = {f"dE/d {key}": t.grad for key, t in leaves.items() if t.grad is not None}
    same(found, {f"dE/d {key}": theirs[f"dE/d {key}"] for key in wanted})


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", ["lstm", "jordan"])
def test_adjoints_of_every_state_are_the_references(name: str, backwards: bool) -> None:
    """What a probe measures, in a stack and in both directions."""
    found = []
    for backend in (BACKEND, "reference"):
        layer = layer_of(name, 19, backend, num_layers=2, bidirectional=backwards)
        x, states = given(layer, STEPS, 7)
        with layer.probe() as probes:
            values = values_of(layer, x, states, ragged(STEPS, 7))
        tensors = {f"{i} {k}": t for i, part in enumerate(probes) for k, t in part.items()}
        found.append(gradients_of(values, {**tensors, **leaves_of(layer, x, states)}))
    same(found[0], found[1])


# ---------------------------------------------------------------- cells with all kinds of passes


KINDS = {"kitchen": kitchen, "clock": clock}


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"learn_state": True}], ids=str)
@sizes
@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_of_every_kind_is_the_reference(
    kind: str, hidden: int, batch: int, options: dict[str, bool]
) -> None:
    found = []
    for backend in (BACKEND, "reference"):
        inputs = 0 if kind == "clock" else cases.INPUT
        layer = layer_of(KINDS[kind], hidden, backend, inputs, **options)
        x, states = given(layer, STEPS, batch)
        lengths = ragged(STEPS, batch)
        if options.get("learn_state"):
            y, final = layer(x, lengths=lengths)
            values = by_name(y, final)
            found.append(values | gradients_of(values, leaves_of(layer, x, ())))
        else:
            found.append(everything(layer, x, states, lengths))
    same(found[0], found[1], 1e-11)


@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, True)])
@pytest.mark.parametrize("name", ["elman", "elman_relu", "gru", "lstm"])
def test_torch_nn_with_its_own_weights(name: str, layers: int, bidirectional: bool) -> None:
    made = {"elman": torch.nn.RNN, "elman_relu": torch.nn.RNN, "gru": torch.nn.GRU}
    extra = {"nonlinearity": "relu"} if name == "elman_relu" else {}
    torch.manual_seed(7)
    module = made.get(name, torch.nn.LSTM)(
        10, 37, layers, bidirectional=bidirectional, dtype=torch.float64, **extra
    )
    layer = layer_of(name, 37, inputs=10, num_layers=layers, bidirectional=bidirectional)
    cases.copy_from_torch(layer, module)
    x, states = given(layer, STEPS, 13)
    y, final = layer(x, as_state(states))
    mine, theirs = by_name(y, final), by_name(*module(x, as_state(states)))
    same(mine, theirs)
    leaves = {"x": x, **{f"initial {k}": s for k, s in enumerate(states)}}
    same(gradients_of(mine, leaves), gradients_of(theirs, leaves))


# ---------------------------------------------------------------- single precision


def in_single(
    name: str | rf.Cell,
    hidden: int,
    steps: int,
    batch: int,
    lengths: list[int] | None = None,
    scale: float = 1.0,
    **options,
) -> None:
    """Rule 4 for one cell: float64 from the same numbers is the truth."""
    found = []
    for backend, dtype in (
        (BACKEND, torch.float32),
        ("reference", torch.float32),
        ("reference", torch.float64),
    ):
        layer = layer_of(name, hidden, backend, dtype=dtype, **options)
        x, states = given(layer, steps, batch)
        x = (x.detach() * scale).requires_grad_()
        found.append(everything(layer, x, states, lengths))
    as_good(*found, what=label(name))


@sizes
@every_cell
def test_float32_is_as_good_as_the_references(name: str, hidden: int, batch: int) -> None:
    in_single(name, hidden, STEPS, batch)
    in_single(name, hidden, STEPS, batch, ragged(STEPS, batch))


@pytest.mark.parametrize("name", ["elman", "lstm", "gru_cho", "leaky"])
def test_float32_over_many_steps(name: str) -> None:
    in_single(name, 16, 200, 3, ragged(200, 3))


@pytest.mark.parametrize("scale", [30.0, 1e-3])
@pytest.mark.parametrize("name", ["elman", "lstm", "gru", "gru_cho"])
def test_float32_where_gates_saturate_and_where_nothing_does(name: str, scale: float) -> None:
    in_single(name, 19, STEPS, 7, scale=scale)


def test_float32_of_a_cell_of_every_kind() -> None:
    for hidden, batch in SIZES:
        in_single(kitchen, hidden, STEPS, batch, ragged(STEPS, batch))


@pytest.mark.parametrize("hidden", [64, 100])
def test_float32_at_the_size_of_real_networks(hidden: int) -> None:
    for name in ("lstm", "gru"):
        in_single(name, hidden, 20, 32, inputs=17)


# ---------------------------------------------------------------- NaN and infinities


def spoilt(x: Tensor, what: float) -> Tensor:
    """x with one number replaced, in the second step of the third row."""
    there = x.detach().clone()
    there[1, 2, 0] = what
    return there.requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("what", [float("nan"), float("inf"), -float("inf")])
@every_cell
def test_nan_and_infinities_go_through(name: str, what: float, dtype: torch.dtype) -> None:
    """They appear where the reference has them, in values and in gradients."""
    found = []
    for backend in (BACKEND, "reference"):
        layer = layer_of(name, 19, backend, dtype=dtype)
        x, states = given(layer, STEPS, 7)
        found.append(everything(layer, spoilt(x, what), states))
    assert any(not v.isfinite().all() for v in found[1].values())
    same(found[0], found[1], 1e-12 if dtype == torch.float64 else 1e-4, name)


@pytest.mark.parametrize("where", ["initial 0", "initial 1", "l0.f.W_h", "l0.o.b", "incoming"])
def test_nan_comes_out_wherever_it_comes_in(where: str) -> None:
    found = []
    for backend in (BACKEND, "reference"):
        layer = layer_of("lstm", 19, backend)
        x, states = given(layer, STEPS, 7)
        leaves = leaves_of(layer, x, states)
        if where in leaves:
            with torch.no_grad():
                leaves[where].view(-1)[4] = float("nan")
        values = values_of(layer, x, states)
        factors = normal(*values["output"].shape)
        if where == "incoming":
            factors[2, 3, 4] = float("nan")
        gradients = torch.autograd.grad((values["output"] * factors).sum(), list(leaves.values()))
        found.append(values | dict(zip(leaves, gradients, strict=True)))
    assert any(v.isnan().any() for v in found[1].values())
    same(found[0], found[1])


def test_nan_in_one_row_touches_no_other() -> None:
    """Rows share vectors and tiles, and nothing else."""
    layer = layer_of("lstm", 19)
    x, states = given(layer, STEPS, 13)
    clean, dirty = (everything(layer, v, states) for v in (x, spoilt(x, float("nan"))))
    others = [b for b in range(13) if b != 2]
    for key in ("output", "h", "c", "final 0", "final 1", "dE/d x", "dE/d initial 0"):
        assert torch.equal(clean[key][:, others], dirty[key][:, others]), key
        assert dirty[key][:, 2].isnan().any(), key


def test_gates_of_exactly_zero_and_one() -> None:
    """Far in the tails the gates are exactly 0 and 1, as the reference has them, and gradients are 0, not NaN."""
    found = []
    for backend in (BACKEND, "reference"):
        layer = layer_of("lstm", 19, backend, dtype=torch.float32)
        x, states = given(layer, STEPS, 7)
        big = (x.detach() * 1e6).requires_grad_()
        found.append(everything(layer, big, states))
    assert all(v.isfinite().all() for v in found[0].values())
    same(found[0], found[1], 1e-5)


# ---------------------------------------------------------------- the oracle, once by hand


def test_power_of_a_scalar_in_a_batch() -> None:
    """h(t) = w h(t-1), h(0) = 1, E = sum of h(T)^2 / 2 over B rows: dE/dw = B T w^(2T - 1)."""

    @rf.cell
    def line(x=rf.Input("m"), h=rf.State("n"), *, W_h=rf.Weight("n n"), W_x=rf.Weight("n m")):
        return W_h @ h + W_x @ x

    layer = drawn(rf.Recurrent(line, 1, 1, backend=BACKEND, dtype=torch.float64))
    w = cases.parameters(layer)["W_h"]
    with torch.no_grad():
        w.fill_(0.5)
    _, h = layer(torch.zeros(10, 9, 1).double(), torch.ones(1, 9, 1).double())
    (h**2 / 2).sum().backward()
    assert w.grad is not None
    assert abs(w.grad.item() / (9 * 10 * 0.5**19) - 1) < 1e-12


def test_two_layers_in_both_directions_are_the_oracles() -> None:
    layer = layer_of("gru_cho", 19, num_layers=2, bidirectional=True)
    x, states = given(layer, STEPS, 7)
    lengths = ragged(STEPS, 7)
    weights = [[cases.parameters(layer, k, reverse) for reverse in (False, True)] for k in range(2)]
    y, final = oracle.stacked(oracle.gru_cho, weights, x, states, lengths)
    theirs = by_name(y, final)
    mine = by_name(*layer(x, as_state(states), lengths))
    leaves = leaves_of(layer, x, states)
    same(mine | gradients_of(mine, leaves), theirs | gradients_of(theirs, leaves))
