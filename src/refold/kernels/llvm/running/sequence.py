"""A call of a compiled kernel, and, where gradients are wanted, one node of torch's graph for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from refold.kernels.base import Call, Run
from refold.kernels.rows import Rows

from . import steps
from .steps import Given, Wanted, Whole
from .tables import Table, uniform

if TYPE_CHECKING:
    from .kernel import Compiled

WORKS = 64  # sizes of batches for which what was made is held


class Work(NamedTuple):
    """A call without its tensors: what torch's graph may hold on to between forward and backward.

    counts  inputs, states, parameters, probes
    rows    how the batch lies packed
    inside  the caller's tensors lie packed, and the states sorted, already
    asked   for which states the values after every step are wanted, without and with a way back
    wanted  what has been asked of the way back
    """

    kernel: Compiled
    call: Call
    counts: tuple[int, int, int, int]
    dtype: torch.dtype
    rows: Rows
    inside: bool
    table: Table
    asked: tuple[list[bool], list[bool]]
    wanted: dict[tuple[bool, ...], tuple[tuple[str, ...], Wanted]]

    @staticmethod
    def of(kernel: Compiled, call: Call) -> Work:
        """Batches of whole rows come in the same sizes again and again: what was made for them is held."""
        if call.lengths is not None or call.rows is not None:
            return Work._of(kernel, call)
        like = call.states[0]
        key = (
            *(call.steps, like.shape[0], call.backwards, call.histories, like.dtype),
            *(call.probes is None, *call.params),
        )
        found = kernel.works.get(key)
        if found is None:
            if len(kernel.works) >= WORKS:
                kernel.works.clear()
            found = kernel.works[key] = Work._of(kernel, call)
        return found

    @staticmethod
    def _of(kernel: Compiled, call: Call) -> Work:
        like = call.states[0]
        batch = like.shape[0]
        rows = call.rows or Rows.of(call.steps, batch, call.lengths, like.device)
        if rows.counts and rows.counts[-1] < batch:
            table = Table(np.array(rows.counts, np.int64), batch, call.backwards)
        else:
            table = uniform(call.steps, batch, call.backwards)
        probes = call.probes or ()
        counts = len(call.inputs), len(call.states), len(call.params), len(probes)
        keep = kernel.memory != "small"
        asked = (
            [call.histories] * counts[1],
            [call.histories or (keep and r) for r in kernel.read_back],
        )
        inside = call.rows is not None
        return Work(kernel, bare(call), counts, like.dtype, rows, inside, table, asked, {})

    def filled(self, tensors: Sequence[Tensor]) -> Call:
        """The call over these tensors: inputs, states, parameters, probes."""
        inputs, states, params, probes = parted(tensors, self.counts)
        call = self.call
        return Call(
            call.steps,
            inputs,
            states,
            dict(zip(call.params, params, strict=True)),
            call.lengths,
            call.backwards,
            probes or None,
            call.rows,
            call.histories,
        )

    def whole(self, call: Call, values: Sequence[Tensor]) -> Whole:
        """The same inside: packed and sorted."""
        return self.inner(call.inputs, call.states, values)

    def inner(
        self, inputs: Sequence[Tensor], states: Sequence[Tensor], values: Sequence[Tensor]
    ) -> Whole:
        inputs = [self.pack(x) for x in inputs]
        starts = [self.sort(s) for s in states]
        shaped = not self.inside
        return Whole(self.kernel, self.table, self.dtype, inputs, starts, values, {}, shaped)

    def asking(self, needs: tuple[bool, ...]) -> tuple[tuple[str, ...], Wanted]:
        """The parameters whose gradients are needed, and what the way back has to give for all."""
        if needs not in self.wanted:
            inputs, states, params, probes = parted(needs, self.counts)
            feeds = self.kernel.feeds
            names = tuple(n for n, need in zip(self.call.params, params, strict=True) if need)
            totals = frozenset(total for name in names for total in feeds.get(name, ()))
            self.wanted[needs] = names, Wanted(inputs, totals, any(states), any(probes))
        return self.wanted[needs]

    def pack(self, x: Tensor) -> Tensor:
        """What lies in the caller's layout for all steps, as rows."""
        return plain(x if self.inside or self.rows.index is None else self.rows.pack(x))

    def unpack(self, x: Tensor) -> Tensor:
        """Rows of all steps in the caller's layout. Where both are one, the tensor itself: no view of it."""
        if self.inside:
            return x
        if self.rows.index is None:
            return x if x.dim() == 3 else x.view(self.rows.steps, self.rows.batch, x.shape[-1])
        return self.rows.unpack(x)

    def sort(self, state: Tensor) -> Tensor:
        return plain(state if self.inside or self.rows.order is None else self.rows.sort(state))

    def unsort(self, state: Tensor) -> Tensor:
        return state if self.inside else self.rows.unsort(state)


def bare(call: Call) -> Call:
    """A call that holds no tensor but its lengths."""
    names = dict.fromkeys(call.params, torch.empty(0))
    return Call(
        call.steps,
        (),
        (),
        names,
        call.lengths,
        call.backwards,
        None,
        call.rows,
        call.histories,
    )


def tensors_of(call: Call) -> list[Tensor]:
    return [*call.inputs, *call.states, *call.params.values(), *(call.probes or ())]


def parted(tensors: Sequence[Any], counts: Sequence[int]) -> list[tuple[Any, ...]]:
    """A sequence cut into pieces of these lengths."""
    parts, start = [], 0
    for count in counts:
        parts.append(tuple(tensors[start : start + count]))
        start += count
    return parts


def plain(tensor: Tensor) -> Tensor:
    """The numbers themselves, one after the other in memory: no stride, no sign that is still to be applied."""
    return (tensor.resolve_neg() if tensor.is_neg() else tensor).contiguous()


def infer(work: Work, call: Call) -> Run:
    """A call that nobody will differentiate."""
    kernel = work.kernel
    kernel.spare.drop()
    whole = work.whole(call, kernel.values(call))
    done = steps.forward(whole, None, work.asked[0])
    return Run(*given_out(work, done))


def given_out(
    work: Work, done: steps.Forward
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Output, histories where asked for, final states in the caller's layout; no two share memory."""
    output = work.unpack(done.output)
    histories = []
    if work.call.histories:
        for history in done.histories:
            assert history is not None
            found = work.unpack(history)
            histories.append(found.clone() if found is output else found)
    return output, tuple(histories), tuple(work.unsort(s) for s in done.final)


def recorded(work: Work, call: Call, tensors: list[Tensor]) -> Run:
    """A call as one node of torch's graph; `tensors` are those of the call."""
    output, *rest = Node.apply(work, call, *tensors)  # type: ignore[misc]
    count = len(call.states) if call.histories else 0
    return Run(output, tuple(rest[:count]), tuple(rest[count:]))


class Node(torch.autograd.Function):
    """One call of a kernel, with its way back."""

    @staticmethod
    def forward(ctx: Any, work: Work, call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        kernel = work.kernel
        keep = kernel.memory != "small"
        values = kernel.values(call)
        whole = work.whole(call, values)
        rows = work.table.rows
        kept = kernel.spare.take(rows, kernel.kept_width, work.dtype) if keep else None
        done = steps.forward(whole, kept, work.asked[1])
        output, histories, final = given_out(work, done)
        final = [s.clone() if s._is_view() else s for s in final]
        given = dict(enumerate(histories))
        if kernel.same is not None:
            given[kernel.same] = output
        # What was unpacked is another tensor than what the way back reads.
        stored = (
            done.histories
            if ragged(work)
            else [given.get(k, h) for k, h in enumerate(done.histories)]
        )
        starts = [s for stretch in done.starts for s in stretch] if not keep else []
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *(stored if keep else ()), *starts)
        # Parameters are not among what is held so: torch looks whether somebody has written to them.
        ctx.work, ctx.kept, ctx.made = work, kept, values[len(kernel.shapes) :]
        return output, *histories, *final

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return Node.backward(ctx, *gradients)
        work, saved = ctx.work, ctx.saved_tensors
        count = sum(work.counts)
        tensors, rest = saved[:count], saved[count:]
        needs = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            return None, None, *by_reference(work, tensors, needs, gradients)
        kernel = work.kernel
        inputs, first, params, _ = parted(tensors, work.counts)
        named = dict(zip(work.call.params, params, strict=True))
        whole = work.inner(inputs, first, [*(plain(named[n]) for n in kernel.shapes), *ctx.made])
        if kernel.memory != "small":
            histories, starts = rest, [whole.starts]
        else:
            states = work.counts[1]
            histories = [None] * states
            starts = [rest[i : i + states] for i in range(0, len(rest), states)]
        # The reverse loop works in what was kept: for another one it is made again.
        kept, ctx.kept = ctx.kept, None
        before = steps.Before(histories, starts, kept)
        found = way_back(work, named, whole, before, needs, gradients)
        if kept is not None:
            kernel.spare.give(kept)
        return None, None, *found


def ragged(work: Work) -> bool:
    """Whether the caller's tensors lie in another order than they do inside."""
    return not work.inside and work.rows.index is not None


def flat(history: Tensor) -> Tensor:
    return history.flatten(0, -2)


def way_back(
    work: Work,
    params: Mapping[str, Tensor],
    whole: Whole,
    before: steps.Before,
    needs: Sequence[bool],
    gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """From the gradients of what a call gave to those of its tensors; None for those that need none."""
    needs = tuple(needs)
    names, wanted = work.asking(needs)
    found = steps.backward(whole, before, given_in(work, gradients), wanted)
    count, states, _, probed = work.counts
    inputs = [x if x is None else work.unpack(x) for x in found.inputs]
    starts: list[Tensor | None] = [None] * states
    if wanted.starts:
        need_states = needs[count : count + states]
        starts = [
            work.unsort(s) if need else None
            for s, need in zip(found.starts, need_states, strict=True)
        ]
    made = work.kernel.gradients(params, whole.values, found.totals, names)
    every = [*inputs, *starts, *map(made.get, params)]
    if probed:
        for d, need in zip(found.deltas, needs[-probed:], strict=True):
            every.append(None if d is None or not need else work.unpack(d))
    return every


def given_in(work: Work, gradients: Sequence[Tensor | None]) -> Given:
    """What the error says, inside: an output that is a state adds its gradient to that state's own."""
    states, same = work.counts[1], work.kernel.same
    (output,), histories, final = parted(
        gradients, (1, states if work.call.histories else 0, states)
    )
    direct = list(histories) or [None] * states
    if same is not None:
        if output is not None:
            direct[same] = output if direct[same] is None else direct[same] + output
        output = None
    return Given(
        None if output is None else work.pack(output),
        [None if d is None else work.pack(d) for d in direct],
        [None if f is None else work.sort(f) for f in final],
    )


def by_reference(
    work: Work,
    tensors: Sequence[Tensor],
    needs: Sequence[bool],
    gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """The same with a graph of its own behind it, for derivatives of derivatives."""
    with torch.enable_grad():
        # Each under a name of its own: one tensor may have come in twice.
        leaves = [t.view_as(t) if need else t for t, need in zip(tensors, needs, strict=True)]
        run = work.kernel.by_reference(
            work.filled(leaves),
            "a gradient of a gradient, or of a whole batch of them, is asked for",
        )
        results = [run.output, *run.history, *run.final]
        pairs = [
            (r, g)
            for r, g in zip(results, gradients, strict=True)
            if g is not None and r.requires_grad
        ]
        wanted = [leaf for leaf, need in zip(leaves, needs, strict=True) if need]
        found = torch.autograd.grad(
            [r for r, _ in pairs],
            wanted,
            [g for _, g in pairs],
            create_graph=True,
            allow_unused=True,
        )
    each = iter(found)
    return [next(each) if need else None for need in needs]
