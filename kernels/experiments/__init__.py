"""Studies of convergence rates: one a file, a function ``dim, ...`` -> Experiment."""

import kernels

kernels.open_room(__name__)
