"""What the tests of the decoder's training share: pictures in memory, a small recipe, and one call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ovbench._base.seeding import numpy_generator
from ovbench.harness.generation import decoder_gan
from ovbench.harness.generation.decoder_config import DecoderConfig, DecoderLossConfig, NoiseConfig
from ovbench.harness.generation.discriminator import Discriminator
from ovbench.harness.generation.flow_config import EMAConfig, ScheduleConfig
from ovbench.harness.generation.recipe_config import DecoderRecipe, OptimiserConfig
from ovbench.harness.generation.train_decoder import train_decoder
from tests.harness.generation.rae_data import patch_encoder, pictures
from tests.harness.generation.test_discriminator import tiny

DECODER = DecoderConfig(latent_dim=6, num_patches=16, patch_px=4, width=16, depth=2, num_heads=2, mlp_width=24)
L1 = DecoderLossConfig(lpips_weight=0.0, gan_weight=0.0)
GAN = DecoderLossConfig(discriminator_from_epoch=1, gan_from_epoch=2)  # steps 2 and 4 of 10


class Killed(Exception):
    pass


def killer(after: int) -> Any:
    def progress(done: int, total: int, **fields: float) -> None:
        if done == after:
            raise Killed

    return progress


class Memory:
    """Smooth pictures, each use of which is mirrored or not."""

    name = "memory"
    num_classes = 2

    def __init__(self, count: int = 20, side: int = 16) -> None:
        self.num_pictures, self.side_px = count, side
        self.digest = f"{count} of {side}"
        self._pixels = (255 * pictures(count, side)).round().byte().permute(0, 2, 3, 1).numpy()

    def prepare(self, *, rank: int = 0, num_ranks: int = 1) -> None:
        del rank, num_ranks

    def labels(self, indices: Sequence[int]) -> NDArray[np.int64]:
        return np.array(indices, dtype=np.int64) % 2

    def images_u8(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        return self._pixels[list(indices)]

    def crops_u8(self, indices: Sequence[int], uses: Sequence[int], seed: int) -> NDArray[np.uint8]:
        flips = [numpy_generator(seed, "memory", int(use)).random() < 0.5 for use in uses]
        chosen = self.images_u8(indices)
        return np.stack([image[:, ::-1] if flip else image for image, flip in zip(chosen, flips, strict=True)])


def recipe(loss: DecoderLossConfig = L1, tau: float = 0.5, **changes: Any) -> DecoderRecipe:
    """Batches of 8 of 20 pictures: 2 steps an epoch, 10 in all."""
    optimiser = OptimiserConfig(
        batch_size=8,
        epochs=5.0,
        schedule=ScheduleConfig(
            kind="cosine", base_lr=3e-3, final_lr=3e-4, warmup_epochs=1.0, decay_end_epoch=5.0, warmup_from_zero=True
        ),
        ema=EMAConfig(decay=0.9),
        # Gradients of which theory says 0 (biases of keys) are rounding alone, and AdamW scales each to one step.
        eps=1e-3,
        clip_norm=None,
        checkpoint_every=4,
        log_every=1,
    )
    return DecoderRecipe(preset="mini", noise=NoiseConfig(tau=tau), loss=loss, optimiser=replace(optimiser, **changes))


class Perceptual(nn.Module):
    """A stand-in for LPIPS: squared distance of means of 4 x 4 pixels, per picture."""

    def forward(self, reconstruction_pm1: Tensor, images_pm1: Tensor) -> Tensor:
        pooled = nn.functional.avg_pool2d(reconstruction_pm1 - images_pm1, 4)
        return pooled.square().mean(dim=(1, 2, 3))


def train(folder: Path, chosen: DecoderRecipe | None = None, **arguments: Any) -> Path:
    """Trains a decoder of a few thousand weights."""
    settings: dict[str, Any] = {"seed": 0, "folder": folder, **arguments}
    if chosen is not None and chosen.loss.gan_weight > 0.0:
        settings = {"discriminator": tiny(), **settings}
    if chosen is not None and chosen.loss.lpips_weight > 0.0:
        settings = {"lpips": Perceptual(), **settings}
    config = settings.pop("config", DECODER)
    encoder, data = settings.pop("encoder", None) or patch_encoder(), settings.pop("data", None) or Memory()
    return train_decoder(encoder, data, chosen or recipe(), config, **settings)


def state(folder: Path) -> dict[str, Tensor]:
    """Everything that the checkpoint holds."""
    from safetensors.torch import load_file

    return load_file(folder / "decoder.state.safetensors")


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "decoder.log.jsonl").read_text(encoding="utf-8").splitlines()]


SMOOTH = replace(GAN, l1_weight=0.0, discriminator_loss="vanilla")


def smooth_discriminator() -> Discriminator:
    """A discriminator without the corners of LeakyReLU."""
    discriminator = tiny()
    for module in list(discriminator.heads.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.LeakyReLU):
                setattr(module, name, nn.SiLU())
    return discriminator


@contextmanager
def smoothly() -> Iterator[dict[str, Any]]:
    """Arguments of a training whose gradients jump nowhere, so that sums of another order stay rounding.

    L1, hinge and LeakyReLU have corners, at which rounding decides between two gradients, and reconstructions that are
    put on 256 levels jump from one to the next.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder_gan, "quantise_pm1", lambda images_pm1: images_pm1.detach().clamp(-1.0, 1.0))
        yield {"discriminator": smooth_discriminator()}


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [key for key in one if not torch.equal(one[key], other[key])]
    assert not different


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(
            one[key], other[key], rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
        )
