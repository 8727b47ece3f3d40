"""The path (martingale) objective: what the surrogate misses along a simulated path."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kernels.contracts import NORMAL_FLOP, SemilinearPDE, Surrogate
from kernels.streams import Stream


class PathLoss(nn.Module):
    """Mean of |u^(s_k, X_k) - [g(X_T) + sum_{j>=k} (f_j + f_{j+1}) ds/2 - sum_{j>=k} z^_j dW]|^2, f_j = f(s_j, X_j, u^, z^).

    The mean is over paths and their times s_k < T. The trapezoidal rule leaves a bias of second order
    in the time step, which decides where f is steep; the martingale needs the left ends. With the
    exact solution every bracket equals u(s_k, X_k) (Ito), up to the time step; else the loss is the variance that a correction would
    see plus the squared bias. Every time of the path counts, not its start alone: with the start
    alone u_t stays free along the path, and the residual there is large. Only gradients are
    needed. Times are graded quadratically towards T: s_k = T - (T-t)(1 - k/steps)^2.
    """

    def __init__(self, problem: SemilinearPDE, surrogate: Surrogate, steps: int) -> None:
        super().__init__()
        self.problem, self.surrogate, self.steps = problem, surrogate, steps

    def sample(self, paths: int, stream: Stream) -> tuple[Tensor, Tensor, Tensor]:
        """Start points from the evaluation law, paths of X from them.

        Returns times (paths, steps + 1), positions (paths, steps + 1, dim) and increments of W
        (paths, steps, dim).
        """
        problem = self.problem
        t, x = problem.sample_points(paths, stream)
        times, positions, increments = [t], [x], []
        for k in range(1, self.steps + 1):
            s = problem.horizon - (problem.horizon - t) * (1.0 - k / self.steps) ** 2
            elapsed = s - times[-1]
            dw = elapsed.sqrt()[:, None] * stream.normal(*x.shape)
            positions.append(problem.law.move(times[-1], positions[-1], elapsed, dw))
            times.append(s)
            increments.append(dw)
        return torch.stack(times, 1), torch.stack(positions, 1), torch.stack(increments, 1)

    def forward(
        self,
        times: Float[Tensor, "paths nodes"],
        positions: Float[Tensor, "paths nodes dim"],
        increments: Float[Tensor, "paths steps dim"],
    ) -> Float[Tensor, ""]:
        problem = self.problem
        t, x = times.flatten(), positions.flatten(0, 1)
        value, gradient = self.surrogate.value_and_gradient(t, x)
        z = problem.law.pull(t, x, gradient)
        f = problem.driver(t, x, value, z).reshape(times.shape)
        martingale = (z.reshape(positions.shape)[:, :-1] * increments).sum(-1)
        gain = 0.5 * (f[:, :-1] + f[:, 1:]) * times.diff(dim=1) - martingale
        to_go = gain.flip(1).cumsum(1).flip(1)
        target = problem.terminal(positions[:, -1])[:, None] + to_go
        return (value.reshape(times.shape)[:, :-1] - target).square().mean()

    def flop(self, paths: int) -> float:
        """Model FLOP of loss and gradient: three sweeps of value and gradient, and the normals."""
        rows = paths * (self.steps + 1)
        first_order, _ = self.surrogate.flop(None)
        return rows * (3.0 * first_order + 3.0 * self.problem.costs().driver + NORMAL_FLOP * self.problem.dim)


def path(problem: SemilinearPDE, surrogate: Surrogate, *, steps: int = 8) -> PathLoss:
    """Martingale loss over paths of ``steps`` steps graded towards T.

    :param steps: time steps of a path, at least 1
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}: a path needs at least one time step")
    return PathLoss(problem, surrogate, steps)
