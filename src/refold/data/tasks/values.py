"""Tasks over numbers: the two adding problems and the multi-lag sine."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from refold.data.batch import Batch, Sequences
from refold.errors import DataError

from .record import Task, positive


def adding_1997(*, tolerance: float = 0.04) -> Task:
    """The adding problem as it was first set: values in [-1, 1], target 0.5 + (X1 + X2) / 4.

    Each sequence has T to T + T/10 pairs (value, marker). The marker is 1 at two pairs: one of the
    first ten, then one of the first T/2 - 1 that are left; -1 at the first and the last pair, else
    0. Where the first pair is chosen, its marker stays -1 and its value counts as 0: the paper says
    so for X1, and here it holds for X2 too.

    Source  Hochreiter & Schmidhuber 1997, experiment 4.
    """
    positive(tolerance, "tolerance", "adding-1997")

    def draw(count: int, length: int, random: torch.Generator) -> Sequences:
        steps = length + torch.randint(length // 10 + 1, (count,), generator=random)
        values = 2 * torch.rand(count, int(steps.max()), generator=random) - 1
        rows = torch.arange(count)
        first = torch.randint(10, (count,), generator=random)
        second = torch.randint(length // 2 - 1, (count,), generator=random)
        second = second + (second >= first)  # the first pair that was marked is left out
        marks = torch.zeros_like(values)
        marks[rows, first] = marks[rows, second] = 1
        marks[:, 0] = marks[rows, steps - 1] = -1
        counted = torch.where(marks == 1, values, 0).sum(1)
        pairs = torch.stack([values, marks], -1)
        x = [pairs[row, :number] for row, number in enumerate(steps.tolist())]
        return Sequences(x, list((0.5 + counted / 4).unsqueeze(1)))

    return Task(
        name="adding-1997",
        about="the sum of two marked values of T to T + T/10, scaled to [0, 1]",
        source="Hochreiter & Schmidhuber 1997, experiment 4",
        criterion=f"an error below {tolerance:g}, for 2,000 sequences in a row",
        published="solved by an LSTM of two blocks of two cells; no number is quoted here",
        inputs=2,
        outputs=1,
        loss="squared",
        shape="many-to-one",
        lengths=(100, 100),
        shortest=11,
        draw=draw,
        right=_within(tolerance),
        memoryless=lambda length: (1.9 - 0.9 / (length // 2 - 1)) / 48,
        formula="(1.9 - 0.9 / (T/2 - 1)) / 48",
        wrong=1 / 2000,
        trials=2000,
    )


def adding_uniform(*, tolerance: float = 0.04) -> Task:
    """The adding problem of later papers: values in [0, 1], one marked in each half, their sum.

    Without memory the sum of two uniform numbers is guessed as 1, with an error of 1/6 = 0.167.

    Source  Le, Jaitly & Hinton 2015; Arjovsky, Shah & Bengio 2016; the tolerance is Hochreiter &
    Schmidhuber's, the share that Pascanu et al. 2013 ask for.
    """
    positive(tolerance, "tolerance", "adding-uniform")

    def draw(count: int, length: int, random: torch.Generator) -> Sequences:
        values = torch.rand(count, length, generator=random)
        rows, half = torch.arange(count), length // 2
        marks = torch.zeros_like(values)
        marks[rows, torch.randint(half, (count,), generator=random)] = 1
        marks[rows, torch.randint(half, length, (count,), generator=random)] = 1
        total = (values * marks).sum(1, keepdim=True)
        return Sequences(list(torch.stack([values, marks], -1)), list(total))

    return Task(
        name="adding-uniform",
        about="the sum of two marked values of T, one in each half",
        source="Le, Jaitly & Hinton 2015; Arjovsky, Shah & Bengio 2016",
        criterion=f"an error below {tolerance:g}, fewer than 1 % of 10,000 sequences wrong "
        "(as Pascanu et al. 2013 count); the sources show the squared error beside 0.167",
        published="curves of the squared error; no mark is set",
        inputs=2,
        outputs=1,
        loss="squared",
        shape="many-to-one",
        lengths=(100, 100),
        shortest=2,
        draw=draw,
        right=_within(tolerance),
        memoryless=lambda length: 1 / 6,
        formula="1/6",
    )


def multi_lag_sine(*, lags: tuple[int, ...] = (5, 10, 20), nu: float = math.pi) -> Task:
    """The mean of sines of the noise at several lags: d(t) = 1/K sum_k sin(nu x(t - lag_k)).

    x is uniform in [-1, 1] and independent from step to step, so that nothing but memory helps.
    Steps before the longest lag do not count. The name has no published definition that we know
    of; this one extends, from one lag to several, the task y(t) = sin(nu s(t - tau)) of the source.

    Source  after Inubushi & Yoshimura 2017 (one lag).

    Errors  DataError for lags that are not whole numbers from 0.
    """
    given = lags if isinstance(lags, tuple | list) else ()
    if not given or not all(isinstance(lag, int) and lag >= 0 for lag in given):
        remedy = "give whole numbers from 0, such as (5, 10, 20)"
        raise DataError(f"lags is {lags!r}", remedy, "multi-lag-sine")
    positive(nu, "nu", "multi-lag-sine")
    most = max(lags)

    def draw(count: int, length: int, random: torch.Generator) -> Sequences:
        x = 2 * torch.rand(count, length, generator=random) - 1
        sines = torch.sin(nu * x)
        late = [sines[:, most - lag : length - lag] for lag in lags]
        d = torch.zeros_like(x)
        d[:, most:] = torch.stack(late).mean(0)
        mask = torch.arange(length) >= most
        return Sequences(list(x.unsqueeze(-1)), list(d.unsqueeze(-1)), [mask] * count)

    power = 0.5 - math.sin(2 * nu) / (4 * nu)
    guess = power / len(lags)

    def right(y: Tensor, batch: Batch) -> Tensor:
        assert batch.d is not None and batch.mask is not None
        counted = batch.mask.unsqueeze(-1)
        wrong = torch.where(counted, (y - batch.d) ** 2, 0).sum((0, 2))
        return wrong < 0.1 * guess * batch.mask.sum(0)

    return Task(
        name="multi-lag-sine",
        about=f"the mean of the sines of the noise {', '.join(map(str, lags))} steps ago, T steps",
        source="after Inubushi & Yoshimura 2017, with several lags",
        criterion="a squared error below a tenth of the memoryless one, fewer than 1 % of 10,000 "
        "sequences wrong (a mark of our own)",
        published="none: the task in this form is our own",
        inputs=1,
        outputs=1,
        loss="squared",
        shape="many-to-many",
        lengths=(100, 100),
        shortest=most + 1,
        draw=draw,
        right=right,
        memoryless=lambda length: guess,
        formula="(1/2 - sin(2 nu) / (4 nu)) / K",
        begins=True,
    )


def _within(tolerance: float) -> Callable[[Tensor, Batch], Tensor]:
    def right(y: Tensor, batch: Batch) -> Tensor:
        assert batch.d is not None
        return ((y - batch.d).abs() < tolerance).all(-1)

    return right
