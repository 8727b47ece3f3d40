"""Path laws dX = mu(t, X) dt + sigma(t, X) dW: how a path moves, and the weight that gives z = sigma^T grad u."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from kernels.axes import Paths, Probes, Vectors
from kernels.streams import Stream


@runtime_checkable
class Law(Protocol):
    """The forward process of a problem.

    ``isotropic`` says that sigma is one constant number, so that tr(sigma sigma^T Hess) is
    sigma^2 times the Laplacian; ``exact`` that ``move`` has the law of X over any length of time.
    """

    @property
    def isotropic(self) -> bool: ...

    @property
    def exact(self) -> bool: ...

    def advect(self, t: Paths, x: Vectors, gradient: Vectors) -> Paths:
        """mu(t, x).gradient."""
        ...

    def pull(self, t: Paths, x: Vectors, gradient: Vectors) -> Vectors:
        """z = sigma(t, x)^T gradient."""
        ...

    def directions(self, t: Paths, x: Vectors, signs: Probes | None) -> tuple[Tensor | None, float]:
        """Vectors d_k and a factor c with tr(sigma sigma^T H) = c sum_k d_k.H d_k, in mean where ``signs`` are given.

        None stands for the coordinate vectors, (paths, dim) for the coordinate vectors scaled,
        (paths, vectors, dim) for the vectors themselves. ``signs`` are of identity covariance.
        """
        ...

    def move(self, t: Paths, x: Vectors, elapsed: Paths, increment: Vectors) -> Vectors:
        """X after ``elapsed`` time, given the increment of W over it: exact, or one Euler step."""
        ...

    def travel(
        self, t: Paths, x: Vectors, elapsed: Paths, stream: Stream, shift: Vectors | None = None
    ) -> tuple[Vectors, Callable[[], Vectors]]:
        """X after ``elapsed`` time over its own noise, and the Bismut-Elworthy-Li weight of z on demand.

        The weight I has E[h(X) I] = sigma^T grad E[h(X)] at (t, x). ``shift`` adds the constant
        drift sigma(t, X) shift to the path.
        """
        ...


def _over(increment: Vectors, elapsed: Paths) -> Vectors:
    """increment / elapsed, (paths, dim); 0 where no time has passed."""
    return increment / elapsed.clamp_min(torch.finfo(elapsed.dtype).tiny)[:, None]


def _by_increment(
    law: Law, t: Paths, x: Vectors, elapsed: Paths, stream: Stream, shift: Vectors | None
) -> tuple[Vectors, Callable[[], Vectors]]:
    """``travel`` where X is a known function of W_s - W_t and the weight is (W_s - W_t)/(s - t)."""
    increment = elapsed.sqrt()[:, None] * stream.normal(*x.shape)
    moved = increment if shift is None else increment + elapsed[:, None] * shift
    return law.move(t, x, elapsed, moved), lambda: _over(increment, elapsed)


@dataclass(frozen=True, kw_only=True)
class BrownianMotion:
    """dX = mu dt + sigma dW with constant scalars (each component alike), sampled exactly."""

    mu: float = 0.0
    sigma: float = 1.0
    isotropic: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mu) and math.isfinite(self.sigma) and self.sigma > 0.0):
            raise ValueError(f"a Brownian motion needs finite mu and sigma > 0, not mu={self.mu}, sigma={self.sigma}")

    def advect(self, t: Paths, x: Vectors, gradient: Vectors) -> Paths:
        return self.mu * gradient.sum(-1)

    def pull(self, t: Paths, x: Vectors, gradient: Vectors) -> Vectors:
        return self.sigma * gradient

    def directions(self, t: Paths, x: Vectors, signs: Probes | None) -> tuple[Tensor | None, float]:
        return None if signs is None else signs / math.sqrt(signs.shape[1]), self.sigma**2

    def move(self, t: Paths, x: Vectors, elapsed: Paths, increment: Vectors) -> Vectors:
        moved = torch.addcmul(x, increment, increment.new_tensor(self.sigma))
        return moved if self.mu == 0.0 else moved.add_(elapsed[:, None], alpha=self.mu)

    def travel(
        self, t: Paths, x: Vectors, elapsed: Paths, stream: Stream, shift: Vectors | None = None
    ) -> tuple[Vectors, Callable[[], Vectors]]:
        return _by_increment(self, t, x, elapsed, stream, shift)


@dataclass(frozen=True, kw_only=True)
class GeometricBrownianMotion:
    """dX_i = mu X_i dt + sigma X_i dW_i with constant scalars, sampled exactly.

    X_s = x exp((mu - sigma^2/2)(s - t) + sigma (W_s - W_t)); its derivative X_s/x and its diffusion
    coefficient cancel in the weight of z = sigma x grad u, which is (W_s - W_t)/(s - t).
    """

    mu: float = 0.0
    sigma: float = 1.0
    isotropic: ClassVar[bool] = False
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mu) and math.isfinite(self.sigma) and self.sigma > 0.0):
            raise ValueError(f"a geometric Brownian motion needs finite mu and sigma > 0, not mu={self.mu}, sigma={self.sigma}")

    def advect(self, t: Paths, x: Vectors, gradient: Vectors) -> Paths:
        return self.mu * (x * gradient).sum(-1)

    def pull(self, t: Paths, x: Vectors, gradient: Vectors) -> Vectors:
        return self.sigma * x * gradient

    def directions(self, t: Paths, x: Vectors, signs: Probes | None) -> tuple[Tensor | None, float]:
        return (x if signs is None else signs * x[:, None, :] / math.sqrt(signs.shape[1])), self.sigma**2

    def move(self, t: Paths, x: Vectors, elapsed: Paths, increment: Vectors) -> Vectors:
        rate = self.mu - 0.5 * self.sigma**2
        return x * torch.exp(self.sigma * increment + rate * elapsed[:, None])

    def travel(
        self, t: Paths, x: Vectors, elapsed: Paths, stream: Stream, shift: Vectors | None = None
    ) -> tuple[Vectors, Callable[[], Vectors]]:
        return _by_increment(self, t, x, elapsed, stream, shift)


@runtime_checkable
class Coefficient(Protocol):
    """A coefficient of the path law, row by row."""

    def __call__(self, t: Tensor, x: Tensor, /) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class ItoDiffusion:
    """dX = mu(t, X) dt + sigma(t, X) dW by the Euler scheme; the weight by the derivative process.

    ``mu`` returns (paths, dim); ``sigma`` either its diagonal (paths, dim) or the whole matrix
    (paths, dim, dim), nowhere singular. ``steps`` Euler steps span one ``travel``.

    z = sigma^T grad u has the weight I = 1/(s-t) sigma(t,x)^T int D_r^T sigma(r, X_r)^-T dW_r,
    D the derivative of the path in its start (Elworthy and Li 1994; Neufeld and Wu, arXiv
    2310.12545). What is taken is the weight of the Euler path itself, exact for whatever number of
    steps: every step's likelihood ratio behind the path's derivative up to it, averaged (Chen and
    Glasserman, SPA 2007). Of X' = X + mu h + sigma dW, (1/h) grad [X'.sigma^-T dW - h log det sigma]
    with the noise held is that ratio, so one reverse sweep through the steps gives their sum,
    without a matrix D.
    """

    mu: Coefficient
    sigma: Coefficient
    steps: int = 8
    isotropic: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps = {self.steps}: an Euler path needs at least one step")

    def advect(self, t: Paths, x: Vectors, gradient: Vectors) -> Paths:
        return (self.mu(t, x) * gradient).sum(-1)

    def _times(self, sigma: Tensor, v: Vectors) -> Vectors:
        return sigma * v if sigma.ndim == 2 else torch.bmm(sigma, v[:, :, None])[:, :, 0]

    def pull(self, t: Paths, x: Vectors, gradient: Vectors) -> Vectors:
        sigma = self.sigma(t, x)
        return self._times(sigma if sigma.ndim == 2 else sigma.mT, gradient)

    def directions(self, t: Paths, x: Vectors, signs: Probes | None) -> tuple[Tensor | None, float]:
        sigma = self.sigma(t, x)
        if signs is None:
            return (sigma if sigma.ndim == 2 else sigma.mT), 1.0
        scaled = signs / math.sqrt(signs.shape[1])
        return (scaled * sigma[:, None, :] if sigma.ndim == 2 else scaled @ sigma.mT), 1.0

    def move(self, t: Paths, x: Vectors, elapsed: Paths, increment: Vectors) -> Vectors:
        return x + self.mu(t, x) * elapsed[:, None] + self._times(self.sigma(t, x), increment)

    def travel(
        self, t: Paths, x: Vectors, elapsed: Paths, stream: Stream, shift: Vectors | None = None
    ) -> tuple[Vectors, Callable[[], Vectors]]:
        h = elapsed / self.steps
        noise = stream.normal(self.steps, *x.shape)
        increments = h.sqrt()[:, None] * noise
        extra = 0.0 if shift is None else h[:, None] * shift
        place = x
        for k in range(self.steps):
            place = self.move(t + k * h, place, h, increments[k] + extra)

        def weight() -> Vectors:
            with torch.enable_grad():
                start = x.detach().requires_grad_()
                here, pairing = start, x.new_zeros(())
                for k in range(self.steps):
                    sigma = self.sigma(t + k * h, here)
                    if sigma.ndim == 2:
                        dual, log_det = increments[k] / sigma.detach(), sigma.abs().log().sum(-1)
                    else:
                        dual = torch.linalg.solve(sigma.detach().mT, increments[k][:, :, None])[:, :, 0]
                        log_det = torch.linalg.slogdet(sigma).logabsdet
                    here = self.move(t + k * h, here, h, increments[k] + extra)
                    pairing = pairing + (here * dual).sum() - (h * log_det).sum()
                (swept,) = torch.autograd.grad(pairing, start)
            return _over(self.pull(t, x, swept), elapsed)

        return place, weight
