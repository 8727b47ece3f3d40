"""Random cosine features with the boundary values built in, fitted to Poisson's equation by linear least squares."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kernels.contracts import Paths, Poisson, Positions, Purpose, SpaceJet, Times, Vectors
from kernels.streams import Stream
from kernels.surrogates._hard_boundary import met_laplacian, met_value

ENTRIES = 2**20
"""Features at points alive at once in an evaluation: 8 MB."""

MAX_FEATURES = 10_000
"""At four samples a feature the fit's matrix then fills 3 GB."""


class CosineFeatures(nn.Module):
    """u^ = g + b (N - g), N = sum_k c_k cos(w_k.x + p_k), b the domain's bump.

    w_k is normal of standard deviation ``spread`` in every coordinate, p_k uniform: random features of a Gaussian kernel of
    length 1/spread (Rahimi and Recht, NIPS 2007). ``fit`` minimises, over uniform points of the domain,

        mean_i (D u^(x_i) - f(x_i))^2 + ridge |c|^2 mean_ik (D(b cos_k)(x_i))^2,

    which is linear in c and smooth, so that Laplacians are exact.
    """

    meets_boundary = True

    frequencies: Tensor
    phases: Tensor
    coefficients: Tensor

    def __init__(self, problem: Poisson, *, seed: int, features: int, samples: int, spread: float, ridge: float) -> None:
        super().__init__()
        self.problem, self.samples, self.ridge = problem, samples, ridge
        stream = Stream(seed, Purpose.INITIALISATION)
        self.register_buffer("frequencies", spread * stream.normal(features, problem.dim).double())
        self.register_buffer("phases", 2.0 * math.pi * stream.uniform(features).double())
        self.register_buffer("coefficients", torch.zeros(features, dtype=torch.float64))

    def value(self, x: Vectors) -> Paths:
        return torch.cat([self._value(part) for part in x.double().split(self._rows)]).to(x.dtype)

    def laplacian(self, x: Vectors) -> Paths:
        return torch.cat([self._laplacian(part) for part in x.double().split(self._rows)]).to(x.dtype)

    def plug_in(self, t: Times, x: Positions) -> Times:
        return self.value(x.double())

    @property
    def _rows(self) -> int:
        return max(1, ENTRIES // len(self.phases))

    def _phase(self, x: Tensor) -> Tensor:
        return torch.addmm(self.phases, x, self.frequencies.T)

    def _value(self, x: Tensor) -> Tensor:
        return met_value(self.problem, x, self._phase(x).cos() @ self.coefficients)

    def _laplacian(self, x: Tensor) -> Tensor:
        phase = self._phase(x)
        cos, c = phase.cos(), self.coefficients
        gradient = -(phase.sin() * c) @ self.frequencies
        return met_laplacian(self.problem, x, SpaceJet(cos @ c, gradient, -cos @ (c * self.frequencies.square().sum(1))))

    def flop(self) -> tuple[float, float]:
        # Float64 is booked twice, a cosine or sine at 20.
        features, dim = len(self.phases), self.problem.dim
        return 2.0 * features * (2.0 * dim + 22.0), 2.0 * features * (4.0 * dim + 46.0)

    def fit_cost(self) -> tuple[float, float]:
        features = len(self.phases)
        matrix = float(self.samples + features) * features
        return 2.0 * (4.0 * matrix * features + matrix * (2.0 * self.problem.dim + 46.0)), 8.0 * 4.0 * matrix

    @torch.no_grad()
    def fit(self, stream: Stream) -> list[float]:
        """Solve for the coefficients. Returns the mean square of the residual over that of f, at c = 0 and at the solution."""
        problem, (_, x) = self.problem, self.problem.sample_points(self.samples, stream)
        b, phase = problem.domain.bump(x), self._phase(x)
        cos, square = phase.cos(), self.frequencies.square().sum(1)
        across = b.gradient @ self.frequencies.T
        matrix = cos * (b.laplacian[:, None] - b.value[:, None] * square) - 2.0 * across * phase.sin()
        self.coefficients.zero_()
        right = problem.source(x) - self._laplacian(x)
        if not bool(right.isfinite().all()):
            raise ValueError(f"the residual of '{problem.name}' at c = 0 is not finite: f and g should be, where points are")
        damping = math.sqrt(self.ridge * float(matrix.square().sum()))
        damped = torch.cat((matrix, damping * torch.eye(matrix.shape[1], dtype=torch.float64)))
        rows = torch.cat((right, right.new_zeros(matrix.shape[1])))
        self.coefficients.copy_(torch.linalg.lstsq(damped, rows[:, None]).solution[:, 0])
        scale = float(problem.source(x).square().mean().clamp_min(torch.finfo(x.dtype).tiny))
        return [float(r.square().mean()) / scale for r in (right, right - matrix @ self.coefficients)]


def cosine_features(
    problem: Poisson,
    *,
    seed: int,
    features: int = 512,
    samples: int | None = None,
    spread: float = 2.0,
    ridge: float = 1e-14,
) -> CosineFeatures:
    """Random cosine features fitted to the equation at uniform points; the boundary values are met exactly.

    :param features: cosines, at least 1; a fit takes time features^2 samples, an evaluation features
    :param samples: points of the fit, at least features; null stands for four times as many
    :param spread: standard deviation of every coordinate of a frequency, > 0: one over the length on which u varies
    :param ridge: weight of the coefficients' squares, > 0, over those of the fit's matrix
    """
    if not 1 <= features <= MAX_FEATURES:
        raise ValueError(f"features = {features}: from 1 to {MAX_FEATURES} are served")
    samples = 4 * features if samples is None else samples
    if samples < features:
        raise ValueError(f"samples = {samples}: fewer than the {features} features leave them free; use at least 2 x features")
    if not (math.isfinite(spread) and spread > 0.0):
        raise ValueError(f"spread = {spread}: should be finite and > 0, for example 2")
    if not (math.isfinite(ridge) and ridge > 0.0):
        raise ValueError(f"ridge = {ridge}: should be finite and > 0, for example 1e-14; without it close features cancel")
    return CosineFeatures(problem, seed=seed, features=features, samples=samples, spread=spread, ridge=ridge)
