"""A recipe's optimiser in the words of the training loop: the same for both stages."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ovbench.harness.generation.recipe_config import OptimiserConfig
from ovbench.harness.training import LoopConfig


def loop_config(optimiser: OptimiserConfig, num_pictures: int) -> LoopConfig:
    """Returns the settings of the training loop; the learning rate is the schedule's."""
    return LoopConfig(
        steps=optimiser.num_steps(num_pictures),
        lr=optimiser.schedule.base_lr,
        betas=optimiser.betas,
        eps=optimiser.eps,
        weight_decay=optimiser.weight_decay,
        clip_norm=optimiser.clip_norm,
        checkpoint_every=optimiser.checkpoint_every,
        log_every=optimiser.log_every,
    )


def identity_of(optimiser: OptimiserConfig) -> dict[str, Any]:
    """Returns the settings that can change a weight; how often it is saved and in how many passes it runs cannot."""
    idle = ("checkpoint_every", "log_every", "micro_batch")
    return {name: value for name, value in asdict(optimiser).items() if name not in idle}
