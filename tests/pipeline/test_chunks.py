"""Points and draws are cut exactly, and asked for in an order that depends on counts alone."""

import random

from kernels.estimators.feynman_kac import feynman_kac
from kernels.estimators.picard import picard
from pipeline.chunks import CHUNK_ROWS, MIN_DRAWS, Layout, grow, waves


def test_blocks_cover_every_point_once() -> None:
    for points in (1, 15, 16, 17, 1000):
        layout = Layout(points, 64)
        covered = [p for b in range(layout.blocks) for p in range(layout.chunk(b, 0).start, layout.chunk(b, 0).stop)]
        assert covered == list(range(points))
        assert sum(layout.size(b) for b in range(layout.blocks)) == points


def test_growth_never_spends_more_than_the_budget_nor_shrinks_and_ends() -> None:
    rng = random.Random(0)
    for _ in range(300):
        layout = Layout(rng.randint(1, 100), 2 ** rng.randint(5, 9))
        budget = rng.randint(0, 400_000)
        counts, active = [0] * layout.blocks, [True] * layout.blocks
        for _ in range(200):
            grown = grow(layout, counts, active, budget)
            if grown is None:
                break
            assert grown == grow(layout, list(counts), list(active), budget)
            assert all(new >= old for new, old in zip(grown, counts, strict=True)) and grown != counts
            assert all(new == old for new, old, a in zip(grown, counts, active, strict=True) if not a)
            counts = grown
            assert sum(c * layout.size(b) * layout.draws for b, c in enumerate(counts)) <= budget
            active = [a and rng.random() < 0.8 for a in active]
        else:
            raise AssertionError("growth did not end")


def test_a_budget_that_fits_is_spent_evenly_to_the_last_whole_chunk() -> None:
    layout, counts = Layout(1000, 32), [0] * 63
    while (grown := grow(layout, counts, [True] * 63, 1_024_000)) is not None:
        counts = grown
    assert counts == [32] * 63


def test_chunks_are_bounded_in_rows_and_have_enough_draws() -> None:
    from oracles import equation

    problem = equation("lqg", 100)
    for estimator in (feynman_kac(), picard(levels=2, samples=4)):
        layout = Layout.of(1000, estimator, problem)
        assert layout.draws >= MIN_DRAWS
        assert layout.draws == MIN_DRAWS or 16 * estimator.rows(layout.draws) <= CHUNK_ROWS


def test_waves_hold_every_chunk_once_in_order() -> None:
    layout = Layout(40, 64)
    chunks = [layout.chunk(b, i) for i in range(7) for b in range(3)]
    cut = list(waves(chunks, 1e6, 3e9))
    assert [c for wave in cut for c in wave] == chunks and len(cut) > 2
