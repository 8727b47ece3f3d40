"""Muon: steepest descent in the spectral norm."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from torch.nn import Parameter
from torch.optim import Optimizer

from kernels.optimizers._norms import ITERATIONS, NORMS, spectral
from kernels.optimizers._steepest import steepest


def muon(
    parameters: Iterable[Parameter],
    *,
    learning_rate: float = 0.05,
    momentum: float = 0.9,
    nesterov: bool = True,
    iterations: int = ITERATIONS,
    first: float = 1.0,
    last: float = 1.0,
    biases: float = 0.3,
) -> Optimizer:
    """Muon (Jordan et al. 2024): W <- W - lr sqrt(out/in) U V^T, U S V^T the momentum; biases by sign.

    The polar factor converges (Polar Express, then Newton-Schulz, in the parameters' precision), where torch.optim.Muon stops
    at bfloat16 and 20 % off it. A learning rate of 1 moves outputs by about 1 whatever the width: what lies below the last layer
    moves at the rate over that layer's gain, the root of its width.

    :param learning_rate: peak of the schedule, > 0
    :param momentum: weight of the past in the mean gradient, in [0, 1)
    :param nesterov: whether the step looks one gradient ahead
    :param iterations: of the polar factor, at least 1; 8 resolve singular values down to 1e-3 of the Frobenius norm
    :param first: learning rate of the first layer over learning_rate, > 0
    :param last: the same of the last layer
    :param biases: the same of the biases
    """
    if iterations < 1:
        raise ValueError(f"iterations = {iterations}: a polar factor needs at least 1, for example {ITERATIONS}")
    norm = replace(NORMS["spectral"], dual=partial(spectral, iterations=iterations))
    rates = {"first": first, "last": last, "biases": biases}
    return steepest(parameters, norm, learning_rate=learning_rate, momentum=momentum, nesterov=nesterov, **rates)
