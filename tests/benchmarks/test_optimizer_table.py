"""The benchmark of optimizers runs, and counts what a search takes."""

from __future__ import annotations

import pytest
from optimizers import Size, trained


@pytest.mark.parametrize(("name", "least", "most"), [("adam", 1.0, 1.0), ("spring", 2.0, 2.0), ("lbfgs", 2.0, 21.0)])
def test_an_optimizer_is_charged_for_what_it_evaluates(name: str, least: float, most: float) -> None:
    found = trained(Size("viscous_burgers", 3, 8, 2, 32, 0), name, 3, 0.01)
    assert least <= found.cost <= most and found.overhead > 1.0 and 0.0 < found.error < 1.0
