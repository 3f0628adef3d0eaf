"""The oracle itself, held against torch.nn: the same weights, float64, values and gradients."""

from functools import partial

import oracle
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.testing import assert_close

exact = partial(assert_close, rtol=0.0, atol=1e-12)
INPUT, HIDDEN, STEPS, BATCH = 3, 4, 6, 3

MODULES = {
    "tanh": (torch.nn.RNN, {}, oracle.elman),
    "relu": (torch.nn.RNN, {"nonlinearity": "relu"}, oracle.elman_relu),
    "gru": (torch.nn.GRU, {}, oracle.gru),
    "lstm": (torch.nn.LSTM, {}, oracle.lstm),
}


def case(
    kind: str, layers: int = 1, directions: int = 1
) -> tuple[torch.nn.RNNBase, oracle.Step, Tensor, oracle.States]:
    """A torch module in float64, the oracle's step for it, x and initial states."""
    torch.manual_seed(3)
    make, options, step = MODULES[kind]
    module = make(
        INPUT,
        HIDDEN,
        num_layers=layers,
        bidirectional=directions == 2,
        dtype=torch.float64,
        **options,
    )
    x = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64, requires_grad=True)
    initial = tuple(
        torch.randn(layers * directions, BATCH, HIDDEN, dtype=torch.float64)
        for _ in range(2 if kind == "lstm" else 1)
    )
    return module, step, x, initial


def as_tuple(state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else tuple(state)


def for_torch(initial: oracle.States) -> Tensor | oracle.States:
    return initial if len(initial) == 2 else initial[0]


@pytest.mark.parametrize("kind", MODULES)
def test_values_and_gradients_equal_torch(kind: str) -> None:
    module, step, x, initial = case(kind)
    y, state = module(x, for_torch(initial))
    run = oracle.unfold(step, oracle.from_torch(module), x, tuple(s[0] for s in initial))
    exact(run.y, y)
    for mine, theirs in zip(run.final, as_tuple(state), strict=True):
        exact(mine, theirs[0])
    exact(run.states[0], y)
    v = torch.randn_like(y)
    (mine,) = torch.autograd.grad(run.y, x, v)
    (theirs,) = torch.autograd.grad(y, x, v)
    exact(mine, theirs)


@pytest.mark.parametrize("lengths", [None, [4, 6, 1]])
@pytest.mark.parametrize("kind", MODULES)
def test_stacked_bidirectional_ragged_equals_torch(kind: str, lengths: list[int] | None) -> None:
    module, step, x, initial = case(kind, layers=2, directions=2)
    packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False) if lengths else x
    y, state = module(packed, for_torch(initial))
    if lengths:
        y, _ = pad_packed_sequence(y)
    weights = [[oracle.from_torch(module, k, reverse) for reverse in (False, True)] for k in (0, 1)]
    mine, final = oracle.stacked(step, weights, x, initial, lengths)
    exact(mine, y)
    for a, b in zip(final, as_tuple(state), strict=True):
        exact(a, b)


def random_parameters(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    torch.manual_seed(5)
    return {name: torch.randn(shape, dtype=torch.float64) / 2 for name, shape in shapes.items()}


def gate(name: str) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.W_x": (HIDDEN, INPUT),
        f"{name}.W_h": (HIDDEN, HIDDEN),
        f"{name}.b": (HIDDEN,),
    }


def start(count: int = 1, size: int = HIDDEN) -> oracle.States:
    return tuple(torch.randn(BATCH, size, dtype=torch.float64) for _ in range(count))


def test_peepholes_of_zero_are_the_lstm() -> None:
    p = random_parameters(gate("i") | gate("f") | gate("g") | gate("o"))
    x, initial = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64), start(2)
    none = {name: torch.zeros(HIDDEN, dtype=torch.float64) for name in ("p_i", "p_f", "p_o")}
    mine = oracle.unfold(oracle.lstm_peephole, p | none, x, initial)
    exact(mine.y, oracle.unfold(oracle.lstm, p, x, initial).y)
    seeing = oracle.unfold(
        oracle.lstm_peephole, p | {**none, "p_o": torch.ones(HIDDEN).double()}, x, initial
    )
    assert float((seeing.y - mine.y).detach().abs().max()) > 1e-3


def test_the_two_gru_conventions_agree_without_a_recurrent_product() -> None:
    """They differ in r * (W h) against W (r * h), so W = 0 makes them one; else they differ."""
    shared = random_parameters(gate("r") | gate("z") | {"W": (HIDDEN, INPUT), "b": (HIDDEN,)})
    square = torch.randn(HIDDEN, HIDDEN, dtype=torch.float64)
    x, initial = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64), start()

    def both(w: Tensor) -> list[Tensor]:
        b = {
            "i.W_x": shared["W"],
            "i.b": shared["b"],
            "W_n": w,
            "b_n": torch.zeros_like(shared["b"]),
        }
        c = {"W_x": shared["W"], "W_h": w, "b": shared["b"]}
        return [
            oracle.unfold(oracle.gru, shared | b, x, initial).y,
            oracle.unfold(oracle.gru_cho, shared | c, x, initial).y,
        ]

    exact(*both(torch.zeros_like(square)))
    after, before = both(square)
    assert float((after - before).abs().max()) > 1e-3


def test_jordan_and_feedback_by_their_first_two_steps() -> None:
    """Written out by hand for two steps, so that what is fed back is seen to be what is meant."""
    p = random_parameters(
        {"W_x": (HIDDEN, INPUT), "W_y": (HIDDEN, 2), "b": (HIDDEN,), "V": (2, HIDDEN), "c": (2,)}
    )
    x, (y0,) = torch.randn(2, BATCH, INPUT, dtype=torch.float64), start(1, 2)
    y1 = torch.tanh(y0 @ p["W_y"].T + x[0] @ p["W_x"].T + p["b"]) @ p["V"].T + p["c"]
    y2 = torch.tanh(y1 @ p["W_y"].T + x[1] @ p["W_x"].T + p["b"]) @ p["V"].T + p["c"]
    exact(oracle.unfold(oracle.jordan, p, x, (y0,)).y, torch.stack([y1, y2]))

    q = random_parameters(
        {"W_x": (HIDDEN, INPUT), "W_1": (HIDDEN, HIDDEN), "U": (HIDDEN, 2), "b_1": (HIDDEN,)}
        | {"W_2": (2, 2), "V": (2, HIDDEN), "b_2": (2,)}
    )
    a0, b0 = start()[0], start(1, 2)[0]
    a1 = torch.tanh(a0 @ q["W_1"].T + b0 @ q["U"].T + x[0] @ q["W_x"].T + q["b_1"])
    b1 = torch.tanh(b0 @ q["W_2"].T + a1 @ q["V"].T + q["b_2"])
    a2 = torch.tanh(a1 @ q["W_1"].T + b1 @ q["U"].T + x[1] @ q["W_x"].T + q["b_1"])
    b2 = torch.tanh(b1 @ q["W_2"].T + a2 @ q["V"].T + q["b_2"])
    run = oracle.unfold(oracle.two_layer_feedback, q, x, (a0, b0))
    exact(run.y, torch.stack([b1, b2]))
    exact(run.final[0], a2)


def test_leak_is_a_convex_step_towards_elman() -> None:
    p = random_parameters({"W_x": (HIDDEN, INPUT), "W_h": (HIDDEN, HIDDEN), "b": (HIDDEN,)})
    x, (h,) = torch.randn(1, BATCH, INPUT, dtype=torch.float64), start()
    full = oracle.unfold(oracle.elman, p, x, (h,)).y[0]
    outputs = [oracle.leaky(p, x[0, 0], (h[0],), alpha)[0] for alpha in (0.0, 0.25, 0.5, 1.0)]
    exact(outputs[0], h[0])
    exact(outputs[-1], full[0])
    shares = [float((out - h[0]).norm() / (full[0] - h[0]).norm()) for out in outputs]
    exact(shares, [0.0, 0.25, 0.5, 1.0])


def test_mgu_gate_shut_keeps_and_open_replaces() -> None:
    p = random_parameters(
        gate("f") | {"W_x": (HIDDEN, INPUT), "W_h": (HIDDEN, HIDDEN), "b": (HIDDEN,)}
    )
    x, (h,) = torch.randn(1, BATCH, INPUT, dtype=torch.float64), start()
    shut = oracle.unfold(
        oracle.mgu, p | {"f.b": torch.full((HIDDEN,), -100.0).double()}, x, (h,)
    ).y[0]
    wide = oracle.unfold(oracle.mgu, p | {"f.b": torch.full((HIDDEN,), 100.0).double()}, x, (h,)).y[
        0
    ]
    exact(shut, h)
    exact(wide, oracle.unfold(oracle.elman, p, x, (h,)).y[0])


@pytest.mark.parametrize("kind", MODULES)
def test_weights_go_to_torch_and_back(kind: str) -> None:
    """from_torch adds the two biases of a gate, to_torch splits them so: the function stays."""
    module, _, x, _ = case(kind, layers=2, directions=2)
    weights = {
        name: tensor
        for k, reverse in [(0, False), (0, True), (1, False), (1, True)]
        for name, tensor in oracle.to_torch(
            oracle.from_torch(module, k, reverse), k, reverse
        ).items()
    }
    assert weights.keys() == dict(module.named_parameters()).keys()
    y, _ = torch.func.functional_call(module, weights, (x,))
    exact(y, module(x)[0])
