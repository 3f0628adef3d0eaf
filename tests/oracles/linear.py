"""The papers' formulas of the recurrences that are linear in the state; nothing here is refold's."""

import torch
from cases import HIDDEN, INPUT, Case
from oracle import Parameters, States
from torch import Tensor, sigmoid, tanh

from .lstm import Result, reads


def positive(x: Tensor) -> Tensor:
    """Feng et al. 2024, appendix B: g."""
    return torch.where(x >= 0, x + 0.5, sigmoid(x))


def min_gru(p: Parameters, x: Tensor, states: States, log_space: bool = False) -> Result:
    """Feng et al. 2024, section 3.1."""
    (h,) = states
    z = sigmoid(reads(p, "z", x=x))
    candidate = reads(p, "g", x=x)
    h = (1 - z) * h + z * (positive(candidate) if log_space else candidate)
    return h, (h,)


def min_gru_positive(p: Parameters, x: Tensor, states: States) -> Result:
    return min_gru(p, x, states, log_space=True)


def min_lstm(p: Parameters, x: Tensor, states: States, log_space: bool = False) -> Result:
    """Feng et al. 2024, section 3.2: both gates divided by their sum."""
    (h,) = states
    f, i = sigmoid(reads(p, "f", x=x)), sigmoid(reads(p, "i", x=x))
    candidate = reads(p, "g", x=x)
    h = f / (f + i) * h + i / (f + i) * (positive(candidate) if log_space else candidate)
    return h, (h,)


def min_lstm_positive(p: Parameters, x: Tensor, states: States) -> Result:
    return min_lstm(p, x, states, log_space=True)


def sru(p: Parameters, x: Tensor, states: States) -> Result:
    """Lei et al. 2018: the gates see c(t-1) through a vector."""
    (c,) = states
    f = sigmoid(reads(p, "f", x=x) + p["v_f"] * c)
    r = sigmoid(reads(p, "r", x=x) + p["v_r"] * c)
    c = f * c + (1 - f) * (p["W"] @ x)
    return r * c + (1 - r) * (p["W_h"] @ x), (c,)


def sru_v1(p: Parameters, x: Tensor, states: States) -> Result:
    """The paper's first version: g = tanh, and no gate sees the cell."""
    (c,) = states
    f, r = sigmoid(reads(p, "f", x=x)), sigmoid(reads(p, "r", x=x))
    c = f * c + (1 - f) * (p["W"] @ x)
    return r * tanh(c) + (1 - r) * (p["W_h"] @ x), (c,)


def qrnn_f(p: Parameters, x: Tensor, states: States) -> Result:
    """Bradbury et al. 2016, equation 3."""
    h, before = states
    z, f = (reads(p, gate, x=x, p=before) for gate in "zf")
    h = sigmoid(f) * h + (1 - sigmoid(f)) * tanh(z)
    return h, (h, x)


def qrnn_fo(p: Parameters, x: Tensor, states: States) -> Result:
    """Bradbury et al. 2016, equation 4."""
    c, before = states
    z, f, o = (reads(p, gate, x=x, p=before) for gate in "zfo")
    c = sigmoid(f) * c + (1 - sigmoid(f)) * tanh(z)
    return sigmoid(o) * c, (c, x)


def qrnn_ifo(p: Parameters, x: Tensor, states: States) -> Result:
    """Bradbury et al. 2016, equation 5."""
    c, before = states
    z, f, o, i = (reads(p, gate, x=x, p=before) for gate in "zfoi")
    c = sigmoid(f) * c + sigmoid(i) * tanh(z)
    return sigmoid(o) * c, (c, x)


def lru(p: Parameters, x: Tensor, states: States) -> Result:
    """Orvieto et al. 2023, in complex numbers: lambda = exp(-exp(nu_log) + i exp(theta_log))."""
    h = torch.complex(*states)
    rotation = torch.complex(-torch.exp(p["nu_log"]), torch.exp(p["theta_log"]))
    eigenvalues = torch.exp(rotation)
    gamma = p["s"] * torch.sqrt(1 - eigenvalues.abs() ** 2)
    u = x.to(h.dtype)
    h = eigenvalues * h + gamma * (torch.complex(p["B_re"], p["B_im"]) @ u)
    y = (torch.complex(p["C_re"], p["C_im"]) @ h).real + p["D"] @ x
    return y, (h.real, h.imag)


def rg_lru(p: Parameters, x: Tensor, states: States) -> Result:
    """De et al. 2024, equations 1 to 4: a = sigmoid(L)^(8 r)."""
    (h,) = states
    u = reads(p, "u", x=x)
    r, i = sigmoid(reads(p, "r", v=u)), sigmoid(reads(p, "i", v=u))
    a = sigmoid(p["L"]) ** (8 * r)
    h = a * h + torch.sqrt(1 - a**2) * (i * u)
    return h, (h,)


def holt_winters(p: Parameters, x: Tensor, states: States) -> Result:
    """Taylor 2003, equations 1 to 4 without the trend, additive; each season is a list that is turned by one."""
    level, s, u = states
    y, seen, own = x[0], x[1], x[2:]
    rates = [p[name] + own[i] for i, name in enumerate(("alpha", "gamma", "delta"))]
    alpha, gamma, delta = (sigmoid(rate) for rate in rates)
    now, long = s[:1], u[:1]
    new = alpha * (y - now - long) + (1 - alpha) * level
    season = gamma * (y - new - long) + (1 - gamma) * now
    longer = delta * (y - new - now) + (1 - delta) * long
    new = seen * new + (1 - seen) * level
    season = seen * season + (1 - seen) * now
    longer = seen * longer + (1 - seen) * long
    s, u = torch.cat([s[1:], season]), torch.cat([u[1:], longer])
    return torch.cat([new, now, long]), (new, s, u)


ONE, C = {"h": HIDDEN}, {"c": HIDDEN}

CASES = {
    "min_gru": Case("min_gru", min_gru, {}, ONE),
    "min_gru_positive": Case("min_gru_positive", min_gru_positive, {}, ONE),
    "min_lstm": Case("min_lstm", min_lstm, {}, ONE),
    "min_lstm_positive": Case("min_lstm_positive", min_lstm_positive, {}, ONE),
    "sru": Case("sru", sru, {}, C),
    "sru_v1": Case("sru_v1", sru_v1, {}, C),
    "qrnn_f": Case("qrnn_f", qrnn_f, {}, {"h": HIDDEN, "p": INPUT}),
    "qrnn_fo": Case("qrnn_fo", qrnn_fo, {}, {"c": HIDDEN, "p": INPUT}),
    "qrnn_ifo": Case("qrnn_ifo", qrnn_ifo, {}, {"c": HIDDEN, "p": INPUT}),
    "lru": Case("lru", lru, {}, {"h_re": HIDDEN, "h_im": HIDDEN}),
    "rg_lru": Case("rg_lru", rg_lru, {}, ONE),
    "holt_winters": Case(
        "holt_winters", holt_winters, {"k": 5}, {"level": 1, "s": HIDDEN, "u": 5}, output=3
    ),
}
