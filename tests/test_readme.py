"""What the README shows works as shown."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.job import load_jobs

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_two_commands_stand_there_verbatim() -> None:
    for extra, then in (("local", "scasml run jobs/quickstart.yaml"), ("test", "pytest")):
        assert f"    python3 -m venv .venv && .venv/bin/pip install -e '.[{extra}]' && .venv/bin/{then}\n" in README


def test_the_users_own_pde_of_the_readme_runs_from_its_two_files(tmp_path: Path) -> None:
    (tmp_path / "my_pde.py").write_text(blocks("python")[0])
    (tmp_path / "my_job.yaml").write_text(blocks("yaml")[0])
    command = [sys.executable, "-m", "pipeline", "run", "my_job.yaml", "--inline", "--set", "training.steps=20"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stderr
    assert "scasml" in found.stdout
    assert list((tmp_path / "runs").glob("mine-*/report.h5"))


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    (tmp_path / "script.py").write_text(blocks("python")[1])
    found = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout.split()[-1]) > 0.0


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_job_of_the_repository_is_valid(path: Path) -> None:
    for job in load_jobs(path):
        assert job.resolved["name"] == path.stem


def test_every_file_the_readme_names_exists() -> None:
    for name in re.findall(r"\b((?:jobs|tests|kernels|pipeline)/[\w./]*\w)", README):
        assert (ROOT / name).exists(), name
