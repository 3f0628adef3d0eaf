"""The network's dynamics: one system, on one set of data, and all that can be asked of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from refold.errors import DataError
from refold.nn.layer import Recurrent
from refold.nn.wiring import Network
from refold.train.errors import Loss
from refold.train.gradients.lags import lag_curve

from .bifurcation import Bifurcation, events
from .lyapunov import Lyapunov, lyapunov
from .memory import Memory, memory
from .ode import Ode, ode
from .points import Points, points
from .portrait import Portrait, portrait
from .spectrum import Spectrum, spectrum
from .system import System, jacobians
from .unfolded import UNFOLDED, Unfolded, unfolded
from .verdict import Verdict, verdict

STEPS = 10_000  # of a free run, where none are given
STARTS = 256
LAGS = 100
FOLLOW = 500  # steps of the runs from the starts, where no number is given


@dataclass(frozen=True, slots=True, eq=False)
class Dynamics:
    """A map h -> F(h, x), and the states that it is looked at from.

    system  the map; x: the data that drive it, (T, R, m), or None; start: the states before, (R, N)
    dt      the time that a step takes
    module  the network or layer it was made of, None for a function
    remake  gives the same with another value of a parameter, for `bifurcation`
    given_state  whether the start is the user's own
    """

    system: System
    x: Tensor | None
    start: Tensor
    dt: float
    module: nn.Module | None
    remake: Callable[[str, float], Dynamics]
    given_state: bool

    # Along a run ------------------------------------------------------------------------------------------------------

    def states(self, steps: int | None = None) -> Tensor:
        """The states of a run, (T + 1, R, N), the start first: along the data, or free for so many steps."""
        x = self._along(steps)
        return torch.cat([self.start.unsqueeze(0), self.system.run(self.start, x)])

    def jacobians(self, states: Any = None, x: Any = None) -> Tensor:
        """dF/dh at states (R, N), (R, N, N), with an input (m,) or (R, m), 0 where none is given."""
        h = self.start if states is None else self._rows(states)
        return jacobians(self.system, h, self._held(x))

    def lyapunov(
        self, k: int | None = None, *, steps: int | None = None, warm_up: int | None = None
    ) -> Lyapunov:
        """The k largest Lyapunov exponents: along the data, or of a free run of so many steps (10,000).

        warm_up  steps at first that are left out, a tenth of all where it is not given. Without k all exponents are
                 found where the state has up to 16 numbers, else the 8 largest

        Errors  DataError for a k or a warm-up that cannot be, and for states that leave the finite numbers
        """
        x = self._along(steps)
        number = (self.system.size if self.system.size <= 16 else 8) if k is None else k
        left = len(x) // 10 if warm_up is None else warm_up
        driven = self.x is not None
        return lyapunov(self.system, self.start, x, number, left, self.dt, driven)

    def memory(self, d: Any = None, *, lags: int | None = None, loss: Loss = "squared") -> Memory:
        """What is left of a change of the state, or of a gradient, after each lag, at the last step of the data.

        d     a target for the data: the gradients dE(t)/dh(k) of this error are then measured too (`rf.lag_curve`)
        lags  how far back, 100 where the data are as long

        Errors  DataError for lags longer than the run, and for a target without a network or data
        """
        x = self._along(None if self.x is not None else lags or LAGS)
        error = None if d is None else lag_curve(*self._of_the_user(d), loss)
        number = min(LAGS, len(x)) if lags is None else lags
        return memory(self.system, self._before(x), x, number, error)

    def unfolded(self, steps: int | None = None) -> Unfolded:
        """What a change at one step is felt as at another, over the last steps of the first row: see `Unfolded`."""
        x = self._along(None if self.x is not None else steps or UNFOLDED)
        number = min(UNFOLDED, len(x)) if steps is None else steps
        return unfolded(self.system, self._before(x), x, number)

    def verdict(self, lags: int | None = None) -> Verdict:
        """Whether gradients vanish, explode, or neither, how certain that is, and what to try.

        A fall to less than 1/100 over the lags (100, or as many as the data have) is called vanishing, a growth to more
        than 100 times exploding.
        """
        alone = self.x is None and not self.given_state
        x = self._along(None if self.x is not None else lags or LAGS)
        number = min(LAGS, len(x)) if lags is None else lags
        states = None if alone else self._before(x)
        return verdict(self.system, self.start, states, x, number)

    # At a constant input ----------------------------------------------------------------------------------------------

    def spectrum(self, at: Any = None, x: Any = None) -> Spectrum:
        """Eigen- and singular values of the Jacobian at a state (N,), the start where none is given."""
        state = self.start[:1] if at is None else self._rows(at)
        return spectrum(jacobians(self.system, state[:1], self._held(x))[0], state[0])

    def fixed_points(
        self,
        starts: int | Tensor = STARTS,
        x: Any = None,
        *,
        seed: int = 0,
        tolerance: float = 1e-10,
        follow: int = FOLLOW,
    ) -> Points:
        """Where F(h, x) = h at a constant input x (m,), 0 where none is given.

        starts     states (R, N) to look from, or how many: these are drawn from the run along the data or, where there
                   are no data, around the start, each with noise of the run's own spread (of 1 without a run)
        tolerance  of |F(h) - h|, relative to 1 + |h|
        follow     run the system from every start for so many steps: what it comes to rest at is among the points, with
                   the share of the starts that it takes there; 0: leave that out
        """
        return self.cycles(1, starts, x, seed=seed, tolerance=tolerance, follow=follow)

    def cycles(
        self,
        p: int,
        starts: int | Tensor = STARTS,
        x: Any = None,
        *,
        seed: int = 0,
        tolerance: float = 1e-10,
        follow: int = FOLLOW,
    ) -> Points:
        """States that come back after p steps and not before, as `fixed_points`."""
        if isinstance(p, bool) or not isinstance(p, int) or p < 1:
            raise DataError(f"p is {p!r}", "give a whole number of steps, at least 1", "cycles(p)")
        if isinstance(follow, bool) or not isinstance(follow, int) or follow < 0:
            fact = f"follow is {follow!r}"
            raise DataError(fact, "give a whole number of steps, 0 for none", "fixed_points()")
        h = self._starts(starts, seed)
        given = {"period": p, "tolerance": tolerance, "follow": follow}
        return points(self.system, h, self._held(x), **given)  # type: ignore[arg-type]

    def bifurcation(
        self,
        parameter: str,
        values: Sequence[float] | Tensor,
        *,
        x: Any = None,
        starts: int = 32,
        steps: int = 500,
        keep: int = 32,
        exponents: bool = False,
    ) -> Bifurcation:
        """Fixed points, and where long runs end, for each value of a parameter; and the values where they change.

        parameter  of a function: one of its keywords; of a layer: its name in the equation. What has one number is set
                   to the value, an element "W_h[0, 1]" too, and a whole matrix or vector is multiplied by it
        steps      of 8 runs, one from the start and the others from states around it, of which the last `keep` are kept
        exponents  also the largest Lyapunov exponent of the run from the start
        """
        held = [float(v) for v in values]
        found: list[Points] = []
        attractors, largest = [], []
        for value in held:
            made = self.remake(parameter, value)
            found.append(_near(made, starts, found[-1].states if found else None, x))
            h = torch.cat([made.start[:1], made._starts(7, 0)])
            gone = made.system.run(h, made._held(x).expand(steps, len(h), -1))
            attractors.append(gone[-keep:].transpose(0, 1))
            free = Dynamics(made.system, None, made.start[:1], made.dt, None, made.remake, True)
            largest.append(
                float(free.lyapunov(1, steps=steps).exponents) if exponents else math.nan
            )

        def find(value: float, states: Tensor | None) -> Points:
            return _near(self.remake(parameter, value), starts, states, x)

        return Bifurcation(
            parameter,
            torch.tensor(held, dtype=torch.float64),
            tuple(found),
            torch.stack(attractors),
            torch.tensor(largest, dtype=torch.float64),
            events(held, found, find),
        )

    def phase_portrait(self, size: int = 21, x: Any = None, *, margin: float = 0.25) -> Portrait:
        """Where states go in a step, on a grid around the run: along the state's own axes where it has one or two
        numbers, else in the plane of its two principal axes. `margin`: how far beyond the run, as a share of its width.
        """
        runs = self.states(None if self.x is not None else 200)
        return portrait(self.system, runs, self.fixed_points(64, x), self._held(x), size, margin)

    def ode(self, method: str = "exact", at: Any = None, x: Any = None) -> Ode:
        """The network as a differential equation, at a state (N,) (the start) and a constant input: see `ode.Ode`.

        method  "exact", "tustin", "taylor" or "euler"

        Errors  RefoldError, with the reason, where there is none
        """
        state = self.start[0] if at is None else self._rows(at)[0]
        return ode(self.system, state, self._held(x), method, self.dt)

    def __str__(self) -> str:
        driven = (
            "no data"
            if self.x is None
            else f"data of {len(self.x)} steps, {self.x.shape[1]} row(s)"
        )
        return f"{self.system.name}: {self.order}; {driven}\n{self.verdict()}"

    # What is given ----------------------------------------------------------------------------------------------------

    def _along(self, steps: int | None) -> Tensor:
        """The inputs of a run, (T, R, m)."""
        if self.x is None:
            number = STEPS if steps is None else steps
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                fact = f"a run of {number!r} steps is asked for"
                raise DataError(fact, "give a whole number, at least 1", "rf.dynamics(...)")
            return self.start.new_zeros(number, len(self.start), self.system.inputs)
        if steps is not None and not 0 < steps <= len(self.x):
            fact = f"steps is {steps}, and the data have {len(self.x)}"
            raise DataError(fact, "leave steps out, or ask for fewer", "rf.dynamics(x=...)")
        return self.x[:steps]

    def _before(self, x: Tensor) -> Tensor:
        """The states before each step of a run, (T, R, N)."""
        return torch.cat([self.start.unsqueeze(0), self.system.run(self.start, x)[:-1]])

    def _of_the_user(self, d: Any) -> tuple[Any, Tensor, Tensor]:
        """The network and its data as the user has them, for what trains it."""
        module = self.module
        known = isinstance(module, Network | Recurrent)
        if self.x is None or not known or self.given_state:
            lacking = "there are no data" if self.x is None else "the start is the user's own"
            fact = f"a target is given, and {lacking if known else 'no rf.Network or rf.Recurrent'}"
            remedy = "give rf.dynamics a network and x alone, or call rf.lag_curve itself"
            raise DataError(fact, remedy, "memory(d)")
        return module, self.x.to(next(module.parameters())), torch.as_tensor(d)

    def _held(self, x: Any) -> Tensor:
        """A constant input, (1, m) or (R, m)."""
        inputs = self.system.inputs
        if x is None:
            return self.start.new_zeros(1, inputs)
        held = torch.as_tensor(x, dtype=torch.float64)
        if not inputs:
            fact = f"an input is given, and {self.system.name} reads none"
            raise DataError(fact, "leave x out", "x=...")
        if held.ndim not in (1, 2) or held.shape[-1] != inputs:
            fact = f"the input has the shape {tuple(held.shape)}, and {self.system.name} reads {inputs} features"
            raise DataError(fact, f"give ({inputs},), one input that is held", "x=...")
        return held.reshape(-1, inputs)

    def _rows(self, states: Any) -> Tensor:
        rows = torch.as_tensor(states, dtype=torch.float64)
        rows = rows.unsqueeze(0) if rows.ndim < 2 else rows
        if rows.ndim != 2 or rows.shape[-1] != self.system.size:
            fact = f"states have the shape {tuple(rows.shape)}, and each has {self.system.size} numbers"
            raise DataError(fact, f"give (N,) or (R, N), in the order {self.order}", "states")
        return rows

    def _starts(self, starts: int | Tensor | Sequence[float], seed: int) -> Tensor:
        if not isinstance(starts, int):
            return self._rows(starts)
        random = torch.Generator().manual_seed(seed)
        along = self.start if self.x is None else self.states().flatten(0, 1)
        spread = along.std(0) if len(along) > 1 else torch.ones_like(along[0])
        spread = torch.where(spread > 0, spread, 1.0)
        chosen = along[torch.randint(len(along), (starts,), generator=random)]
        noise = torch.randn(starts, self.system.size, generator=random, dtype=torch.float64)
        return chosen + spread * noise

    @property
    def order(self) -> str:
        """The states in the order in which they lie in a row, with their sizes."""
        return ", ".join(f"{part.label} ({part.size})" for part in self.system.parts)


def _near(dynamics: Dynamics, starts: int, states: Tensor | None, x: Any) -> Points:
    """Fixed points, looked for around the start and around states that are known."""
    drawn = dynamics._starts(starts, 0)
    if states is not None and len(states):
        random = torch.Generator().manual_seed(1)
        noise = torch.randn(len(states), states.shape[1], generator=random, dtype=states.dtype)
        drawn = torch.cat([drawn, states, states + 0.1 * noise])
    return dynamics.fixed_points(drawn, x, follow=0)
