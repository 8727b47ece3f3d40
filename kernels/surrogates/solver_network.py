"""A linear solver that is a network, trained on systems that are already solved."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kernels.axes import Columns, Unknowns
from kernels.contracts import LinearSystem
from kernels.optimizers.adam import adam
from kernels.streams import Stream
from kernels.surrogates._approximate_inverse import ApproximateInverse

HELD_OUT = 8
"""Pairs on which the training is judged."""

BATCH = 128
"""Combinations of pairs in a step."""

LEARNING_RATE = 4e-3
"""Of Adam, at first; it falls to 0 as a cosine."""


class SolverNetwork(ApproximateInverse):
    """B r = V S |y| N(y/|y|), y = G^-1 V^T r, N(a) = W a + C tanh(D a): B (c r) = c B r for every number c, and B 0 = 0.

    V (sqrt(N) S) R^T is the singular value decomposition of the solutions of N pairs A u_j = f_j, G the root mean square of V^T f_j
    row by row: a network between principal components (PCA-Net, Bhattacharya et al., SMAI J. Comput. Math. 2021), N near
    the identity for symmetric A. ``fit`` starts from W = I and C = 0, and descends E |N(a) - z/|y||^2 over random
    combinations of pairs, solved pairs as well: u = V S z, f = F R z/sqrt(N), z_i = g_i exp(h_i) of standard normals g and h, so
    that spectra as uneven as an iteration's residuals are seen. Nonlinear in r, and blind outside the span of V.

    Reading r by V is Galerkin's choice, good for A near symmetric; C = 0 and W at its best would be V (V^T A V)^-1 V^T.
    """

    basis: Tensor
    reading: Tensor
    writing: Tensor
    weight: Tensor
    inner: Tensor
    outer: Tensor

    def __init__(self, problem: LinearSystem, *, pairs: int, width: int, steps: int) -> None:
        super().__init__(problem)
        self.pairs, self.width, self.steps = pairs, width, steps
        shapes = {
            "basis": (problem.dim, pairs),
            "reading": (pairs,),
            "writing": (pairs,),
            "weight": (pairs, pairs),
            "inner": (width, pairs),
            "outer": (pairs, width),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def solve(self, r: Unknowns, /) -> Unknowns:
        return self._solve(r[:, None])[:, 0]

    def _solve(self, r: Columns) -> Columns:
        y = self.reading[:, None] * (self.basis.T @ r)
        # Divided by the largest first: the squares in the norm of a tiny or huge y leave the range of a float.
        largest = y.abs().amax(0)
        y = y / torch.where(largest > 0.0, largest, 1.0)
        norm = torch.linalg.vector_norm(y, dim=0)
        z = _network(self._weights(), (y / torch.where(norm > 0.0, norm, 1.0)).T).T
        return self.basis @ (self.writing[:, None] * z * norm) * largest

    def _weights(self) -> list[Tensor]:
        return [self.weight, self.inner, self.outer]

    def _network_flop(self) -> float:
        return 2.0 * self.pairs**2 + 4.0 * self.pairs * self.width + 10.0 * self.width

    def solve_flop(self) -> float:
        return 4.0 * self.problem.dim * self.pairs + self._network_flop()

    def fit_cost(self) -> tuple[float, float]:
        n, pairs = float(self.problem.dim), float(self.pairs)
        decomposed = 16.0 * n * pairs**2 + 10.0 * pairs**3 + pairs * self.problem.flop()
        parameters = pairs**2 + 2.0 * pairs * self.width
        step = 3.0 * BATCH * self._network_flop() + HELD_OUT * self.solve_flop() + 2.0 * BATCH * pairs**2 + 20.0 * parameters
        return decomposed + self.steps * step, 8.0 * (
            6.0 * n * pairs + 8.0 * parameters + BATCH * (6.0 * pairs + 3.0 * self.width)
        )

    @torch.no_grad()
    def fit(self, stream: Stream) -> list[float]:
        """Train B. Returns its root mean square error |B f - u|/|u| on other pairs, before the first step and after each."""
        assert self.problem.pairs is not None
        f, u = self.problem.pairs(self.pairs, stream)
        v, s, rt = torch.linalg.svd(u, full_matrices=False)
        features = v.T @ f
        size = features.square().mean(1).sqrt()
        # Components of the size of rounding are none: they are neither read nor written.
        seen = (s > torch.finfo(s.dtype).eps * max(u.shape) * s[0]) & (size > 0.0)
        self.basis.copy_(v)
        self.reading.copy_(torch.where(seen, 1.0 / size, 0.0))
        self.writing.copy_(torch.where(seen, s, 0.0) / math.sqrt(self.pairs))
        read = self.reading[:, None] * (features @ rt.T) / math.sqrt(self.pairs)
        judged = self.problem.pairs(HELD_OUT, stream)
        self.weight.copy_(torch.eye(self.pairs))
        self.inner.copy_(stream.normal(self.width, self.pairs, dtype=torch.float64))
        self.outer.zero_()
        weights = [nn.Parameter(w.clone()) for w in self._weights()]
        optimizer = adam(weights, learning_rate=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        errors = [self._error(*judged)]
        for _ in range(self.steps):
            g, h = stream.normal(2, BATCH, self.pairs, dtype=torch.float64)
            z = g * h.exp()
            y = z @ read.T
            norm = torch.linalg.vector_norm(y, dim=1, keepdim=True)
            with torch.enable_grad():
                loss = (_network(weights, y / norm) - seen * z / norm).square().sum(1).mean()
                for w, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                    w.grad = slope
            optimizer.step()
            schedule.step()
            for kept, w in zip(self._weights(), weights, strict=True):
                kept.copy_(w)
            errors.append(self._error(*judged))
        return errors

    def _error(self, f: Columns, u: Columns) -> float:
        error = torch.linalg.vector_norm(self._solve(f) - u, dim=0)
        return float((error / torch.linalg.vector_norm(u, dim=0)).square().mean().sqrt())


def _network(weights: list[Tensor] | list[nn.Parameter], a: Tensor) -> Tensor:
    """N at rows. Without biases it is odd."""
    weight, inner, outer = weights
    return a @ weight.T + torch.tanh(a @ inner.T) @ outer.T


def solver_network(problem: LinearSystem, *, seed: int, pairs: int = 100, width: int = 128, steps: int = 500) -> SolverNetwork:
    """Approximate inverse of A, a network between the principal components of ``pairs`` solutions, for A near symmetric.

    It is not linear: plain conjugate gradients and GMRES promise nothing with it, fcg and fgmres are right. ``seed`` is unused:
    all that is random is drawn by ``fit``.

    :param pairs: solved systems to learn from, from 1 to dim
    :param width: units of the hidden layer, at least 1
    :param steps: of Adam on random combinations of pairs, at least 1
    """
    if problem.pairs is None:
        raise ValueError(f"'{problem.name}' offers no solved systems to learn from: give its record 'pairs'")
    if not 1 <= pairs <= problem.dim:
        raise ValueError(f"pairs = {pairs}: from 1 to dim = {problem.dim} solved systems are served")
    if width < 1 or steps < 1:
        raise ValueError(f"width = {width}, steps = {steps}: a network has at least one unit and is trained by at least one step")
    return SolverNetwork(problem, pairs=pairs, width=width, steps=steps)
