"""Networks whose features the FID family compares, as named backends: uint8 pictures in, layers out.

A backend is a network with its resize, normalisation and rounding. Only the 2015 Inception weights score `FID`; what
any other network gives is `FD-<network>`. Only the published CLIP ViT-L/14-336 scores `CMMD`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast, get_args

import numpy as np
import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.fingerprint import file_sha256, fingerprint
from ovbench._base.lazy import require
from ovbench._base.names import lookup, unknown
from ovbench.encoders.base import Encoder, Tap, check_device_name
from ovbench.encoders.modeling.efficientnet import SHA256 as EFFICIENTNET_SHA256
from ovbench.encoders.modeling.frozen import check_device
from ovbench.encoders.registry import load_encoder, parse_encoder, with_options
from ovbench.harness.metrics.inception import INPUT_PX, LAYERS, NETWORK
from ovbench.harness.metrics.inception_weights import RANDOM, Precision, full_float32, load_inception
from ovbench.harness.metrics.resizing import RESIZES
from ovbench.harness.metrics.wardrobe import wardrobe_extractor

CMMD_TITLE = "FD-CLIP-L14-336"  # of a Fréchet distance in the space of CMMD


# Of all that turns a picture into features: raised when any of it is mended, so that nothing old is found in a cache.
EXTRACTION_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractorInfo:
    """All that decides a feature, and the name that a distance between such features may carry."""

    name: str  # of the backend
    network: str
    trained: bool  # False: seeded, untrained weights
    weights_sha256: str
    resize: str  # key of RESIZES
    quantisation: str  # whether the resized picture is rounded
    normalisation: str  # what is done to grey levels x
    size_px: int  # side that the network reads
    layers: Mapping[str, int]  # layer → width
    pool: str  # the layer of the Fréchet distance
    spatial: str | None = None  # the layer of sFID
    logits: str | None = None  # the layer of the inception score
    precision: Precision = "float32"
    value_change: float = 0.0  # of the pooled features, relative, against the network as it was published
    title: str  # FID, or FD-<network>

    @property
    def dim(self) -> int:
        """Width of the pooled features."""
        return self.layers[self.pool]

    def metric_name(self, metric: str = "FID") -> str:
        """Returns the name that a score may carry: `FID`, `sFID`, `IS`, `KID` for the 2015 weights alone.

        For any other network a Fréchet distance is `FD-<network>` (`FD-infinity-<network>`), and other metrics are
        `<metric>-<network>`. `CMMD` is the score of the published CLIP ViT-L/14-336 alone, and `CMMD-<network>` of any
        other.
        """
        network = "Inception" if self.title == "FID" else self.title.removeprefix("FD-")
        if metric == "CMMD":
            return metric if self.title == CMMD_TITLE else f"CMMD-{network}"
        if self.title == "FID":
            return metric
        return f"{metric.replace('FID', 'FD', 1) if metric.startswith('FID') else metric}-{network}"

    @property
    def convention(self) -> dict[str, Any]:
        """What must be equal for two sets of statistics to be comparable."""
        return {
            "network": self.network,
            "weights_sha256": self.weights_sha256,
            "resize": self.resize,
            "quantisation": self.quantisation,
            "normalisation": self.normalisation,
            "precision": self.precision,
        }

    def fingerprint(self) -> str:
        """Returns sha256 of all that can change a feature: the key of cached statistics."""
        fields = {key: value for key, value in asdict(self).items() if key not in ("value_change", "title")}
        return fingerprint({**fields, "version": EXTRACTION_VERSION})


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A backend that is ready to run."""

    info: ExtractorInfo
    device: torch.device
    run: Callable[[Tensor], Mapping[str, Tensor]] = field(repr=False)  # uint8 [B, 3, H, W] on the device → layers
    fixed_batch: bool = False  # the last, shorter batch is filled up, so that nothing is compiled twice
    concurrent: bool = True  # False: one pass at a time. Encoders read their blocks by hooks, which passes would share.
    _largest: list[int] = field(default_factory=list, repr=False)

    def extract(self, images_u8: np.ndarray | Tensor) -> dict[str, Tensor]:
        """Returns layer → float32 [B, D] on the device, of uint8 pictures [B, H, W, 3].

        Raises:
            ConfigError: The batch is no uint8 [B, H, W, 3], or is empty.
        """
        images = torch.from_numpy(np.ascontiguousarray(images_u8)) if isinstance(images_u8, np.ndarray) else images_u8
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
            raise ConfigError(
                f"pictures must be uint8 [B, H, W, 3], got {str(images.dtype).removeprefix('torch.')} "
                f"{list(images.shape)}",
                where=f"extractor {self.info.name}",
                fix="quantise first: pictures are scored as they are stored, in 8 bits",
            )
        count = len(images)
        if self.fixed_batch:
            self._largest[:] = [max([count, *self._largest])]
            missing = self._largest[0] - count
            images = torch.cat([images, images[:1].expand(missing, -1, -1, -1)]) if missing else images
        x = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        with torch.inference_mode(), full_float32(), torch.autocast(self.device.type, enabled=False):
            features = self.run(x)
        return {name: value[:count].float() for name, value in features.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    name: str
    weights: str | None
    device: torch.device
    precision: Precision
    compile: bool
    layers: tuple[str, ...] | None
    fast: bool
    resize: str | None
    centre: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _InceptionMode:
    """One implementation's way to the 2015 network."""

    resize: str
    centre: float = 128.0  # x → (x - centre) / centre


_INCEPTION: Mapping[str, _InceptionMode] = MappingProxyType(
    {
        "inception-tf": _InceptionMode(resize="tf1-bilinear"),
        "inception-pytorchfid": _InceptionMode(resize="torch-bilinear", centre=127.5),
        "inception-clean": _InceptionMode(resize="pil-bicubic"),
        "inception-torchmetrics": _InceptionMode(resize="torch-bilinear-antialias"),
    }
)


def _inception(request: _Request) -> Extractor:
    mode = _INCEPTION[request.name]
    resize_name = request.resize or mode.resize
    resize = lookup(RESIZES, resize_name, kind="resize", where="--resize")
    loaded = load_inception(request.weights, fast=request.fast, device=request.device, precision=request.precision)
    layers = request.layers or tuple(LAYERS)
    centre = mode.centre if request.centre is None else request.centre
    network: Any = torch.compile(loaded.network, dynamic=False) if request.compile else loaded.network
    dtype = loaded.network.fc.weight.dtype

    def run(images_u8: Tensor) -> Mapping[str, Tensor]:
        x = (resize(images_u8, INPUT_PX) - centre) / centre
        return network(x.to(dtype).contiguous(memory_format=torch.channels_last), layers)

    return Extractor(
        info=ExtractorInfo(
            name=request.name,
            network=NETWORK if loaded.trained else f"{NETWORK}, untrained",
            trained=loaded.trained,
            weights_sha256=loaded.sha256,
            resize=resize_name,
            quantisation="rounded to 8 bits after the resize" if resize_name.endswith("-u8") else "none",
            normalisation=f"(x - {centre:g}) / {centre:g}",
            size_px=INPUT_PX,
            layers={name: LAYERS[name] for name in layers},
            pool="2048",
            spatial="spatial_2023",
            logits="logits_unbiased",
            precision=loaded.precision,
            value_change=loaded.value_change,
            title="FID" if loaded.trained else "FD-UntrainedInception",
        ),
        device=request.device,
        run=run,
        fixed_batch=request.compile,
    )


def _one_form(request: _Request) -> None:
    if not request.fast:
        raise ConfigError(f"'{request.name}' has one form only", where="fast", fix="leave the option out")
    if request.compile:
        raise ConfigError(f"'{request.name}' is not compiled", where="--compile", fix="leave the option out")


def _encoder(spec: str, request: _Request) -> Encoder:
    """Returns one of ovbench's encoders at 224 pixels."""
    _one_form(request)
    if request.resize is not None:
        raise ConfigError(f"the resize of '{request.name}' is fixed", where="--resize", fix="leave the option out")
    if request.weights == RANDOM:
        spec += "?weights=random:0"
    elif request.weights is not None:
        spec += f":{Path(request.weights).expanduser().resolve()}"
    parsed = with_options(parse_encoder(spec), size="224", aspect="squash")
    return load_encoder(parsed, device=str(request.device), dtype=request.precision)


def _check_hub_cache(spec: str) -> None:
    """Refuses a network that is not in the hub's cache: a metric never fetches one unasked.

    Raises:
        DataError: It is not there.
    """
    variant = parse_encoder(spec).variant
    hub = require("huggingface_hub")
    for name in ("config.json", "model.safetensors"):
        if not isinstance(hub.try_to_load_from_cache(variant.weights, name, revision=variant.revision), str):
            raise DataError(
                f"the weights of {variant.title} are not on this machine: '{variant.weights}' at {variant.revision}",
                where="the hub's cache",
                fix="put config.json and model.safetensors of that commit into a folder and name it: --weights FOLDER; "
                f"or run: hf download {variant.weights} --revision {variant.revision}",
            )


def _only_layer(request: _Request, layer: str) -> None:
    for name in request.layers or ():
        if name != layer:
            raise unknown(f"layer of {request.name}", name, [layer], where="layers")


def _dinov2(request: _Request) -> Extractor:
    """FD-DINOv2 of dgm-eval: class token after the final norm, PIL bicubic straight to 224 x 224."""
    _only_layer(request, "class_token")
    if request.weights is None:
        _check_hub_cache("dinov2/large")
    encoder = _encoder("dinov2/large", request)
    info = encoder.info
    resize = RESIZES["pil-bicubic-u8"]
    # Only the hub's commit vouches for the weights: those of a folder can have been tuned further.
    published = request.weights is None and (info.dim, info.depth, info.patch_px) == (1024, 24, 14)

    def run(images_u8: Tensor) -> Mapping[str, Tensor]:
        found = encoder.features(resize(images_u8, 224) / 255, Tap(prefix=True))
        assert found.prefix is not None
        return {"class_token": found.prefix[:, 0]}

    return Extractor(
        info=ExtractorInfo(
            name=request.name,
            network="dinov2-l14" if published else f"dinov2, width {info.dim}, {info.depth} blocks",
            trained=info.random_seed is None,
            weights_sha256=info.weights_digest,
            resize="pil-bicubic-u8",
            quantisation="rounded to 8 bits after the resize",
            normalisation="(x / 255 - ImageNet mean) / ImageNet std",
            size_px=224,
            layers={"class_token": info.dim},
            pool="class_token",
            precision=request.precision,
            title="FD-DINOv2-L14" if published else "FD-OtherDINOv2",
        ),
        device=request.device,
        run=run,
        concurrent=False,
    )


def _efficientnet(request: _Request) -> Extractor:
    """FD-EfficientNetLite0: the offline network, torch bicubic with antialiasing to 224, clipped to 0…255."""
    _only_layer(request, "pool_1280")
    encoder = _encoder("efficientnet/lite0", request)
    info = encoder.info
    resize = RESIZES["torch-bicubic-antialias"]
    trained = info.random_seed is None
    # Without a file named, the package's own was loaded, whose digest the encoder has checked.
    digest = file_sha256(Path(request.weights)) if request.weights and trained else EFFICIENTNET_SHA256
    published = trained and digest == EFFICIENTNET_SHA256

    def run(images_u8: Tensor) -> Mapping[str, Tensor]:
        x = images_u8.float() if images_u8.shape[2:] == (224, 224) else resize(images_u8, 224)
        return {"pool_1280": encoder.features(x / 255).tokens.float().mean(dim=1)}

    return Extractor(
        info=ExtractorInfo(
            name=request.name,
            network="efficientnet-lite0" if trained else "efficientnet-lite0, untrained",
            trained=trained,
            weights_sha256=digest if trained else info.weights_digest,
            resize="torch-bicubic-antialias",
            quantisation="none",
            normalisation="(x - 127) / 128",
            size_px=224,
            layers={"pool_1280": info.dim},
            pool="pool_1280",
            precision=request.precision,
            title="FD-EfficientNetLite0" if published else "FD-OtherEfficientNetLite0",
        ),
        device=request.device,
        run=run,
        concurrent=False,
    )


def _clip(request: _Request) -> Extractor:
    """CMMD of Jayasumana et al.: projected image embeddings, read as their program reads pictures."""
    from ovbench.harness.metrics import clip_extractor  # it is made of this file's classes

    _one_form(request)
    _only_layer(request, clip_extractor.LAYER)
    return clip_extractor.load_clip_extractor(
        request.name,
        weights=request.weights,
        device=request.device,
        precision=request.precision,
        resize=request.resize or clip_extractor.RESIZE,
    )


EXTRACTORS: Mapping[str, Callable[[_Request], Extractor]] = MappingProxyType(
    {
        **dict.fromkeys(_INCEPTION, _inception),
        "dinov2-l14": _dinov2,
        "efficientnet-lite0": _efficientnet,
        "clip-l14-336": _clip,
        "wardrobe": wardrobe_extractor,
    }
)


def load_extractor(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    precision: str = "float32",
    compile: bool = False,
    layers: Sequence[str] | None = None,
    fast: bool = True,
    resize: str | None = None,
    centre: float | None = None,
) -> Extractor:
    """Returns a backend that is ready to run.

    Args:
        name: Of EXTRACTORS.
        weights: A local file or folder; None: ovbench's cache, torch hub's folder, or the network's package; `random`:
            seeded, untrained weights, whose scores carry a name of their own.
        device: `cpu`, `cuda` or `cuda:N`.
        precision: `float32` for a reported number, `bfloat16` for a quick look.
        compile: Compile the Inception network, which takes a minute and is worth it on a GPU.
        layers: Layers to return; None: all of the network. It stops at the deepest that is asked for.
        fast: The Inception network with folded batch norms; False: as it was published.
        resize: Another resize than the backend's own, for an audit of conventions; any for Inception, `torch-bicubic`
            for CLIP.
        centre: Another c of the normalisation (x - c) / c, likewise; Inception only.

    Raises:
        ConfigError: An unknown name, layer, resize, precision or device.
        DataError: The weights are absent, damaged or another network's.
        DependencyError: A package or the device is not there.
    """
    build = lookup(EXTRACTORS, name, kind="extractor", where="--extractor")
    if precision not in get_args(Precision):
        raise unknown("precision", precision, get_args(Precision), where="--precision")
    if name in _INCEPTION:
        for layer in layers or ():
            lookup(LAYERS, layer, kind=f"layer of {name}", where="layers")
    if layers is not None and not layers:
        raise ConfigError("no layer was asked for", where="layers", fix="name at least one")
    check_device_name(device)
    return build(
        _Request(
            name=name,
            weights=None if weights is None else str(weights),
            device=check_device(device),
            precision=cast(Precision, precision),
            compile=compile,
            layers=None if layers is None else tuple(layers),
            fast=fast,
            resize=resize,
            centre=centre,
        )
    )
