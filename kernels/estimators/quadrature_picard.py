"""Multilevel Picard iteration whose time integrals are Gauss-Legendre quadratures along a Brownian path."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from kernels.contracts import NORMAL_FLOP, Draws, Paths, Positions, SemilinearPDE, Times, Vectors
from kernels.estimators._full_history import FullHistory, Node
from kernels.streams import Given, Stream

QUADRATURE = "quadrature"


@dataclass(frozen=True)
class GaussLegendre:
    """The same nodes s_k and weights q_k on [t, T] for every path, visited in the order of time by one Brownian path.

    A law that is simulated in steps has no path that is exact at the nodes and carries the weights
    from t to each: there every node has a path of the same normals, stretched to its time.
    """

    nodes: int

    def along(self, problem: SemilinearPDE, t: Paths, x: Vectors, stream: Stream) -> Iterator[Node]:
        if not problem.law.exact:
            start = stream.clone()
            for k, (rho, q) in enumerate(zip(*gauss_legendre(self.nodes), strict=True)):
                yield _node(problem, t, x, rho, q, start.clone() if k else stream, stream)
            return
        brownian, before = torch.zeros_like(x), 0.0
        for rho, q in zip(*gauss_legendre(self.nodes), strict=True):
            brownian = brownian + math.sqrt(rho - before) * stream.normal(*x.shape)
            before = rho
            yield _node(problem, t, x, rho, q, Given(brownian / math.sqrt(rho)), stream)


@dataclass(frozen=True)
class Stretched:
    """Gauss-Legendre nodes that share all their noise: the path's normals, stretched to their times, and what is nested.

    The sum over the nodes keeps its mean and is a smooth function of time: two numbers of nodes
    on equal noise differ by little more than their quadrature errors.
    """

    nodes: int

    def along(self, problem: SemilinearPDE, t: Paths, x: Vectors, stream: Stream) -> Iterator[Node]:
        for k, (rho, q) in enumerate(zip(*gauss_legendre(self.nodes), strict=True)):
            # The last node leaves the stream where every one of them would.
            own = stream if k == self.nodes - 1 else stream.clone()
            yield _node(problem, t, x, rho, q, own, own)


def _node(problem: SemilinearPDE, t: Paths, x: Vectors, rho: float, q: float, noise: Stream, nested: Stream) -> Node:
    left = problem.horizon - t
    x_s, weight = problem.law.travel(t, x, rho * left, noise)
    # Rounding must not carry a path past T.
    return Node((t + rho * left).clamp_max(problem.horizon), x_s, q * left, weight, nested)


MAX_NODES = 200
"""Nodes beyond which no machine would come to an end, each of them with a nested estimate."""


def gauss_legendre(nodes: int) -> tuple[list[float], list[float]]:
    """Nodes and weights on [0, 1]: exact for polynomials of degree 2 nodes - 1."""
    x, q = np.polynomial.legendre.leggauss(nodes)
    return (0.5 * (x + 1.0)).tolist(), (0.5 * q).tolist()


@dataclass(frozen=True)
class QuadraturePicard:
    """U_n of E, Hutzenthaler, Jentzen and Kruse (J. Sci. Comput. 79, 2019, arXiv 1708.03223), U_0 = 0:

    U_n(t,x) = (g(x), 0) + M^-n sum (g(X_T) - g(x)) (1, I_T)
             + sum_{l<n} M^-(n-l) sum sum_k q_k [f(U_l) - 1_{l>0} f(U_{l-1})](s_k, X_{s_k}) (1, I_{s_k})

    s_k, q_k the Gauss-Legendre rule of ``nodes`` nodes on [t, T], all on one Brownian path, and I_s =
    (W_s - W_t)/(s - t). The weight I is of size (s-t)^-1/2, but no node is at t, and what it
    multiplies has the mean E f(s, X_s) I_s = sigma^T grad E f(s, X_s), without a singularity
    where f is smooth in x: as in the paper the rule has no factor for it. Where f has kinks that mean
    grows as (s-t)^-1/2 at worst, and the rule's error falls as 1/nodes only.

    "quadrature" is the bias of the outermost integrals and of those nested in them: the rule minus
    the one of twice the nodes, on common noise. "truncation" and "nonlinearity" are those of the
    full-history recursion over these integrals.
    """

    history: FullHistory

    @property
    def terms(self) -> tuple[str, ...]:
        return self.history.terms

    @property
    def biases(self) -> tuple[str, ...]:
        return (*self.history.biases, QUADRATURE)

    @property
    def optional(self) -> Mapping[str, tuple[str, ...]]:
        return self.history.optional

    @torch.no_grad()
    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        if term != QUADRATURE:
            return self.history.sample(problem, t, x, term, draws, stream)
        rows = t.repeat_interleave(draws), x.repeat_interleave(draws, 0)
        coarse, fine = self._rules()
        change = _integral(coarse, problem, *rows, stream.clone()) - _integral(fine, problem, *rows, stream)
        return change.reshape(-1, draws)

    def _rules(self) -> tuple[FullHistory, FullHistory]:
        """The recursion over the rule and over that of twice the nodes, on common noise."""
        nodes = self.history.rule.nodes
        return replace(self.history, rule=Stretched(nodes)), replace(self.history, rule=Stretched(2 * nodes))

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        if term != QUADRATURE:
            return self.history.flop(problem, term, draws)
        return draws * sum(_integral_flop(history, problem) for history in self._rules())

    def rows(self, term: str, draws: int) -> int:
        return draws * self.history.samples ** (self.history.levels - 1) if term == QUADRATURE else self.history.rows(term, draws)


def _integral(history: FullHistory, problem: SemilinearPDE, t: Paths, x: Vectors, stream: Stream) -> Paths:
    """One sample a row of sum_k q_k f(U_(n-1))(s_k, X_{s_k}), every integral by the rule of ``history``."""
    total = torch.zeros_like(t)
    for node in history.rule.along(problem, t, x, stream):
        at = problem.at(node.s, node.x, node.stream, with_source=True)
        below = history.iterate(problem, history.levels - 1, node.s, node.x, node.stream, with_z=True)
        total = total + node.share * (at.source() + at.increment(*below))
    return total


def _integral_flop(history: FullHistory, problem: SemilinearPDE) -> float:
    cost = problem.costs()
    here = NORMAL_FLOP * problem.dim + cost.source + cost.driver
    return history.rule.nodes * (here + history.iterate_flop(problem, history.levels - 1))


def quadrature_picard(*, levels: int = 2, samples: int = 4, nodes: int = 3) -> QuadraturePicard:
    """Full-history multilevel Picard with time integrals by Gauss-Legendre quadrature along a Brownian path.

    :param levels: Picard iterations n, at least 1
    :param samples: base M of the number of draws a level, at least 1
    :param nodes: nodes of a time integral, at least 1
    """
    if not 1 <= nodes <= MAX_NODES:
        raise ValueError(f"nodes = {nodes}: should be at least 1 and at most {MAX_NODES}")
    return QuadraturePicard(FullHistory(levels, samples, GaussLegendre(nodes)))
