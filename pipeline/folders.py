"""A run's folder: whose it is, and what is written into it before anything runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from pipeline import store
from pipeline.errors import InputError
from pipeline.files import clean, commit, hold, refuse_held
from pipeline.job import Job, RunFolder
from pipeline.owner import TRAINING, differences

RAY_STORAGE = ".ray-train-storage"
"""Where Ray Train keeps its own notes while it trains."""

OWN = "give the run an --out folder of its own"


def check_folder(job: Job, out: Path | None) -> RunFolder:
    """The folder that ``prepare`` would use, refused where it cannot be this job's; writes nothing.

    Whatever of another job it holds is named together with what differs, be it only its job.yaml,
    chunks or report; so is a process that works in it.
    """
    folder = RunFolder((out or job.default_out).absolute())
    if folder.path.exists() and not folder.path.is_dir():
        raise InputError(f"--out {folder.path}: that is a file; name a folder, new or of an earlier run of this job")
    refuse_held(folder.path)
    if folder.job_file.exists():
        _check_job_file(folder, job)
    if folder.surrogate.exists():
        store.load_checkpoint(folder.surrogate, training_hash=job.training_hash, job=job.resolved)
    # One wave of each method will do: every one is checked again when it is read.
    waves = {path.parent: path for path in sorted(folder.path.glob("chunks/*/wave-*.h5"), reverse=True)}
    for kind, path in [("points", folder.points), *(("wave", p) for p in waves.values()), ("report", folder.report)]:
        if path.exists():
            store.refuse_foreign(path, kind, "correction_hash", job.correction_hash, job.resolved)
    return folder


def is_run(folder: RunFolder) -> bool:
    """Whether a folder is a run of this program: it holds a resolved job."""
    try:
        return _resolved(folder.job_file) is not None
    except InputError:
        return False


def _resolved(path: Path) -> dict[str, Any] | None:
    """The resolved job of a job.yaml as plain data, or None where it is something else."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"'{path}' cannot be read ({' '.join(str(error).split())}): delete it, or {OWN}") from error
    return data if isinstance(data, dict) and {"name", *TRAINING, "correction", "report"} <= set(data) else None


def _check_job_file(folder: RunFolder, job: Job) -> None:
    """Refuse a job.yaml of another training. Another correction is another matter: its files say so themselves."""
    theirs = _resolved(folder.job_file)
    if theirs is None:
        raise InputError(f"'{folder.job_file}' is not the resolved job of a run, and would be overwritten: {OWN}")
    found = differences(theirs, job.resolved, TRAINING)
    for key, what in (("problem", "the problem's file"), ("surrogate", "the surrogate's file")):
        file = job.settled[key].get("file")
        kept = folder.path / file if file else None
        if kept and kept.exists() and kept.read_bytes() != job.files[file].read_bytes():
            found.append(f"{what} has changed")
    if found:
        raise InputError(
            f"'{folder.path}' belongs to another job (it holds job '{theirs['name']}', this one is '{job.model.name}': "
            f"{'; '.join(found[:3])}): {OWN}, or delete that folder"
        )


def prepare(job: Job, out: Path | None) -> RunFolder:
    """Check the run's folder, hold it for this process until ``files.release``, and write the resolved job into it."""
    hold(check_folder(job, out).path)
    # Again, now that nobody else can write there.
    folder = check_folder(job, out)
    clean(folder.path)
    # What a training on Ray that was ended left behind; its checkpoint is elsewhere.
    shutil.rmtree(folder.path / RAY_STORAGE, ignore_errors=True)
    for name, source in job.files.items():
        commit(folder.path / name, source.read_bytes())
    commit(folder.job_file, yaml.safe_dump(job.settled, sort_keys=False).encode())
    return folder
