"""Solvers of dx/dt = v(x, t) from noise (t = 1) to data (t = 0), which keep one state and no trajectory.

Source: github.com/bytetriper/RAE, src/stage2/transport/integrators.py, which calls torchdiffeq 0.2.5 on the same grids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from ovbench._base.lazy import require
from ovbench.harness.generation.flow_config import MAX_TIME, SamplingConfig
from ovbench.harness.generation.interpolants import shift_time

Field = Callable[[Tensor, Tensor], Tensor]  # states [B, ...] and a time, 0-dim float32 on the CPU → velocities


@dataclass(frozen=True, kw_only=True, slots=True)
class Tableau:
    """An explicit Runge-Kutta method (Butcher tableau)."""

    nodes: tuple[float, ...]  # where in the step each stage looks, in [0, 1]
    stages: tuple[tuple[float, ...], ...]  # weights of the stages before, per stage
    weights: tuple[float, ...]  # of the stages in the step


# `rk4` is the 3/8 rule, as in torchdiffeq.
TABLEAUS: Mapping[str, Tableau] = MappingProxyType(
    {
        "euler": Tableau(nodes=(0.0,), stages=((),), weights=(1.0,)),
        "heun2": Tableau(nodes=(0.0, 1.0), stages=((), (1.0,)), weights=(0.5, 0.5)),
        "midpoint": Tableau(nodes=(0.0, 0.5), stages=((), (0.5,)), weights=(0.0, 1.0)),
        "rk4": Tableau(
            nodes=(0.0, 1 / 3, 2 / 3, 1.0),
            stages=((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
            weights=(0.125, 0.375, 0.375, 0.125),
        ),
    }
)


def is_adaptive(method: str) -> bool:
    """Whether a method chooses its own steps, and so needs torchdiffeq; its steps depend on all states of the batch."""
    return method not in TABLEAUS


def time_grid(kind: Literal["rae", "full"], num_steps: int, shift: float) -> Tensor:
    """Returns the times that a solver visits, falling, float32 on the CPU.

    Args:
        kind: `rae`: num_steps points from 1 to shift(0.001), as the reference's PyTorch code, so num_steps - 1 steps
            and none to 0. `full`: num_steps steps from 1 to 0, as the authors' JAX code.
        num_steps: See kind.
        shift: See `TransportConfig.shift_of`.
    """
    if kind == "rae":
        return shift_time(1.0 - torch.linspace(0.0, MAX_TIME, num_steps), shift)
    return shift_time(1.0 - torch.linspace(0.0, 1.0, num_steps + 1), shift)


def num_evaluations(config: SamplingConfig) -> int | None:
    """Returns how often a sample asks for a velocity; None where the method decides that itself."""
    if is_adaptive(config.method):
        return None
    return len(TABLEAUS[config.method].weights) * (config.num_steps - (config.grid == "rae"))


def solve(
    field: Field,
    state: Tensor,
    grid: Tensor,
    method: str,
    *,
    atol: float = 1e-6,
    rtol: float = 1e-3,
    on_step: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Returns the state at the end of a grid.

    Args:
        field: The velocity; it gets times on the CPU, so that it can decide by them without waiting for a device.
        state: At the grid's first time, [B, ...]; float32 is kept throughout.
        grid: Times, [S + 1], falling or rising.
        method: One of `TABLEAUS`, or a name of torchdiffeq.
        atol: Absolute tolerance of an adaptive method.
        rtol: Relative tolerance of an adaptive method.
        on_step: Gets each new state of a fixed grid; an adaptive method has none.

    Raises:
        DependencyError: The method needs torchdiffeq, which is not installed.
    """
    if is_adaptive(method):
        ode = require("torchdiffeq", extra="offline", purpose=f"the solver '{method}'")
        # Both ends alone: the steps are the method's own, and states at the points between would only be stored.
        ends = grid[[0, -1]].to(state.device)
        # Trap: tolerances as lists, as the reference gives them, make torchdiffeq choose its first step in float64. It
        # divides the difference of two nearly equal velocities, which in float32 is mostly rounding: another number of
        # threads takes other steps, and the result moves within the method's tolerance (seen: 6e-3 at rtol 1e-3).
        return ode.odeint(lambda t, x: field(x, t.cpu()), state, ends, method=method, atol=[atol], rtol=[rtol])[-1]
    tableau = TABLEAUS[method]
    for start, end in pairwise(grid):
        step = end - start
        slopes: list[Tensor] = []
        for node, row in zip(tableau.nodes, tableau.stages, strict=True):
            inner = state
            if any(row):
                inner = state + float(step) * _weighted(slopes, row)
            slopes.append(field(inner, start + node * step if node < 1.0 else end))
        state = state + float(step) * _weighted(slopes, tableau.weights)
        if on_step is not None:
            on_step(state)
    return state


def _weighted(slopes: list[Tensor], weights: tuple[float, ...]) -> Tensor:
    pairs = [(slope, weight) for slope, weight in zip(slopes, weights, strict=True) if weight]
    parts = [slope if weight == 1.0 else weight * slope for slope, weight in pairs]
    return sum(parts[1:], start=parts[0])
