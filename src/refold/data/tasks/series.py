"""Forecasting tasks over three dynamical systems: what comes `gap` + 1 to `gap` + `horizon` steps on?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from refold.data.batch import Batch, Sequences

from .record import Draw, Task, positive, whole
from .systems import lorenz, mackey_glass, pendulum

MARK = "a mean absolute error at most a tenth of the last value's, fewer than 1 % of {} wrong"
# Long enough for a start to be forgotten, in steps: some twenty delays, some ten turns.
MACKEY_GLASS_WASHOUT, LORENZ_WASHOUT = 300, 300
SUBSTEPS = 4  # its error, 1e-8, is below what float32 tells apart
# The attractor about (0, 0, 23.5) with deviations of 7.9, 9.0 and 8.6, brought to the size of one.
LORENZ_CENTRE, LORENZ_UNIT = (0.0, 0.0, 23.5), 8.5
TRAINED = 0.7  # the share of the pendulum's swings that is trained on, as in the source

Path = Callable[
    [int, int, torch.Generator], Tensor
]  # (how many, steps, random) -> (count, steps, k)


def mackey_glass_series(*, tau: float = 17.0, gap: int = 0, horizon: int = 1) -> Task:
    """Mackey-Glass once per unit of time, each sequence from a start of its own on the attractor.

    tau=30 is the harder of the two delays in use.

    Source  Mackey & Glass 1977; Jaeger & Haas 2004.
    """
    mackey_glass(1, tau=tau, substeps=SUBSTEPS)  # refuses a delay that cannot be

    def path(count: int, steps: int, random: torch.Generator) -> Tensor:
        start = 0.5 + torch.rand(count, generator=random, dtype=torch.float64)
        x = mackey_glass(MACKEY_GLASS_WASHOUT + steps, start, tau=tau, substeps=SUBSTEPS)
        return x[MACKEY_GLASS_WASHOUT:].T.unsqueeze(-1)

    about = f"T steps of Mackey-Glass with delay {tau:g}"
    return _series("mackey-glass", about, "Mackey & Glass 1977", path, 1, gap, horizon)


def lorenz_series(*, gap: int = 0, horizon: int = 1, dt: float = 0.02) -> Task:
    """The three coordinates of Lorenz's system every dt, centred and scaled to about one.

    Source  Lorenz 1963.
    """

    positive(dt, "dt", "lorenz")

    def path(count: int, steps: int, random: torch.Generator) -> Tensor:
        centre = torch.tensor(LORENZ_CENTRE, dtype=torch.float64)
        start = centre + torch.randn(count, 3, generator=random, dtype=torch.float64)
        x = lorenz(LORENZ_WASHOUT + steps, start, dt=dt, substeps=SUBSTEPS)[LORENZ_WASHOUT:]
        return ((x - centre) / LORENZ_UNIT).movedim(0, 1)

    return _series(
        "lorenz", f"T steps of {dt:g} of Lorenz's system", "Lorenz 1963", path, 3, gap, horizon
    )


def pendulum_series(*, gap: int = 10, horizon: int = 1) -> Task:
    """Windows of a damped pendulum: 10 periods of 400 samples, trained on the first 70 %.

    What is held out are windows of the last 30 %. Repeating the last value has a mean absolute
    error of 0.0926662 there (gap 10, horizon 1, after 100 steps of history); the autoregression of
    two lags, of 3e-14.

    Source  the small-angle solution; see `pendulum`.
    """
    whole(gap, 0, "gap", "pendulum")
    whole(horizon, 1, "horizon", "pendulum")
    swings = pendulum()
    cut = round(TRAINED * len(swings))

    def windows(part: Tensor) -> Path:
        def path(count: int, steps: int, random: torch.Generator) -> Tensor:
            starts = torch.randint(len(part) - steps + 1, (count,), generator=random)
            return part[starts.unsqueeze(1) + torch.arange(steps)].unsqueeze(-1)

        return path

    longest = len(swings) - cut - gap - horizon
    early, late = windows(swings[:cut]), windows(swings[cut:])
    return _series(
        "pendulum",
        "T steps of a damped pendulum, 400 a period",
        "the small-angle solution",
        early,
        1,
        gap,
        horizon,
        late=late,
        longest=longest,
    )


def last_value(batch: Batch, outputs: int) -> Tensor:
    """The forecast that repeats the last input: what every other one has to beat.

    Shapes  x (T, B, k) -> (T, B, outputs), k values for each step of the horizon.
    """
    return batch.x.repeat(1, 1, outputs // batch.x.shape[-1])


def _series(
    name: str,
    about: str,
    source: str,
    path: Path,
    size: int,
    gap: int,
    horizon: int,
    *,
    late: Path | None = None,
    longest: int | None = None,
) -> Task:
    whole(gap, 0, "gap", name)
    whole(horizon, 1, "horizon", name)
    outputs = size * horizon
    ahead = str(gap + 1) if horizon == 1 else f"{gap + 1} to {gap + horizon}"

    def right(y: Tensor, batch: Batch) -> Tensor:
        ours, theirs = _absolute(y, batch), _absolute(last_value(batch, outputs), batch)
        return ours <= 0.1 * theirs

    return Task(
        name=name,
        about=f"{about}; what is it {ahead} on?",
        source=source,
        criterion=MARK.format("1,000") + " (a mark of our own)",
        published="none by sequence",
        inputs=size,
        outputs=outputs,
        loss="squared",
        shape="many-to-many",
        lengths=(100, 100),
        shortest=1,
        longest=longest,
        draw=_windows(path, gap, horizon),
        right=right,
        trials=1000,
        begins=True,
        draw_held_out=None if late is None else _windows(late, gap, horizon),
    )


def _windows(path: Path, gap: int, horizon: int) -> Draw:
    def draw(count: int, length: int, random: torch.Generator) -> Sequences:
        x = path(count, length + gap + horizon, random).to(torch.float32)
        ahead = [x[:, gap + step : gap + step + length] for step in range(1, horizon + 1)]
        return Sequences(list(x[:, :length]), list(torch.cat(ahead, -1)))

    return draw


def _absolute(y: Tensor, batch: Batch) -> Tensor:
    """The mean absolute error of each sequence."""
    assert batch.d is not None
    inside = torch.arange(len(y)).unsqueeze(1) < batch.lengths
    error = (y - batch.d).abs().mean(-1)
    return torch.where(inside.to(y.device), error, 0).sum(0) / batch.lengths.to(y.device)
