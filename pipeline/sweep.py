"""The one table of a sweep, in a folder named by what the sweep holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline import tables
from pipeline.files import commit
from pipeline.job import digest
from pipeline.report_files import read_summary
from pipeline.work import Work


def place(work: Sequence[Work]) -> Path:
    """``<name>-sweep-<hash>`` beside the runs; the hash is that of all their jobs."""
    name = digest([[w.job.correction_hash, w.job.resolved, dict(w.job.swept)] for w in work])[:10]
    return work[0].folder.path.parent / f"{work[0].job.model.name}-sweep-{name}"


def write_table(work: Sequence[Work]) -> Path:
    """Commit table.json and table.html of finished runs; the folder they are in."""
    folder = place(work)
    found = [read_summary(w.folder.path) for w in work]
    data = {
        "name": work[0].job.model.name,
        "swept": list(work[0].job.swept),
        "runs": [
            {"set": dict(w.job.swept), "folder": w.folder.path.name, "summary": s} for w, s in zip(work, found, strict=True)
        ],
    }
    commit(folder / "table.json", (json.dumps(data, indent=2) + "\n").encode())
    title = f"{data['name']}: {len(work)} runs over {', '.join(work[0].job.swept)}"
    rows = [(w.label, s) for w, s in zip(work, found, strict=True)]
    notes = [f"{w.label}: {note}" for w, s in zip(work, found, strict=True) for note in tables.notes(s)]
    notes += [f"{w.label}: {w.folder.path.name}/report.html" for w in work]
    commit(folder / "table.html", tables.page(title, rows, notes).encode())
    return folder
