"""Continuous-time cells from their papers, on vectors. The time since the last step, where it is read, is last in x."""

from collections.abc import Callable

import torch
from cases import HIDDEN, Case
from oracle import Parameters, States, affine
from torch import Tensor, exp, expm1, log, relu, sigmoid, tanh
from torch.nn.functional import softplus

Slope = Callable[[Tensor], Tensor]


def rk4(f: Slope, h: Tensor, dt: float | Tensor) -> Tensor:
    """The classical method of Runge and Kutta."""
    k1 = f(h)
    k2 = f(h + dt / 2 * k1)
    k3 = f(h + dt / 2 * k2)
    k4 = f(h + dt * k3)
    return h + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def heun(f: Slope, h: Tensor, dt: float | Tensor) -> Tensor:
    """The explicit trapezoidal rule."""
    k1 = f(h)
    return h + dt / 2 * (k1 + f(h + dt * k1))


def relaxed(h: Tensor, rate: Tensor, drive: Tensor, dt: float) -> Tensor:
    """The exact solution of dh/dt = -rate h + drive after dt, for constant rate and drive."""
    return exp(-rate * dt) * h - expm1(-rate * dt) / rate * drive


def ctrnn(p: Parameters, x: Tensor, states: States, tau: float = 1.0, dt: float = 0.1):
    """tau dh/dt = -h + tanh(W_h h + W_x x + b), by rk4."""
    (h,) = states
    h = rk4(lambda h: (-h + tanh(p["W_h"] @ h + p["W_x"] @ x + p["b"])) / tau, h, dt)
    return h, (h,)


def additive(p: Parameters, x: Tensor, states: States, dt: float = 0.1):
    """dh/dt = -A h + W_h tanh(h) + W_x x + b, by Heun's method."""
    (h,) = states
    drive = p["W_x"] @ x + p["b"]
    h = heun(lambda h: -p["A"] * h + p["W_h"] @ tanh(h) + drive, h, dt)
    return h, (h,)


def shunting(p: Parameters, x: Tensor, states: States, dt: float = 0.1):
    """dh/dt = -A h + (B - h) E - (h + D) I with A = B = D = 1; excitation E and inhibition I held over the step."""
    (h,) = states
    s = sigmoid(h)
    excite, inhibit = (
        relu(p[f"{k}.W_x"] @ x + p[f"{k}.W_signal"] @ s + p[f"{k}.b"]) for k in ("e", "i")
    )
    h = relaxed(h, 1 + excite + inhibit, excite - inhibit, dt)
    return h, (h,)


def gru_ode(p: Parameters, x: Tensor, states: States):
    """De Brouwer et al. 2019: dh/dt = (1 - z) (g - h), by Heun's method over dt."""
    (h,) = states
    x, dt = x[:-1], x[-1]

    def slope(h: Tensor) -> Tensor:
        r, z = sigmoid(affine(p, "r", x, h)), sigmoid(affine(p, "z", x, h))
        return (1 - z) * (tanh(p["W_x"] @ x + p["W_h"] @ (r * h) + p["b"]) - h)

    h = heun(slope, h, dt)
    return h, (h,)


def ltc(p: Parameters, x: Tensor, states: States, unfolds: int = 6):
    """Hasani et al. 2021, algorithm 1: `unfolds` fused steps of equation 3, each over dt / unfolds."""
    (h,) = states
    x, dt = x[:-1], x[-1] / unfolds
    for _ in range(unfolds):
        f = sigmoid(affine(p, "f", x, h))
        h = (h + dt * f * p["A"]) / (1 + dt * (softplus(p["rate"]) + f))
    return h, (h,)


def _backbone(p: Parameters, x: Tensor, h: Tensor) -> Callable[[str], Tensor]:
    """The heads of a closed-form network, each a linear layer above one shared layer with LeCun's tanh."""
    s = 1.7159 * tanh(0.666 * affine(p, "backbone", x, h))
    return lambda head: p[f"{head}.W_s"] @ s + p[f"{head}.b"]


def cfc(p: Parameters, x: Tensor, states: States):
    """Hasani et al. 2022: sigma(-f t) g + (1 - sigma(-f t)) k, with a bias in the gate."""
    (h,) = states
    x, dt = x[:-1], x[-1]
    head = _backbone(p, x, h)
    gate = sigmoid(-head("f") * dt - head("f_0"))
    h = tanh(head("g")) * gate + tanh(head("k")) * (1 - gate)
    return h, (h,)


def cfc_no_gate(p: Parameters, x: Tensor, states: States):
    """The first value is not gated."""
    (h,) = states
    x, dt = x[:-1], x[-1]
    head = _backbone(p, x, h)
    h = tanh(head("g")) + sigmoid(head("f") * dt + head("f_0")) * tanh(head("k"))
    return h, (h,)


def cfc_pure(p: Parameters, x: Tensor, states: States):
    """The closed-form solution: A - A exp(-t (|w_tau| + |f|)) f."""
    (h,) = states
    x, dt = x[:-1], x[-1]
    f = _backbone(p, x, h)("f")
    h = p["A"] - p["A"] * exp(-dt * (p["w_tau"].abs() + f.abs())) * f
    return h, (h,)


def time_aware_lstm(p: Parameters, x: Tensor, states: States):
    """Baytas et al. 2017: the short-term part of the cell is discounted by 1 / log(e + dt)."""
    h, c = states
    x, dt = x[:-1], x[-1]
    short = tanh(p["d.W_c"] @ c + p["d.b"])
    long = c - short
    old = long + short / log(torch.e + dt)
    i, f, o = (sigmoid(affine(p, gate, x, h)) for gate in "ifo")
    c = f * old + i * tanh(affine(p, "g", x, h))
    h = o * tanh(c)
    return h, (h, c)


CASES = {
    "ctrnn": Case("ctrnn", ctrnn),
    "additive": Case("additive", additive),
    "shunting": Case("shunting", shunting),
    "gru_ode": Case("gru_ode", gru_ode),
    "ltc": Case("ltc", ltc),
    "cfc": Case("cfc", cfc, {"u": 5}),
    "cfc_no_gate": Case("cfc_no_gate", cfc_no_gate, {"u": 5}),
    "cfc_pure": Case("cfc_pure", cfc_pure, {"u": 5}),
    "time_aware_lstm": Case("time_aware_lstm", time_aware_lstm, {}, {"h": HIDDEN, "c": HIDDEN}),
}
