"""The adapter of every encoder whose network is OpenVision's ViT: on pixels, or behind a VAE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.fingerprint import fingerprint
from ovbench._base.paths import asset
from ovbench._base.seeding import derive
from ovbench.encoders.base import EncoderInfo, Features, LoadRequest, PreprocessSpec, Tap
from ovbench.encoders.modeling.frontend import load_tiny_vae
from ovbench.encoders.modeling.frozen import FrozenEncoder, check_device, check_images, weights_digest
from ovbench.encoders.modeling.vae_base import FrontEnd
from ovbench.encoders.modeling.vit import OpenVisionViT, ViTConfig, load_strict
from ovbench.encoders.modeling.weights_file import build_config, read_weights

ADAPTER_VERSION = 1
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TrunkEncoder(FrozenEncoder):
    """A frozen OpenVision ViT with an optional frozen VAE in front.

    Args:
        name: `family/variant`.
        vit: The trunk with its weights.
        vae: Module with `encode`, or None.
        device: Where it runs.
        dtype: Of the trunk; the VAE and all norms stay in float32.
    """

    def __init__(
        self,
        *,
        name: str,
        vit: OpenVisionViT,
        vae: FrontEnd | None,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.vit, self.vae = vit, vae
        self._dtype = dtype
        config = vit.config
        downsampling = 1 if vae is None else vae.downsampling
        side = config.image_size * downsampling
        digest = weights_digest(vit, vae)
        spec = PreprocessSpec(size=(side, side))
        identity = fingerprint(
            {
                "adapter": "trunk",
                "version": ADAPTER_VERSION,
                "architecture": asdict(config),
                "weights": digest,
                "vae": None if vae is None else vae.describe(),
                "range": "pm1",
                "dtype": str(dtype),
            }
        )
        info = EncoderInfo(
            name=name,
            adapter_version=ADAPTER_VERSION,
            input=spec,
            grid=(config.grid, config.grid),
            dim=config.width,
            depth=config.layers,
            num_prefix=1,
            patch_px=config.patch_size * downsampling,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            llm_tap=Tap(),
            latent_tap=Tap(norm="layernorm", eps=1e-6),
            num_params=sum(p.numel() for p in vit.parameters()),
            num_params_frontend=0 if vae is None else sum(p.numel() for p in vae.parameters()),
            weights_digest=digest,
            identity=identity,
        )
        self._seal(info, device)

    @torch.no_grad()
    def features(self, images_01: Tensor, tap: Tap | None = None) -> Features:
        """Runs the network; see `ovbench.encoders.base.Encoder.features`."""
        tap = tap or Tap()
        check_images(images_01, self._info.input.size)
        device = self.vit.class_embedding.device
        x = images_01.to(device, torch.float32) * 2.0 - 1.0
        if self.vae is not None:
            x = self.vae.encode(x)
        depth = self._info.depth
        with torch.autocast(device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            out = self.vit(x, keep_hidden=True)
        h = out.hidden[_layer_index(tap.layer, depth)]
        if tap.norm == "layernorm":
            h = F.layer_norm(h.float(), h.shape[-1:], eps=tap.eps if tap.eps is not None else self.vit.config.eps)
        elif tap.norm == "native" and tap.layer == "final" and not self.vit.config.final_ln_after_pool:
            h = self.vit.ln_post(h)
        return Features(
            tokens=h[:, 1:].to(self._dtype),
            prefix=h[:, :1].to(self._dtype) if tap.prefix else None,
            pooled=out.pooled,
            grid=self._info.grid,
            tap=tap,
        )

    def llm_tokens(self, images_01: Tensor, tap: Tap | None = None) -> Tensor:
        """Returns tokens [B, N, C]; by default the un-normalised h[L], as OpenVision publishes them."""
        features = self.features(images_01, tap)
        return features.tokens if features.prefix is None else torch.cat([features.prefix, features.tokens], dim=1)

    def latents(self, images_01: Tensor, tap: Tap | None = None, *, resize: bool = False) -> Tensor:
        """Returns float32 [B, C, h, w]; by default h[L] after a LayerNorm without affine, eps 1e-6."""
        del resize
        tokens = self.features(images_01, tap or Tap(norm="layernorm", eps=1e-6)).tokens
        rows, columns = self._info.grid
        return tokens.float().transpose(1, 2).reshape(len(tokens), -1, rows, columns).contiguous()


def _layer_index(layer: int | str, depth: int) -> int:
    if layer == "final":
        return depth
    index = int(layer) if int(layer) >= 0 else depth + 1 + int(layer)
    if not 0 <= index <= depth:
        raise ConfigError(f"the tap layer {layer} does not exist", where="tap", fix=f"use -{depth + 1} … {depth}")
    return index


def load_trunk(request: LoadRequest) -> TrunkEncoder:
    """Builds an encoder from embedded weights, from a file written by `ovbench pretrain`, or untrained.

    Raises:
        DataError: The weights are missing, damaged, or of another architecture.
    """
    device = check_device(request.device)
    variant = request.variant
    vae = load_tiny_vae(asset(variant.frontend)) if variant.frontend else None
    if variant.weights == "untrained":
        vit = untrained_trunk(int(request.options.get("seed", "0")))
    else:
        path = Path(request.source).expanduser() if request.source else asset(variant.weights)
        stored = read_weights(path)
        vit = _build(stored.config, stored.tensors, where=str(path))
        if stored.recipe not in (None, request.family):
            raise DataError(
                f"these weights were trained with the recipe '{stored.recipe}', not as '{request.family}'",
                where=str(path),
                fix=f"use --encoder {stored.recipe}/{variant.name}:{path}",
            )
        if vae is not None and stored.vae not in (None, weights_digest(vae)):
            raise DataError(
                f"these weights were trained behind another VAE than that of {request.family}/{variant.name}",
                where=str(path),
                fix="train them with the embedded VAE: leave --vae out of ovbench pretrain",
            )
    wanted = 3 if vae is None else vae.latent_channels
    if vit.config.in_channels != wanted:
        raise ConfigError(
            f"these weights read {vit.config.in_channels} channels, and {request.family}/{variant.name} gives {wanted}",
            where="--encoder",
            fix="name the family that the weights were trained for",
        )
    return TrunkEncoder(
        name=f"{request.family}/{variant.name}",
        vit=vit,
        vae=vae,
        device=device,
        dtype=_DTYPES[request.dtype],
    )


def _build(config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, where: str) -> OpenVisionViT:
    vit = OpenVisionViT(build_config(ViTConfig, config, where=where))
    load_strict(vit, tensors, where=where)
    return vit


def untrained_trunk(seed: int) -> OpenVisionViT:
    """Returns the miniature trunk on pixels with seeded random weights: the control that every encoder must beat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "random-encoder"))
        return OpenVisionViT(ViTConfig(image_size=64, patch_size=8, width=128, layers=4, head_width=32, embed_dim=128))
