"""Linear systems and least-squares problems: one a file, a function ``dim, ...`` -> LinearSystem or LeastSquares."""

import kernels

kernels.open_room(__name__)
