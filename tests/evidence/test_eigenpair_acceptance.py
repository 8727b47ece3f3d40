"""EPSI (Xu and Lu, arXiv 2502.07993) on eigenvalues 1/i, on the authors' synthetic matrix and on SNAP's email-Enron.

The graph is that of the SuiteSparse collection, SNAP/email-Enron: tests on it read the .mat file named by EMAIL_ENRON and
are skipped without. Errors of vectors are |u - projection|, those of Enron |sigma - sigma_10|.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from matrices import gaussians, haar
from scipy.sparse.linalg import LinearOperator, eigsh, lobpcg
from torch import Tensor

from kernels.contracts import Eigenproblem, State
from kernels.defect import eigenproblem_defect
from kernels.eigenproblems import spectrum_eigenpairs
from kernels.estimators import error_inverse_power
from kernels.streams import Stream
from kernels.surrogates import nystrom_sketch

pytestmark = [pytest.mark.slow, pytest.mark.unchecked]

SAFE, FAST = error_inverse_power(accelerate=False), error_inverse_power()
PUBLISHED = error_inverse_power(shift="rayleigh", accelerate=False)


@dataclass(frozen=True)
class Sketch:
    basis: Tensor
    values: Tensor
    scale: float = 1.0
    matvecs: int = 0


def harmonic(pairs: int = 1) -> tuple[Eigenproblem, Tensor, Tensor]:
    """n = 300, eigenvalues 1/i, Haar eigenvectors: the problem, A, and what is sought."""
    problem = spectrum_eigenpairs(300, pairs=pairs, basis="haar")
    assert problem.vectors is not None
    return problem, problem.matvec(torch.eye(300, dtype=torch.float64)), problem.vectors


def nystrom(problem: Eigenproblem, rank: int, seed: int = 0, **options: Any) -> Any:
    sketch = nystrom_sketch(problem, seed=0, rank=rank, **options)
    sketch.fit(Stream(seed, 2))
    return sketch


def angle(truth: Tensor, found: Tensor) -> float:
    return float(torch.linalg.vector_norm(truth - found @ (found.T @ truth), dim=0).max())


def stepped(method: Any, problem: Eigenproblem, state: State, steps: int) -> State:
    for _ in range(steps):
        state = method.step(problem, state)
    return state


def rho(a: Tensor, sketch: Any, u: Tensor, shift: float = 1.0) -> float:
    """Spectral radius of P [I - (mu - A^)^-1 (lambda_1 - A)] P at the first eigenpair, lambda_1 = 1."""
    identity = torch.eye(len(a), dtype=a.dtype)
    approximate = (sketch.basis * sketch.values * sketch.scale) @ sketch.basis.T
    away = identity - u @ u.T
    moved = away @ (identity - torch.linalg.solve(shift * identity - approximate, identity - a)) @ away
    return float(torch.linalg.eigvals(moved).abs().max())


def factor(problem: Eigenproblem, sketch: Any, u: Tensor) -> float:
    """By what a step reduces an error of 1e-4 in the direction where it does so least, found by repetition."""
    error = haar(300, 1, 4)
    for _ in range(60):
        moved = SAFE.step(problem, SAFE.begin(problem, sketch, u + 1e-4 * error))["vectors"]
        error = moved - u @ (u.T @ moved)
        size, error = float(error.norm()) / 1e-4, error / error.norm()
    return size


def test_the_first_eigenvector_is_a_fixed_point_under_garbage() -> None:
    problem, _, u = harmonic()
    for name, sketch in {
        "garbage": Sketch(haar(300, 300, 3), gaussians(300, seed=4).square().sort(descending=True).values),
        "zero": Sketch(haar(300, 1), torch.zeros(1, dtype=torch.float64)),
        "rank 20": Sketch(haar(300, 20, 5), gaussians(20, seed=6).square().sort(descending=True).values),
    }.items():
        for method in (SAFE, FAST, PUBLISHED):
            moved = angle(u, method.step(problem, method.begin(problem, sketch, u))["vectors"])
            print(f"fixed point under {name}: moved by {moved:.1e}")
            assert moved <= 1e-12


@pytest.mark.parametrize("rank", [10, 20, 40])
def test_inverse_iteration_on_the_sketch_has_a_floor_that_the_correction_has_not(rank: int) -> None:
    problem, _, u = harmonic()
    sketch = nystrom(problem, rank)
    floor = angle(u, sketch.basis[:, :1])
    final = angle(u, stepped(SAFE, problem, SAFE.start(eigenproblem_defect(problem, sketch), Stream(0, 0)), 40)["vectors"])
    print(f"rank {rank}: floor {floor:.1e}, corrected {final:.1e}")
    assert floor >= 1e-4 or rank == 40
    assert floor >= 1e-5 and final <= 1e-13


def test_the_factor_of_a_step_is_the_predicted_one() -> None:
    problem, a, u = harmonic()
    sketch = nystrom(problem, 20, scale=0.9)
    found, expected = factor(problem, sketch, u), rho(a, sketch, u)
    print(f"Nystrom 20, c = .9: factor {found:.4f}, predicted {expected:.4f}")
    assert found == pytest.approx(expected, rel=0.1)
    whole = harmonic(10)[0]
    assert whole.vectors is not None and whole.values is not None
    exact = factor(problem, Sketch(whole.vectors, whole.values, scale=0.9), u)
    power = factor(problem, Sketch(u, torch.zeros(1, dtype=torch.float64)), u)
    print(f"exact rank 10, c = .9: factor {exact:.4f}, predicted {1 / 11:.4f}; power {power:.4f}, predicted .5")
    assert exact == pytest.approx(1 / 11, rel=0.03) and power == pytest.approx(0.5, rel=0.03)


def test_a_krylov_sketch_gains_no_more_than_the_next_krylov_space() -> None:
    problem, _, _ = harmonic()
    krylov = gaussians(300, 1, seed=2)
    for _ in range(3):
        krylov = torch.linalg.qr(torch.cat((krylov, problem.matvec(krylov[:, -1:])), 1)).Q
    inner = krylov[:, :3]
    small, large = (torch.linalg.eigh(k.T @ problem.matvec(k)) for k in (inner, krylov))
    sketch = Sketch(inner @ small.eigenvectors.flip(1), small.eigenvalues.flip(0))
    state = PUBLISHED.step(problem, PUBLISHED.begin(problem, sketch, sketch.basis[:, :1]))
    gaps = [1.0 - float(v) for v in (small.eigenvalues[-1], state["values"][0], large.eigenvalues[-1])]
    print(
        f"Krylov: distance {angle(state['vectors'], krylov):.0e}; gaps Ritz_3 {gaps[0]:.1e} EPSI {gaps[1]:.1e} Ritz_4 {gaps[2]:.1e}"
    )
    assert angle(state["vectors"], krylov) <= 1e-12 and gaps[0] > gaps[1] > gaps[2]


def test_random_starts_converge_with_a_safe_shift_alone() -> None:
    """100 runs to 1e-10: all but 2 of them have to with a safe shift, where 0 failures were seen."""
    problem, _, u = harmonic()
    runs, most = 100, 60
    rows: dict[str, tuple[Any, float]] = {
        "rayleigh, c = .9": (PUBLISHED, 0.9),
        "safe": (SAFE, 0.95),
        "safe, accelerated": (FAST, 0.95),
        "power": (SAFE, 0.0),
    }
    found: dict[str, tuple[int, float]] = {}
    for name, (method, scale) in rows.items():
        counts = []
        for seed in range(runs):
            sketch = nystrom(problem, 20, seed, scale=scale or 0.5)
            if not scale:
                sketch.values.zero_()
            state = method.begin(problem, sketch, gaussians(300, 1, seed=1000 + seed))
            for count in range(1, most + 1):
                state = method.step(problem, state)
                if angle(u, state["vectors"]) <= 1e-10:
                    counts.append(count)
                    break
        found[name] = len(counts), float(np.median(counts)) if counts else float("inf")
        print(f"random start, {name}: {found[name][0]} of {runs} converge, median {found[name][1]} steps")
    assert found["safe"][0] >= 98 and found["safe"][1] <= 15
    assert found["safe, accelerated"][0] >= 98 and found["safe, accelerated"][1] <= 10
    assert found["rayleigh, c = .9"][0] <= 10


def test_a_sketch_that_is_not_scaled_stalls() -> None:
    """Rayleigh-Ritz of a one-pass range, whose own eigenvectors are not corrected at scale 1."""
    problem, a, u = harmonic()
    q = torch.linalg.qr(problem.matvec(gaussians(300, 20, seed=8))).Q
    small = torch.linalg.eigh(q.T @ problem.matvec(q))
    plain = Sketch(q @ small.eigenvectors.flip(1), small.eigenvalues.flip(0))
    final = {}
    for scale in (1.0, 0.95):
        sketch = replace(plain, scale=scale)
        state = stepped(PUBLISHED, problem, PUBLISHED.begin(problem, sketch, sketch.basis[:, :1]), 15)
        final[scale] = angle(u, state["vectors"])
        print(f"range finder x {scale}: predicted factor {rho(a, sketch, u):.3f}, error after 15 steps {final[scale]:.1e}")
    safe = stepped(SAFE, problem, SAFE.begin(problem, plain, plain.basis[:, :1]), 15)
    print(f"unscaled under the safe shift: error after 15 steps {angle(u, safe['vectors']):.1e}")
    assert final[0.95] <= 1e-12 and final[1.0] >= 1e3 * final[0.95]


@pytest.mark.parametrize("rank", [5, 20, 80])
def test_the_rayleigh_quotient_debiases_the_eigenvalue_of_the_sketch(rank: int) -> None:
    problem, _, _ = harmonic()
    sketch = nystrom(problem, rank)
    sketched = 1.0 - float(sketch.values[0])
    quotient = 1.0 - float(SAFE.start(eigenproblem_defect(problem, sketch), Stream(0, 0))["values"])
    print(f"rank {rank}: eigenvalue of the sketch off by {sketched:.1e}, Rayleigh quotient by {quotient:.1e}")
    assert sketched >= 5.0 * quotient


@cache
def enron() -> tuple[Eigenproblem, Any, Tensor]:
    """A^T A, A, and its ten largest singular values."""
    if "EMAIL_ENRON" not in os.environ:
        pytest.skip("EMAIL_ENRON names no file: the .mat of SNAP/email-Enron from the SuiteSparse collection")
    a = scipy.sparse.csr_matrix(scipy.io.loadmat(os.environ["EMAIL_ENRON"])["Problem"]["A"][0, 0]).astype(np.float64)
    adjoint = a.T.tocsr()

    def matvec(columns: Tensor, /) -> Tensor:
        return torch.from_numpy(adjoint @ (a @ np.ascontiguousarray(columns.numpy())))

    problem = Eigenproblem(name="email-Enron", dim=a.shape[1], pairs=10, matvec=matvec, cost=4.0 * a.nnz)
    values = eigsh(adjoint @ a, k=12, tol=0.0, v0=np.ones(a.shape[1]), return_eigenvectors=False)
    return problem, a, torch.from_numpy(np.sort(values)[::-1][:10].copy()).sqrt()


def off_by(state: State, sigma: Tensor) -> Tensor:
    return (state["values"].sqrt() - sigma).abs()


def subspace(problem: Eigenproblem, vectors: Tensor, steps: int) -> list[Tensor]:
    """Ritz values of subspace iteration after each step."""
    out = []
    for _ in range(steps):
        vectors = torch.linalg.qr(problem.matvec(vectors)).Q
        out.append(torch.linalg.eigvalsh(vectors.T @ problem.matvec(vectors)).flip(0))
    return out


AT = (3, 5, 10, 15)


@pytest.mark.parametrize("seeds", [(0, 1, 2), (3, 4, 5)], ids=str)
def test_enron_from_the_sketch(seeds: tuple[int, ...]) -> None:
    problem, _, sigma = enron()
    rows: dict[str, list[list[float]]] = {"lazy": [], "accelerated": [], "subspace": []}
    for seed in seeds:
        sketch = nystrom(problem, 200, seed, scale=1.0 - 2.0 * 10 / 190)
        for name, method, scale in (("lazy", PUBLISHED, sketch.scale), ("accelerated", FAST, 0.95)):
            sketch.scale = scale
            state, seen = method.start(eigenproblem_defect(problem, sketch), Stream(0, 0)), []
            for _ in range(AT[-1]):
                state = method.step(problem, state)
                seen.append(float(off_by(state, sigma)[-1]))
            assert off_by(state, sigma).max() < 0.3, f"{name} missed a value from seed {seed}"
            rows[name].append([seen[k - 1] for k in AT])
        values = subspace(problem, sketch.basis[:, :10], AT[-1])
        rows["subspace"].append([float((values[k - 1].sqrt() - sigma).abs()[-1]) for k in AT])
    median = {name: np.median(np.array(of), axis=0) for name, of in rows.items()}
    for name, of in median.items():
        print(f"Enron, sigma_10 at step {AT}, median of seeds {seeds}: {name} " + " ".join(f"{v:.1e}" for v in of))
    for name in ("lazy", "accelerated"):
        assert median[name][2] <= 1e-7 and median[name][2] <= 1e-2 * median["subspace"][2]


@pytest.mark.parametrize("seeds", [(0, 1), (2, 3), (4, 5)], ids=str)
def test_enron_from_a_single_pass_misses_values_unless_it_is_warmed(seeds: tuple[int, ...]) -> None:
    """The published start: ten right singular vectors of a one-pass range of 20; then two steps of subspace iteration."""
    problem, a, sigma = enron()
    sketch = nystrom(problem, 200, 0, scale=1.0 - 2.0 * 10 / 190)
    missed = {"cold": 0, "warmed": 0}
    for seed in seeds:
        q = np.linalg.qr(a @ gaussians(problem.dim, 20, seed=100 + seed).numpy())[0]
        vectors = torch.linalg.svd(torch.from_numpy(np.asarray((a.T @ q).T)), full_matrices=False).Vh[:10].T.contiguous()
        for name in missed:
            if name == "warmed":
                for _ in range(2):
                    vectors = torch.linalg.qr(problem.matvec(vectors)).Q
            state = stepped(PUBLISHED, problem, PUBLISHED.begin(problem, sketch, vectors), 25)
            missed[name] += int(off_by(state, sigma).max() > 0.3)
    print(f"Enron, one-pass start, seeds {seeds}: missed {missed} of {len(seeds)} after 25 steps")
    assert missed["warmed"] == 0


def test_enron_by_rivals_in_products() -> None:
    """Reported, not won: Lanczos needs far fewer products."""
    problem, _, sigma = enron()
    spent = 0

    def counted(x: Any) -> Any:
        nonlocal spent
        columns = torch.from_numpy(np.asarray(x)).reshape(problem.dim, -1)
        spent += columns.shape[1]
        return problem.matvec(columns).numpy().reshape(np.shape(x))

    operator = LinearOperator((problem.dim, problem.dim), matvec=counted, matmat=counted, dtype=np.float64)

    def report(name: str, values: Any) -> None:
        found = np.sqrt(np.sort(np.asarray(values))[::-1])[9]
        print(f"Enron, {name}: {spent} products, sigma_10 off by {abs(found - float(sigma[9])):.1e}")

    report("eigsh", eigsh(operator, k=10, tol=1e-10, ncv=30, v0=np.ones(problem.dim), return_eigenvectors=False))
    for iterations in (12, 20):
        spent = 0
        report(f"lobpcg {iterations}", lobpcg(operator, gaussians(problem.dim, 10).numpy(), maxiter=iterations, tol=1e-12)[0])
    sketch = nystrom(problem, 200)
    state = FAST.start(eigenproblem_defect(problem, sketch), Stream(0, 0))
    for _ in range(20):
        if float(off_by(state, sigma)[-1]) <= 1e-11:
            break
        state = FAST.step(problem, state)
    print(f"Enron, accelerated: {int(state['matvecs'])} products, sigma_10 off by {float(off_by(state, sigma)[-1]):.1e}")


def sparse_signs(rows: int, columns: int, per: int, seed: int) -> Any:
    """The authors' sketch: ``per`` entries a column, rows at random with repetition, shrunken by sqrt(1 - n/s)."""
    rng = np.random.default_rng(seed)
    shrunken = np.sqrt(1.0 - 50 / rows) / np.sqrt(per)
    entries = np.where(rng.random(columns * per) >= 0.5, shrunken, -shrunken)
    where = rng.integers(rows, size=columns * per), np.repeat(np.arange(columns), per)
    return scipy.sparse.csr_matrix((entries, where), shape=(rows, columns))


@pytest.mark.parametrize("name", ["rayleigh", "safe", "accelerated"])
def test_the_authors_synthetic_matrix(name: str) -> None:
    """2000 x 50, sigma from 1 to 1e-3 with sigma_2 = sigma_3 + 1e-4, s = 300 rows sketched, 5 pairs, 20 seeds.

    The authors' rival is orthogonal iteration without Rayleigh-Ritz; with it, from the same products, it is far better.
    """
    method = {"rayleigh": PUBLISHED, "safe": SAFE, "accelerated": FAST}[name]
    sigma = torch.logspace(0.0, -3.0, 50, dtype=torch.float64)
    sigma[1] = sigma[2] + 1e-4
    corrected, plain, ritz, failed = [], [], [], 0
    for seed in range(20):
        a = (haar(2000, 50, seed) * sigma) @ haar(50, 50, 100 + seed).T
        problem = Eigenproblem(name="synthetic", dim=50, pairs=5, matvec=partial_gram(a), cost=4.0 * a.numel())
        rows = torch.from_numpy(np.asarray(sparse_signs(300, 2000, 8, seed) @ a.numpy()))
        inner = torch.linalg.eigh(rows.T @ rows)
        sketch = Sketch(inner.eigenvectors.flip(1), inner.eigenvalues.flip(0).clamp_min(0.0), 1.0 if name == "rayleigh" else 0.95)
        vectors = gaussians(50, 5, seed=200 + seed)
        for _ in range(4):
            vectors = torch.linalg.qr(problem.matvec(vectors)).Q
        state = stepped(method, problem, method.begin(problem, sketch, vectors), 10)
        off = off_by(state, sigma[:5])
        corrected.append(off[1:3].tolist())
        failed += int(off.max() > 1e-4)
        ritz.append((subspace(problem, vectors, 10)[-1].sqrt() - sigma[:5]).abs()[1:3].tolist())
        for _ in range(10):
            vectors = torch.linalg.qr(problem.matvec(vectors)).Q
        plain.append((torch.linalg.vector_norm(a @ vectors, dim=0) - sigma[:5]).abs()[1:3].tolist())
    found, rival, better = (np.median(of, axis=0) for of in (corrected, plain, ritz))
    print(
        f"synthetic, {name}: sigma_2, sigma_3 {found[0]:.0e} {found[1]:.0e}, orthogonal iteration {rival[0]:.0e} {rival[1]:.0e}, "
        f"with Rayleigh-Ritz {better[0]:.0e} {better[1]:.0e}, failed {failed}/20"
    )
    assert (found <= 1e-10).all() and (rival >= 1e-6).all()


def partial_gram(a: Tensor) -> Callable[[Tensor], Tensor]:
    """x -> A^T A x."""
    return lambda x: a.T @ (a @ x)
