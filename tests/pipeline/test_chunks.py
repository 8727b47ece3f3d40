"""How points and draws are cut: whole, bounded, by the method alone."""

from kernels.defect import defect
from kernels.equations.lqg import lqg
from kernels.equations.viscous_burgers import viscous_burgers
from kernels.estimators.linearised import linearised
from kernels.estimators.picard import picard
from kernels.surrogates.mlp import mlp
from pipeline.chunks import CHUNK_FLOP, CHUNK_ROWS, LATER_SHARE, MIN_DRAWS, POINTS_PER_BLOCK, Layout


def test_blocks_cover_every_point_once() -> None:
    for points in (1, 15, 16, 17, 1000):
        layout = Layout(points, (32,))
        rows = [layout.chunk(b, 0, 0) for b in range(layout.blocks)]
        covered = [p for chunk in rows for p in range(chunk.start, chunk.stop)]
        assert covered == list(range(points))
        assert [layout.rows(b) for b in range(layout.blocks)] == [slice(c.start, c.stop) for c in rows]


def test_chunks_are_bounded_in_rows_and_work_and_have_enough_draws() -> None:
    for estimator in (linearised(), picard(levels=2, samples=4)):
        for problem in (viscous_burgers(4), lqg(100)):
            layout = Layout.of(1000, estimator, problem)
            terms = (*estimator.terms, *estimator.biases)
            assert len(layout.draws) == len(terms)
            for term, draws in zip(terms, layout.draws, strict=True):
                assert draws >= MIN_DRAWS
                if draws > MIN_DRAWS:
                    assert POINTS_PER_BLOCK * estimator.rows(term, draws) <= CHUNK_ROWS
                    assert POINTS_PER_BLOCK * estimator.flop(problem, term, draws) <= CHUNK_FLOP


def test_a_single_point_gets_more_draws_a_chunk_than_a_full_block() -> None:
    problem = viscous_burgers(4)
    assert Layout.of(1, linearised(), problem).draws[0] > Layout.of(1000, linearised(), problem).draws[0]


def test_chunks_that_remove_a_bias_hold_as_much_work_as_others_at_one_point_and_a_quarter_elsewhere() -> None:
    """Where work bounds the draws of the time step: twice as many at one point as at two by the points alone, eight times with it."""
    problem = defect(lqg(50), mlp(lqg(50), seed=0, width=32, depth=3), probes=8)
    alone, pair = (Layout.of(points, linearised(), problem).draws[1] for points in (1, 2))
    assert alone == 8 * pair
    assert LATER_SHARE * CHUNK_FLOP < linearised().flop(problem, "time step", alone) <= CHUNK_FLOP
    assert 2 * linearised().flop(problem, "time step", pair) <= LATER_SHARE * CHUNK_FLOP


def test_paths_of_many_steps_are_taken_in_batches_that_are_worth_a_step() -> None:
    """However dear its draws, a chunk has 256 over its points, unless their rows are more than memory should hold."""
    problem = defect(lqg(100), mlp(lqg(100), seed=0, width=64, depth=3), probes=8)
    dear = linearised(times=16, steps=16)
    assert 32 * dear.flop(problem, "linear", 1) > 0.5 * CHUNK_FLOP
    assert [Layout.of(points, dear, problem).draws[0] for points in (1, 2, 16)] == [256, 128, 32]
    rows = Layout.of(1, dear, problem).draws[2] * dear.rows("remainder", MIN_DRAWS) / MIN_DRAWS
    assert CHUNK_ROWS / 2 < rows <= CHUNK_ROWS
