"""A job handed to a cluster: to Slurm by the batch scripts of slurm/, to Ray by its job server."""

from __future__ import annotations

import math
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import EngineError, InputError
from pipeline.estimate import memory_needed
from pipeline.work import Work, planned

SCRIPTS = Path(__file__).resolve().parents[1] / "slurm"

PROCESS_BYTES = 1.0e9
"""Of a process with Python, PyTorch and an engine's library, before it holds anything."""

ENGINE_PROCESSES = 3
"""Of a node, beside its ranks or workers: the driver, and what Ray keeps there."""

ANSWER_SECONDS = 60.0


@dataclass(frozen=True)
class Shape:
    """What is asked of Slurm: nodes, GPUs of each, and the time limit as sbatch reads it."""

    nodes: int
    gpus: int
    time: str


@dataclass(frozen=True)
class Command:
    """One call of sbatch; ``{id}`` in an option stands for the id of the call before."""

    options: tuple[str, ...]
    script: Path
    arguments: tuple[str, ...]

    def line(self, before: str) -> list[str]:
        return ["sbatch", *(option.format(id=before) for option in self.options), str(self.script), *self.arguments]


def slurm_commands(job: Path, out: Path | None, overrides: Sequence[str], shape: Shape, *, array: bool) -> list[Command]:
    """The calls of sbatch for a job file. Raises InputError for a job that no machine could run, and for an odd time limit."""
    if not (SCRIPTS / "pipeline.sbatch").exists():
        raise InputError(f"'{SCRIPTS}' holds no batch scripts: install scasml from its checkout with `pip install -e .`")
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", shape.time):
        raise InputError(f"--time {shape.time}: write minutes, HH:MM:SS or days-HH:MM:SS")
    work = planned(job, out, overrides, here=False)
    if array and len(work) == 1:
        raise InputError(f"--array: '{job}' holds one run; leave it out, or give the job a sweep")
    if array and shape.nodes > 1:
        raise InputError(f"--array with --nodes {shape.nodes}: each run of an array has one node; leave one of them out")
    arguments = (*_arguments(job, out, overrides, work),)
    common = ("--parsable", f"--job-name={work[0].job.model.name}", f"--time={shape.time}", *_size(work, shape))
    if not array:
        return [Command(common, SCRIPTS / "pipeline.sbatch", arguments)]
    every = Command((*common, f"--array=0-{len(work) - 1}"), SCRIPTS / "sweep.sbatch", arguments)
    small = ("--parsable", f"--job-name={work[0].job.model.name}-table", "--nodes=1", "--ntasks=1", "--time=00:10:00")
    after = ("--dependency=afterok:{id}", "--kill-on-invalid-dep=yes")
    return [every, Command((*small, *after), SCRIPTS / "sweep.sbatch", arguments)]


def _size(work: Sequence[Work], shape: Shape) -> list[str]:
    """Options of sbatch for the largest of the runs: as many tasks a node as it has ranks or training workers there."""
    models = [w.job.model for w in work]
    tasks = max(max(m.correction.ranks, m.training.workers) for m in models)
    each = math.ceil(tasks / shape.nodes)
    need = max(memory_needed(w.job, on_ray=True) for w in work)
    memory = math.ceil((need / shape.nodes + PROCESS_BYTES * (each + ENGINE_PROCESSES)) / 1e6)
    options = [f"--nodes={shape.nodes}", f"--ntasks-per-node={each}", f"--mem={memory}M"]
    return [*options, f"--gpus-per-node={shape.gpus}"] if shape.gpus else options


def _arguments(job: Path, out: Path | None, overrides: Sequence[str], work: Sequence[Work]) -> list[str]:
    """Those of `scasml run`, with absolute paths: a batch job or a driver may begin anywhere."""
    folder = work[0].folder.path if len(work) == 1 else work[0].folder.path.parent
    return [str(job.absolute()), "--out", str(out.absolute() if out else folder), *(f"--set={text}" for text in overrides)]


def shown(commands: Sequence[Command]) -> list[str]:
    """The lines that ``to_slurm`` would execute."""
    lines = [shlex.join(command.line("ID")).replace("afterok:ID", "afterok:$ID") for command in commands]
    lines = [f"ID=$({lines[0]})", *lines[1:]] if len(lines) > 1 else lines
    return [f"source {shlex.quote(str(SCRIPTS / 'site.sh'))}; export SCASML_SLURM={shlex.quote(str(SCRIPTS))}", *lines]


def to_slurm(commands: Sequence[Command]) -> list[str]:
    """Submit, the site file read first; the ids. Raises InputError with what sbatch says."""
    if shutil.which("sbatch") is None:
        raise InputError("there is no sbatch here: submit where Slurm is, or look at the commands with --dry-run")
    ids: list[str] = []
    # sbatch ends on the batch script's behalf where a value of the environment tells it to: nothing of a job around this one.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k == "SLURM_CONF"}
    environment |= {"SCASML_SLURM": str(SCRIPTS), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in commands:
        line = ["bash", "-c", 'source "$0"; exec "$@"', str(SCRIPTS / "site.sh"), *command.line(ids[-1] if ids else "")]
        try:
            done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS)
        except subprocess.TimeoutExpired as late:
            there = f"; submitted before it: {', '.join(ids)}" if ids else ""
            raise EngineError(
                f"sbatch has not answered within {ANSWER_SECONDS:.0f} s, and may have taken the job: look with squeue{there}"
            ) from late
        if done.returncode != 0:
            if ids:
                subprocess.run(["scancel", *ids], env=environment, capture_output=True, check=False, timeout=ANSWER_SECONDS)
            raise InputError(
                f"sbatch refused the job: {' '.join(done.stderr.split()) or f'status {done.returncode}'}. "
                "Change --nodes, --time or correction.ranks, or what slurm/site.sh says of account and partition"
            )
        ids.append(done.stdout.strip().partition(";")[0])
    return ids


def ray_entrypoint(job: Path, out: Path | None, overrides: Sequence[str]) -> tuple[str, list[str]]:
    """The job's name, and the command line of its driver on a cluster that shares this disk and this Python."""
    work = planned(job, out, overrides, here=False)
    return work[0].job.model.name, [sys.executable, "-m", "pipeline", "run", *_arguments(job, out, overrides, work)]


def to_ray(address: str, name: str, entrypoint: Sequence[str]) -> str:
    """Submit to the job server at ``address``; the id, which begins with ``name``. Raises InputError where none answers."""
    submitted = f"{name}-{secrets.token_hex(4)}"
    ray = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--no-wait", f"--address={address}"]
    line = [*ray, f"--submission-id={submitted}", "--", *entrypoint]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    try:
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired as late:
        raise EngineError(
            f"--ray {address}: no answer within {ANSWER_SECONDS:.0f} s; the job may have been taken: look with `ray job list`"
        ) from late
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
        raise InputError(
            f"--ray {address}: no job was taken ({last[-1][:300]}). It is the dashboard of a head that "
            "`ray start --head --include-dashboard=true` started, for example http://127.0.0.1:8265, with the token of its cluster"
        )
    return submitted
