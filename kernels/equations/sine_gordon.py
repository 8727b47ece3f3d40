"""The sine-Gordon type equation with a radial terminal condition."""

from __future__ import annotations

import torch

from kernels.contracts import SemilinearPDE
from kernels.equations._radial import reaction_diffusion


def sine_gordon(dim: int, *, horizon: float = 0.3) -> SemilinearPDE:
    """u_t + Laplacian u + sin u = 0 on [0, horizon], g = 1/(2 + 0.4 |x|^2).

    Becker, Braunwarth, Hutzenthaler, Jentzen, von Wurstemberger (Commun. Comput. Phys. 2020). In
    (mu, sigma, f): 0, sqrt 2, sin y. Solved by radial reduction.

    :param horizon: final time T, > 0
    """
    return reaction_diffusion("sine_gordon", dim, horizon, torch.sin)
