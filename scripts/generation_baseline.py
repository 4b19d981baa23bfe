"""How RAE's own programs sample and score, written again from a description of what they do.

This is our re-implementation, not the reference program: github.com/bytetriper/RAE (src/sample_ddp.py,
src/stage2/transport/integrators.py) is not here. It runs our networks, so that only the loop around them differs:
torchdiffeq's Euler, which keeps the state of every point; autoguidance on a batch of which half is thrown away; every
picture a PNG file; files read back into one npz, and that npz read by what scores.
A part of `speed_generation.py`; it does nothing by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovbench._base.lazy import require
from ovbench.harness.generation.guidance import in_interval
from ovbench.harness.generation.network import Stage2Network
from ovbench.harness.generation.solvers import Field
from ovbench.harness.metrics.extractors import Extractor


def plain_velocity(network: Stage2Network, x: Tensor, t: Tensor, labels: Tensor, *, per_class: bool = False) -> Tensor:
    """Returns the velocity at one time; `per_class` computes what depends on labels alone once for each label."""
    if per_class:
        num_labels = network.config.num_classes + network.config.has_null_label
        every = torch.arange(num_labels, device=x.device)
        return network(x, t.to(x.device).expand(num_labels), every, rows=labels).float()
    return network(x, t.to(x.device).expand(len(x)), labels).float()


def doubled_velocity(
    network: Stage2Network,
    guide: Stage2Network,
    x: Tensor,
    t: Tensor,
    labels: Tensor,
    scale: float,
    *,
    per_class: bool = False,
) -> Tensor:
    """Returns autoguidance as the reference computes it: [2 B, C, H, W], both halves from the first half of x.

    Its interval is all of [0, 1], and both networks run whether or not the time lies in it.

    Args:
        network: The network.
        guide: The weaker network.
        x: [2 B, C, H, W].
        t: 0-dim.
        labels: Classes and, behind them, as many null labels; int64 [2 B].
        scale: Of guidance.
        per_class: See `plain_velocity`.
    """
    half = x[: len(x) // 2]
    both = torch.cat([half, half])
    main, other = (plain_velocity(part, both, t, labels, per_class=per_class) for part in (network, guide))
    guided = torch.where(in_interval(t.to(x.device), (0.0, 1.0)), other + scale * (main - other), main)
    chosen = guided[: len(half)]
    return torch.cat([chosen, chosen])


def solve_keeping_states(field: Field, noise: Tensor, grid: Tensor) -> Tensor:
    """Returns the state at the end of Euler's steps by torchdiffeq, which keeps those of all points until then.

    Raises:
        DependencyError: torchdiffeq is not installed.
    """
    ode = require("torchdiffeq", extra="offline", purpose="the reference's solver")
    return ode.odeint(lambda t, x: field(x, t), noise, grid.to(noise.device), method="euler")[-1]


@dataclass(frozen=True, kw_only=True)
class ReferenceSampler:
    """Latents of noise as the reference makes them; without a guide there is no guidance."""

    network: Stage2Network
    guide: Stage2Network | None
    scale: float
    grid: Tensor  # times, as `solvers.time_grid` gives them

    @torch.no_grad()
    def solve(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Returns latents, float32 [B, C, H, W], of noise [B, C, H, W] and labels, int64 [B]."""
        if self.guide is None:
            return solve_keeping_states(lambda x, t: plain_velocity(self.network, x, t, labels), noise, self.grid)
        guide = self.guide
        doubled = torch.cat([labels, torch.full_like(labels, self.network.null_label)])

        def field(x: Tensor, t: Tensor) -> Tensor:
            return doubled_velocity(self.network, guide, x, t, doubled, self.scale)

        return solve_keeping_states(field, torch.cat([noise, noise]), self.grid)[: len(noise)]


def write_pictures(folder: Path, images_u8: Tensor, first: int) -> None:
    """Writes pictures, uint8 [B, H, W, 3], as `000000.png` and so on, one after another."""
    for number, image in enumerate(images_u8.cpu().numpy(), start=first):
        Image.fromarray(image).save(folder / f"{number:06d}.png")


def pack_pictures(folder: Path, count: int) -> Path:
    """Reads `count` PNG files and returns the npz that holds them, uint8 [N, H, W, 3] under `arr_0`."""
    pictures: list[Any] = []
    for number in range(count):
        with Image.open(folder / f"{number:06d}.png") as image:
            pictures.append(np.asarray(image).astype(np.uint8))
    path = folder / "samples.npz"
    np.savez(path, arr_0=np.stack(pictures))
    return path


def packed_batches(path: Path, batch: int) -> Iterator[Tensor]:
    """Yields the pictures of an npz, uint8 [B, H, W, 3]."""
    with np.load(path) as arrays:
        pictures = arrays["arr_0"]
    for first in range(0, len(pictures), batch):
        yield torch.from_numpy(pictures[first : first + batch])


def score_by_files(folder: Path, batches: Sequence[Tensor] | Iterator[Tensor], extractor: Extractor) -> Tensor:
    """Returns features [N, D] on the CPU of pictures that went through PNG files and an npz on their way."""
    count = largest = 0
    for images_u8 in batches:
        write_pictures(folder, images_u8, count)
        count, largest = count + len(images_u8), max(largest, len(images_u8))
    path = pack_pictures(folder, count)
    pool = extractor.info.pool
    return torch.cat([extractor.extract(images_u8)[pool].cpu() for images_u8 in packed_batches(path, largest)])
