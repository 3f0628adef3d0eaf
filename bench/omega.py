"""What does Pascanu's Omega cost a training step, and what does it cost without a compiler?

    python -m bench.omega

Elman, LSTM and GRU on one core: a training step (dE/dy to the gradients of all parameters, without the optimiser)
without Omega and with it, in the same turns. Beside it the same value of Omega by torch's double backward, around a
loop written as well as one writes it (input products ahead of it, one product for all gates): u of each step by a call
of torch.autograd.grad in the loop's own graph; and, for people in a hurry, of all steps at once, the step being run a
second time from states that are cut off. All are checked to find the same Omega.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import refold as rf
from bench.measure import Options, Shape, at_most, interleaved, name_of, on_cores, options
from bench.record import into_docs, machine, save, table
from refold.nn.omega import Omega

CELLS = {"elman": ("h",), "lstm": ("h", "c"), "gru": ("h",)}
SHAPES: tuple[Shape, ...] = ((100, 32, 16, 64), (200, 20, 2, 50))
TINY: tuple[Shape, ...] = ((6, 3, 4, 8), (5, 2, 5, 6))
OMEGA = Omega(weight=4.0)
MOST = 1.6  # times the training step without Omega

States = tuple[Tensor, ...]
Params = Mapping[str, Tensor]
Hand = tuple[Tensor, Callable[[Tensor, States], States]]  # products ahead of the loop, the step


# By hand --------------------------------------------------------------------------------------------------------------


def elman(p: Params, x: Tensor) -> Hand:
    ahead = x @ p["W_x"].T + p["b"]
    return ahead, lambda a, states: (torch.tanh(a + states[0] @ p["W_h"].T),)


def lstm(p: Params, x: Tensor) -> Hand:
    W_x, W_h, b = (torch.cat([p[f"{g}.{k}"] for g in "ifgo"]) for k in ("W_x", "W_h", "b"))

    def step(a: Tensor, states: States) -> States:
        h, c = states
        i, f, g, o = (a + h @ W_h.T).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    return x @ W_x.T + b, step


def gru(p: Params, x: Tensor) -> Hand:
    W_x, b = (torch.cat([p[f"{g}.{k}"] for g in "rzi"]) for k in ("W_x", "b"))
    W_h = torch.cat([p["r.W_h"], p["z.W_h"], p["W_n"]])
    bias = torch.cat([torch.zeros_like(p["r.b"]), torch.zeros_like(p["z.b"]), p["b_n"]])

    def step(a: Tensor, states: States) -> States:
        (h,) = states
        (a_r, a_z, a_n), (h_r, h_z, h_n) = a.chunk(3, -1), (h @ W_h.T + bias).chunk(3, -1)
        r, z = torch.sigmoid(a_r + h_r), torch.sigmoid(a_z + h_z)
        return ((1 - z) * torch.tanh(a_n + r * h_n) + z * h,)

    return x @ W_x.T + b, step


HANDS = {"elman": elman, "lstm": lstm, "gru": gru}


def unrolled(hand: Hand, first: States) -> list[States]:
    """The states before each step, and after the last."""
    ahead, step = hand
    path = [first]
    for a in ahead:
        # Copies: h is made of c within a step, and as states the two are apart.
        path.append(tuple(s.clone() for s in step(a, path[-1])))
    return path


def adjoints(path: list[States], given: Tensor) -> tuple[Tensor, list[States]]:
    """E = <given, y>, and delta of all states after each step."""
    error = (torch.stack([states[0] for states in path[1:]]) * given).sum()
    flat = [s for states in path[1:] for s in states]
    found = torch.autograd.grad(error, flat, retain_graph=True, materialize_grads=True)
    count = len(path[0])
    return error, [found[i : i + count] for i in range(0, len(found), count)]


def mean_of(u: States, delta: States) -> Tensor:
    """Omega's mean over rows, and over steps where these are there."""
    squares = [torch.cat(parts, -1).square().sum(-1) for parts in (u, delta)]
    return ((squares[0] / squares[1]).sqrt() - 1).square().mean()


def step_by_step(hand: Hand, first: States, given: Tensor) -> tuple[Tensor, Tensor]:
    """The error with Omega, and Omega: each u by a call of its own."""
    path = unrolled(hand, first)
    error, deltas = adjoints(path, given)
    terms = []
    for before, after, delta in zip(path, path[1:], deltas, strict=False):
        u = torch.autograd.grad(after, before, delta, create_graph=True)
        terms.append(mean_of(u, delta))
    omega = torch.stack(terms).mean()
    return error + OMEGA.weight * omega, omega


def at_once(hand: Hand, first: States, given: Tensor) -> tuple[Tensor, Tensor]:
    """The same with all steps as rows of one."""
    path = unrolled(hand, first)
    error, deltas = adjoints(path, given)
    before = tuple(torch.stack(s).detach().requires_grad_() for s in zip(*path[:-1], strict=True))
    delta = tuple(torch.stack(d) for d in zip(*deltas, strict=True))
    u = torch.autograd.grad(hand[1](hand[0], before), before, delta, create_graph=True)
    omega = mean_of(u, delta)
    return error + OMEGA.weight * omega, omega


# What is timed --------------------------------------------------------------------------------------------------------


def runs_of(name: str, shape: Shape, backend: str) -> dict[str, Callable[[], Tensor]]:
    """Training steps of the layer without Omega and with it, and those by hand; each gives Omega, the first 0."""
    steps, rows, inputs, hidden = shape
    layer = rf.Recurrent(name, inputs, hidden, backend=backend)
    p, x = layer.parameters_of(), torch.randn(steps, rows, inputs)
    given = torch.randn(steps, rows, hidden) / (steps * rows)
    # States that want gradients: the first step's u is asked for too.
    first = tuple(torch.zeros(rows, hidden, requires_grad=True) for _ in CELLS[name])

    def without() -> Tensor:
        layer.zero_grad()
        layer(x)[0].backward(given)
        return torch.zeros(())

    def with_omega() -> Tensor:
        layer.zero_grad()
        with layer.keeping_norms(OMEGA) as terms:
            y, _ = layer(x)
        y.backward(given)
        return terms.value()

    def by_hand(how: Any) -> Callable[[], Tensor]:
        def run() -> Tensor:
            layer.zero_grad()
            error, omega = how(HANDS[name](p, x), first, given)
            error.backward()
            return omega.detach()

        return run

    runs = {"without": without, "with Omega": with_omega}
    return runs | {"at once": by_hand(at_once), "step by step": by_hand(step_by_step)}


def timed(name: str, shape: Shape, asked: Options) -> dict[str, Any]:
    """Milliseconds of each, after all have been seen to find the same Omega."""
    runs = runs_of(name, shape, asked.backend)
    mine = runs["with Omega"]()
    for key in ("at once", "step by step"):
        torch.testing.assert_close(runs[key](), mine, rtol=1e-4, atol=0.0)
    ours = {key: runs[key] for key in ("without", "with Omega")}
    theirs = {key: run for key, run in runs.items() if key not in ours}
    times = interleaved(ours, asked.seconds) | interleaved(theirs, asked.seconds)
    return {"cell": name, "shape": shape, **{k: 1000 * t for k, t in times.items()}}


def child(asked: Options) -> None:
    torch.manual_seed(0)
    on_cores(1)
    shapes = TINY if asked.dry else SHAPES
    print(json.dumps([timed(name, shape, asked) for shape in shapes for name in CELLS]))


def rows_table(rows: list[dict[str, Any]]) -> str:
    head = ["cell", "T, B, I, H", "without, ms", "with Omega, ms", "ratio"]
    head += ["loop, double backward at once", "step by step"]
    lines = []
    for row in rows:
        mine = row["with Omega"]
        times = [f"{row['without']:.2f}", f"{mine:.2f}", at_most(mine / row["without"], MOST)]
        peers = [
            f"{row[key]:.0f} ms, x {row[key] / mine:.0f}" for key in ("at once", "step by step")
        ]
        lines.append([row["cell"], name_of(row["shape"]), *times, *peers])
    return table(head, lines)


def main(asked: Options | None = None) -> None:
    asked = asked or options(__doc__, seconds=2.0)
    if asked.part:
        return child(asked)
    rows = asked.child("bench.omega", "all", {"OMP_NUM_THREADS": "1"})
    text = rows_table(rows)
    print(text)
    if asked.whole:
        save("omega", {**machine(), "threads": 1, "rows": rows})
        into_docs("docs/cures.md", "omega", text)


if __name__ == "__main__":
    main()
