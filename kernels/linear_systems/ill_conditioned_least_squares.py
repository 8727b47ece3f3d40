"""Overdetermined least squares of a given condition number: the test problem of randomised solvers."""

from __future__ import annotations

import math

import torch

from kernels.contracts import LeastSquares, Purpose, Stream, require_dim


def ill_conditioned_least_squares(
    dim: int, *, rows: int = 2000, condition: float = 1e6, misfit: float = 1e-3, matrix_seed: int = 0
) -> LeastSquares:
    """min |A x - b|, A = U diag(1 .. 1/condition) V^T, U and V orthogonal factors of Gaussian matrices, logarithmic spacing.

    b = A x + misfit r, |x| = 1, r a unit vector off the range of A: x is the solution (Meier, Nakatsukasa,
    Townsend, Webb, arXiv 2302.07202; Epperly, Meier, Nakatsukasa, arXiv 2406.03468).

    :param rows: rows of A, more than dim
    :param condition: 2-norm condition number of A, 1 or more
    :param misfit: norm of the residual at the solution, 0 or more
    :param matrix_seed: seed of A and b
    """
    require_dim(dim)
    if rows <= dim:
        raise ValueError(f"rows = {rows}: a residual off the range of A needs more rows than dim = {dim}")
    if not 1.0 <= condition < math.inf:
        raise ValueError(f"condition = {condition}: a condition number is 1 or more, for example 1e6")
    if not 0.0 <= misfit < math.inf:
        raise ValueError(f"misfit = {misfit}: the norm of the residual should be 0 or more, for example 1e-3")
    stream = Stream(matrix_seed, Purpose.PROBLEM)
    left = torch.linalg.qr(stream.normal(rows, dim + 1).double())[0]
    right = torch.linalg.qr(stream.normal(dim, dim).double())[0]
    solution = stream.normal(dim).double()
    solution = solution / solution.norm()
    values = torch.logspace(0.0, -math.log10(condition), dim, dtype=torch.float64)
    matrix = (left[:, :dim] * values) @ right.T
    return LeastSquares(
        name="ill_conditioned_least_squares",
        rows=rows,
        dim=dim,
        matvec=matrix.__matmul__,
        rmatvec=matrix.T.__matmul__,
        rhs=matrix @ solution + misfit * left[:, dim],
        solution=solution,
        source="by construction, to condition x rounding",
    )
