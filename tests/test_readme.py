"""What the README shows works as shown."""

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from pipeline.dag import preflight
from pipeline.job import job_from, load_jobs

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
def test_every_job_of_the_repository_could_run(path: Path) -> None:
    # Their two ranks and workers are for any machine but the smallest.
    jobs = load_jobs(path, {} if "max_steps" in path.read_text() else {"correction.oversubscribe": True})
    assert jobs
    assert all(job.model.name == path.stem for job in jobs)
    # Seeds and lengths of a training change nothing of what is refused.
    kinds = {json.dumps(job.resolved | {"seed": 0, "training": job.resolved["training"] | {"steps": 1}}): job for job in jobs}
    for job in kinds.values():
        preflight(job)


def test_the_jobs_keys_of_the_readme_are_the_jobs_keys() -> None:
    shown = re.search(r"^    name: my_study\n(?:    .*\n)+", README, flags=re.M)
    assert shown is not None
    model = job_from(yaml.safe_load(textwrap.dedent(shown[0])), ROOT).model
    assert model.correction.rtol == 1e-3
    section = README[README.index("## The command") : README.index("## Your own PDE")]
    for part in ("correction", "report"):
        for key in type(getattr(model, part)).model_fields:
            assert f"{part}.{key}" in section or re.search(rf"\b{key}:", section), f"the README says nothing of {part}.{key}"


def test_every_file_the_readme_names_exists() -> None:
    for name in re.findall(r"\b((?:jobs|tests|kernels|pipeline)/[\w./]*\w)", README):
        assert (ROOT / name).exists(), name
