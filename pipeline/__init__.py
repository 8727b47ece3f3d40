"""Processes and files around the kernels: jobs, training, fan-out, reports.

>>> from pipeline import load_job, run  # doctest: +SKIP
>>> report = run(load_job("jobs/quickstart.yaml"))  # doctest: +SKIP
>>> report.errors("scasml")["rel_l2"]  # doctest: +SKIP
"""

from pipeline.dag import run
from pipeline.job import load_job, load_jobs
from pipeline.report import Report

__all__ = ["Report", "load_job", "load_jobs", "run"]
