"""Matrices known by their products: one a file, a function ``dim, ...`` -> LinearOperator."""

import kernels

kernels.open_room(__name__)
