"""Steps of any optimizer of the room, those that search their batch included."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kernels.contracts import Searching
from pipeline.gradients import loss_and_gradient
from pipeline.search import batch_of
from pipeline.team import Solo
from pipeline.training import schedule


def step(optimizer: Any, objective: nn.Module, parts: Sequence[Tensor]) -> tuple[float, int]:
    """One step on a batch: the loss before it, and how often loss and gradient were taken."""
    count = 0

    def draw(part: int, of: int) -> Sequence[Tensor]:
        return parts

    def evaluate() -> float:
        nonlocal count
        count += 1
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return taken(objective, parameters, draw)

    loss = evaluate()
    if isinstance(optimizer, Searching):
        optimizer.step(batch_of(objective, optimizer.needs, draw, loss, evaluate))
    else:
        optimizer.step()
    return loss, count


taken = partial(loss_and_gradient, shards=range(1), of=1, parts=1, team=Solo())


def train(optimizer: Any, objective: nn.Module, batches: Sequence[Sequence[Tensor]]) -> list[float]:
    """Losses of a step a batch, under the schedule of a training."""
    peaks, losses = [group["lr"] for group in optimizer.param_groups], []
    for n, parts in enumerate(batches):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * schedule(n, len(batches))
        losses.append(step(optimizer, objective, parts)[0])
    return losses


class Quadratic(nn.Module):
    """Curvatures from 0.1 to 10, smallest value 0 where the weight is 1; a residual an entry."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(start)
        self.curvature = torch.logspace(-1, 1, start.numel(), dtype=start.dtype)
        self.entries = (torch.arange(start.numel()),)

    def residuals(self, entries: Tensor) -> Tensor:
        return (len(self.curvature) * self.curvature[entries]).sqrt() * (self.weight.flatten()[entries] - 1.0)

    def forward(self, entries: Tensor) -> Tensor:
        return self.residuals(entries).square().mean()
