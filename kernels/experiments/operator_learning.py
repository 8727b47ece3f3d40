"""Learning a linear operator from noisy pairs: one truncation of its matrix against one for every output level."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from kernels.contracts import Experiment, Stream, require_dim

SINGLE, MULTI = METHODS = ("single level", "multilevel")


def operator_learning(
    dim: int,
    *,
    input_decay: float = 1.0,
    noise_decay: float = 0.25,
    input_smoothness: float = 1.0,
    output_smoothness: float = 1.0,
    modes: int = 64,
) -> Experiment:
    """n pairs v = A u + e, u_i ~ N(0, i^(-2a)), e_j ~ N(0, j^(-2b)), sum_ij A_ij^2 i^(2 theta) j^(2 phi) <= 1.

    A kept entry has variance i^(2a) j^(-2b) / n, and the worst A has all its weight on the dropped entry of the
    largest i^(-2 theta) j^(-2 phi), its squared bias. A single level keeps a rectangle; multilevel learning keeps
    the entries of bias above a threshold, an input cut-off for every output level. Each is at its best cut, so that the mean is the
    closed form of ``risk``. The model is the diagonal one of kernel operator learning (Jin, Lu, Blanchet and Ying,
    ICLR 2023); the exponents follow from the sums:

    single level  n^(-2/(2+p)), p = (2a+1)/theta + max(1-2b, 0)/phi
    multilevel    the same with p = max((2a+1)/theta, (1-2b)/phi), and a logarithm where the two are equal

    :param input_decay: a, >= 0
    :param noise_decay: b, >= 0
    :param input_smoothness: theta, > 0
    :param output_smoothness: phi, > 0
    :param modes: entries in each direction among which a cut is sought
    """
    require_dim(dim)
    if dim != 1:
        raise ValueError(f"dim = {dim}: the modes of the model are of one index each; take dim = 1")
    if not (input_decay >= 0.0 and noise_decay >= 0.0 and input_smoothness > 0.0 and output_smoothness > 0.0 and modes >= 2):
        raise ValueError(
            f"decays {input_decay}, {noise_decay}, smoothness {input_smoothness}, {output_smoothness}, modes = {modes}: "
            "take decays >= 0, smoothness > 0 and two modes or more"
        )
    i = torch.arange(1.0, modes + 2.0, dtype=torch.float64)
    bias = i[:, None] ** (-2.0 * input_smoothness) * i ** (-2.0 * output_smoothness)
    variance = i[:, None] ** (2.0 * input_decay) * i ** (-2.0 * noise_decay)

    @cache
    def deviations(n: int, method: str) -> tuple[Tensor, float]:
        """Of the kept entries, and the squared bias."""
        kept, missed = _cut(bias, variance / n, method)
        return (variance[kept] / n).sqrt(), missed

    def error(n: int, method: str, stream: Stream, /) -> float:
        spread, missed = deviations(n, method)
        return float((spread * stream.normal(len(spread)).double()).square().sum()) + missed

    deep = (2.0 * input_decay + 1.0) / input_smoothness
    wide = (1.0 - 2.0 * noise_decay) / output_smoothness
    return Experiment(
        name="operator_learning",
        dim=dim,
        methods=METHODS,
        theory=tuple(-2.0 / (2.0 + p) for p in (deep + max(wide, 0.0), max(deep, wide))),
        error=error,
        sizes=(100, 1_000, 10_000, 100_000, 1_000_000),
        source="bias and variance of the diagonal model, summed",
        cost=lambda n: 20.0 * (modes + 1) ** 2,
    )


def risk(bias: Tensor, variance: Tensor, method: str) -> float:
    """Mean squared error of a method at its best cut: the variances that it keeps and the largest bias that it drops."""
    kept, missed = _cut(bias, variance, method)
    return float(variance[kept].sum()) + missed


def _cut(bias: Tensor, variance: Tensor, method: str) -> tuple[Tensor, float]:
    """Mask of the kept entries (modes, modes) of the best cut and the largest bias outside."""
    kept = torch.zeros_like(bias, dtype=torch.bool)
    if method == MULTI:
        order = bias.flatten().argsort(descending=True, stable=True)
        falling = bias.flatten()[order]
        totals = variance.flatten()[order].cumsum(0)[:-1] + falling[1:]
        count = int(totals.argmin()) + 1
        kept.view(-1)[order[:count]] = True
        missed = float(falling[count])
    else:
        dropped = torch.maximum(bias[1:, :1], bias[:1, 1:])
        totals = variance.cumsum(0).cumsum(1)[:-1, :-1] + dropped
        row, column = divmod(int(totals.argmin()), totals.shape[1])
        kept[: row + 1, : column + 1] = True
        missed = float(dropped[row, column])
    if kept[-2].any() or kept[:, -2].any():
        raise ValueError(f"modes = {len(bias) - 1}: the best cut reaches the last of them; take more, or fewer data")
    return kept, missed
