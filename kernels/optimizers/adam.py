"""Adam."""

from __future__ import annotations

from collections.abc import Iterable

from torch.nn import Parameter
from torch.optim import Adam, Optimizer


def adam(parameters: Iterable[Parameter], *, learning_rate: float = 1e-3) -> Optimizer:
    """Adam (Kingma and Ba, arXiv 1412.6980) of torch.

    :param learning_rate: peak of the schedule, > 0
    """
    if learning_rate <= 0.0:
        raise ValueError(f"learning_rate = {learning_rate}: Adam needs learning_rate > 0")
    return Adam(parameters, lr=learning_rate)
