"""Coupled draws: what the streams couple and what they leave alone, honest errors, equal means, and where they pay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from estimates import Mean
from oracles import ESTIMATORS, OneFeature, at_zero, equation, estimator, small, written
from scipy.special import ndtr
from scipy.stats import qmc
from torch import Tensor

from kernels.contracts import SemilinearPDE
from kernels.coupled_streams import MAX_DIM, Bits, Mirrored, Quasi, sobol
from kernels.defect import defect
from kernels.estimators.feynman_kac import feynman_kac
from kernels.estimators.picard import picard
from kernels.moments import Moments
from kernels.streams import Stream
from kernels.variance_reduction import Averaged, antithetic, efficiency, quasi

pytestmark = pytest.mark.unchecked

METHODS = {name: small(name) for name in ESTIMATORS} | {"picard of three": picard(levels=2, samples=3)}
COUPLINGS = {"antithetic": antithetic, "quasi": lambda method: quasi(method, size=8)}
every_method = pytest.mark.parametrize("name", METHODS)
every_coupling = pytest.mark.parametrize("coupling", COUPLINGS)


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1].item()


def off_everywhere(dim: int = 4) -> SemilinearPDE:
    """The defect of a surrogate for Burgers that is off by a wave, also at T."""
    off = OneFeature(lambda t, w: torch.sigmoid(t + w) + 0.1 * torch.sin(w + 1.0), meets_terminal=False)
    return defect(equation("viscous_burgers", dim), off)


def copies(n: int, dim: int = 4) -> tuple[Tensor, Tensor]:
    """One point, n times."""
    return torch.full((n,), 0.1), torch.full((n, dim), 0.1)


@pytest.mark.parametrize("nested", [1, 3])
def test_a_mirrored_stream_negates_normals_and_repeats_uniforms_row_by_row_of_a_pair(nested: int) -> None:
    """Two steps of five pairs; signs are equal in half of the places, within 4 s.d."""
    stream = Mirrored(Stream(1, 0), 5)
    normals = stream.normal(2, 10 * nested, 4).reshape(2, 5, 2, nested, 4)
    assert normals[:, :, 0].equal(-normals[:, :, 1]) and normals[:, :, 0].unique().numel() == 2 * 5 * nested * 4
    uniforms = stream.uniform(3, 10 * nested).reshape(3, 5, 2, nested)
    assert uniforms[:, :, 0].equal(uniforms[:, :, 1]) and uniforms[:, :, 0].unique().numel() == 3 * 5 * nested
    signs = stream.signs(1000, 4).reshape(500, 2, 4)
    assert abs((signs[:, 0] * signs[:, 1]).mean()) < 4.0 / math.sqrt(2000)


def test_a_mirrored_stream_keeps_pairs_among_chosen_rows_and_refuses_half_a_pair() -> None:
    stream = Mirrored(Stream(1, 1), 50)
    some = stream.normal(14, 3).reshape(7, 2, 3)
    assert some[:, 0].equal(-some[:, 1])
    with pytest.raises(ValueError, match="13 rows hold no pairs"):
        stream.normal(13, 3)


def strata(points: np.ndarray, size: int) -> bool:
    """Whether ``points`` (size, ...) has one in each of ``size`` equal intervals, in every column."""
    cells = np.sort(np.floor(points * size).astype(int), axis=0)
    return bool((cells == np.arange(size).reshape(-1, *(1,) * (points.ndim - 1))).all())


@pytest.mark.parametrize("nested", [1, 3])
@pytest.mark.parametrize("size", [2, 16, 64])
def test_every_coordinate_of_a_net_has_one_point_in_each_interval(size: int, nested: int) -> None:
    """Two steps, three blocks: normals through their distribution function, uniforms as they are; plain numbers do not."""

    def stratified(stream: Stream) -> bool:
        normals = stream.normal(2, 3 * size * nested, 5).reshape(2, 3, size, nested, 5).numpy()
        uniforms = stream.uniform(2, 3 * size * nested).reshape(2, 3, size, nested).numpy()
        return strata(np.moveaxis(ndtr(normals.astype(float)), 2, 0), size) and strata(np.moveaxis(uniforms, 2, 0), size)

    assert stratified(Quasi(Stream(2, 0), 3, size))
    assert not stratified(Stream(2, 0))


def test_a_shift_of_a_net_keeps_its_pairs_of_coordinates_in_balance() -> None:
    """16 points of the first two Sobol' coordinates: one in each of 4 x 4 squares, which numbers stratified singly miss."""

    def balanced(points: Tensor) -> bool:
        cells = (4.0 * torch.from_numpy(ndtr(points.double().numpy()))).long()
        return bool(torch.stack([(4 * c[:, 0] + c[:, 1]).unique().numel() == torch.tensor(16) for c in cells]).all())

    normals = Quasi(Stream(2, 1), 10, 16).normal(160, 2).reshape(10, 16, 2)
    assert balanced(normals)
    assert not balanced(torch.stack((normals[:, :, 0], normals[:, :, 1].roll(1, 1)), 2))


@pytest.mark.parametrize("make", [lambda s: Mirrored(s, 4000), lambda s: Quasi(s, 4000, 2)], ids=["mirrored", "quasi"])
def test_a_row_alone_sees_independent_numbers(make: Any) -> None:
    """4000 blocks of 2 rows: correlations within 4/sqrt 4000 (false positives 6 in 10^5 each) between what is nested in a row, between
    calls, between coordinates and between blocks; the rows of a block are seen to be coupled."""
    stream = make(Stream(3, 0))
    first, second = (stream.normal(16_000, 2).reshape(4000, 2, 2, 2) for _ in range(2))
    bound = 4.0 / math.sqrt(4000)
    for function in (lambda v: v, torch.square):
        a, b = function(first), function(second)
        assert abs(correlation(a[:, 0, 0, 0], a[:, 0, 1, 0])) < bound
        assert abs(correlation(a[:, 0, 0, 0], b[:, 0, 0, 0])) < bound
        assert abs(correlation(a[:, 0, 0, 0], a[:, 0, 0, 1])) < bound
        assert abs(correlation(a[1:, 0, 0, 0], a[:-1, 0, 0, 0])) < bound
    assert abs(correlation(first[:, 0, 0, 0], first[:, 1, 0, 0])) > 0.5


class Aligned(Quasi):
    """The planted fault: the points of every call in the order of the sequence."""

    def _net(self, lead: list[int], nested: int, dim: int) -> Bits:
        generator, k = self._generator, self._size.bit_length() - 1
        shift = generator.integers(2**k, size=(*lead, self._replicates, 1, dim), dtype=np.uint32) << np.uint32(32 - k)
        digits = sobol(dim, self._size) ^ shift
        digits ^= generator.integers(2**32, size=digits.shape, dtype=np.uint32) >> np.uint32(k)
        return digits.reshape(*lead, -1, dim)


def test_two_calls_are_no_worse_together_than_independent_numbers() -> None:
    """E[a b] over a net of 64 for a, b of two calls: variance 1/64 over 2000 nets within 20 % (6 s.d.); in one order ten times that."""

    def variance(stream: Stream) -> float:
        a, b = (stream.normal(2000 * 64, 1).reshape(2000, 64) for _ in range(2))
        return 64.0 * (a * b).mean(1).var().item()

    assert variance(Quasi(Stream(4, 0), 2000, 64)) == pytest.approx(1.0, rel=0.2)
    assert variance(Aligned(Stream(4, 0), 2000, 64)) > 10.0


def test_numbers_of_a_net_have_the_law_they_replace() -> None:
    """2^20 normals of 4 moments and 2^20 uniforms of 2, within 4 s.d. of independent numbers and more closely for the first ones."""
    stream = Quasi(Stream(5, 0), 256, 64)
    normals, uniforms = stream.normal(256 * 64, 64).double(), stream.uniform(64, 256 * 64).double()
    n = normals.numel()
    for power, mean, variance in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert abs(normals.pow(power).mean().item() - mean) < 4.0 * math.sqrt(variance / n)
    assert abs(uniforms.mean().item() - 1 / 2) < 4.0 / math.sqrt(12 * n)
    assert abs(uniforms.square().mean().item() - 1 / 3) < 4.0 / math.sqrt(11.25 * n)


@pytest.mark.parametrize("digits", [0, 2**32 - 1])
def test_no_digits_round_to_a_uniform_of_0_or_1_or_an_infinite_normal(digits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quasi, "_net", lambda self, lead, nested, dim: np.full((2, dim), digits, dtype=np.uint32))
    stream = Quasi(Stream(6, 0), 1, 2)
    uniform, normal = stream.uniform(2), stream.normal(2, 3)
    assert ((uniform > 0.0) & (uniform < 1.0)).all() and uniform.dtype == torch.float32
    assert (normal.abs() > 5.0).all() and normal.isfinite().all()


@every_coupling
def test_a_copy_of_a_coupled_stream_draws_the_same_numbers(coupling: str) -> None:
    stream = Mirrored(Stream(7, 0), 4) if coupling == "antithetic" else Quasi(Stream(7, 0), 4, 2)
    copy = stream.clone()
    assert copy.normal(8, 3).equal(stream.normal(8, 3)) and copy.uniform(8).equal(stream.uniform(8))


def test_a_net_serves_plain_numbers_to_a_batch_of_some_rows() -> None:
    assert Quasi(Stream(8, 0), 4, 16).normal(63, 2).equal(Stream(8, 0).normal(63, 2))


def honesty(draws: Tensor) -> float:
    """Spread of the means of identical points over the standard error that they state."""
    moments = Moments.of(draws.double().numpy())
    return float(moments.mean.std(ddof=1) / np.sqrt(np.mean(moments.standard_error**2)))


class Straddling(Mirrored):
    """The planted fault: the second of a pair belongs to the next draw."""

    def normal(self, *shape: int) -> Tensor:
        return super().normal(*shape).roll(1, dims=-2)

    def uniform(self, *shape: int) -> Tensor:
        return super().uniform(*shape).roll(1, dims=-1)


@every_coupling
@every_method
def test_the_means_of_identical_points_spread_by_the_error_they_state(name: str, coupling: str) -> None:
    """400 copies of one point, 8 draws each, every term and bias: 1 within 15 % (4 s.d., false positives 6 in 10^5 each)."""
    method, problem = COUPLINGS[coupling](METHODS[name]), off_everywhere()
    for i, term in enumerate((*method.terms, *method.biases)):
        draws = method.sample(problem, *copies(400), term, 8, Stream(9, i))
        assert draws.shape == (400, 8)
        assert honesty(draws) == pytest.approx(1.0, abs=0.15), term


@dataclass(frozen=True)
class LevelOne:
    """Level 1 of a Picard iteration as a base term of its own."""

    inner: Any
    terms: tuple[str, ...] = ("level 1",)
    biases: tuple[str, ...] = ()
    optional: ClassVar[dict[str, tuple[str, ...]]] = {}

    def sample(self, problem: SemilinearPDE, t: Tensor, x: Tensor, term: str, draws: int, stream: Stream) -> Tensor:
        return self.inner.sample(problem, t, x, term, draws, stream)

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        return self.inner.flop(problem, term, draws)

    def rows(self, term: str, draws: int) -> int:
        return self.inner.rows(term, draws)


@pytest.mark.parametrize("name", ["feynman_kac", "linearised", "telescoped", "picard", "quadrature_picard"])
def test_pairs_that_straddle_two_draws_are_seen(name: str) -> None:
    """The same measure, on the base term: dependent draws state an error that their means do not have."""
    method = Averaged(METHODS[name], 2, Straddling)
    draws = method.sample(equation("viscous_burgers", 4), *copies(400), method.terms[0], 8, Stream(9, 9))
    assert honesty(draws) < 0.7


@every_coupling
@every_method
def test_coupling_changes_no_mean(name: str, coupling: str) -> None:
    """Every term and bias of 1500 coupled draws against as many single ones as they average, within 4 s.e. (6 in 10^5 each)."""
    plain, problem = METHODS[name], off_everywhere()
    coupled = COUPLINGS[coupling](plain)
    for i, term in enumerate((*plain.terms, *plain.biases)):
        ours = Mean.of(coupled.sample(problem, *copies(1), term, 1500, Stream(10, i)))
        theirs = Mean.of(plain.sample(problem, *copies(1), term, 1500 * coupled.size, Stream(11, i)))
        assert abs(ours.mean - theirs.mean) <= 4.0 * (ours.square + theirs.square).sqrt() + 1e-9, term


class Within(Mirrored):
    """The planted fault: pairs of neighbours, also among the draws that are nested in one row."""

    def _nested(self, rows: int) -> int:
        return 1


@every_coupling
def test_what_is_nested_in_a_row_stays_independent_so_that_nonlinear_drivers_keep_their_means(coupling: str) -> None:
    """f = y^2, g = sum x, M = 2: E f(U_1) holds Var(U_1), (T-s) d/2 at time s, hence level 1 is E int U_1^2 = d (T/2 + T/4).

    4 s.e. of 20000 draws, false positives 6 in 10^5; pairs inside a row take that part away.
    """
    problem = written(lambda t, x, y, z: y.square(), terminal=lambda x: x.sum(-1), dim=2)
    truth = 2.0 * (1 / 2 + 1 / 4)
    method = LevelOne(picard(levels=2, samples=2))

    def found(wrapped: Averaged) -> Mean:
        return Mean.of(wrapped.sample(problem, *at_zero(), "level 1", 20_000, Stream(12, 0)))

    ours = found(COUPLINGS[coupling](method))
    assert abs(ours.mean - truth) < 4.0 * ours.error
    fault = found(Averaged(method, 2, Within))
    assert abs(fault.mean - truth) > 10.0 * fault.error


def test_antithetic_pairs_are_exact_where_g_is_linear() -> None:
    """Linear convection-diffusion, d = 20: draws spread by rounding only, where single ones spread by about sqrt(2 T d)."""
    problem = equation("linear_convection_diffusion", 20)
    t, x = (v.double() for v in problem.sample_points(3, Stream(13, 0)))
    for method in (feynman_kac(), picard(levels=1)):
        draws = antithetic(method).sample(problem, t, x, "terminal", 100, Stream(13, 1))
        assert draws.std() > 0.1 and (draws - (x.sum(1) + t)[:, None]).abs().max() < 1e-5
        assert method.sample(problem, t, x, "terminal", 100, Stream(13, 1)).std(1).min() > 1.0


def cost_of_accuracy(method: Any, problem: SemilinearPDE, t: Tensor, x: Tensor, draws: int) -> float:
    """Variance times cost of the terminal term."""
    variance, flop = efficiency(method, problem, t, x, draws, Stream(14, draws))["terminal"]
    return variance * flop


def test_antithetic_pairs_double_the_cost_of_an_even_function() -> None:
    """Allen-Cahn at x = 0: g is even in W, a pair is one draw twice. 20000 draws know a variance to 1 %: twice the cost within 10 %."""
    problem = equation("allen_cahn", 100)
    t, x = at_zero(100)
    plain = cost_of_accuracy(feynman_kac(), problem, t, x, 20_000)
    assert cost_of_accuracy(antithetic(feynman_kac()), problem, t, x, 20_000) == pytest.approx(2.0 * plain, rel=0.1)


def test_a_net_cuts_the_cost_of_a_radial_function_in_a_hundred_dimensions_by_more_than_ten() -> None:
    """E 1/(2 + 0.4 |X|^2), |X|^2 a sum over coordinates: nets of 256 points against single draws at equal evaluations.

    400 nets know their variance to 7 %; a net without its strata (plain numbers) would cut nothing.
    """
    problem = written(lambda t, x, y, z: torch.zeros_like(y), terminal=lambda x: 1.0 / (2.0 + 0.4 * x.square().sum(-1)), dim=100)
    plain = cost_of_accuracy(feynman_kac(), problem, *at_zero(100), 20_000)
    assert cost_of_accuracy(quasi(feynman_kac(), size=256), problem, *at_zero(100), 400) < plain / 10.0
    unstratified = Averaged(feynman_kac(), 256, lambda stream, draws: stream)
    assert cost_of_accuracy(unstratified, problem, *at_zero(100), 400) == pytest.approx(plain, rel=0.3)


def test_a_wrapped_estimator_keeps_the_contract_of_the_one_inside() -> None:
    plain, problem = picard(levels=2, samples=2), equation("viscous_burgers", 4)
    for wrapped, size in ((antithetic(plain), 2), (quasi(plain, size=16), 16)):
        assert wrapped.terms == plain.terms and wrapped.biases == plain.biases
        assert wrapped.flop(problem, "terminal", 3) == plain.flop(problem, "terminal", 3 * size)
        assert wrapped.rows("terminal", 3) == plain.rows("terminal", 3 * size)
        # What removes a bias, and the biases, are drawn as they are.
        for term in ("level 1", "truncation"):
            assert wrapped.flop(problem, term, 3) == plain.flop(problem, term, 3) and wrapped.rows(term, 3) == plain.rows(term, 3)
            single = plain.sample(problem, *copies(2), term, 5, Stream(15, 0))
            assert wrapped.sample(problem, *copies(2), term, 5, Stream(15, 0)).equal(single)
        again = [wrapped.sample(problem, *copies(2), "terminal", 5, Stream(15, 0)) for _ in range(2)]
        assert again[0].shape == (2, 5) and again[0].equal(again[1]) and again[0].dtype == torch.float32


def test_efficiency_is_the_variance_and_the_cost_of_a_draw_of_every_term() -> None:
    problem, method = equation("viscous_burgers", 4), estimator("linearised")
    found = efficiency(method, problem, *copies(3), 4000, Stream(16, 0))
    assert tuple(found) == method.terms
    draws = method.sample(problem, *copies(3), "linear", 4000, Stream(16, 1))
    assert found["linear"][0] == pytest.approx(draws.var(1).mean().item(), rel=0.1)
    assert found["linear"][1] == method.flop(problem, "linear", 4000) / 4000
    with pytest.raises(ValueError, match="draws = 1: a variance needs"):
        efficiency(method, problem, *copies(3), 1, Stream(16, 0))


@pytest.mark.parametrize("size", [0, 1, 48, 2**17])
def test_a_net_of_another_size_than_a_power_of_two_is_refused_by_value(size: int) -> None:
    with pytest.raises(ValueError, match=f"size = {size}"):
        quasi(feynman_kac(), size=size)


@every_coupling
def test_a_coupling_of_a_coupling_is_refused(coupling: str) -> None:
    with pytest.raises(ValueError, match="is not coupled again"):
        COUPLINGS[coupling](antithetic(feynman_kac()))


def test_a_net_of_more_coordinates_than_there_are_is_refused() -> None:
    assert sobol(MAX_DIM, 2).shape == (2, MAX_DIM)
    with pytest.raises(ValueError, match=f"dim = {MAX_DIM + 1}: a Sobol' net has at most {MAX_DIM} coordinates: couple anti"):
        sobol(MAX_DIM + 1, 2)


@pytest.mark.parametrize(("dim", "size"), [(1, 2), (7, 64), (100, 1024)])
def test_the_points_are_those_of_joe_and_kuo(dim: int, size: int) -> None:
    """Unscrambled, as scipy has them."""
    expected = qmc.Sobol(dim, scramble=False).random_base2(size.bit_length() - 1)
    np.testing.assert_array_equal(sobol(dim, size) * 2.0**-32, expected)
