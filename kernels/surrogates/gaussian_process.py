"""A Gaussian process conditioned on the PDE itself, by Gauss-Newton collocation."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from kernels.contracts import Jet, Paths, SemilinearPDE, Vectors
from kernels.jets import jet_in_parts
from kernels.streams import Stream
from kernels.surrogates._ansatz import profile_flop
from kernels.surrogates._collocation import COLLOCATION, Collocation, Fit, gauss_newton
from kernels.surrogates._gaussian_kernel import Basis, Kernel, Rows

START = (1.0, 64.0, 1.0)
"""First lengths tried, of h, x and g, in root mean square distances of the points."""

COARSE = 0.5
"""Share of the points that the search for lengths solves with: an eighth of the work."""

TRIALS = 24
"""Lengths tried at most."""

GAIN = 0.9
"""A length is kept where it brings the mean square residual held out below this share."""

MAX_POINTS = 10_000
"""Centres at most: the fit's matrices then fill 13 GB."""

KERNEL_ENTRIES = 2**19
"""Kernel values alive at once in an evaluation: 4 MB, small enough for the cache."""


class GaussianProcess(nn.Module):
    """u^(t, x) = g(t, x) + h(t) sum_j c_j k(p, p_j), k(p, q) = exp(-|p - q|^2/2), p = (h(t)/l_h, x/l_x, g(t, x)/l_g).

    A Gaussian process of mean g and covariance h(t) h(t') k that is observed through the PDE at
    collocation points (Chen, Hosseini, Owhadi, Stuart, JCP 2021, arXiv 2103.12959; the surrogate
    of SCaSML for viscous Burgers, arXiv 2504.16172). ``fit`` minimises

        mean_i r(t_i, x_i)^2 / rho^2 + nugget c.K c / (rho T)^2,    K_ij = k(p_i, p_j),

    r the residual of u^, rho^2 its mean square at c = 0. Departure from the paper: the basis is k
    at the centres (Kansa) and not also the derivatives of k that the PDE observes, with twice as
    many residuals as centres. Gauss-Newton: r is linear in u_t, grad u and Hess u; f is linearised
    at the iterate by automatic differentiation, so every driver and path law will do. The points
    are those that a correction visits, the first of them the centres. No solution enters.

    g is the problem's profile, the terminal condition itself where it has none; h the problem's clock,
    0 at T: u^ meets the terminal condition exactly.

    g(t, x) is a coordinate of the kernel because u keeps close to the level sets of g: k in (t, x)
    alone sees little at 1000 points (viscous Burgers in 20 dimensions: relative L2 1.5e-2, with it
    below 1e-5). The three lengths are chosen by the residual at points held out. The Laplacian of k
    is one more matrix product, so that an isotropic law gets it exactly whatever random directions
    are asked for: it is their mean.

    scikit-learn and GPyTorch condition on values and gradients, not on second derivatives inside a
    nonlinear functional: hence linear algebra by hand. All of it is float64: the c_j alternate, and
    a smooth sum of order 1 is made of terms up to 10^6.
    """

    meets_terminal = True

    centres: Tensor
    coefficients: Tensor
    origin: Tensor
    lengths: Tensor

    def __init__(
        self, problem: SemilinearPDE, *, points: int, length_scale: float | None, nugget: float, iterations: int
    ) -> None:
        super().__init__()
        self.problem = problem
        self.points, self.length_scale, self.nugget, self.iterations = points, length_scale, nugget, iterations
        self.register_buffer("centres", torch.zeros(points, problem.dim + 2, dtype=torch.float64))
        self.register_buffer("coefficients", torch.zeros(points, dtype=torch.float64))
        self.register_buffer("origin", torch.zeros(problem.dim + 2, dtype=torch.float64))
        self.register_buffer("lengths", torch.ones(3, dtype=torch.float64))

    def value_and_gradient(self, t: Paths, x: Vectors) -> tuple[Paths, Vectors]:
        jet = self._in_parts(t, x, None, second=False)
        return jet.value, jet.gradient

    def jet(self, t: Paths, x: Vectors, directions: Tensor | None) -> Jet:
        return self._in_parts(t, x, None if self.problem.law.isotropic else directions, second=True)

    def _in_parts(self, t: Paths, x: Vectors, directions: Tensor | None, *, second: bool) -> Jet:
        kernel = Kernel(self.origin, self.lengths, self.centres)

        def part(t: Tensor, x: Tensor, directions: Tensor | None) -> Jet:
            along = None if directions is None else directions.to(self.centres)
            rows = Rows(self.problem, t.to(self.centres), x.to(self.centres), along, second=second)
            jet = Basis(kernel, rows).jet(self.coefficients, second=second)
            return Jet(*(part.to(x.dtype) for part in (jet.value, jet.dt, jet.gradient, jet.laplacian)))

        vectors = directions.shape[1] if directions is not None and directions.ndim == 3 else 1
        return jet_in_parts(part, t, x, directions, max(1, KERNEL_ENTRIES // (self.points * vectors)))

    def flop(self, probes: int | None) -> tuple[float, float]:
        # Booked twice: a product in float64 takes the time of two in float32.
        product, pointwise = 4.0 * self.points * (self.problem.dim + 2), 40.0 * self.points
        isotropic = self.problem.law.isotropic
        second = 1.0 if isotropic else 2.0 if probes is None else probes
        terminal = profile_flop(self.problem, None if isotropic else probes)
        return 2.0 * product + pointwise, (2.0 + second) * product + pointwise + terminal

    def fit_cost(self) -> tuple[float, float]:
        def solution(points: int) -> float:
            rows = COLLOCATION * points
            one = 2.0 * rows * points * (points + 4.0 * self.problem.dim) + points**3 / 3.0
            return 2.0 * self.iterations * one

        search = TRIALS * solution(math.ceil(COARSE * self.points)) if self.length_scale is None else 0.0
        return search + solution(self.points), 8.0 * (6.0 * COLLOCATION + 4.0) * self.points**2

    @torch.no_grad()
    def fit(self, stream: Stream) -> list[float]:
        """Solve the collocation problem. Returns its loss at c = 0, which is 1, and after each iteration."""
        seen = Collocation(self.problem, self.points, stream)
        self.origin.copy_(seen.rows.features.mean(0))
        variance = seen.rows.features.var(0)
        spread = torch.stack((variance[0], variance[1:-1].sum(), variance[-1])).mul(2.0).sqrt()
        spread[spread == 0.0] = 1.0
        if self.length_scale is None:
            coarse = Collocation(self.problem, math.ceil(COARSE * self.points), stream)
            lengths = self._search(coarse, spread * spread.new_tensor(START))
        else:
            lengths = self.length_scale * spread
        best = self._solve(seen, lengths)
        rank = len(best.coefficients)
        self.lengths.copy_(lengths)
        self.centres[:rank], self.coefficients[:rank] = best.kernel.centres, best.coefficients
        self.centres[rank:], self.coefficients[rank:] = 0.0, 0.0
        return best.losses

    def _search(self, seen: Collocation, start: Tensor) -> Tensor:
        """Lengths by compass search: one is doubled or halved while the residual held out falls."""
        best, lengths = self._solve(seen, start).held_out, start
        tried, found = {tuple(start.tolist())}, True
        while found:
            found = False
            for axis, factor in itertools.product(range(3), (2.0, 0.5)):
                while len(tried) < TRIALS:
                    trial = lengths.clone()
                    trial[axis] *= factor
                    if (key := tuple(trial.tolist())) in tried:
                        break
                    tried.add(key)
                    if not (held_out := self._solve(seen, trial).held_out) < GAIN * best:
                        break
                    best, lengths, found = held_out, trial, True
        return lengths

    def _solve(self, seen: Collocation, lengths: Tensor) -> Fit:
        centres = Kernel.place(seen.rows.features[: seen.points], self.origin, lengths)
        return gauss_newton(seen, Kernel(self.origin, lengths, centres), self.nugget, self.iterations)


def gaussian_process(
    problem: SemilinearPDE,
    *,
    seed: int,
    points: int = 1000,
    length_scale: float | None = None,
    nugget: float = 1e-9,
    iterations: int = 10,
) -> GaussianProcess:
    """Gaussian process that meets the terminal condition exactly, fitted to the PDE at twice ``points`` collocation points.

    ``seed`` is unused: all that is random is drawn by ``fit``.

    :param points: centres of the kernel, at least 1; a fit takes time points^3, an evaluation points
    :param length_scale: of the kernel in each of h, x, g over the root mean square distance of the
        points there, > 0; None chooses one for each by the residual held out
    :param nugget: weight of the norm c.K c, > 0: the variance of noise on the observed PDE, over rho^2
    :param iterations: Gauss-Newton steps at most, at least 1
    """
    if not 1 <= points <= MAX_POINTS:
        raise ValueError(f"points = {points}: from 1 to {MAX_POINTS} centres are served")
    if iterations < 1:
        raise ValueError(f"iterations = {iterations}: at least one Gauss-Newton step is needed")
    if not nugget > 0.0:
        raise ValueError(f"nugget = {nugget}: should be > 0, for example 1e-9; without it the normal equations are singular")
    if length_scale is not None and not length_scale > 0.0:
        raise ValueError(f"length_scale = {length_scale}: should be > 0, or left out to be chosen from the PDE residual")
    return GaussianProcess(problem, points=points, length_scale=length_scale, nugget=nugget, iterations=iterations)
