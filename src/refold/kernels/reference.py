"""The reference: the plan, run line by line with torch operations, on any device and in any dtype.

This is what an equation means; every other backend is measured against it. Torch's autograd differentiates it to any
order, and torch.func maps over it, since nothing is written in place and no value is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from refold.ir.graph import Slot
from refold.plan.plan import Plan

from .base import BACKENDS, Call, Run
from .loop import Lines, Loop
from .rows import Rows


@dataclass(frozen=True, slots=True)
class Forward:
    """What the forward loop leaves behind, packed (see `Rows`); the final states longest row first."""

    rows: Rows
    output: Tensor
    history: tuple[Tensor, ...]
    final: tuple[Tensor, ...]
    kept: dict[str, Tensor]


class Reference:
    """A plan with numbers for its letters, differentiated by torch."""

    backend = "reference"

    def __init__(self, plan: Plan, sizes: Mapping[str, int], reason: str):
        self.plan = plan
        self.reason = reason
        self.once = Lines(plan.once, sizes)
        self.step = Lines(plan.forward.graph, sizes)

    def __call__(self, call: Call) -> Run:
        forward = self.forward(call, fixed(self.once, call))
        rows, same = forward.rows, self.plan.output_state
        history = tuple(rows.unpack(h) for h in forward.history)
        output = rows.unpack(forward.output) if same is None else history[same]
        return Run(output, history, tuple(rows.unsort(s) for s in forward.final))

    def forward(self, call: Call, params: Mapping[Slot, Tensor], keep: bool = False) -> Forward:
        """All steps of all rows; `keep` also gives what the plan keeps for the reverse step."""
        graph = self.plan.forward.graph
        like = call.states[0]
        rows = Rows.of(call.steps, like.shape[0], call.lengths, like.device)
        inputs = zip(graph.leaves_of("input"), call.inputs, strict=True)
        sources = {**params, **{leaf.slot: rows.pack(x) for leaf, x in inputs}}
        states = [o.slot for o in graph.outputs_of("state")]
        nexts = [o.node for o in graph.outputs_of("state")]
        output = graph.outputs_of("output")[0]
        same = self.plan.output_state
        wanted = [output.node] * (same is None) + [k.node for k in self.plan.kept if keep]
        loop = Loop(self.step, self.plan.forward, rows, sources, states, nexts, wanted, like)
        probes = call.probes and [rows.steps_of(rows.pack(p)) for p in call.probes]

        def probed(t: int, new: list[Tensor]) -> list[Tensor]:
            return [s + p[t] for s, p in zip(new, probes or (), strict=True)]

        carried = [rows.sort(s) for s in call.states]
        final = loop.run(carried, call.backwards, after=probed if probes else None)
        loop.finish()
        history = tuple(loop.history(k) for k in range(len(states)))
        return Forward(
            rows=rows,
            output=loop.each_row(output.node) if same is None else history[same],
            history=history,
            final=tuple(final),
            kept={k.name: loop.each_row(k.node) for k in self.plan.kept if keep},
        )


def fixed(once: Lines, call: Call) -> dict[Slot, Tensor]:
    """The parameters, and what is computed from them alone."""
    params = {Slot("param", n): p.reshape(1) if p.dim() == 0 else p for n, p in call.params.items()}
    values = once.numbers(call.states[0])
    values |= {i: params[slot] for slot, i in once.slots.items()}
    once.work_out(range(len(once.graph.nodes)), values)
    return params | {o.slot: values[o.node] for o in once.graph.outputs}


BACKENDS["reference"] = Reference
