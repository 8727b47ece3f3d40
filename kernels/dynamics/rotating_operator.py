"""A symmetric operator whose eigenvectors rotate under it at constant speed."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.contracts import OperatorStream, Purpose, Stream, require_dim


def rotating_operator(
    dim: int, *, rank: int = 10, speed: float = 1e-3, tail: float = 0.1, steps: int = 120, operator_seed: int = 0
) -> OperatorStream:
    """A_k = G^k W D W^T G^-k, G a rotation by ``speed`` in dim/2 orthogonal planes, W a random orthogonal matrix.

    D: ``rank`` eigenvalues from 2 to 1, the others from ``tail`` to 0. Every vector turns by ``speed`` a step.

    :param dim: an even number, at least rank
    :param rank: leading eigenvalues
    :param speed: angle of a step, radians
    :param tail: largest of the other eigenvalues, from 0 to below 1
    :param steps: operators
    :param operator_seed: seed of W
    """
    require_dim(dim)
    if dim % 2:
        raise ValueError(f"dim = {dim}: the space is turned in planes; take an even number")
    if not 1 <= rank <= dim:
        raise ValueError(f"rank = {rank}: from 1 to dim = {dim} leading eigenvalues are served")
    if not 0.0 <= tail < 1.0:
        raise ValueError(f"tail = {tail}: should be in [0, 1), below the smallest leading eigenvalue 1")
    w = torch.linalg.qr(Stream(operator_seed, Purpose.PROBLEM).normal(dim, dim).double())[0]
    leading = torch.linspace(2.0, 1.0, rank, dtype=torch.float64)
    values = torch.cat((leading, torch.linspace(tail, 0.0, dim - rank, dtype=torch.float64)))

    def turned(v: Tensor, angle: float) -> Tensor:
        """Coordinates i and i + dim/2 are a plane."""
        a, b = v.chunk(2)
        cos, sin = torch.tensor(angle, dtype=torch.float64).cos(), torch.tensor(angle, dtype=torch.float64).sin()
        return torch.cat((cos * a - sin * b, sin * a + cos * b))

    def matvec(k: int, v: Tensor) -> Tensor:
        return turned(w @ (values[:, None] * (w.T @ turned(v, -speed * k))), speed * k)

    return OperatorStream(
        name="rotating_operator",
        dim=dim,
        steps=steps,
        matvec=matvec,
        eigenvalues=lambda k: leading,
        vectors=lambda k: turned(w[:, :rank], speed * k),
        source="by construction",
        cost=4.0 * dim**2,
    )
