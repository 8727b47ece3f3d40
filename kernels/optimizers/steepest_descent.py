"""Steepest descent in a chosen norm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch.nn import Parameter
from torch.optim import Optimizer

from kernels.optimizers._norms import NORMS
from kernels.optimizers._steepest import steepest


def steepest_descent(
    parameters: Iterable[Parameter],
    *,
    norm: Literal["sign", "frobenius", "row", "column", "spectral", "one_sided"] = "sign",
    learning_rate: float = 0.05,
    momentum: float = 0.9,
    nesterov: bool = True,
    first: float = 1.0,
    last: float = 1.0,
    biases: float = 0.3,
) -> Optimizer:
    """W <- W - lr r argmax <M, X> over ||X|| <= 1, M the momentum (Bernstein and Newhouse, arXiv 2409.20325); biases by sign.

    r = sqrt(out/in) over the largest spectral norm in the unit ball, and below the last layer over the root of that layer's
    width: a learning rate of 1 moves outputs by about 1, in every norm and at every width. ``muon`` is the spectral norm by iteration, ``one_sided`` by eigenvalues.

    :param norm: sign (largest entry), frobenius, row or column (longest), spectral, or one_sided, (M M^T)^(-1/2) M
    :param learning_rate: peak of the schedule, > 0
    :param momentum: weight of the past in the mean gradient, in [0, 1)
    :param nesterov: whether the step looks one gradient ahead
    :param first: learning rate of the first layer over learning_rate, > 0
    :param last: the same of the last layer
    :param biases: the same of the biases
    """
    rates = {"first": first, "last": last, "biases": biases}
    return steepest(parameters, NORMS[norm], learning_rate=learning_rate, momentum=momentum, nesterov=nesterov, **rates)
