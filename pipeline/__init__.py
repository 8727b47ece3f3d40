"""Processes and files around the kernels: jobs, training, fan-out, reports.

>>> import tempfile
>>> from pathlib import Path
>>> from pipeline import load_job, run
>>> with tempfile.TemporaryDirectory() as folder:
...     file = Path(folder, "tiny.yaml")
...     _ = file.write_text(
...         "{name: tiny, problem: {name: viscous_burgers, dim: 4}, surrogate: {width: 8, depth: 1},"
...         " training: {steps: 20, batch: 32}, correction: {points: 16, max_paths: 20_000}}"
...     )
...     job = load_job(file, {"training.steps": 40})
...     report = run(job, out=Path(folder, "run"), progress=False)
>>> job.model.training.steps, len(report.t)
(40, 16)
>>> report.errors("scasml")["rel_l2"] < report.errors("surrogate")["rel_l2"]
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.dag import run
    from pipeline.job import load_job, load_jobs
    from pipeline.report import Report

__all__ = ["Report", "load_job", "load_jobs", "run"]

_HOMES = {"run": "dag", "load_job": "job", "load_jobs": "job", "Report": "report"}


def __getattr__(name: str) -> Any:
    # Found when asked for: a rank or a worker imports a part of this package, and does not wait for all of it.
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute '{name}'")
    return getattr(import_module(f"pipeline.{_HOMES[name]}"), name)
