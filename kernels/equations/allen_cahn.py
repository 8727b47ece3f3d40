"""The Allen-Cahn equation with a radial terminal condition."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import BarycentricInterpolator
from torch import Tensor

from kernels.contracts import BrownianMotion, SemilinearPDE, Solution, along_paths

TIME_NODES = 20
SPACE_NODES = 56


def allen_cahn(dim: int, *, horizon: float = 0.3) -> SemilinearPDE:
    """u_t + Laplacian u + u - u^3 = 0 on [0, horizon], g = 1/(2 + 0.4 |x|^2).

    Beck, E, Jentzen (2019). In (mu, sigma, f): 0, sqrt 2, y - y^3. Reference u = v(T-t, |x|^2) by
    radial reduction, to 9 digits: v_tau = 4 s v_ss + 2 d v_s + v - v^3.

    :param horizon: final time T, > 0
    """

    def terminal(x: Tensor, /) -> Tensor:
        return 1.0 / (2.0 + 0.4 * x.square().sum(-1))

    def terminal_jet(x: Tensor, /) -> tuple[Tensor, Tensor, Tensor]:
        g = terminal(x)
        square = g.square()
        return g, -0.8 * square[:, None] * x, square * (-0.8 * dim + 1.28 * g * x.square().sum(-1))

    def driver(t: Tensor, x: Tensor, y: Tensor, z: Tensor, /) -> Tensor:
        return y - y.pow(3)

    def value(t: Tensor, x: Tensor, /) -> Tensor:
        tau = (horizon - t.double()).numpy()
        s = x.double().square().sum(-1).numpy()
        return torch.from_numpy(_radial_solution(dim, horizon)(tau, s))

    law = BrownianMotion(sigma=math.sqrt(2.0))
    return SemilinearPDE(
        name="allen_cahn",
        dim=dim,
        horizon=horizon,
        law=law,
        driver=driver,
        terminal=terminal,
        terminal_jet=terminal_jet,
        sample_points=along_paths(dim, horizon, law),
        solution=Solution(value=value, error=1e-9, source="radial reduction, space-time Chebyshev collocation, 9 digits"),
    )


class _RadialSolution:
    """v(tau, s) on [0, horizon] x [0, infinity) by collocation in tau and y, s = L (1-y)/(1+y)."""

    def __init__(self, dim: int, horizon: float) -> None:
        scale = 5.0
        time, d_time = _chebyshev(TIME_NODES)
        y, d_y = _chebyshev(SPACE_NODES)
        # v moves like 1/(2 + 0.8 d tau): in w = log(1 + 0.4 d tau) it is smooth.
        last = np.log1p(0.4 * dim * horizon)
        tau = np.expm1(0.5 * last * (1.0 - time)) / (0.4 * dim)
        d_tau = -d_time / (0.5 * last * (tau + 1.0 / (0.4 * dim)))[:, None]
        # y = -1 is s = infinity, where v = 0: that node is left out.
        with np.errstate(divide="ignore"):
            s = scale * (1.0 - y) / (1.0 + y)
        slope = -np.square(1.0 + y) / (2.0 * scale)
        d_s = slope[:, None] * d_y
        inner = slice(0, SPACE_NODES)
        operator = (4.0 * s[inner, None] * (d_s @ d_s)[inner] + 2.0 * dim * d_s[inner])[:, inner]
        start = 1.0 / (2.0 + 0.4 * s[inner])
        n_tau, n_s = TIME_NODES, SPACE_NODES
        linear = np.kron(d_tau[1:, 1:], np.eye(n_s)) - np.kron(np.eye(n_tau), operator + np.eye(n_s))
        known = np.kron(d_tau[1:, :1], start[:, None]).ravel()
        v = np.tile(start, n_tau)
        for _ in range(50):
            newton = np.linalg.solve(linear + np.diag(3.0 * v**2), linear @ v + known + v**3)
            v = v - newton
            if np.abs(newton).max() < 1e-14:
                break
        table = np.zeros((n_tau + 1, n_s + 1))
        table[0, :-1], table[1:, :-1] = start, v.reshape(n_tau, n_s)
        self._scale, self._rate, self._last = scale, 0.4 * dim, last
        self._time, self._y, self._table = time, y, table

    def __call__(self, tau: NDArray[np.float64], s: NDArray[np.float64]) -> NDArray[np.float64]:
        time = 1.0 - 2.0 * np.log1p(self._rate * tau) / self._last
        in_time = BarycentricInterpolator(self._time, np.eye(len(self._time)))(time)
        in_space = BarycentricInterpolator(self._y, np.eye(len(self._y)))((self._scale - s) / (self._scale + s))
        return np.einsum("pi,ij,pj->p", in_time, self._table, in_space)


_radial_solution = cache(_RadialSolution)


def _chebyshev(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """n + 1 Chebyshev points from 1 to -1 and their differentiation matrix (Trefethen 2000, ch. 6)."""
    x = np.cos(np.pi * np.arange(n + 1) / n)
    c = np.where((np.arange(n + 1) == 0) | (np.arange(n + 1) == n), 2.0, 1.0) * (-1.0) ** np.arange(n + 1)
    difference = x[:, None] - x[None, :] + np.eye(n + 1)
    d = np.outer(c, 1.0 / c) / difference
    return x, d - np.diag(d.sum(1))
