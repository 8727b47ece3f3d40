"""The exchangeable trace estimator of a positive semidefinite matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.contracts import Stream, Trace
from kernels.contracts.operator import require_symmetric
from kernels.estimators._replicates import Replicates, dots, gaussian, products


@dataclass(frozen=True)
class XNysTrace(Replicates):
    """Nystrom approximation with every probe in turn left out, one product a probe (Epperly, Tropp, Webber, section 2.3).

    With A_i the Nystrom approximation of A from the m - 1 probes but w_i, and x_i the part of w_i off those probes,

        value_i = tr(A_i) + (n - m + 1)/|x_i|^2  w_i^T (A - A_i) w_i,

    the factor for A - A_i vanishes on the other probes. All m come from A W = Q R, W^T A W = C^T C, B = R C^-1:
    A_i = Q (B B^T - s_i s_i^T) Q^T with s_i = B C^-T e_i / |C^-T e_i|, and |x_i|^-2 is entry i of diag((W^T W)^-1).

    A is shifted by nu = eps |A W|_F / sqrt n for the sake of the Cholesky factor, more where that is not enough, and nu n
    subtracted.
    """

    @torch.no_grad()
    def values(self, problem: Trace, replicates: int, stream: Stream) -> Float[Tensor, "replicates values"]:
        n, m = problem.dim, self.matvecs
        if not problem.positive:
            raise ValueError(
                f"'{problem.name}' is not known to be positive semidefinite, as a Nystrom approximation needs: take xtrace, "
                "or say positive=True if it is"
            )
        if m >= n:
            raise ValueError(f"matvecs = {m} at dimension {n}: n products with the unit vectors are exact; take fewer")
        w = gaussian(replicates, n, m, stream)
        y = products(problem, w)
        require_symmetric(w.mT @ y, "xnystrace")
        nu, upper = _shifted_factor(w, y)
        q, r = torch.linalg.qr(y + nu * w)
        one = torch.eye(m, dtype=w.dtype).expand(replicates, m, m)
        inverse = torch.linalg.solve_triangular(upper, one, upper=True)
        b = r @ inverse
        s = b @ inverse.mT / torch.linalg.vector_norm(inverse, dim=-1)[:, None]
        scale = (n - m + 1) * torch.cholesky_inverse(torch.linalg.cholesky(w.mT @ w)).diagonal(dim1=-2, dim2=-1)
        whole = b.square().sum((-2, -1))[:, None] - nu[..., 0] * n
        return whole - s.square().sum(-2) + scale * dots(s, q.mT @ w).square()


def _shifted_factor(w: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """nu, (replicates, 1, 1), and the upper Cholesky factor of W^T (A + nu) W."""
    eps, n = torch.finfo(w.dtype).eps, w.shape[-2]
    nu = eps * torch.linalg.matrix_norm(y, keepdim=True) / n**0.5
    nu = nu.clamp_min(torch.finfo(w.dtype).tiny / eps)
    while True:
        gram = w.mT @ (y + nu * w)
        upper, fails = torch.linalg.cholesky_ex(0.5 * (gram + gram.mT), upper=True)
        if not bool(fails.any()):
            return nu, upper
        nu = torch.where((fails > 0)[:, None, None], 10.0 * nu, nu)


def xnystrace(*, matvecs: int = 60) -> XNysTrace:
    """Leave-one-out Nystrom estimator of a positive semidefinite matrix, ``matvecs`` products a draw.

    :param matvecs: products of a draw, at least 2, less than the dimension
    """
    if matvecs < 2:
        raise ValueError(f"matvecs = {matvecs}: leaving one probe out takes at least 2")
    return XNysTrace(matvecs)
