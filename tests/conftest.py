"""Shared by every test."""

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tests that start processes take turns in two groups, with clusters and without; all others go to whoever is free."""
    place = item.path.relative_to(ROOT) if item.path.is_relative_to(ROOT) else item.path
    if place.name in {"test_ray.py", "test_slurm.py"}:
        item.add_marker(pytest.mark.xdist_group("clusters"))
    elif place.parts[0] in {"pipeline", "benchmarks"} or place.name == "test_readme.py":
        item.add_marker(pytest.mark.xdist_group("processes"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
