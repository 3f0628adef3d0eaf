"""The networks of the textbooks, on vectors."""

import torch
from cases import HIDDEN, Case
from oracle import Parameters, States
from torch import Tensor, tanh

from .continuous import rk4

# Cells of thresholds: nothing that they give has a gradient.
THRESHOLDS = ("mcculloch_pitts", "hopfield", "bam")
# Cells that read no input.
CLOSED = ("hopfield", "brain_state_in_a_box", "bam")


def mcculloch_pitts(p: Parameters, x: Tensor, states: States):
    """McCulloch & Pitts 1943: a unit fires when its weighted input reaches the threshold."""
    (h,) = states
    h = ((p["W_h"] @ h + p["W_x"] @ x - p["theta"]) >= 0).to(x.dtype)
    return h, (h,)


def cohen_grossberg(p: Parameters, x: Tensor, states: States, dt: float = 0.05):
    """dh_i/dt = a(h_i) (b_i(h_i) - sum_j c_ij d(h_j)), a = 1 / (1 + h^2), b = u - h, d = tanh, c symmetric."""
    (h,) = states
    c = (p["C"] + p["C"].T) / 2
    u = p["W_x"] @ x
    h = rk4(lambda h: 1 / (1 + h**2) * (u - h - c @ tanh(h)), h, dt)
    return h, (h,)


def _signs(drive: Tensor, old: Tensor) -> Tensor:
    """-1 or 1; a unit without any drive stays as it is."""
    return torch.where(drive > 0, 1.0, torch.where(drive < 0, -1.0, old))


def hopfield(p: Parameters, x: Tensor, states: States):
    """Hopfield 1982, all units at once."""
    (h,) = states
    h = _signs(p["W"] @ h, h)
    return h, (h,)


def brain_state_in_a_box(
    p: Parameters, x: Tensor, states: States, alpha: float = 0.1, gamma: float = 1.0
):
    """Anderson et al. 1977: h <- limit(gamma h + alpha W h) within [-1, 1]."""
    (h,) = states
    h = (gamma * h + alpha * (p["W"] @ h)).clamp(-1, 1)
    return h, (h,)


def bam(p: Parameters, x: Tensor, states: States):
    """Kosko 1988: the first layer sets the second through M, which sets the first through M transposed."""
    a, b = states
    b = _signs(a @ p["M"], b)
    a = _signs(p["M"] @ b, a)
    return a, (a, b)


CASES = {
    "mcculloch_pitts": Case("mcculloch_pitts", mcculloch_pitts),
    "cohen_grossberg": Case("cohen_grossberg", cohen_grossberg),
    "hopfield": Case("hopfield", hopfield),
    "brain_state_in_a_box": Case("brain_state_in_a_box", brain_state_in_a_box),
    "bam": Case("bam", bam, {"k": 2}, {"a": HIDDEN, "b": 2}),
}
