"""The ``scasml`` command. What a command needs is imported when it runs, so that its help answers at once."""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import EngineError, InputError, Interrupted, stop_on_signals
from pipeline.files import release
from pipeline.progress import console, followed, log

if TYPE_CHECKING:
    from pipeline.work import Work

RESUME = "run the same command again"

app = typer.Typer(
    help="Semilinear PDEs in 100 dimensions with an error bar: train a surrogate, correct it by simulation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_reference(wanted: bool) -> None:
    if wanted:
        from pipeline.reference import reference

        console.print("\n".join(reference(min(console.width, 100))), markup=False, soft_wrap=True)
        raise typer.Exit


JobFile = Annotated[Path, typer.Argument(help="a job in YAML; see jobs/, and `scasml check --explain` for every key")]
Out = Annotated[Path | None, typer.Option("--out", help="folder of the run; default runs/<name>-<hash>")]
Set = Annotated[list[str] | None, typer.Option("--set", help="override one key, e.g. --set training.steps=200; repeatable")]
Only = Annotated[int | None, typer.Option("--only", help="of a sweep, the run of this number alone, from 0")]
Inline = Annotated[bool, typer.Option("--inline", help="the same graph in this process, without Ray")]
Explain = Annotated[
    bool,
    typer.Option(
        "--explain", is_eager=True, callback=_show_reference, help="print every key of a job with its meaning, and leave"
    ),
]


def _show(work: Sequence[Work]) -> None:
    """The table of finished runs, what is to be said about each, and where its files are."""
    from pipeline.report_files import read_summary
    from pipeline.tables import notes, table

    found = [(w, read_summary(w.folder.path)) for w in work]
    console.print(table([(w.label, summary) for w, summary in found], console.width))
    for w, summary in found:
        own = f"{w.label}: " if len(work) > 1 else ""
        for text in [*notes(summary), f"files: {w.folder.path}/ ({', '.join(w.files)})"]:
            console.print(f"{own}{text}", markup=False, soft_wrap=True)


@app.command()
def run(job: JobFile, out: Out = None, set_: Set = None, only: Only = None, inline: Inline = False) -> None:
    """Train, correct and report. Run it again to resume; a finished run is left as it is.

    \b
    scasml run jobs/quickstart.yaml
    scasml run jobs/quickstart.yaml --set correction.rtol=1e-3 --set training.steps=1000 --out my_run

    \b
    A job needs a name and a problem; `scasml check --explain` prints every other key:
        name: my_study
        problem: {name: lqg, dim: 100}
        training: {steps: 1500}
        correction: {points: 1000, rtol: 1.0e-3}

    Tighten correction.rtol or raise correction.max_paths on a finished run, and only what is missing is computed.
    """
    from pipeline import sweep
    from pipeline.dag import run_graph, run_inline
    from pipeline.work import planned

    work = planned(job, out, set_, only=only, on_ray=not inline)
    found = [w.finished() for w in work]
    todo = [w for w, summary in zip(work, found, strict=True) if summary is None]
    if todo:
        model = todo[0].job.model
        stages: dict[str, int | None] = {"training": model.training.total_steps, "scasml": None}
        stages |= {baseline: None for baseline in todo[0].job.baselines if baseline != "surrogate"}
        with followed([w.folder.log for w in todo], stages=stages, labels=[w.label for w in todo]):
            if inline:
                for w in todo:
                    w.begin()
                for w in todo:
                    run_inline(w.folder.load(), w.folder)
            else:
                run_graph([(w.job, w.folder) for w in todo], lambda: [w.begin() for w in todo])
    for w, summary in zip(work, found, strict=True):
        if summary is not None:
            _restore(w, summary)
    _show(work)
    if len(work) > 1:
        console.print(
            f"table of {len(work)} runs: {sweep.write_table(work)}/ (table.html, table.json)", markup=False, soft_wrap=True
        )


def _restore(work: Work, summary: dict[str, object]) -> None:
    try:
        work.restore(summary)
    except InputError as error:
        console.print(f"report.html is missing and cannot be drawn again: {error}", markup=False, soft_wrap=True)


@app.command()
def train(job: JobFile, out: Out = None, set_: Set = None) -> None:
    """Train the surrogate to its last step, in this process, whatever training.workers is.

    The batches of several workers are taken in turn, to the same gradient; `scasml run` trains on Ray.
    """
    from pipeline.training import train_stage
    from pipeline.work import planned

    for w in planned(job, out, set_):
        j = w.begin()
        with followed([w.folder.log], stages={"training": j.model.training.total_steps}):
            log(w.folder.log, "run opened")
            if (workers := j.model.training.workers) > 1:
                log(w.folder.log, f"this process takes the batches of {workers} workers in turn; `scasml run` trains them on Ray")
            train_stage(w.folder, j)
        console.print(f"surrogate: {w.folder.surrogate}", markup=False, soft_wrap=True)


@app.command()
def correct(job: JobFile, out: Out = None, set_: Set = None) -> None:
    """Simulate the correction and its baselines over the job's ranks; needs a trained surrogate."""
    from pipeline.launch import correct_stage
    from pipeline.work import check_trained, planned

    work = planned(job, out, set_)
    check_trained(work)
    for w in work:
        j = w.begin()
        with followed([w.folder.log]):
            log(w.folder.log, "run opened")
            correct_stage(w.folder, j)
        console.print(f"chunks: {w.folder.path / 'chunks'}", markup=False, soft_wrap=True)


@app.command()
def report(
    job: JobFile,
    out: Out = None,
    set_: Set = None,
    images: Annotated[Path | None, typer.Option("--figures", help="also save the plots as PNG files in this folder")] = None,
) -> None:
    """Fold the chunks of a finished correction into report.h5, report.json and report.html."""
    from pipeline.dag import report_stage
    from pipeline.resources import check_writable
    from pipeline.results import save_images
    from pipeline.work import check_corrected, planned

    work = planned(job, out, set_)
    check_corrected(work)
    if images is not None:
        check_writable(images, "--figures")
    for w in work:
        result = report_stage(w.folder, w.begin())
        if images is not None:
            save_images(result, images)
    _show(work)


@app.command()
def check(job: JobFile, out: Out = None, set_: Set = None, inline: Inline = False, explain: Explain = False) -> None:
    """Validate a job by the rules of `scasml run`; print it resolved and what it will cost. Nothing is run or written.

    \b
    scasml check jobs/lqg_100d.yaml --set training.workers=4
    scasml check --explain > my_job.yaml       every key with its meaning: a job to start from
    """
    import yaml
    from rich.table import Table

    from pipeline.estimate import costs, foreseen
    from pipeline.work import planned

    work = planned(job, out, set_, on_ray=not inline)
    for w in work:
        if len(work) > 1:
            console.print(f"\n# {w.label}", markup=False)
        console.print(yaml.safe_dump(w.job.resolved, sort_keys=False), markup=False)
        cost = Table("stage", "evaluations", "FLOP", "memory", "disk", "time", box=None, pad_edge=False)
        for row in costs(w.job):
            cost.add_row(*row)
        console.print(cost)
        console.print(foreseen(w.job, w.folder), markup=False, soft_wrap=True)
        console.print(f"folder: {w.folder.path}", markup=False, soft_wrap=True)


@app.command()
def problems() -> None:
    """The problems a job can name: options, dimensions, and what is known about the truth."""
    from pipeline.catalogue import PROBLEMS
    from pipeline.listing import listing

    console.print("\n".join(listing(list(PROBLEMS), min(console.width, 100))), markup=False, soft_wrap=True)


@app.command("catalogue")
def catalogue_(
    part: Annotated[list[str] | None, typer.Argument(help="estimators, correction.estimator, ...; default all")] = None,
) -> None:
    """All that a job can name, with options: problems, surrogates, objectives, optimizers, estimators."""
    from pipeline.listing import listing, rooms_for

    console.print("\n".join(listing(rooms_for(part or []), min(console.width, 100))), markup=False, soft_wrap=True)


@app.command("inspect")
def inspect_(file: Annotated[Path, typer.Argument(help="surrogate.h5, report.h5, points.h5 or a wave of chunks")]) -> None:
    """What an HDF5 file of a run holds, for a person: results, job, hashes, arrays."""
    from pipeline.inspection import inspection

    console.print(inspection(file, console.width))


def _finished(runs: Sequence[Path]) -> list[tuple[str, Path, Mapping[str, Any]]]:
    """Name, folder and summary of finished runs, which are named by their folders or their report.h5."""
    from pipeline.report_files import read_summary

    found: list[tuple[str, Path, Mapping[str, Any]]] = []
    for path in runs:
        if (path / "table.json").exists():
            # The table of a sweep, which a pattern such as runs/name-* names beside the runs.
            continue
        if path.is_dir() and not (path / "report.h5").exists():
            raise InputError(
                f"'{path}' is not the folder of a finished run (no report.h5): finish it with `scasml run`, or name another"
            )
        folder = path.resolve() if path.is_dir() else path.resolve().parent
        found.append((folder.name, folder, read_summary(path)))
    if not found:
        raise InputError(f"'{runs[0]}' is the table of a sweep: name its runs, as in runs/NAME-*")
    return found


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="folders of finished runs, or their report.h5")],
    published: Annotated[
        Path | None,
        typer.Option("--published", help="a table of published figures to set beside, such as jobs/published_table.csv"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="also write tables, rates and pictures to this folder")] = None,
) -> None:
    """Reports side by side, with published figures and the rate at which errors fall over the runs.

    Example: scasml compare runs/published_table-* --published jobs/published_table.csv --out figures
    """
    from pipeline import comparison, merit
    from pipeline.resources import check_writable
    from pipeline.tables import table

    found = [(name, summary) for name, _, summary in _finished(runs)]
    console.print(table(found, console.width))
    summaries = [summary for _, summary in found]
    paired = comparison.pairs(summaries, comparison.published(published)) if published is not None else []
    for equation, methods in comparison.rates(summaries).items():
        expected = comparison.theory(methods)
        for method, rate in methods.items():
            if rate.slope is not None:
                text = f"{equation}, {method}: relative L2 falls as (training samples + paths)^({rate.slope})"
                text += f", by theory {expected[method]:+.2f}" if method in expected else ""
                console.print(text, markup=False, soft_wrap=True)
    for label, summary in found:
        for method in ("linear", "mlp", "scasml"):
            if (within := comparison.inference_rate(summary, method)) is not None:
                text = f"{label}, {method}: relative L2 falls as FLOP^({within}) within the run"
                console.print(text, markup=False, soft_wrap=True)
        if (gain := merit.merit_gain(summary)) is not None:
            plain, work = "plain MLP", ""
            if merit.rival(summary) == "plain":
                plain = "the same estimator without a surrogate"
                work = "" if (flop := merit.merit_gain(summary, "flop")) is None else f"{flop:,.1f} times the FLOP and "
            text = f"{label}: {plain} takes {work}{gain:,.1f} times the core seconds of correction for the same standard error"
            console.print(text, markup=False, soft_wrap=True)
    for pair in paired:
        gains = ", ".join(f"{norm} {'-' if (r := pair.ratio(norm)) is None else f'{r:,.1f}'}" for norm in comparison.NORMS)
        console.print(f"{pair.label}: published error over ours: {gains}", markup=False, soft_wrap=True)
    if out is not None:
        check_writable(out, "--out")
        for file in comparison.save(out, summaries, paired):
            console.print(str(file), markup=False, soft_wrap=True)


@app.command()
def scaling(
    runs: Annotated[list[Path], typer.Argument(help="folders of finished runs, or their report.h5")],
    out: Annotated[
        Path | None, typer.Option("--out", help="also write scaling.json, scaling.png and a picture an equation to this folder")
    ] = None,
) -> None:
    """Fit a scaling law, error = E + A/N^alpha + B/D^beta, to the trained surrogates of finished runs, and compare optimizers.

    \b
    scasml run jobs/scaling_law_2d.yaml
    scasml scaling runs/scaling_law_2d-* --out figures

    N are parameters, D training samples. Runs are grouped by equation and optimizer; each group needs 4 sizes, 3 amounts of
    data and 3 seeds a cell. The largest size is also held out and predicted.
    """
    from pipeline import scaling_report
    from pipeline.resources import check_writable
    from pipeline.scaling import contests, studies, trained

    found = trained(_finished(runs))
    if out is not None:
        check_writable(out, "--out")
    laws = studies(found)
    versus = contests(laws)
    console.print(scaling_report.table(laws))
    for text in scaling_report.sentences(laws, versus):
        console.print(text, markup=False, soft_wrap=True)
    if out is not None:
        for file in scaling_report.save(out, laws, versus):
            console.print(str(file), markup=False, soft_wrap=True)


@app.command()
def submit(
    job: JobFile,
    slurm: Annotated[bool, typer.Option("--slurm", help="to Slurm, by slurm/pipeline.sbatch")] = False,
    ray: Annotated[str | None, typer.Option("--ray", help="to the Ray cluster with this dashboard, http://HOST:8265")] = None,
    out: Out = None,
    set_: Set = None,
    nodes: Annotated[
        int, typer.Option("--nodes", min=1, help="Slurm nodes; ranks and training workers are spread over them")
    ] = 1,
    gpus: Annotated[int, typer.Option("--gpus-per-node", min=0, help="GPUs of each Slurm node, for training")] = 0,
    time: Annotated[
        str, typer.Option("--time", help="Slurm's time limit; a run that needs longer goes on by itself")
    ] = "01:00:00",
    array: Annotated[
        bool, typer.Option("--array", help="of a sweep, every run as a task of a Slurm job array, then its table")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be submitted, and submit nothing")] = False,
) -> None:
    """Hand a job to a cluster; prints the id the cluster gave it.

    \b
    scasml submit jobs/lqg_160d.yaml --slurm --nodes 4 --time 4:00:00
    scasml submit jobs/hard_set.yaml --slurm --array
    scasml submit jobs/lqg_160d.yaml --ray http://head:8265 --out /shared/lqg_160d

    Account, partition, modules and MPI flavour stand in slurm/site.sh. The job and its output folder have to be on a disk that
    all nodes share.
    """
    from pipeline import submit as submission

    if slurm == (ray is not None):
        raise InputError("scasml submit needs one of --slurm and --ray ADDRESS")
    if slurm:
        commands = submission.slurm_commands(job, out, set_ or [], submission.Shape(nodes, gpus, time), array=array)
        said = submission.shown(commands) if dry_run else submission.to_slurm(commands)
    else:
        assert ray is not None
        name, driver = submission.ray_entrypoint(job, out, set_ or [])
        said = [f"on {ray}: {shlex.join(driver)}" if dry_run else submission.to_ray(ray, name, driver)]
    for text in said:
        console.print(text, markup=False, soft_wrap=True)


def resumable(error: BaseException) -> str:
    """What stopped a run and how to go on, each said once."""
    reason = str(error).rstrip(".") or "interrupted"
    return reason if RESUME in reason else f"{reason}. What is finished is kept: {RESUME} to resume."


def main() -> None:
    """Run the command line and leave with its exit status."""
    stop_on_signals()
    for stream in (sys.stdout, sys.stderr):
        # A name in letters that the terminal lacks is no reason to fail.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    errors = sys.stderr
    try:
        app(standalone_mode=True)
    except InputError as error:
        print(f"error: {error}", file=errors)
        sys.exit(2)
    except (Interrupted, KeyboardInterrupt) as error:
        print(resumable(error), file=errors)
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
