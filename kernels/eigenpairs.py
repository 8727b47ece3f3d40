"""The largest eigenpairs of a positive semidefinite matrix from its products, with a residual that certifies them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from kernels.contracts import Eigenproblem, Purpose, Stream
from kernels.contracts.operator import dense
from kernels.estimators.error_inverse_power import Shift, error_inverse_power
from kernels.surrogates.nystrom_sketch import nystrom_sketch


@dataclass(frozen=True)
class EigResult:
    """Eigenvalues, descending; vectors as columns; products with A, the sketch's own among them; residuals by step."""

    values: Float[Tensor, "pairs"]
    vectors: Float[Tensor, "dim pairs"]
    n_matvec: int
    history: tuple[float, ...]
    """The largest |lambda u - A u| over lambda_1: of the sketch's vectors first, of the result last."""


def epsi(
    matrix: Tensor | Callable[[Tensor], Tensor] | Eigenproblem,
    k: int,
    *,
    n: int | None = None,
    rank: int | None = None,
    passes: int = 2,
    scale: float = 0.95,
    shift: Shift = "safe",
    accelerate: bool = True,
    tol: float = 1e-12,
    steps: int = 100,
    seed: int = 0,
) -> EigResult:
    """The ``k`` largest eigenpairs of a symmetric positive semidefinite A, corrected from a Nystrom sketch.

    ``matrix`` is a square tensor, a function of (n, columns) in float64, or an Eigenproblem. Goes on until the largest
    residual over lambda_1 is at most ``tol``, ``steps`` at most: whether it got there is the last of ``history``. ``rank`` is
    that of the sketch, 4 k + 20 where it is left out and the dimension allows it.

    Lanczos needs fewer products; this form serves where a sketch is at hand, or products come in blocks.

    >>> import torch
    >>> found = epsi(torch.diag(torch.arange(1.0, 101.0) ** -1), 2)
    >>> found.values.round(decimals=9).tolist(), found.history[-1] <= 1e-12
    ([1.0, 0.5], True)
    """
    problem = _problem(matrix, k, n)
    sketch = nystrom_sketch(
        problem,
        seed=seed,
        rank=min(4 * k + 20, problem.dim) if rank is None else rank,
        passes=passes,
        scale=scale,
    )
    sketch.fit(Stream(seed, Purpose.TRAINING))
    method = error_inverse_power(shift=shift, accelerate=accelerate)
    state = method.start(problem, sketch, Stream(seed, Purpose.CORRECTION))
    history = [float(method.residual(problem, state).max())]
    while history[-1] > tol and len(history) <= steps:
        state = method.step(problem, state)
        history.append(float(method.residual(problem, state).max()))
    return EigResult(state["values"], state["vectors"], int(state["matvecs"]), tuple(history))


def _problem(matrix: Tensor | Callable[[Tensor], Tensor] | Eigenproblem, k: int, n: int | None) -> Eigenproblem:
    if isinstance(matrix, Eigenproblem):
        return matrix if matrix.pairs == k else replace(matrix, pairs=k, values=None, vectors=None)
    if isinstance(matrix, Tensor):
        operator = dense(matrix)
        if not operator.symmetric:
            raise ValueError(
                "the matrix is not symmetric: eigenpairs are those of a symmetric positive semidefinite one; give A^T A"
            )
        return Eigenproblem(name="eigenpairs", dim=operator.dim, pairs=k, matvec=operator.matvec, cost=operator.cost)
    if n is None:
        raise ValueError("n = None: the dimension of a matrix that is given by its products must be said")
    return Eigenproblem(name="eigenpairs", dim=n, pairs=k, matvec=matrix, cost=2.0 * n**2)
