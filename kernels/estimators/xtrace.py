"""The exchangeable trace estimator of any square matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.contracts import Stream, Trace
from kernels.estimators._replicates import Replicates, dots, gaussian, products


@dataclass(frozen=True)
class XTrace(Replicates):
    """Hutch++ with every probe in turn left out of the sketch (Epperly, Tropp, Webber, SIMAX 45, 2024, section 2).

    With k = matvecs/2 probes w_i, Q_i an orthonormal basis of A times the others and x_i = (I - Q_i Q_i^T) w_i,

        value_i = tr(Q_i^T A Q_i) + (n - k + 1)/|x_i|^2  x_i^T A x_i,

    the factor making up for the random length of x_i. All k come from Q, R = qr(A W): Q_i Q_i^T = Q (I - s_i s_i^T) Q^T
    with s_i the normalised i-th row of R^-1.
    """

    @torch.no_grad()
    def values(self, problem: Trace, replicates: int, stream: Stream) -> Float[Tensor, "replicates values"]:
        k = self.matvecs // 2
        if k >= problem.dim:
            raise ValueError(
                f"matvecs = {self.matvecs} at dimension {problem.dim}: the exact trace takes {problem.dim} products; "
                "take less than twice as many, or the products with the unit vectors"
            )
        w = gaussian(replicates, problem.dim, k, stream)
        q, r = torch.linalg.qr(products(problem, w))
        image = products(problem, q)
        h, w_q, u = q.mT @ image, q.mT @ w, image.mT @ w
        s = left_out(r)
        a = w_q - s * dots(s, w_q)[:, None]
        length = w.square().sum(-2) - a.square().sum(-2)
        form = dots(w_q, r) - dots(u, a) - dots(a, r) + dots(a, h @ a)
        trace = h.diagonal(dim1=-2, dim2=-1).sum(-1)
        return trace[:, None] - dots(s, h @ s) + (problem.dim - k + 1) / length * form


def left_out(r: Float[Tensor, "replicates k k"]) -> Float[Tensor, "replicates k k"]:
    """Columns s_i, orthogonal to all columns of R but the i-th: the normalised rows of R^-1.

    Columns of R are first divided by their diagonal, which only scales those rows; a diagonal entry that is
    exactly 0, as where A has less rank, may be any small number.
    """
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    size = r.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(r.dtype).tiny)[..., 0]
    diagonal = torch.where(diagonal == 0.0, torch.finfo(r.dtype).eps * size, diagonal)
    one = torch.eye(r.shape[-1], dtype=r.dtype).expand_as(r)
    rows = torch.linalg.solve_triangular(r.triu(1) / diagonal[..., None, :] + one, one, upper=True, unitriangular=True)
    return (rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True)).mT


def xtrace(*, matvecs: int = 60) -> XTrace:
    """Leave-one-out Hutch++ of any square matrix, ``matvecs`` products a draw: the best where the spectrum falls.

    :param matvecs: products of a draw, even and at least 4, less than twice the dimension
    """
    if matvecs < 4 or matvecs % 2:
        raise ValueError(f"matvecs = {matvecs}: xtrace spends an even number of products, at least 4")
    return XTrace(matvecs)
