"""The Gaussian kernel over (t, x, g(t, x)), g the profile, with the derivatives in t and x that a PDE needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.contracts import Jet, Paths, SemilinearPDE, Vectors
from kernels.surrogates._ansatz import clock, profile_gradient, profile_laplacian


class Rows:
    """A batch of (t, x) in float64, the clock there and the jet of the profile g; ``second`` asks for second derivatives too."""

    def __init__(self, problem: SemilinearPDE, t: Paths, x: Vectors, directions: Tensor | None, *, second: bool) -> None:
        self.t, self.x, self.directions = t, x, directions
        self.h, self.h_t = clock(problem, t)
        if second:
            self.g = profile_laplacian(problem, t, x, directions)
        else:
            g, gradient = profile_gradient(problem, t, x)
            self.g = Jet(g, torch.zeros_like(t), gradient, torch.zeros_like(t))

    @property
    def features(self) -> Tensor:
        """(h(t), x, g(t, x)), (paths, dim + 2)."""
        return torch.cat((self.h[:, None], self.x, self.g.value[:, None]), dim=1)


@dataclass(frozen=True)
class Kernel:
    """k(p, p_j) = exp(-|p - p_j|^2/2) of p = (h(t)/l_h, x/l_x, g(t, x)/l_g) and the centres p_j.

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
        sums = p.square().sum(1)[:, None] + self.centres.square().sum(1)
        return torch.addmm(sums, p, self.centres.T, beta=-0.5).exp_()


class Basis:
    """The functions h(t) k(p, p_j) at a batch of rows, each with its derivatives.

    With e = p - p_j: d_t k = -(e_h h'/l_h + e_g g_t/l_g) k, grad k = -(e_x/l_x + e_g grad g/l_g) k, and along
    directions d_a, with q_a = e_x.d_a/l_x + e_g grad g.d_a/l_g,
    sum_a d_a.Hess k d_a = [sum_a q_a^2 - sum_a (|d_a|^2/l_x^2 + (grad g.d_a)^2/l_g^2) - e_g lap g/l_g] k.
    """

    def __init__(self, kernel: Kernel, rows: Rows) -> None:
        self.rows = rows
        self.l_h, self.l_x, self.l_g = kernel.lengths.tolist()
        self.p, self.b = kernel.place(rows.features, kernel.origin, kernel.lengths), kernel.centres
        self.k = kernel.values(self.p)
        self.explicit = rows.directions is not None and rows.directions.ndim == 3

    def jet(self, c: Tensor, *, second: bool = True) -> Jet:
        """u^ = g + h(t) sum_j c_j k(p, p_j), with the derivatives a PDE needs.

        Sums over j of c_j k_j times a polynomial in e are taken of its monomials in p_j, in one
        product; only along explicit directions is there a matrix of second derivatives.
        """
        rows, b_x, b_g = self.rows, self.b[:, 1:-1], self.b[:, -1:]
        columns = [torch.ones_like(b_g), self.b]
        if second and not self.explicit:
            squares = b_x.square() if rows.directions is not None else b_x.square().sum(1, keepdim=True)
            columns += [b_g.square(), b_g * b_x, squares]
        sums = self.k @ (c[:, None] * torch.cat(columns, dim=1))
        n, first, others = sums[:, 0], sums[:, 1 : self.b.shape[1] + 1], sums[:, self.b.shape[1] + 1 :]
        e = self.p * n[:, None] - first
        n_t = -(e[:, 0] * rows.h_t / self.l_h + e[:, -1] * rows.g.dt / self.l_g)
        grad_n = -(e[:, 1:-1] / self.l_x + (e[:, -1] / self.l_g)[:, None] * rows.g.gradient)
        lap_n = torch.zeros_like(n)
        if second:
            lap_n = (self.k * self.second()) @ c if self.explicit else self._laplacian(n, first, e, others)
        return Jet(
            value=rows.g.value + rows.h * n,
            dt=rows.g.dt + rows.h_t * n + rows.h * n_t,
            gradient=rows.g.gradient + rows.h[:, None] * grad_n,
            laplacian=rows.g.laplacian + rows.h * lap_n,
        )

    def _laplacian(self, n: Paths, first: Tensor, e: Tensor, others: Tensor) -> Paths:
        """sum_j c_j sum_a d_a.Hess k d_a from sums over j of c_j k times 1, p_j, e, and (p_g^2, p_g p_x, p_x^2)_j."""
        rows, p_x, p_g = self.rows, self.p[:, 1:-1], self.p[:, -1]
        weights, steep, trace = self._along_axes()
        g_g, g_x, x_x = others[:, 0], others[:, 1 : p_x.shape[1] + 1], others[:, p_x.shape[1] + 1 :]
        e_gg = p_g.square() * n - 2.0 * p_g * first[:, -1] + g_g
        e_gx = p_g[:, None] * e[:, 1:-1] - p_x * first[:, -1:] + g_x
        e_xx = (weights * p_x * (p_x * n[:, None] - 2.0 * first[:, 1:-1])).sum(1)
        e_xx += (x_x if rows.directions is None else weights * x_x).sum(1)
        cross = (weights * rows.g.gradient * e_gx).sum(1)
        squares = e_xx / self.l_x**2 + 2.0 * cross / (self.l_x * self.l_g) + steep * e_gg / self.l_g**2
        return squares - trace * n - e[:, -1] * rows.g.laplacian / self.l_g

    def _along_axes(self) -> tuple[Vectors, Paths, Paths]:
        """Squared lengths of directions along the axes, sum (grad g.d_a)^2, and the constant of the second derivative."""
        rows = self.rows
        weights = torch.ones_like(rows.x) if rows.directions is None else rows.directions.square()
        steep = (weights * rows.g.gradient.square()).sum(1)
        return weights, steep, weights.sum(1) / self.l_x**2 + steep / self.l_g**2

    def away(self, column: int) -> Tensor:
        """e_h (column 0) or e_g (column -1), (paths, points)."""
        return self.p[:, column, None] - self.b[:, column]

    def towards(self, w: Vectors) -> Tensor:
        """e_x.w, (paths, points)."""
        return (self.p[:, 1:-1] * w).sum(1)[:, None] - w @ self.b[:, 1:-1].T

    def second(self) -> Tensor:
        """sum_a d_a.Hess k d_a / k, (paths, points)."""
        rows, e_g, p_x, b_x = self.rows, self.away(-1), self.p[:, 1:-1], self.b[:, 1:-1]
        d = rows.directions
        if d is not None and d.ndim == 3:
            along_g = (d @ rows.g.gradient[:, :, None])[:, :, 0]
            q = (d @ p_x[:, :, None] - d @ b_x.T) / self.l_x
            squares = q.addcmul_(along_g[:, :, None], e_g[:, None], value=1.0 / self.l_g).square_().sum(1)
            trace = d.square().sum((1, 2)) / self.l_x**2 + along_g.square().sum(1) / self.l_g**2
        else:
            weights, steep, trace = self._along_axes()
            e_xx = (weights * p_x.square()).sum(1)[:, None] - 2.0 * (weights * p_x) @ b_x.T + weights @ b_x.square().T
            cross = e_g * self.towards(weights * rows.g.gradient)
            squares = e_xx / self.l_x**2 + cross * (2.0 / (self.l_x * self.l_g)) + e_g.square() * (steep / self.l_g**2)[:, None]
        return squares - trace[:, None] - e_g * (rows.g.laplacian / self.l_g)[:, None]

    def linear_operator(self, factor: float) -> Tensor:
        """d_t + (factor/2) sum_a d_a.Hess d_a of every function of the basis, (paths, points)."""
        rows = self.rows
        inner = self.away(0) * (-rows.h_t / self.l_h)[:, None]
        inner.addcmul_(self.away(-1), (rows.g.dt / self.l_g)[:, None], value=-1.0)
        inner.add_(self.second(), alpha=0.5 * factor)
        return self.k * (rows.h[:, None] * inner + rows.h_t[:, None])

    def first_order(self, rate: Paths, w: Vectors) -> Tensor:
        """rate + w.grad of every function of the basis, (paths, points)."""
        along = self.towards(w) / self.l_x + self.away(-1) * ((w * self.rows.g.gradient).sum(1) / self.l_g)[:, None]
        return self.rows.h[:, None] * self.k * (rate[:, None] - along)
