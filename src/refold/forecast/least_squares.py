"""Linear autoregressions of many series at once, by their normal equations.

The orders tried are nested: the design of order p is the first columns of that of order q > p. So
one Cholesky factor, of the longest, holds the errors of all. The products of lags that it is made
of follow from one another along the diagonals, which costs n p + p² in place of n p².

Normal equations square the condition of the design. Series for which that is too much (noise-free
ones, whose lags are multiples of each other) are left to an orthogonal method.

Source  Golub & Van Loan, Matrix Computations, on the Cholesky factor of leading blocks; Björck 1987
        for the step of refinement (corrected seminormal equations).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Found = list[Floats]

# The smallest pivot, as a part of the largest, down to which one step of refinement gives what an
# orthogonal method gives.
_SOUND = 1e-9
# Numbers in the products of the series that are worked on together: 64 MB.
_TOGETHER = 1 << 23


def autoregressions(z: Floats, orders: Sequence[int]) -> Found:
    """The intercept and the weights, newest lag first, of each series: (1 + order,).

    The order is the best of `orders` (increasing) by the Bayesian criterion, all compared on the
    same rows; the weights are then fitted on all rows.

    Shapes  z (B, n), series of equal length, longer than the longest order.
    Source  Schwarz 1978 for the criterion, n log(mean squared error) + (p + 1) log n.
    """
    found: list[Floats | None] = [None] * len(z)
    together = max(1, _TOGETHER // (orders[-1] + 1) ** 2)
    for start in range(0, len(z), together):
        part = z[start : start + together]
        best = best_orders(part, orders)
        for order in set(best):
            rows = np.flatnonzero(np.array(best) == order)
            for row, weights in zip(rows, _fitted(part[rows], order), strict=True):
                found[start + row] = weights
    return [one for one in found if one is not None]


def of_rows(z: Floats, orders: Sequence[int], seen: NDArray[np.bool_]) -> Floats:
    """`autoregressions` of one series (n,), fitted to the values that are to be `seen` (n,) alone."""
    rows, known = _rows(z, orders[-1], seen)
    gram, moment, power, n = (
        np.tril(rows.T @ rows),
        rows.T @ known,
        float(known @ known),
        len(known),
    )
    errors = np.array(_errors(gram, moment, power, orders))
    errors = np.maximum(errors, 1e-12 * max(power, 1.0))
    best = (n * np.log(errors / n) + (np.array(orders) + 1) * np.log(n)).argmin()
    return np.linalg.lstsq(*_rows(z, orders[best], seen), rcond=None)[0].astype(np.float64)


def _rows(z: Floats, order: int, seen: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The rows whose value was seen, all where none was, and these values."""
    design, goal, rows = lagged(z, order), z[order:], seen[order:]
    return (design[rows], goal[rows]) if rows.any() else (design, goal)


def best_orders(z: Floats, orders: Sequence[int]) -> list[int]:
    """The order of each series with the lowest criterion."""
    longest = orders[-1]
    gram, moment, power = _normal(z, longest)
    factor, sound = _factor(gram)
    half = torch.linalg.solve_triangular(factor, torch.from_numpy(moment)[..., None], upper=False)
    explained = half[..., 0].square().cumsum(-1).numpy()[:, list(orders)]
    errors = power[:, None] - explained
    for row in np.flatnonzero(~sound):
        errors[row] = _errors(gram[row], moment[row], power[row], orders)
    errors = np.maximum(errors, 1e-12 * np.maximum(power, 1.0)[:, None])
    n = z.shape[1] - longest
    criterion = n * np.log(errors / n) + (np.array(orders) + 1) * np.log(n)
    return [orders[i] for i in criterion.argmin(axis=1)]


def _errors(gram: Floats, moment: Floats, power: float, orders: Sequence[int]) -> list[float]:
    """The squared error of each order where the products have no sound factor."""
    lower = gram + np.tril(gram, -1).T
    found = []
    for p in orders:
        part = slice(0, p + 1)
        solution = np.linalg.lstsq(lower[part, part], moment[part], rcond=None)[0]
        found.append(power - float(moment[part] @ solution))
    return found


def _fitted(z: Floats, order: int) -> Floats:
    """The weights of this order on all rows: (B, 1 + order)."""
    gram, moment, _ = _normal(z, order)
    factor, sound = _factor(gram)
    weights = _solved(factor, moment)
    lags = sliding_window_view(z[:, :-1], order, axis=1)[..., ::-1]
    left = z[:, order:] - weights[:, :1] - np.einsum("btp,bp->bt", lags, weights[:, 1:])
    again = np.concatenate(
        [left.sum(axis=1, keepdims=True), np.einsum("btp,bt->bp", lags, left)], axis=1
    )
    weights += _solved(factor, again)
    for row in np.flatnonzero(~sound):
        design, known = lagged(z[row], order), z[row, order:]
        weights[row] = np.linalg.lstsq(design, known, rcond=None)[0]
    return weights


def _solved(factor: Tensor, right: Floats) -> Floats:
    return torch.cholesky_solve(torch.from_numpy(right)[..., None], factor)[..., 0].numpy()


def _factor(gram: Floats) -> tuple[Tensor, NDArray[np.bool_]]:
    """Lower factors, and which of them can be relied on; the others are 1."""
    factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(gram))
    pivots = factor.diagonal(dim1=-2, dim2=-1).square()
    sound = (failed == 0) & (pivots.amin(-1) > _SOUND * pivots.amax(-1))
    one = torch.eye(gram.shape[-1], dtype=torch.float64)
    return torch.where(sound[:, None, None], factor, one), sound.numpy()


def _normal(z: Floats, order: int) -> tuple[Floats, Floats, Floats]:
    """Products of the columns 1, z(t-1) ... z(t-order) over t = order .. n-1.

    Shapes  with each other (B, 1 + order, 1 + order), the lower triangle only; with z(t)
    (B, 1 + order); of z(t) with itself (B,).
    """
    batch, n = z.shape
    gram = _products(z, order)
    totals = np.concatenate([np.zeros((batch, 1)), z.cumsum(axis=1)], axis=1)
    at = np.arange(order + 1)
    sums = totals[:, n - at] - totals[:, order - at]
    power, moment = gram[:, 0, 0].copy(), gram[:, :, 0].copy()
    moment[:, 0] = sums[:, 0]
    gram[:, 1:, 0] = sums[:, 1:]
    gram[:, 0, 0] = n - order
    return gram, moment, power


def _products(z: Floats, order: int) -> Floats:
    """sum over t of z(t-i) z(t-j), for j <= i <= order: (B, 1 + order, 1 + order).

    The sum for i + 1, j + 1 is that for i, j with a term more in front and one less at the end.
    """
    batch, n = z.shape
    found = np.zeros((batch, order + 1, order + 1))
    for own, series in zip(found, z, strict=True):
        own[:, 0] = np.correlate(series, series[order:], "valid")[::-1]
    front, end = z[:, order - 1 :: -1], z[:, : n - order - 1 : -1]
    for j in range(order):
        more = front[:, j:] * front[:, j, None] - end[:, j:] * end[:, j, None]
        found[:, j + 1 :, j + 1] = found[:, j:-1, j] + more
    return found


def lagged(z: Floats, order: int) -> Floats:
    """Rows (1, z(t-1), ..., z(t-order)) for t = order .. n-1."""
    lags = [z[order - i : len(z) - i] for i in range(1, order + 1)]
    return np.stack([np.ones(len(z) - order), *lags], axis=1)
