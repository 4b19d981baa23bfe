"""Learning rate and moving average of RAE's trainings, as functions of the step.

Source: github.com/bytetriper/RAE, src/utils/optim_utils.py (schedules) and src/utils/train_utils.py (average).
"""

from __future__ import annotations

import copy
import math
from functools import cached_property
from typing import Generic, TypeVar

import torch
from torch import nn

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.flow_config import EMAConfig, ScheduleConfig
from ovbench.harness.sharding import own_part

M = TypeVar("M", bound=nn.Module)


def learning_rate(step: int, config: ScheduleConfig, steps_per_epoch: int) -> float:
    """Returns the learning rate of an optimiser step, numbered from 0.

    Args:
        step: Updates done before this one.
        config: Schedule in epochs.
        steps_per_epoch: Updates of an epoch.

    Raises:
        ConfigError: The step is negative, or an epoch has none.
    """
    if step < 0 or steps_per_epoch < 1:
        raise ConfigError(
            f"the step must be at least 0 and steps_per_epoch at least 1, got {step} and {steps_per_epoch}",
            where="learning-rate schedule",
        )
    warmup = int(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return config.base_lr * (step + 1) / warmup if config.warmup_from_zero else config.base_lr
    if config.kind == "constant":
        return config.base_lr
    end = int(config.decay_end_epoch * steps_per_epoch)
    progress = min(1.0, (step - warmup) / max(1, end - warmup))
    left = 0.5 * (1.0 + math.cos(math.pi * progress)) if config.kind == "cosine" else 1.0 - progress
    return config.final_lr + (config.base_lr - config.final_lr) * left


class EMA(Generic[M]):
    """Exponential moving average of a module's weights, kept in a copy of the module.

    Contract: it is made when all processes hold the same weights. The reference copies before they are broadcast, so
    its other processes evaluate a wrong average early on.
    """

    module: M  # the average, in eval mode and without gradients

    def __init__(self, live: M, config: EMAConfig) -> None:
        """Starts from the weights as they are.

        Args:
            live: The module that is trained; not a wrapper of DistributedDataParallel or torch.compile.
            config: Decay.

        Raises:
            ConfigError: The module is a wrapper, whose copy would go on computing with the live weights.
        """
        if isinstance(live, nn.parallel.DistributedDataParallel) or hasattr(live, "_orig_mod"):
            raise ConfigError(
                f"the average is taken of a plain module, got a {type(live).__name__}",
                where="EMA",
                fix="give the module inside the wrapper",
            )
        self.config, self._live = config, live
        self.module = copy.deepcopy(live).eval().requires_grad_(False)

    @cached_property
    def _parameters(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Averages and weights, from the first update on: until then both modules may be sharded, both alike."""
        return list(zip(self.module.parameters(), self._live.parameters(), strict=True))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the weights after an optimiser step, numbered from 0; buffers are copied."""
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            [own_part(average.data) for average, _ in self._parameters],
            [own_part(parameter.data) for _, parameter in self._parameters],
            1.0 - self.config.decay_at(step),
        )
        for average, buffer in zip(self.module.buffers(), self._live.buffers(), strict=True):
            average.copy_(buffer)
