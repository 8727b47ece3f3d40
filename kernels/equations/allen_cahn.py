"""The Allen-Cahn equation with a radial terminal condition."""

from __future__ import annotations

from torch import Tensor

from kernels.contracts import SemilinearPDE
from kernels.equations._radial import reaction_diffusion


def allen_cahn(dim: int, *, horizon: float = 0.3) -> SemilinearPDE:
    """u_t + Laplacian u + u - u^3 = 0 on [0, horizon], g = 1/(2 + 0.4 |x|^2).

    Beck, E, Jentzen (J. Nonlinear Sci. 2019). In (mu, sigma, f): 0, sqrt 2, y - y^3. Solved by radial reduction.

    :param horizon: final time T, > 0
    """
    return reaction_diffusion("allen_cahn", dim, horizon, _bistable)


def _bistable(u: Tensor) -> Tensor:
    return u - u.pow(3)
