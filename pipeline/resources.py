"""What a job asks of this machine, refused before anything runs or is written."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import psutil

from pipeline.errors import InputError
from pipeline.job import Job


def usable_cores() -> int:
    """Cores this process or its Slurm allocation may use."""
    allocated = os.environ.get("SLURM_NTASKS") or os.environ.get("SLURM_CPUS_ON_NODE")
    return int(allocated) if allocated and allocated.isdigit() else len(os.sched_getaffinity(0))


def check_resources(job: Job, memory: float, *, on_ray: bool) -> None:
    """Refuse what this machine or allocation cannot run; ``memory`` is the largest stage's need in bytes."""
    correction = job.model.correction
    cores = usable_cores()
    if correction.ranks > cores and not correction.oversubscribe:
        raise InputError(
            f"correction.ranks = {correction.ranks}: more than the {cores} cores here. "
            "Lower it, ask for a larger allocation, or set correction.oversubscribe: true"
        )
    free = psutil.virtual_memory().available
    if memory > free:
        raise InputError(
            f"the job needs about {memory / 1e9:.3g} GB of memory and {free / 1e9:.1f} GB are free: "
            "lower surrogate.width, the batch of a training's phase, correction.ranks, correction.max_paths, or the estimator's levels and samples"
        )


def check_writable(path: Path, where: str) -> None:
    """Refuse a folder that cannot be made or written to; leaves nothing behind."""
    try:
        there = path.absolute()
        while not _exists(there):
            there = there.parent
        if not there.is_dir():
            raise InputError(f"{where} {path}: '{there}' is a file; name a folder, new or of an earlier run of this job")
        # Only an attempt tells: permission bits say nothing to root, nor of a file system without files of its own.
        with tempfile.TemporaryDirectory(dir=there):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{where} {path}: cannot be written ({reason}); name a folder on a disk that you may write to"
        ) from error


def check_lasting(path: Path, out: Path | None) -> None:
    """Refuse a folder inside the temporary copy of its files that `ray job submit` makes: it goes with the job."""
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if submitted and "runtime_resources" in Path.cwd().parts and path.is_relative_to(Path.cwd()):
        raise InputError(
            f"--out {out or path.name}: a submitted Ray job works in a temporary copy of its files, and this folder would be lost "
            "with it; name an absolute folder on a disk that all nodes share"
        )


def check_disk(path: Path, size: float) -> None:
    """Refuse runs that write more than is free on the disk of ``path``, which need not exist yet."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if size > free:
        raise InputError(
            f"the run writes about {size / 1e9:.3g} GB and {free / 1e9:.3g} GB are free in '{there}': "
            "lower correction.max_paths, set correction.rtol, or give --out on another disk"
        )


def _exists(path: Path) -> bool:
    """Raises OSError for what cannot be a path at all."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
