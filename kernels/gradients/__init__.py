"""Estimators of z = sigma^T grad u, one published method a file."""

from kernels.gradients._gradient import GradientEstimator, gradient_draws
from kernels.gradients.bismut_elworthy_li import bismut_elworthy_li

__all__ = ["GradientEstimator", "bismut_elworthy_li", "gradient_draws"]
