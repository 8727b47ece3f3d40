"""Adam."""

from __future__ import annotations

from collections.abc import Iterable

from torch.nn import Parameter
from torch.optim import Adam, Optimizer

from kernels.optimizers._layers import rate_at_width


def adam(parameters: Iterable[Parameter], *, learning_rate: float = 1e-3, base_width: int | None = None) -> Optimizer:
    """Adam (Kingma and Ba, arXiv 1412.6980) of torch.

    :param learning_rate: peak of the schedule, > 0
    :param base_width: inputs of the last layer that learning_rate is meant for; at another width it is learning_rate sqrt(base_width/width); null for one rate at all widths
    """
    if learning_rate <= 0.0:
        raise ValueError(f"learning_rate = {learning_rate}: Adam needs learning_rate > 0")
    listed = list(parameters)
    return Adam(listed, lr=rate_at_width(listed, learning_rate, base_width))
