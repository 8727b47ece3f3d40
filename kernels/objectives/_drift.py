"""Training paths that move as those of the linearised equation do."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.contracts import Linearisable, Paths, SemilinearPDE, Surrogate, Vectors


class Drift:
    """A ``share`` of a batch, its first rows, every second of which begins at the problem's reference point.

    They move by dX = (mu + sigma b) ds + sigma dW, b = f_z(u^) held over a step: where |f_z| is large the
    paths of the law alone never come where these go, and u^ would be free there.
    """

    def __init__(self, problem: SemilinearPDE, surrogate: Surrogate, share: float) -> None:
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"drift = {share}: a share of the paths lies in [0, 1]")
        self.problem, self.surrogate, self.share = problem, surrogate, share

    def rows(self, paths: int) -> int:
        """How many of so many paths drift: the share, rounded up."""
        return math.ceil(self.share * paths)

    def begin(self, t: Paths, x: Vectors) -> tuple[Paths, Vectors, Tensor]:
        """Starts, every second drifting one at the reference point, and which rows drift, (paths,)."""
        moving = torch.arange(len(t)) < self.rows(len(t))
        home = moving & (torch.arange(len(t)) % 2 == 0)
        return t.masked_fill(home, 0.0), x.masked_fill(home[:, None], self.problem.start), moving

    @torch.no_grad()
    def slope(self, t: Paths, x: Vectors) -> Vectors:
        """f_z at u^ and z^."""
        if not len(t):
            return x
        value, gradient = self.surrogate.value_and_gradient(t, x)
        return Linearisable(self.problem.driver, t, x, value, self.problem.law.pull(t, x, gradient)).slopes()[1]
