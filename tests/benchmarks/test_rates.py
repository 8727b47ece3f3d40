"""The benchmark runs, and training and correction keep a fair share of the matrix-product rate."""

import math

import pytest
import rates

CEILING = 50.0
"""Far above what any clock on a loaded machine makes of a share of at most 1."""


def shares(seconds: float) -> dict[str, float]:
    """Of every workload held against a matrix product: its rate over that of the product."""
    loads = rates.workloads(100, 128, 4)
    found = {}
    for name, load in loads.items():
        load.call()
        rate, of_product = rates.rate_of(load, seconds, 128)
        assert math.isfinite(rate) and rate > 0.0 and math.isfinite(of_product) == (load.rows is not None)
        found[name] = rate / of_product
    return {name: found[name] for name, load in loads.items() if load.rows is not None}


def test_every_workload_of_the_benchmark_has_a_rate() -> None:
    found = shares(0.1)
    assert len(found) == 6 and all(0.0 < share < CEILING for share in found.values()), found


@pytest.mark.slow
def test_training_and_correction_reach_a_fifth_of_the_matrix_product_rate() -> None:
    """Recorded on a quiet machine: 0.40 for a training step, 0.46 to 0.55 for the rest (RECORD); to be run with -n 0.

    A fifth catches Python per path or shapes gone wrong.
    """
    found = shares(0.5)
    assert min(found.values()) > 0.2, found


def test_the_flop_of_a_product_are_counted_as_executed() -> None:
    load = rates.product(64, 32)
    assert rates.products(load.call) == load.work == 2 * 64 * 32 * 32
