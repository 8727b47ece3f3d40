"""How ranks are started: srun inside Slurm, else mpiexec, else one rank in this process."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from pipeline.correction import correct
from pipeline.errors import EngineError, Interrupted, from_lines
from pipeline.fanout import Alone
from pipeline.job import Job, RunFolder
from pipeline.progress import log
from pipeline.pulse import pulse_file
from pipeline.stages import stage
from pipeline.training import one_thread, trained_surrogate

STALL_SECONDS = 600.0
"""Ranks of which none has computed or logged anything for this long are stopped: one of them hangs."""

STOP_SECONDS = 10.0
"""Time a launcher has to take its ranks along before they are killed."""

HOSTFILE = ".hosts"
"""In a run's folder, which all nodes share: the Slurm node of every rank."""

TETHER = Path(__file__).with_name("tether.py")


def launcher(ranks: int, *, oversubscribe: bool = False) -> list[str] | None:
    """The command that starts ``ranks`` ranks here, or None where there is none.

    SCASML_SRUN_MPI names srun's MPI plugin (``srun --mpi=list``), by default pmi2.
    """
    if os.environ.get("SLURM_JOB_ID") and shutil.which("srun"):
        more = ["--overcommit"] if oversubscribe else []
        return ["srun", "--overlap", f"--mpi={os.environ.get('SCASML_SRUN_MPI', 'pmi2')}", "-K1", *more, "-n", str(ranks)]
    beside = Path(sys.executable).parent / "mpiexec"
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    if mpiexec is None:
        return None
    # MPICH starts any number of ranks and knows no such option; Open MPI refuses more ranks than cores without it.
    more = ["--oversubscribe"] if oversubscribe and _is_open_mpi(mpiexec) else []
    return [mpiexec, *more, "-n", str(ranks)]


def _is_open_mpi(mpiexec: str) -> bool:
    try:
        shown = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, check=False, timeout=30.0)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return re.search(r"open.?mpi|openrte|prrte", shown.stdout, re.IGNORECASE) is not None


def correct_stage(folder: RunFolder, job: Job, hosts: Sequence[str] = ()) -> None:
    """Run the correction with the job's number of ranks; finished chunks are kept whatever happens.

    ``hosts`` are the Slurm nodes of the ranks, one each, where they are not for srun to choose.

    Raises InputError for what a rank refuses, Interrupted where the ranks were terminated, EngineError
    where they failed or hang.
    """
    # Reading the checkpoint first refuses a bad one before any rank starts.
    trained_surrogate(folder, job)
    options = job.model.correction
    command = launcher(options.ranks, oversubscribe=options.oversubscribe) if options.ranks > 1 else None
    if command is None and options.ranks > 1:
        log(
            folder.log,
            f"no srun or mpiexec found: one rank instead of {options.ranks}, same numbers (pip install '.[local]' brings an MPI)",
        )
    with stage(folder, "correct"):
        if command is None:
            with one_thread():
                correct(folder, job, Alone())
        else:
            _on_ranks([*command, "--distribution=arbitrary"] if hosts else command, folder, options.ranks, hosts)


def _on_ranks(command: list[str], folder: RunFolder, ranks: int, hosts: Sequence[str]) -> None:
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    if command[0] == "srun" and (Path(sys.executable).parent / "mpiexec").exists():
        # Slurm's PMI reads requests into 1024 bytes. With UCX the mpich wheel publishes 4096 bytes of which most are
        # whatever the heap held, in requests that may be longer; with libfabric an address of a few bytes.
        environment.setdefault("MPIR_CVAR_CH4_NETMOD", "ofi")
    if command[0] == "srun":
        # Of the step that this process runs in, not of the ranks.
        for name in [n for n in environment if n.startswith("SLURM_CPU_BIND")]:
            del environment[name]
    hostfile = folder.path / HOSTFILE
    if hosts:
        environment.pop("SLURM_NTASKS_PER_NODE", None)
        hostfile.write_text("".join(f"{host}\n" for host in hosts), encoding="utf-8")
        environment["SLURM_HOSTFILE"] = str(hostfile)
    environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [environment.get("PYTHONPATH")])])
    program = [sys.executable, "-m", "mpi4py", "-m", "pipeline.rank", str(folder.path)]
    program += ["--ranks", str(ranks), "--stall", str(STALL_SECONDS)]
    tether = [sys.executable, "-I", str(TETHER), str(os.getpid())]
    before = folder.log.stat().st_size
    with open(folder.log, "a", encoding="utf-8") as output:
        process = subprocess.Popen(
            [*tether, *command, *program],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        try:
            code = _wait(process, folder)
        finally:
            _stop(process)
            for own in (pulse_file(folder.path), hostfile):
                own.unlink(missing_ok=True)
    if code == 0:
        return
    # srun says so too where one rank died and it ended the others.
    if code in (-signal.SIGTERM, 128 + signal.SIGTERM) and command[0] != "srun":
        raise Interrupted("the ranks were terminated; finished chunks are kept: run the same command again to go on")
    said = folder.log.read_bytes()[before:].decode("utf-8", "replace")
    # srun's status means nothing, so what a rank has to say stands in the log.
    raise from_lines(said) or EngineError(
        f"the correction's ranks failed (status {code}); the reason stands at the end of '{folder.log}'. Finished chunks are kept"
    )


def _wait(process: subprocess.Popen[bytes], folder: RunFolder) -> int:
    """The launcher's status; EngineError where neither the log nor the pulse has moved for STALL_SECONDS."""
    pulse = pulse_file(folder.path)
    seen, since = None, time.monotonic()
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=0.5)
        # Times of a shared disk come from another clock: that they change is what counts.
        now = folder.log.stat().st_size, pulse.stat().st_mtime_ns if pulse.exists() else 0
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > STALL_SECONDS:
            raise EngineError(
                f"no rank has computed anything for {STALL_SECONDS:.0f} s: one of them hangs, and all were stopped. "
                "Finished chunks are kept: run the same command again to go on"
            )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the launcher and all it started here; nothing to do where it has ended by itself.

    SIGTERM first, so that it takes along its ranks on other machines too. It raises nothing, so as
    not to replace what the caller is about to raise.
    """
    if process.poll() is not None:
        return
    with suppress(psutil.Error):
        # Launchers give ranks sessions of their own, which a signal to a group would miss.
        family = psutil.Process(process.pid).children(recursive=True)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=STOP_SECONDS)
        _, alive = psutil.wait_procs(family, timeout=1.0)
        for survivor in alive:
            with suppress(psutil.Error):
                survivor.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
