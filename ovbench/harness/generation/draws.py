"""Random numbers of training and sampling: each image has its own, by (seed, index), so nothing else can change them.

Contract: batch size, number of processes and restarts change no draw. Everything is drawn on the CPU, since a GPU's
generator gives other numbers. What the reference draws instead is here too, for parity runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError
from ovbench._base.seeding import torch_generator


def indexed_noise(seed: int, indices: Sequence[int], shape: Sequence[int], *, label: str = "samples/noise") -> Tensor:
    """Returns normal noise [B, *shape], float32 on the CPU; row b depends on (seed, label, indices[b]) alone."""
    rows = [torch.randn(tuple(shape), generator=torch_generator(seed, label, int(index))) for index in indices]
    return torch.stack(rows) if rows else torch.empty(0, *shape)


def class_labels(
    seed: int, indices: Sequence[int], num_classes: int, mode: Literal["equal", "random"] = "equal"
) -> Tensor:
    """Returns the classes of images, int64 [B]; that of an image depends on (seed, its index) alone.

    `equal`: every run of `num_classes` images that starts at a multiple of it holds each class once, in an order of its
    own. So the first N images hold every class N / num_classes times, exactly where that is a whole number and rounded
    up or down elsewhere, whatever the batch size and the number of processes. `random`: uniform.

    Raises:
        ConfigError: There is no class.
    """
    if num_classes < 1:
        raise ConfigError(f"the number of classes must be positive, got {num_classes}", where="labels")
    if mode == "equal":
        chosen = [_block(seed, num_classes, int(index) // num_classes)[int(index) % num_classes] for index in indices]
    else:
        chosen = [
            int(torch.randint(num_classes, (), generator=torch_generator(seed, "samples/label", int(index))))
            for index in indices
        ]
    return torch.tensor(chosen, dtype=torch.int64)


@lru_cache(maxsize=64)
def _block(seed: int, num_classes: int, number: int) -> tuple[int, ...]:
    order = torch.randperm(num_classes, generator=torch_generator(seed, "samples/labels", num_classes, number))
    return tuple(order.tolist())


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingDraws:
    """Everything random about a training batch, on the CPU."""

    uniforms: Tensor  # [B] in [0, 1), the times before their distribution
    drop: Tensor  # bool [B], labels to leave out
    noise: Tensor  # [B, C, H, W]


def training_draws(
    seed: int, indices: Sequence[int], shape: Sequence[int], *, drop_probability: float
) -> TrainingDraws:
    """Returns the draws of a batch; row b depends on (seed, indices[b]) alone.

    Args:
        seed: Of the run.
        indices: Running number of each training sample over the whole training: step times global batch plus place.
        shape: Of a latent, [C, H, W].
        drop_probability: Share of labels that are dropped, in [0, 1].
    """
    pairs = [torch.rand(2, generator=torch_generator(seed, "dit/time", int(index))) for index in indices]
    uniforms = torch.stack(pairs) if pairs else torch.empty(0, 2)
    return TrainingDraws(
        uniforms=uniforms[:, 0],
        drop=uniforms[:, 1] < drop_probability,
        noise=indexed_noise(seed, indices, shape, label="dit/noise"),
    )


def reference_labels(num_images: int, num_classes: int, *, seed: int, batch_size: int, world_size: int) -> Tensor:
    """Returns the classes in the order of image numbers that the reference's `equal` gives, int64 [N], N >= num_images.

    Every class num_images / num_classes times in a random order, padded with random classes to whole global batches; a
    process takes a contiguous part, and image number = place in batch * processes + process + step * global batch.
    Source: github.com/bytetriper/RAE, src/sample_ddp.py. Trap: padding mixes in, so classes are not equal in the first
    `num_images`; `class_labels` has no such fault.

    Raises:
        ConfigError: The images are no multiple of the classes, or a size is not positive.
    """
    if min(num_images, num_classes, batch_size, world_size) < 1:
        raise ConfigError("images, classes, batch size and processes must be positive", where="reference labels")
    if num_images % num_classes:
        raise ConfigError(
            f"{num_images} images are no whole number for each of {num_classes} classes", where="reference labels"
        )
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_classes).repeat_interleave(num_images // num_classes)
    labels = labels[torch.randperm(num_images, generator=generator)]
    global_batch = batch_size * world_size
    padding = -num_images % global_batch
    labels = torch.cat([labels, torch.randint(0, num_classes, (padding,), generator=generator)])
    return labels.reshape(world_size, -1, batch_size).permute(1, 2, 0).reshape(-1)  # [step, place, process]


def reference_batches(
    num_images: int,
    shape: Sequence[int],
    num_classes: int,
    *,
    mode: Literal["equal", "random"],
    seed: int,
    batch_size: int,
    rank: int,
    world_size: int,
    device: str | torch.device = "cpu",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields noise [batch_size, *shape] and labels [batch_size] of one process as the reference draws them.

    One generator of the device per process, seeded with seed * processes + rank, gives the noise and, in mode `random`,
    after it the labels: every image depends on the batch size, the number of processes and the device.

    Raises:
        ConfigError: See `reference_labels`.
    """
    steps = -(-num_images // (batch_size * world_size))
    pool: Tensor | None = None
    if mode == "equal":
        pool = reference_labels(num_images, num_classes, seed=seed, batch_size=batch_size, world_size=world_size)
        pool = pool.reshape(steps, batch_size, world_size)[:, :, rank].to(device)
    generator = torch.Generator(device=device).manual_seed(seed * world_size + rank)
    for step in range(steps):
        noise = torch.randn(batch_size, *shape, generator=generator, device=device)
        if pool is not None:
            yield noise, pool[step]
        else:
            yield noise, torch.randint(0, num_classes, (batch_size,), generator=generator, device=device)
