"""Traces of matrices of a given spectrum."""

from __future__ import annotations

from kernels.contracts import Trace
from kernels.matrices._spectra import Basis, Spectrum
from kernels.matrices.decaying_spectrum import decaying_spectrum


def spectrum_trace(
    dim: int, *, spectrum: Spectrum = "poly", exponent: float = 2.0, basis: Basis = "hartley", matrix_seed: int = 0
) -> Trace:
    """tr(A) of the symmetric positive A of ``decaying_spectrum``, known as the sum of its eigenvalues.

    :param spectrum: flat from 3 to 1, poly i^-exponent, slowexp .9^i, fastexp .7^i, or fifty ones and then 1e-3
        (smallstep) or 1e-8 (bigstep)
    :param exponent: of poly, > 0
    :param basis: eigenvectors, hartley (any dim) or haar (holds dim^2 numbers)
    :param matrix_seed: seed of the eigenvectors
    """
    return Trace.of(decaying_spectrum(dim, spectrum=spectrum, exponent=exponent, basis=basis, matrix_seed=matrix_seed))
