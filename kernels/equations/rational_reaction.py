"""A rational reaction that feeds u everywhere, with a radial terminal condition."""

from __future__ import annotations

from torch import Tensor

from kernels.contracts import SemilinearPDE
from kernels.equations._radial import reaction_diffusion


def rational_reaction(dim: int, *, horizon: float = 0.3) -> SemilinearPDE:
    """u_t + Laplacian u + (1 - u^2)/(1 + u^2) = 0 on [0, horizon], g = 5/(10 + 2 |x|^2).

    Shi, Hu, Lin, Kawaguchi (NeurIPS 2024). In (mu, sigma, f): 0, sqrt 2, (1 - y^2)/(1 + y^2). f(0) = 1:
    u gains nearly T whatever x is, and in high dimension g, which is 1/(2 + 0.4 |x|^2), is small
    beside that. Solved by radial reduction.

    :param horizon: final time T, > 0
    """
    return reaction_diffusion("rational_reaction", dim, horizon, _rational)


def _rational(u: Tensor) -> Tensor:
    square = u.square()
    return (1.0 - square) / (1.0 + square)
