"""What approximate solves of a square system share: the answer is B b."""

from __future__ import annotations

from torch import nn

from kernels.axes import Positions, Times, Unknowns
from kernels.contracts import LinearSystem


class ApproximateInverse(nn.Module):
    """r -> B r with B near A^-1, of whose spectrum nothing is known; the ``solve`` is that of a subclass."""

    distortion = None

    def __init__(self, problem: LinearSystem) -> None:
        super().__init__()
        self.problem = problem

    def solve(self, r: Unknowns, /) -> Unknowns:
        raise NotImplementedError

    def answer(self) -> Unknowns:
        return self.solve(self.problem.rhs)

    def plug_in(self, t: Times, x: Positions) -> Unknowns:
        return self.answer()
