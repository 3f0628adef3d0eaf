"""Vanish, explode or neither: guaranteed by the equation, measured on the data, or possible.

The spectral radius alone is no diagnosis. Of h(t) = relu(W h(t-1)) with W = [[1.5, 1], [-1.5, -0.9]] it is 0.387, and
from (1, 0) the state grows to 1.5^20 = 3325 in 20 steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from refold.errors import EquationError
from refold.ir.gates import keeping

from .bounds import bounds
from .folded import Folded
from .gains import gains
from .memory import memory
from .points import ON_CIRCLE
from .spectrum import spectrum
from .system import System, jacobians

MARGIN = 1e-6  # below 1 for a spectral radius that is a guarantee, so that rounding makes none
FACTOR = 100.0  # a gradient that falls below 1 / 100 of itself over the lags vanishes, above 100 times it explodes


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """kind: "vanish", "explode", "neither"; certainty: "guaranteed" by the equation, "measured" on the data (or from
    the given state), "possible": seen from random states without data.

    holds    where it is guaranteed: "always", for any state and input; "in the range", from the start on for inputs
             within the range of the data, in whatever order; "from the start", of a network that reads nothing; or ""
    gain     the bound of |dh(t)/dh(t-1)| for any state and input, the largest of the layers; inf where there is none
    radius   the spectral radius of the Jacobian at the start, which decides only where the network is linear
    change   what a gradient was multiplied with over the lags, NaN where nothing was measured
    """

    kind: str
    certainty: str
    gain: float
    radius: float
    change: float
    lags: int
    sentence: str
    holds: str = ""

    def __str__(self) -> str:
        return self.sentence


def verdict(system: System, start: Tensor, states: Tensor | None, x: Tensor, lags: int) -> Verdict:
    """states (T, R, N) of a run over x (T, R, m); None: there are no data, and random states are tried."""
    folded = isinstance(system, Folded)
    bound = max(gains(system)) if folded else math.inf
    jacobian = jacobians(system, start[:1], x[0, :1])[0]
    radius = float(torch.linalg.eigvals(jacobian).abs().max())
    if folded and system.constant:
        return _linear(system, jacobian, start[0], bound, radius)
    if isinstance(system, Folded) and bound < 1:
        told = f"no state and no input can make |dh(t)/dh(t-1)| larger than {bound:.3g}"
        if (
            len(system.levels) > 1
        ):  # between layers it may be, but only by so many powers of the lag
            told += " within any layer, so every gradient falls in the end"
        else:
            told += f", so of a gradient at most {bound**lags:.2g} is left after {lags} steps"
        made = _made("vanish", "guaranteed", bound, radius, math.nan, lags, told, system)
        return replace(made, holds="always")
    if isinstance(system, Folded):
        told, holds = _within_range(system, start if states is not None else None, x, lags)
        if told:
            made = _made("vanish", "guaranteed", bound, radius, math.nan, lags, told, system)
            return replace(made, holds=holds)
    certain = "measured" if states is not None else "possible"
    if states is None:
        states, x = _tried(system, start, x, lags)
    changes = memory(system, states, x, lags, None).rows[lags]
    change = float(changes.median())
    if certain == "possible" and float(changes.max()) > FACTOR:
        change = float(changes.max())
    kind = "vanish" if change < 1 / FACTOR else "explode" if change > FACTOR else "neither"
    where = "on these data" if certain == "measured" else "from random states, without data,"
    told = f"{where} a gradient is multiplied with {change:.3g} over {lags} steps ({_rate(change, lags)} nats a step)"
    return _made(kind, certain, bound, radius, change, lags, told, system)


def _within_range(system: Folded, start: Tensor | None, x: Tensor, lags: int) -> tuple[str, str]:
    """What is told, and where it holds, of gradients that vanish along every run; nothing where that is not known.

    start  None: there are no data, and any state and input is meant
    """
    low, high = x.amin((0, 1)), x.amax((0, 1))
    if start is None:
        low, high = torch.full_like(low, -math.inf), torch.full_like(high, math.inf)
    found = bounds(system, start, (low, high))
    if not found or max(bound.radius for bound in found) > 1 - MARGIN:
        return "", ""
    if start is None:
        run, holds = "no run, from one step after any start on,", "always"
    elif not system.inputs:
        run, holds = "no run from the start", "from the start"
    else:
        ends = f"{float(low.min()):.3g} to {float(high.max()):.3g}"
        run = f"no run from the start with inputs in the range of the data ({ends})"
        holds = "in the range"
    left = [b.left(lags) for b in found]
    if len(left) > 1:
        return f"{run} keeps a gradient for good within any layer", holds
    return (
        f"{run} leaves more than {left[0]:.2g} of a gradient after {lags} steps",
        holds,
    )


def _linear(system: System, jacobian: Tensor, h: Tensor, bound: float, radius: float) -> Verdict:
    """The Jacobian is the same everywhere: here eigenvalues do decide."""
    found = spectrum(jacobian, h)
    told = f"the network is linear with spectral radius {radius:.4g}"
    if radius > 1 + ON_CIRCLE:
        kind, told = (
            "explode",
            f"{told}, and a gradient grows by {math.log(radius):.3g} nats a step",
        )
    elif radius < 1 - ON_CIRCLE:
        kind = "vanish"
        told += f", and a gradient falls by {-math.log(max(radius, 1e-300)):.3g} nats a step"
        if found.peak > 1:
            told += f", after growing up to {found.growth:.4g} times at step {found.peak}"
    else:
        kind, told = "neither", f"{told}, and its changes grow at most {found.growth:.4g} times"
    made = _made(kind, "guaranteed", bound, radius, math.nan, 0, told, system)
    return replace(made, holds="always")


def _tried(system: System, start: Tensor, x: Tensor, lags: int) -> tuple[Tensor, Tensor]:
    """Runs from random states around the start, the input held at 0."""
    random = torch.Generator().manual_seed(0)
    h = start[:1] + torch.randn(8, system.size, generator=random, dtype=start.dtype)
    held = x.new_zeros(lags, len(h), system.inputs)
    gone = system.run(h, held)
    return torch.cat([h.unsqueeze(0), gone[:-1]]), held


def _rate(change: float, lags: int) -> str:
    return f"{math.log(max(change, 1e-300)) / lags:+.3g}"


def _made(
    kind: str,
    certainty: str,
    bound: float,
    radius: float,
    change: float,
    lags: int,
    told: str,
    system: System,
) -> Verdict:
    sentence = f"{kind}, {certainty}: {told}. {_cure(kind, system)}".rstrip()
    return Verdict(kind, certainty, bound, radius, change, lags, sentence)


def _cure(kind: str, system: System) -> str:
    """What to try first, as the cell allows it."""
    if kind == "neither" or not isinstance(system, Folded):
        return ""
    if kind == "explode":
        return "To try: rf.Fit(clip=rf.Clip(1.0)), and smaller recurrent weights by rf.initialise(network, gain=0.9)."
    try:
        keeping(system.levels[0].equation.cell.graph)
    except EquationError:
        return "To try: rf.initialise(network) for orthogonal weights, rf.Omega in training, or a gated cell."
    return "To try: rf.initialise(network, chrono=T), with T the longest lag that matters."
