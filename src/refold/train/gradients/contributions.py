"""Gradients as the sums that they are: for every parameter the term of every step.

With delta(k) the adjoint of the state after step k, and d+ the immediate derivative, in which the state before is
held fixed (Pascanu et al. 2013, equations 3 to 5):

    dE/dp    = sum over k of (d+h(k)/dp)^T delta(k)
    delta(k) = direct(k) + carried(k)       what the output of step k says, and what its next state says

Where an output is more than a state, what it owes to a parameter at once is in the term of its step too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from refold.data.batch import Batch
from refold.errors import DataError, RefoldError
from refold.nn.doors import Lengths
from refold.nn.layer import Recurrent, State
from refold.nn.stacks import Gate
from refold.nn.wiring import FED_BACK, Network
from refold.train.call import batch_error
from refold.train.errors import Errors, Loss, Reduce, Reduction

from .bptt import leaves, whole_batch
from .sources import Cell, Head, Source


@dataclass(frozen=True, slots=True, eq=False)
class Contributions:
    """The gradient of E_total, or of the errors of one step, step by step.

    Shapes  terms: for each parameter by name (T, *shape), or with norms (T,), the 2-norm of each step's term; U steps
    for what a network writes by feeding back. direct and carried: one dict per layer and direction, in the order of
    the state tensor, each state by name, (T, B, size): their sum is the adjoint. role: what a parameter does:
    "recurrent", "input", "bias", "output" (heads, and what no state depends on), "start" (a learned state before the
    first step, whose term is that of the first step).
    """

    errors: Errors
    terms: dict[str, Tensor]
    role: dict[str, str]
    direct: list[dict[str, Tensor]]
    carried: list[dict[str, Tensor]]
    norms: bool

    def parts(self) -> dict[str, Tensor]:
        """For each role that occurs, the 2-norm of all its terms at each step, (T,)."""
        steps = max(len(terms) for terms in self.terms.values())
        squares: dict[str, Tensor] = {}
        for name, terms in self.terms.items():
            each = terms.square().flatten(1).sum(1) if terms.ndim > 1 else terms.square()
            each = nn.functional.pad(each, (0, steps - len(each)))
            squares[self.role[name]] = squares.get(self.role[name], 0) + each
        return {role: square.sqrt() for role, square in squares.items()}

    def gradients(self) -> dict[str, Tensor]:
        """The sums over all steps: the gradient of each parameter by name.

        Errors  RefoldError where only norms were kept.
        """
        if self.norms:
            fact = "the norms of the terms were kept, which do not sum to the gradient"
            raise RefoldError(fact, "call contributions without norms=True", "Contributions")
        return {name: terms.sum(0) for name, terms in self.terms.items()}


def contributions(
    network: Network | Recurrent,
    x: Tensor,
    d: Tensor,
    loss: Loss = "squared",
    *,
    steps: Reduction,
    sequences: Reduction,
    features: Reduction = "sum",
    lengths: Lengths = None,
    d_lengths: Lengths = None,
    mask: Tensor | None = None,
    state: State | None = None,
    at: int | None = None,
    norms: bool = False,
) -> Contributions:
    """The temporal contributions to the gradient of a network's error: what `gradients` sums, before it is summed.

    `at` takes the error of one step only, its share in E_total: the terms of step k are then those of Pascanu's
    equation 4, and vanish or explode with at - k. A negative one counts from each row's own end. The rest is as in
    `gradients`. The time is that of one backward pass, and of one step forward and back for each step and layer;
    `norms` keeps (T,) numbers for a parameter in place of T times its size.

    Errors  as `gradients`; RefoldError for a network that is no rf.Network or rf.Recurrent; DataError for `at` outside
    the steps of d.

    Example
        >>> layer = Recurrent("elman", 1, 2)
        >>> x, d = torch.randn(5, 3, 1), torch.randn(5, 3, 2)
        >>> out = contributions(layer, x, d, steps="sum", sequences="sum")
        >>> out.terms["l0.W_h"].shape, list(out.parts())
        (torch.Size([5, 2, 2]), ['input', 'recurrent', 'bias'])

    Source  Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural networks", equations 3 to 5.
    """
    _check_network(network)
    batch = whole_batch(network, x, d, lengths, d_lengths, mask)
    reduce = Reduce(steps, sequences, features)
    initial = leaves(state)
    given = initial if isinstance(state, tuple | list) else next(iter(initial), None)
    with torch.enable_grad(), ExitStack() as stack:
        layers = [part for part in network.modules() if isinstance(part, Recurrent)]
        recorded = [stack.enter_context(layer.record()) for layer in layers]
        heads = [
            Head(part, stack, batch.lengths, _steps(network, part, batch))
            for part in _heads(network)
        ]
        errors = batch_error(network, batch, loss, reduce, teach=True, state=given)[1]
        weights = _weights(errors, batch, at)
        cells = [
            Cell(layer, index, record, _steps(network, layer, batch))
            for layer, records in zip(layers, recorded, strict=True)
            for index, record in enumerate(records)
        ]
        sources = [*cells, *heads]
        _tell(errors.step, weights, sources)
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        terms = _terms(sources, trained, norms)
    role = {i: kind for source in sources for i, kind in source.roles().items()}
    return Contributions(
        errors,
        terms,
        {name: role[id(p)] for name, p in trained.items()},
        [cell.by_state(cell.direct) for cell in cells],
        [cell.by_state(cell.carried) for cell in cells],
        norms,
    )


def _terms(
    sources: Sequence[Source], trained: Mapping[str, Tensor], norms: bool
) -> dict[str, Tensor]:
    """The terms of every parameter, or their norms, one step after the other."""
    names = {id(p): name for name, p in trained.items()}
    rows: dict[str, list[Tensor]] = {name: [] for name in trained}
    for t in range(max(source.steps for source in sources)):
        here: dict[str, Tensor] = {}
        for source in sources:
            for parameter, term in source.terms(t) if t < source.steps else ():
                name = names[id(parameter)]
                here[name] = here[name] + term if name in here else term
        for name, term in here.items():
            rows[name].append(term.norm() if norms else term)
    none = {
        name: p.new_zeros(0) if norms else p.new_zeros(0, *p.shape) for name, p in trained.items()
    }
    return {name: torch.stack(row) if row else none[name] for name, row in rows.items()}


def _weights(errors: Errors, batch: Batch, at: int | None) -> Tensor:
    """What E(t) of each row counts: its share in E_total, or nothing where another step is asked for."""
    if not errors.total.requires_grad:  # of no steps
        return torch.zeros_like(errors.step)
    shares = torch.autograd.grad(errors.total, errors.step, retain_graph=True)[0]
    if at is None:
        return shares
    steps, rows = shares.shape
    if not -steps <= at < steps:
        fact = f"at is {at}, and the targets have {steps} step(s)"
        remedy = f"give a step from 0 to {steps - 1}, or -1 for each row's last"
        raise DataError(fact, remedy, "contributions(at=...)")
    ends = torch.full((rows,), steps) if batch.d_lengths is None else batch.d_lengths
    chosen = ends + at if at < 0 else torch.full((rows,), at)
    return torch.where(torch.arange(steps)[:, None] == chosen, 1, 0).to(shares) * shares


def _tell(step: Tensor, weights: Tensor, sources: Sequence[Source]) -> None:
    """One backward pass, whose results go to those who asked."""
    asked = [tensor for source in sources for tensor in source.asked]
    found: Sequence[Tensor] = [torch.zeros_like(tensor) for tensor in asked]
    if step.requires_grad:
        found = torch.autograd.grad(step, asked, weights, retain_graph=True, materialize_grads=True)
    rest = iter(found)
    for source in sources:
        source.told([next(rest) for _ in source.asked])


def _heads(network: nn.Module) -> list[nn.Module]:
    """What has parameters and no memory."""
    gates: list[nn.Module] = [part for part in network.modules() if isinstance(part, Gate)]
    head = network.head if isinstance(network, Network) else None
    found = gates if head is None else [*gates, head]
    return [part for part in found if any(p.requires_grad for p in part.parameters())]


def _steps(network: nn.Module, part: nn.Module, batch: Batch) -> int:
    """How many steps a part of the network has: those of x, or those that it writes by feeding back."""
    if not isinstance(network, Network) or network.shape not in FED_BACK or batch.d is None:
        return len(batch.x)
    reads = network.decoder is not None and any(part is m for m in network.layer.modules())
    return len(batch.x) if reads else len(batch.d)


def _check_network(network: Any) -> None:
    if not isinstance(network, Network | Recurrent):
        fact = f"network is a {type(network).__name__}, whose steps are not known"
        raise RefoldError(fact, "give an rf.Network or an rf.Recurrent", "contributions(network)")
