"""Integrals over the unit cube: one integrand a file, a function ``dim, ...`` -> Integral."""

import kernels

kernels.open_room(__name__)
