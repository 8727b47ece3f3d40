"""How ranks are started: srun inside Slurm, else mpiexec, else one rank in this process."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipeline.correction import correct
from pipeline.errors import EngineError, Interrupted
from pipeline.fanout import Alone
from pipeline.job import Job, RunFolder
from pipeline.progress import log
from pipeline.training import one_thread, trained_surrogate

STALL_SECONDS = 600.0
"""A launcher whose run logs nothing for this long is stopped: a rank hangs."""

PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def launcher(ranks: int) -> list[str] | None:
    """The command that starts ``ranks`` ranks here, or None where there is none."""
    if os.environ.get("SLURM_JOB_ID") and shutil.which("srun"):
        return ["srun", "--overlap", f"--mpi={os.environ.get('SCASML_SRUN_MPI', 'pmi2')}", "-K1", "-n", str(ranks)]
    beside = Path(sys.executable).parent / "mpiexec"
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    return [mpiexec, "-n", str(ranks)] if mpiexec else None


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)


def correct_stage(folder: RunFolder, job: Job) -> None:
    """Run the correction with the job's number of ranks; finished chunks are kept whatever happens."""
    ranks = job.model.correction.ranks
    command = launcher(ranks) if ranks > 1 else None
    if command is None:
        if ranks > 1:
            log(
                folder.log,
                f"no srun or mpiexec found: one rank instead of {ranks}, same numbers (pip install '.[local]' brings an MPI)",
            )
        with one_thread():
            correct(folder, job, Alone())
        return
    # Reading the checkpoint first turns a bad one into a message instead of a rank's traceback.
    trained_surrogate(folder, job)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    root = str(Path(__file__).parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [environment.get("PYTHONPATH")])])
    command += [sys.executable, "-m", "mpi4py", "-m", "pipeline.rank", str(folder.path), "--ranks", str(ranks)]
    with open(folder.log, "a", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment, preexec_fn=_die_with_parent
        )
        try:
            code = _wait(process, folder)
        except BaseException:
            _stop(process)
            raise
    if code == -signal.SIGTERM or code == 128 + signal.SIGTERM:
        raise Interrupted("the ranks were terminated; finished chunks are kept: run the same command again to go on")
    if code != 0:
        raise EngineError(
            f"the correction's ranks failed (status {code}); the reason stands at the end of '{folder.log}'. Finished chunks are kept"
        )


def _wait(process: subprocess.Popen[bytes], folder: RunFolder) -> int:
    size, since = -1, time.monotonic()
    while True:
        try:
            return process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            now = folder.log.stat().st_size
            if now != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > STALL_SECONDS:
                raise EngineError(
                    f"no rank has logged anything for {STALL_SECONDS:.0f} s: one of them hangs. Finished chunks are kept"
                ) from None


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, so that the launcher takes its ranks along; SIGKILL would orphan them."""
    process.terminate()
    try:
        process.wait(timeout=20.0)
    except subprocess.TimeoutExpired:
        process.kill()
        raise EngineError("the MPI launcher did not stop on SIGTERM and was killed: look for leftover ranks") from None
