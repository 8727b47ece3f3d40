"""L-BFGS, several iterations on each batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from torch.nn import Parameter
from torch.optim import LBFGS, Optimizer

from kernels.contracts import Batch

EVALUATIONS = 5
"""Most losses and gradients on a batch, an iteration."""


def lbfgs(parameters: Iterable[Parameter], *, learning_rate: float = 1.0, iterations: int = 4, history: int = 20) -> Optimizer:
    """L-BFGS of torch with a strong Wolfe line search (Nocedal and Wright, algorithm 7.5), on the fixed batch of each step.

    torch keeps a pair only where s.y > 1e-10: of losses as small as that it learns no curvature; scale u up there.
    Curvature pairs are of one batch only: the pair across two batches, whose gradients differ by noise, is left out.

    :param learning_rate: first trial of a line search, peak of the schedule, > 0
    :param iterations: directions on one batch, at least 1; each takes one loss and gradient or a few
    :param history: pairs of steps and gradient differences kept, at least 1
    """
    if learning_rate <= 0.0 or iterations < 1 or history < 1:
        raise ValueError(
            f"learning_rate = {learning_rate}, iterations = {iterations}, history = {history}: "
            "L-BFGS needs learning_rate > 0, iterations >= 1 and history >= 1"
        )
    return BatchLBFGS(
        parameters,
        lr=learning_rate,
        max_iter=iterations,
        max_eval=EVALUATIONS * iterations,
        history_size=history,
        line_search_fn="strong_wolfe",
        tolerance_grad=0.0,
        tolerance_change=0.0,
    )


class BatchLBFGS(LBFGS):
    """LBFGS whose history outlives a batch and whose differences do not."""

    needs: Literal["loss"] = "loss"

    def memory(self, rows: int) -> float:
        """Bytes of the history."""
        (group,) = self.param_groups
        return 8.0 * group["history_size"] * sum(p.numel() for p in group["params"])

    def step(self, batch: Batch) -> Any:  # type: ignore[override]
        """Iterate on the batch, whose gradient at the parameters is known."""
        known = iter([batch.loss])
        loss = super().step(lambda: next(known, None) or batch.evaluate())
        # A step of length 0 is no pair: torch keeps only those of positive curvature.
        self.state[self.param_groups[0]["params"][0]]["t"] = 0.0
        return loss
