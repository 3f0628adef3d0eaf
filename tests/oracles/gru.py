"""The papers' formulas of the GRU family, on vectors; nothing here is refold's."""

import torch
from cases import HIDDEN, INPUT, Case
from oracle import Parameters, States, affine
from torch import Tensor, sigmoid, tanh

Result = tuple[Tensor, States]


def with_gate(p: Parameters, x: Tensor, h: Tensor, f: Tensor) -> Result:
    """Zhou et al. 2016 with a gate that somebody else worked out."""
    candidate = tanh(p["W_x"] @ x + p["W_h"] @ (f * h) + p["b"])
    h = (1 - f) * h + f * candidate
    return h, (h,)


def mgu1(p: Parameters, x: Tensor, states: States) -> Result:
    """Heck & Salem 2017: f = sigmoid(U h + b)."""
    return with_gate(p, x, states[0], sigmoid(p["f.W_h"] @ states[0] + p["f.b"]))


def mgu2(p: Parameters, x: Tensor, states: States) -> Result:
    """Heck & Salem 2017: f = sigmoid(U h)."""
    return with_gate(p, x, states[0], sigmoid(p["U_f"] @ states[0]))


def mgu3(p: Parameters, x: Tensor, states: States) -> Result:
    """Heck & Salem 2017: f = sigmoid(b)."""
    return with_gate(p, x, states[0], sigmoid(p["b_f"]))


def normed(p: Parameters, index: int, a: Tensor) -> Tensor:
    """Ba et al. 2016, eq. 4, with torch's epsilon."""
    centred = a - a.mean()
    return (
        p[f"alpha_{index}"] * centred / (centred.square().mean() + 1e-5).sqrt() + p[f"beta_{index}"]
    )


def gru_layer_norm(p: Parameters, x: Tensor, states: States) -> Result:
    """Ba et al. 2016, supplement: both gates are normed as one vector; z writes the candidate."""
    (h,) = states
    gates = normed(p, 1, p["W_h"] @ h) + normed(p, 2, p["W_x"] @ x)
    z, r = gates[: len(h)], gates[len(h) :]
    candidate = tanh(normed(p, 3, p["W"] @ x) + sigmoid(r) * normed(p, 4, p["U"] @ h))
    h = (1 - sigmoid(z)) * h + sigmoid(z) * candidate
    return h, (h,)


def li_gru(p: Parameters, x: Tensor, states: States) -> Result:
    """Ravanelli et al. 2018, with biases where the paper has batch norm."""
    (h,) = states
    z = sigmoid(affine(p, "z", x, h))
    h = z * h + (1 - z) * torch.relu(affine(p, "a", x, h))
    return h, (h,)


def light_ru(p: Parameters, x: Tensor, states: States) -> Result:
    """Ye et al. 2024."""
    (h,) = states
    candidate = tanh(p["c.W_x"] @ x + p["c.b"])
    f = sigmoid(affine(p, "f", x, h))
    h = (1 - f) * h + f * candidate
    return h, (h,)


def mut1(p: Parameters, x: Tensor, states: States) -> Result:
    """Jozefowicz et al. 2015, with W_x x in the place of a bare x."""
    (h,) = states
    z = sigmoid(p["z.W_x"] @ x + p["z.b"])
    r = sigmoid(affine(p, "r", x, h))
    h = tanh(p["W_h"] @ (r * h) + tanh(p["W_x"] @ x) + p["b"]) * z + h * (1 - z)
    return h, (h,)


def mut2(p: Parameters, x: Tensor, states: States) -> Result:
    """Jozefowicz et al. 2015, with r.W_x x in the place of a bare x."""
    (h,) = states
    z = sigmoid(affine(p, "z", x, h))
    r = sigmoid(affine(p, "r", x, h))
    h = tanh(p["W_h"] @ (r * h) + p["W_x"] @ x + p["b"]) * z + h * (1 - z)
    return h, (h,)


def mut3(p: Parameters, x: Tensor, states: States) -> Result:
    """Jozefowicz et al. 2015."""
    (h,) = states
    z = sigmoid(p["W_z"] @ x + p["U_z"] @ tanh(h) + p["b_z"])
    r = sigmoid(affine(p, "r", x, h))
    h = tanh(p["W_h"] @ (r * h) + p["W_x"] @ x + p["b"]) * z + h * (1 - z)
    return h, (h,)


def t_gru(p: Parameters, x: Tensor, states: States) -> Result:
    """Balduzzi & Ghifary 2016: z, f and o read x(t) and x(t-1); h = f h + z o."""
    h, before = states
    z, f, o = (p[f"{g}.W_p"] @ before + p[f"{g}.W_x"] @ x + p[f"{g}.b"] for g in "zfo")
    h = sigmoid(f) * h + z * tanh(o)
    return h, (h, x)


def mi_ru1(p: Parameters, x: Tensor, states: States) -> Result:
    """Zyarah & Kudithipudi 2025: lambda = 1/2."""
    (h,) = states
    r = sigmoid(affine(p, "r", x, h))
    candidate = tanh(p["W_x"] @ x + p["W_h"] @ (r * h) + p["b"])
    h = 0.5 * h + (1 - 0.5) * candidate
    return h, (h,)


def mi_ru2(p: Parameters, x: Tensor, states: States) -> Result:
    """Zyarah & Kudithipudi 2025: lambda = beta = 1/2."""
    (h,) = states
    candidate = tanh(p["W_x"] @ x + p["W_h"] @ (0.5 * h) + p["b"])
    h = 0.5 * h + (1 - 0.5) * candidate
    return h, (h,)


CASES = {
    "mgu1": Case("mgu1", mgu1),
    "mgu2": Case("mgu2", mgu2),
    "mgu3": Case("mgu3", mgu3),
    "gru_layer_norm": Case("gru_layer_norm", gru_layer_norm),
    "li_gru": Case("li_gru", li_gru),
    "light_ru": Case("light_ru", light_ru),
    "mut1": Case("mut1", mut1),
    "mut2": Case("mut2", mut2),
    "mut3": Case("mut3", mut3),
    "t_gru": Case("t_gru", t_gru, {}, {"h": HIDDEN, "p": INPUT}),
    "mi_ru1": Case("mi_ru1", mi_ru1),
    "mi_ru2": Case("mi_ru2", mi_ru2),
}
