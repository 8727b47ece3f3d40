"""The Gaussian kernel over (t, x, g(x)), with the derivatives in t and x that a PDE needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.contracts import Jet, Paths, SemilinearPDE, Vectors
from kernels.surrogates._ansatz import clock, gate, profile_gradient, profile_laplacian


class Rows:
    """A batch of (t, x) in float64, the clock there and the jet of g; ``second`` asks for second derivatives too."""

    def __init__(self, problem: SemilinearPDE, t: Paths, x: Vectors, directions: Tensor | None, *, second: bool) -> None:
        self.t, self.x, self.directions = t, x, directions
        self.h, self.h_t = clock(problem, t)
        self.gate, self.gate_t = gate(problem, self.h, self.h_t)
        if second:
            self.g, self.grad_g, self.lap_g = profile_laplacian(problem, x, directions)
        else:
            (self.g, self.grad_g), self.lap_g = profile_gradient(problem, x), torch.zeros_like(t)

    @property
    def features(self) -> Tensor:
        """(h(t), x, g(x)), (paths, dim + 2)."""
        return torch.cat((self.h[:, None], self.x, self.g[:, None]), dim=1)


@dataclass(frozen=True)
class Kernel:
    """k(p, p_j) = exp(-|p - p_j|^2/2) of p = (h(t)/l_h, x/l_x, g(x)/l_g) and the centres p_j.

    ``lengths`` (3,) are l_h, l_x, l_g; ``centres`` (points, dim + 2) the p_j, from ``origin``, a
    feature vector amid them: near 0, so that their squares round well.
    """

    origin: Tensor
    lengths: Tensor
    centres: Tensor

    @staticmethod
    def place(features: Tensor, origin: Tensor, lengths: Tensor) -> Tensor:
        """p from the origin, (paths, dim + 2)."""
        scale = torch.cat((lengths[:1], lengths[1:2].expand(features.shape[1] - 2), lengths[2:]))
        return (features - origin) / scale

    def values(self, p: Tensor) -> Tensor:
        """k(p, p_j), (paths, points)."""
        squares = p.square().sum(1)[:, None] + self.centres.square().sum(1)
        return torch.addmm(squares, p, self.centres.T, alpha=-2.0).clamp_(min=0.0).mul_(-0.5).exp_()


class Basis:
    """The functions gate(t) k(p, p_j) at a batch of rows, each with its derivatives.

    With e = p - p_j: d_t k = -e_h h'/l_h k, grad k = -(e_x/l_x + e_g grad g/l_g) k, and along
    directions d_a, with q_a = e_x.d_a/l_x + e_g grad g.d_a/l_g,
    sum_a d_a.Hess k d_a = [sum_a q_a^2 - sum_a (|d_a|^2/l_x^2 + (grad g.d_a)^2/l_g^2) - e_g lap g/l_g] k.
    """

    def __init__(self, kernel: Kernel, rows: Rows) -> None:
        self.rows, self.kernel = rows, kernel
        self.l_h, self.l_x, self.l_g = kernel.lengths.tolist()
        self.p = kernel.place(rows.features, kernel.origin, kernel.lengths)
        self.k = kernel.values(self.p)

    def values(self, c: Tensor) -> Paths:
        """u^ alone."""
        return self.rows.g + self.rows.gate * (self.k @ c)

    def jet(self, c: Tensor, *, second: bool = True) -> Jet:
        """u^ = g + gate(t) sum_j c_j k(p, p_j), with the derivatives a PDE needs."""
        rows = self.rows
        kc = self.k * c
        n = kc.sum(1)
        moment = self.p * n[:, None] - kc @ self.kernel.centres
        n_t = -moment[:, 0] * rows.h_t / self.l_h
        grad_n = -(moment[:, 1:-1] / self.l_x + (moment[:, -1] / self.l_g)[:, None] * rows.grad_g)
        lap_n = (kc * self.curvature()).sum(1) if second else torch.zeros_like(n)
        return Jet(
            value=rows.g + rows.gate * n,
            dt=rows.gate_t * n + rows.gate * n_t,
            gradient=rows.grad_g + rows.gate[:, None] * grad_n,
            laplacian=rows.lap_g + rows.gate * lap_n,
        )

    def away(self, column: int) -> Tensor:
        """e_h (column 0) or e_g (column -1), (paths, points)."""
        return self.p[:, column, None] - self.kernel.centres[:, column]

    def towards(self, w: Vectors) -> Tensor:
        """e_x.w, (paths, points)."""
        return (self.p[:, 1:-1] * w).sum(1)[:, None] - w @ self.kernel.centres[:, 1:-1].T

    def curvature(self) -> Tensor:
        """sum_a d_a.Hess k d_a / k, (paths, points)."""
        rows, (e_g, p, b) = self.rows, (self.away(-1), self.p[:, 1:-1], self.kernel.centres[:, 1:-1])
        if rows.directions is not None and rows.directions.ndim == 3:
            along_g = (rows.directions @ rows.grad_g[:, :, None])[:, :, 0]
            q = (torch.bmm(rows.directions, p[:, :, None]) - rows.directions @ b.T) / self.l_x
            squares = torch.addcmul(q, along_g[:, :, None], e_g[:, None], value=1.0 / self.l_g).square_().sum(1)
            trace = rows.directions.square().sum((1, 2)) / self.l_x**2 + along_g.square().sum(1) / self.l_g**2
        else:
            s = torch.ones_like(rows.x) if rows.directions is None else rows.directions.square()
            weighted = s * rows.grad_g
            steep = (weighted * rows.grad_g).sum(1)
            spread = (s * p.square()).sum(1)[:, None] - 2.0 * (s * p) @ b.T + s @ b.square().T
            squares = (
                spread / self.l_x**2
                + e_g * self.towards(weighted) * (2.0 / (self.l_x * self.l_g))
                + e_g.square() * (steep / self.l_g**2)[:, None]
            )
            trace = s.sum(1) / self.l_x**2 + steep / self.l_g**2
        return squares - trace[:, None] - e_g * (rows.lap_g / self.l_g)[:, None]

    def linear_operator(self, factor: float) -> Tensor:
        """d_t + (factor/2) sum_a d_a.Hess d_a of every function of the basis, (paths, points)."""
        rows = self.rows
        inner = self.away(0) * (-rows.h_t / self.l_h)[:, None]
        inner.add_(self.curvature(), alpha=0.5 * factor)
        return self.k * (rows.gate[:, None] * inner + rows.gate_t[:, None])

    def first_order(self, rate: Paths, w: Vectors) -> Tensor:
        """rate + w.grad of every function of the basis, (paths, points)."""
        along = self.towards(w) / self.l_x + self.away(-1) * ((w * self.rows.grad_g).sum(1) / self.l_g)[:, None]
        return self.rows.gate[:, None] * self.k * (rate[:, None] - along)
