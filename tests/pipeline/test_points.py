"""Where u is evaluated: drawn, read, at the reference point, or also on the boundary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_bad_input import PDE, refused, write
from torch import Tensor

from kernels.contracts import uniform_box
from kernels.streams import Purpose, Stream
from pipeline.job import Job, load_job
from pipeline.points import count, points_of, read_points

INSIDE = uniform_box(6, 0.5, 0.5)


def on_the_boundary(n: int, stream: Stream) -> tuple[Tensor, Tensor]:
    t, x = INSIDE(n, stream)
    return t, x / x.abs().amax(1, keepdim=True)


def bounded(job_file: Path, points: Any) -> Job:
    """A job for these points whose problem has a reference point of its own and a boundary."""
    base = load_job(job_file)
    job = replace(
        base, model=base.model.model_copy(update={"correction": base.model.correction.model_copy(update={"points": points})})
    )
    vars(job)["problem"] = replace(base.problem, start=0.25, sample_points=INSIDE, boundary_points=on_the_boundary)
    return job


def test_the_reference_point_is_at_time_0_and_the_start_of_the_problem(job_file: Path) -> None:
    job = bounded(job_file, "reference")
    t, x = points_of(job)
    assert t.tolist() == [0.0] and x.tolist() == [[0.25] * 6] and count(job) == 1
    assert points_of(load_job(job_file, {"correction.points": "reference"}))[1].tolist() == [[0.0] * 6]


def test_interior_points_are_those_of_a_plain_number_and_boundary_points_come_after(job_file: Path) -> None:
    from pipeline.schema import DomainPoints

    job = bounded(job_file, DomainPoints(interior=5, boundary=3))
    t, x = points_of(job)
    assert t.shape == (8,) and x.shape == (8, 6) and count(job) == 8
    plain_t, plain_x = points_of(bounded(job_file, 5))
    assert t[:5].equal(plain_t) and x[:5].equal(plain_x)
    assert x[5:].abs().amax(1).tolist() == [1.0] * 3
    # Not the numbers of the interior points once more.
    assert not t[5:].equal(plain_t[:3])
    only = points_of(bounded(job_file, DomainPoints(boundary=3)))
    assert only[1].equal(x[5:]) and count(bounded(job_file, DomainPoints(boundary=3))) == 3


def test_a_boundary_is_refused_where_the_problem_has_none(job_file: Path, scasml: Callable[..., Any]) -> None:
    (job_file.parent / "pde.py").write_text(PDE.format(body="pass"))
    write(
        job_file, {"problem": {"file": "pde.py", "name": "mine", "dim": 3}, "correction.points": {"interior": 50, "boundary": 9}}
    )
    refused(scasml, job_file, ["correction.points.boundary = 9", "'mine' has no boundary_points", "points: 59"])
    write(job_file, {"correction.points": {"interior": 50}})
    assert scasml("check", job_file).status == 0


@pytest.mark.parametrize("points", ["reference", {"interior": 20}])
def test_a_run_at_such_points_has_a_report(points: Any, job_file: Path, scasml: Callable[..., Any]) -> None:
    write(job_file, {"training.steps": 5, "correction.max_paths": 20_000, "report.baselines": [], "correction.points": points})
    for _ in range(2):
        done = scasml("run", job_file, "--inline", "--out", job_file.parent / "out")
        assert done.status == 0, done.err


@pytest.mark.parametrize("head", ["", "t,x1,x2,x3,x4,x5,x6\r\n", "# made by hand\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
def test_a_csv_is_read_with_or_without_header_and_byte_order_mark(head: str, mark: str, job_file: Path) -> None:
    path = job_file.parent / "p.csv"
    path.write_text(f"{mark}{head}0.1,1,2,3,4,5,6\r\n0.2,1,2,3,4,5,6\r\n", encoding="utf-8")
    t, x = read_points(path, load_job(job_file))
    assert t.tolist() == torch.tensor([0.1, 0.2]).tolist() and x[1].tolist() == [1, 2, 3, 4, 5, 6]


def test_drawn_points_have_an_address_of_their_own(job_file: Path) -> None:
    job = load_job(job_file)
    t, x = job.problem.sample_points(40, Stream(0, Purpose.POINTS))
    assert points_of(job)[0].equal(t) and points_of(job)[1].equal(x)
