"""The scaling law: exponents recovered, intervals that hold as often as they say, and data that follow no such law."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from kernels.scaling_law import (
    HUBER,
    Array,
    Index,
    ScalingLaw,
    at_budget,
    compute_exponent,
    deviation,
    fit,
    frontier,
    interval,
    misfit,
    redrawn,
)
from kernels.streams import Purpose, Stream

N_CELLS, D_CELLS, SEEDS = (50, 200, 800, 3200), (1e3, 4e3, 16e3), 3
N, D, _ = (part.ravel().astype(np.float64) for part in np.meshgrid(N_CELLS, D_CELLS, range(SEEDS), indexing="ij"))
CELLS: Index = np.repeat(np.arange(len(N_CELLS) * len(D_CELLS)), SEEDS)
ALPHA, BETA, NOISE = 0.8, 0.6, 0.15


def law(E: float = 1e-3, alpha: float = ALPHA, beta: float = BETA) -> ScalingLaw:
    """Errors of 0.2 in the smallest cell, half from N and half from D."""
    return ScalingLaw(*map(np.array, (E, 0.1 * 50**alpha, 0.1 * 1e3**beta, alpha, beta)))


def noise(count: int, seed: int = 0, size: float = NOISE) -> Array:
    return size * Stream(seed, Purpose.TRAINING).normal(count, len(N)).double().numpy()


@pytest.mark.parametrize("E", [0.0, 1e-3, 2e-2])
def test_errors_of_a_law_give_it_back(E: float) -> None:
    found = fit(N, D, law(E)(N, D), delta=0.1)
    assert float(found.alpha) == pytest.approx(ALPHA, rel=1e-3) and float(found.beta) == pytest.approx(BETA, rel=1e-3)
    assert float(found.E) == pytest.approx(E, rel=1e-3, abs=1e-5)
    assert float(found.optimal) == pytest.approx(ALPHA * BETA / (ALPHA + BETA), rel=1e-3)
    assert found(N, D) == pytest.approx(law(E)(N, D), rel=1e-3)


def objective(c: Array, logs: Array, delta: float) -> float:
    """Huber's, literally, at the logarithms of E, A, B, alpha, beta."""
    e, a, b, alpha, beta = np.exp(c)
    r = np.abs(np.log(e + a * N**-alpha + b * D**-beta) - logs)
    return float(np.where(r < delta, 0.5 * r**2, delta * (r - 0.5 * delta)).sum())


@pytest.mark.parametrize("E", [0.0, 2e-2])
def test_no_general_minimiser_finds_a_better_law(E: float) -> None:
    """Nelder-Mead over all five numbers from the truth and from the answer, for noise at which E = 0 binds and does not."""
    for seed in range(3):
        logs = np.log(law(E)(N, D)) + noise(1, seed)[0]
        found = fit(N, D, np.exp(logs), delta=0.1)
        ours = np.log(np.maximum([float(v) for v in (found.E, found.A, found.B, found.alpha, found.beta)], 1e-12))
        true = np.log([max(E, 1e-6), 0.1 * 50**ALPHA, 0.1 * 1e3**BETA, ALPHA, BETA])
        options = {"maxiter": 2000, "xatol": 1e-6, "fatol": 1e-10}
        others = [minimize(objective, s, (logs, 0.1), method="Nelder-Mead", options=options).fun for s in (true, ours)]
        assert objective(ours, logs, 0.1) <= min(others) * (1.0 + 1e-4) + 1e-9


def test_many_data_sets_are_fitted_as_each_alone() -> None:
    errors = law()(N, D) * np.exp(noise(4))
    together = fit(N, D, errors, delta=0.15)
    for row, alpha in zip(errors, together.alpha, strict=True):
        assert float(fit(N, D, row, delta=0.15).alpha) == pytest.approx(float(alpha), rel=1e-2)


def test_no_part_of_a_law_is_negative() -> None:
    """Of many data sets at once, some of whose steps are cut: errors that fall by a factor 6 over a size and data hardly told apart."""
    errors = law(0.0, alpha=0.2)(N, D) * np.exp(noise(150, 3, 0.4))
    found = fit(N, D, errors, delta=0.3)
    assert min(found.E.min(), found.A.min(), found.B.min()) == 0.0


def ends(logs: Array, number: int, replicates: int) -> dict[str, tuple[float, float]]:
    """90 % intervals of one data set; of what is not determined, everything."""
    delta = float(np.clip(deviation(logs, CELLS), *HUBER))
    found = fit(N, D, np.exp(logs), delta=delta)
    wider = max(1.0, misfit(found, N, D, logs, CELLS))
    again = redrawn(logs, CELLS, Stream(number, Purpose.RESAMPLING), replicates, widen=wider)
    laws = fit(N, D, np.exp(again), delta=delta, start=found)
    return {name: interval(getattr(laws, name), 0.9) or (0.0, np.inf) for name in ("E", "alpha", "beta", "optimal")}


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """200 data sets of 90 % intervals: held by 83.5 % to 98 %, where one of exactly 90 % is below once in 400 times.

    They are widened where the misfit is above 1 by chance, and hold it in some 93 %. Half as wide they would in 60 %, which
    is taken for right less than once in 10^8.
    """
    truth = {"E": 0.02, "alpha": ALPHA, "beta": BETA, "optimal": ALPHA * BETA / (ALPHA + BETA)}
    found = [ends(np.log(law(0.02)(N, D)) + drawn, number, 40) for number, drawn in enumerate(noise(200, 1))]
    for name, value in truth.items():
        held = np.mean([each[name][0] <= value <= each[name][1] for each in found])
        assert 0.835 <= held <= 0.98, (name, held)


def test_an_irreducible_error_is_seen_and_none_is_not_made_up() -> None:
    """E = 0.05 among errors down to 0.07, seeds spreading by 3 %: 0 is outside in 19 of 20. With E = 0 it
    is inside in 17 of 20, which 95 % leaves once in 60 times."""
    for E in (0.05, 0.0):
        lowest = [ends(np.log(law(E)(N, D)) + drawn, number, 40)["E"][0] for number, drawn in enumerate(noise(20, 5, 0.03))]
        assert np.sum(np.array(lowest) > 0.0) >= 19 if E else np.sum(np.array(lowest) == 0.0) >= 17, lowest


def test_seeds_drawn_again_vary_as_the_mean_of_a_cell_does() -> None:
    """Variance over the cells and 2000 data sets within 5 %, over ten standard deviations; without the stretch it is 2/3."""
    logs = np.log(law()(N, D)) + noise(1)[0]
    again = redrawn(logs, CELLS, Stream(0, Purpose.RESAMPLING), 2000)
    assert np.array_equal(again, redrawn(logs, CELLS, Stream(0, Purpose.RESAMPLING), 2000))
    means = again.reshape(2000, -1, SEEDS).mean(-1)
    assert means.var(0).mean() == pytest.approx(deviation(logs, CELLS) ** 2 / SEEDS, rel=0.05)
    twice = redrawn(logs, CELLS, Stream(0, Purpose.RESAMPLING), 2000, widen=2.0).reshape(2000, -1, SEEDS).mean(-1)
    assert twice.std(0) == pytest.approx(2.0 * means.std(0))


def test_whole_seeds_are_drawn_alike_in_all_cells() -> None:
    """A deviation of each seed that all cells share moves the mean over the cells by its own spread; drawn cell by cell it would
    average out, to 0.29 of that over 12 cells."""
    seeds = np.tile(np.arange(SEEDS), len(CELLS) // SEEDS)
    logs = np.array([-0.3, 0.1, 0.2])[seeds]
    stream = Stream(0, Purpose.RESAMPLING)
    whole = redrawn(logs, CELLS, stream, 4000, seeds=seeds).mean(-1)
    assert whole.var() == pytest.approx(np.var([-0.3, 0.1, 0.2], ddof=1) / SEEDS, rel=0.05)
    order = np.random.default_rng(0).permutation(len(logs))
    again = redrawn(logs[order], CELLS[order], Stream(0, Purpose.RESAMPLING), 4000, seeds=seeds[order]).mean(-1)
    assert again == pytest.approx(whole)
    assert redrawn(logs, CELLS, stream, 4000).mean(-1).var() < 0.15 * whole.var()


def test_the_largest_size_is_predicted_where_the_law_holds_and_missed_where_it_breaks() -> None:
    fitted = N.max() > N
    for broken in (False, True):
        errors = law(5e-3)(N, D) * np.exp(noise(1, 2, 0.05)[0])
        # A width that training does not make use of.
        errors = np.where(fitted, errors, (3.0 if broken else 1.0) * errors)
        off = fit(N[fitted], D[fitted], errors[fitted], delta=0.1)(N[~fitted], D[~fitted]) / errors[~fitted] - 1.0
        assert (np.sqrt(np.mean(off**2)) > 0.25) == broken


def test_the_misfit_is_about_one_for_a_law_and_large_for_what_is_none() -> None:
    """Its square is an F statistic of 7 and 24 degrees of freedom: the mean of 60 is within 0.27 (3 s.d.) of its own, 1.09."""
    found = []
    for drawn in noise(60, 3):
        logs = np.log(law(0.02)(N, D)) + drawn
        found.append(misfit(fit(N, D, np.exp(logs), delta=10.0), N, D, logs, CELLS) ** 2)
    assert np.mean(found) == pytest.approx(24.0 / 22.0, abs=0.27)
    logs = np.log(law(0.02)(N, D)) + noise(1, 3)[0] + 0.8 * np.sin(3.0 * CELLS)
    assert misfit(fit(N, D, np.exp(logs), delta=0.1), N, D, logs, CELLS) > 3.0


def test_a_failed_seed_does_not_decide() -> None:
    logs = np.log(law(0.02)(N, D)) + noise(1, 4, 0.05)[0]
    failed = logs.copy()
    failed[-1] += 3.0
    clean, robust, plain = (fit(N, D, np.exp(part), delta=d) for part, d in ((logs, 0.1), (failed, 0.1), (failed, 10.0)))
    assert abs(float(robust.alpha - clean.alpha)) < 0.15 < abs(float(np.nan_to_num(plain.alpha) - clean.alpha))


def test_errors_that_do_not_fall_with_the_size_leave_its_exponent_open() -> None:
    rising = 0.1 * (D / 1e3) ** -BETA * (N / 50) ** 0.2
    found = fit(N, D, rising, delta=0.1)
    assert np.isnan(found.alpha) and np.isnan(found.optimal) and float(found.A) == 0.0
    assert np.isfinite(found(N, D)).all() and float(found.parameters) <= 3.0
    assert interval(np.array([0.5, np.nan] * 10), 0.9) is None
    assert interval(np.linspace(0.0, 1.0, 101), 0.9) == pytest.approx((0.05, 0.95))


def test_the_frontier_is_what_no_cheaper_cell_beats() -> None:
    cost, errors = np.array([4.0, 1.0, 2.0, 2.0, 8.0, 16.0]), np.array([0.25, 1.0, 0.6, 0.5, 0.3, 0.0625])
    assert frontier(cost, errors).tolist() == [1, 3, 0, 5]
    assert compute_exponent(cost, errors) == pytest.approx(1.0)
    assert np.isnan(compute_exponent(cost[:2], errors[:2]))


def test_between_two_cells_of_the_frontier_errors_are_taken_in_proportion_to_log_cost() -> None:
    cost, mean, square = np.array([1.0, 4.0, 4.0]), np.array([0.0, -2.0, 1.0]), np.array([0.04, 0.08, 9.0])
    assert at_budget(cost, mean, square, 2.0) == pytest.approx((-1.0, 0.25 * 0.04 + 0.25 * 0.08))
    assert at_budget(cost, mean, square, 4.0) == pytest.approx((-2.0, 0.08))
    with pytest.raises(ValueError, match="budget = 5: the frontier reaches from 1 to 4"):
        at_budget(cost, mean, square, 5.0)


def test_what_has_no_law_is_refused() -> None:
    with pytest.raises(ValueError, match="finite and > 0"):
        fit(N, D, np.where(N > 100.0, 0.1, 0.0), delta=0.1)
    with pytest.raises(ValueError, match="two sizes and two amounts"):
        fit(np.full_like(N, 10.0), D, law()(N, D), delta=0.1)
    with pytest.raises(ValueError, match="run more seeds"):
        deviation(np.zeros(3), np.arange(3))
