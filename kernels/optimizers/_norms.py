"""Norms of a step: the dual map of each, G -> argmax <G, X> over ||X|| <= 1, and the radius that a shape gives it.

Steepest descent in a norm moves along the negative of the dual map of the gradient (Bernstein and Newhouse,
arXiv 2409.20325); sign descent, normalised gradient descent and Muon differ in nothing but the norm.
Matrices (..., out, in) act on inputs from the left, and leading axes are a batch of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Matrix = Float[Tensor, "*batch rows columns"]

POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
)
"""Odd quintics a s + b s^3 + c s^5 whose composition is the best approximation to 1 on [1e-3, 1] (Amsel et al., arXiv 2505.16932)."""

QUINTIC = (15.0 / 8.0, -10.0 / 8.0, 3.0 / 8.0)
"""The Newton-Schulz quintic, whose error at 1 is cubic: each further iteration polishes to rounding."""

ITERATIONS = 8
"""Enough for singular values down to 1e-3 of the Frobenius norm."""


def sign(g: Matrix) -> Matrix:
    """max |X_ij| <= 1: the signs. <G, X> = sum |G_ij|."""
    return g.sign()


def frobenius(g: Matrix) -> Matrix:
    """||X||_F <= 1: G / ||G||_F. <G, X> = ||G||_F."""
    return _unit(g, (-2, -1))


def row(g: Matrix) -> Matrix:
    """Every row of length at most 1: rows of G over their lengths. <G, X> = sum of the lengths of the rows."""
    return _unit(g, (-1,))


def column(g: Matrix) -> Matrix:
    """Every column of length at most 1: columns of G over their lengths. <G, X> = sum of the lengths of the columns."""
    return _unit(g, (-2,))


def spectral(g: Matrix, iterations: int = ITERATIONS) -> Matrix:
    """||X||_2 <= 1: the polar factor U V^T of G = U S V^T, by Newton-Schulz. <G, X> = sum of the singular values.

    X <- (a + b X X^T + c (X X^T)^2) X on the smaller side, in the precision of G: POLAR_EXPRESS, then QUINTIC. After 8 iterations singular values above 1e-3 of the Frobenius norm are 1 to 1e-6 in single precision;
    smaller ones are on their way to 1, and 0 stays 0.
    """
    wide = g.shape[-2] <= g.shape[-1]
    x = _unit(g if wide else g.mT, (-2, -1))
    for a, b, c in (*POLAR_EXPRESS, *[QUINTIC] * max(0, iterations - len(POLAR_EXPRESS)))[:iterations]:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


def one_sided(g: Matrix) -> Matrix:
    """(G G^T)^(-1/2) G by an eigendecomposition in double precision, on the smaller side: what ``spectral`` iterates towards.

    Directions whose eigenvalue is below rounding of the largest are left at 0, as the polar factor's null space is.
    """
    wide = g.shape[-2] <= g.shape[-1]
    x = (g if wide else g.mT).double()
    x = inverse_root(x @ x.mT, 2, floor=0.0) @ x
    return (x if wide else x.mT).to(g.dtype)


def inverse_root(gram: Matrix, order: int, floor: float) -> Matrix:
    """gram^(-1/order) of symmetric positive semidefinite matrices (..., n, n), in double precision.

    :param floor: added to every eigenvalue, as a share of the largest; 0 takes the pseudo-inverse. 0 of a matrix of zeros either way
    """
    values, vectors = torch.linalg.eigh(gram.double())
    largest = values[..., -1:].clamp_min(0.0)
    kept = values > gram.shape[-1] * torch.finfo(values.dtype).eps * largest if floor == 0.0 else largest > 0.0
    powers = torch.where(kept, (values.clamp_min(0.0) + floor * largest).pow(-1.0 / order), 0.0)
    return (vectors * powers[..., None, :]) @ vectors.mT


def _unit(g: Tensor, axes: tuple[int, ...]) -> Tensor:
    """G over its length along the axes; 0 where it is 0. A length that would underflow is taken of G over its largest entry."""
    g = g / g.abs().amax(axes, keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
    return g / g.square().sum(axes, keepdim=True).sqrt().clamp_min(torch.finfo(g.dtype).tiny)


@dataclass(frozen=True)
class Norm:
    """A norm's dual map, and the largest spectral norm in its unit ball of matrices (out, in)."""

    dual: Callable[[Tensor], Tensor]
    reach: Callable[[int, int], float]

    def radius(self, out: int, fan_in: int) -> float:
        """sqrt(out/in) / reach: the largest step that changes outputs by at most 1, root mean square, for inputs of 1.

        With it a learning rate means the same at every width (Yang, Simon and Bernstein, arXiv 2310.17813).
        """
        return math.sqrt(out / fan_in) / self.reach(out, fan_in)


NORMS = {
    "sign": Norm(sign, lambda out, fan_in: math.sqrt(out * fan_in)),
    "frobenius": Norm(frobenius, lambda out, fan_in: 1.0),
    "row": Norm(row, lambda out, fan_in: math.sqrt(out)),
    "column": Norm(column, lambda out, fan_in: math.sqrt(fan_in)),
    "spectral": Norm(spectral, lambda out, fan_in: 1.0),
    "one_sided": Norm(one_sided, lambda out, fan_in: 1.0),
}
