"""Monte Carlo methods: one published method a file, a function ``...`` -> Estimator."""

import kernels

kernels.open_room(__name__)
