"""Pascanu's regulariser in layers: which steps count, with what weight, and what came out.

A layer that counts Omega feeds its cell one number more a step, the weight lambda(t). The error that is trained is then
E + sum of lambda(t) Omega(t), and its derivative with respect to lambda(t) is Omega(t): the way back tells it for
nothing. The equations, and what the immediate derivative is, stand in `refold.plan.omega`.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from refold.errors import RefoldError
from refold.kernels.base import Call, Kernel, Run, no_further

from .events import NOTHING, Events, flags_of

FORMS = ("ratio", "squared")


@dataclass(frozen=True, slots=True)
class Omega:
    """How much the norm of the adjoint is held to what it is: weight times the mean of Omega over steps and rows.

    weight  4: the paper's for all tasks with made-up data, for the mean over a sequence's steps
    form    "ratio"    (|J^T delta| / |delta| - 1)^2, equation 9
            "squared"  (|J^T delta|^2 / |delta|^2 - 1)^2, equation 10 and the released code
            "ratio" unless asked: its gradient grows as the ratio does, the other's as its cube, so that one step that
            explodes does not outweigh all others. Near a ratio of 1 "squared" is four times as large
    over    the steps of training after which the weight has fallen to half: rf.fit counts weight / (1 + step / over).
            The paper lets it fall so for natural data; None, the weight stays, as for made-up data

    Errors   RefoldError: a weight that is no number from 0 on, another form
    Example  with rf.regularised(network, rf.Omega(weight=4.0)): loss(network(x), d).backward()
    Source   Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063, section 3.3
    """

    weight: float = 4.0
    form: str = "ratio"
    over: float | None = None

    def __post_init__(self) -> None:
        if not _from_zero(self.weight):
            fact = f"weight is {self.weight!r}, and must be a finite number, at least 0"
            raise RefoldError(fact, "choose weight=4.0, say", "Omega")
        if self.form not in FORMS:
            fact = f'there is no form "{self.form}", there are {" and ".join(FORMS)}'
            raise RefoldError(fact, 'choose form="ratio"', "Omega")
        if self.over is not None and not (_from_zero(self.over) and self.over > 0):
            fact = f"over is {self.over!r}, and must be a finite number of steps above 0"
            raise RefoldError(fact, "choose over=1000, or None", "Omega")

    def left(self, step: int) -> float:
        """Which part of the weight is left after so many steps."""
        return 1.0 if self.over is None else 1.0 / (1.0 + step / self.over)


@dataclass(slots=True, eq=False)
class Terms:
    """What the calls inside a block count, for one layer or several.

    Each call of a layer counts the mean over a row's own steps, then over its rows with steps, anew for each layer of
    a stack and each direction; all of these are added up. Steps that a mask leaves out do not count, nor do steps that
    start anew: nothing comes through them from before. A step that no error reaches counts 0.

    omega   what is counted
    scale   a factor more; where gradients are added up over parts of a batch: this part's share of the rows
    piece   what a call is of what is counted as one: its share of the steps where several calls follow each other, and
            of the rows where others have the rest

    Errors  RefoldError: no `Omega`, a scale that is no number from 0 on
    """

    omega: Omega
    scale: float = 1.0
    piece: float = field(default=1.0, init=False)
    # Of each call, layer and direction: the weights, leaves of torch's graph, and each step's share in the mean.
    counted: list[tuple[Tensor, Tensor]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.omega, Omega):
            fact = f"omega is {self.omega!r}, and must be an rf.Omega"
            raise RefoldError(fact, "pass rf.Omega(weight=4.0)", "Omega")
        if not _from_zero(self.scale):
            fact = f"scale is {self.scale!r}, and must be a finite number, at least 0"
            raise RefoldError(fact, "leave scale=1.0", "Omega")

    @property
    def form(self) -> str:
        return self.omega.form

    def weights(self, call: Call, events: Events, spread: int) -> Tensor:
        """lambda for each step and row of a call.

        Shapes  (T, B, 1)
        Errors  KernelError: torch.func maps over the layer
        """
        if torch._C._are_functorch_transforms_active():
            raise no_further()
        shares = _shares(call, events, spread)
        shares = shares if self.piece == 1.0 else shares * self.piece
        weights = (shares * (self.omega.weight * self.scale)).requires_grad_()
        self.counted.append((weights, shares))
        return weights

    def run(self, call: Call, kernel: Kernel) -> Run:
        """A call by a kernel whose cell has Omega, and nothing else wired around it."""
        inputs = (*call.inputs, self.weights(call, NOTHING, 1))
        return kernel(replace(call, inputs=inputs))

    def value(self) -> Tensor:
        """Omega, neither weighted nor scaled, when a way back has been through all that was called; 0 if nothing was.

        Shapes  ()
        Errors  RefoldError: there has been no way back
        """
        told = [(w.grad, shares) for w, shares in self.counted if w.grad is not None]
        if self.counted and not told:
            fact = f"{len(self.counted)} runs of layers were counted, and no backward() has come through"
            raise RefoldError(fact, "call backward() on the loss before value()", "Omega")
        found = [(omega * shares).sum() for omega, shares in told]
        return torch.stack([f.to(found[0]) for f in found]).sum() if found else torch.zeros(())


def _shares(call: Call, events: Events, spread: int) -> Tensor:
    """What each step counts in the mean over a row's steps, then over rows, (T, B, 1)."""
    like = call.states[0]
    if call.lengths is None and events.mask is None and events.resets is None:
        count = call.steps * like.shape[-2]
        return like.new_full((call.steps, like.shape[-2], 1), 1 / max(1, count))
    counting = _counting(call, events, spread)
    steps = counting.sum(0)
    rows = (steps > 0).sum()
    shares = counting.to(like.dtype) / (steps.clamp(min=1) * rows.clamp(min=1))
    return shares.unsqueeze(-1)


def _counting(call: Call, events: Events, spread: int) -> Tensor:
    """Which steps count, (T, B)."""
    like = call.states[0]
    counting = torch.ones(call.steps, like.shape[-2], dtype=torch.bool, device=like.device)
    if call.lengths is not None:
        at = torch.arange(call.steps, device=like.device).unsqueeze(1)
        counting &= at < call.lengths.to(like.device)
    if events.mask is not None:
        counting &= events.mask
    if events.resets is not None:
        counting &= ~flags_of(events.resets, call.lengths, spread, call.backwards)
    return counting


def _from_zero(value: object) -> bool:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0  # type: ignore[arg-type,operator]


class Counting:
    """What layers share that can count Omega."""

    _terms: Terms | None = None

    def keeping_norms(
        self,
        omega: Omega = Omega(),
        scale: float = 1.0,
    ) -> AbstractContextManager[Terms]:
        """Within, the way back of each call also counts Pascanu's Omega, and adds its gradient to the weights' own.

        Nothing changes forward, nor do the gradients of x and of states: the derivative is the immediate one (see
        `refold.plan.omega`). It is added as it is, whatever factor the loss has: a loss that is scaled up, as for
        half precision, needs the same `scale`.

        Errors   RefoldError: settings that are none (see `Omega`, `Terms`)
        Example
            with layer.keeping_norms(rf.Omega(weight=4.0)) as terms:
                y, _ = layer(x)
            y.square().sum().backward()
            print(terms.value())
        """
        return self.counting(Terms(omega, scale))

    @contextmanager
    def counting(self, terms: Terms) -> Iterator[Terms]:
        """Within, calls count Omega there: `keeping_norms` for several layers together."""
        outer, self._terms = self._terms, terms
        try:
            yield terms
        finally:
            self._terms = outer

    @property
    def _counting(self) -> Terms | None:
        """Where a call counts Omega. One that nobody differentiates has no adjoint, and counts none."""
        return self._terms if torch.is_grad_enabled() else None
