"""The ``scasml`` command."""

from __future__ import annotations

import inspect
import json
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.table import Table

from pipeline import catalogue, store
from pipeline.dag import finished_all, preflight, prepare, report_stage, run_graph, run_inline
from pipeline.errors import EngineError, InputError, Interrupted, stop_on_signals
from pipeline.estimate import costs
from pipeline.figures import save_images
from pipeline.files import release
from pipeline.job import Job, RunFolder, load_jobs, parse_override
from pipeline.launch import correct_stage
from pipeline.progress import console, followed, log
from pipeline.report import finished, read_summary, table
from pipeline.training import train_stage

app = typer.Typer(
    help="Semilinear PDEs in 100 dimensions with an error bar: train a surrogate, correct it by simulation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
JobFile = Annotated[Path, typer.Argument(help="a job in YAML; see jobs/")]
Out = Annotated[Path | None, typer.Option("--out", help="folder of the run; default runs/<name>-<hash>")]
Set = Annotated[list[str] | None, typer.Option("--set", help="override one key, e.g. --set training.steps=200; repeatable")]


def _opened(
    job_file: Path, out: Path | None, overrides: list[str] | None, *, on_ray: bool = False
) -> list[tuple[Job, RunFolder]]:
    """Validated jobs in their folders; nothing is written before all of them pass."""
    jobs = load_jobs(job_file, dict(parse_override(text) for text in overrides or []))
    for job in jobs:
        preflight(job, on_ray=on_ray)
    work = []
    taken: set[Path] = set()
    for number, job in enumerate(jobs):
        base = job.default_out if out is None else (out if len(jobs) == 1 else out / job.default_out.name)
        path = base if base not in taken else base.with_name(f"{base.name}-{number}")
        taken.add(path)
        folder = prepare(job, path)
        work.append((folder.load(), folder))
    return work


def _show(work: list[tuple[Job, RunFolder]]) -> None:
    summaries = [(folder.path.name, read_summary(folder.path)) for _, folder in work]
    console.print(table(summaries))
    for (_, folder), (_, summary) in zip(work, summaries, strict=True):
        for cause, bias in summary["biases"].items():
            console.print(f"estimated {cause} bias {bias['mean']:+.1e}, s.e. {bias['se']:.0e} (over the root mean square of u)")
        if summary["tolerance_met"] is False:
            console.print(
                "the budget max_paths was spent before rtol was met at every point: raise it and run again; nothing is recomputed"
            )
        console.print(f"files: {folder.path}/ (report.html, report.h5, report.json, surrogate.h5)", soft_wrap=True)


def _sweep_table(job_file: Path, work: list[tuple[Job, RunFolder]]) -> None:
    """The one table of a sweep, in a folder of its own."""
    place = work[0][1].path.parent / f"{work[0][0].model.name}-sweep"
    rows = {folder.path.name: read_summary(folder.path) for _, folder in work}
    store.commit(place / "table.json", (json.dumps(rows, indent=2) + "\n").encode())
    console.print(f"table of {len(work)} runs of '{job_file}': {place}/table.json", soft_wrap=True)


@app.command()
def run(
    job: JobFile,
    out: Out = None,
    set_: Set = None,
    inline: Annotated[bool, typer.Option("--inline", help="the same graph in this process, without Ray")] = False,
) -> None:
    """Train, correct and report. Run it again to resume; a finished run is left as it is."""
    work = _opened(job, out, set_, on_ray=not inline)
    if not finished_all(work):
        with followed([folder.log for _, folder in work]):
            todo = [(j, f) for j, f in work if finished(f, j) is None]
            if inline:
                for j, folder in todo:
                    run_inline(j, folder)
            else:
                run_graph(todo)
    _show(work)
    if len(work) > 1:
        _sweep_table(job, work)


@app.command()
def train(job: JobFile, out: Out = None, set_: Set = None) -> None:
    """Train the surrogate, in this process, to its last step."""
    for j, folder in _opened(job, out, set_):
        with followed([folder.log]):
            log(folder.log, "run opened")
            train_stage(folder, j)
        console.print(f"surrogate: {folder.surrogate}", soft_wrap=True)


@app.command()
def correct(job: JobFile, out: Out = None, set_: Set = None) -> None:
    """Simulate the correction and its baselines over the job's ranks; needs a trained surrogate."""
    for j, folder in _opened(job, out, set_):
        with followed([folder.log]):
            log(folder.log, "run opened")
            correct_stage(folder, j)
        console.print(f"chunks: {folder.path / 'chunks'}", soft_wrap=True)


@app.command()
def report(
    job: JobFile,
    out: Out = None,
    set_: Set = None,
    images: Annotated[Path | None, typer.Option("--figures", help="also save the plots as PNG files in this folder")] = None,
) -> None:
    """Fold the chunks that exist into report.h5, report.json and report.html."""
    work = _opened(job, out, set_)
    for j, folder in work:
        result = report_stage(folder, j)
        if images is not None:
            save_images(result, images)
    _show(work)


@app.command()
def check(job: JobFile, set_: Set = None) -> None:
    """Validate a job; print it resolved and what it will cost. Nothing is run or written."""
    for j in load_jobs(job, dict(parse_override(text) for text in set_ or [])):
        preflight(j)
        console.print(yaml.safe_dump(j.resolved, sort_keys=False), markup=False)
        out = Table("stage", "evaluations", "FLOP", "memory", "disk", "time", box=None, pad_edge=False)
        for row in costs(j):
            out.add_row(*row)
        console.print(out)
        console.print(f"folder: {j.default_out}", soft_wrap=True)


@app.command()
def problems() -> None:
    """The catalogue: name, options, dimension rule and what is known about the truth."""
    out = Table("name", "options", "equation", box=None, pad_edge=False)
    for name in catalogue.names("equations"):
        make = catalogue.factory("equations", name, "problem.name")
        options = [f"{p.name}={p.default}" for p in inspect.signature(make).parameters.values() if p.kind is p.KEYWORD_ONLY]
        problem = make(4)
        truth = problem.solution.source if problem.solution else "no reference"
        doc = inspect.getdoc(make) or ""
        out.add_row(name, " ".join(options) or "-", f"{' '.join(doc.split(chr(10) + chr(10))[0].split())}\ntruth: {truth}\n")
    console.print(out, markup=False)
    console.print(
        "dim is any integer >= 1 (lqg with seeded coefficients: >= 2). Your own: problem: {file: my_pde.py, name: my_pde, dim: 50}"
    )


@app.command("inspect")
def inspect_(file: Annotated[Path, typer.Argument(help="surrogate.h5, report.h5, points.h5 or a wave of chunks")]) -> None:
    """What an HDF5 file of a run holds, for a person."""
    with store.opened(file, None) as opened:
        for key, value in opened.attrs.items():
            text = str(value)
            console.print(f"{key}: {text if len(text) <= 160 else text[:157] + '...'}", markup=False, soft_wrap=True)
        out = Table("dataset", "shape", "type", "what it is", box=None, pad_edge=False)

        def row(name: str, node: Any) -> None:
            if hasattr(node, "shape"):
                out.add_row(name, str(node.shape), str(node.dtype), str(node.attrs.get("long_name", "")))

        opened.visititems(row)
    console.print(out, markup=False)


@app.command()
def compare(runs: Annotated[list[Path], typer.Argument(help="folders of finished runs, or their report.h5")]) -> None:
    """Reports side by side."""
    console.print(table([(path.name if path.is_dir() else path.parent.name, read_summary(path)) for path in runs]))


def main() -> None:
    """Run the command line and leave with its exit status."""
    stop_on_signals()
    errors = sys.stderr
    try:
        app(standalone_mode=True)
    except InputError as error:
        print(f"error: {error}", file=errors)
        sys.exit(2)
    except (Interrupted, KeyboardInterrupt) as error:
        print(f"{str(error) or 'interrupted'}. What is finished is kept: run the same command again to resume.", file=errors)
        sys.exit(3)
    except (EngineError, OSError) as error:
        print(f"failed: {error}", file=errors)
        sys.exit(1)
    except Exception:
        traceback.print_exc()
        print("failed: a fault of this program; what is finished is kept", file=errors)
        sys.exit(1)
    finally:
        release()
