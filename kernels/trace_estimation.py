"""The trace of a matrix from its products with vectors, by name of the method or to a tolerance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.special import gammaincinv
from torch import Tensor

from kernels.contracts import Purpose, Stream, Trace
from kernels.contracts.operator import dense, product
from kernels.defect import trace_defect
from kernels.estimators.hutchinson import hutchinson
from kernels.estimators.na_hutchpp import na_hutchpp
from kernels.estimators.xnystrace import xnystrace
from kernels.estimators.xtrace import xtrace
from kernels.surrogates.low_rank_sketch import LowRankSketch, low_rank_sketch

Method = Literal["xtrace", "hutchpp", "hutch", "rsvd", "xnystrace", "nahutchpp"]
ROW = torch.zeros(1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
REPLICATES = {"xtrace": xtrace, "xnystrace": xnystrace, "nahutchpp": na_hutchpp}


@dataclass(frozen=True)
class TraceEstimate:
    """A trace with its standard error and the products spent; leave-one-out errors (xtrace, xnystrace) tend to understate."""

    value: float
    se: float
    n_matvec: int


def trace(
    matrix: Tensor | Callable[[Tensor], Tensor] | Trace,
    n: int | None = None,
    m: int | None = None,
    method: Method = "xtrace",
    *,
    tol: float | None = None,
    failure: float = 0.05,
    seed: int = 0,
) -> TraceEstimate:
    """tr(A) from ``m`` products, or by hutchpp within ``tol`` (absolute) with probability 1 - ``failure`` or more.

    ``matrix`` is a square tensor, a function of (n, columns) in float64, or a Trace. xnystrace is for positive
    semidefinite A, nahutchpp for symmetric ones, hutch where the spectrum does not fall; rsvd is hutchpp without its
    projection. ValueError unless just one of m and tol is given.

    >>> abs(trace(torch.diag(torch.arange(1.0, 101.0) ** -2), m=40).value - 1.635) < 1e-2
    True
    """
    problem = _problem(matrix, n, positive=method == "xnystrace")
    if (m is None) == (tol is None):
        raise ValueError(f"m = {m}, tol = {tol}: give either the products to spend or the tolerance to meet")
    if tol is not None:
        if method != "hutchpp":
            raise ValueError(f"tol with method '{method}': only hutchpp goes on to a tolerance; give m instead, or that method")
        return _to_tolerance(problem, tol, 0.5 * failure, seed)
    assert m is not None
    if method in REPLICATES:
        values = REPLICATES[method](matvecs=m).values(problem, 1, Stream(seed, Purpose.CORRECTION))[0]
        return TraceEstimate(float(values.mean()), _standard_error(values), m)
    rank = 0 if method == "hutch" else m // 3
    if m - 2 * rank < 2 or (rank == 0 and method != "hutch"):
        raise ValueError(f"m = {m}: {method} needs at least {2 if method == 'hutch' else 4} products for an error bar")
    known, error = 0.0, problem
    if rank:
        sketch = low_rank_sketch(problem, seed=seed, rank=rank)
        sketch.fit(Stream(seed, Purpose.TRAINING))
        known, error = float(sketch.core.trace()), trace_defect(problem, sketch, projected=method == "hutchpp")
    draws = hutchinson().sample(error, *ROW, "probe", m - 2 * rank, Stream(seed, Purpose.CORRECTION))[0]
    return TraceEstimate(known + float(draws.mean()), _standard_error(draws), m)


def _problem(matrix: Tensor | Callable[[Tensor], Tensor] | Trace, n: int | None, *, positive: bool) -> Trace:
    if isinstance(matrix, Trace):
        return matrix
    if isinstance(matrix, Tensor):
        operator = dense(matrix)
        return Trace(
            name="trace",
            dim=operator.dim,
            matvec=operator.matvec,
            cost=operator.cost,
            symmetric=operator.symmetric,
            positive=positive and operator.symmetric,
        )
    if n is None:
        raise ValueError("n = None: the dimension of a matrix that is given by its products must be said")
    return Trace(name="trace", dim=n, matvec=matrix, cost=2.0 * n**2, positive=positive)


def _standard_error(draws: Tensor) -> float:
    return float(draws.std() / math.sqrt(len(draws)))


def _to_tolerance(problem: Trace, tol: float, failure: float, seed: int) -> TraceEstimate:
    """A-Hutch++ (Persson, Cortinovis, Kressner, SIMAX 43, 2022): |error| <= tol with probability 1 - 2 failure proven.

    The sketch grows a column at a time while that saves probes: 2 k + C (|Q^T A Q|^2 - 2 |A Q|^2), C = 4 log(2/failure)/tol^2,
    is the products that depend on its columns k. Probes then go on until there are C |B|_F^2 of them, B the part of A off
    the sketch, whose norm the probes themselves estimate from below by the quantile of chi^2.
    """
    if not tol > 0.0 or not 0.0 < failure < 1.0:
        raise ValueError(f"tol = {tol}, failure = {failure}: a tolerance is > 0 and a probability of failure in (0, 1)")
    factor = 4.0 * math.log(2.0 / failure) / tol**2
    growth, probing = Stream(seed, Purpose.TRAINING), Stream(seed, Purpose.CORRECTION)
    basis, images, costs = torch.zeros(problem.dim, 0, dtype=torch.float64), [], [math.inf]
    while len(costs) < 4 or not costs[-3] < costs[-2] < costs[-1]:
        column = product(problem.matvec, growth.normal(problem.dim, 1, dtype=torch.float64))
        size = float(torch.linalg.norm(column))
        for _ in range(2):
            column = column - basis @ (basis.mT @ column)
        if basis.shape[1] == problem.dim or float(torch.linalg.norm(column)) <= 1e-12 * size:
            break
        basis = torch.cat((basis, column / torch.linalg.norm(column)), 1)
        images.append(product(problem.matvec, basis[:, -1:]))
        image = torch.cat(images, 1)
        core = basis.mT @ image
        costs.append(2.0 * len(images) + factor * float(core.square().sum() - 2.0 * image.square().sum()))
    rank = basis.shape[1]
    sketch = LowRankSketch(problem, rank=rank)
    sketch.basis.copy_(basis)
    sketch.core.copy_(basis.mT @ torch.cat(images, 1)) if images else None
    error, squares = trace_defect(problem, sketch), 0.0
    draws: list[float] = []
    while len(draws) < 2 or len(draws) <= factor * squares / len(draws) / _from_below(len(draws), failure):
        z = probing.normal(problem.dim, 1, dtype=torch.float64)
        image = product(error.matvec, z)
        draws.append(float((z * image).sum()))
        squares += float(image.square().sum())
    se = _standard_error(torch.tensor(draws, dtype=torch.float64))
    return TraceEstimate(float(sketch.core.trace()) + math.fsum(draws) / len(draws), se, 2 * rank + len(draws))


def _from_below(count: int, failure: float) -> float:
    """a with P(chi^2_count <= a count) = failure: a mean of squares over a is below the truth that seldom."""
    return float(2.0 * gammaincinv(0.5 * count, failure) / count)
