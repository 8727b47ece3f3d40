"""How parameters move: one a file, a function ``parameters, ...`` -> torch.optim.Optimizer."""

import kernels

kernels.open_room(__name__)
