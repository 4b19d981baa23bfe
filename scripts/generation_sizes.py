"""Networks to measure the generation side with: three sizes, seeded and untrained, since weights change no time.

A part of `speed_generation.py`; it does nothing by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovbench.encoders.modeling.sources import seeded
from ovbench.encoders.preprocess import IMAGENET
from ovbench.harness.generation.config import DiTDHConfig, Stage2Config, preset
from ovbench.harness.generation.cost import VGG16_CHANNELS
from ovbench.harness.generation.decoder import ViTDecoder, unpatchify
from ovbench.harness.generation.decoder_config import DECODERS, DecoderConfig, DinoConfig, DiscriminatorConfig
from ovbench.harness.generation.dino import FrozenDino
from ovbench.harness.generation.discriminator import Discriminator
from ovbench.harness.generation.flow_config import TransportConfig
from ovbench.harness.generation.network import Stage2Network
from ovbench.harness.generation.network_weights import build_network
from ovbench.harness.generation.recipe_config import read_recipe
from ovbench.harness.generation.solvers import num_evaluations
from ovbench.harness.metrics.quantise import quantise_01
from ovbench.harness.protocols import load_protocol

SEED = 0
_STD = 0.02  # of weights that begin at 0, without which a new network predicts 0 whatever it computes


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """All networks of one size, and how much of each job is measured."""

    network: Stage2Config
    guide: Stage2Config  # of autoguidance
    decoder: DecoderConfig
    discriminator: DiscriminatorConfig
    vgg_width: int  # of the perceptual network's first stage; VGG16's is 64
    extractor: str = "wardrobe"
    shift_base: int = 4096  # see `TransportConfig`
    num_steps: int  # points of the Euler grid, hence one evaluation less
    batch: int  # images of a pass of the sampler
    train_batch: int
    stage1_batch: int

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[C, H, W]."""
        return (self.network.in_channels, self.network.input_size, self.network.input_size)

    @property
    def transport(self) -> TransportConfig:
        """Times of training."""
        return TransportConfig(shift_base=self.shift_base)

    @property
    def shift(self) -> float:
        """Of times, in training and sampling alike."""
        return self.transport.shift_of(self.latent_shape)


_RECIPE = read_recipe(load_protocol("mini").section("generation"), where="mini")
_WIDTH = 128  # of the mini encoders' tokens
_MINI, _EVALUATIONS = _RECIPE.network(channels=_WIDTH, grid=_RECIPE.grid), num_evaluations(_RECIPE.sampling.sampler)
assert isinstance(_MINI, DiTDHConfig)
assert _EVALUATIONS is not None  # its solver does not choose its steps
_MID = DiTDHConfig(
    input_size=8, in_channels=256, hidden_size=(192, 512), depth=(6, 2), num_heads=(6, 8), num_classes=7
)  # the head's SwiGLU is 1365 wide, odd as the released models'; with the null label there are as many labels as images

_S = preset("dit-dh-s")
assert isinstance(_S, DiTDHConfig)

SIZES: Mapping[str, Size] = {
    "mini": Size(
        network=_MINI,
        guide=replace(_MINI, hidden_size=(48, 160), depth=(2, 1)),
        decoder=_RECIPE.decoder_config(channels=_WIDTH, num_tokens=_RECIPE.grid**2),
        discriminator=DiscriminatorConfig(
            dino=DinoConfig(depth=4, width=96, num_heads=3, input_px=32), key_depths=(0, 1, 2)
        ),
        vgg_width=8,
        shift_base=_RECIPE.dit.transport.shift_base,
        num_steps=_EVALUATIONS + 1,
        batch=32,
        train_batch=_RECIPE.dit.optimiser.batch_size,
        stage1_batch=16,
    ),
    "mid": Size(
        network=_MID,
        guide=replace(_MID, hidden_size=(96, 512), depth=(3, 2)),
        decoder=DecoderConfig(
            latent_dim=256, num_patches=64, patch_px=8, width=256, depth=6, num_heads=4, mlp_width=1024
        ),
        discriminator=DiscriminatorConfig(
            dino=DinoConfig(depth=6, width=192, num_heads=6, input_px=64), key_depths=(1, 3)
        ),
        vgg_width=16,
        num_steps=5,
        batch=8,
        train_batch=8,
        stage1_batch=4,
    ),
    "dit-dh-s": Size(
        network=_S,
        guide=_S,  # the released guide of DiT-DH-XL
        decoder=DECODERS["vit-b"],
        discriminator=DiscriminatorConfig(),
        vgg_width=64,
        num_steps=3,
        batch=2,
        train_batch=2,
        stage1_batch=1,
    ),
}


def size_of(name: str, device: torch.device) -> Size:
    """Returns a size of `SIZES`; on a GPU with RAE's 50 points and batches that keep it busy."""
    size = SIZES[name]
    if device.type == "cpu":
        return size
    tokens = size.network.num_tokens
    scored = "inception-tf" if size.decoder.output_px >= 128 else size.extractor
    return replace(
        size,
        num_steps=50,
        batch=32768 // tokens,
        train_batch=16384 // tokens,
        stage1_batch=min(64, 4096 // tokens),
        extractor=scored,
    )


def network_of(config: Stage2Config, device: torch.device, *, seed: int = SEED, multiple: int = 1) -> Stage2Network:
    """Returns a network of which no layer is 0, in eval mode; padded or not, a seed gives the same weights."""
    network = build_network(config, seed=seed, swiglu_multiple=multiple)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "adaLN_modulation" in name or name.startswith("final_layer.linear"):
                nn.init.normal_(parameter, std=_STD, generator=generator)
    return network.to(device).eval()


def decoder_of(size: Size, device: torch.device) -> ViTDecoder:
    """Returns a decoder in eval mode."""
    return seeded(lambda: ViTDecoder(size.decoder), SEED).to(device).eval()


def decode_u8(decoder: ViTDecoder, latents: Tensor) -> Tensor:
    """Returns pictures as they are scored, uint8 [B, H, W, 3], of latents [B, C, h, w]: `RAE.decode_u8` for DINOv2."""
    with torch.no_grad():
        return quantise_01(pixels(decoder, latents), "truncate").permute(0, 2, 3, 1).contiguous()


def pixels(decoder: ViTDecoder, latents: Tensor) -> Tensor:
    """Returns pictures [B, 3, H, W], about [0, 1] and not clamped, of latents [B, C, h, w]: `RAE.pixels`."""
    patches = decoder(latents.flatten(2).transpose(1, 2))
    images = unpatchify(patches, decoder.config.patch_px, decoder.config.num_channels).float()
    mean, std = (torch.tensor(value, device=images.device).view(1, 3, 1, 1) for value in (IMAGENET.mean, IMAGENET.std))
    return images * std + mean


def discriminator_of(size: Size, device: torch.device) -> Discriminator:
    """Returns a discriminator in eval mode, of which no position is 0."""

    def build() -> Discriminator:
        dino = FrozenDino(size.discriminator.dino)
        nn.init.normal_(dino.pos_embed, std=_STD)
        return Discriminator(dino, size.discriminator)

    return seeded(build, SEED).to(device).eval()


class Perceptual(nn.Module):
    """A distance of pictures with the shape of LPIPS: squared differences of normed features of VGG16's stages."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        inputs, narrowest = 3, VGG16_CHANNELS[0][0]
        for number, stage in enumerate(VGG16_CHANNELS):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if number else []
            for channels in stage:
                outputs = channels // narrowest * width
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
                inputs = outputs
            self.stages.append(nn.Sequential(*layers))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, first_pm1: Tensor, second_pm1: Tensor) -> Tensor:
        """Returns distances [B] of pictures [B, 3, H, W] in [-1, 1]; H and W from 16."""
        x, y = first_pm1, second_pm1
        total = torch.zeros(len(x), device=x.device)
        for stage in self.stages:
            x, y = stage(x), stage(y)
            total = total + (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(dim=1).mean(dim=(1, 2))
        return total


def perceptual_of(size: Size, device: torch.device) -> Perceptual:
    """Returns the distance, frozen."""
    return seeded(lambda: Perceptual(size.vgg_width), SEED).to(device).eval().requires_grad_(False)
