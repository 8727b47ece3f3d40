"""The exponential moving average of the parameters along a phase of training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Average:
    """a_k = a_{k-1} + (1 - b)/(1 - b^k) (p_k - a_{k-1}), the mean of p_1 .. p_k with weights b^(k-j), b the ``decay``.

    The start counts for nothing, as in Adam's moments (Kingma and Ba, arXiv 1412.6980, section 3).
    It smooths what the last 1/(1 - b) steps scatter about their mean. A learning rate that falls to
    0 does so too: the average helps where that fall is short of the noise, with small batches, high
    learning rates and few steps. Where the parameters still travel it lags behind them by 1/(1 - b)
    steps, which should be few of all.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float, values: Sequence[Tensor] = ()) -> None:
        """Of parameters before their first step, or the one that goes on from the ``values`` that a checkpoint holds."""
        self._parameters, self._decay = parameters, decay
        self.values = [v.to(p) for v, p in zip(values or [p.detach().clone() for p in parameters], parameters, strict=True)]

    @torch.no_grad()
    def add(self, steps: int) -> None:
        """Take in the parameters after so many steps of the phase, counted from 1."""
        weight = (1.0 - self._decay) / (1.0 - self._decay**steps)
        for value, parameter in zip(self.values, self._parameters, strict=True):
            value.lerp_(parameter, weight)

    @torch.no_grad()
    def put(self) -> None:
        """Give the parameters their average."""
        for value, parameter in zip(self.values, self._parameters, strict=True):
            parameter.copy_(value)
