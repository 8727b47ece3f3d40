"""Literal rivals of online dynamic mode decomposition."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.contracts import SnapshotStream
from kernels.dmd import ordered_eigenvalues


def batch_dmd(x: Tensor, y: Tensor, weights: Tensor, rank: int) -> Tensor:
    """Eigenvalues of U^T Y W^(1/2) V S^-1, X W^(1/2) = U S V^T cut at ``rank`` (Tu et al. 2014); x, y (window, dim)."""
    root = weights.sqrt()[:, None]
    u, s, vt = torch.linalg.svd((root * x).T, full_matrices=False)
    return ordered_eigenvalues(u[:, :rank].T @ (root * y).T @ vt[:rank].T / s[:rank])


class GramDMD:
    """Method of snapshots: X^T X and X^T Y of the window, a row and a column anew for each pair."""

    def __init__(self, rank: int, x: Tensor, y: Tensor) -> None:
        self.rank, self.x, self.y = rank, x.clone(), y.clone()
        self.xx, self.xy = x @ x.T, x @ y.T

    def update(self, row: int, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        self.x[row], self.y[row] = x, y
        self.xx[row] = self.xx[:, row] = self.x @ x
        self.xy[row], self.xy[:, row] = self.y @ x, self.x @ y
        root = weights.sqrt()
        values, v = torch.linalg.eigh(root[:, None] * self.xx * root)
        v, s = v[:, -self.rank :], values[-self.rank :].sqrt()
        return ordered_eigenvalues((v / s).T @ (root[:, None] * self.xy * root) @ v / s)


class MemoryOnly:
    """No window: rank r of X W X^T and of the map is all that is kept, as in streaming DMD (Hemati et al. 2014)."""

    def __init__(self, rank: int, forgetting: float, basis: Tensor) -> None:
        self.rank, self.forgetting, self.q = rank, forgetting, basis
        self.g = self.a = torch.zeros(rank, rank, dtype=torch.float64)

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        bigger, _ = torch.linalg.qr(torch.cat((self.q, x[:, None]), 1))
        into = bigger.T @ self.q
        zx, zy = bigger.T @ x, bigger.T @ y
        g = self.forgetting * into @ self.g @ into.T + torch.outer(zx, zx)
        a = self.forgetting * into @ self.a @ into.T + torch.outer(zy, zx)
        v = torch.linalg.eigh(g)[1][:, -self.rank :]
        self.q, self.g, self.a = bigger @ v, v.T @ g @ v, v.T @ a @ v
        return ordered_eigenvalues(torch.linalg.lstsq(self.g, self.a.T, driver="gelsd").solution.T)


def error(found: Tensor, problem: SnapshotStream, k: int) -> float:
    """Root mean square distance of eigenvalues in order from those of the map at step k."""
    assert problem.eigenvalues is not None
    return float((found - problem.eigenvalues(k)).abs().square().mean().sqrt())


def gap(a: Tensor, b: Tensor) -> float:
    """Sine of the largest angle between two subspaces of orthonormal columns."""
    return float(torch.linalg.matrix_norm(a - b @ (b.T @ a), 2))
