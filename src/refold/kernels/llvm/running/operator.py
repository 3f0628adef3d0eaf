"""Compiled kernels as operators of torch: what torch.compile and torch.export see, and may not look into.

    refold::sequence       a call
    refold::sequence_back  its gradients

An operator takes tensors, numbers and text. A kernel goes by a name, made of the equation and the sizes: an exported
program finds it in another process when the layer has been made there too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from refold.errors import KernelError
from refold.kernels.base import Call, Run

from . import steps as loops
from .kernel import Compiled
from .sequence import Work, flat, given_out, parted, way_back

KERNELS: dict[str, Compiled] = {}


def name_of(kernel: Compiled) -> str:
    """The name under which operators find a kernel of this equation, these sizes and this way to remember."""
    plan = kernel.plan
    about = repr(
        (
            plan.once,
            plan.forward.graph,
            sorted(kernel.sizes.items()),
            kernel.memory,
            kernel.kept_width,
        )
    )
    name = f"{plan.name} {hashlib.sha256(about.encode()).hexdigest()[:16]}"
    KERNELS.setdefault(name, kernel)
    return name


def kernel_of(name: str) -> Compiled:
    if name not in KERNELS:
        raise KernelError(
            f'this process has no compiled layer "{name}".',
            "Make the layer that the program was exported from, and call its operators(), before loading it.",
        )
    return KERNELS[name]


def run(name: str, call: Call) -> Run:
    """A call through the operator; it may be traced."""
    tensors = (*call.inputs, *call.states, *call.params.values())
    output, *rest = torch.ops.refold.sequence(
        name,
        list(call.inputs),
        list(call.states),
        list(call.params.values()),
        " ".join(call.params),
        call.lengths,
        call.steps,
        call.backwards,
        call.histories,
        torch.is_grad_enabled() and any(t.requires_grad for t in tensors),
    )
    count = len(call.states) if call.histories else 0
    return Run(output, tuple(rest[:count]), tuple(rest[count : count + len(call.states)]))


def work_of(
    kernel: str,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor],
    params: Sequence[Tensor],
    names: str,
    lengths: Tensor | None,
    steps: int,
    backwards: bool,
    histories: bool,
) -> tuple[Work, Call]:
    """The call that an operator's arguments make, checked."""
    made = kernel_of(kernel)
    if lengths is not None:
        lengths = lengths.to("cpu", torch.int64)
        if bool((lengths < 0).any() or (lengths > steps).any()):
            raise KernelError(
                f"lengths lie between {int(lengths.min())} and {int(lengths.max())}, and there are {steps} steps.",
                f"Lengths lie between 0 and {steps}.",
            )
    named = dict(zip(names.split(" ") if names else (), params, strict=True))
    call = Call(steps, tuple(inputs), tuple(states), named, lengths, backwards, histories=histories)
    made.check(call)
    return Work.of(made, call), call


def stored(kernel: Compiled) -> list[int]:
    """The states that the way back reads besides the output."""
    return [k for k, read in enumerate(kernel.read_back) if read and k != kernel.same]


@torch.library.custom_op("refold::sequence", mutates_args=(), device_types="cpu")
def sequence(
    kernel: str,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor],
    params: Sequence[Tensor],
    names: str,
    lengths: Tensor | None,
    steps: int,
    backwards: bool,
    histories: bool,
    keep: bool,
) -> list[Tensor]:
    """A call. With `keep` come, last, what forward kept and the states that the way back reads, packed."""
    work, call = work_of(
        kernel, inputs, states, params, names, lengths, steps, backwards, histories
    )
    made = work.kernel
    keep = keep and made.memory != "small"
    whole = work.whole(call, made.values(call))
    asked = [histories or (keep and read) for read in made.read_back]
    # Zeros, for nothing is written beside the columns, and past the rows that run: a traced result has no chance in it.
    rows = steps * work.table.batch
    kept = whole.zeros(rows, made.kept_width) if keep else None
    done = loops.forward(whole, kept, asked)
    output, given, final = given_out(work, done)
    results = [output, *given, *(s.clone() if s._is_view() else s for s in final)]
    if kept is not None:
        results.append(kept)
        for k in stored(made):
            history = done.histories[k]
            assert history is not None
            history = history.clone() if any(history is g for g in given) else history
            results.append(_of_rows(flat(history), rows))
    return results


def _of_rows(packed: Tensor, rows: int) -> Tensor:
    """With as many rows as a batch without lengths has: what is traced knows no lengths."""
    if packed.shape[0] == rows:
        return packed
    room = packed.new_zeros(rows, packed.shape[1])
    room[: packed.shape[0]] = packed
    return room


@sequence.register_fake
def _(
    kernel: str,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor],
    params: Sequence[Tensor],
    names: str,
    lengths: Tensor | None,
    steps: int,
    backwards: bool,
    histories: bool,
    keep: bool,
) -> list[Tensor]:
    made = kernel_of(kernel)
    like, batch = states[0], states[0].shape[0]

    def empty(*shape: int) -> Tensor:
        return like.new_empty(shape)

    results = [empty(steps, batch, made.output_width)]
    if histories:
        results += [empty(steps, batch, width) for width in made.state_widths]
    results += [empty(batch, width) for width in made.state_widths]
    if keep and made.memory != "small":
        rows = steps * batch
        results.append(empty(rows, made.kept_width))
        results += [empty(rows, made.state_widths[k]) for k in stored(made)]
    return results


@torch.library.custom_op("refold::sequence_back", mutates_args=(), device_types="cpu")
def sequence_back(
    kernel: str,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor],
    params: Sequence[Tensor],
    names: str,
    lengths: Tensor | None,
    steps: int,
    backwards: bool,
    histories: bool,
    output: Tensor,
    extra: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> list[Tensor]:
    """The gradients of those inputs, states and parameters that need one."""
    work, call = work_of(
        kernel, inputs, states, params, names, lengths, steps, backwards, histories
    )
    made = work.kernel
    whole = work.whole(call, made.values(call))
    if extra:
        rows = work.table.rows
        kept = extra[0][:rows].clone()  # the reverse loop works in it
        found: list[Tensor | None] = [None] * len(states)
        for k, history in zip(stored(made), extra[1:], strict=True):
            found[k] = history[:rows]
        if made.same is not None:
            found[made.same] = work.pack(output)
        before = loops.Before(found, [whole.starts], kept)
    else:
        done = loops.forward(whole, None, [False] * len(states))
        before = loops.Before([None] * len(states), done.starts, None)
    results = way_back(work, call.params, whole, before, needs, gradients)
    kept_apart: list[Tensor] = []
    for result, need in zip(results, needs, strict=True):
        if need:
            assert result is not None
            kept_apart.append(result.clone() if result._is_view() else result)
    return kept_apart


@sequence_back.register_fake
def _(
    kernel: str,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor],
    params: Sequence[Tensor],
    names: str,
    lengths: Tensor | None,
    steps: int,
    backwards: bool,
    histories: bool,
    output: Tensor,
    extra: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> list[Tensor]:
    tensors = (*inputs, *states, *params)
    return [t.new_empty(t.shape) for t, need in zip(tensors, needs, strict=True) if need]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    kernel, xs, states, params, names, lengths, steps, backwards, histories, _ = inputs
    given = 1 + len(states) * (1 + histories)
    extra = output[given:]
    ctx.save_for_backward(*xs, *states, *params, lengths, output[0], *extra)
    ctx.counts = len(xs), len(states), len(params), 2, len(extra)
    ctx.settings = kernel, names, steps, backwards, histories, given
    ctx.needs = [t.requires_grad for t in (*xs, *states, *params)]


def _back(ctx: Any, gradients: Sequence[Tensor | None]) -> tuple[Any, ...]:
    xs, states, params, (lengths, output), extra = parted(ctx.saved_tensors, ctx.counts)
    kernel, names, steps, backwards, histories, given = ctx.settings
    found = iter(
        torch.ops.refold.sequence_back(
            kernel,
            list(xs),
            list(states),
            list(params),
            names,
            lengths,
            steps,
            backwards,
            histories,
            output,
            list(extra),
            list(gradients[:given]),
            ctx.needs,
        )
    )
    every = [next(found) if need else None for need in ctx.needs]
    parts = parted(every, ctx.counts[:3])
    return None, *map(list, parts), None, None, None, None, None, None


sequence.register_autograd(_back, setup_context=_remember)
