"""Random streams have addresses; moments merge and shrink as stated."""

import math
import re

import numpy as np
import pytest
import torch

from kernels.intervals import student_quantile
from kernels.moments import Moments
from kernels.streams import Purpose, Stream


def test_neighbouring_addresses_are_uncorrelated() -> None:
    """40 pairs of 10^5 normals: |correlation| < 5/sqrt(n) fails 2 in 10^5 times, and sees 4 % of shared noise."""
    n = 100_000
    base = Stream(0, Purpose.CORRECTION, 0, 0).normal(n)
    for address in [(3, 0, i) for i in range(1, 21)] + [(3, i, 0) for i in range(1, 21)]:
        other = Stream(0, *address).normal(n)
        assert abs(float((base * other).mean())) < 5 / math.sqrt(n)
        assert abs(float((base * (other + 0.04 * base)).mean())) > 5 / math.sqrt(n)


def test_a_clone_draws_the_same_and_leaves_the_original_where_it_was() -> None:
    stream = Stream(1, 2, 3)
    stream.normal(5)
    ahead = stream.clone().normal(7)
    assert stream.normal(7).equal(ahead)


def test_uniforms_are_never_zero_and_signs_are_fair() -> None:
    stream = Stream(4, 0)
    u = stream.uniform(1_000_000)
    assert u.min() > 0 and u.max() <= 1
    signs = stream.signs(1000, 13)
    assert signs.abs().eq(1).all() and signs.shape == (1000, 13)
    assert abs(float(signs.mean())) < 5 / math.sqrt(13_000)


def test_normals_have_the_moments_of_normals() -> None:
    """10^6 draws, 5 s.e. (false positives 2 in 10^6): sees a scale or a shift off by half a per cent, and tails."""

    def normal(x: torch.Tensor) -> bool:
        moments = abs(x.mean()) < 5e-3, abs(x.var() - 1) < 5 * math.sqrt(2e-6), abs((x**4).mean() - 3) < 5 * math.sqrt(96e-6)
        return all(bool(moment) for moment in moments)

    x = Stream(9, 9).normal(1_000_000).double()
    assert normal(x)
    assert (
        not normal(1.01 * x)
        and not normal(x + 0.01)
        and not normal(math.sqrt(3.0) * (2.0 * Stream(9, 9).uniform(1_000_000) - 1.0))
    )


@pytest.mark.parametrize("bad", [(-1,), (0, -3), (2**64,), (0, 2**32), (0, 1, 2**40)], ids=str)
def test_seeds_and_addresses_out_of_range_are_refused_by_value(bad: tuple[int, ...]) -> None:
    """Beyond 2^32 an entry would take two words of the key, and could meet another address."""
    with pytest.raises(ValueError, match=re.escape(str(bad))):
        Stream(*bad)


def test_no_two_addresses_share_a_stream() -> None:
    """Also those whose words look alike: (1, 1), (1 + 2^32), (1, 1, 0), and the largest of each."""
    top = 2**32 - 1
    addresses = [
        (0,),
        (1,),
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (1 + 2**32,),
        (1, 1, 0),
        (1, 0, 1),
        (2**64 - 1, top),
        (top, top),
        (0, top),
    ]
    first = {tuple(Stream(*address).normal(4).tolist()) for address in addresses}
    assert len(first) == len(addresses)


def test_integers_are_uniform_below_their_bound() -> None:
    """6000 draws below 3: each count within 5 s.d. of 2000 (false positives 2 in 10^6); 3 is never drawn."""
    stream = Stream(5, 0)
    counts = np.bincount([stream.integer(3) for _ in range(6000)], minlength=4)
    assert counts[3] == 0 and (np.abs(counts[:3] - 2000) < 5 * math.sqrt(6000 * 2 / 9)).all()


def chunks(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [1e3 + rng.standard_normal((2, 5, n)) for n in (7, 64, 1, 300)]


def test_folded_moments_equal_those_of_all_draws_together() -> None:
    parts = chunks()
    together = np.concatenate(parts, axis=-1)
    folded = Moments.fold(Moments.of(p) for p in parts)
    np.testing.assert_allclose(folded.mean, together.mean(-1), rtol=1e-13)
    np.testing.assert_allclose(folded.variance, together.var(-1, ddof=1), rtol=1e-11)
    assert folded.count == together.shape[-1]


def test_the_order_of_a_fold_fixes_its_bits() -> None:
    parts = [Moments.of(p) for p in chunks()]
    first, again = Moments.fold(parts), Moments.fold(parts)
    assert first.mean.tobytes() == again.mean.tobytes() and first.m2.tobytes() == again.m2.tobytes()
    other = Moments.fold(parts[::-1])
    np.testing.assert_allclose(other.m2, first.m2, rtol=1e-10)


def test_one_draw_earns_no_error_bar() -> None:
    assert np.isnan(Moments.of(np.ones((2, 1))).standard_error).all()


def test_intervals_of_the_mean_cover_as_stated() -> None:
    """2000 samples of 64: coverage 0.95 +- 0.0195 (4 s.d.); a standard error 10 % short covers 0.922 and is seen."""
    draws = np.random.default_rng(1).standard_normal((2000, 64))
    moments, z = Moments.of(draws), student_quantile(0.95, np.inf)
    covered = np.mean(np.abs(moments.mean) <= z * moments.standard_error)
    assert abs(covered - 0.95) < 0.0195
    assert abs(np.mean(np.abs(moments.mean) <= 0.9 * z * moments.standard_error) - 0.95) > 0.0195


def test_a_confidence_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.5"):
        student_quantile(1.5, np.inf)


def test_moments_accumulate_in_double_precision() -> None:
    draws = torch.full((1, 100_000), 0.1).numpy()
    assert Moments.of(draws).mean[0] == pytest.approx(float(np.float32(0.1)), rel=1e-14)
