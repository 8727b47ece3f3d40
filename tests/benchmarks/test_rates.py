"""The benchmark runs, and training and correction keep a fair share of the matrix-product rate."""

import rates


def test_training_and_correction_reach_a_fifth_of_the_matrix_product_rate_even_on_a_loaded_machine() -> None:
    """Recorded on a quiet machine: about a half (README). A fifth catches Python per path or shapes gone wrong."""
    found = {}
    for name, (call, work) in rates.workloads(100, 128, 4).items():
        call()
        found[name] = rates.rate_of(call, work, 0.5)
    gemm = found["matrix product"]
    slow = {name: rate / gemm for name, rate in found.items() if name != "normals" and rate < 0.2 * gemm}
    assert not slow
