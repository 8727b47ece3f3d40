"""What made a file: package versions, commit of the source tree, processor."""

from __future__ import annotations

import json
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "numpy", "scipy", "h5py", "ray", "mpi4py", "scasml")
ROOT = Path(__file__).resolve().parent.parent
GIT_SECONDS = 10.0


@cache
def provenance() -> dict[str, Any]:
    """Attributes that every file of a run carries."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "none"
    return {
        "versions": json.dumps(versions),
        "python": platform.python_version(),
        "commit": commit_of(ROOT),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }


def commit_of(root: Path) -> str:
    """The commit that ``root`` is the work tree of, with '-dirty' where its packages differ from it, else 'none'.

    A copy installed inside somebody else's repository has no commit of its own.
    """
    top, commit = _git(root, "rev-parse", "--show-toplevel"), _git(root, "rev-parse", "HEAD")
    if not top or not commit or Path(top).resolve() != root:
        return "none"
    changed = _git(root, "status", "--porcelain", "--", "kernels", "pipeline", "pyproject.toml")
    return f"{commit}-dirty" if changed != "" else commit


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints, or None where it fails or there is none."""
    try:
        found = subprocess.run(
            ["git", *arguments],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
            timeout=GIT_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
