"""Pascanu's Omega by hand: the reverse steps of some cells as formulas, everything that is held fixed detached.

delta comes from torch's autograd through a plain loop. u = J^T delta is written out as in a textbook, from activations
without a graph and from parameters with one; torch differentiates Omega(u) with respect to these parameters alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, sigmoid, tanh

Parameters = Mapping[str, Tensor]
States = tuple[Tensor, ...]
Back = Callable[[Parameters, States], States]
Step = Callable[[Parameters, Tensor, States], tuple[Tensor, States, Back]]


def gate(p: Parameters, name: str, x: Tensor, h: Tensor, more: Tensor | float = 0.0) -> Tensor:
    return sigmoid(x @ p[f"{name}.W_x"].T + h @ p[f"{name}.W_h"].T + p[f"{name}.b"] + more)


def fixed(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.detach() for t in tensors)


def elman(p: Parameters, x: Tensor, states: States) -> tuple[Tensor, States, Back]:
    (h,) = states
    new = tanh(h @ p["W_h"].T + x @ p["W_x"].T + p["b"])
    (y,) = fixed(new)

    def back(p: Parameters, delta: States) -> States:
        return ((delta[0] * (1 - y**2)) @ p["W_h"],)

    return new, (new,), back


def jordan(p: Parameters, x: Tensor, states: States) -> tuple[Tensor, States, Back]:
    """Two products in the loop: V is differentiated too, and W_y behind it."""
    h = tanh(states[0] @ p["W_y"].T + x @ p["W_x"].T + p["b"])
    y = h @ p["V"].T + p["c"]
    (inner,) = fixed(h)

    def back(p: Parameters, delta: States) -> States:
        return (((delta[0] @ p["V"]) * (1 - inner**2)) @ p["W_y"],)

    return y, (y,), back


def gru(p: Parameters, x: Tensor, states: States) -> tuple[Tensor, States, Back]:
    (h,) = states
    r, z = gate(p, "r", x, h), gate(p, "z", x, h)
    inner = h @ p["W_n"].T + p["b_n"]
    n = tanh(x @ p["i.W_x"].T + p["i.b"] + r * inner)
    new = (1 - z) * n + z * h
    h, r, z, inner, n = fixed(h, r, z, inner, n)

    def back(p: Parameters, delta: States) -> States:
        (d,) = delta
        d_n = d * (1 - z) * (1 - n**2)
        d_z = d * (h - n) * z * (1 - z)
        d_r = d_n * inner * r * (1 - r)
        return (d * z + (d_n * r) @ p["W_n"] + d_z @ p["z.W_h"] + d_r @ p["r.W_h"],)

    return new, (new,), back


def gru_cho(p: Parameters, x: Tensor, states: States) -> tuple[Tensor, States, Back]:
    """r.W_h stands behind W_h: what is read there is made of it, and differentiated through."""
    (h,) = states
    r, z = gate(p, "r", x, h), gate(p, "z", x, h)
    n = tanh((r * h) @ p["W_h"].T + x @ p["W_x"].T + p["b"])
    new = z * h + (1 - z) * n
    h, r, z, n = fixed(h, r, z, n)

    def back(p: Parameters, delta: States) -> States:
        (d,) = delta
        q = (d * (1 - z) * (1 - n**2)) @ p["W_h"]
        d_z = d * (h - n) * z * (1 - z)
        d_r = q * h * r * (1 - r)
        return (d * z + q * r + d_z @ p["z.W_h"] + d_r @ p["r.W_h"],)

    return new, (new,), back


def lstm(p: Parameters, x: Tensor, states: States) -> tuple[Tensor, States, Back]:
    nothing = dict.fromkeys(("p_i", "p_f", "p_o"), torch.zeros(states[1].shape[-1]).double())
    y, new, back = lstm_peephole({**p, **nothing}, x, states)
    return y, new, lambda p, delta: back({**p, **nothing}, delta)


def lstm_peephole(p: Parameters, x: Tensor, states: States) -> tuple[Tensor, States, Back]:
    """The states are (h, c), and J is of both: the peepholes are read on the way back as well."""
    h, c = states
    i = gate(p, "i", x, h, p["p_i"] * c)
    f = gate(p, "f", x, h, p["p_f"] * c)
    g = tanh(x @ p["g.W_x"].T + h @ p["g.W_h"].T + p["g.b"])
    new = f * c + i * g
    o = gate(p, "o", x, h, p["p_o"] * new)
    y = o * tanh(new)
    old, i, f, g, o, e = fixed(c, i, f, g, o, tanh(new))

    def back(p: Parameters, delta: States) -> States:
        d_h, d_c = delta
        d_o = d_h * e * o * (1 - o)
        d_c = d_c + d_h * o * (1 - e**2) + d_o * p["p_o"]
        d_i = d_c * g * i * (1 - i)
        d_f = d_c * old * f * (1 - f)
        d_g = d_c * i * (1 - g**2)
        parts = {"i": d_i, "f": d_f, "g": d_g, "o": d_o}
        u = torch.stack([d @ p[f"{name}.W_h"] for name, d in parts.items()]).sum(0)
        return u, d_c * f + d_i * p["p_i"] + d_f * p["p_f"]

    return y, (y, new), back


CELLS: dict[str, Step] = {
    "elman": elman,
    "jordan": jordan,
    "gru": gru,
    "gru_cho": gru_cho,
    "lstm": lstm,
    "lstm_peephole": lstm_peephole,
}


class Expected(NamedTuple):
    """The mean of Omega, and the gradients of <v, y> + weight * mean by the parameters' names."""

    value: Tensor
    gradients: dict[str, Tensor]


def counted(
    step: Step,
    p: Parameters,
    x: Tensor,
    initial: States,
    v: Tensor,
    form: str,
    weight: float,
    lengths: Sequence[int] | None = None,
) -> Expected:
    """What a layer is to give for x (T, B, m): the mean over a row's steps, then over rows that have any."""
    lengths = [x.shape[0]] * x.shape[1] if lengths is None else lengths
    rows = [b for b, length in enumerate(lengths) if length]
    error, means = x.new_zeros(()), []
    for b in rows:
        row = slice(b, b + 1), lengths[b]
        alone, omega = _row(step, p, x[: row[1], row[0]], [s[row[0]] for s in initial], v, b, form)
        error = error + alone
        means.append(omega)
    value = torch.stack(means).mean()
    found = torch.autograd.grad(error + weight * value, list(p.values()), materialize_grads=True)
    return Expected(value.detach(), dict(zip(p, found, strict=True)))


def _row(
    step: Step, p: Parameters, x: Tensor, states: list[Tensor], v: Tensor, b: int, form: str
) -> tuple[Tensor, Tensor]:
    """<v, y> of one row, and the mean of its Omega, in which only parameters have a graph."""
    error, probes, backs = x.new_zeros(()), [], []
    now = tuple(states)
    for t in range(x.shape[0]):
        y, new, back = step(p, x[t], now)
        zeros = [torch.zeros_like(s).requires_grad_() for s in new]
        probed = tuple(s + z for s, z in zip(new, zeros, strict=True))
        which = [k for k, s in enumerate(new) if s is y]
        error = error + ((probed[which[0]] if which else y) * v[t, b]).sum()
        now = probed
        probes.append(zeros)
        backs.append(back)
    flat = [z for zeros in probes for z in zeros]
    deltas = torch.autograd.grad(error, flat, retain_graph=True, materialize_grads=True)
    count, terms = len(states), []
    for t, back in enumerate(backs):
        delta = deltas[t * count : (t + 1) * count]
        terms.append(_omega(back(p, delta), delta, form))
    return error, torch.stack(terms).mean()


def _omega(u: States, delta: States, form: str) -> Tensor:
    before = torch.cat([part.flatten() for part in u]).norm()
    ratio = before / torch.cat([part.flatten() for part in delta]).norm()
    return (ratio - 1) ** 2 if form == "ratio" else (ratio**2 - 1) ** 2
