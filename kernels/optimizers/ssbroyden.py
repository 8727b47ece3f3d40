"""Self-scaled Broyden: a quasi-Newton method with a dense inverse Hessian, for small networks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal
from warnings import catch_warnings

import torch
from scipy.optimize import line_search
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from kernels.contracts import Batch

MAX_PARAMETERS = 20_000
"""Of which the inverse Hessian takes 3.2 GB in double precision."""

COPIES = 4
"""Of it that an update and a checkpoint hold at once."""

LONGEST = 1e3
"""Of a line search, in steps of learning rate 1."""

TRIALS = 10
"""Of a line search: in single precision one that takes more is lost in rounding."""


def ssbroyden(parameters: Iterable[Parameter], *, learning_rate: float = 1.0, iterations: int = 4) -> Optimizer:
    """Self-scaled Broyden (Al-Baali and Khalfan; for PINNs Urban et al., arXiv 2405.04230) with a strong Wolfe line search.

    Several iterations on the fixed batch of a step; differences are of one batch only, and the inverse Hessian, in double
    precision, outlives it. Refused above MAX_PARAMETERS parameters.

    :param learning_rate: first trial of a line search, peak of the schedule, > 0
    :param iterations: directions on one batch, at least 1; each takes one loss and gradient or a few
    """
    listed = list(parameters)
    count = sum(p.numel() for p in listed)
    if learning_rate <= 0.0 or iterations < 1:
        raise ValueError(
            f"learning_rate = {learning_rate}, iterations = {iterations}: "
            "self-scaled Broyden needs learning_rate > 0 and iterations >= 1"
        )
    if count > MAX_PARAMETERS:
        raise ValueError(
            f"{count} parameters: the dense inverse Hessian of self-scaled Broyden serves at most {MAX_PARAMETERS}; "
            "lower the surrogate's width or depth, or use lbfgs"
        )
    return SSBroyden(listed, {"lr": learning_rate, "iterations": iterations})


def updated(inverse: Tensor, s: Tensor, y: Tensor, forward: float) -> Tensor:
    """H of the next iteration, which maps y to s and is positive definite where s.y > 0, in place of ``inverse``.

    H <- (H - H y y^T H / y.Hy + phi v v^T) / tau + s s^T / y.s, v = sqrt(y.Hy) (s / y.s - H y / y.Hy); phi and tau by
    equations 13 to 23 of arXiv 2405.04230.

    :param forward: s.H^-1 s, known from the step: -s.g times its length along -H g; at most 10 y.s after a strong Wolfe search with c2 = 0.9
    """
    hy, ys = inverse @ y, float(y @ s)
    yhy = float(y @ hy)
    h, b = yhy / ys, forward / ys
    # By Cauchy and Schwarz a >= 0; at 0, where s is along H y, every member of the family is the same.
    a = max(h * b - 1.0, torch.finfo(torch.float64).eps)
    lowest = min(1.0, h * (1.0 - math.sqrt(a / (1.0 + a))))
    theta = max((lowest - 1.0) / a, min(1.0 / lowest, (1.0 - b) / b))
    sigma = 1.0 + a * theta
    phi = (1.0 - theta) / sigma
    mean = sigma ** (-1.0 / max(1, len(s) - 1))
    tau = min(1.0, 1.0 / b) * min(mean, 1.0 / theta) if theta > 0.0 else min(min(1.0, 1.0 / b) * mean, sigma)
    v = math.sqrt(yhy) * (s / ys - hy / yhy)
    inverse.addr_(hy, hy, alpha=-1.0 / yhy).addr_(v, v, alpha=phi).div_(tau)
    return inverse.addr_(s, s, alpha=1.0 / ys)


class SSBroyden(Optimizer):
    """The shell; its state, the inverse Hessian, stands with the first parameter."""

    needs: Literal["loss"] = "loss"

    def memory(self, rows: int) -> float:
        """Bytes of the inverse Hessian and of the copies that an update and a checkpoint take."""
        size = sum(p.numel() for group in self.param_groups for p in group["params"])
        return 8.0 * COPIES * size**2

    @torch.no_grad()
    def step(self, batch: Batch) -> None:  # type: ignore[override]
        """Iterate on the batch, whose gradient at the parameters is known."""
        (group,) = self.param_groups
        parameters = group["params"]
        state = self.state[parameters[0]]
        x = torch.cat([p.flatten() for p in parameters]).double()
        loss, g = batch.loss, _gradient(parameters)
        seen: dict[bytes, tuple[float, Tensor]] = {}

        def at(point: Any) -> tuple[float, Tensor]:
            key = point.tobytes()
            if key not in seen:
                _put(torch.from_numpy(point), parameters)
                with torch.enable_grad():
                    seen[key] = batch.evaluate(), _gradient(parameters)
            return seen[key]

        def value(point: Any) -> float:
            return at(point)[0]

        def slope(point: Any) -> Any:
            return at(point)[1].cpu().numpy()

        for _ in range(group["iterations"]):
            inverse = state.get("inverse")
            p = -g / g.norm().clamp_min(torch.finfo(g.dtype).tiny) if inverse is None else -(inverse @ g)
            p *= group["lr"]
            seen.clear()
            here, along, down = (v.cpu().numpy() for v in (x, p, g))
            with catch_warnings(action="ignore"):
                alpha = line_search(value, slope, here, along, down, loss, amax=LONGEST, maxiter=TRIALS)[0] or 0.0
            s = alpha * p
            after, g_after = at((x + s).cpu().numpy())
            y = g_after - g
            if not float(y @ s) > 0.0:
                # What finds no step would find none on the next batch.
                state.clear()
                break
            # s = -alpha lr H g, so that H^-1 s = -alpha lr g.
            forward = -alpha * group["lr"] * float(s @ g)
            if inverse is None:
                # Oren and Luenberger: the first inverse Hessian has the size of the first difference's.
                scale = float(y @ s) / float(y @ y)
                state["inverse"] = inverse = scale * torch.eye(len(x), dtype=x.dtype, device=x.device)
                forward = float(s @ s) / scale
            updated(inverse, s, y, forward)
            x, loss, g = x + s, after, g_after
        _put(x, parameters)

    def load_state_dict(self, state_dict: Any) -> None:
        """As torch does, but in double precision: torch rounds a state to the precision of its parameter."""
        super().load_state_dict(state_dict)
        first = self.param_groups[0]["params"][0]
        for kept in state_dict["state"].values():
            self.state[first] = {name: value.to(first.device, copy=True) for name, value in kept.items()}


def _gradient(parameters: list[Parameter]) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]).double()


def _put(x: Tensor, parameters: list[Parameter]) -> None:
    for p, part in zip(parameters, x.split([p.numel() for p in parameters]), strict=True):
        p.copy_(part.view_as(p))
