"""The five-point Laplacian on a square: the model problem of iterative methods."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.contracts import LinearSystem, Purpose, Stream, require_dim


def poisson_grid(dim: int, *, smoothness: float = 1.0, rhs_seed: int = 0) -> LinearSystem:
    """4 u_ij - u_i-1,j - u_i+1,j - u_i,j-1 - u_i,j+1 = f_ij on an m x m grid with zero boundary, dim = m^2.

    f is a Gaussian random field of norm 1, sum_kl g_kl (k^2 + l^2)^(-smoothness/2) s_k s_l, g standard
    normals and s_k the discrete sines: solved exactly in them. ``pairs`` draws fields of the same law.

    :param dim: unknowns, a square number m^2
    :param smoothness: decay of the field's coefficients, 0 (white noise) or more
    :param rhs_seed: seed of the right-hand side
    """
    require_dim(dim)
    m = math.isqrt(dim)
    if m * m != dim:
        raise ValueError(f"dim = {dim}: the unknowns are an m x m grid; take dim = {m * m} or {(m + 1) ** 2}")
    if not smoothness >= 0.0:
        raise ValueError(f"smoothness = {smoothness}: should be 0 (white noise) or more, for example 1.0")
    k = torch.arange(1, m + 1, dtype=torch.float64)
    sines = math.sqrt(2.0 / (m + 1)) * torch.sin(math.pi / (m + 1) * k[:, None] * k)
    one = 4.0 * torch.sin(0.5 * math.pi / (m + 1) * k).square()
    eigenvalues = one[:, None] + one
    decay = (k.square()[:, None] + k.square()).pow(-0.5 * smoothness)

    def transform(grid: Tensor) -> Tensor:
        """Discrete sine transform of (..., m, m) in both directions, its own inverse."""
        return sines @ grid @ sines

    def matvec(v: Tensor, /) -> Tensor:
        grid = v.reshape(m, m, -1)
        out = 4.0 * grid
        out[1:] -= grid[:-1]
        out[:-1] -= grid[1:]
        out[:, 1:] -= grid[:, :-1]
        out[:, :-1] -= grid[:, 1:]
        return out.reshape(v.shape)

    def pairs(count: int, stream: Stream, /) -> tuple[Tensor, Tensor]:
        coefficients = stream.normal(count, m, m).double() * decay
        coefficients = coefficients / torch.linalg.matrix_norm(coefficients)[:, None, None]
        return (
            transform(coefficients).reshape(count, dim).T.contiguous(),
            transform(coefficients / eigenvalues).reshape(count, dim).T.contiguous(),
        )

    rhs, solution = pairs(1, Stream(rhs_seed, Purpose.PROBLEM))
    return LinearSystem(
        name="poisson_grid",
        dim=dim,
        matvec=matvec,
        rhs=rhs[:, 0].contiguous(),
        symmetric=True,
        positive=True,
        diagonal=torch.full((dim,), 4.0, dtype=torch.float64),
        solution=solution[:, 0].contiguous(),
        source="discrete sine transform",
        pairs=pairs,
        cost=6.0 * dim,
    )
