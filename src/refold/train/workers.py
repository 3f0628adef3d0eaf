"""Several processes that train one network: who takes which sequences, and how gradients meet.

A recurrent weight's gradient is complete only when the way back has reached the first step, so
there is nothing to send while it runs: all gradients go together in one message per step.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from refold.errors import RefoldError

from .meeting import meeting

_WHERE = "fit(..., distributed=True)"


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes of a run, as one of them sees them; a single one has nobody to talk to."""

    rank: int = 0
    number: int = 1

    def share(self, work: Sequence[int]) -> list[int]:
        """Which of the sequences with so much work are this process's, the work parted evenly.

        Longest first, each to whoever has least so far: no process has more than the longest
        sequence beyond another. Compiled code has no work in padding, so steps are the measure.
        """
        if self.number == 1:
            return list(range(len(work)))
        loads, mine = [0] * self.number, []
        for i in sorted(range(len(work)), key=lambda i: (-work[i], i)):
            least = loads.index(min(loads))
            loads[least] += work[i]
            if least == self.rank:
                mine.append(i)
        return sorted(mine)

    def agree(self, told: Mapping[str, Any]) -> None:
        """Refuse to work together on different things.

        Each process would wait for a message that another one never sends, or, worse, would not.

        Errors  RefoldError, the same in every process, that names what differs.
        """
        first, *others = self.gathered(dict(told))
        for rank, other in enumerate(others, 1):
            for name in first | other:
                if first.get(name) != other.get(name):
                    fact = f"{name} is {first.get(name)} in process 0, "
                    fact += f"{other.get(name)} in process {rank}"
                    remedy = "give every process the same network, data and settings"
                    raise RefoldError(fact, remedy, _WHERE)

    def together(
        self,
        parameters: Mapping[str, nn.Parameter],
        share: float,
        error: Tensor,
        flags: list[float],
    ) -> tuple[Tensor, list[float]]:
        """Sum gradients and errors over processes, each times its share, and flags as they are.

        The sums are the same bits in every process. A parameter that no process has a gradient for
        keeps none: an optimiser leaves it alone, which it does not do where a gradient is zero.

        Errors  RefoldError when another process is gone.
        """
        if self.number == 1:
            return error, flags
        trained = list(parameters.values())
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        numbers = [*flags, *(float(p.grad is not None) for p in trained)]
        # Parameters of several precisions go in the highest of them.
        parts = [*(g.flatten() for g in grads), error.view(1), error.new_tensor(numbers)]
        flat = torch.cat(parts)
        flat[: -len(numbers)].mul_(share)
        self._all_reduce(flat)
        *sums, total, told = flat.split([part.numel() for part in parts])
        numbers = told.tolist()
        given = numbers[len(flags) :]
        for parameter, grad, part, found in zip(trained, grads, sums, given, strict=True):
            parameter.grad = grad.copy_(part.view_as(grad)) if found else None
        return total[0], numbers[: len(flags)]

    def summed(self, numbers: list[float], device: torch.device) -> list[float]:
        """The sums of numbers over processes."""
        if self.number == 1:
            return numbers
        told = torch.tensor(numbers, dtype=torch.float64, device=device)
        self._all_reduce(told)
        return told.tolist()

    @torch.no_grad()
    def as_first(self, tensors: Sequence[Tensor]) -> None:
        """Make tensors those of the first process."""
        if self.number > 1:
            values = self.from_first([tensor.detach().cpu() for tensor in tensors])
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)

    def from_first(self, value: Any) -> Any:
        """What the first process holds; tensors in it have to be on the CPU."""
        found = [value]
        if self.number > 1:
            with _someone_gone(self):
                dist.broadcast_object_list(found, 0)
        return found[0]

    def gathered(self, value: Any) -> list[Any]:
        """What each process holds, in order of rank; tensors have to be on the CPU."""
        found: list[Any] = [value] * self.number
        if self.number > 1:
            with _someone_gone(self):
                dist.all_gather_object(found, value)
        return found

    def _all_reduce(self, tensor: Tensor) -> None:
        with _someone_gone(self):
            dist.all_reduce(tensor)


@contextmanager
def _someone_gone(workers: Workers) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        fact = f"process {workers.rank} of {workers.number} no longer reaches another one: "
        remedy = "see what that one said; with a checkpoint, start again and resume"
        raise RefoldError(fact + _said(error), remedy, _WHERE) from error


@contextmanager
def workers(distributed: bool, device: torch.device) -> Iterator[Workers]:
    """The processes of a run; with torchrun around it, the group is made here and taken apart.

    However the run ends, its connections are closed: nobody waits for a process that has left.

    Errors  RefoldError where nobody has started several processes, or torch cannot join them.
    """
    if not distributed:
        yield Workers()
        return
    own = not dist.is_initialized()
    if own:
        _join(device)
    try:
        yield Workers(dist.get_rank(), dist.get_world_size())
    finally:
        if own:
            dist.destroy_process_group()


def _join(device: torch.device) -> None:
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        fact = "distributed=True, and this process has no RANK and no WORLD_SIZE"
        remedy = "start it as: torchrun --nproc-per-node 2 script.py"
        raise RefoldError(fact, remedy, _WHERE)
    # What is no tensor of the network goes through the CPU: NCCL would put it all on one GPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, rank, number = meeting()
        dist.init_process_group(backend, store=store, rank=rank, world_size=number)
    except (RuntimeError, ValueError) as error:
        fact = f"the processes cannot be joined: {_said(error)}"
        remedy = "look at MASTER_ADDR, MASTER_PORT and the network"
        raise RefoldError(fact, remedy, _WHERE) from error


def _said(error: Exception) -> str:
    """What torch says, without the place in its sources."""
    text = str(error).partition("\n")[0].partition(" This is typically caused by")[0]
    return re.sub(r"\[\S+:\d+\] ", "", text)
