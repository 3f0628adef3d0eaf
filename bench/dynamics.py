"""What the dynamics of a network cost: Jacobians, exponents, fixed points, and the last beside gradient descent.

    python -m bench.dynamics           one core, some minutes

The network of the fixed points is a GRU of 128 units that has learned three bits of memory, the starts are states of
its runs with noise. Gradient descent is what analyses in PyTorch do: Adam on q(h) = |F(h) - h|^2 / 2 from all starts at
once, through torch.nn.GRU, until as many starts have arrived as here, or five times the time is used up. Times are
those of the processor, which other programs on the machine change less than the clock's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import refold as rf
from bench.flip_flop import flip_flop, trained
from bench.record import into_docs, machine, save, table
from refold.dynamics.system import jacobians

F64 = torch.float64
STARTS, UNITS, UPDATES = 512, 128, 250
NEAR = 1e-5  # |F(h) - h| at which a start of gradient descent counts as arrived; here it is 1e-10
FALL = 1e-4  # to which share of itself Adam's rate falls: at a constant one it never comes near
TIMES = 5
RATES = (1e-2, 1e-1)


def best(call: Callable[[], Any], times: int = 3) -> float:
    """The shortest of some tries, in seconds, after one that warms up."""
    call()
    return min(_seconds(call) for _ in range(times))


def _seconds(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def of_lstm() -> dict[str, float]:
    """1,000 Jacobians, and ten exponents over 10,000 steps, of 64 units."""
    torch.manual_seed(0)
    layer = rf.Recurrent("lstm", 3, 64)
    d = rf.dynamics(layer, torch.randn(10_000, 1, 3))
    h, x = torch.rand(1000, 128, dtype=F64), torch.rand(1000, 3, dtype=F64)
    return {
        "jacobians": best(lambda: jacobians(d.system, h, x)),
        "torch.func": best(lambda: by_torch(h, x)),
        "lyapunov": best(lambda: d.lyapunov(10), 2),
    }


def by_torch(h: Tensor, x: Tensor) -> None:
    """The same Jacobians by torch.func through a step written in torch, 50 at a time."""
    cell = nn.LSTMCell(3, 64, dtype=F64).requires_grad_(False)

    def step(state: Tensor, x: Tensor) -> Tensor:
        return torch.cat(cell(x, (state[:64], state[64:])))

    for some, given in zip(h.split(50), x.split(50), strict=True):
        torch.func.vmap(torch.func.jacrev(step))(some, given)


def newton(d: Any, starts: Tensor) -> dict[str, float]:
    """Seconds, the share of starts that arrive, and how many points these are."""
    began = time.process_time()
    found = d.fixed_points(starts)
    seconds = time.process_time() - began
    share = sum(p.starts for p in found.points)
    stable = len(found.stable)
    return {"seconds": seconds, "share": share, "points": len(found.points), "stable": stable}


def descent(
    gru: nn.GRU, starts: Tensor, share: float, rate: float, limit: float
) -> dict[str, float]:
    """The same of Adam, until as many have arrived or the time is used up."""
    h = starts.clone().requires_grad_()
    optimiser = torch.optim.Adam([h], rate)
    x = torch.zeros(1, len(h), 3, dtype=F64)
    began = time.process_time()
    arrived, step = 0.0, 0
    while (gone := (time.process_time() - began) / limit) < 1 and arrived < share:
        optimiser.param_groups[0]["lr"] = rate * FALL**gone
        miss = gru(x, h[None])[1][0] - h
        arrived = float((miss.detach().norm(dim=-1) <= NEAR).double().mean())
        optimiser.zero_grad()
        (0.5 * miss.square().sum()).backward()
        optimiser.step()
        step += 1
    return {"seconds": time.process_time() - began, "share": arrived, "steps": step}


def in_torch(layer: rf.Recurrent) -> nn.GRU:
    """The same GRU as torch has it."""
    gru, p = nn.GRU(3, UNITS, dtype=F64), layer.parameters_of()
    named = {
        "weight_ih_l0": torch.cat([p["r.W_x"], p["z.W_x"], p["i.W_x"]]),
        "weight_hh_l0": torch.cat([p["r.W_h"], p["z.W_h"], p["W_n"]]),
        "bias_ih_l0": torch.cat([p["r.b"], p["z.b"], p["i.b"]]),
        "bias_hh_l0": torch.cat([torch.zeros(2 * UNITS), p["b_n"]]),
    }
    gru.load_state_dict(named)
    return gru.requires_grad_(False)


def main() -> None:
    torch.set_num_threads(1)
    lstm = of_lstm()
    print(lstm, flush=True)
    network, error = trained("gru", UNITS, UPDATES)
    x, _ = flip_flop(64, 32, torch.Generator().manual_seed(1))
    d = rf.dynamics(network, x)
    random = torch.Generator().manual_seed(0)
    along = d.states().flatten(0, 1)
    starts = along[torch.randint(len(along), (STARTS,), generator=random)]
    starts = starts + 0.1 * torch.randn(STARTS, UNITS, generator=random, dtype=F64)
    found = newton(d, starts)
    print(f"error {error:.3f}; fixed points: {found}", flush=True)
    gru, tries = in_torch(network.layer), {}
    torch.testing.assert_close(
        gru(torch.zeros(1, STARTS, 3, dtype=F64), starts[None])[1][0],
        d.system.step(starts, torch.zeros(1, 3, dtype=F64)),
    )
    for rate in RATES:
        limit = TIMES * found["seconds"]
        tries[str(rate)] = descent(gru, starts, found["share"], rate, limit)
        print(f"Adam {rate}: {tries[str(rate)]}", flush=True)
    result = {**machine(), "lstm": lstm, "newton": found, "adam": tries}
    save("dynamics", result)
    into_docs("docs/dynamics.md", "dynamics", written(result))


def written(result: dict[str, Any]) -> str:
    lstm, found = result["lstm"], result["newton"]
    what = f"fixed points of a GRU of {UNITS} units from {STARTS} starts"
    rows = [
        ["1,000 Jacobians, LSTM of 64 units", f"{lstm['jacobians']:.2f} s"],
        ["the same by torch.func", f"{lstm['torch.func']:.2f} s"],
        ["10 exponents over 10,000 steps, LSTM of 64 units", f"{lstm['lyapunov']:.1f} s"],
        [f"{what}: {found['share']:.1%} arrive", f"{found['seconds']:.1f} s"],
    ]
    for rate, tried in result["adam"].items():
        done = f"Adam on q from rate {rate}, {tried['steps']:,} steps: {tried['share']:.1%} arrive"
        rows.append([done, f"{tried['seconds']:.1f} s"])
    return table(["one core", "time"], rows)


if __name__ == "__main__":
    main()
