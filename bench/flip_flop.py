"""The 3-bit flip-flop of Sussillo & Barak 2013, and a network that learns it: three memories of one bit."""

from __future__ import annotations

import torch
from torch import Tensor

import refold as rf


def flip_flop(
    steps: int, rows: int, random: torch.Generator, rate: float = 0.1
) -> tuple[Tensor, Tensor]:
    """(x, d): three channels of rare pulses of -1 or 1, and for each the sign of its last pulse, 0 before the first."""
    pulses = torch.rand(steps, rows, 3, generator=random) < rate
    signs = torch.where(torch.rand(steps, rows, 3, generator=random) < 0.5, -1.0, 1.0)
    x = torch.where(pulses, signs, 0.0)
    time = torch.arange(steps).reshape(-1, 1, 1).expand_as(x)
    last = torch.where(pulses, time, -1).cummax(0).values
    d = torch.where(last >= 0, x.gather(0, last.clamp(min=0)), 0.0)
    return x, d


def trained(cell: str, hidden: int, updates: int, seed: int = 0) -> tuple[rf.Network, float]:
    """A network that has learned it, and its mean squared error at the end."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    network = rf.Network(rf.Recurrent(cell, 3, hidden), head=3)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    error = torch.tensor(1.0)
    for _ in range(updates):
        x, d = flip_flop(64, 64, random)
        error = (network(x) - d).square().mean()
        optimiser.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return network, float(error.detach())
