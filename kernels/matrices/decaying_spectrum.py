"""Symmetric positive matrices of a given spectrum in a random eigenbasis."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kernels.contracts import LinearOperator, Purpose, Stream, require_dim
from kernels.matrices._spectra import Basis, Spectrum, eigenvalues


def decaying_spectrum(
    dim: int, *, spectrum: Spectrum = "poly", exponent: float = 2.0, basis: Basis = "hartley", matrix_seed: int = 0
) -> LinearOperator:
    """A = V diag(l) V^T with the eigenvalues of the test set of Epperly, Tropp and Webber (SIMAX 45, 2024, section 5).

    V = D H D' in O(dim log dim) a product: random signs D and D', and the orthonormal Hartley transform
    H x = (Re F x - Im F x)/sqrt(dim), which is symmetric and spreads every eigenvector over all coordinates; or V of
    the Haar law, which holds dim^2 numbers.

    :param spectrum: flat from 3 to 1, poly i^-exponent, slowexp .9^i, fastexp .7^i, or fifty ones and then 1e-3
        (smallstep) or 1e-8 (bigstep)
    :param exponent: of poly, > 0
    :param basis: eigenvectors, hartley or haar
    :param matrix_seed: seed of the eigenvectors
    """
    require_dim(dim)
    values = eigenvalues(dim, spectrum, exponent)
    stream = Stream(matrix_seed, Purpose.PROBLEM)
    forward, adjoint, cost = _haar(dim, stream) if basis == "haar" else _hartley(dim, stream)

    def matvec(columns: Tensor, /) -> Tensor:
        return forward(values[:, None] * adjoint(columns))

    def eigenvectors(count: int) -> Tensor:
        return forward(torch.eye(dim, count, dtype=torch.float64))

    return LinearOperator(
        name=f"{spectrum} spectrum",
        dim=dim,
        matvec=matvec,
        cost=2.0 * cost + dim,
        positive=True,
        trace=math.fsum(values.tolist()),
        eigenvalues=values,
        eigenvectors=eigenvectors,
        source="by construction",
    )


Transform = Callable[[Tensor], Tensor]


def _haar(dim: int, stream: Stream) -> tuple[Transform, Transform, float]:
    """V, V^T and their FLOP a column; Q of a Gaussian matrix, R's diagonal made positive, is Haar distributed."""
    orthonormal, triangle = torch.linalg.qr(stream.normal(dim, dim, dtype=torch.float64))
    vectors = orthonormal * triangle.diagonal().sign()
    return lambda x: vectors @ x, lambda x: vectors.mT @ x, 2.0 * dim**2


def _hartley(dim: int, stream: Stream) -> tuple[Transform, Transform, float]:
    """V, V^T and their FLOP a column."""
    after, before = stream.signs(2, dim, 1).double()

    def transform(x: Tensor) -> Tensor:
        image = torch.fft.fft(x, dim=0, norm="ortho")
        return image.real - image.imag

    return (
        lambda x: after * transform(before * x),
        lambda x: before * transform(after * x),
        5.0 * dim * math.log2(max(2, dim)) + 3.0 * dim,
    )
