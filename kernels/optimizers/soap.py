"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

from collections.abc import Iterable

from torch.nn import Parameter
from torch.optim import Optimizer


def soap(parameters: Iterable[Parameter], *, learning_rate: float = 3e-3, every: int = 10) -> Optimizer:
    """SOAP (Vyas et al., arXiv 2409.11321) of pytorch_optimizer, without weight decay.

    :param learning_rate: peak of the schedule, > 0
    :param every: steps between updates of the eigenbasis, at least 1
    """
    if learning_rate <= 0.0 or every < 1:
        raise ValueError(f"learning_rate = {learning_rate}, every = {every}: SOAP needs learning_rate > 0 and every >= 1")
    from pytorch_optimizer import SOAP  # takes two seconds, which ranks that train nothing need not wait

    return SOAP(parameters, lr=learning_rate, weight_decay=0.0, precondition_frequency=every)
