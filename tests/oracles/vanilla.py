"""The papers' formulas of the vanilla family, on vectors; nothing here is refold's."""

import torch
from cases import HIDDEN, Case
from oracle import Parameters, States, elman, elman_relu
from torch import Tensor, eye, sigmoid, tanh

CONTEXT, RANK_W, RANK_U = 2, 2, 3
Result = tuple[Tensor, States]


def multi_lag(p: Parameters, x: Tensor, states: States) -> Result:
    """Soltani & Jiang 2016: h(t) = f(W_x x + sum over k of W_k h(t-k) + b), for three delays."""
    past = states[0].reshape(3, -1)
    n = past.shape[1]
    a = p["W_x"] @ x + p["b"]
    for k in range(3):
        a = a + p["W_h"][:, k * n : (k + 1) * n] @ past[k]
    h = tanh(a)
    return h, (torch.stack([h, past[0], past[1]]).reshape(-1),)


def indrnn(p: Parameters, x: Tensor, states: States) -> Result:
    """Li et al. 2018, eq. 2."""
    (h,) = states
    h = torch.relu(p["W"] @ x + p["u"] * h + p["b"])
    return h, (h,)


def antisymmetric(p: Parameters, x: Tensor, states: States) -> Result:
    """Chang et al. 2019: h + eps tanh((W - W' - gamma I) h + V x + b), with eps = gamma = 0.01."""
    (h,) = states
    W = p["W"] - p["W"].T - 0.01 * eye(len(h), dtype=h.dtype)
    h = h + 0.01 * tanh(W @ h + p["V"] @ x + p["b"])
    return h, (h,)


def antisymmetric_gated(p: Parameters, x: Tensor, states: States) -> Result:
    """Chang et al. 2019: the gate reads the same (W - W' - gamma I) h."""
    (h,) = states
    W = p["W"] - p["W"].T - 0.01 * eye(len(h), dtype=h.dtype)
    z = sigmoid(W @ h + p["V_z"] @ x + p["b_z"])
    h = h + 0.01 * z * tanh(W @ h + p["V_h"] @ x + p["b_h"])
    return h, (h,)


def between(M: Tensor, beta: float, gamma: float) -> Tensor:
    """Erichson et al. 2021: (1 - beta)(M + M') + beta (M - M') - gamma I."""
    return (1 - beta) * (M + M.T) + beta * (M - M.T) - gamma * eye(len(M), dtype=M.dtype)


def lipschitz(p: Parameters, x: Tensor, states: States) -> Result:
    """Erichson et al. 2021: dh/dt = A h + tanh(W h + U x + b), an Euler step of 0.03."""
    (h,) = states
    A, W = (between(p[name], 0.8, 0.01) for name in ("M_A", "M_W"))
    h = h + 0.03 * (A @ h + tanh(W @ h + p["U"] @ x + p["b"]))
    return h, (h,)


def scrn(p: Parameters, x: Tensor, states: States) -> Result:
    """Mikolov et al. 2015, eqs. 3 and 4; the read-out U h + V s is left to a head on both."""
    h, s = states
    s = (1 - 0.95) * (p["B"] @ x) + 0.95 * s
    h = sigmoid(p["P"] @ s + p["A"] @ x + p["R"] @ h)
    return torch.cat([h, s]), (h, s)


def fast_rnn(p: Parameters, x: Tensor, states: States) -> Result:
    """Kusupati et al. 2018: alpha h~ + beta h, each number a sigmoid of what is learned."""
    (h,) = states
    candidate = tanh(p["W"] @ x + p["U"] @ h + p["b"])
    h = sigmoid(p["alpha"]) * candidate + sigmoid(p["beta"]) * h
    return h, (h,)


def fast_grnn(p: Parameters, x: Tensor, states: States) -> Result:
    """Kusupati et al. 2018: (zeta (1 - z) + nu) h~ + z h."""
    (h,) = states
    W, U = p["W"], p["U"]
    z = sigmoid(W @ x + U @ h + p["b_z"])
    candidate = tanh(W @ x + U @ h + p["b_h"])
    h = (sigmoid(p["zeta"]) * (1 - z) + sigmoid(p["nu"])) * candidate + z * h
    return h, (h,)


def fast_grnn_low_rank(p: Parameters, x: Tensor, states: States) -> Result:
    """The same with W = W_1 W_2 and U = U_1 U_2."""
    full = {"W": p["W_1"] @ p["W_2"], "U": p["U_1"] @ p["U_2"]}
    return fast_grnn({**p, **full}, x, states)


def t_rnn(p: Parameters, x: Tensor, states: States) -> Result:
    """Balduzzi & Ghifary 2016: z = W x, f = sigmoid(V x + b), h = f h + (1 - f) z."""
    (h,) = states
    z = p["W"] @ x
    f = sigmoid(p["V"] @ x + p["b"])
    h = f * h + (1 - f) * z
    return h, (h,)


CASES = {
    "elman_relu": Case("elman_relu", elman_relu),
    "multi_lag": Case("multi_lag", multi_lag, {}, {"past": 3 * HIDDEN}),
    "irnn": Case("irnn", elman_relu),
    "elman_orthogonal": Case("elman_orthogonal", elman),
    "indrnn": Case("indrnn", indrnn),
    "antisymmetric": Case("antisymmetric", antisymmetric),
    "antisymmetric_gated": Case("antisymmetric_gated", antisymmetric_gated),
    "lipschitz": Case("lipschitz", lipschitz),
    "scrn": Case("scrn", scrn, {"k": CONTEXT}, {"h": HIDDEN, "s": CONTEXT}, HIDDEN + CONTEXT),
    "fast_rnn": Case("fast_rnn", fast_rnn),
    "fast_grnn": Case("fast_grnn", fast_grnn),
    "fast_grnn_low_rank": Case(
        "fast_grnn_low_rank", fast_grnn_low_rank, {"q": RANK_W, "r": RANK_U}
    ),
    "t_rnn": Case("t_rnn", t_rnn),
}
