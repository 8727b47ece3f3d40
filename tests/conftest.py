"""Shared by every test."""

import os

import pytest
import torch

# Ray's workers yield to everything else on a machine; beside other tests they would hardly move.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
