"""Poisson problems: one a file, a function ``dim, ...`` -> Poisson."""

import kernels

kernels.open_room(__name__)
