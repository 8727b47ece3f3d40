"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

from collections.abc import Iterable

from torch.nn import Parameter
from torch.optim import Optimizer

from kernels.optimizers._layers import rate_at_width


def soap(
    parameters: Iterable[Parameter], *, learning_rate: float = 3e-3, every: int = 10, base_width: int | None = None
) -> Optimizer:
    """SOAP (Vyas et al., arXiv 2409.11321) of pytorch_optimizer, without weight decay.

    :param learning_rate: peak of the schedule, > 0
    :param every: steps between updates of the eigenbasis, at least 1
    :param base_width: inputs of the last layer that learning_rate is meant for; at another width it is learning_rate sqrt(base_width/width); null for one rate at all widths
    """
    if learning_rate <= 0.0 or every < 1:
        raise ValueError(f"learning_rate = {learning_rate}, every = {every}: SOAP needs learning_rate > 0 and every >= 1")
    from pytorch_optimizer import SOAP  # takes two seconds, which ranks that train nothing need not wait

    listed = list(parameters)
    rate = rate_at_width(listed, learning_rate, base_width)
    return SOAP(listed, lr=rate, weight_decay=0.0, precondition_frequency=every)
