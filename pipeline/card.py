"""The device on which a rank corrects."""

from __future__ import annotations

import torch

from pipeline.errors import InputError
from pipeline.fanout import ALONE, Communicator
from pipeline.job import Job

SHARE = 0.9
"""Of a card's memory, what all ranks on it may take together: its driver and other programs need some."""


def check_card(job: Job) -> None:
    """Refuse a correction on GPUs where PyTorch sees none."""
    if job.model.correction.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "correction.device = 'cuda': PyTorch sees no GPU here: use device: cpu, install PyTorch's CUDA build, "
            "or submit the job to nodes with GPUs"
        )


def card(job: Job, comm: Communicator = ALONE) -> torch.device:
    """The device of this rank; every rank calls it.

    Ranks of a machine take turns over the cards they see; those that share one get equal parts of its memory, so that none
    fails for what another took.
    """
    if job.model.correction.device == "cpu":
        return torch.device("cpu")
    check_card(job)
    index = comm.place % torch.cuda.device_count()
    mine = str(torch.cuda.get_device_properties(index).uuid)
    # By its own name: where the launcher gives every rank a card, all of them are number 0.
    sharing = comm.share(comm.gather(mine)).count(mine)
    torch.cuda.set_per_process_memory_fraction(SHARE / sharing, index)
    return torch.device("cuda", index)
