"""The dual bound of drivers of y: the backward equation solved path by path."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.bounds._bound import Side, Values
from kernels.bounds._walk import original, require_steps, step_flop, surrogate, walk
from kernels.contracts import Draws, Paths, Positions, SemilinearPDE, Times, Vectors
from kernels.streams import Stream

FLOW_STEPS = 4
"""Runge-Kutta steps of the scalar flow in one time step: at f_y h = 1/10 its relative error is below 10^-9."""


@dataclass(frozen=True)
class Pathwise:
    """u >= E theta_0 for a concave f(y) + c(t, x), u <= E theta_0 for a convex one, whatever the surrogate and the step:

    theta_n = g(X_T),   theta_k = Phi_h(theta_{k+1}) - z^_k.(W_{k+1} - W_k),

    Phi_h the flow of y' = f(y) over the step, z^_k = sigma^T grad u^ at its start: the dual of Bender,
    Schweizer and Zhuo (arXiv 1310.3694, section 3), here in continuous time. For a concave f, u is
    the infimum over adapted p of E[D_T g + int D f*(p) ds - sum D_k z^.dW_k], D = exp(int p ds), f*
    the conjugate, the last sum of mean zero; the infimum path by path over every p, which the
    recursion attains, lies below. A running c enters as a jump at one random time a step, which
    moves the bound outwards only (Jensen). The gap is |f_yy| Var(theta)/2 along the path: second
    order in the surrogate's error, plus |f_yy| |z|^2 h/2 from the step.

    Refused where f depends on z: there the recursion sees z only through W's increments, as
    (W_{k+1} - W_k)/h times what theta misses, whose square grows like dim/h and is no bound in
    continuous time. Draws are theta_0, or theta_0 - u^ on a defect.
    """

    steps: int

    terms: tuple[str, ...] = ("pathwise",)
    exponential: bool = False
    biases: tuple[str, ...] = ()

    def side(self, problem: SemilinearPDE) -> Side:
        if problem.curvature is None:
            raise ValueError(f"{problem.name}: the dual bound needs a driver concave or convex in y, and its curvature is None")
        return "lower" if problem.curvature == "concave" else "upper"

    def read(self, problem: SemilinearPDE, mean: Values) -> Values:
        return mean

    @torch.no_grad()
    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        self.side(problem)
        rows = t.repeat_interleave(draws), x.repeat_interleave(draws, 0)
        taken, end = walk(problem, *rows, self.steps, stream)
        theta = original(problem).terminal(end).double()
        for step in reversed(taken):
            if bool(step.q.any()):
                raise ValueError(f"{problem.name}: f depends on z, where the pathwise dual is no bound: see the other bounds")
            theta = _flow(problem, *rows, theta, (1.0 - step.share) * step.h)
            theta = theta + step.h * step.change
            theta = _flow(problem, *rows, theta, step.share * step.h) - step.noise
        return (theta - surrogate(problem, *rows)[0].double()).reshape(-1, draws)

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        cost = original(problem).costs()
        return draws * (self.steps * (step_flop(problem) + 8 * FLOW_STEPS * cost.driver) + cost.terminal)

    def rows(self, term: str, draws: int) -> int:
        return draws


def _flow(problem: SemilinearPDE, t: Paths, x: Vectors, y: Tensor, elapsed: Tensor) -> Tensor:
    """y(elapsed) of y' = f(t, x, y), (t, x) fixed, by the classical Runge-Kutta method in float64."""
    driver, s, place, zero = original(problem).driver, t.double(), x.double(), torch.zeros_like(x, dtype=torch.float64)
    h = elapsed / FLOW_STEPS
    for _ in range(FLOW_STEPS):
        k_1 = driver(s, place, y, zero)
        k_2 = driver(s, place, y + 0.5 * h * k_1, zero)
        k_3 = driver(s, place, y + 0.5 * h * k_2, zero)
        k_4 = driver(s, place, y + h * k_3, zero)
        y = y + h / 6.0 * (k_1 + 2.0 * k_2 + 2.0 * k_3 + k_4)
    return y


def pathwise(*, steps: int = 8) -> Pathwise:
    """The equation solved path by path: the other side of the policy bound where f depends on y alone.

    :param steps: equal time steps in which z^ is held, at least 1; more close the gap as 1/steps
    """
    require_steps(steps)
    return Pathwise(steps)
