"""Three dynamical systems as series: Mackey-Glass, Lorenz and the damped pendulum."""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

from refold.errors import DataError

from .record import whole


def mackey_glass(
    steps: int,
    start: Tensor | float = 1.2,
    *,
    tau: float = 17.0,
    beta: float = 0.2,
    gamma: float = 0.1,
    n: float = 10.0,
    substeps: int = 10,
) -> Tensor:
    """x'(t) = beta x(t - tau) / (1 + x(t - tau)^n) - gamma x(t), once per unit of time.

    Before t = 0, x is `start`. Fourth-order Runge-Kutta in `substeps` a unit; halfway through a
    step the delayed value comes from the cubic through the two values and slopes beside it, so that
    the delay costs no order.

    Shapes  start () or (B,) -> (steps,) or (steps, B), float64; the first is start itself.

    Errors  DataError when the delay is not a whole number of sub-steps.

    Source  Mackey & Glass 1977; tau 17 and 30 after Farmer 1982.
    """
    whole(steps, 1, "steps", "mackey_glass")
    lag = round(tau * substeps)
    if lag < 1 or not math.isclose(lag, tau * substeps):
        fact = f"a delay of {tau:g} is {tau * substeps:g} steps of 1/{substeps}"
        remedy = f"give a tau that is a multiple of 1/{substeps}, or other substeps"
        raise DataError(fact, remedy, "mackey_glass(tau=...)")
    h = 1 / substeps
    x = torch.as_tensor(start, dtype=torch.float64)
    kept, last = [x], None

    def made(x: Tensor) -> Tensor:
        return beta * x / (1 + x**n)

    # What is made from t - tau to t: at the starts of the steps, and halfway through them.
    full, half = deque([made(x)] * (lag + 1), lag + 1), deque([made(x)] * lag, lag)
    for step in range(1, (steps - 1) * substeps + 1):
        k1 = full[0] - gamma * x
        if last is not None:  # only now is the slope at the end of the step before known
            half.append(made((last[0] + x) / 2 + h / 8 * (last[1] - k1)))
        k2 = half[0] - gamma * (x + h / 2 * k1)
        k3 = half[0] - gamma * (x + h / 2 * k2)
        k4 = full[1] - gamma * (x + h * k3)
        last = (x, k1)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        full.append(made(x))
        if step % substeps == 0:
            kept.append(x)
    return torch.stack(kept)


def lorenz(
    steps: int,
    start: Tensor | tuple[float, float, float] = (1.0, 1.0, 1.0),
    *,
    sigma: float = 10.0,
    rho: float = 28.0,
    beta: float = 8 / 3,
    dt: float = 0.02,
    substeps: int = 4,
) -> Tensor:
    """x' = sigma (y - x), y' = x (rho - z) - y, z' = x y - beta z, once every dt.

    Fourth-order Runge-Kutta in `substeps` a sample.

    Shapes  start (..., 3) -> (steps, ..., 3), float64; the first is start itself.

    Source  Lorenz 1963.
    """
    whole(steps, 1, "steps", "lorenz")
    h = dt / substeps
    state = torch.as_tensor(start, dtype=torch.float64)
    kept = [state]

    def slope(state: Tensor) -> Tensor:
        x, y, z = state.unbind(-1)
        return torch.stack([sigma * (y - x), x * (rho - z) - y, x * y - beta * z], -1)

    for step in range(1, (steps - 1) * substeps + 1):
        k1 = slope(state)
        k2 = slope(state + h / 2 * k1)
        k3 = slope(state + h / 2 * k2)
        k4 = slope(state + h * k3)
        state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        if step % substeps == 0:
            kept.append(state)
    return torch.stack(kept)


def pendulum(
    steps: int = 4000,
    *,
    theta: float = 1.0,
    length: float = 100.0,
    g: float = 9.81,
    beta: float = 0.001,
    per_period: int = 400,
) -> Tensor:
    """theta cos(2 pi t / p) exp(-beta t), p = 2 pi sqrt(length / g), at t = 0, p/400, 2p/400 ...

    It is exactly an autoregression of two lags, theta(t) = 2 r cos(w) theta(t - 1) - r^2
    theta(t - 2) with w = 2 pi / 400 and r = exp(-beta p / 400): any network has to be seen beside
    that one.

    Shapes  (steps,), float64.

    Units  length in metres, g in metres per second squared, beta per second, theta in radians.

    Source  the small-angle solution, with a damping that is slow beside the period.
    """
    whole(steps, 1, "steps", "pendulum")
    period = 2 * math.pi * math.sqrt(length / g)
    t = torch.arange(steps, dtype=torch.float64) * (period / per_period)
    return theta * torch.cos(2 * math.pi * t / period) * torch.exp(-beta * t)
