"""What a gradient estimator is, and how z = sigma^T grad u and grad u are exchanged."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.contracts import Law, Positions, SemilinearPDE, Times
from kernels.streams import Stream

VectorDraws = Float[Tensor, "points dim draws"]


@runtime_checkable
class GradientEstimator(Protocol):
    """An :class:`~kernels.contracts.Estimator` of z = sigma^T grad u: a sum of terms, biases named, draws (points, dim, draws).

    Moments, which are taken over the last axis, then give mean and standard error of every component.
    On a defect it estimates sigma^T grad v; grad u = grad u^ + grad v.
    """

    @property
    def terms(self) -> tuple[str, ...]: ...

    @property
    def biases(self) -> tuple[str, ...]: ...

    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> VectorDraws:
        """``draws`` independent draws of a term or bias at each of the points (t, x)."""
        ...

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        """Expected model FLOP of ``draws`` draws of a term at one point, normals included."""
        ...

    def rows(self, term: str, draws: int) -> int:
        """Largest batch of (t, x) alive at once for ``draws`` draws at one point."""
        ...


def gradient_draws(law: Law, t: Times, x: Positions, z: VectorDraws) -> VectorDraws:
    """grad u of draws of z = sigma(t, x)^T grad u, by solving with sigma^T; float64.

    Its standard errors are those of these draws: components of z that a full sigma mixes are
    correlated.
    """
    points, dim = x.shape
    units = torch.eye(dim, dtype=x.dtype, device=x.device).repeat(points, 1)
    # Row i of a point is sigma^T e_i.
    pulled = law.pull(t.repeat_interleave(dim), x.repeat_interleave(dim, 0), units).reshape(points, dim, dim)
    return torch.linalg.solve(pulled.double().mT, z.double())
