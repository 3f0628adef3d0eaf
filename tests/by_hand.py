"""Wired recurrences as plain loops: what is dropped, kept, left out or started anew, one row and one step at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import oracle
import torch
from cases import CASES
from torch import Tensor, sigmoid, tanh


@dataclass(frozen=True)
class Wired:
    """keep (B, size), zone (T, B, size): by a state's number; blend: its rate; resets, mask: (T, B)."""

    keep: Mapping[int, Tensor] = field(default_factory=dict)
    zone: Mapping[int, Tensor] = field(default_factory=dict)
    blend: Mapping[int, float] = field(default_factory=dict)
    resets: Tensor | None = None
    starts: Sequence[Tensor] | None = None  # (B, size) each; None: zeros
    mask: Tensor | None = None


def gru_step(p, x: Tensor, h: Tensor, k: Tensor) -> tuple[Tensor, tuple[Tensor]]:
    """The gated unit of torch.nn, with the mask k where a matrix multiplies the state."""
    r = sigmoid(p["r.W_x"] @ x + p["r.W_h"] @ (k * h) + p["r.b"])
    z = sigmoid(p["z.W_x"] @ x + p["z.W_h"] @ (k * h) + p["z.b"])
    n = tanh(p["i.W_x"] @ x + p["i.b"] + r * (p["W_n"] @ (k * h) + p["b_n"]))
    h = (1 - z) * n + z * h
    return h, (h,)


def run(
    name: str,
    p: Mapping[str, Tensor],
    x: Tensor,
    initial: Sequence[Tensor],
    wired: Wired = Wired(),
    lengths: Sequence[int] | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """y (T, B, size) and the final states, of a cell over x (T, B, m) from `initial` (B, size)."""
    rows = []
    for b in range(x.shape[1]):
        count = x.shape[0] if lengths is None else lengths[b]
        rows.append(_row(name, p, x, [s[b] for s in initial], wired, b, count))
    y = torch.stack([y for y, _ in rows], 1)
    return y, tuple(torch.stack(s) for s in zip(*(s for _, s in rows), strict=True))


def _row(name, p, x, states, wired: Wired, b: int, count: int):
    outputs = []
    for t in range(x.shape[0]):
        if t < count and wired.resets is not None and wired.resets[t, b]:
            starts = wired.starts
            states = (
                [torch.zeros_like(s) for s in states] if starts is None else [s[b] for s in starts]
            )
        if t >= count or (wired.mask is not None and not wired.mask[t, b]):
            outputs.append(None)
            continue
        y, new = _step(name, p, x[t, b], states, wired, b)
        same = [k for k, s in enumerate(new) if s is y]
        after = []
        for k, (old, s) in enumerate(zip(states, new, strict=True)):
            if k in wired.zone:
                s = torch.where(wired.zone[k][t, b] == 1, old, s)
            if k in wired.blend:
                s = wired.blend[k] * old + (1 - wired.blend[k]) * s
            after.append(s)
        states = after
        outputs.append(states[same[0]] if same else y)
    blank = x.new_zeros(CASES[name].output)
    return torch.stack([blank if y is None else y for y in outputs]), states


def _step(name, p, x, states, wired: Wired, b: int):
    if name == "gru" and 0 in wired.keep:
        return gru_step(p, x, states[0], wired.keep[0][b])
    read = [s * wired.keep[k][b] if k in wired.keep else s for k, s in enumerate(states)]
    return CASES[name].step(p, x, tuple(read))


def compare(
    results: Sequence[Tensor], expected: Sequence[Tensor], leaves: Mapping[str, Tensor]
) -> None:
    """Values and the gradients of a random projection with respect to all leaves, to 1e-10."""
    torch.manual_seed(99)
    factors = [torch.randn(r.shape, dtype=r.dtype) for r in expected]
    for k, (mine, theirs) in enumerate(zip(results, expected, strict=True)):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10, msg=lambda m, k=k: f"{k}: {m}")
    found = [
        torch.autograd.grad(
            torch.stack([(v * f).sum() for v, f in zip(values, factors, strict=True)]).sum(),
            list(leaves.values()),
            allow_unused=True,
            materialize_grads=True,
        )
        for values in (results, expected)
    ]
    for name, mine, theirs in zip(leaves, *found, strict=True):
        torch.testing.assert_close(
            mine, theirs, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )


def states_in(initial: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """States as the layer takes them, (1, B, size), as the loop does, (B, size)."""
    return tuple(s[0] for s in initial)


NAMES = ["elman", "gru", "lstm", "jordan", "two_layer_feedback"]
KEPT = {"elman": [0], "gru": [0], "lstm": [0], "jordan": [0], "two_layer_feedback": [0, 1]}
WEIGHTS = {
    "elman": ["W_h"],
    "gru": ["r.W_h", "z.W_h", "W_n"],
    "lstm": ["i.W_h", "f.W_h", "g.W_h", "o.W_h"],
    "jordan": ["W_y"],
    "two_layer_feedback": ["W_1", "U", "W_2"],
}
__all__ = ["KEPT", "NAMES", "WEIGHTS", "Wired", "compare", "oracle", "run", "states_in"]
