"""The report of a finished run, whichever way it was corrected."""

from __future__ import annotations

from pathlib import Path

from pipeline import figures, iteration_report, report_files
from pipeline.files import commit
from pipeline.fold import fold
from pipeline.iteration_report import IterationReport, fold_iteration
from pipeline.job import Job, RunFolder
from pipeline.report import Report

AnyReport = Report | IterationReport


def result(folder: RunFolder, job: Job, *, resumed: int) -> AnyReport:
    """Everything a report says, from what a finished correction left; InputError where it is not finished."""
    return (fold_iteration if job.family.iterated else fold)(folder, job, resumed=resumed)


def page(report: AnyReport) -> str:
    """report.html."""
    return iteration_report.page(report) if isinstance(report, IterationReport) else figures.page(report)


def save_images(report: AnyReport, folder: Path) -> None:
    """Every plot of a report as ``<job>_<plot>.png``."""
    drawn = iteration_report.figures(report) if isinstance(report, IterationReport) else figures.figures(report)
    for name, figure, _ in drawn:
        commit(folder / f"{report.job['name']}_{name}.png", figures.png(figure))


def save(report: AnyReport, folder: RunFolder) -> None:
    """Commit report.json, report.html and report.h5."""
    if isinstance(report, IterationReport):
        iteration_report.save_iteration_report(report, folder)
    else:
        report_files.save(report, folder)
