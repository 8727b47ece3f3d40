"""The trace as the mean of quadratic forms of random vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from kernels.axes import Draws, Positions, Times
from kernels.contracts import NORMAL_FLOP, Stream, Trace
from kernels.contracts.operator import product
from kernels.estimators._replicates import blocks

Law = Literal["signs", "gaussian", "sphere"]


@dataclass(frozen=True)
class Hutchinson:
    """tr(A) = E z^T A z for E z z^T = I (Girard 1989, Hutchinson 1990), one product a draw.

    For symmetric A a draw has variance 2 |A|_F^2 with Gaussian z; less 2 sum_i A_ii^2 with signs; and
    2 n/(n + 2) (|A|_F^2 - tr(A)^2/n) with z uniform on the sphere of radius sqrt n: 0 for A = c I.
    """

    probes: Law
    solves: ClassVar[type] = Trace
    chunk_draws: ClassVar[int] = 16
    terms: tuple[str, ...] = ("probe",)
    biases: tuple[str, ...] = ()
    optional: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @torch.no_grad()
    def sample(self, problem: Trace, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        forms = []
        for count in blocks(len(t) * draws, problem.dim):
            z = self._vectors(problem.dim, count, stream)
            forms.append((z * product(problem.matvec, z)).sum(0))
        return torch.cat(forms).reshape(-1, draws)

    def _vectors(self, dim: int, count: int, stream: Stream) -> Tensor:
        if self.probes == "signs":
            return stream.signs(dim, count).double()
        z = stream.normal(dim, count, dtype=torch.float64)
        return z * (dim**0.5 / torch.linalg.vector_norm(z, dim=0)) if self.probes == "sphere" else z

    def flop(self, problem: Trace, term: str, draws: int) -> float:
        drawn = 2.0 if self.probes == "signs" else NORMAL_FLOP
        return draws * (problem.cost + (drawn + 2.0) * problem.dim)

    def rows(self, term: str, draws: int) -> int:
        return draws


def hutchinson(*, probes: Law = "sphere") -> Hutchinson:
    """Mean of z^T A z, one product a draw; on the defect of a low-rank sketch it is Hutch++.

    :param probes: law of z: signs (no error on a diagonal A), gaussian, or sphere (no error on a multiple of I)
    """
    return Hutchinson(probes)
