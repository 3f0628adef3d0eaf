"""The same cells by hand, as one writes them well today: a Python loop over torch operations, and jax.lax.scan.

A step is written once, with the few tools in which the two libraries differ. Input products are hoisted out of the loop
into one large product, and all products with one state are joined. Each function takes the layer's parameters by
their names and gives the product ahead of the loop and the step; a step gives (new states, output).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from bench.cells import ALPHA, EPSILON, GAMMA

Params = Mapping[str, Any]
Hand = tuple[Callable[[Any], Any], Callable[..., tuple[tuple[Any, ...], Any]]]


def _lstm(p: Params, k: Any) -> tuple[Callable[[Any], Any], Any]:
    gates = ("i", "f", "g", "o")
    W_h = k.cat([p[f"{g}.W_h"] for g in gates])
    ahead = k.linear([p[f"{g}.W_x"] for g in gates], [p[f"{g}.b"] for g in gates])
    return ahead, W_h


def lstm_norm(p: Params, k: Any) -> Hand:
    gates = ("i", "f", "g", "o")
    W_h = k.cat([p[f"{g}.W_h"] for g in gates])
    scale, shift = k.stack([p[f"s_{g}"] for g in gates]), k.stack([p[f"b_{g}"] for g in gates])

    def step(a: Any, h: Any, c: Any):
        each = k.product(a, h, W_h).reshape(h.shape[0], 4, -1)
        normed = k.norm(each) * scale + shift
        i, f, g, o = (normed[:, j] for j in range(4))
        c = k.sigmoid(f) * c + k.sigmoid(i) * k.tanh(g)
        h = k.sigmoid(o) * k.tanh(k.norm(c) * p["s_c"] + p["b_c"])
        return (h, c), h

    return k.linear([p[f"{g}.W_x"] for g in gates]), step


def lstm_peephole(p: Params, k: Any) -> Hand:
    ahead, W_h = _lstm(p, k)

    def step(a: Any, h: Any, c: Any):
        i, f, g, o = k.split(k.product(a, h, W_h), 4)
        c_old = c
        c = k.sigmoid(f + p["p_f"] * c_old) * c_old + k.sigmoid(i + p["p_i"] * c_old) * k.tanh(g)
        h = k.sigmoid(o + p["p_o"] * c) * k.tanh(c)
        return (h, c), h

    return ahead, step


def lstm_projection(p: Params, k: Any) -> Hand:
    ahead, W_h = _lstm(p, k)

    def step(a: Any, r: Any, c: Any):
        i, f, g, o = k.split(k.product(a, r, W_h), 4)
        c = k.sigmoid(f) * c + k.sigmoid(i) * k.tanh(g)
        r = (k.sigmoid(o) * k.tanh(c)) @ p["W_r"].T
        return (r, c), r

    return ahead, step


def mgu(p: Params, k: Any) -> Hand:
    def step(a: Any, h: Any):
        a_f, a_n = k.split(a, 2)
        f = k.sigmoid(k.product(a_f, h, p["f.W_h"]))
        h = (1 - f) * h + f * k.tanh(k.product(a_n, f * h, p["W_h"]))
        return (h,), h

    return k.linear([p["f.W_x"], p["W_x"]], [p["f.b"], p["b"]]), step


def gru_cho(p: Params, k: Any) -> Hand:
    W = k.cat([p["r.W_h"], p["z.W_h"]])
    n = p["b"].shape[0]

    def step(a: Any, h: Any):
        r, z = k.split(k.sigmoid(k.product(a[:, : 2 * n], h, W)), 2)
        h = z * h + (1 - z) * k.tanh(k.product(a[:, 2 * n :], r * h, p["W_h"]))
        return (h,), h

    return k.linear([p["r.W_x"], p["z.W_x"], p["W_x"]], [p["r.b"], p["z.b"], p["b"]]), step


def li_gru(p: Params, k: Any) -> Hand:
    W = k.cat([p["z.W_h"], p["a.W_h"]])

    def step(a: Any, h: Any):
        z, new = k.split(k.product(a, h, W), 2)
        z = k.sigmoid(z)
        h = z * h + (1 - z) * k.relu(new)
        return (h,), h

    return k.linear([p["z.W_x"], p["a.W_x"]], [p["z.b"], p["a.b"]]), step


def antisymmetric(p: Params, k: Any) -> Hand:
    A = p["W"] - p["W"].T - GAMMA * k.eye(p["b"])

    def step(a: Any, h: Any):
        h = h + EPSILON * k.tanh(k.product(a, h, A))
        return (h,), h

    return k.linear([p["V"]], [p["b"]]), step


def leaky(p: Params, k: Any) -> Hand:
    def step(a: Any, h: Any):
        h = (1 - ALPHA) * h + ALPHA * k.tanh(k.product(a, h, p["W_h"]))
        return (h,), h

    return k.linear([p["W_x"]], [p["b"]]), step


def jordan(p: Params, k: Any) -> Hand:
    def step(a: Any, y: Any):
        y = k.product(p["c"], k.tanh(k.product(a, y, p["W_y"])), p["V"])
        return (y,), y

    return k.linear([p["W_x"]], [p["b"]]), step


def two_layers(p: Params, k: Any) -> Hand:
    from_high = k.cat([p["a.W_high"], p["b.W_high"]])
    n = p["a.b"].shape[0]

    def step(a: Any, low: Any, high: Any):
        known = high @ from_high.T
        low = k.tanh(k.product(a + known[:, :n], low, p["a.W_low"]))
        high = k.tanh(k.product(known[:, n:] + p["b.b"], low, p["b.W_low"]))
        return (low, high), high

    return k.linear([p["a.W_x"]], [p["a.b"]]), step


def mut1(p: Params, k: Any) -> Hand:
    matrices = k.linear([p["z.W_x"], p["r.W_x"], p["W_x"]], [p["z.b"], p["r.b"], 0 * p["b"]])

    def ahead(x: Any):
        z, r, new = k.split(matrices(x), 3)
        return k.cat([k.sigmoid(z), r, k.tanh(new) + p["b"]], -1)  # no state reaches z

    def step(a: Any, h: Any):
        z, a_r, a_n = k.split(a, 3)
        r = k.sigmoid(k.product(a_r, h, p["r.W_h"]))
        h = k.tanh(k.product(a_n, r * h, p["W_h"])) * z + h * (1 - z)
        return (h,), h

    return ahead, step


def lem(p: Params, k: Any) -> Hand:
    W = k.cat([p[f"{g}.W_y"] for g in "abc"])
    n = p["d.b"].shape[0]

    def step(a: Any, y: Any, z: Any):
        fast, slow, new = k.split(k.product(a[:, : 3 * n], y, W), 3)
        fast, slow = k.sigmoid(fast), k.sigmoid(slow)
        z = (1 - fast) * z + fast * k.tanh(new)
        y = (1 - slow) * y + slow * k.tanh(k.product(a[:, 3 * n :], z, p["d.W_z"]))
        return (y, z), y

    return k.linear([p[f"{g}.W_x"] for g in "abcd"], [p[f"{g}.b"] for g in "abcd"]), step


def ind_rnn(p: Params, k: Any) -> Hand:
    def step(a: Any, h: Any):
        h = k.relu(a + p["u"] * h)
        return (h,), h

    return k.linear([p["W"]], [p["b"]]), step


# The tools, and the loops ---------------------------------------------------------------------------------------------


def _torch_linear(weights: list[Tensor], biases: list[Tensor] | None = None):
    W, b = torch.cat(weights), None if biases is None else torch.cat(biases)
    return lambda x: torch.nn.functional.linear(x, W, b)


TORCH = SimpleNamespace(
    cat=torch.cat,
    stack=torch.stack,
    split=lambda x, count: x.chunk(count, -1),
    sigmoid=torch.sigmoid,
    tanh=torch.tanh,
    relu=torch.relu,
    eye=lambda like: torch.eye(like.shape[0]),
    linear=_torch_linear,
    product=lambda a, h, W: torch.addmm(a, h, W.t()),
    norm=lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:]),
)


def torch_loop(name: str, p: Params, starts: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """The outputs of all steps by a loop in Python."""
    ahead, step = globals()[name](p, TORCH)
    outputs, states = [], starts
    for a in ahead(x).unbind(0):
        states, y = step(a, *states)
        outputs.append(y)
    return torch.stack(outputs)


def has_jax() -> bool:
    """Whether the peer of the second comparison is installed: extra `bench`."""
    return find_spec("jax") is not None


def jax_scan(
    name: str, hoisted: bool = True
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[[Tensor], Any]]:
    """Under jit: the outputs of all steps (p, starts, x), and the gradients of the parameters (p, starts, x, dE/dy).

    The third takes a tensor to where jax has its arrays. Without `hoisted`, the step is scanned as the equation has it.
    """
    jax = import_module("jax")
    np = import_module("jax.numpy")

    def linear(weights: list[Any], biases: list[Any] | None = None):
        W, b = np.concatenate(weights), 0 if biases is None else np.concatenate(biases)
        return lambda x: x @ W.T + b

    def norm(x: Any):
        centred = x - x.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)

    tools = SimpleNamespace(
        cat=np.concatenate,
        stack=np.stack,
        split=lambda x, count: np.split(x, count, -1),
        sigmoid=jax.nn.sigmoid,
        tanh=np.tanh,
        relu=jax.nn.relu,
        eye=lambda like: np.eye(like.shape[0]),
        linear=linear,
        product=lambda a, h, W: a + h @ W.T,
        norm=norm,
    )

    def run(p: Params, starts: tuple[Any, ...], x: Any):
        ahead, step = globals()[name](p, tools)
        if hoisted:
            return jax.lax.scan(lambda states, a: step(a, *states), starts, ahead(x))[1]
        return jax.lax.scan(lambda states, now: step(ahead(now), *states), starts, x)[1]

    def error(p: Params, starts: tuple[Any, ...], x: Any, given: Any):
        return np.vdot(run(p, starts, x), given)

    def put(tensor: Tensor) -> Any:
        return np.asarray(tensor.detach().numpy().copy())

    return jax.jit(run), jax.jit(jax.grad(error)), put
