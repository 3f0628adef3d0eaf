"""Pascanu's regulariser for a whole network: all its recurrent layers count Omega together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from refold.errors import RefoldError
from refold.nn.omega import Counting, Omega, Terms


@contextmanager
def regularised(network: nn.Module, omega: Omega, scale: float = 1.0) -> Iterator[Terms]:
    """Within, calls of a network count Omega, and their way back adds its gradient to the weights' own.

    What is trained is then the loss + omega.weight * scale * value, where `value()` of what is given tells the value
    after backward(): the sum over layers and directions of means over steps and rows (see `Terms`). Evaluations under
    torch.no_grad() count nothing.

    Errors   RefoldError: the network has no rf.Recurrent, nor one of rf.nn's layers; settings that are none
    Example
        with rf.regularised(network, rf.Omega(weight=4.0)) as terms:
            loss(network(x), d).backward()
        print(terms.value())
    """
    terms = Terms(omega, scale)
    layers = [m for m in network.modules() if isinstance(m, Counting)]
    if not layers:
        fact = f"{type(network).__name__} has no rf.Recurrent and none of rf.nn's layers"
        raise RefoldError(fact, "build it with one, or leave Omega out", "regularised")
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(layer.counting(terms))
        yield terms
