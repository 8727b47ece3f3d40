"""Hutch++ in a single pass over the matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.contracts import Stream, Trace
from kernels.contracts.operator import require_symmetric
from kernels.estimators._replicates import Replicates, dots, gaussian, products


@dataclass(frozen=True)
class NAHutchpp(Replicates):
    """Non-adaptive Hutch++ (Meyer, Musco, Musco, Woodruff, SOSA 2021, algorithm 2), A symmetric.

    Gaussian S and R of matvecs/6 and matvecs/3 columns, the others g_i on the sphere of radius sqrt n, and A known by
    W = A S, Z = A R and A G alone:

        A^ = Z (S^T Z)^+ W^T,    value_i = tr A^ + g_i^T (A - A^) g_i.
    """

    @torch.no_grad()
    def values(self, problem: Trace, replicates: int, stream: Stream) -> Float[Tensor, "replicates values"]:
        if not problem.symmetric:
            raise ValueError(f"'{problem.name}' is not symmetric, as na_hutchpp needs: take xtrace, or hutchinson on a sketch")
        vectors = gaussian(replicates, problem.dim, self.matvecs, stream)
        parts = self.matvecs // 6, self.matvecs // 3, self.matvecs - self.matvecs // 6 - self.matvecs // 3
        s, r, g = vectors.split(parts, -1)
        g = g * (problem.dim**0.5 / torch.linalg.vector_norm(g, dim=-2, keepdim=True))
        w, z, image = products(problem, torch.cat((s, r, g), -1)).split(parts, -1)
        require_symmetric(g.mT @ image, "na_hutchpp")
        inverse = torch.linalg.pinv(s.mT @ z)
        low = (inverse * (w.mT @ z).mT).sum((-2, -1))
        return low[:, None] + dots(g, image) - dots(z.mT @ g, inverse @ (w.mT @ g))


def na_hutchpp(*, matvecs: int = 60) -> NAHutchpp:
    """Single-pass Hutch++ of a symmetric matrix: all ``matvecs`` products of a draw can be taken together.

    :param matvecs: products of a draw, at least 6
    """
    if matvecs < 6:
        raise ValueError(f"matvecs = {matvecs}: na_hutchpp spends a sixth on a sketch, a third on a range; at least 6")
    return NAHutchpp(matvecs)
