"""Small matrices as problems, and published algorithms on them written out literally."""

from __future__ import annotations

import math

import torch
from scipy.stats import chi2
from torch import Tensor

from kernels.contracts import Trace
from kernels.streams import Stream

ROW = torch.zeros(1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
"""The one evaluation point of a problem that has none."""


def gaussians(*shape: int, seed: int = 0) -> Tensor:
    return Stream(seed, 99).normal(*shape, dtype=torch.float64)


def haar(dim: int, rank: int, seed: int = 0) -> Tensor:
    """Orthonormal columns."""
    return torch.linalg.qr(gaussians(dim, rank, seed=seed)).Q


def given(a: Tensor, *, positive: bool = True) -> Trace:
    """The trace of this matrix, as a problem."""
    symmetric = bool(torch.allclose(a, a.T))
    value = float(a.trace())
    return Trace(
        name="given",
        dim=len(a),
        matvec=lambda x: a @ x,
        cost=2.0 * len(a) ** 2,
        symmetric=symmetric,
        positive=positive and symmetric,
        value=value,
    )


def random_positive(dim: int, seed: int = 0) -> Tensor:
    """V diag(1/i^2) V^T."""
    v = haar(dim, dim, seed)
    return (v * torch.arange(1.0, dim + 1.0, dtype=torch.float64) ** -2) @ v.T


def literal_xtrace(a: Tensor, w: Tensor) -> Tensor:
    """XTrace's leave-one-out values with a QR for each: w (n, k)."""
    n, k = w.shape
    out = []
    for i in range(k):
        q = torch.linalg.qr(a @ torch.cat((w[:, :i], w[:, i + 1 :]), 1)).Q
        x = w[:, i] - q @ (q.T @ w[:, i])
        out.append((q.T @ a @ q).trace() + (n - k + 1) / (x @ x) * (x @ a @ x))
    return torch.stack(out)


def literal_xnystrace(a: Tensor, w: Tensor) -> Tensor:
    """XNysTrace's leave-one-out values with a Nystrom approximation for each: w (n, m)."""
    n, m = w.shape
    out = []
    for i in range(m):
        others = torch.cat((w[:, :i], w[:, i + 1 :]), 1)
        image = a @ others
        low = image @ torch.linalg.pinv(others.T @ image, hermitian=True) @ image.T
        x = w[:, i] - others @ torch.linalg.lstsq(others, w[:, i : i + 1]).solution[:, 0]
        out.append(low.trace() + (n - m + 1) / (x @ x) * (w[:, i] @ (a - low) @ w[:, i]))
    return torch.stack(out)


def literal_adaptive(a: Tensor, tol: float, failure: float, growth: Stream, probing: Stream) -> tuple[float, int]:
    """A-Hutch++ with every norm formed anew: the trace and the products spent."""
    n, factor = len(a), 4.0 * math.log(2.0 / failure) / tol**2
    columns, costs = [], []
    while len(costs) < 3 or not costs[-3] < costs[-2] < costs[-1]:
        columns.append(a @ growth.normal(n, 1, dtype=torch.float64))
        q = torch.linalg.qr(torch.cat(columns, 1)).Q
        inner, image = q.T @ a @ q, a @ q
        costs.append(2 * q.shape[1] + factor * float((inner**2).sum() - 2.0 * (image**2).sum()))
    away = torch.eye(n, dtype=a.dtype) - q @ q.T
    b = away @ a @ away
    forms: list[float] = []
    squares: list[float] = []
    while True:
        z = probing.normal(n, 1, dtype=torch.float64)
        forms.append(float(z.T @ b @ z))
        squares.append(float((b @ z).square().sum()))
        count = len(forms)
        if count >= 2 and count > factor * (sum(squares) / count) / (chi2.ppf(failure, count) / count):
            return float(inner.trace()) + sum(forms) / count, 2 * q.shape[1] + count
