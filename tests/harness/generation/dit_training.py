"""What the tests of the diffusion transformer's training share: latents in memory, a small recipe, and one call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ovbench.harness.generation.config import DiTDHConfig
from ovbench.harness.generation.flow_config import EMAConfig, ScheduleConfig, TransportConfig
from ovbench.harness.generation.recipe_config import DiTRecipe, OptimiserConfig
from ovbench.harness.generation.train_dit import train_dit

NETWORK = DiTDHConfig(
    input_size=2, in_channels=4, hidden_size=(16, 24), depth=(1, 1), num_heads=(2, 3), num_classes=4, label_init_std=1.0
)
COUNT = 20
LABELS = np.arange(COUNT, dtype=np.int64) % 4
_CLASSES = torch.randn(4, 4, 2, 2, generator=torch.Generator().manual_seed(0))


def latents(indices: Sequence[int], mirrored: Sequence[bool]) -> Tensor:
    """A latent of each class with a little noise of each picture; mirrored ones are another."""
    rows = []
    for index, flag in zip(indices, mirrored, strict=True):
        own = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(100 + index))
        row = _CLASSES[index % 4] + 0.1 * own
        rows.append(row.flip(-1) if flag else row)
    return torch.stack(rows)


def recipe(**changes: Any) -> DiTRecipe:
    """Batches of 8 of 20 latents: 2 steps an epoch, 10 in all, probes after steps 4 and 7."""
    optimiser = OptimiserConfig(
        batch_size=8,
        epochs=5.0,
        schedule=ScheduleConfig(kind="linear", base_lr=3e-3, final_lr=3e-4, warmup_epochs=1.0, decay_end_epoch=5.0),
        ema=EMAConfig(decay=0.9, warmup=True),
        # Gradients of which theory says 0 (biases of keys) are rounding alone, and AdamW scales each to one step.
        eps=1e-3,
        checkpoint_every=4,
        log_every=1,
    )
    own = {name: changes.pop(name) for name in ("flips", "probes") if name in changes}
    fields: dict[str, Any] = {"flips": True, "probes": (2.0, 3.5), "transport": TransportConfig(shift_base=16), **own}
    return DiTRecipe(optimiser=replace(optimiser, **changes), **fields)


def train(folder: Path, chosen: DiTRecipe | None = None, **arguments: Any) -> Path:
    """Trains a network of about 20,000 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"latents": latents, "seed": 0, "source": "memory", **arguments}
    source = settings.pop("latents")
    return train_dit(source, LABELS, NETWORK, chosen or recipe(), folder=folder, **settings)


def state(folder: Path) -> dict[str, Tensor]:
    """Everything that the checkpoint holds."""
    return load_file(folder / "dit.state.safetensors")


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "dit.log.jsonl").read_text(encoding="utf-8").splitlines()]
