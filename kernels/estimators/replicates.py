"""Mean squared errors of a rate study: independent replicates at every (number of data, method)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from kernels.contracts import Draws, Experiment, Positions, Times
from kernels.streams import Stream


@dataclass(frozen=True)
class StudyReplicates:
    """E[squared error] of method number x_1 on x_0 data; a draw is a replicate. Exact in the mean: no bias."""

    terms: tuple[str, ...] = ("squared error",)
    biases: tuple[str, ...] = ()
    optional: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    solves: ClassVar[type] = Experiment
    chunk_draws: ClassVar[int] = 4

    def sample(self, problem: Experiment, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        if x.shape[1] != 2:
            raise ValueError(
                f"points of {x.shape[1]} columns: a study's are (number of data, place of the method), as points() gives"
            )
        rows = [[problem.error(int(n), problem.methods[int(place)], stream) for _ in range(draws)] for n, place in x.tolist()]
        return torch.tensor(rows, dtype=torch.float64).reshape(-1, draws)

    def flop(self, problem: Experiment, term: str, draws: int) -> float:
        return draws * problem.mean_cost()

    def rows(self, term: str, draws: int) -> int:
        return 1


def replicates() -> StudyReplicates:
    """Independent replicates of a rate study: mean squared errors with their standard errors."""
    return StudyReplicates()
