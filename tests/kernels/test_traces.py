"""Traces from products: a sketch of any quality is corrected without bias, and the published estimators are themselves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from matrices import ROW, gaussians, given, haar, literal_adaptive, literal_xnystrace, literal_xtrace, random_positive
from torch import Tensor

from kernels.contracts import LinearOperator, Trace
from kernels.contracts.operator import dense, product
from kernels.defect import trace_defect
from kernels.estimators import hutchinson, na_hutchpp, xnystrace, xtrace
from kernels.matrices import decaying_spectrum
from kernels.streams import Purpose, Stream
from kernels.surrogates import low_rank_sketch
from kernels.trace_estimation import trace
from kernels.traces import spectrum_trace

PROBES = ["signs", "gaussian", "sphere"]
REPLICATES: dict[str, Any] = {
    "xtrace": xtrace(matvecs=12),
    "xnystrace": xnystrace(matvecs=12),
    "na_hutchpp": na_hutchpp(matvecs=12),
}
METHODS: dict[str, Any] = REPLICATES | {f"hutchinson {law}": hutchinson(probes=law) for law in PROBES}  # type: ignore[arg-type]


def draws_of(method: Any, problem: Trace, count: int, seed: int = 0) -> Tensor:
    return method.sample(problem, *ROW, method.terms[0], count, Stream(seed, 1))[0]


def sketched(problem: Trace, rank: int, seed: int = 0) -> Any:
    sketch = low_rank_sketch(problem, seed=0, rank=rank)
    sketch.fit(Stream(seed, 2))
    return sketch


def within(draws: Tensor, truth: float, width: float = 4.0) -> bool:
    return bool((draws.mean() - truth).abs() <= width * draws.std() / math.sqrt(len(draws)))


@pytest.mark.parametrize("basis", ["hartley", "haar"])
@pytest.mark.parametrize("spectrum", ["flat", "poly", "slowexp", "fastexp", "smallstep", "bigstep"])
def test_a_matrix_of_a_spectrum_has_it_and_its_trace_and_eigenvectors(spectrum: Any, basis: Any) -> None:
    made = decaying_spectrum(60, spectrum=spectrum, basis=basis)
    a = made.matvec(torch.eye(60, dtype=torch.float64))
    assert made.eigenvalues is not None and made.eigenvectors is not None
    torch.testing.assert_close(a, a.T, rtol=0.0, atol=1e-14)
    torch.testing.assert_close(torch.linalg.eigvalsh(a).flip(0), made.eigenvalues, rtol=0.0, atol=1e-14)
    assert float(a.trace()) == pytest.approx(made.trace, rel=1e-13)
    v = made.eigenvectors(3)
    torch.testing.assert_close(v.T @ v, torch.eye(3, dtype=torch.float64), rtol=0.0, atol=1e-14)
    torch.testing.assert_close(a @ v, v * made.eigenvalues[:3], rtol=0.0, atol=1e-14)
    assert v[:, 1].abs().max() < 0.7, "an eigenvector near a coordinate would let signs see a diagonal matrix"


@pytest.mark.parametrize("name", METHODS)
def test_draws_come_out_by_point_and_the_same_from_the_same_stream(name: str) -> None:
    method, problem = METHODS[name], spectrum_trace(40)
    t, x = torch.zeros(3, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64)
    first, again, other = (method.sample(problem, t, x, method.terms[0], 5, Stream(1, seed)) for seed in (0, 0, 1))
    assert first.shape == (3, 5) and first.dtype == torch.float64
    assert first.equal(again) and not first.equal(other)
    assert len(set(first.flatten().tolist())) == 15
    assert method.rows(method.terms[0], 5) >= 5 and method.flop(problem, method.terms[0], 5) > 5 * problem.cost


@pytest.mark.parametrize("name", METHODS)
def test_the_mean_of_every_method_is_the_trace_and_a_shift_is_seen(name: str) -> None:
    """4000 draws, false positives 6 in 10^5; a shift of a tenth of a draw's s.d. is 6 s.e. and more."""
    problem = given(random_positive(40))
    assert problem.value is not None
    draws = draws_of(METHODS[name], problem, 4000)
    assert within(draws, problem.value)
    assert not within(draws + 0.13 * draws.std(), problem.value)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("xnystrace", "na_hutchpp")])
def test_a_matrix_that_is_not_symmetric_has_its_trace_too(name: str) -> None:
    """4000 draws, false positives 6 in 10^5."""
    a = gaussians(30, 30, seed=3) + 2.0 * torch.eye(30, dtype=torch.float64)
    assert within(draws_of(METHODS[name], given(a), 4000), float(a.trace()))


@pytest.mark.parametrize(
    ("law", "variance"),
    [
        ("gaussian", lambda a: 2.0 * a.square().sum()),
        ("signs", lambda a: 2.0 * (a.square().sum() - a.diagonal().square().sum())),
        ("sphere", lambda a: 2.0 * len(a) / (len(a) + 2) * (a.square().sum() - a.trace() ** 2 / len(a))),
    ],
)
def test_the_variance_of_a_probe_is_the_known_one(law: Any, variance: Callable[[Tensor], Tensor]) -> None:
    """20000 draws know a variance to 1.5 % (kurtosis 5 to 8): 8 % is five of that, and tells the laws apart."""
    a = random_positive(12) + 0.3 * torch.eye(12, dtype=torch.float64)
    draws = draws_of(hutchinson(probes=law), given(a), 20_000)
    assert float(draws.var()) == pytest.approx(float(variance(a)), rel=0.08)


def test_probes_on_the_sphere_have_no_error_on_a_multiple_of_the_identity_and_signs_none_on_a_diagonal() -> None:
    scaled = given(3.0 * torch.eye(20, dtype=torch.float64))
    assert (draws_of(hutchinson(probes="sphere"), scaled, 50) - 60.0).abs().max() < 1e-12
    diagonal = given(torch.diag(torch.arange(20.0, dtype=torch.float64)))
    assert (draws_of(hutchinson(probes="signs"), diagonal, 50) - 190.0).abs().max() < 1e-12


@pytest.mark.parametrize("symmetric", [True, False])
def test_xtrace_is_its_literal_transcription(symmetric: bool) -> None:
    a = random_positive(30) if symmetric else random_positive(30) + 0.01 * gaussians(30, 30)
    values = xtrace(matvecs=16).values(given(a), 3, Stream(4, 0))
    w = Stream(4, 0).normal(3, 30, 8, dtype=torch.float64)
    torch.testing.assert_close(values, torch.stack([literal_xtrace(a, w[i]) for i in range(3)]), rtol=1e-11, atol=0.0)


def test_xnystrace_is_its_literal_transcription() -> None:
    a = random_positive(30)
    values = xnystrace(matvecs=8).values(given(a), 3, Stream(4, 0))
    w = Stream(4, 0).normal(3, 30, 8, dtype=torch.float64)
    torch.testing.assert_close(values, torch.stack([literal_xnystrace(a, w[i]) for i in range(3)]), rtol=1e-11, atol=0.0)


def test_na_hutchpp_is_the_trace_of_its_own_low_rank_matrix_and_what_the_probes_say_of_the_rest() -> None:
    a = random_positive(30)
    values = na_hutchpp(matvecs=12).values(given(a), 1, Stream(4, 0))[0]
    vectors = Stream(4, 0).normal(1, 30, 12, dtype=torch.float64)[0]
    s, r, g = vectors[:, :2], vectors[:, 2:6], vectors[:, 6:]
    g = g / torch.linalg.vector_norm(g, dim=0) * math.sqrt(30)
    low = a @ r @ torch.linalg.pinv(s.T @ a @ r) @ s.T @ a
    torch.testing.assert_close(values, low.trace() + (g * ((a - low) @ g)).sum(0), rtol=1e-11, atol=0.0)


def test_adaptive_hutchpp_is_its_literal_transcription() -> None:
    a = random_positive(40)
    for tol in (0.1, 0.02):
        found = trace(a, tol=tol, method="hutchpp", seed=5)
        literal = literal_adaptive(a, tol, 0.025, Stream(5, Purpose.TRAINING), Stream(5, Purpose.CORRECTION))
        assert found.value == pytest.approx(literal[0], rel=1e-10) and found.n_matvec == literal[1]


@pytest.mark.parametrize("name", ["xtrace", "na_hutchpp"])
@pytest.mark.parametrize("rank", [0, 3])
def test_a_matrix_of_small_rank_is_known_exactly_by_methods_that_sketch_it(name: str, rank: int) -> None:
    v = haar(30, 3)[:, :rank]
    draws = draws_of(na_hutchpp(matvecs=30) if name == "na_hutchpp" else REPLICATES[name], given(v @ v.T), 20)
    assert (draws - rank).abs().max() < 1e-12


def test_a_nystrom_estimate_of_small_rank_is_exact_to_its_shift() -> None:
    v = haar(30, 3)
    assert (draws_of(REPLICATES["xnystrace"], given(v @ v.T), 20) - 3.0).abs().max() < 1e-6
    assert (draws_of(REPLICATES["xnystrace"], given(0.0 * v @ v.T), 20)).abs().max() < 1e-12


@pytest.mark.parametrize("projected", [True, False])
def test_an_exact_sketch_leaves_nothing_to_correct(projected: bool) -> None:
    v = haar(50, 4)
    problem = given((v * torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)) @ v.T)
    sketch = sketched(problem, 6)
    assert float(sketch.plug_in(*ROW)) == pytest.approx(10.0, rel=1e-14)
    for method in (hutchinson(), xtrace(matvecs=8)):
        assert draws_of(method, trace_defect(problem, sketch, projected=projected), 20).abs().max() < 1e-13


@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("quality", ["fitted", "random basis", "unfitted"])
@pytest.mark.parametrize("name", ["hutchinson sphere", "xtrace"])
def test_a_sketch_of_any_quality_is_corrected_without_bias(name: str, quality: str, projected: bool) -> None:
    """4000 draws, false positives 6 in 10^5; the sketch alone is more than 10 s.e. off."""
    problem = given(random_positive(40))
    sketch = low_rank_sketch(problem, seed=0, rank=5)
    if quality == "fitted":
        sketch.fit(Stream(0, 2))
    elif quality == "random basis":
        sketch.basis.copy_(haar(40, 5, seed=8))
        sketch.core.copy_(sketch.basis.T @ problem.matvec(sketch.basis))
    error = trace_defect(problem, sketch, projected=projected)
    draws = draws_of(METHODS[name], error, 4000)
    assert problem.value is not None and error.value is not None
    assert within(draws, error.value)
    assert within(draws + float(sketch.plug_in(*ROW)), problem.value)
    assert not within(draws, 0.0, 10.0)


def test_any_core_at_all_is_corrected_by_the_form_without_projection_and_not_by_the_other() -> None:
    """4000 draws, false positives 6 in 10^5."""
    problem = given(random_positive(40))
    sketch = sketched(problem, 5)
    sketch.core.add_(gaussians(5, 5, seed=2))
    assert problem.value is not None
    for projected in (False, True):
        draws = draws_of(hutchinson(), trace_defect(problem, sketch, projected=projected), 4000)
        assert within(draws + float(sketch.plug_in(*ROW)), problem.value) is not projected


@pytest.mark.parametrize("projected", [True, False])
def test_the_spread_of_the_correction_is_linear_in_what_the_sketch_misses(projected: bool) -> None:
    """A + delta E, E off the sketch: common random numbers, so that the slope is 1 to rounding."""
    v = haar(50, 10)
    low, missed = v[:, :5] @ v[:, :5].T, v[:, 5:] @ v[:, 5:].T
    sketch = sketched(given(low), 5)
    spreads = [
        float(draws_of(hutchinson(), trace_defect(given(low + d * missed), sketch, projected=projected), 500).std())
        for d in (1e-1, 1e-3, 1e-5)
    ]
    for wide, narrow in itertools.pairwise(spreads):
        assert math.log10(wide / narrow) / 2.0 == pytest.approx(1.0, abs=0.02)


def test_projected_probes_spread_less_than_those_of_the_difference() -> None:
    problem = spectrum_trace(300)
    sketch = sketched(problem, 15)
    bare, projected = (
        float(draws_of(hutchinson(), trace_defect(problem, sketch, projected=p), 2000).std()) for p in (False, True)
    )
    assert projected < 0.8 * bare


def test_a_fit_and_a_defect_spend_the_products_they_say() -> None:
    plain, seen = spectrum_trace(50), 0

    def counted(columns: Tensor) -> Tensor:
        nonlocal seen
        seen += columns.shape[1]
        return plain.matvec(columns)

    problem = replace(plain, matvec=counted)
    sketch = sketched(problem, 7)
    assert seen == sketch.matvecs == 14
    error = trace_defect(problem, sketch)
    draws_of(hutchinson(), error, 9)
    assert seen == 14 + 9
    for name, method in REPLICATES.items():
        seen = 0
        draws_of(method, problem, 3)
        assert seen == 36, name
    for name, spent in {"xtrace": 30, "xnystrace": 30, "nahutchpp": 30, "hutch": 30, "hutchpp": 30, "rsvd": 30}.items():
        seen = 0
        assert trace(problem, m=spent, method=name).n_matvec == seen == spent, name  # type: ignore[arg-type]
    seen = 0
    assert trace(problem, tol=0.1, method="hutchpp").n_matvec == seen


def test_a_sketch_goes_through_its_buffers() -> None:
    problem = spectrum_trace(50)
    sketch, other = sketched(problem, 7), low_rank_sketch(problem, seed=1, rank=7)
    other.load_state_dict(sketch.state_dict())
    assert other.plug_in(*ROW).equal(sketch.plug_in(*ROW)) and other.basis.equal(sketch.basis)
    assert len(sketch.fit(Stream(0, 2))) == 1 and all(cost > 0.0 for cost in sketch.fit_cost())


@pytest.mark.parametrize("method", ["xtrace", "hutchpp", "hutch", "rsvd", "xnystrace", "nahutchpp"])
def test_a_matrix_a_function_and_a_problem_give_the_same_trace_within_its_error(method: Any) -> None:
    """Each error bar from at least 5 values: 8 of them are passed by chance less than once in 10^3."""
    problem = spectrum_trace(100)
    a = problem.matvec(torch.eye(100, dtype=torch.float64))
    found = [trace(a, m=30, method=method), trace(lambda x: a @ x, 100, 30, method), trace(problem, m=30, method=method)]
    assert problem.value is not None
    for one in found:
        assert one.value == pytest.approx(found[0].value, rel=1e-10) and one.se == pytest.approx(found[0].se, rel=1e-6)
        assert abs(one.value - problem.value) <= 8.0 * one.se
    assert trace(a, m=30, method=method, seed=1).value != found[0].value


def test_the_step_that_deflates_costs_where_the_spectrum_does_not_fall_and_gains_where_it_does() -> None:
    """Root mean square of 200 runs known to 5 %: the ratios measured are 2 and 50."""

    def size(problem: Trace, rank: int) -> float:
        sketch = sketched(problem, rank) if rank else None
        error = problem if sketch is None else trace_defect(problem, sketch)
        return float(draws_of(hutchinson(), error, 200).std() / math.sqrt(60 - 2 * rank))

    flat, steep = spectrum_trace(1000, spectrum="flat"), spectrum_trace(1000)
    assert size(flat, 20) > 1.4 * size(flat, 0)
    assert size(steep, 20) < 0.05 * size(steep, 0)


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: decaying_spectrum(0), "at least one"),
    (lambda: decaying_spectrum(50, spectrum="bigstep"), "dim = 50.*take more"),
    (lambda: decaying_spectrum(50, exponent=0.0), "exponent = 0"),
    (lambda: low_rank_sketch(spectrum_trace(10), seed=0, rank=11), "rank = 11.*from 1 to 10"),
    (lambda: xtrace(matvecs=7), "matvecs = 7.*even"),
    (lambda: xtrace(matvecs=2), "at least 4"),
    (lambda: draws_of(xtrace(matvecs=20), spectrum_trace(10), 1), "matvecs = 20.*exact"),
    (lambda: xnystrace(matvecs=1), "at least 2"),
    (lambda: draws_of(xnystrace(matvecs=10), spectrum_trace(10), 1), "matvecs = 10"),
    (lambda: draws_of(REPLICATES["xnystrace"], replace(spectrum_trace(20), positive=False), 1), "positive=True"),
    (lambda: na_hutchpp(matvecs=5), "at least 6"),
    (lambda: draws_of(REPLICATES["na_hutchpp"], given(gaussians(20, 20)), 1), "not symmetric.*xtrace"),
    (lambda: draws_of(REPLICATES["na_hutchpp"], replace(given(gaussians(20, 20)), symmetric=True), 1), "asymmetric by"),
    (
        lambda: draws_of(REPLICATES["xnystrace"], replace(given(gaussians(20, 20)), symmetric=True, positive=True), 1),
        "asymmetric",
    ),
    (lambda: replace(given(gaussians(20, 20)), positive=True), "positive means symmetric"),
    (lambda: LinearOperator(name="a", dim=2, matvec=lambda x: x, cost=1.0, symmetric=False, positive=True), "drop one"),
    (lambda: dense(gaussians(3, 4)), "square"),
    (lambda: product(lambda x: x[:1], gaussians(3, 2)), r"returned \(1, 2\)"),
    (lambda: product(lambda x: x.float(), gaussians(3, 2)), "keeps shape and type"),
    (lambda: product(lambda x: x / 0.0, gaussians(3, 2)), "not finite"),
    (lambda: trace(gaussians(9, 9)), "m = None, tol = None"),
    (lambda: trace(gaussians(9, 9), m=4, tol=0.1), "either the products"),
    (lambda: trace(gaussians(9, 9), tol=0.1), "only hutchpp"),
    (lambda: trace(gaussians(9, 9), tol=0.0, method="hutchpp"), "tol = 0.0"),
    (lambda: trace(lambda x: x, m=4), "dimension"),
    (lambda: trace(gaussians(9, 9), m=2, method="hutchpp"), "m = 2.*at least 4"),
    (lambda: trace(gaussians(9, 9), m=1, method="hutch"), "m = 1.*at least 2"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_bad_input_is_refused_with_the_rule_and_the_remedy(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_basis_that_is_not_orthonormal_is_refused() -> None:
    problem = spectrum_trace(20)
    sketch = sketched(problem, 3)
    sketch.basis.mul_(1.01)
    with pytest.raises(ValueError, match="take Q of its QR"):
        trace_defect(problem, sketch)
