"""Paths under the policy of a surrogate, held constant within a step, and what a bound needs of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.contracts import NORMAL_FLOP, Linearisable, Paths, SemilinearPDE, Vectors
from kernels.streams import Stream


@dataclass(frozen=True)
class Step:
    """One step of a batch of paths, everything (paths,) in float64.

    (y^, z^) are the surrogate's at the start of the step and serve all of it; p = f_y, q = f_z there.
    """

    h: Paths
    """Length."""
    share: Paths
    """How far into the step ``change`` was looked at, uniform on (0, 1]."""
    p: Paths
    q: Paths
    """|q|."""
    cost: Paths
    """f - p y^ - q.z^ at (y^, z^), its (t, x) the start of the path: the conjugate of f at (p, q)."""
    change: Paths
    """f(s, X_s, y^, z^) minus what it is at the start of the path, s inside the step."""
    noise: Paths
    """z^.dW under the policy's measure."""


def original(problem: SemilinearPDE) -> SemilinearPDE:
    """The problem that u solves: of a defect the one it was formed from, else the problem itself."""
    return problem if problem.known is None else problem.known.problem


def surrogate(problem: SemilinearPDE, t: Paths, x: Vectors) -> tuple[Paths, Vectors]:
    """u^ and sigma^T grad u^ at a batch of (t, x); 0 for a problem without one."""
    if problem.known is None:
        return torch.zeros_like(t), torch.zeros_like(x)
    value, gradient = problem.known.value_and_gradient(t, x)
    return value, problem.law.pull(t, x, gradient)


def walk(problem: SemilinearPDE, t: Paths, x: Vectors, steps: int, stream: Stream) -> tuple[list[Step], Vectors]:
    """``steps`` equal steps to T along dX = (mu + sigma q) dt + sigma dW, and X_T.

    With q constant in a step the law moves exactly where it is exact. A driver whose slopes at given
    (y, z) move with (t, x) is refused: (p, q, cost) would then be no supporting affine function
    inside the step. f(y, z) + c(t, x) is served.
    """
    base, taken = original(problem), []
    begin, start, h = t, x, (problem.horizon - t) / steps
    for k in range(steps):
        s = begin + k * h
        y, z = surrogate(problem, s, x)
        here = Linearisable(base.driver, begin, start, y, z, linear=0.0)
        p, q = here.slopes()
        share = stream.uniform(len(t)).to(t)
        parts = [part[:, None] for part in (share * h, (1.0 - share) * h)]
        noise = [part.sqrt() * stream.normal(*x.shape) for part in parts]
        # Rounding must not carry a path past T.
        inside = (s + parts[0][:, 0]).clamp_max(problem.horizon)
        x_inside = base.law.move(s, x, parts[0][:, 0], noise[0] + parts[0] * q)
        x = base.law.move(inside, x_inside, parts[1][:, 0], noise[1] + parts[1] * q)
        there = Linearisable(base.driver, inside, x_inside, y, z, linear=0.0)
        _require_steady(base, (p, q), there.slopes())
        f = here.source().double()
        taken.append(
            Step(
                h=h.double(),
                share=share.double(),
                p=p.double(),
                q=q.double().norm(dim=-1),
                cost=f - p.double() * y.double() - (q.double() * z.double()).sum(-1),
                change=there.source().double() - f,
                noise=(z.double() * (noise[0] + noise[1]).double()).sum(-1),
            )
        )
    return taken, x


def _require_steady(problem: SemilinearPDE, before: tuple[Paths, Vectors], after: tuple[Paths, Vectors]) -> None:
    for name, old, new in zip(("f_y", "f_z"), before, after, strict=True):
        if not torch.allclose(old, new, rtol=1e-4, atol=1e-6):
            raise ValueError(
                f"{problem.name}: {name} at the same (y, z) moves with (t, x), by {(old - new).abs().max().item():.1e}; these "
                "bounds hold for drivers f(y, z) + c(t, x) only: use an estimator with its printed bias instead"
            )


def step_flop(problem: SemilinearPDE) -> float:
    """Model FLOP of one step of one path: two sets of normals, the surrogate once, the driver with slopes twice."""
    known = 0.0 if problem.known is None else problem.known.cost
    return 2.0 * NORMAL_FLOP * problem.dim + known + 4.0 * original(problem).costs().driver


def require_steps(steps: int) -> None:
    """Refuse a policy that never acts."""
    if steps < 1:
        raise ValueError(f"steps = {steps}: a policy needs at least one step")
