"""The garment classifier behind `FD-wardrobe`, the mini protocol's own Fréchet score, which is never called FID.

A small network that reads the 32 x 32 picture of one garment. It scores, and scores alone: a loss that compared its
features would train the model under test towards the judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.fingerprint import file_sha256
from ovbench._base.names import lookup
from ovbench._base.paths import asset
from ovbench.encoders.modeling.frozen import weights_digest
from ovbench.encoders.modeling.sources import seeded
from ovbench.encoders.modeling.vit import load_strict
from ovbench.encoders.modeling.weights_file import build_config, read_weights
from ovbench.harness.metrics.extractor_base import Extractor, ExtractorInfo, ExtractorRequest
from ovbench.harness.metrics.inception_weights import RANDOM
from ovbench.harness.metrics.resizing import RESIZES
from ovbench.tasks.world.scene import CELL_PX, COLOURS, GARMENTS

ASSET = "metrics/wardrobe.safetensors"
NUM_FEATURES = 64
_POOL = "features_64"
_RESIZE = "torch-bicubic-antialias"


@dataclass(frozen=True, kw_only=True, slots=True)
class WardrobeConfig:
    """Architecture of the garment classifier, and what its outputs stand for."""

    stem_width: int = 24  # channels at 32 x 32
    width: int = 48  # channels at 16 x 16
    garments: Sequence[str] = GARMENTS  # in the order of the garment logits
    tints: Sequence[str] = COLOURS  # in the order of the tint logits


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What the classifier makes of B pictures, in float32."""

    features: Tensor  # [B, 64], 0 or more: the layer of the Fréchet distance
    garment_logits: Tensor  # [B, 8]
    tint_logits: Tensor  # [B, 6]


def _convolution(channels_in: int, channels_out: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU()]


class Wardrobe(nn.Module):
    """Five convolutions, the mean over positions, and two linear heads: garment and tint. 0.1 M parameters."""

    def __init__(self, config: WardrobeConfig) -> None:
        super().__init__()
        self.config = config
        stem, width = config.stem_width, config.width
        self.trunk = nn.Sequential(
            *_convolution(3, stem),
            *_convolution(stem, width, stride=2),
            *_convolution(width, width),
            *_convolution(width, NUM_FEATURES, stride=2),
            *_convolution(NUM_FEATURES, NUM_FEATURES),
        )
        self.garment = nn.Linear(NUM_FEATURES, len(config.garments))
        self.tint = nn.Linear(NUM_FEATURES, len(config.tints))

    def forward(self, images_pm1: Tensor) -> Reading:
        """Reads pictures [B, 3, 32, 32] in [-1, 1], see `to_input`."""
        features = self.trunk(images_pm1).float().mean(dim=(2, 3))  # [B, 64]
        with torch.autocast(features.device.type, enabled=False):
            rows = features.to(self.garment.weight.dtype)
            return Reading(
                features=features, garment_logits=self.garment(rows).float(), tint_logits=self.tint(rows).float()
            )


def to_input(images: Tensor) -> Tensor:
    """Turns pictures [B, 3, H, W] into what the classifier reads: float32 [B, 3, 32, 32] in [-1, 1].

    The pictures are grey levels, uint8 or floating point in 0…255; the extractor passes uint8.

    A picture of another size is resized to 32 x 32, squashed where it is no square, by torch's bicubic kernel with
    antialiasing; grey levels are clipped to 0…255 and not rounded. Then (x - 127.5) / 127.5.

    Contract: made for one garment in one cell. A 64 x 64 scene is read as a whole, shrunk to half: up to four garments
    of 14 pixels, which the classifier was never shown. Such a distance is a number, but not the mini protocol's.
    """
    same = tuple(images.shape[2:]) == (CELL_PX, CELL_PX)
    x = images.float() if same else RESIZES[_RESIZE](images, CELL_PX)
    return (x - 127.5) / 127.5


def load_wardrobe(path: Path) -> Wardrobe:
    """Returns the classifier of a weights file, in eval mode and without gradients.

    Raises:
        DataError: The file is missing, damaged or another network's, or its classes are not those of the world.
    """
    stored = read_weights(path)
    config = build_config(WardrobeConfig, stored.config, where=str(path))
    for kind, found, wanted in (("garments", config.garments, GARMENTS), ("tints", config.tints, COLOURS)):
        if tuple(found) != wanted:
            raise DataError(
                f"'{path.name}' tells other {kind} apart: {', '.join(found)}",
                where=str(path),
                fix=f"train it on this world, which has {', '.join(wanted)}: ovbench pretrain --recipe wardrobe",
            )
    network = Wardrobe(config)
    load_strict(network, stored.tensors, where=str(path))
    return network.eval().requires_grad_(False)


def wardrobe_extractor(request: ExtractorRequest) -> Extractor:
    """FD-wardrobe: 64 features of the embedded garment classifier, at 32 x 32 (see `to_input`).

    The layer `logits` holds the garment logits [B, 8] in the order of GARMENTS, so that the class of a generated
    picture can be read back. There is no inception score: its name belongs to one classifier of a thousand classes.

    Raises:
        ConfigError: An option that this network does not have, or an unknown layer.
        DataError: The weights cannot be used.
    """
    widths = {_POOL: NUM_FEATURES, "logits": len(GARMENTS)}
    layers = request.layers or tuple(widths)
    for layer in layers:
        lookup(widths, layer, kind=f"layer of {request.name}", where="layers")
    request.refuse_other_forms()
    if request.resize is not None:
        raise ConfigError(f"'{request.name}' has a fixed resize", where="--resize", fix="leave the option out")
    trained = request.weights != RANDOM
    if trained:
        path = Path(request.weights).expanduser() if request.weights else asset(ASSET)
        network, digest = load_wardrobe(path), file_sha256(path)
        title = "FD-wardrobe" if digest == file_sha256(asset(ASSET)) else "FD-OtherWardrobe"
    else:
        network = seeded(lambda: Wardrobe(WardrobeConfig()), 0).eval().requires_grad_(False)
        digest, title = weights_digest(network), "FD-UntrainedWardrobe"
    dtype = torch.bfloat16 if request.precision == "bfloat16" else torch.float32
    network = network.to(request.device, dtype)

    def run(images_u8: Tensor) -> Mapping[str, Tensor]:
        reading = network(to_input(images_u8).to(dtype))
        found = {_POOL: reading.features, "logits": reading.garment_logits}
        return {layer: found[layer] for layer in layers}

    return Extractor(
        info=ExtractorInfo(
            name=request.name,
            network="wardrobe" if trained else "wardrobe, untrained",
            trained=trained,
            weights_sha256=digest,
            resize=_RESIZE,
            quantisation="none",
            normalisation="(x - 127.5) / 127.5",
            size_px=CELL_PX,
            layers={layer: widths[layer] for layer in layers},
            pool=_POOL,
            precision=request.precision,
            title=title,
        ),
        device=request.device,
        run=run,
    )
