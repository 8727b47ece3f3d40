"""Corrections on GPUs: which card a rank takes, how ranks share one, and what is refused without."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import TINY

from pipeline import cluster
from pipeline.baselines import linear_method, mlp_method, plain_method
from pipeline.card import card, check_card
from pipeline.correction import scasml_method
from pipeline.dag import run
from pipeline.errors import InputError
from pipeline.fanout import Alone
from pipeline.job import Job, job_from
from pipeline.plan import Candidate


def asked(device: str) -> Job:
    return job_from({**TINY, "correction": {**TINY["correction"], "device": device}}, Path())


def test_without_a_gpu_the_device_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_card(asked("cpu"))
    for refuse in (lambda: check_card(asked("cuda")), lambda: run(asked("cuda"), tmp_path / "run", progress=False)):
        with pytest.raises(InputError, match=r"correction\.device = 'cuda': PyTorch sees no GPU here: use device: cpu"):
            refuse()
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="the Ray cluster has no GPU"):
        cluster.check_gpus(asked("cuda"), 0.0)
    cluster.check_gpus(asked("cuda"), 1.0)


@pytest.mark.parametrize(
    ("cards", "neighbours", "taken", "parts"),
    [(1, 1, [0], [1]), (1, 3, [0, 0, 0], [3, 3, 3]), (2, 3, [0, 1, 0], [2, 1, 2]), (4, 2, [0, 1], [1, 1])],
)
def test_ranks_take_turns_over_the_cards_and_share_the_memory_of_one_evenly(
    cards: int, neighbours: int, taken: list[int], parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"card {index}"))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: shares.append(given))
    job, everyone = asked("cuda"), [f"card {index}" for index in taken]
    for place, index in enumerate(taken):
        comm = Alone()
        monkeypatch.setattr(comm, "place", place)
        monkeypatch.setattr(comm, "gather", lambda item: everyone)
        assert card(job, comm) == torch.device("cuda", index)
    assert [index for _, index in shares] == taken
    assert [round(0.9 / share) for share, _ in shares] == parts
    assert card(asked("cpu"), Alone()) == torch.device("cpu") and len(shares) == neighbours


def test_chunks_of_a_gpu_are_not_those_of_a_cpu() -> None:
    owners: list[set[str]] = []
    for device in ("cpu", "cuda"):
        job = asked(device)
        chosen = Candidate({"name": "linearised", "times": 4, "steps": 1}, 2, "none")
        methods = (
            scasml_method(job, job.surrogate(), 8, chosen),
            linear_method(job, 8),
            mlp_method(job, 8, 1, 2),
            plain_method(job, 8),
        )
        owners.append({method.owner for method in methods})
        assert job.correction_hash == asked("cpu").correction_hash
    assert len(owners[0]) == len(owners[1]) == 4 and not owners[0] & owners[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_and_a_cpu_agree_within_rounding_and_ranks_that_share_a_card_have_the_bits_of_one(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    for name, device, ranks in (("cpu", "cpu", 1), ("one", "cuda", 1), ("two", "cuda", 2)):
        data = {**TINY, "correction": {**TINY["correction"], "device": device, "ranks": ranks}}
        found[name] = run(job_from(data, Path()), tmp_path / name, progress=False).methods["scasml"].value
    assert (found["one"] == found["two"]).all()
    # The same normals on either: what differs is rounding, far below a standard error.
    assert abs(found["one"] - found["cpu"]).max() < 1e-4 * abs(found["cpu"]).max()
