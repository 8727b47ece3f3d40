"""Two-sided bounds of the solution, one published method a file."""

from kernels.bounds._bound import Bound, Reading, reading
from kernels.bounds.entropic import entropic
from kernels.bounds.hopf_cole import hopf_cole
from kernels.bounds.pathwise import pathwise
from kernels.bounds.policy import policy

__all__ = ["Bound", "Reading", "entropic", "hopf_cole", "pathwise", "policy", "reading"]
