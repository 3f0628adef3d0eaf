"""The recurrences of the papers as plain loops over one vector at a time, in torch float64.

This file is what refold's numbers are held against, so it shares nothing with refold: no import,
no batching trick, no packed gate. Every step is the source's formulas on vectors, one a line;
`unfold` walks one sequence after the other and one time step after the other. Parameters are a
dict by the names of the equation ("W_h", "i.W_x", "i.b"). Gradients come from torch autograd.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, sigmoid, tanh

Parameters = Mapping[str, Tensor]
States = tuple[Tensor, ...]
Step = Callable[[Parameters, Tensor, States], tuple[Tensor, States]]


class Run(NamedTuple):
    """y (T, B, k); final: (B, size) per state, at each row's last step; states: (T, B, size)."""

    y: Tensor
    final: States
    states: States


def unfold(
    step: Step, p: Parameters, x: Tensor, initial: States, lengths: Sequence[int] | None = None
) -> Run:
    """Run `step` over x (T, B, m) from `initial` (each B, size), each row up to its own length.

    Outputs and states past a row's length are zero; the state of an empty row is its initial one.
    """
    lengths = [x.shape[0]] * x.shape[1] if lengths is None else lengths
    rows = [
        _one(step, p, x[:, b], tuple(s[b] for s in initial), length)
        for b, length in enumerate(lengths)
    ]
    y = torch.stack([row.y for row in rows], 1)
    final = tuple(torch.stack(s) for s in zip(*(row.final for row in rows), strict=True))
    states = tuple(torch.stack(s, 1) for s in zip(*(row.states for row in rows), strict=True))
    return Run(y, final, states)


def _one(step: Step, p: Parameters, x: Tensor, states: States, length: int) -> Run:
    """One sequence x (T, m), of which the first `length` steps count."""
    blank = torch.zeros_like(step(p, x.new_zeros(x.shape[1]), states)[0])
    outputs = [blank] * x.shape[0]
    path = [[torch.zeros_like(s)] * x.shape[0] for s in states]
    for t in range(length):
        outputs[t], states = step(p, x[t], states)
        for k, state in enumerate(states):
            path[k][t] = state
    return Run(torch.stack(outputs), states, tuple(torch.stack(s) for s in path))


def reversed_rows(x: Tensor, lengths: Sequence[int]) -> Tensor:
    """Each row's own first `length` steps in reversed order; what follows them stays."""
    columns = [torch.cat([x[:n, b].flip(0), x[n:, b]]) for b, n in enumerate(lengths)]
    return torch.stack(columns, 1)


def stacked(
    step: Step,
    layers: Sequence[Sequence[Parameters]],
    x: Tensor,
    initial: States,
    lengths: Sequence[int] | None = None,
) -> tuple[Tensor, States]:
    """Layers over layers, each with one or two directions: layers[k][0] forwards, [1] backwards.

    `initial` and the final states are (layers * directions, B, size), torch.nn's order.
    """
    lengths = [x.shape[0]] * x.shape[1] if lengths is None else lengths
    finals: list[States] = []
    for layer in layers:
        outputs: list[Tensor] = []
        for reverse, p in enumerate(layer):
            start = tuple(s[len(finals)] for s in initial)
            run = unfold(step, p, reversed_rows(x, lengths) if reverse else x, start, lengths)
            outputs.append(reversed_rows(run.y, lengths) if reverse else run.y)
            finals.append(run.final)
        x = torch.cat(outputs, -1)
    return x, tuple(torch.stack(s) for s in zip(*finals, strict=True))


def affine(p: Parameters, gate: str, x: Tensor, h: Tensor) -> Tensor:
    """The gate's W_x x + W_h h + b."""
    return p[f"{gate}.W_x"] @ x + p[f"{gate}.W_h"] @ h + p[f"{gate}.b"]


# ---------------------------------------------------------------- simple recurrent networks


def elman(
    p: Parameters, x: Tensor, states: States, f: Callable[[Tensor], Tensor] = tanh
) -> tuple[Tensor, States]:
    """Elman 1990, "Finding structure in time": the hidden vector is copied back."""
    (h,) = states
    h = f(p["W_h"] @ h + p["W_x"] @ x + p["b"])
    return h, (h,)


def jordan(
    p: Parameters,
    x: Tensor,
    states: States,
    f: Callable[[Tensor], Tensor] = tanh,
    g: Callable[[Tensor], Tensor] = lambda a: a,
) -> tuple[Tensor, States]:
    """Jordan 1986, "Serial order": the output is fed back, so the state has the output's size."""
    (y,) = states
    h = f(p["W_y"] @ y + p["W_x"] @ x + p["b"])
    y = g(p["V"] @ h + p["c"])
    return y, (y,)


def two_layer_feedback(p: Parameters, x: Tensor, states: States) -> tuple[Tensor, States]:
    """Two layers; the second, one step late, is fed back to the first (a global recurrence)."""
    h1, h2 = states
    h1 = tanh(p["W_1"] @ h1 + p["U"] @ h2 + p["W_x"] @ x + p["b_1"])
    h2 = tanh(p["W_2"] @ h2 + p["V"] @ h1 + p["b_2"])
    return h2, (h1, h2)


def leaky(p: Parameters, x: Tensor, states: States, alpha: float = 0.1) -> tuple[Tensor, States]:
    """Lukosevicius 2012, "A practical guide to applying echo state networks", eqs. 2 and 3."""
    (h,) = states
    h = (1 - alpha) * h + alpha * tanh(p["W_h"] @ h + p["W_x"] @ x + p["b"])
    return h, (h,)


# ---------------------------------------------------------------- gated networks


def gru(p: Parameters, x: Tensor, states: States) -> tuple[Tensor, States]:
    """torch.nn.GRU and cuDNN: the reset gate acts after the product; z keeps the old state."""
    (h,) = states
    r = sigmoid(affine(p, "r", x, h))
    z = sigmoid(affine(p, "z", x, h))
    n = tanh(p["i.W_x"] @ x + p["i.b"] + r * (p["W_n"] @ h + p["b_n"]))
    h = (1 - z) * n + z * h
    return h, (h,)


def gru_cho(p: Parameters, x: Tensor, states: States) -> tuple[Tensor, States]:
    """Cho et al. 2014 (1406.1078), eqs. 5 to 8: the reset gate acts before the product."""
    (h,) = states
    r = sigmoid(affine(p, "r", x, h))
    z = sigmoid(affine(p, "z", x, h))
    candidate = tanh(p["W_x"] @ x + p["W_h"] @ (r * h) + p["b"])
    h = z * h + (1 - z) * candidate
    return h, (h,)


def mgu(p: Parameters, x: Tensor, states: States) -> tuple[Tensor, States]:
    """Zhou et al. 2016 (1603.09420), the minimal gated unit: one gate forgets and resets."""
    (h,) = states
    f = sigmoid(affine(p, "f", x, h))
    candidate = tanh(p["W_x"] @ x + p["W_h"] @ (f * h) + p["b"])
    h = (1 - f) * h + f * candidate
    return h, (h,)


def lstm(p: Parameters, x: Tensor, states: States) -> tuple[Tensor, States]:
    """Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000."""
    h, c = states
    i = sigmoid(affine(p, "i", x, h))
    f = sigmoid(affine(p, "f", x, h))
    g = tanh(affine(p, "g", x, h))
    o = sigmoid(affine(p, "o", x, h))
    c = f * c + i * g
    h = o * tanh(c)
    return h, (h, c)


def lstm_peephole(p: Parameters, x: Tensor, states: States) -> tuple[Tensor, States]:
    """Gers, Schraudolph & Schmidhuber 2002: i and f look at the old cell, o at the new one."""
    h, c = states
    i = sigmoid(affine(p, "i", x, h) + p["p_i"] * c)
    f = sigmoid(affine(p, "f", x, h) + p["p_f"] * c)
    g = tanh(affine(p, "g", x, h))
    c = f * c + i * g
    o = sigmoid(affine(p, "o", x, h) + p["p_o"] * c)
    h = o * tanh(c)
    return h, (h, c)


STEPS: dict[str, Step] = {
    "elman": elman,
    "jordan": jordan,
    "two_layer_feedback": two_layer_feedback,
    "leaky": leaky,
    "gru": gru,
    "gru_cho": gru_cho,
    "mgu": mgu,
    "lstm": lstm,
    "lstm_peephole": lstm_peephole,
}
elman_relu: Step = partial(elman, f=torch.relu)


# ---------------------------------------------------------------- torch's weights, by equation


def from_torch(
    module: torch.nn.RNNBase, layer: int = 0, reverse: bool = False
) -> dict[str, Tensor]:
    """One layer's parameters of torch.nn.RNN, GRU or LSTM under the names used here.

    torch keeps two biases per gate and stacks the gates by rows: LSTM i, f, g, o; GRU r, z, n.
    """
    suffix = _suffix(layer, reverse)
    w_x, w_h, b_x, b_h = (getattr(module, kind + suffix).detach() for kind in KINDS)
    if module.mode.startswith("RNN"):
        return {"W_x": w_x, "W_h": w_h, "b": b_x + b_h}
    names = "ifgo" if module.mode == "LSTM" else "rz"
    parts = [torch.split(w, module.hidden_size) for w in (w_x, w_h, b_x, b_h)]
    p: dict[str, Tensor] = {}
    for gate, gx, gh, bx, bh in zip(names, *parts, strict=False):
        p |= {f"{gate}.W_x": gx, f"{gate}.W_h": gh, f"{gate}.b": bx + bh}
    if module.mode == "GRU":
        wx, wh, bx, bh = (part[2] for part in parts)
        p |= {"i.W_x": wx, "i.b": bx, "W_n": wh, "b_n": bh}
    return p


def to_torch(p: Parameters, layer: int = 0, reverse: bool = False) -> dict[str, Tensor]:
    """The way back, differentiable in p; bias_hh is zero where it can be."""
    if "W_n" in p:
        parts = [
            [p["r.W_x"], p["z.W_x"], p["i.W_x"]],
            [p["r.W_h"], p["z.W_h"], p["W_n"]],
            [p["r.b"], p["z.b"], p["i.b"]],
            [torch.zeros_like(p["r.b"]), torch.zeros_like(p["z.b"]), p["b_n"]],
        ]
    else:
        gates = [f"{g}." for g in "ifgo"] if "i.W_x" in p else [""]
        parts = [[p[gate + name] for gate in gates] for name in ("W_x", "W_h", "b")]
        parts.append([torch.zeros_like(b) for b in parts[2]])
    suffix = _suffix(layer, reverse)
    return {kind + suffix: torch.cat(rows) for kind, rows in zip(KINDS, parts, strict=True)}


KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _suffix(layer: int, reverse: bool) -> str:
    return f"_l{layer}_reverse" if reverse else f"_l{layer}"
