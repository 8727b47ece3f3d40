"""What training minimises: one a file, a function ``problem, surrogate, ...`` -> loss module."""

import kernels

kernels.open_room(__name__)
