"""Families of distributions that a forecast can have, step by step: how they are spread, their loss
and their quantiles.

A network gives each step a centre, and a family some *spreads* beside it. The parameters of a step are
(centre, spreads...), all but those of counts in the transformed units of the network. Spreads come
from numbers without limits through a softplus, in units of what the naive forecast is expected to err
by, and begin where the errors of a normal distribution would be.

Shapes  parameters (..., H, 1 + spreads), what comes (..., H).

The *score* of a value is where it lies in its distribution: 0 at the centre, and roughly standard
normal. It is what conformal calibration counts, and what paths are made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

from . import tails

# The deviation of a normal distribution whose mean absolute error is 1.
_DEVIATION = math.sqrt(math.pi / 2)
# The least deviation, in expected errors: a density without a width has no logarithm.
_LEAST = 1e-3
# Less is Poisson to a millionth, and 1 / dispersion must stay a number that lgamma can tell apart.
_LEAST_DISPERSION = 1e-6
# A value further out than any distribution reaches still has a finite score.
_FURTHEST_SHARE = 1e-15

LEVELS = (.005, .025, .05, .1, .2, .3, .4, .5, .6, .7, .8, .9, .95, .975, .995)  # fmt: skip
_MIDDLE = len(LEVELS) // 2


class Measure(Protocol):
    """What the series say of z: how far it is off, and which count it stands for."""

    def errors(self, z: Tensor, goal: Tensor) -> Tensor:
        """The absolute error, in the units of the point forecast's loss."""
        ...

    def count(self, z: Tensor) -> Tensor:
        """z as a number of things, above 0."""
        ...


class Family(Protocol):
    """A family. counts: are the centre and what comes numbers of things?"""

    @property
    def spreads(self) -> int: ...

    @property
    def counts(self) -> bool: ...

    def spread(self, raw: Tensor, expected: Tensor) -> Tensor:
        """The spreads, from numbers without limits (..., H, spreads), 0 at the start."""
        ...

    def loss(self, parameters: Tensor, goal: Tensor, measure: Measure) -> Tensor:
        """For every step (..., H); goal is in the units of the network."""
        ...

    def quantile(self, parameters: Tensor, share: Tensor) -> Tensor:
        """The value that this share lies below."""
        ...

    def at(self, parameters: Tensor, score: Tensor) -> Tensor:
        """The value with this score."""
        ...

    def score(self, parameters: Tensor, value: Tensor, chance: Tensor) -> Tensor:
        """The score of a value. chance: uniform in [0, 1], to place it within its own probability."""
        ...


def positive(raw: Tensor) -> Tensor:
    """A softplus that is 1 at 0."""
    return softplus(raw + math.log(math.e - 1))


# Distributions with a centre and a scale


@dataclass(frozen=True, slots=True)
class Normal:
    """centre and deviation."""

    spreads: int = 1
    counts: bool = False

    def spread(self, raw: Tensor, expected: Tensor) -> Tensor:
        return expected[..., None] * (_DEVIATION * positive(raw) + _LEAST)

    def loss(self, parameters: Tensor, goal: Tensor, measure: Measure) -> Tensor:
        centre, scale = parameters.unbind(-1)
        away = (goal - centre) / scale
        return 0.5 * away.square() + scale.log() + 0.5 * math.log(2 * math.pi)

    def quantile(self, parameters: Tensor, share: Tensor) -> Tensor:
        return self.at(parameters, torch.special.ndtri(share))

    def at(self, parameters: Tensor, score: Tensor) -> Tensor:
        return parameters[..., 0] + parameters[..., 1] * score

    def score(self, parameters: Tensor, value: Tensor, chance: Tensor) -> Tensor:
        return (value - parameters[..., 0]) / parameters[..., 1]


@dataclass(frozen=True, slots=True)
class Student(Normal):
    """centre, scale and degrees of freedom, above 2: there is a variance."""

    spreads: int = 2

    def spread(self, raw: Tensor, expected: Tensor) -> Tensor:
        scale = expected * (positive(raw[..., 0]) + _LEAST)
        freedom = 2 + _LEAST + softplus(raw[..., 1] + 5)
        return torch.stack([scale, freedom], dim=-1)

    def loss(self, parameters: Tensor, goal: Tensor, measure: Measure) -> Tensor:
        centre, scale, freedom = parameters.unbind(-1)
        away = torch.log1p(((goal - centre) / scale).square() / freedom)
        constant = torch.lgamma(freedom / 2) - torch.lgamma((freedom + 1) / 2)
        constant = constant + 0.5 * torch.log(math.pi * freedom)
        return constant + scale.log() + 0.5 * (freedom + 1) * away

    def quantile(self, parameters: Tensor, share: Tensor) -> Tensor:
        return self.at(parameters, tails.student_quantile(share, parameters[..., 2]))


# Quantiles


@dataclass(frozen=True, slots=True)
class Quantiles:
    """The median, and the distances between quantiles of LEVELS, from it upwards and downwards.

    No distance is negative, so they cannot cross. In between, and beyond the outermost, a quantile
    is linear in the quantile of the standard normal distribution.
    """

    spreads: int = len(LEVELS) - 1
    counts: bool = False

    def spread(self, raw: Tensor, expected: Tensor) -> Tensor:
        knots = _knots(expected)
        up, down = knots[_MIDDLE:].diff(), knots[: _MIDDLE + 1].diff().flip(0)
        return expected[..., None] * _DEVIATION * torch.cat([up, down]) * positive(raw)

    def loss(self, parameters: Tensor, goal: Tensor, measure: Measure) -> Tensor:
        """The mean pinball loss, each level with its share: half of it would be a CRPS."""
        found, goal = self._values(parameters), goal[..., None]
        level = torch.tensor(LEVELS, dtype=found.dtype)
        edges = torch.cat([level.new_zeros(1), (level[1:] + level[:-1]) / 2, level.new_ones(1)])
        side = torch.where(goal > found, level, 1 - level)
        return (2 * side * edges.diff() * measure.errors(found, goal)).sum(dim=-1)

    def quantile(self, parameters: Tensor, share: Tensor) -> Tensor:
        return self.at(parameters, torch.special.ndtri(share))

    def at(self, parameters: Tensor, score: Tensor) -> Tensor:
        values, knots = self._values(parameters), _knots(score)
        score, _ = torch.broadcast_tensors(score, values[..., 0])
        left = (torch.searchsorted(knots, score.contiguous()) - 1).clamp(0, len(knots) - 2)
        shape = (*score.shape, len(knots))
        return _line(score, knots.expand(shape), values.expand(shape), left)

    def score(self, parameters: Tensor, value: Tensor, chance: Tensor) -> Tensor:
        values = self._values(parameters)
        left = torch.searchsorted(values.contiguous(), value[..., None].contiguous())[..., 0] - 1
        left = left.clamp(0, len(LEVELS) - 2)
        return _line(value, values, _knots(values).expand(values.shape), left)

    def _values(self, parameters: Tensor) -> Tensor:
        """The quantiles of LEVELS: (..., H, levels)."""
        centre = parameters[..., :1]
        up = centre + parameters[..., 1 : _MIDDLE + 1].cumsum(-1)
        down = centre - parameters[..., _MIDDLE + 1 :].cumsum(-1)
        return torch.cat([down.flip(-1), centre, up], dim=-1)


def _knots(like: Tensor) -> Tensor:
    """The scores of LEVELS."""
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    return torch.special.ndtri(levels).to(like.dtype)


def _line(x: Tensor, xs: Tensor, ys: Tensor, left: Tensor) -> Tensor:
    """Through the points (xs, ys), each (..., K), from the one at `left` to the next and beyond."""
    x0, x1, y0, y1 = (
        each.gather(-1, (left + more)[..., None])[..., 0] for each in (xs, ys) for more in (0, 1)
    )
    # Points in one place have no slope between them.
    return y0 + (x - x0) * (y1 - y0) / (x1 - x0).clamp(min=1e-12)


# Counts


@dataclass(frozen=True, slots=True)
class Poisson:
    """The mean, which is the variance."""

    spreads: int = 0
    counts: bool = True

    def spread(self, raw: Tensor, expected: Tensor) -> Tensor:
        return raw

    def loss(self, parameters: Tensor, goal: Tensor, measure: Measure) -> Tensor:
        mean, k = _counted(parameters, goal, measure)
        return (mean - torch.xlogy(k, mean) + torch.lgamma(k + 1)).float()

    def quantile(self, parameters: Tensor, share: Tensor) -> Tensor:
        mean = parameters[..., 0]
        return tails.count_quantile(share, lambda k: self._share(parameters, k), mean)

    def at(self, parameters: Tensor, score: Tensor) -> Tensor:
        share = torch.special.ndtr(score)
        return self.quantile(parameters, share.clamp(_FURTHEST_SHARE, 1 - _FURTHEST_SHARE))

    def score(self, parameters: Tensor, value: Tensor, chance: Tensor) -> Tensor:
        below, upto = self._share(parameters, value - 1), self._share(parameters, value)
        share = below + chance * (upto - below)
        return torch.special.ndtri(share.clamp(_FURTHEST_SHARE, 1 - _FURTHEST_SHARE))

    def _share(self, parameters: Tensor, k: Tensor) -> Tensor:
        return tails.poisson_share(k, parameters[..., 0])


@dataclass(frozen=True, slots=True)
class NegativeBinomial(Poisson):
    """The mean and the dispersion: a variance of mean + dispersion mean²."""

    spreads: int = 1

    def spread(self, raw: Tensor, expected: Tensor) -> Tensor:
        return 0.5 * positive(raw) + _LEAST_DISPERSION

    def loss(self, parameters: Tensor, goal: Tensor, measure: Measure) -> Tensor:
        mean, k = _counted(parameters, goal, measure)
        dispersion = parameters[..., 1].double()
        size, more = 1 / dispersion, dispersion * mean
        choices = torch.lgamma(size + k) - torch.lgamma(size) - torch.lgamma(k + 1)
        found = size * torch.log1p(more) - choices + k * (torch.log1p(more) - more.log())
        return found.float()

    def _share(self, parameters: Tensor, k: Tensor) -> Tensor:
        return tails.negative_binomial_share(k, parameters[..., 0], parameters[..., 1])


def _counted(parameters: Tensor, goal: Tensor, measure: Measure) -> tuple[Tensor, Tensor]:
    """The mean, and the count that came. lgamma of large counts needs all digits of a double."""
    k = measure.count(goal.double()).round()
    return measure.count(parameters[..., 0].double()), k


FAMILIES: Mapping[str, Callable[[], Family]] = {
    "quantiles": Quantiles,
    "normal": Normal,
    "student": Student,
    "negative_binomial": NegativeBinomial,
    "poisson": Poisson,
}
HEADS = ("point", *FAMILIES)
