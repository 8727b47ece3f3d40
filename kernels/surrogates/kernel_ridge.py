"""Kernel ridge regression with a Matern kernel: as fast as f is smooth, up to the kernel's own order."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.contracts import Integral, Paths, Vectors
from kernels.streams import Stream
from kernels.surrogates._regression import Regression

LENGTHS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
RIDGES = (1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1.0)
"""Candidates of leave-one-out cross-validation."""

SEARCH = 1000
"""Values, at most, that lengths and ridges are chosen by."""

MAX_POINTS = 20_000
"""Values at most: the kernel matrix and its factor then fill 6.4 GB."""

ENTRIES = 2**16
"""Kernel values alive at once in an evaluation: half a megabyte, small enough for the cache."""


class KernelRidge(Regression):
    """f^(x) = m + sum_i c_i k(x, x_i), c = (K + lambda I)^-1 (y - m), m the mean of y.

    k(x, y) = prod_j (1 + r_j + r_j^2/3) exp(-r_j), r_j = sqrt 5 |x_j - y_j|/l: the Matern-5/2 kernel of each coordinate, whose
    native space is of dominating mixed smoothness 3. As a product it has int k(x, x_i) dx in closed form, hence int f^ exactly;
    higher powers go by scrambled nets. Length and ridge, where not given, minimise the leave-one-out error
    e_i = c_i/[(K + lambda I)^-1]_ii (Craven and Wahba 1979) on a part of the values.
    """

    places: Tensor
    coefficients: Tensor
    shape: Tensor

    def __init__(self, problem: Integral, points: int, length_scale: float | None, ridge: float | None) -> None:
        super().__init__(problem, points)
        self.length_scale, self.ridge = length_scale, ridge
        self.register_buffer("places", torch.zeros(points, problem.dim, dtype=torch.float64))
        self.register_buffer("coefficients", torch.zeros(points, dtype=torch.float64))
        self.register_buffer("shape", torch.tensor([1.0, 0.0], dtype=torch.float64))

    def regress(self, x: Vectors, y: Paths, stream: Stream) -> list[float]:
        mean = y.mean()
        loss, length, ridge = self._search(x[:SEARCH], y[:SEARCH] - mean)
        gram = kernel(x, x, length)
        gram.diagonal().add_(ridge)
        self.places.copy_(x)
        self.coefficients.copy_(torch.cholesky_solve((y - mean)[:, None], torch.linalg.cholesky(gram))[:, 0])
        self.shape.copy_(torch.stack((mean.new_tensor(length), mean)))
        return [float(y.var(correction=0)), loss]

    def _search(self, x: Vectors, y: Paths) -> tuple[float, float, float]:
        """Mean square leave-one-out error, length and ridge of the best candidate."""
        lengths = LENGTHS if self.length_scale is None else (self.length_scale,)
        ridges = RIDGES if self.ridge is None else (self.ridge,)
        found = []
        for length in lengths:
            eigenvalues, vectors = torch.linalg.eigh(kernel(x, x, length))
            inverse = 1.0 / (eigenvalues.clamp_min(0.0) + y.new_tensor(ridges)[:, None])
            c, diagonal = (inverse * (vectors.T @ y)) @ vectors.T, inverse @ vectors.square().T
            losses = (c / diagonal).square().mean(1).tolist()
            found += [(loss, length, ridge) for loss, ridge in zip(losses, ridges, strict=True)]
        return min(found)

    def values(self, x: Vectors) -> Paths:
        length, mean = self.shape.tolist()
        parts = self.inside(x).split(max(1, ENTRIES // self.evaluations))
        return mean + torch.cat([kernel(part, self.places, length) @ self.coefficients for part in parts])

    def integral(self) -> float | None:
        if self.problem.power > 1:
            return None
        length, mean = self.shape.tolist()
        one = length * (primitive(self.places / length) + primitive((1.0 - self.places) / length))
        return mean + float(one.prod(1) @ self.coefficients)

    def flop(self) -> float:
        return self.evaluations * (10.0 * self.problem.dim + 20.0)

    def fit_cost(self) -> tuple[float, float]:
        """Model FLOP of ``fit`` and the bytes at its peak."""
        n, searched = self.evaluations, float(min(SEARCH, self.evaluations))
        lengths = len(LENGTHS) if self.length_scale is None else 1
        solved = n * (self.problem.flop() + self.flop()) + n**3 / 3.0 + lengths * 10.0 * searched**3
        return solved + (0.0 if self.problem.power == 1 else self.net_flop()), 8.0 * (3.0 * n**2 + ENTRIES)


def kernel(x: Vectors, y: Tensor, length: float) -> Tensor:
    """k(x_i, y_j), (paths, points)."""
    total = product = None
    for a, b in zip(x.T, y.T, strict=True):
        r = (a[:, None] - b).abs_().mul_(math.sqrt(5.0) / length)
        factor = torch.addcmul(r + 1.0, r, r, value=1.0 / 3.0)
        total = r if total is None else total.add_(r)
        product = factor if product is None else product.mul_(factor)
    assert total is not None and product is not None
    return product.mul_(total.neg_().exp_())


def primitive(u: Tensor) -> Tensor:
    """int_0^u (1 + r + r^2/3) exp(-r), r = sqrt 5 v, over v."""
    s = math.sqrt(5.0) * u
    return (8.0 - (8.0 + 5.0 * s + s.square()) * torch.exp(-s)) / (3.0 * math.sqrt(5.0))


def kernel_ridge(
    problem: Integral, *, seed: int, points: int = 1000, length_scale: float | None = None, ridge: float | None = None
) -> KernelRidge:
    """Kernel ridge regression with a product of Matern-5/2 kernels, for smooth f; exact integral for power 1.

    ``seed`` is unused: all that is random is drawn by ``fit``.

    :param points: values of f, uniform in the cube, at least 2; a fit takes time points^3
    :param length_scale: of the kernel, > 0; null chooses it by leave-one-out cross-validation
    :param ridge: lambda, > 0, over the kernel's own variance; null chooses it so
    """
    if not 2 <= points <= MAX_POINTS:
        raise ValueError(f"points = {points}: from 2 to {MAX_POINTS} values are served")
    for name, value in (("length_scale", length_scale), ("ridge", ridge)):
        if value is not None and not (value > 0.0 and math.isfinite(value)):
            raise ValueError(f"{name} = {value}: should be finite and > 0, or left out to be chosen by cross-validation")
    return KernelRidge(problem, points, length_scale, ridge)
