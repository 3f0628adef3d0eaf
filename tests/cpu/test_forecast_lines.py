"""Autoregressions of many series at once are those of each alone, by an orthogonal method."""

import numpy as np
import pytest

from refold.data.scale import Scale, choose_transform
from refold.forecast import baselines, least_squares


def by_hand(z, orders):
    """Every order by least squares on its design: the criterion on common rows, then all rows."""
    longest = orders[-1]

    def design(order, first):
        lags = [z[first - i : len(z) - i] for i in range(1, order + 1)]
        return np.stack([np.ones(len(z) - first), *lags], axis=1)

    def criterion(order):
        x, known = design(order, longest), z[longest:]
        left = known - x @ np.linalg.lstsq(x, known, rcond=None)[0]
        error = max(float(left @ left), 1e-12 * max(float(known @ known), 1.0))
        return len(known) * np.log(error / len(known)) + (order + 1) * np.log(len(known))

    best = min(orders, key=criterion)
    return np.linalg.lstsq(design(best, best), z[best:], rcond=None)[0]


def walks(batch, n, seed=0):
    moves = np.random.default_rng(seed).normal(size=(batch, n))
    z = moves.cumsum(axis=1) + 3 * np.sin(2 * np.pi * np.arange(n) / 12)
    return (z - z.mean(axis=1, keepdims=True)) / z.std(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("n", "orders"),
    [(16, [1, 2, 3, 4]), (60, [1, 2, 3, 4, 6, 8, 12, 13]), (700, [1, 2, 24, 52, 53, 104, 105])],
)
def test_weights_and_orders_are_those_of_an_orthogonal_method(n, orders):
    z = walks(8, n)
    for one, found in zip(z, least_squares.autoregressions(z, orders), strict=True):
        expected = by_hand(one, orders)
        assert len(found) == len(expected)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_lags_that_are_multiples_of_each_other():
    # No product of lags has a factor: noise-free waves, a line, a series that never changes.
    t = np.arange(100.0)
    smooth = np.stack([np.sin(t), 0.99**t * np.cos(0.3 * t), t / 100, np.zeros(100)])
    z = np.concatenate([walks(2, 100), smooth])
    orders = [1, 2, 3, 4, 6, 8, 12, 24]
    found = least_squares.autoregressions(z, orders)
    for own, one in zip(found[:2], z[:2], strict=True):
        np.testing.assert_allclose(own, by_hand(one, orders), rtol=0, atol=1e-9)
    for own, one in zip(found[2:], smooth, strict=True):
        order = len(own) - 1
        x = np.stack(
            [np.ones(100 - order), *(one[order - i : 100 - i] for i in range(1, order + 1))]
        )
        np.testing.assert_allclose(own @ x, one[order:], rtol=0, atol=1e-6)


def test_many_series_are_each_alone_whatever_their_lengths(monkeypatch):
    monkeypatch.setattr(least_squares, "_TOGETHER", 500)  # several groups of one length
    lengths = [3, 40, 7, 40, 61, 1, 40, 40]
    values = [
        np.exp(walks(1, n, seed)[0]) if n > 1 else np.ones(1) for seed, n in enumerate(lengths)
    ]
    scales = [Scale.fit(y, choose_transform([y])) for y in values]
    together = baselines.autoregressions(values, (12,), scales, [None] * len(values))
    for y, scale, found in zip(values, scales, together, strict=True):
        alone = baselines.autoregression(y, (12,), scale)
        np.testing.assert_allclose(found.weights, alone.weights, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.predict(y, 5), alone.predict(y, 5), rtol=1e-12)
