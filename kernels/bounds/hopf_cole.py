"""The exponential bound of drivers of z with bounded curvature; the exact solution where they are quadratic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from kernels.bounds._bound import Side, Values
from kernels.bounds._walk import original, require_steps, step_flop
from kernels.bounds.policy import payoff
from kernels.contracts import Draws, Positions, SemilinearPDE, Times
from kernels.streams import Stream


@dataclass(frozen=True)
class HopfCole:
    """u >= -(1/kappa) log E exp(-kappa S) for a concave f(z) + c(t, x), u <= (1/kappa) log E exp(kappa S) for a convex one,

    S the sample of :class:`~kernels.bounds.policy.Policy` and kappa the problem's ``z_curvature``:
    |f(z + zeta) - f(z) - f_z.zeta| <= kappa |zeta|^2/2. Under the policy's measure the process
    U = -(1/kappa) log E_s exp(-kappa S_s) has the driver f(z^) + f_z.(Z - z^) - kappa |Z - z^|^2/2 with
    z^ held within a step, which lies below f: comparison (Kobylanski 2000). For f = -kappa |z|^2/2 the
    two are equal and the left side is u itself, for any surrogate and step: S is minus the
    logarithm over kappa of the Girsanov-weighted Hopf-Cole payoff exp(-kappa g(X_T)). A running c is looked at once a
    step, which moves the bound outwards only (Jensen).

    Draws are exp(-+kappa (S - u^)), of relative variance about kappa^2 Var S = 2 kappa times the gap
    of the policy bound: above 1 their mean is not to be trusted at feasible numbers of draws.
    """

    steps: int

    terms: tuple[str, ...] = ("exponential",)
    exponential: bool = True
    biases: tuple[str, ...] = ()

    def side(self, problem: SemilinearPDE) -> Side:
        if problem.curvature is None or problem.z_curvature is None:
            raise ValueError(
                f"{problem.name}: curvature = {problem.curvature}, z_curvature = {problem.z_curvature}; the exponential bound "
                "needs both, and an f free of y"
            )
        return "lower" if problem.curvature == "concave" else "upper"

    def _rate(self, problem: SemilinearPDE) -> float:
        """-kappa for a concave driver, kappa for a convex one."""
        upper = self.side(problem) == "upper"
        assert problem.z_curvature is not None
        return problem.z_curvature if upper else -problem.z_curvature

    def read(self, problem: SemilinearPDE, mean: Values) -> Values:
        return np.log(mean) / self._rate(problem)

    @torch.no_grad()
    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        rows = t.repeat_interleave(draws), x.repeat_interleave(draws, 0)
        s = payoff(problem, *rows, self.steps, stream, discounted=False)
        return torch.exp(self._rate(problem) * s).reshape(-1, draws)

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        return draws * (self.steps * step_flop(problem) + original(problem).costs().terminal)

    def rows(self, term: str, draws: int) -> int:
        return draws


def hopf_cole(*, steps: int = 8) -> HopfCole:
    """Exponential transform under the surrogate's measure: the other side of the policy bound for f(z) + c(t, x).

    :param steps: equal time steps in which the policy is held, at least 1; more lower the variance as 1/steps
    """
    require_steps(steps)
    return HopfCole(steps)
