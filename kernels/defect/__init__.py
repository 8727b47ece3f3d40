"""The problem that a surrogate's error solves, one family a file."""

from kernels.defect.integral import integral_defect
from kernels.defect.poisson import poisson_defect
from kernels.defect.semilinear import defect, linear_part, residual

__all__ = ["defect", "integral_defect", "linear_part", "poisson_defect", "residual"]
