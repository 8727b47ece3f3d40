"""What data-parallel training needs of the other processes: one start, one gradient, one loss.

Annotations are not postponed here: DistributedDataParallel looks at those of its hook.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

Gradients = Sequence[Tensor | None]
"""One a parameter, None where it has none."""


class Team(Protocol):
    """The processes of one training; each calls every method together with the others.

    Process r of n takes the shards r, r + n, r + 2n ... of a batch; they add up in rounds of one shard a process, in order of the
    shards.
    """

    def wrap(self, module: nn.Module) -> nn.Module:
        """The loss module as this process is to call it."""
        ...

    def apart(self, module: nn.Module) -> AbstractContextManager[None]:
        """Within it a backward pass leaves its gradient in this process: more parts of the same shard follow."""
        ...

    def agree(self, step: int) -> int:
        """The step from which all go on: that of the process which writes."""
        ...

    def add(self, parameters: Sequence[nn.Parameter], before: Gradients, total: float, loss: float) -> float:
        """Replace every gradient by ``before`` and its sum over the processes; ``total`` and the sum of the losses."""
        ...

    def sum(self, before: Tensor | None, mine: Tensor) -> Tensor:
        """``before`` and the sum of a tensor over the processes, in the same order for all."""
        ...


class Solo:
    """One process alone."""

    def wrap(self, module: nn.Module) -> nn.Module:
        return module

    def apart(self, module: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    def agree(self, step: int) -> int:
        return step

    def add(self, parameters: Sequence[nn.Parameter], before: Gradients, total: float, loss: float) -> float:
        _join(parameters, before)
        return total + loss

    def sum(self, before: Tensor | None, mine: Tensor) -> Tensor:
        return _in_order(before, [mine])


class Together:
    """The processes of torch.distributed, whose sums run over them in order of rank.

    A ring adds in an order that depends on the number of workers. Adding in order gives the bits of one
    process that takes the shards in turn, however many there are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def wrap(self, module: nn.Module) -> nn.Module:
        return module

    def apart(self, module: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    def agree(self, step: int) -> int:
        first = torch.tensor([step], device=self._device)
        distributed.broadcast(first, 0)
        return int(first)

    def _gathered(self, mine: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, mine)
        return parts

    def add(self, parameters: Sequence[nn.Parameter], before: Gradients, total: float, loss: float) -> float:
        gradients = [p.grad for p in parameters if p.grad is not None]
        earlier = [b for b in before if b is not None]
        if earlier and [p.grad is None for p in parameters] != [b is None for b in before]:
            raise RuntimeError(
                "a parameter has a gradient in one shard of the batch and none in another: its loss must use it always"
            )
        # The loss, a float32 like the gradients, travels along.
        parts = self._gathered(torch.cat([*(g.reshape(-1) for g in gradients), gradients[0].new_tensor([loss])]))
        start = torch.cat([b.reshape(-1) for b in earlier]) if earlier else None
        summed = _in_order(start, [part[:-1] for part in parts])
        for gradient, part in zip(gradients, summed.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
        return sum((float(part[-1]) for part in parts), total)

    def sum(self, before: Tensor | None, mine: Tensor) -> Tensor:
        return _in_order(before, self._gathered(mine))


class Overlapped(Together):
    """The same with DistributedDataParallel's ring, which on GPUs runs beside the backward pass.

    The last bits of a gradient then depend on the number of processes and of their shards, from three shards on.
    """

    def wrap(self, module: nn.Module) -> nn.Module:
        wrapped = DistributedDataParallel(module, device_ids=[self._device] if self._device.type == "cuda" else None)
        wrapped.register_comm_hook(None, _sum)
        return wrapped

    def apart(self, module: nn.Module) -> AbstractContextManager[None]:
        assert isinstance(module, DistributedDataParallel)
        return module.no_sync()

    def add(self, parameters: Sequence[nn.Parameter], before: Gradients, total: float, loss: float) -> float:
        _join(parameters, before)
        return sum(map(float, self._gathered(torch.tensor([loss], device=self._device))), total)


def _join(parameters: Sequence[nn.Parameter], before: Gradients) -> None:
    """Add every gradient to the one before, in its place."""
    for parameter, others in zip(parameters, before, strict=True):
        if others is not None:
            parameter.grad = others if parameter.grad is None else others.add_(parameter.grad)


def _in_order(before: Tensor | None, parts: Sequence[Tensor]) -> Tensor:
    """The sum of all, from the first to the last."""
    total, rest = (parts[0].clone(), parts[1:]) if before is None else (before.clone(), parts)
    for part in rest:
        total += part
    return total


def _sum(state: None, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
    """The sum of a bucket, where DistributedDataParallel by itself takes the mean."""
    reduced = distributed.all_reduce(bucket.buffer(), async_op=True).get_future()
    return reduced.then(lambda done: done.value()[0])
