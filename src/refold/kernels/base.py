"""What a backend is, and how one is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from refold.errors import KernelError
from refold.ir.trace import Cell
from refold.plan.plan import Plan, plan

from .choice import COMPILED, automatic, why_not_compiled
from .rows import Rows


@dataclass(frozen=True, slots=True)
class Call:
    """One run over a batch of sequences, everything checked and in the inner layout.

    Shapes  inputs (T, B, size) each; states (B, size) each; lengths (B,) int64 on the CPU, or None when all rows last
            T steps; probes as states, but (T, B, size): zeros that are added to the states after each step, so
            that the gradient with respect to them is the adjoint delta(t).
            With `rows` everything is packed and sorted as these say, inputs (rows in all, size), and so is the run
    """

    steps: int
    inputs: tuple[Tensor, ...]
    states: tuple[Tensor, ...]
    params: Mapping[str, Tensor]
    lengths: Tensor | None = None
    backwards: bool = False  # from each row's last step to its first
    probes: tuple[Tensor, ...] | None = None
    rows: Rows | None = None  # only for compiled code
    histories: bool = True  # whether the states after every step are wanted


@dataclass(frozen=True, slots=True)
class Run:
    """What a run gives.

    Shapes  output (T, B, size), 0 past a row's length; history: one (T, B, size) for each state, the same, or empty
            where the call has not asked for it; final: one (B, size) for each state, after each row's own last step
    """

    output: Tensor
    history: tuple[Tensor, ...]
    final: tuple[Tensor, ...]


class Kernel(Protocol):
    """A plan, made ready to run for given sizes."""

    backend: str
    reason: str  # why this backend: "asked for", or what decided

    def __call__(self, call: Call) -> Run: ...


class Later:
    """A compiled kernel that is made when a call first needs it: making it loads the compiler."""

    backend = "llvm"

    def __init__(self, reason: str, make: Callable[[], Kernel]):
        self.reason = reason
        self._make = make
        self._made: Kernel | None = None

    @property
    def kernel(self) -> Kernel:
        if self._made is None:
            self._made = self._make()
        return self._made

    def __call__(self, call: Call) -> Run:
        return self.kernel(call)


Build = Callable[[Plan, Mapping[str, int], str], Kernel]

# name -> what makes a kernel of it; each backend's module adds its own line in `backends`.
BACKENDS: dict[str, Build] = {}


def build(
    cell: Cell,
    sizes: Mapping[str, int],
    backend: str,
    device: torch.device,
    dtype: torch.dtype,
    memory: str = "fast",
) -> Kernel:
    """A kernel for a cell with every letter given a number.

    memory  what is stored between the way forward and the way back. "fast": what the plan says; "small": as little as
            can be. Compiled code then stores the states only at about the square root of T steps, and runs each stretch
            between two of them again; "derived" stores the states of every step and works the rest out again;
            "reference" leaves it to torch, which stores everything

    Errors  KernelError when there is no such backend, or when a named one cannot run on the device, in the dtype, or
            without a feature; PlanError when `memory` is neither
    """
    names = (*(name for name in BACKENDS if name != COMPILED), COMPILED)
    if backend not in ("auto", *names):
        raise KernelError(
            f'there is no backend "{backend}".', f"Choose one of {', '.join(('auto', *names))}."
        )
    made = plan(cell, memory)  # refuses a strange `memory`
    asked = (device.type, str(dtype).removeprefix("torch."))
    featureless = _without_features(cell, sizes)
    if backend == "auto":
        taken, reason = automatic(*asked)
        if taken == COMPILED and featureless:
            taken, reason = "reference", f"auto: {featureless}"
        if taken != COMPILED:
            return BACKENDS[_knowing(taken, made)](made, sizes, reason)
        return Later(reason, lambda: _compiled(cell, sizes, reason, memory))
    if backend != COMPILED:
        return BACKENDS[_knowing(backend, made)](made, sizes, "asked for")
    if why_not := why_not_compiled(*asked) or featureless:
        raise KernelError(f"{why_not}.", 'Choose backend="auto" or backend="reference".')
    return _compiled(cell, sizes, "asked for", memory)


def _without_features(cell: Cell, sizes: Mapping[str, int]) -> str:
    """Why compiled code cannot run a network that nothing drives, or nothing: a row of no numbers has no place."""
    for leaf in cell.graph.leaves_of("input"):
        if any(size.at(sizes) == 0 for size in leaf.shape):
            return f"compiled code needs at least one feature, and the input {leaf.name} has none"
    return ""


def _knowing(backend: str, made: Plan) -> str:
    """Torch's autograd through the step finds no Omega, which is in the plan's own reverse step: that one is run."""
    return "derived" if backend == "reference" and made.norms else backend


def no_further() -> KernelError:
    """What is said where Omega is counted and more than first derivatives are asked for."""
    return KernelError(
        "a gradient of a gradient, or a map by torch.func, is asked for while Omega is counted, whose gradient is the "
        "immediate derivative: that of no function.",
        "Call the layer outside the block that counts Omega.",
    )


def _compiled(cell: Cell, sizes: Mapping[str, int], reason: str, memory: str) -> Kernel:
    from .llvm.running.kernel import Compiled

    return Compiled(plan(cell, "fast"), sizes, reason, memory)


Home = tuple[
    Mapping[str, Tensor | None], str
]  # where a module keeps a parameter, and its name there


def ready(
    kernels: Sequence[Kernel],
    calls: Sequence[Call],
    homes: Sequence[Sequence[Home]],
    starts: Sequence[float] | None,
    batch_first: bool,
) -> Callable[..., Any] | None:
    """A stack of compiled layers made ready for calls without gradients, after a first one; None: it cannot be.

    It takes x and the states in the caller's form, and gives None for a call that it is not made for. `starts` stand
    for states that are not given.
    """
    from .llvm.running.stream import Stream

    made = [kernel.kernel if isinstance(kernel, Later) else kernel for kernel in kernels]
    return Stream.of(made, calls, homes, starts, batch_first)


def operator_of(kernel: Kernel) -> str:
    """The name under which torch's operators find a compiled kernel; nothing for another. Defines them for torch."""
    made = kernel.kernel if isinstance(kernel, Later) else kernel
    if made.backend != COMPILED:
        return ""
    from .llvm.running import operator

    return operator.name_of(made)  # type: ignore[arg-type]


def traced(name: str, call: Call) -> Run:
    """A call of the kernel of that name as an operator of torch: torch.compile and torch.export take it as it is."""
    from .llvm.running.operator import run

    return run(name, call)
