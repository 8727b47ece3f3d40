"""Semilinear PDEs: one a file, a function ``dim, ...`` -> SemilinearPDE."""

import kernels

kernels.open_room(__name__)
