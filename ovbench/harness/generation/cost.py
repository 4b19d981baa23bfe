"""Size of every network of generation, from configurations alone: operations, parameters, bytes. Needs no torch.

Operations are those of one forward pass of one image: matrix products, convolutions and attention, a
multiply-accumulate is 2. Norms, activations, softmax and positions are not counted, as is usual.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

from ovbench._base.errors import ConfigError
from ovbench._base.names import lookup, unknown
from ovbench.harness.generation.config import PRESETS, TIME_FREQUENCIES, DiTDHConfig, Stage2Config, mlp_width, preset
from ovbench.harness.generation.decoder_config import (
    DECODERS,
    DecoderConfig,
    DinoConfig,
    DiscriminatorConfig,
    decoder_config,
)
from ovbench.harness.generation.flops import forward_flops

NetworkConfig: TypeAlias = Stage2Config | DecoderConfig

# What scores pictures, by the name of the extractor. Counted by torch on the networks of `harness.metrics`:
# Inception-v3 on 299 x 299 (arXiv 1512.00567, of ADM's evaluation suite), the garment classifier on 32 x 32.
EXTRACTOR_FLOPS: Mapping[str, int] = MappingProxyType({"inception-tf": 11_426_464_960, "wardrobe": 25_511_680})
EXTRACTOR_FEATURES: Mapping[str, int] = MappingProxyType({"inception-tf": 2048, "wardrobe": 64})  # float32 per image

VGG16_PARAMS = 14_714_688  # of its convolutions, which is what LPIPS reads (arXiv 1409.1556, table 1, column D)
# Channels of its convolutions (the same table); pictures are halved between groups.
VGG16_CHANNELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

TRAINING_PASSES = 3  # operations of a training step in forward passes: forward, and twice as much backward
FROZEN_PASSES = 2  # of a network that learns nothing: forward, and backward to the input alone

TRAINED_BYTES = 4 + 4 + 8 + 4  # per parameter: float32 weight, gradient, AdamW's two moments, moving average
CHECKPOINT_BYTES = 4 + 8 + 4  # per parameter: weight, moments, moving average
WEIGHT_BYTES = 4


def decoder_flops(config: DecoderConfig) -> int:
    """Returns the operations of the ViT decoder's forward pass.

    The class token takes part, so attention sees one token more than there are patches (arXiv 2510.11690, section 4;
    github.com/bytetriper/RAE, src/stage1/decoders/decoder.py).
    """
    width, patches = config.width, config.num_patches
    tokens = patches + 1
    block = 2 * tokens * (4 * width * width + 2 * width * config.mlp_width) + 4 * tokens * tokens * width
    pixels = config.patch_px**2 * config.num_channels
    return 2 * patches * config.latent_dim * width + config.depth * block + 2 * tokens * width * pixels


def decoder_params(config: DecoderConfig) -> int:
    """Returns the decoder's parameters, its position table included."""
    width, hidden = config.width, config.mlp_width
    block = 4 * _linear(width, width) + _linear(width, hidden) + _linear(hidden, width) + 4 * width
    tokens = (config.num_patches + 2) * width  # positions of the patches and the class token, and the token itself
    output = _linear(width, config.patch_px**2 * config.num_channels)
    return _linear(config.latent_dim, width) + tokens + config.depth * block + 2 * width + output


def network_params(config: Stage2Config) -> int:
    """Returns the parameters of a diffusion transformer, position table and time frequencies included."""
    patch_in = config.patch_size**2 * config.in_channels
    output = config.patch_size**2 * config.out_channels
    parts = (
        tuple(zip(config.hidden_size, config.depth, config.num_heads, strict=True))
        if isinstance(config, DiTDHConfig)
        else ((config.hidden_size, config.depth, config.num_heads),)
    )
    narrow, wide = parts[0][0], parts[-1][0]
    blocks = sum(depth * _block_params(config, width, heads) for width, depth, heads in parts)
    time = TIME_FREQUENCIES + _linear(2 * TIME_FREQUENCIES, narrow) + _linear(narrow, narrow)
    labels = (config.num_classes + config.has_null_label) * narrow
    positions = narrow * config.num_tokens if getattr(config, "use_pos_embed", True) else 0
    embedding = sum(_linear(patch_in, width) for width, _, _ in parts)
    projection = _linear(narrow, wide) if narrow != wide else 0
    final = (wide if config.use_rmsnorm else 0) + _linear(wide, output) + _linear(wide, 2 * wide)
    return blocks + time + labels + positions + embedding + projection + final


def _block_params(config: Stage2Config, width: int, heads: int) -> int:
    hidden = mlp_width(width, config.mlp_ratio, swiglu=config.use_swiglu)
    mlp = _linear(width, (2 if config.use_swiglu else 1) * hidden) + _linear(hidden, width)
    norms = 2 * width if config.use_rmsnorm else 0
    # Norms of queries and keys: RMSNorm has a weight, LayerNorm a weight and a bias.
    qk = 2 * (width // heads) * (1 if config.use_rmsnorm else 2) if config.use_qknorm else 0
    return norms + _linear(width, 3 * width) + qk + _linear(width, width) + mlp + _linear(width, 6 * width)


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def vgg16_flops(image_px: int) -> int:
    """Returns the operations of VGG16's convolutions, the network of LPIPS, on one square picture.

    Source of the architecture: arXiv 1409.1556, table 1, column D. At 256 px: 40.1 GFLOP.
    """
    side, channels, total = image_px, 3, 0
    for group in VGG16_CHANNELS:
        for width in group:
            total += 2 * 9 * channels * width * side * side
            channels = width
        side //= 2
    return total


def dino_flops(config: DinoConfig | None = None) -> int:
    """Returns the operations of the discriminator's frozen backbone; DINO ViT-S/8 at 224 px (default): 44.8 GFLOP."""
    config = config or DinoConfig()
    width, patches = config.width, config.grid**2
    tokens, hidden = patches + 1, round(config.width * config.mlp_ratio)
    block = 2 * tokens * (4 * width * width + 2 * width * hidden) + 4 * tokens * tokens * width
    return 2 * patches * 3 * config.patch_px**2 * width + config.depth * block


def dino_params(config: DinoConfig | None = None) -> int:
    """Returns the parameters of the discriminator's frozen backbone."""
    config = config or DinoConfig()
    width, hidden = config.width, round(config.width * config.mlp_ratio)
    block = _linear(width, 3 * width) + _linear(width, width) + _linear(width, hidden) + _linear(hidden, width)
    tokens = (config.grid**2 + 2) * width  # positions and the class token
    return _linear(3 * config.patch_px**2, width) + tokens + config.depth * (block + 4 * width) + 2 * width


def heads_flops(config: DiscriminatorConfig | None = None) -> int:
    """Returns the operations of the discriminator's trained heads; of the default ones 11.6 GFLOP."""
    config = config or DiscriminatorConfig()
    width, tokens = config.dino.width, config.dino.grid**2
    return config.num_heads * 2 * tokens * (width * width * (1 + config.kernel) + width)


def heads_params(config: DiscriminatorConfig | None = None) -> int:
    """Returns the parameters of the discriminator's trained heads."""
    config = config or DiscriminatorConfig()
    width = config.dino.width
    return config.num_heads * ((1 + config.kernel) * width * width + 2 * width + 4 * width + _linear(width, 1))


def training_bytes(trained: int, frozen: int = 0) -> int:
    """Returns the GPU memory that a training holds without activations, in bytes.

    Args:
        trained: Parameters under AdamW with a moving average, all in float32.
        frozen: Parameters that only run forward, in float32.
    """
    return trained * TRAINED_BYTES + frozen * WEIGHT_BYTES


def picture_bytes(count: int, side_px: int) -> int:
    """Returns the size of `count` square RGB pictures as uint8."""
    return count * side_px * side_px * 3


def latent_bytes(count: int, shape: tuple[int, int, int], dtype: Literal["bfloat16", "float32"], *, flips: bool) -> int:
    """Returns the size of `count` stored latents [C, h, w]; with flips each is there twice, as it is and mirrored."""
    channels, height, width = shape
    return count * (2 if flips else 1) * channels * height * width * (4 if dtype == "float32" else 2)


def network_by_name(
    name: str, *, channels: int, grid: int, patch_px: int = 16, where: str = "--network"
) -> NetworkConfig:
    """Returns a diffusion transformer or a decoder by name, for latents [channels, grid, grid].

    Args:
        name: One of `PRESETS` or of `DECODERS`, e.g. `dit-dh-xl` or `vit-xl`.
        channels: Of the latents.
        grid: Cells along a side.
        patch_px: Pixels along a side that a decoder makes of one token.
        where: The flag, for messages.

    Raises:
        ConfigError: No such name, or a number that cannot be used.
    """
    for flag, value in (("--channels", channels), ("--grid", grid), ("--patch-px", patch_px)):
        if value < 1:
            raise ConfigError(f"it must be 1 or more, got {value}", where=flag)
    if name in DECODERS:
        return decoder_config(name, latent_dim=channels, num_patches=grid * grid, patch_px=patch_px)
    if name not in PRESETS:
        raise unknown("network", name, {**PRESETS, **DECODERS}, where=where)
    return preset(name, where=where, in_channels=channels, input_size=grid)


def flops_of(config: NetworkConfig) -> int:
    """Returns the operations of a decoder's or diffusion transformer's forward pass."""
    return decoder_flops(config) if isinstance(config, DecoderConfig) else forward_flops(config).total


def params_of(config: NetworkConfig) -> int:
    """Returns the parameters of a decoder or diffusion transformer."""
    return decoder_params(config) if isinstance(config, DecoderConfig) else network_params(config)


def extractor_flops(name: str) -> int:
    """Returns the operations of a network that scores pictures.

    Raises:
        ConfigError: There is no count of it.
    """
    return lookup(EXTRACTOR_FLOPS, name, kind="extractor", where="task")
