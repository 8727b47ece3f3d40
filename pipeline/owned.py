"""To which computation chunks and states belong: by the content of the surrogate, which no hash of a job can know."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import nn

from pipeline.job import Job, digest


def owner_of(job: Job, surrogate: Any, *what: Any) -> str:
    """Whose chunks they are: the correction's, of these very parameters, whose last bits no hash of a job can know."""
    assert isinstance(surrogate, nn.Module)
    content = hashlib.sha256()
    for part in surrogate.state_dict().values():
        content.update(part.cpu().numpy().tobytes())
    return digest([job.correction_hash, content.hexdigest(), *what, *on_device(job)])


def on_device(job: Job) -> list[str]:
    """What tells numbers of a GPU from those of a CPU, whose last bits differ; nothing for a CPU."""
    return [] if job.model.correction.device == "cpu" else [job.model.correction.device]
