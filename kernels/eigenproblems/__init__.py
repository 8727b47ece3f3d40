"""Eigenproblems: one a file, a function ``dim, ...`` -> Eigenproblem."""

import kernels

kernels.open_room(__name__)
