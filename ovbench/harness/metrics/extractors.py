"""Networks whose features the FID family compares, as named backends: uint8 pictures in, layers out.

A backend is a network with its resize, normalisation and rounding. Only the 2015 Inception weights score `FID`; what
any other network gives is `FD-<network>`. Only the published CLIP ViT-L/14-336 scores `CMMD`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast, get_args

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.fingerprint import file_sha256
from ovbench._base.lazy import require
from ovbench._base.names import lookup, unknown
from ovbench.encoders.base import Encoder, Tap, check_device_name
from ovbench.encoders.modeling.efficientnet import SHA256 as EFFICIENTNET_SHA256
from ovbench.encoders.modeling.frozen import check_device
from ovbench.encoders.registry import load_encoder, parse_encoder, with_options
from ovbench.harness.metrics import clip_extractor
from ovbench.harness.metrics.extractor_base import Extractor, ExtractorInfo, ExtractorRequest
from ovbench.harness.metrics.inception import INPUT_PX, LAYERS, NETWORK
from ovbench.harness.metrics.inception_weights import RANDOM, Precision, load_inception
from ovbench.harness.metrics.resizing import RESIZES
from ovbench.harness.metrics.wardrobe import wardrobe_extractor


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


def _inception(request: ExtractorRequest) -> Extractor:
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


def _encoder(spec: str, request: ExtractorRequest) -> Encoder:
    """Returns one of ovbench's encoders at 224 pixels."""
    request.refuse_other_forms()
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


def _only_layer(request: ExtractorRequest, layer: str) -> None:
    for name in request.layers or ():
        if name != layer:
            raise unknown(f"layer of {request.name}", name, [layer], where="layers")


def _dinov2(request: ExtractorRequest) -> Extractor:
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


def _efficientnet(request: ExtractorRequest) -> Extractor:
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


def _clip(request: ExtractorRequest) -> Extractor:
    """CMMD of Jayasumana et al.: projected image embeddings, read as their program reads pictures."""
    request.refuse_other_forms()
    _only_layer(request, clip_extractor.LAYER)
    return clip_extractor.load_clip_extractor(
        request.name,
        weights=request.weights,
        device=request.device,
        precision=request.precision,
        resize=request.resize or clip_extractor.RESIZE,
    )


EXTRACTORS: Mapping[str, Callable[[ExtractorRequest], Extractor]] = MappingProxyType(
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
        ExtractorRequest(
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
