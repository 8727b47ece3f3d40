"""The path (martingale) objective: what the surrogate misses along a simulated path."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from kernels.contracts import NORMAL_FLOP, SemilinearPDE, Surrogate
from kernels.objectives._curriculum import Curriculum
from kernels.objectives._drift import Drift
from kernels.objectives._weighting import Name, Weighting, mean_square, weighting_of
from kernels.streams import Stream


class PathLoss(nn.Module):
    """Mean of |u^(s_k, X_k) - [g(X_T) + sum_{j>=k} ((f_j + f_{j+1}) ds/2 - z^_j dW_j)]|^2, f_j = f(s_j, X_j, u^, z^).

    The mean is over paths and their times s_k < T. The trapezoidal rule leaves a bias of second order
    in the time step, which decides where f is steep; the martingale needs the left ends. With the
    exact solution every bracket equals u(s_k, X_k) (Ito), up to the time step; else the loss is the variance that a correction would
    see plus the squared bias. Every time of the path counts, not its start alone: with the start
    alone u_t stays free along the path, and the residual there is large. Only gradients are
    needed. Times are graded quadratically towards T: s_k = T - (T-t)(1 - k/steps)^2.

    A share ``drift`` of the paths drifts by sigma b, b = f_z(u^) held over a step (``Drift``); there
    (z^_j + z^_{j+1}).b_j ds/2 joins the martingale. On these paths what
    the trapezoidal rule adds to that of left ends has no gradient: at the left ends f_z.dz and b.dz
    cancel in it, and with them a noise that grows with f_z.
    """

    def __init__(
        self,
        problem: SemilinearPDE,
        surrogate: Surrogate,
        steps: int,
        drift: float,
        weighting: Weighting | None = None,
        curriculum: float | None = None,
    ) -> None:
        super().__init__()
        self.problem, self.surrogate, self.steps, self.drift = problem, surrogate, steps, Drift(problem, surrogate, drift)
        self.weighting, self.curriculum = weighting, Curriculum(problem.horizon, curriculum)

    def sample(self, paths: int, stream: Stream, progress: float = 1.0) -> tuple[Tensor, ...]:
        """Starts (paths,) and (paths, dim), standard normals (paths, steps, dim), and where some drift, which (paths,).

        ``progress`` is the share of the steps that is done.
        """
        problem = self.problem
        t, x = problem.sample_points(paths, stream)
        if self.curriculum.share is not None:
            wait = self.curriculum.wait(t, progress)
            t, x = t + wait, problem.law.travel(t, x, wait, stream)[0]
        normals = torch.stack([stream.normal(*x.shape) for _ in range(self.steps)], 1)
        if self.drift.share == 0.0:
            return t, x, normals
        t, x, moving = self.drift.begin(t, x)
        return t, x, normals, moving

    @torch.no_grad()
    def paths(
        self,
        t: Float[Tensor, " paths"],
        x: Float[Tensor, "paths dim"],
        normals: Float[Tensor, "paths steps dim"],
        rows: Int[Tensor, " moving"],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Times (paths, steps + 1), positions, increments of W, and b ds (moving, steps, dim) of the paths ``rows`` that drift."""
        problem = self.problem
        times, positions, increments, shifts = [t], [x], [], []
        for k in range(1, self.steps + 1):
            s = problem.horizon - (problem.horizon - t) * (1.0 - k / self.steps) ** 2
            elapsed = s - times[-1]
            dw = elapsed.sqrt()[:, None] * normals[:, k - 1]
            shift = self.drift.slope(times[-1][rows], positions[-1][rows]) * elapsed[rows, None]
            positions.append(problem.law.move(times[-1], positions[-1], elapsed, dw.index_add(0, rows, shift)))
            times.append(s)
            increments.append(dw)
            shifts.append(shift)
        return torch.stack(times, 1), torch.stack(positions, 1), torch.stack(increments, 1), torch.stack(shifts, 1)

    def _missed(
        self,
        t: Float[Tensor, " paths"],
        x: Float[Tensor, "paths dim"],
        normals: Float[Tensor, "paths steps dim"],
        moving: Tensor | None = None,
    ) -> tuple[Float[Tensor, "paths steps"], Float[Tensor, "paths steps"]]:
        """Times s_k < T, and what the surrogate misses there."""
        problem = self.problem
        rows = torch.empty(0, dtype=torch.long, device=t.device) if moving is None else torch.nonzero(moving)[:, 0]
        times, positions, increments, shifts = self.paths(t, x, normals, rows)
        t, x = times.flatten(), positions.flatten(0, 1)
        value, gradient = self.surrogate.value_and_gradient(t, x)
        z = problem.law.pull(t, x, gradient)
        f = problem.driver(t, x, value, z).reshape(times.shape)
        z = z.reshape(positions.shape)
        martingale = (z[:, :-1] * increments).sum(-1)
        mean = 0.5 * (f[:, :-1] + f[:, 1:])
        if len(rows):
            f_moving, z_moving = f[rows], z[rows]
            mean = mean.index_copy(0, rows, f_moving[:, :-1] + 0.5 * f_moving.diff(dim=1).detach())
            later = 0.5 * (z_moving.diff(dim=1) * shifts).sum(-1).detach()
            martingale = martingale.index_add(0, rows, (z_moving[:, :-1] * shifts).sum(-1) + later)
        gain = mean * times.diff(dim=1) - martingale
        to_go = gain.flip(1).cumsum(1).flip(1)
        target = problem.terminal(positions[:, -1])[:, None] + to_go
        return times[:, :-1], value.reshape(times.shape)[:, :-1] - target

    def residuals(self, *batch: Tensor) -> Float[Tensor, " rows"]:
        """What the surrogate misses at each time of each path, (paths x steps,), times the root of its weight.

        The loss is their mean square.
        """
        times, missed = self._missed(*batch)
        return (missed if self.weighting is None else missed * self.weighting.roots(times)).flatten()

    def forward(self, *batch: Tensor) -> Float[Tensor, ""]:
        times, missed = self._missed(*batch)
        return mean_square(self.weighting, times, missed.square())

    def flop(self, paths: int) -> float:
        """Model FLOP of loss and gradient: three sweeps of value and gradient, one more for the drift, and the normals."""
        rows, moved = paths * (self.steps + 1), self.drift.rows(paths) * self.steps
        first_order, _ = self.surrogate.flop(None)
        driver = self.problem.costs().driver
        return 3.0 * rows * (first_order + driver) + moved * (first_order + 4.0 * driver) + rows * NORMAL_FLOP * self.problem.dim


def path(
    problem: SemilinearPDE,
    surrogate: Surrogate,
    *,
    steps: int = 8,
    drift: float = 0.0,
    weighting: Name | None = None,
    bins: int | None = None,
    tolerance: float | None = None,
    rate: float | None = None,
    curriculum: float | None = None,
) -> PathLoss:
    """Martingale loss over paths of ``steps`` steps graded towards T.

    :param steps: time steps of a path, at least 1
    :param drift: share of the paths, rounded up, that follow the linearised drift, half of them from the reference point
    :param weighting: of bins of time by their losses: causal, rba (residual-based attention), self_adaptive (SA-PINN), or null
    :param bins: bins of time of a weighting, at least 2; null stands for 16
    :param tolerance: of the causal weighting, in units of one over the loss, > 0; null stands for 1
    :param rate: of rba and self_adaptive, how fast their weights move, > 0; null stands for 0.01
    :param curriculum: share of the steps over which the times reach back from near T to 0; null draws in all from the start
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}: a path needs at least one time step")
    if curriculum is not None and drift > 0.0:
        raise ValueError(
            f"curriculum = {curriculum} with drift = {drift}: drifting paths begin at the reference point at t = 0, not near T; "
            "use one of the two, or the residual objective"
        )
    weights = weighting_of(weighting, problem.horizon, bins=bins, tolerance=tolerance, rate=rate)
    return PathLoss(problem, surrogate, steps, drift, weights, curriculum)
