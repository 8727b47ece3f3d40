"""The primal bound: what the surrogate's own policy costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.bounds._bound import Side, Values
from kernels.bounds._walk import original, require_steps, step_flop, surrogate, walk
from kernels.contracts import Draws, Paths, Positions, SemilinearPDE, Times, Vectors
from kernels.streams import Stream


@dataclass(frozen=True)
class Policy:
    """u <= E S for a concave driver, u >= E S for a convex one, whatever the surrogate and the step:

    S = D_T g(X_T) + int D_s [f(y^, z^) - p y^ - q.z^] ds - sum_k D_k z^.dW_k,   D = exp(int p ds),

    along dX = (mu + sigma q) dt + sigma dW, with (y^, z^) = (u^, sigma^T grad u^) at the start of each
    step, p = f_y and q = f_z there. The affine function p y + q.z + f(y^, z^) - p y^ - q.z^ supports a
    concave f from above at every (y, z), so the linear equation it drives lies above u (comparison;
    El Karoui, Peng and Quenez 1997, section 3; Bender, Schweizer and Zhuo, arXiv 1310.3694, primal
    bound). The last sum has mean zero. The gap is second order: E int D |F| ds, F the excess of f over
    its tangent at what (y^, z^), held, miss of (u, z), so it falls as (surrogate's error)^2 + 1/steps;
    so does the variance, towards 0 for the exact surrogate.

    No time-step bias where the law moves exactly; of an Euler law the step biases the law. Draws
    are S, or S - u^ on a defect.
    """

    steps: int

    terms: tuple[str, ...] = ("policy",)
    exponential: bool = False
    biases: tuple[str, ...] = ()

    def side(self, problem: SemilinearPDE) -> Side:
        if problem.curvature is None:
            raise ValueError(
                f"{problem.name}: a policy bounds where the driver is concave or convex in (y, z), and its curvature is None: "
                "set curvature if it is either"
            )
        return "upper" if problem.curvature == "concave" else "lower"

    def read(self, problem: SemilinearPDE, mean: Values) -> Values:
        return mean

    @torch.no_grad()
    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        self.side(problem)
        rows = t.repeat_interleave(draws), x.repeat_interleave(draws, 0)
        return payoff(problem, *rows, self.steps, stream, discounted=True).reshape(-1, draws)

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        return draws * (self.steps * step_flop(problem) + original(problem).costs().terminal)

    def rows(self, term: str, draws: int) -> int:
        return draws


def payoff(problem: SemilinearPDE, t: Paths, x: Vectors, steps: int, stream: Stream, *, discounted: bool) -> Paths:
    """One S - u^(t, x) a row, float64; without discount a driver that depends on y is refused."""
    taken, end = walk(problem, t, x, steps, stream)
    discount, total = torch.ones_like(t, dtype=torch.float64), -surrogate(problem, t, x)[0].double()
    for step in taken:
        if not discounted and bool(step.p.any()):
            raise ValueError(f"{problem.name}: f depends on y, and the exponential transform serves f(z) + c(t, x) only")
        rate = step.p * step.h
        # (exp(p h) - 1)/p without 0/0.
        integral = step.h * torch.where(rate == 0.0, 1.0, torch.expm1(rate) / rate)
        looked_at = step.h * torch.exp(rate * step.share) * step.change
        total = total + discount * (integral * step.cost + looked_at - step.noise)
        discount = discount * torch.exp(rate)
    return total + discount * original(problem).terminal(end).double()


def policy(*, steps: int = 8) -> Policy:
    """What the surrogate's policy costs: bounds u from above where f is concave, from below where it is convex.

    :param steps: equal time steps in which the policy is held, at least 1; more close the gap as 1/steps
    """
    require_steps(steps)
    return Policy(steps)
