"""The README's pages on clusters, as commands that a test can run in a checkout whose jobs are small."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import yaml
from conftest import TINY

ROOT = Path(__file__).resolve().parents[2]

SMALL = {"training.workers": 1, "correction.max_paths": 60_000, "correction.ranks": 2}


def commands(section: str) -> list[str]:
    """The lines of a section that are indented as commands are."""
    text = (ROOT / "README.md").read_text()
    begin = text.index(f"\n## {section}\n")
    return re.findall(r"^    (\S.*)$", text[begin : text.index("\n## ", begin + 1)], re.MULTILINE)


def checkout(place: Path) -> Path:
    """A folder with this program and its batch scripts, and the jobs that the pages name, made small."""
    for name in ("kernels", "pipeline", "slurm"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    (place / "jobs").mkdir()
    one = yaml.safe_load(yaml.safe_dump(TINY)) | {"name": "quickstart", "report": {"baselines": ["surrogate"]}}
    for key, value in SMALL.items():
        part, name = key.split(".")
        one[part][name] = value
    sweep = one | {"name": "convergence_rate", "sweep": {"seed": [0, 1]}, "training": TINY["training"]}
    for job in (one, sweep):
        (place / "jobs" / f"{job['name']}.yaml").write_text(yaml.safe_dump(job))
    return place
