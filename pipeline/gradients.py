"""Loss and gradient of a global batch: over shards, each taken in one or several parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

from torch import Tensor, nn

from kernels.objectives._weighting import Weighting
from pipeline.team import Team


def loss_and_gradient(
    loss_module: nn.Module,
    parameters: Sequence[nn.Parameter],
    draw: Callable[[int, int], Sequence[Tensor]],
    *,
    shards: range,
    of: int,
    parts: int,
    team: Team,
    weighting: Weighting | None = None,
) -> float:
    """The loss of the global batch, whose gradient the parameters then hold in place of what they held.

    ``draw(n, count)`` gives the samples of part n of ``count`` equal ones; shard s is its parts
    s parts .. (s + 1) parts - 1. Each is the mean over its samples, and all have equally many, so that
    the mean over parts is that over the batch. A shard's own sum is formed before it joins the
    others, and they join in order: the bits are those of one process a shard. So is that of what the loss's
    ``weighting`` saw, if it has one. ``shards`` are those of this process of the team, as many as any other's has.
    """
    for parameter in parameters:
        parameter.grad = None
    total, seen = 0.0, None
    for shard in shards:
        before = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        losses = []
        for part in range(parts):
            with nullcontext() if part + 1 == parts else team.apart(loss_module):
                samples = [column.to(parameters[0].device) for column in draw(shard * parts + part, of * parts)]
                loss = loss_module(*samples) / (of * parts)
                loss.backward()
            losses.append(loss.detach())
        total = team.add(parameters, before, total, float(sum(losses[1:], losses[0])))
        if weighting is not None:
            seen = team.sum(seen, weighting.take())
    if weighting is not None and seen is not None:
        weighting.seen = seen
    return total
