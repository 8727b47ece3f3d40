"""The jobs of a command and their folders: all of them are checked before anything is written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.dag import preflight
from pipeline.errors import InputError
from pipeline.estimate import disk_needed
from pipeline.files import commit
from pipeline.folders import check_folder, prepare
from pipeline.job import Job, RunFolder, digest, load_jobs
from pipeline.reading import parse_override, read_mapping
from pipeline.report_files import finished
from pipeline.resources import check_disk, check_lasting, check_writable
from pipeline.results import page, result
from pipeline.training import one_thread, trained_surrogate


@dataclass(frozen=True)
class Work:
    """One run: its job as the user's file has it, and its folder."""

    job: Job
    folder: RunFolder

    @property
    def label(self) -> str:
        """What a sweep set in this run; the folder's name outside a sweep."""
        return " ".join(f"{key}={_brief(value)}" for key, value in self.job.swept.items()) or self.folder.path.name

    def begin(self) -> Job:
        """Write the resolved job into its folder; the job as the folder holds it."""
        return prepare(self.job, self.folder.path).load()

    def finished(self) -> dict[str, Any] | None:
        """The summary of this very job's report, or None."""
        try:
            if read_mapping(self.folder.job_file) != self.job.settled:
                return None
            kept = self.folder.load()
        except InputError:
            return None
        return finished(self.folder, kept) if kept.correction_hash == self.job.correction_hash else None

    def restore(self, summary: dict[str, Any]) -> None:
        """Make report.json and report.html of a finished run again where they are missing.

        Raises InputError where the chunks are gone that a page is drawn from.
        """
        if not self.folder.summary.exists():
            commit(self.folder.summary, (json.dumps(summary, indent=2) + "\n").encode())
        if not self.folder.page.exists():
            report = result(self.folder, self.folder.load(), resumed=summary["resumed"])
            report.seconds.update({stage: spent["seconds"] for stage, spent in summary["stages"].items()})
            commit(self.folder.page, page(report).encode())

    @property
    def files(self) -> list[str]:
        """Names of what a person looks for, of those that exist."""
        folder = self.folder
        wanted = (folder.page, folder.report, folder.summary, folder.surrogate)
        return [path.name for path in wanted if path.exists()]


def planned(
    job_file: Path,
    out: Path | None,
    overrides: Sequence[str] | None,
    *,
    only: int | None = None,
    on_ray: bool = False,
    here: bool = True,
) -> list[Work]:
    """Every run of a job file, or the one numbered ``only``, with its folder. What cannot run is refused, and nothing is written."""
    jobs = load_jobs(job_file, dict(parse_override(text) for text in overrides or []))
    work = [Work(job, RunFolder(path.absolute())) for job, path in zip(jobs, _folders(jobs, out), strict=True)]
    if only is not None:
        if not 0 <= only < len(work):
            raise InputError(f"--only {only}: '{job_file}' holds {len(work)} runs, numbered 0 to {len(work) - 1}")
        work = work[only : only + 1]
    for w in work:
        # A finished run is left as it is, wherever it could not run.
        preflight(w.job, on_ray=on_ray, here=here and w.finished() is None)
        check_lasting(w.folder.path, out)
    for w in work:
        check_writable(w.folder.path, "--out")
        check_folder(w.job, w.folder.path)
    check_disk(work[0].folder.path, sum(max(0.0, disk_needed(w.job) - _size(w.folder.path)) for w in work))
    return work


def _folders(jobs: Sequence[Job], out: Path | None) -> list[Path]:
    """The folder of each job; runs that differ only in what is not hashed are told apart by the rest of the job."""
    if len(jobs) == 1:
        return [out or jobs[0].default_out]
    shared = Counter(job.default_out for job in jobs)
    paths = []
    for job in jobs:
        name = job.default_out.name if shared[job.default_out] == 1 else f"{job.default_out.name}-{digest(job.resolved)[:6]}"
        paths.append((job.default_out.parent if out is None else out) / name)
    for path, times in Counter(paths).items():
        if times > 1:
            same = jobs[paths.index(path)].swept
            raise InputError(f"sweep: {times} of its runs are the same job ({same}): list every value once")
    return paths


def check_trained(work: Sequence[Work]) -> None:
    """Refuse runs whose surrogate is not trained to its end."""
    for w in work:
        trained_surrogate(w.folder, w.job)


def check_corrected(work: Sequence[Work]) -> None:
    """Refuse runs whose correction is not finished, for what this job asks: by a report that is thrown away."""
    check_trained(work)
    for w in work:
        if not w.job.family.iterated and next(w.folder.waves("scasml"), None) is None:
            raise InputError(f"'{w.folder.path}' holds no chunk of the correction: run `scasml correct` first, or `scasml run`")
        with one_thread():
            result(w.folder, w.job, resumed=0)


def _size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*.h5"))


def _brief(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
