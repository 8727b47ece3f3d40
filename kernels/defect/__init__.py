"""The problem that a surrogate's error solves, one family a file."""

from kernels.defect.linear_system import linear_system_defect
from kernels.defect.semilinear import defect, linear_part, residual
from kernels.defect.snapshots import snapshots_defect

__all__ = ["defect", "linear_part", "linear_system_defect", "residual", "snapshots_defect"]
