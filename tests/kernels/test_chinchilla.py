"""The published refit of the Chinchilla law (Besiroglu, Erdil, Barnett, You, arXiv 2404.10102) on its public data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from kernels.scaling_law import Array, ScalingLaw, fit, fit_scaling_law
from kernels.streams import Purpose, Stream

pytestmark = pytest.mark.unchecked

DATA = Path(__file__).resolve().parent.parent / "evidence" / "chinchilla.csv"
DELTA = 1e-3
HOFFMANN = ScalingLaw(*map(np.array, (1.69, 406.4, 410.7, 0.34, 0.28)))
"""As printed in arXiv 2203.15556."""

PARTS = ("E", "A", "B", "alpha", "beta")


def published() -> tuple[Array, Array, Array]:
    """N, D = C / 6N and the loss of the 240 runs that remain without the five largest losses."""
    rows = np.loadtxt(DATA, delimiter=",", skiprows=5)
    size, flop, loss = rows[np.sort(np.argsort(rows[:, 2])[:-5])].T
    return size, flop / (6.0 * size), loss


N, D, L = published()


def objective(law: ScalingLaw) -> float:
    """Huber's, literally."""
    r = np.abs(np.log(law(N, D)) - np.log(L))
    return float(np.where(r < DELTA, 0.5 * r**2, DELTA * (r - 0.5 * DELTA)).sum())


def test_the_published_refit_is_reproduced() -> None:
    """The best of the 4500 starts of the authors' notebook is 0.0010182740346 at 1.81724, 477.84, 2143.9, 0.34731, 0.36718."""
    found = fit_scaling_law(N, D, L, delta=DELTA, n_boot=2)
    law = found.law
    print(f"\nobjective {found.objective:.13f}", *(f"{name} {float(getattr(law, name)):.5g}" for name in (*PARTS, "a_opt")))
    assert len(L) == 240 and found.objective == pytest.approx(objective(law), rel=1e-12)
    assert found.objective <= 0.0010182740346154362
    assert float(law.E) == pytest.approx(1.8172, abs=0.002)
    assert float(law.alpha) == pytest.approx(0.3473, abs=0.001) and float(law.beta) == pytest.approx(0.3672, abs=0.001)
    assert float(law.A) == pytest.approx(477.8, rel=0.02) and float(law.B) == pytest.approx(2143.0, rel=0.02)
    assert float(law.a_opt) == pytest.approx(0.5139, abs=0.002)


def test_the_printed_law_of_the_first_paper_is_four_times_worse() -> None:
    assert objective(HOFFMANN) == pytest.approx(0.00412, rel=0.01)
    assert objective(HOFFMANN) / objective(fit(N, D, L, delta=DELTA)) == pytest.approx(4.05, abs=0.05)


def test_a_general_minimiser_of_the_mean_from_one_start_stops_ten_times_above() -> None:
    """The trap: gradients of a mean of some 1e-6 pass for 0 at default tolerances."""

    def mean(p: Array) -> float:
        a, b, e, alpha, beta = p
        r = np.abs(np.logaddexp(np.logaddexp(a - alpha * np.log(N), b - beta * np.log(D)), e) - np.log(L))
        return float(np.where(r < DELTA, 0.5 * r**2, DELTA * (r - 0.5 * DELTA)).mean())

    stopped = minimize(mean, [5.0, 5.0, 0.5, 0.5, 0.5], method="L-BFGS-B")
    assert stopped.success and len(L) * stopped.fun == pytest.approx(0.0111, rel=0.02)
    assert objective(fit(N, D, L, delta=DELTA)) < 0.1 * len(L) * stopped.fun


def grid() -> tuple[Array, Array]:
    """144 sizes and amounts of data."""
    n, d = np.meshgrid(np.geomspace(5e7, 2e10, 12), np.geomspace(1e9, 5e11, 12))
    return n.ravel(), d.ravel()


def test_a_law_without_noise_is_recovered_to_rounding() -> None:
    n, d = grid()
    found = fit(n, d, HOFFMANN(n, d), delta=DELTA)
    for name in PARTS:
        assert float(getattr(found, name)) == pytest.approx(float(getattr(HOFFMANN, name)), rel=1e-9)


def test_noise_of_three_in_a_thousand_leaves_no_bias() -> None:
    """40 data sets: |bias| < 3 s.e., which chance exceeds once in 125 times for the three; 1 % in E is seen, being 14 s.e."""
    n, d = grid()
    noise = 0.003 * Stream(0, Purpose.TRAINING).normal(40, len(n)).double().numpy()
    found = fit(n, d, HOFFMANN(n, d) * np.exp(noise), delta=DELTA)
    for name in ("E", "alpha", "beta"):
        values, truth = getattr(found, name), float(getattr(HOFFMANN, name))
        print(f"\n{name} {values.mean():.5f} +- {values.std(ddof=1):.5f}")
        assert abs(values.mean() - truth) < 3.0 * values.std(ddof=1) / np.sqrt(len(values))


def test_the_bootstrap_repeats_itself_and_one_data_set_is_refused() -> None:
    first, again, other = (fit_scaling_law(N, D, L, n_boot=2, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.cov, again.cov) and not np.array_equal(first.cov, other.cov) and first.cov.shape == (5, 5)
    with pytest.raises(ValueError, match="n_boot = 1: a covariance needs"):
        fit_scaling_law(N, D, L, n_boot=1)


@pytest.mark.slow
def test_the_bootstrap_spreads_as_published() -> None:
    """200 data sets tell a deviation to 5 %; the published ones are of 4000."""
    found = fit_scaling_law(N, D, L, n_boot=200)
    spread = dict(zip(PARTS, np.sqrt(np.diag(found.cov)), strict=True))
    print("\ns.d.", *(f"{name} {value:.4g}" for name, value in spread.items()), f"a_opt {found.laws.a_opt.std():.4g}")
    for name, value in (("E", 0.026), ("alpha", 0.014), ("beta", 0.021)):
        assert spread[name] == pytest.approx(value, rel=0.3), name
