"""What a backend is, and how one is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from refold.errors import KernelError
from refold.plan.plan import Plan


@dataclass(frozen=True, slots=True)
class Call:
    """One run over a batch of sequences, everything checked and in the inner layout.

    Shapes  inputs (T, B, size) each; states (B, size) each; lengths (B,) int64 on the CPU, or None when all rows last
            T steps; probes as states, but (T, B, size): zeros that are added to the states after each step, so
            that the gradient with respect to them is the adjoint delta(t)
    """

    steps: int
    inputs: tuple[Tensor, ...]
    states: tuple[Tensor, ...]
    params: Mapping[str, Tensor]
    lengths: Tensor | None = None
    backwards: bool = False  # from each row's last step to its first
    probes: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What a run gives.

    Shapes  output (T, B, size), 0 past a row's length; history: one (T, B, size) for each state, the same;
            final: one (B, size) for each state, after each row's own last step
    """

    output: Tensor
    history: tuple[Tensor, ...]
    final: tuple[Tensor, ...]


class Kernel(Protocol):
    """A plan, made ready to run for given sizes."""

    backend: str
    reason: str  # why this backend: "asked for", or what decided

    def __call__(self, call: Call) -> Run: ...


Build = Callable[[Plan, Mapping[str, int], str], Kernel]

# name -> what makes a kernel of it; each backend's module adds its own line in `backends`.
BACKENDS: dict[str, Build] = {}


def build(plan: Plan, sizes: Mapping[str, int], backend: str, device: torch.device) -> Kernel:
    """A kernel for a plan with every letter given a number.

    Errors  KernelError when there is no such backend, or when a named one cannot run on the device
    """
    if backend == "auto":
        return BACKENDS["reference"](
            plan, sizes, f"auto: no compiled backend for {device.type} in this version"
        )
    if backend not in BACKENDS:
        raise KernelError(
            f'there is no backend "{backend}".', f"Choose one of {', '.join(('auto', *BACKENDS))}."
        )
    return BACKENDS[backend](plan, sizes, "asked for")
