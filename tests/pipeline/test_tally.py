"""Chunks folded in order, tolerances, and the replay of a finished fan-out."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kernels.defect import defect
from kernels.equations.viscous_burgers import viscous_burgers
from kernels.estimators.feynman_kac import feynman_kac
from kernels.estimators.linearised import linearised
from kernels.estimators.picard import picard
from kernels.streams import Purpose
from kernels.surrogates.mlp import mlp
from pipeline import fanout, store
from pipeline.errors import InputError
from pipeline.fanout import Alone, compute, drive
from pipeline.job import RunFolder
from pipeline.tally import Method, Tally, replay, within, within_distance

POINTS = 20
NAMED = {"job": {"name": "test"}, "correction_hash": "h"}


def method(name: str = "linear", points: int = POINTS) -> Method:
    estimator = replace(feynman_kac(), biases=()) if name == "linear" else picard(levels=2, samples=1)
    return Method(name, Purpose.LINEAR, estimator, viscous_burgers(3), "owner", points)


def points() -> tuple[torch.Tensor, torch.Tensor]:
    from kernels.streams import Stream

    return viscous_burgers(3).sample_points(POINTS, Stream(0, 0))


def driven(folder: Path, m: Method, budget: float, tolerance: float | None = None) -> tuple[np.ndarray, np.ndarray, bool | None]:
    """Value and error after a fan-out on one rank."""
    t, x = points()
    folder.mkdir(parents=True, exist_ok=True)
    limit = None if tolerance is None else within(None, tolerance, np.zeros(POINTS), m.layout)
    outcome = drive(RunFolder(folder), m, t, x, 0, NAMED, Alone(), budget, limit)
    return (*outcome.tally.table(outcome.counts), outcome.met)


class Several:
    """As many ranks as asked, in one process: indices go to whichever is next, and parts come back in any order."""

    rank = 0

    def __init__(self, size: int) -> None:
        self.size = size

    def take(self, total: int) -> Iterator[int]:
        return iter(np.random.default_rng(self.size).permutation(total).tolist())

    def gather(self, item: object) -> list[object]:
        return [item]

    def share(self, item: object) -> object:
        return item


def test_the_order_in_which_chunks_come_changes_no_bit(tmp_path: Path) -> None:
    t, x = points()
    found = []
    for size in (1, 2, 5):
        folder = tmp_path / str(size)
        folder.mkdir()
        outcome = drive(RunFolder(folder), method("mlp"), t, x, 0, NAMED, Several(size), 5.0 * method("mlp").pilot_price(), None)
        found.append(b"".join(a.tobytes() for a in outcome.tally.table(outcome.counts)))
    assert found[0] == found[1] == found[2]


def test_a_wave_of_more_chunks_than_a_file_holds_is_several_files_and_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, m = method("mlp"), method("mlp")
    value, *_ = driven(tmp_path / "whole", whole, 5.0 * whole.pilot_price())
    monkeypatch.setattr(fanout, "MAX_FILE_CHUNKS", 3)
    assert len(fanout._take_wave(m, deque(m.layout.chunk(0, 0, n) for n in range(9)), 1e18, 1)) == 9
    assert len(fanout._take_wave(m, deque(m.layout.chunk(0, 0, n) for n in range(999)), 1e18, 2)) == 2 * fanout.CHUNKS_PER_RANK
    parted, *_ = driven(tmp_path / "parted", m, 5.0 * m.pilot_price())
    assert parted.tobytes() == value.tobytes()
    files = [store.load_wave(path, owner=m.owner) for path in RunFolder(tmp_path / "parted").waves("mlp")]
    assert len(files) > 3 and max(len(file.keys) for file in files) == 3
    again = Tally.read(RunFolder(tmp_path / "parted"), m)
    assert set(again.have) == set(Tally.read(RunFolder(tmp_path / "whole"), whole).have)
    assert sum(file.wall > 0.0 for file in files) < len(files), "the time of a wave counts once"


def test_a_tolerance_is_met_at_every_point_and_a_tighter_one_reuses_all_chunks(tmp_path: Path) -> None:
    m = method("mlp")
    pilot = driven(tmp_path / "pilot", m, m.pilot_price())[1].max()
    loose, tight = 0.8 * pilot, 0.4 * pilot
    _, error, met = driven(tmp_path / "run", m, 1e12, loose)
    assert met and (error <= loose).all() and error.max() > tight
    before = Tally.read(RunFolder(tmp_path / "run"), m)
    value, error, met = driven(tmp_path / "run", m, 1e12, tight)
    after = Tally.read(RunFolder(tmp_path / "run"), m)
    assert met and (error <= tight).all()
    assert set(before.have) < set(after.have)
    fresh, _, _ = driven(tmp_path / "fresh", m, 1e12, tight)
    assert fresh.tobytes() == value.tobytes()


def test_a_budget_too_small_for_the_tolerance_is_said(tmp_path: Path) -> None:
    _, error, met = driven(tmp_path / "run", method("mlp"), 2.0 * method("mlp").pilot_price(), 1e-6)
    assert met is False and error.max() > 1e-6


def test_four_times_the_budget_halves_the_stated_error(tmp_path: Path) -> None:
    """Chunk-exact budgets of one term: a ratio of two within 3 %, from some 10^5 draws a point."""
    m = method()
    price = m.pilot_price()
    errors = [driven(tmp_path / str(k), m, k * price)[1] for k in (4, 8, 16)]
    assert np.sqrt(np.mean(errors[0] ** 2) / np.mean(errors[2] ** 2)) == pytest.approx(2.0, rel=0.03)
    assert np.sqrt(np.mean(errors[0] ** 2) / np.mean(errors[1] ** 2)) == pytest.approx(np.sqrt(2.0), rel=0.03)


def test_twice_the_paths_of_a_correction_divide_the_stated_error_by_the_root_of_two() -> None:
    """All terms of the linearised estimator on a defect, allocated anew for each budget: within 5 % (1 % noise at these draws)."""
    problem = viscous_burgers(3)
    error = defect(problem, mlp(problem, seed=0, width=8, depth=2).requires_grad_(False), probes=2)
    m = Method("scasml", Purpose.CORRECTION, linearised(times=2), error, "owner", POINTS, bounded="paths")
    t, x = points()
    errors = []
    for k in (16, 32, 64):
        tally, counts = Tally(m), [tuple(0 for _ in m.terms) for _ in range(m.layout.blocks)]
        while (grown := tally.next(counts, None, k * m.pilot_price())) is not None:
            for key in tally.missing(counts, grown):
                tally.have[key] = compute(m, m.layout.chunk(*key), t, x, 0)
            counts = grown
        errors.append(float(np.sqrt(np.mean(tally.table(counts)[1] ** 2))))
    assert errors[0] / errors[1] == pytest.approx(math.sqrt(2.0), rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(math.sqrt(2.0), rel=0.05)


def test_the_replay_of_a_finished_fan_out_ends_where_it_ended_and_misses_a_lost_chunk(tmp_path: Path) -> None:
    m, (t, x) = method("mlp"), points()
    folder = RunFolder(tmp_path)
    budget = 5.0 * m.pilot_price()
    outcome = drive(folder, m, t, x, 0, NAMED, Alone(), budget, None)
    again = replay(Tally.read(folder, m), None, budget)
    assert again.counts == outcome.counts and again.stages == outcome.stages
    lost = Tally.read(folder, m)
    del lost.have[0, 1, 0]
    with pytest.raises(InputError, match="chunk 0 of 'level 0' at point block 0 is missing"):
        replay(lost, None, budget)


def test_chunks_of_another_layout_or_without_finite_numbers_are_refused(tmp_path: Path) -> None:
    m, (t, x) = method(), points()
    moments = compute(m, m.layout.chunk(0, 0, 0), t, x, 0)
    mean = np.full((1, 16), np.nan)
    mean[0] = moments.mean
    wave = store.Wave(np.array([[0, 0, 0]]), np.array([moments.count]), mean, mean**2, np.zeros(1), 0.0)
    Tally(m).add(wave)
    with pytest.raises(InputError, match="another release"):
        Tally(m).add(store.Wave(wave.keys, wave.count + 1, wave.mean, wave.m2, wave.seconds, 0.0))
    with pytest.raises(InputError, match=r"'terminal' at points 0 to 15 are not finite.*float32"):
        Tally(m).add(store.Wave(wave.keys, wave.count, np.full_like(mean, np.inf), wave.m2, wave.seconds, 0.0))


def test_a_wave_of_many_chunks_can_be_committed(tmp_path: Path) -> None:
    many = 4096
    numbers = np.ones((many, 16))
    wave = store.Wave(np.zeros((many, 3), dtype=np.int64), np.ones(many, dtype=np.int64), numbers, numbers, np.ones(many), 1.0)
    store.save_wave(tmp_path / "wave-000000.h5", wave, owner="o", named=NAMED)
    assert len(store.load_wave(tmp_path / "wave-000000.h5", owner="o").keys) == many


def test_a_baseline_is_settled_by_its_distance() -> None:
    m = method()
    tolerance = within_distance(np.zeros(POINTS), m.layout)
    np.testing.assert_allclose(tolerance(1, np.full(4, 2.0)), np.full(4, 0.2))


def test_the_freedom_of_a_term_is_that_of_its_draws_at_every_point(tmp_path: Path) -> None:
    """Two blocks, of 16 points and 4, with other numbers of chunks."""
    m, (t, x) = method("mlp"), points()
    tally, counts = Tally(m), [(2, 1, 1, 1, 1)[: len(m.terms)], (3, 1, 2, 1, 1)[: len(m.terms)]]
    for key in tally.missing(tally.start(), counts):
        tally.have[key] = compute(m, m.layout.chunk(*key), t, x, 0)
    for term, draws in enumerate(m.layout.draws):
        expected = [draws * c[term] - 1.0 for c in counts]
        assert tally.freedom(counts, term).tolist() == [expected[0]] * 16 + [expected[1]] * 4
