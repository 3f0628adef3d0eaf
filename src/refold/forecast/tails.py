"""Distribution functions that torch lacks, and their inverses: Student's t, negative binomial, Poisson.

Shapes  every argument is a float64 tensor; they are broadcast against each other.

Source  the continued fraction of the incomplete beta function: NIST DLMF 8.17.22, evaluated by the
        modified Lentz method (Press et al. 2007, 6.4).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# The fraction needs about sqrt(max(a, b)) terms: enough for counts up to some millions.
_TERMS = 5000
_CLOSE = 1e-14
_TINY = 1e-300


def beta_share(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """The regularised incomplete beta function I_x(a, b), for 0 <= x <= 1."""
    a, b, x = torch.broadcast_tensors(a, b, x)
    far = x > (a + 1) / (a + b + 2)  # the fraction converges fast below, so mirror what is above
    a, b = torch.where(far, b, a), torch.where(far, a, b)
    x = torch.where(far, 1 - x, x)
    log_front = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
    log_front = log_front + torch.xlogy(a, x) + b * torch.log1p(-x)
    share = (log_front.exp() * _fraction(a, b, x) / a).clamp(0.0, 1.0)
    return torch.where(far, 1 - share, share)


def _fraction(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    c = torch.ones_like(x)
    d = 1 / _apart(1 - (a + b) * x / (a + 1))
    found = d
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _apart(1 + term * d)
            c = _apart(1 + term / c)
            found = found * d * c
        if ((d * c - 1).abs() < _CLOSE).all():
            break
    return found


def _apart(x: Tensor) -> Tensor:
    """x, kept away from zero."""
    return torch.where(x.abs() < _TINY, _TINY, x)


# Student's t


def student_share(t: Tensor, freedom: Tensor) -> Tensor:
    """P(T <= t) for `freedom` degrees of freedom."""
    half = torch.full_like(freedom, 0.5)
    outside = 0.5 * beta_share(freedom / 2, half, freedom / (freedom + t.square()))
    return torch.where(t > 0, 1 - outside, outside)


def student_quantile(share: Tensor, freedom: Tensor) -> Tensor:
    """t with P(T <= t) = share, 0 < share < 1."""
    share, freedom = torch.broadcast_tensors(share, freedom)
    tail = torch.minimum(share, 1 - share)

    def short(t: Tensor) -> Tensor:  # of the upper half
        return student_share(-t, freedom) > tail

    low, high = _bracket(short, torch.ones_like(share))
    for _ in range(12):
        middle = 0.5 * (low + high)
        below = short(middle)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    away = 0.5 * (low + high)
    for _ in range(4):  # Newton, from within a thousandth
        away = away + (student_share(-away, freedom) - tail) / _student_density(away, freedom)
    side = torch.sign(share - 0.5)
    return side * away


def _student_density(t: Tensor, freedom: Tensor) -> Tensor:
    constant = torch.lgamma((freedom + 1) / 2) - torch.lgamma(freedom / 2)
    constant = constant - 0.5 * torch.log(torch.pi * freedom)
    return torch.exp(constant - 0.5 * (freedom + 1) * torch.log1p(t.square() / freedom))


# Counts


def poisson_share(k: Tensor, mean: Tensor) -> Tensor:
    """P(K <= k); 0 for negative k."""
    found = torch.special.gammaincc((k + 1).clamp(min=_CLOSE), mean)
    return torch.where(k < 0, 0.0, found)


def negative_binomial_share(k: Tensor, mean: Tensor, dispersion: Tensor) -> Tensor:
    """P(K <= k) for a variance of mean + dispersion mean²; 0 for negative k."""
    size = 1 / dispersion
    found = beta_share(size, (k + 1).clamp(min=1.0), size / (size + mean))
    return torch.where(k < 0, 0.0, found)


def count_quantile(share: Tensor, share_of: Callable[[Tensor], Tensor], mean: Tensor) -> Tensor:
    """The smallest whole k with share_of(k) >= share."""
    share, mean = torch.broadcast_tensors(share, mean)

    def short(k: Tensor) -> Tensor:
        return share_of(k) < share

    low, high = _bracket(short, mean.ceil().clamp(min=1.0))
    low = torch.where(low == 0, -1.0, low)  # P(K <= low) < share, P(K <= high) >= share
    while bool((high - low > 1).any()):
        middle = ((low + high) / 2).floor()
        below = short(middle)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high


def _bracket(short: Callable[[Tensor], Tensor], high: Tensor) -> tuple[Tensor, Tensor]:
    """Double the upper end wherever it falls short of what is looked for."""
    low = torch.zeros_like(high)
    while bool((below := short(high)).any()):
        low, high = torch.where(below, high, low), torch.where(below, 2 * high, high)
    return low, high
