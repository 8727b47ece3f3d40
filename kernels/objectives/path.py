"""The path (martingale) objective: what the surrogate misses along a simulated path."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kernels.contracts import NORMAL_FLOP, SemilinearPDE, Surrogate
from kernels.streams import Stream


class PathLoss(nn.Module):
    """Mean of |u^(t, x) - [g(X_T) + sum f(s, X, u^, z^) ds - sum z^ dW]|^2 over paths.

    The exact solution makes every path's bracket equal u(t, x) (Ito), up to the time step; the
    loss is then the variance that a correction would see, plus the squared bias. Only gradients
    are needed. Times are graded quadratically towards T: s_k = T - (T-t)(1 - k/steps)^2.
    """

    def __init__(self, problem: SemilinearPDE, surrogate: Surrogate, steps: int) -> None:
        super().__init__()
        self.problem, self.surrogate, self.steps = problem, surrogate, steps

    def sample(self, paths: int, stream: Stream) -> tuple[Tensor, Tensor, Tensor]:
        """Start points from the evaluation law, paths of X from them.

        Returns times (steps + 1, paths), positions (steps + 1, paths, dim) and increments of W
        (steps, paths, dim).
        """
        problem = self.problem
        t, x = problem.sample_points(paths, stream)
        times, positions, increments = [t], [x], []
        for k in range(1, self.steps + 1):
            s = problem.horizon - (problem.horizon - t) * (1.0 - k / self.steps) ** 2
            elapsed = s - times[-1]
            dw = elapsed.sqrt()[:, None] * stream.normal(*x.shape)
            positions.append(problem.law.move(positions[-1], elapsed, dw))
            times.append(s)
            increments.append(dw)
        return torch.stack(times), torch.stack(positions), torch.stack(increments)

    def forward(self, times: Tensor, positions: Tensor, increments: Tensor) -> Tensor:
        problem, steps = self.problem, self.steps
        paths = times.shape[1]
        t, x = times[:-1].reshape(-1), positions[:-1].reshape(steps * paths, -1)
        value, gradient = self.surrogate.value_and_gradient(t, x)
        z = problem.law.sigma * gradient
        f = problem.driver(t, x, value, z).reshape(steps, paths)
        martingale = (z * increments.reshape(steps * paths, -1)).sum(-1).reshape(steps, paths)
        gain = f * times.diff(dim=0) - martingale
        to_go = gain.flip(0).cumsum(0).flip(0)
        return (value.reshape(steps, paths) - problem.terminal(positions[-1]) - to_go).square().mean()

    def flop(self, paths: int) -> float:
        """Model FLOP of loss and gradient: three sweeps of value and gradient, and the normals."""
        rows = paths * self.steps
        first_order, _ = self.surrogate.flop(None)
        return rows * (3.0 * first_order + 3.0 * self.problem.costs().driver + NORMAL_FLOP * self.problem.dim)


def path(problem: SemilinearPDE, surrogate: Surrogate, *, steps: int = 8) -> PathLoss:
    """Martingale loss over paths of ``steps`` steps graded towards T.

    :param steps: time steps of a path, at least 1
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}: a path needs at least one time step")
    return PathLoss(problem, surrogate, steps)
