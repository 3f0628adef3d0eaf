"""The derived adjoint in place of torch's autograd: the plan's reverse step, run with torch operations.

What every compiled backend does, slowly: it shows that the derived equations are right, and is how they are tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from refold.errors import KernelError
from refold.ir.graph import Slot
from refold.plan.plan import Plan

from .base import BACKENDS, Call, Run, no_further
from .loop import Lines, Loop, Values
from .reference import Forward, Reference, fixed
from .rows import Rows


class Derived(Reference):
    """A plan with numbers for its letters, differentiated by its own reverse step."""

    backend = "derived"

    def __init__(self, plan: Plan, sizes: Mapping[str, int], reason: str):
        super().__init__(plan, sizes, reason)
        self.reverse = Lines(plan.backward.graph, sizes)
        self.once_back = Lines(plan.once_back, sizes)

    def __call__(self, call: Call) -> Run:
        if torch._C._are_functorch_transforms_active():
            if self.plan.norms:
                raise no_further()
            raise KernelError(
                "torch.func maps over the layer, and the derived adjoint is no map of tensors that it could see into.",
                'Build the layer with backend="reference".',
            )
        layout = Layout(self, call.steps, tuple(call.params), call.lengths, call.backwards)
        groups = (call.inputs, call.states, tuple(call.params.values()), call.probes or ())
        counts = tuple(len(group) for group in groups)
        output, *rest = _Sequence.apply(layout, counts, *(t for g in groups for t in g))  # type: ignore[misc]
        states = counts[1]
        return Run(output, tuple(rest[:states]), tuple(rest[states:]))

    def backward(self, call: Call, forward: Forward, given: Given) -> Gradients:
        """The reverse loop: from what the error says about outputs, histories and final states to all gradients."""
        half, rows, like = self.plan.backward, forward.rows, call.states[0]
        graph = half.graph
        params = fixed(self.once, call)
        states = [o.slot for o in self.plan.forward.graph.outputs_of("state")]
        sources = params | self._values(call, forward, states)
        if given.output is not None:
            name = self.plan.forward.graph.outputs_of("output")[0].slot.name
            sources[Slot("given", name)] = rows.pack(given.output)
        carries = [Slot("carry", s.name) for s in states]
        into = {o.slot: o.node for o in graph.outputs}
        nexts = [into[c] for c in carries]
        totals = graph.outputs_of("total")
        inputs = [into[leaf.slot] for leaf in self.plan.forward.graph.leaves_of("input")]
        deltas = [o.node for o in graph.outputs_of("delta") if call.probes]
        wanted = [*(o.node for o in totals), *inputs, *deltas]
        loop = Loop(self.reverse, half, rows, sources, carries, nexts, wanted, like)
        direct = [rows.steps_of(rows.pack(h)) for h in given.history]

        def add_direct(t: int, carried: list[Tensor]) -> list[Tensor]:
            return [c + d[t] for c, d in zip(carried, direct, strict=True)]

        carried = [rows.sort(f) for f in given.final]
        first = loop.run(carried, not call.backwards, before=add_direct)
        values = loop.finish()
        return Gradients(
            inputs=tuple(rows.unpack(loop.each_row(i)) for i in inputs),
            states=tuple(rows.unsort(s) for s in first),
            params=self._parameters(params, self._totals(values, totals), call),
            deltas=tuple(rows.unpack(loop.each_row(i)) for i in deltas),
        )

    def _values(self, call: Call, forward: Forward, states: list[Slot]) -> dict[Slot, Tensor]:
        """What the reverse step reads of the forward run, packed."""
        rows = forward.rows
        inputs = zip(self.plan.forward.graph.leaves_of("input"), call.inputs, strict=True)
        sources = {leaf.slot: rows.pack(x) for leaf, x in inputs}
        for slot, first, history in zip(states, call.states, forward.history, strict=True):
            sources[slot] = _before(rows, rows.sort(first), history, call.backwards)
            sources[Slot("next", slot.name)] = history
        return sources | {Slot("kept", name): v for name, v in forward.kept.items()}

    def _totals(self, values: Values, totals: tuple) -> dict[str, Tensor]:
        """The terms of each parameter's gradient, summed over steps and rows."""
        sums: dict[str, Tensor] = {}
        for output in totals:
            node = self.reverse.graph.nodes[output.node]
            value = values[output.node]
            if node.op != "outer":  # an outer product has been summed by its own matrix product
                value = value.reshape(-1, value.shape[-1]).sum(0)
            name = output.slot.name
            sums[name] = sums[name] + value if name in sums else value
        return sums

    def _parameters(
        self, params: Mapping[Slot, Tensor], totals: dict[str, Tensor], call: Call
    ) -> dict[str, Tensor]:
        """From the totals of what was computed once, on to the parameters."""
        lines = self.once_back
        values = lines.numbers(call.states[0])
        for slot, i in lines.slots.items():
            if slot.kind != "total":
                values[i] = params[slot]
            elif slot.name in totals:
                values[i] = totals[slot.name]
            else:  # read only where no gradient passes: in a comparison, or under stop_gradient
                values[i] = torch.zeros_like(params[Slot("once", slot.name)])
        lines.work_out(range(len(lines.graph.nodes)), values)
        for output in lines.graph.outputs:
            name = output.slot.name
            value = values[output.node]
            totals[name] = totals[name] + value if name in totals else value
        return {
            n: totals[n].reshape(p.shape) if n in totals else torch.zeros_like(p)
            for n, p in call.params.items()
        }


@dataclass(frozen=True, slots=True)
class Given:
    """What the error says directly: derivatives with respect to outputs, states after each step, final states."""

    output: Tensor | None  # None: the output is a state, and counted there
    history: list[Tensor]
    final: list[Tensor]


@dataclass(frozen=True, slots=True)
class Gradients:
    """What the reverse loop gives, in the caller's layout; `deltas` are the adjoints of the states after each step."""

    inputs: tuple[Tensor, ...]
    states: tuple[Tensor, ...]
    params: dict[str, Tensor]
    deltas: tuple[Tensor, ...]


def _before(rows: Rows, first: Tensor, history: Tensor, backwards: bool) -> Tensor:
    """The state before each step, packed: the one after the step that ran before it, or the first."""
    after = rows.steps_of(history)
    parts = []
    for t in range(rows.steps):
        count = rows.counts[t]
        earlier = t + 1 if backwards else t - 1
        known = after[earlier][:count] if 0 <= earlier < rows.steps else first[:0]
        parts.append(torch.cat([known, first[known.shape[0] : count]]))
    return torch.cat(parts) if parts else first[:0]


@dataclass(frozen=True, slots=True)
class Layout:
    """A call without its tensors: what torch's graph may hold on to between forward and backward."""

    kernel: Derived
    steps: int
    names: tuple[str, ...]
    lengths: Tensor | None
    backwards: bool

    def call(self, counts: tuple[int, ...], tensors: Sequence[Tensor]) -> Call:
        """The call over these tensors: inputs, states, parameters, probes, as many of each as `counts` says."""
        groups, start = [], 0
        for count in counts:
            groups.append(tuple(tensors[start : start + count]))
            start += count
        inputs, states, params, probes = groups
        named = dict(zip(self.names, params, strict=True))
        return Call(self.steps, inputs, states, named, self.lengths, self.backwards, probes or None)


class _Sequence(torch.autograd.Function):
    """One call of a kernel as one node of torch's graph."""

    @staticmethod
    def forward(
        ctx: Any, layout: Layout, counts: tuple[int, ...], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        kernel = layout.kernel
        call = layout.call(counts, tensors)
        forward = kernel.forward(call, fixed(kernel.once, call), keep=True)
        ctx.layout, ctx.counts, ctx.rows = layout, counts, forward.rows
        ctx.kept_names = tuple(forward.kept)
        ctx.save_for_backward(*tensors, *forward.history, *forward.kept.values())
        rows = forward.rows
        # Clones: torch takes a tensor that is returned twice, or returned and saved, for one output.
        history = tuple(rows.unpack(h).clone() for h in forward.history)
        final = tuple(rows.unsort(s).clone() for s in forward.final)
        return (rows.unpack(forward.output).clone(), *history, *final)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # Grad mode is on in a backward exactly where create_graph=True asks for more.
        if torch.is_grad_enabled():
            if ctx.layout.kernel.plan.norms:
                raise no_further()
            raise KernelError(
                "a gradient of a gradient is asked for, and the derived adjoint gives first derivatives.",
                'Build the layer with backend="reference", which differentiates to any order.',
            )
        kernel, counts, saved = ctx.layout.kernel, ctx.counts, ctx.saved_tensors
        total, states = sum(counts), counts[1]
        call = ctx.layout.call(counts, saved[:total])
        history = saved[total : total + states]
        kept = dict(zip(ctx.kept_names, saved[total + states :], strict=True))
        forward = Forward(ctx.rows, history[0], tuple(history), (), kept)
        found = kernel.backward(call, forward, _given(kernel, gradients, states))
        params = [found.params[name] for name in ctx.layout.names]
        probes = found.deltas if counts[3] else ()
        return (None, None, *found.inputs, *found.states, *params, *probes)


def _given(kernel: Derived, gradients: tuple[Tensor, ...], states: int) -> Given:
    """An output that is a state adds its gradient to that state's own."""
    output, history, final = gradients[0], list(gradients[1 : 1 + states]), gradients[1 + states :]
    same = kernel.plan.output_state
    if same is None:
        return Given(output, history, list(final))
    history[same] = history[same] + output
    return Given(None, history, list(final))


BACKENDS["derived"] = Derived
