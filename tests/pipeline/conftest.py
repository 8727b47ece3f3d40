"""A tiny job, the command in this process, and a finished run to look at."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from pipeline import cli

TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 0,
    "problem": {"name": "viscous_burgers", "dim": 6},
    "surrogate": {"name": "mlp", "width": 16, "depth": 2},
    "training": {"steps": 40, "batch": 64, "workers": 1},
    "correction": {
        "estimator": {"name": "linearised", "times": 2},
        "laplacian": 2,
        "points": 40,
        "max_paths": 160_000,
        "ranks": 1,
    },
}


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


class Done:
    """What a command left: status, standard output, standard error."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def scasml(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command, in this process."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["scasml", *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        shown = capsys.readouterr()
        return Done(status, shown.out, shown.err)

    return call


def numbers(folder: Path) -> dict[str, bytes]:
    """The bytes of every numerical dataset of a run's report."""
    with h5py.File(folder / "report.h5") as file:
        return {name: np.asarray(node[()]).tobytes() for name, node in file.items()}
