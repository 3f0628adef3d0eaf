"""The real logarithm of a real matrix: A with e^A = W, where there is one.

Source  Culver 1966, "On the existence and uniqueness of the real logarithm of a matrix"; Higham 2008, "Functions of
Matrices", section 11.5 (inverse scaling and squaring) and 6.3 (the product form of the Denman-Beavers iteration).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from refold.errors import RefoldError

SAME = 1e-8  # how near two eigenvalues are that count as one, relative to the largest
NODES = 16  # of the Gauss-Legendre rule: log(I + X) to rounding for |X| <= 1/4
WHERE = 'ode(method="exact")'


def logarithm(matrix: Tensor) -> Tensor:
    """A real A with e^A = W; where no eigenvalue is negative, the principal one.

    Errors  RefoldError where there is none: an eigenvalue 0, or a negative one without its pair
    """
    values = torch.linalg.eigvals(matrix)
    scale = float(values.abs().max())
    if scale == 0 or float(values.abs().min()) < 1e-14 * scale:
        fact = "the step's Jacobian has an eigenvalue 0: along its direction every state jumps to one in a single step"
        remedy = "no differential equation does; take method='euler', or a state where every unit is active"
        raise RefoldError(fact, remedy, WHERE)
    negative = (values.imag.abs() <= SAME * scale) & (values.real < 0)
    if not bool(negative.any()):
        return _refined(matrix, _principal(matrix))
    mu = float(values.real[negative][0])
    count = int((negative & ((values.real - mu).abs() <= SAME * scale)).sum())
    return _refined(matrix, _paired(matrix, mu, count, scale))


def _paired(matrix: Tensor, mu: float, count: int, scale: float) -> Tensor:
    """With a negative eigenvalue of even multiplicity: each pair turns by half a circle within a step."""
    size = len(matrix)
    shifted = matrix - mu * torch.eye(size, dtype=matrix.dtype)
    left, singular, right = torch.linalg.svd(shifted)
    dimension = int((singular <= SAME * scale).sum())
    if count % 2 or dimension != count:
        times = "once" if count == 1 else f"{count} times, with {dimension} direction(s)"
        fact = f"the step's Jacobian has the negative eigenvalue {mu:.6g} {times}: the state alternates along it"
        remedy = "a real flow can turn only pairs of directions; two steps at once have an equation, or take 'euler'"
        raise RefoldError(fact, remedy, WHERE)
    # The eigenvectors, and the invariant subspace of all other eigenvalues: what the left ones are orthogonal to.
    basis = torch.cat([right[size - count :].mT, left[:, : size - count]], 1)
    inside = torch.linalg.solve(basis, matrix @ basis)
    turn = torch.tensor([[0.0, math.pi], [-math.pi, 0.0]], dtype=matrix.dtype)
    log = torch.zeros_like(matrix)
    log[:count, :count] = torch.block_diag(*[turn] * (count // 2))
    log[:count, :count] += math.log(-mu) * torch.eye(count, dtype=matrix.dtype)
    if count < size:
        log[count:, count:] = logarithm(inside[count:, count:])
    return basis @ torch.linalg.solve(basis, log, left=False)


def _principal(matrix: Tensor) -> Tensor:
    """By square roots until the matrix is near I, and Padé's approximant there, written as a sum of fractions."""
    one = torch.eye(len(matrix), dtype=matrix.dtype)
    root, halvings = matrix, 0
    while float(torch.linalg.matrix_norm(root - one, 1)) > 0.25:
        root, halvings = _root(root), halvings + 1
        if halvings > 60:
            fact = "the square roots of the Jacobian do not come near 1: an eigenvalue is nearly negative or 0"
            raise RefoldError(fact, "take method='tustin' or 'euler'", WHERE)
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    x, total = root - one, torch.zeros_like(matrix)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        total += float(weight) * torch.linalg.solve(one + float(node) * x, x)
    return 2.0**halvings * total


def _root(matrix: Tensor) -> Tensor:
    """The principal square root, by the product form of the Denman-Beavers iteration."""
    one = torch.eye(len(matrix), dtype=matrix.dtype)
    product, root = matrix, matrix
    for _ in range(50):
        if float(torch.linalg.matrix_norm(product - one, 1)) <= 1e-15 * len(matrix):
            break
        inverse = torch.linalg.inv(product)
        root = root @ (one + inverse) / 2
        product = (one + (product + inverse) / 2) / 2
    return root


def _refined(matrix: Tensor, log: Tensor) -> Tensor:
    """One step of correction: what e^A misses of W, to second order."""
    miss = torch.linalg.matrix_exp(-log) @ matrix - torch.eye(len(matrix), dtype=matrix.dtype)
    return log + miss - miss @ miss / 2 if float(miss.norm()) < 1e-3 else log
