"""Deep Ritz, its modification and physics-informed least squares on noisy data: three exponents for one equation."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from kernels.contracts import Experiment, Purpose, Stream

BLOCK = 1 << 14
"""Points whose cosines are in memory at once."""


def deep_ritz(
    dim: int,
    *,
    smoothness: float = 4.0,
    noise: float = 0.5,
    potential: float = 1.0,
    modes: int = 16,
    coefficient_seed: int = 0,
) -> Experiment:
    """-Laplace u + V u = f on [0, 1]^d, u = 0 on the boundary, from n values of f at uniform points with noise (d <= 3).

    Lu, Chen, Lu, Ying and Blanchet (arXiv 2110.06897): the coefficients on the sines phi_z, |z|_inf <= K, that minimise

    DRM   (1/n) sum_i |grad u|^2/2 + V u^2/2 - f u                    H^1, n^(-(2s-2)/(d+2s-2))
    MDRM  the same, the first term over n^(1 + 2/(d+2s-4)) points     H^1, n^(-(2s-2)/(d+2s-4))
    PINN  (1/n) sum_i (-Laplace u + V u - f)^2                        H^2, n^(-(2s-4)/(d+2s-4))

    with the K of the smallest error, which only an oracle knows. The truth has coefficients +-|z|^(-s-d/2), signs from
    ``coefficient_seed``: u is just not in H^s.

    :param smoothness: s, above 2
    :param noise: standard deviation of the noise of f
    :param potential: V, a number >= 0
    :param modes: largest K; the truth has modes up to twice as many
    :param coefficient_seed: seed of the signs
    """
    if dim not in (1, 2, 3):
        raise ValueError(f"dim = {dim}: the basis has K^d functions, which are solved for up to dim = 3; take 1, 2 or 3")
    if smoothness <= 2.0:
        raise ValueError(f"smoothness = {smoothness}: an error in H^2 falls only for a solution beyond it; take more than 2")
    if not (noise >= 0.0 and potential >= 0.0 and modes >= 1):
        raise ValueError(f"noise = {noise}, potential = {potential}, modes = {modes}: take noise, V >= 0 and K >= 1")
    basis = _basis(2 * modes, dim)
    square = (math.pi * basis).square().sum(1)
    signs = Stream(coefficient_seed, Purpose.PROBLEM).signs(len(basis)).double()
    truth = signs * (square / math.pi**2) ** (-0.5 * smoothness - 0.25 * dim)
    kept = len(_basis(modes, dim))
    small, eigenvalue = basis[:kept], square[:kept]
    rate = dim + 2.0 * smoothness - 4.0

    def gradient_points(n: int) -> int:
        return math.ceil(n ** (1.0 + 2.0 / rate))

    def error(n: int, method: str, stream: Stream, /) -> float:
        x = stream.uniform(n, dim).double()
        f = _expand((square + potential) * truth, x, basis) + noise * stream.normal(n).double()
        right = _project(f, x, small)
        mass = _moments(x, modes)
        if method == "PINN":
            gram, scale, order = _gram(mass, small, 1.0, 0.0), eigenvalue + potential, 2
        elif method == "DRM":
            gram, scale, order = _gram(mass, small, potential, 1.0), torch.ones_like(eigenvalue), 1
        else:
            more = _moments(stream.uniform(gradient_points(n), dim).double(), modes)
            gram = _gram(mass, small, potential, 0.0) + _gram(more, small, 0.0, 1.0)
            scale, order = torch.ones_like(eigenvalue), 1
        weight = (1.0 + square) ** order
        return _oracle(gram, right, scale, truth, weight, dim)

    exponents = (2.0 * smoothness - 2.0) / (rate + 2.0), (2.0 * smoothness - 2.0) / rate, (2.0 * smoothness - 4.0) / rate
    return Experiment(
        name="deep_ritz",
        dim=dim,
        methods=("DRM", "MDRM", "PINN"),
        theory=tuple(-e for e in exponents),
        error=error,
        sizes=(256, 512, 1024, 2048, 4096, 8192),
        source="arXiv 2110.06897, upper bounds in a Fourier basis",
        cost=lambda n: 2.0 * (n + gradient_points(n) / 3.0) * (2 * modes + 1) ** dim + kept**3 / 3.0,
    )


def _basis(modes: int, dim: int) -> Tensor:
    """z in {1 .. modes}^d, (modes^d, d), by |z|_inf: the first K^d of them are those with |z|_inf <= K."""
    z = torch.cartesian_prod(*[torch.arange(1.0, modes + 1.0, dtype=torch.float64)] * dim).reshape(-1, dim)
    return z[torch.argsort(z.amax(1), stable=True)]


def _letters(dim: int) -> str:
    return "abc"[:dim]


def _sines(x: Tensor, basis: Tensor) -> list[Tensor]:
    """sqrt 2 sin(pi m x_k), m = 1 .. modes, (n, modes), of every coordinate."""
    m = torch.arange(1.0, basis.amax().item() + 1.0, dtype=torch.float64)
    return [math.sqrt(2.0) * torch.sin(math.pi * x[:, k, None] * m) for k in range(x.shape[1])]


def _expand(c: Tensor, x: Tensor, basis: Tensor) -> Tensor:
    """sum_z c_z phi_z(x), (n,)."""
    sines, letters = _sines(x, basis), _letters(x.shape[1])
    dense = torch.zeros((sines[0].shape[1],) * len(sines), dtype=torch.float64)
    dense[tuple((basis - 1.0).long().T)] = c
    return torch.einsum(f"{letters}," + ",".join(f"i{a}" for a in letters) + "->i", dense, *sines)


def _project(f: Tensor, x: Tensor, basis: Tensor) -> Tensor:
    """(1/n) sum_i f_i phi_z(x_i), (basis,)."""
    letters = _letters(x.shape[1])
    dense = torch.einsum("i," + ",".join(f"i{a}" for a in letters) + f"->{letters}", f / len(x), *_sines(x, basis))
    return dense[tuple((basis - 1.0).long().T)]


def _moments(x: Tensor, modes: int) -> Tensor:
    """(1/n) sum_i prod_k cos(pi m_k x_ik), m_k = 0 .. 2 modes: all that empirical Gram matrices need."""
    m, letters = torch.arange(0.0, 2.0 * modes + 1.0, dtype=torch.float64), _letters(x.shape[1])
    total = torch.zeros((len(m),) * x.shape[1], dtype=torch.float64)
    for block in x.split(BLOCK):
        cosines = [torch.cos(math.pi * block[:, k, None] * m) for k in range(x.shape[1])]
        total += torch.einsum(",".join(f"i{a}" for a in letters) + f"->{letters}", *cosines)
    return total / len(x)


def _gram(moments: Tensor, basis: Tensor, value: float, slope: float) -> Tensor:
    """(1/n) sum_i of value phi phi' + slope grad phi . grad phi' for two basis functions, (basis, basis).

    2 sin a sin b = cos(a - b) - cos(a + b), and 2 cos a cos b is the sum of the two.
    """
    z = basis.long()
    near, far = (z[:, None] - z).abs(), z[:, None] + z
    pairs = [math.pi**2 * basis[:, None, k] * basis[:, k] for k in range(z.shape[1])]
    out = torch.zeros(len(z), len(z), dtype=torch.float64)
    for added in itertools.product((False, True), repeat=z.shape[1]):
        sign = (-1.0) ** sum(added)
        factor = torch.full_like(out, value)
        if slope:
            for plus, pair in zip(added, pairs, strict=True):
                factor.add_(pair, alpha=-slope if plus else slope)
        place = tuple((far if plus else near)[..., k] for k, plus in enumerate(added))
        out.addcmul_(factor, moments[place], value=sign)
    return out


def _oracle(gram: Tensor, right: Tensor, scale: Tensor, truth: Tensor, weight: Tensor, dim: int) -> float:
    """Smallest squared error over K of the coefficients gram_K^-1 right_K / scale: one factor serves all leading blocks."""
    factor, first_bad = torch.linalg.cholesky_ex(gram)
    good = len(gram) if first_bad == 0 else int(first_bad) - 1
    forward = torch.linalg.solve_triangular(factor[:good, :good], right[:good, None], upper=False)
    modes = math.floor(good ** (1.0 / dim) + 1e-9)
    best = float((weight * truth.square()).sum())
    for k in range(1, modes + 1):
        size = k**dim
        c = torch.linalg.solve_triangular(factor[:size, :size].T, forward[:size], upper=True)[:, 0] / scale[:size]
        off = truth.clone()
        off[:size] -= c
        best = min(best, float((weight * off.square()).sum()))
    return best
