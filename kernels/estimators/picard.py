"""Full-history recursive multilevel Picard iteration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from kernels.contracts import Paths, SemilinearPDE, Vectors
from kernels.estimators._full_history import FullHistory, Node, TimeRule
from kernels.streams import Stream

ALPHA = 0.5
"""Exponent of the power law of times, rho ~ ALPHA rho^(ALPHA-1): integrates the weight's singularity."""


@dataclass(frozen=True)
class RandomTime:
    """One random time a path, R = t + rho (T-t), which counts for (T-t) rho^(1-a)/a."""

    nodes: ClassVar[int] = 1

    def along(self, problem: SemilinearPDE, t: Paths, x: Vectors, stream: Stream) -> Iterator[Node]:
        rho, left = stream.uniform(t.shape[0]) ** (1.0 / ALPHA), problem.horizon - t
        x_r, weight = problem.law.travel(t, x, rho * left, stream)
        # Rounding must not carry a path past T.
        r = (t + rho * left).clamp_max(problem.horizon)
        yield Node(r, x_r, left * rho ** (1.0 - ALPHA) / ALPHA, weight, stream)


@dataclass(frozen=True)
class Picard(FullHistory):
    """U_n of Hutzenthaler, Jentzen, Kruse, Nguyen and von Wurstemberger (Proc. R. Soc. A 2020), U_0 = 0:

    U_n(t,x) = (g(x), 0) + M^-n sum (g(X_T) - g(x)) (1, I_T)
             + sum_{l<n} (T-t) M^-(n-l) sum w [f(U_l) - 1_{l>0} f(U_{l-1})](R, X_R) (1, I_R)

    with R = t + rho (T-t), w = rho^(1-a)/a, and the Bismut-Elworthy-Li weight I of the path law: the
    full-history recursion over random times.
    """

    rule: TimeRule = RandomTime()


def picard(*, levels: int = 2, samples: int = 4) -> Picard:
    """Full-history multilevel Picard: U_levels with ``samples``^k draws at each level.

    :param levels: Picard iterations n, at least 1
    :param samples: base M of the number of draws a level, at least 1
    """
    return Picard(levels, samples)
