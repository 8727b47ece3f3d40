"""What an optimizer that searches is given: the step's batch, to be evaluated again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from kernels.contracts import Batch, Searching
from kernels.streams import Purpose, Stream
from pipeline.errors import InputError
from pipeline.job import Job
from pipeline.schema import PHASES


class _Residuals(nn.Module):
    """The objective's residuals as what a module returns."""

    def __init__(self, objective: Any) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, *parts: Tensor) -> Any:
        return self.objective.residuals(*parts)


def batch_of(
    objective: nn.Module,
    needs: str,
    draw: Callable[[int, int], Sequence[Tensor]],
    loss: float,
    evaluate: Callable[[], float],
) -> Batch:
    """The batch whose part n of ``count`` is ``draw(n, count)``, its ``loss`` known; ``evaluate`` takes it anew."""
    module = _Residuals(objective)
    names = [name for name, _ in module.named_parameters()]

    def residuals(parameters: Sequence[Tensor], *parts: Tensor) -> Tensor:
        found: Tensor = functional_call(module, dict(zip(names, parameters, strict=True)), parts)
        return found

    device = next(module.parameters()).device
    parts = [part.to(device) for part in draw(0, 1)] if needs == "residuals" else []
    return Batch(loss=loss, evaluate=evaluate, parts=parts, residuals=residuals)


def check_search(job: Job, optimizer: object, objective: Any, phase: int) -> None:
    """InputError where the optimizer of a phase takes residuals and finds none, or those of several workers."""
    if not isinstance(optimizer, Searching) or optimizer.needs != "residuals":
        return
    training, where = job.model.training, PHASES[phase]
    named = f"{where}.optimizer = '{training.phases[phase].optimizer.name}'"
    if training.workers > 1:
        raise InputError(
            f"training.workers = {training.workers}: {named} solves with the Jacobian of the whole batch, "
            "which workers do not share; use workers: 1, or another optimizer"
        )
    try:
        objective.residuals(*objective.sample(1, Stream(0, Purpose.PILOT)))
    except (AttributeError, ValueError) as error:
        raise InputError(
            f"{named}: it needs a loss that is a mean of squared residuals, and {where}.objective = "
            f"'{training.phases[phase].objective.name}' has none ({error}); use another objective, or another optimizer"
        ) from error
