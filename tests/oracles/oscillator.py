"""The papers' formulas of the oscillators and flows, on vectors; nothing here is refold's."""

import torch
from cases import HIDDEN, Case
from oracle import Parameters, States, affine
from torch import Tensor, sigmoid, tanh

from .lstm import Result, reads


def lem(p: Parameters, x: Tensor, states: States) -> Result:
    """Rusch et al. 2022, equation 3, with dt = 1: y reads the new z."""
    y, z = states
    fast, slow = sigmoid(reads(p, "a", x=x, y=y)), sigmoid(reads(p, "b", x=x, y=y))
    z = (1 - fast) * z + fast * tanh(reads(p, "c", x=x, y=y))
    y = (1 - slow) * y + slow * tanh(reads(p, "d", x=x, z=z))
    return y, (y, z)


def cornn(
    p: Parameters,
    x: Tensor,
    states: States,
    dt: float = 0.042,
    gamma: float = 2.7,
    epsilon: float = 4.7,
) -> Result:
    """Rusch & Mishra 2021, equation 3, with the old z in the damping."""
    y, z = states
    drive = tanh(p["W"] @ y + p["U"] @ z + p["V"] @ x + p["b"])
    z = z + dt * drive - dt * gamma * y - dt * epsilon * z
    y = y + dt * z
    return y, (y, z)


def unicornn(
    p: Parameters, x: Tensor, states: States, dt: float = 0.19, alpha: float = 30.65
) -> Result:
    """Rusch & Mishra 2021, UnICORNN."""
    y, z = states
    each = sigmoid(p["c"])
    z = z - dt * each * (tanh(p["w"] * y + p["V"] @ x + p["b"]) + alpha * y)
    y = y + dt * each * z
    return y, (y, z)


def tau_gru(p: Parameters, x: Tensor, states: States) -> Result:
    """Erichson et al. 2022; the register holds what h was, the latest first."""
    h, register = states
    late = register[-len(h) :]
    u = tanh(affine(p, "u", x, h))
    z = tanh(p["W_z"] @ late + p["U_z"] @ x + p["b_z"])
    g = sigmoid(affine(p, "g", x, h))
    a = sigmoid(affine(p, "a", x, h))
    new = (1 - g) * h + g * (u + a * z)
    return new, (new, torch.cat([h, register[: -len(h)]]))


TWO = {"y": HIDDEN, "z": HIDDEN}

CASES = {
    "lem": Case("lem", lem, {}, TWO),
    "cornn": Case("cornn", cornn, {}, TWO),
    "unicornn": Case("unicornn", unicornn, {}, TWO),
    "tau_gru": Case("tau_gru", tau_gru, {}, {"h": HIDDEN, "d": 10 * HIDDEN}),
}
