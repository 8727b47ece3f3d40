"""The benchmark runs, and training and correction keep a fair share of the matrix-product rate."""

import rates


def test_training_and_correction_reach_a_fifth_of_the_matrix_product_rate_even_on_a_loaded_machine() -> None:
    """Recorded on a quiet machine: about a half (README). A fifth catches Python per path or shapes gone wrong."""
    loads = rates.workloads(100, 128, 4)
    found = {}
    for name, load in loads.items():
        load.call()
        found[name] = rates.rate_of(load.call, load.work, 0.5)
    shares = {n: found[n] / found[f"matrix product, {load.rows} rows"] for n, load in loads.items() if load.rows is not None}
    assert len(shares) == 4
    assert min(shares.values()) > 0.2, shares


def test_the_flop_of_a_product_are_counted_as_executed() -> None:
    load = rates.product(64, 32)
    assert rates.products(load.call) == load.work == 2 * 64 * 32 * 32
