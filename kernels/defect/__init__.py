"""The problem that a surrogate's error solves, one family a file."""

from kernels.defect.eigenproblem import corrections, eigen_residuals, eigenproblem_defect
from kernels.defect.integral import integral_defect
from kernels.defect.linear_system import linear_system_defect
from kernels.defect.poisson import poisson_defect
from kernels.defect.semilinear import defect, linear_part, residual
from kernels.defect.snapshots import snapshots_defect
from kernels.defect.trace import trace_defect

__all__ = [
    "corrections",
    "defect",
    "eigen_residuals",
    "eigenproblem_defect",
    "integral_defect",
    "linear_part",
    "linear_system_defect",
    "poisson_defect",
    "residual",
    "snapshots_defect",
    "trace_defect",
]
