"""Distribution functions: against closed forms, sums of probabilities, and printed tables."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from refold.forecast import tails


def real(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_incomplete_beta_function_where_it_has_a_closed_form():
    x = torch.linspace(0.0, 1.0, 41, dtype=torch.float64)
    one = torch.ones_like(x)
    assert_close(tails.beta_share(3 * one, one, x), x**3, rtol=1e-12, atol=1e-15)
    assert_close(tails.beta_share(one, 4 * one, x), 1 - (1 - x) ** 4, rtol=1e-12, atol=1e-14)
    arc = 2 / math.pi * torch.asin(x.sqrt())
    assert_close(tails.beta_share(0.5 * one, 0.5 * one, x), arc, rtol=1e-12, atol=1e-14)


def test_student_where_it_has_a_closed_form():
    t = torch.linspace(-30, 30, 61, dtype=torch.float64)
    two = torch.full_like(t, 2.0)
    assert_close(tails.student_share(t, two), 0.5 + t / (2 * (2 + t**2).sqrt()), rtol=1e-10, atol=0)
    one = torch.ones_like(t)
    assert_close(tails.student_share(t, one), 0.5 + torch.atan(t) / math.pi, rtol=1e-10, atol=0)


def test_student_quantiles_of_printed_tables():
    found = tails.student_quantile(real(0.975, 0.95, 0.995, 0.5, 0.025), real(5, 10, 3, 4, 5))
    expected = real(2.5705818366, 1.8124611228, 5.8409093097, 0.0, -2.5705818366)
    assert_close(found, expected, rtol=1e-9, atol=1e-12)
    near_normal = tails.student_quantile(real(0.975), real(1e7))
    assert_close(near_normal, real(1.9599639845), rtol=1e-6, atol=0)


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-6, 1 - 1e-6), st.floats(2.001, 500))
def test_a_student_quantile_has_the_share_it_was_asked_for(share, freedom):
    t = tails.student_quantile(real(share), real(freedom))
    assert_close(tails.student_share(t, real(freedom)), real(share), rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize(("mean", "dispersion"), [(0.02, 3.0), (4.0, 0.7), (300.0, 1e-6)])
def test_shares_of_counts_are_sums_of_probabilities(mean, dispersion):
    k, m, a = torch.arange(700, dtype=torch.float64), real(mean), real(dispersion)
    spread = torch.distributions.NegativeBinomial(1 / a, probs=a * m / (1 + a * m))
    summed = spread.log_prob(k).exp().cumsum(0)
    assert_close(tails.negative_binomial_share(k, m, a), summed, rtol=1e-7, atol=1e-9)
    summed = torch.distributions.Poisson(m).log_prob(k).exp().cumsum(0)
    assert_close(tails.poisson_share(k, m), summed, rtol=1e-9, atol=1e-12)
    none = real(-1.0)
    assert float(tails.poisson_share(none, m)) == 0.0
    assert float(tails.negative_binomial_share(none, m, a)) == 0.0


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-6, 1 - 1e-6), st.floats(1e-3, 1e5))
def test_a_quantile_of_counts_is_the_smallest_that_has_the_share(share, mean):
    asked, m = real(share), real(mean)
    k = tails.count_quantile(asked, lambda k: tails.poisson_share(k, m), m)
    assert k >= 0 and k == k.round()
    assert tails.poisson_share(k, m) >= asked > tails.poisson_share(k - 1, m)
