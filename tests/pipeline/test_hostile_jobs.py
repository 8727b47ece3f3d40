"""Mutated job files: each one is accepted or refused in one clear line, soon, and none writes or runs anything."""

from __future__ import annotations

import copy
import random
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import InputError
from pipeline.work import planned

from conftest import TINY  # isort: skip

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 64, 0.5, 1e-300, 1e15, 1e308, -1e308, float("nan"), float("inf"), 2**63, 10**30, 10**400,
    "", "x", "auto", "reference", "exact", "lqg", "1e3", "é", "../..", "\x00", "a" * 5000, [], [1], [[]], {}, {"name": "mlp"},
    {"name": []}, {"name": None}, {"file": "x"}, {"file": None}, {"file": "/dev/zero"}, {"interior": 1e9}, {"a": {"b": {}}},
    {"name": "linearised", "times": 10**17},
]  # fmt: skip
KEYS: list[Any] = ["x", "nam", "fil", "dim", "name", "points", "levels", "file", "sweep", "seed", 3]
PIECES = [
    b": ",
    b"{",
    b"[",
    b"\n",
    b"- ",
    b"&a ",
    b"*a ",
    b"!!python/name:os.system ",
    b"<<: ",
    b"\t",
    b"'",
    b"\xff",
    b"? ",
    b"9" * 50,
]


def places(data: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    out = []
    for key, value in data.items():
        out.append((*path, key))
        if isinstance(value, dict):
            out += places(value, (*path, key))
    return out


def mutated(rng: random.Random) -> bytes:
    """A job with a key changed, dropped, added or moved, or with bytes changed, cut or put in."""
    data = copy.deepcopy(TINY)
    if rng.random() < 0.3:
        text = bytearray(yaml.safe_dump(data).encode())
        for _ in range(rng.randrange(1, 5)):
            i = rng.randrange(len(text))
            text[i : i + rng.choice([0, 0, 1, 8])] = rng.choice([*PIECES, bytes([rng.randrange(256)])])
        return bytes(text)
    *parents, last = rng.choice(places(data))
    node = data
    for key in parents:
        node = node[key]
    kind = rng.random()
    if kind < 0.7:
        node[last] = rng.choice(VALUES)
    elif kind < 0.8:
        del node[last]
    else:
        node[rng.choice(KEYS)] = rng.choice(VALUES)
    return yaml.dump(data).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("seed", range(3))
def test_a_hundred_mutated_jobs_each_end_in_one_clear_line_or_a_job(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    refused = 0
    # What is imported once is not what a job costs.
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(TINY))
    planned(tmp_path / "job.yaml", tmp_path / "out", [])
    for _ in range(100):
        text = mutated(rng)
        (tmp_path / "job.yaml").write_bytes(text)
        began = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            try:
                planned(tmp_path / "job.yaml", tmp_path / "out", [])
            except InputError as error:
                refused += 1
                assert "\n" not in str(error) and 10 < len(str(error)) < 1500, (text, str(error))
        assert time.monotonic() - began < 10.0, text
        assert sorted(p.name for p in tmp_path.iterdir()) == ["job.yaml"], text
    assert 60 < refused < 100
