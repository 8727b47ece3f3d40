"""The linear system that the error of an approximate eigenvector solves, with a sketch in place of the matrix."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.contracts import Eigenproblem, KnownSpectrum, SpectralSketch

Vectors = Float[Tensor, "dim pairs"]
Values = Float[Tensor, "pairs"]

MARGIN = 1.05
"""Of the safe shift over the largest eigenvalue of the sketch."""


def eigenproblem_defect(problem: Eigenproblem, surrogate: SpectralSketch) -> Eigenproblem:
    """The same eigenproblem with the surrogate's sketch known, under whose shifted inverse the residual is a correction.

    The error of u_j solves (mu - A) e = lambda u_j - A u_j to first order; :func:`corrections` puts the sketch for A.
    """
    if surrogate.basis.shape[0] != problem.dim:
        raise ValueError(
            f"a sketch of dimension {surrogate.basis.shape[0]}, '{problem.name}' has dim = {problem.dim}: take a sketch of this matrix"
        )
    known = KnownSpectrum(basis=surrogate.basis, values=surrogate.values, scale=surrogate.scale, matvecs=surrogate.matvecs)
    return replace(problem, name=f"defect of {problem.name}", known=known)


def eigen_residuals(vectors: Vectors, images: Vectors, values: Values) -> Vectors:
    """r = lambda u - A u of each column, ``images`` being A u: 0 at an eigenpair, whatever the sketch.

    For unit u and its Rayleigh quotient lambda an eigenvalue of A lies within |r| of lambda.
    """
    return vectors * values - images


def corrections(
    basis: Float[Tensor, "dim rank"],
    sketched: Float[Tensor, "rank"],
    residuals: Vectors,
    values: Values,
    vectors: Vectors,
    *,
    safe: bool,
    lazy: bool,
) -> Vectors:
    """z_j = (mu_j I - P_j A^ P_j)^-1 r_j, what is to be taken off u_j (EPSI: Xu and Lu, arXiv 2502.07993).

    A^ = U diag(sketched) U^T, sketched >= 0; P_j projects off the vectors before u_j: as they are, or if ``lazy`` as
    they are after their own correction. mu_j is lambda_j itself, or ``safe``: at least 1.05 times the largest eigenvalue
    of P_j A^ P_j, which keeps the system positive definite. With Z = P U diag(sketched)^1/2 and the eigenvalues of
    Z^T Z, (mu - Z Z^T)^-1 = (I + Z (mu - Z^T Z)^-1 Z^T)/mu.

    Residual form: (mu - A^)^-1 (A - A^) u, the same where mu = lambda, loses u where u is an eigenvector of A^.
    """
    root, seen = sketched.sqrt(), basis.mT @ residuals
    before, overlap, out = vectors[:, :0], (vectors[:, :0]).mT @ basis, []
    for j in range(vectors.shape[1]):
        spectrum, rotation = torch.linalg.eigh(torch.diag(sketched) - (root[:, None] * overlap.mT) @ (overlap * root))
        value, residual = values[j], residuals[:, j]
        shift = torch.maximum(value, MARGIN * spectrum[-1]) if safe else value
        gap = shift - spectrum
        # At lambda itself an eigenvalue of the sketch may lie: far off instead of infinite.
        least = torch.finfo(gap.dtype).eps * shift.abs().clamp_min(torch.finfo(gap.dtype).tiny)
        gap = torch.where(gap.abs() < least, least, gap)
        off_before = root * (seen[:, j] - overlap.mT @ (before.mT @ residual))
        back = root * (rotation @ ((rotation.mT @ off_before) / gap))
        z = (residual + basis @ back - before @ (overlap @ back)) / shift
        out.append(z)
        new = off(before, (vectors[:, j] - z)[:, None]) if lazy else vectors[:, j : j + 1]
        before, overlap = torch.cat((before, new), 1), torch.cat((overlap, new.mT @ basis))
    return torch.stack(out, 1)


def off(basis: Float[Tensor, "dim held"], columns: Float[Tensor, "dim columns"]) -> Float[Tensor, "dim columns"]:
    """An orthonormal basis of the columns' part orthogonal to an orthonormal basis; twice, as once leaves rounding errors."""
    for _ in range(2):
        columns = torch.linalg.qr(columns - basis @ (basis.mT @ columns)).Q
    return columns
