"""Traces: one a file, a function ``dim, ...`` -> Trace."""

import kernels

kernels.open_room(__name__)
