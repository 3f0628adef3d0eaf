"""One layer and direction with all that is wired around its cell: masks, resets, regularisation, Omega, dilation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from refold.ir.trace import Cell
from refold.ir.wrap import Extra, Form, wrapped
from refold.kernels.base import Call, Run

from .events import NOTHING, Events, as_input, flags_of, held, pending
from .omega import Terms
from .parameters import Parameters
from .regularise import Regularise
from .stacks import folded, unfolded


@dataclass(frozen=True, slots=True)
class Wiring:
    """What is wired around a cell in one call of a layer and direction.

    spread  the layer's dilation; index: of this layer and direction among all
    terms   where Omega is counted, if the form has it
    """

    cell: Cell
    form: Form
    regularise: Regularise
    training: bool
    spread: int = 1
    events: Events = NOTHING
    index: int = 0
    terms: Terms | None = None

    def run(self, call: Call, part: Parameters, kernel: Callable[[Call], Run]) -> Run:
        """Run a call by a kernel of the wired cell.

        Shapes  the call's states are (B, size), or (spread, B, size) when dilated; so are the final states
        """
        made = wrapped(self.cell, self.form)
        inputs, params = call.inputs, call.params
        if self.training:
            inputs = self.regularise.inputs(inputs)
            params = self.regularise.weights(self.cell, params)
        if made.starts:
            params = {**params, **{name: self._learned(part, state) for name, state in made.starts}}
        further = [self._further(extra, call) for extra in made.inputs]
        full = Call(
            call.steps,
            (*inputs, *further),
            call.states,
            params,
            call.lengths,
            call.backwards,
            call.probes,
            call.rows,
            call.histories,
        )
        if self.spread == 1:
            return kernel(full)
        done = unfolded(kernel(folded(full, self.spread)), full, self.spread)
        if not self.form.resets:
            return done
        return Run(done.output, done.history, self._started(part, call, done.final))

    def _further(self, extra: Extra, call: Call) -> Tensor:
        """What one of the further inputs holds."""
        like, events = call.states[0], self.events
        if extra.kind == "mask":
            assert events.mask is not None
            return as_input(events.mask, like)
        if extra.kind == "reset":
            assert events.resets is not None
            flags = flags_of(events.resets, call.lengths, self.spread, call.backwards)
            return as_input(flags, like)
        if extra.kind == "omega":
            assert self.terms is not None
            return self.terms.weights(call, events, self.spread)
        at = [leaf.name for leaf in self.cell.graph.leaves_of("state")].index(extra.state)
        if extra.kind == "start":
            assert events.starts is not None
            return held((events.starts[at][self.index],), call.steps)[0]
        return self.regularise.noise(extra, self.cell, call.steps, call.states[at])

    def _learned(self, part: Parameters, state: str) -> Tensor:
        """The learned start of a state in the shape that the equation gives it."""
        leaf = next(s for s in self.cell.graph.leaves_of("state") if s.name == state)
        start = part.start(state)
        return start if leaf.shape else start.reshape(())

    def _started(
        self, part: Parameters, call: Call, final: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Final states of a dilated layer: a slot with no step after the last flag hands on its start."""
        resets, starts = self.events.resets, self.events.starts
        assert resets is not None
        anew = pending(resets, call.lengths, self.spread, call.backwards).unsqueeze(-1)
        first = (
            part.first(call.states[0].shape[-2])
            if starts is None
            else tuple(s[self.index] for s in starts)
        )
        return tuple(torch.where(anew, s, f) for s, f in zip(first, final, strict=True))
