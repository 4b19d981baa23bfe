"""OpenVision encoders: the ViT of `vit.py` on pixels or behind a VAE, embedded, released, or untrained."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.paths import asset
from ovbench.encoders.base import LoadRequest, Normalisation, PreprocessSpec, Tap
from ovbench.encoders.modeling.frontend import diffusers_frontend, load_tiny_vae
from ovbench.encoders.modeling.frozen import weights_digest
from ovbench.encoders.modeling.reconstruction_decoder import (
    ReconstructionDecoder,
    corner_rows,
    load_reconstruction_decoder,
)
from ovbench.encoders.modeling.sources import OPEN_CLIP_WEIGHTS, find_file, locate, read_json_file, read_state, seeded
from ovbench.encoders.modeling.tokens import Network, TokenEncoder, unchanged
from ovbench.encoders.modeling.vae_base import FrontEnd
from ovbench.encoders.modeling.vit import (
    OpenVisionViT,
    ViTConfig,
    load_strict,
    read_open_clip_config,
    strip_visual_prefix,
)
from ovbench.encoders.modeling.weights_file import build_config, read_weights
from ovbench.encoders.preprocess import HALF, as_asked
from ovbench.encoders.processor_json import read_open_clip_preprocess

log = logging.getLogger(__name__)
ADAPTER = ("openvision", 2)


def openvision_encoder(
    request: LoadRequest,
    vit: OpenVisionViT,
    vae: FrontEnd | None,
    *,
    normalisation: Normalisation,
    input: PreprocessSpec | None = None,
    decoder: ReconstructionDecoder | None = None,
) -> TokenEncoder:
    """Wraps a trunk: on pixels, or on the latents of a VAE.

    Args:
        request: What is asked for.
        vit: The trunk.
        vae: In front of it; None: the trunk reads pixels.
        normalisation: Of pixels in [0, 1].
        input: How pictures become the input; None: squashed to the trunk's size. Its size is the trunk's anyway.
        decoder: From the trunk's un-normed tokens back to what it reads. A generator then gets those tokens, whatever
            the variant says.

    Raises:
        ConfigError: The trunk reads another number of channels than it is given.
    """
    config = vit.config
    wanted = 3 if vae is None else vae.latent_channels
    if config.in_channels != wanted:
        raise ConfigError(
            f"these weights read {config.in_channels} channels, and {request.name} gives {wanted}",
            where="--encoder",
            fix="name the family that the weights were trained for",
        )
    side = config.image_size * (1 if vae is None else vae.downsampling)
    if request.size is not None and request.size != side:
        by_name = f", or ask for interpolated positions by name: size={request.size}&positions=bicubic"
        raise ConfigError(
            f"{request.name} reads {side} x {side} pixels, and {request.size} were asked for",
            where="--encoder …?size=",
            fix=f"leave it out{by_name if request.variant.origin == 'hub' else ''}",
        )
    spec = PreprocessSpec(size=(side, side)) if input is None else replace(input, size=(side, side))
    spec = as_asked(spec, request, normalisation.mean)
    tokens_normed = not config.final_ln_after_pool
    architecture = dataclasses.asdict(config)
    if decoder is not None:
        request = replace(request, variant=replace(request.variant, latent_tap=Tap(norm="none")))
        architecture["decoder"] = {"layers": decoder.layers}
    return TokenEncoder.of(
        request,
        network=Network(
            model=vit,
            blocks=tuple(vit.transformer.resblocks),
            run=lambda x: vit(x).pooled,
            dim=config.width,
            grid=(config.grid, config.grid),
            num_prefix=1,
            publish=vit.ln_post if tokens_normed else unchanged,
            eps=config.eps,
            frontend=vae,
            decoder=decoder,
            architecture=architecture,
        ),
        input=spec,
        normalisation=normalisation,
        adapter=ADAPTER,
    )


def load_trunk(request: LoadRequest) -> TokenEncoder:
    """Builds a miniature encoder: embedded weights, a file written by `ovbench pretrain`, or untrained.

    Raises:
        ConfigError: An option has no effect on it.
        DataError: The weights are missing, damaged, of another architecture, or do not belong together.
    """
    variant = request.variant
    for option in request.options:
        if option not in (("seed", "decoder") if variant.frontend else ("seed",)):
            raise ConfigError(
                f"the option '{option}' has no effect on {request.name}",
                where="--encoder",
                fix=f"leave it out, or name released weights, e.g. {request.family}/VARIANT:/path",
            )
    if request.source and Path(request.source).is_dir():
        raise DataError(
            f"'{Path(request.source).name}' is a folder, and {request.name} reads one file of `ovbench pretrain`",
            where=request.source,
            fix=f"name the variant that the folder holds: {request.family}/VARIANT:{request.source}",
        )
    vae = load_tiny_vae(asset(variant.frontend)) if variant.frontend else None
    if variant.origin == "untrained":
        seed = int(request.options.get("seed", "0")) if request.random_seed is None else request.random_seed
        request = replace(request, random_seed=seed)
        vit = untrained_trunk(seed)
    else:
        path = Path(request.source) if request.source else asset(variant.weights)
        stored = read_weights(path)
        config = build_config(ViTConfig, stored.config, where=str(path))
        if stored.recipe not in (None, request.family):
            raise DataError(
                f"these weights were trained with the recipe '{stored.recipe}', not as '{request.family}'",
                where=str(path),
                fix=f"use --encoder {stored.recipe}/{variant.name}:{path}",
            )
        if vae is not None and stored.vae not in (None, weights_digest(vae)):
            raise DataError(
                f"these weights were trained behind another VAE than that of {request.name}",
                where=str(path),
                fix="train them with the embedded VAE: leave --vae out of ovbench pretrain",
            )
        if request.random_seed is None:
            vit = OpenVisionViT(config)
            load_strict(vit, stored.tensors, where=str(path))
        else:
            vit = seeded(lambda: OpenVisionViT(config), request.random_seed)
    whole, vit = vit, _corner(vit, request, 1 if vae is None else vae.downsampling)
    decoder = None
    if vae is not None and "decoder" in request.options:
        path = Path(request.options["decoder"]).expanduser()
        decoder = load_reconstruction_decoder(
            path, trunk=whole, vae=vae, recipe=request.family, random_seed=request.random_seed
        )
        if vit is not whole:
            decoder = decoder.corner(vit.config.image_size)
    return openvision_encoder(request, vit, vae, normalisation=HALF, decoder=decoder)


def _corner(vit: OpenVisionViT, request: LoadRequest, downsampling: int) -> OpenVisionViT:
    """Returns the trunk for smaller pictures: their tokens take the positions of the upper left corner, unchanged.

    The miniatures were trained on single quadrants too, with the positions of that quadrant, so a quarter of a scene is
    a picture that they know (docs/mini-weights.md).

    Raises:
        ConfigError: The side asked for is no whole number of patches. A larger one is refused by the caller.
    """
    patch = vit.config.patch_size * downsampling
    side = vit.config.image_size * downsampling
    if request.size is None or request.size >= side:
        return vit
    if request.size % patch or request.size < patch:
        raise ConfigError(
            f"{request.size} pixels are no whole number of {patch}-pixel patches",
            where="--encoder …?size=",
            fix=f"use a multiple of {patch}, at most {side}",
        )
    other = OpenVisionViT(replace(vit.config, image_size=request.size // downsampling))
    grid = vit.config.grid
    state = dict(vit.state_dict())
    table = state["positional_embedding"]
    state["positional_embedding"] = torch.cat([table[:1], table[1 + corner_rows(grid, other.config.grid)]])
    other.load_state_dict(state)
    return other


def load_released(request: LoadRequest) -> TokenEncoder:
    """Builds an OpenVision 1, 2 or 3 encoder from its released layout, or untrained.

    The layout is a folder with `open_clip_config.json` and `open_clip_model.safetensors` or
    `open_clip_pytorch_model.bin` (github UCSC-VLAA/OpenVision,
    src/convert_upload/open_clip/factory.py, commit 6c24e45).

    Raises:
        ConfigError: An option is wrong.
        DataError: Files are missing or damaged, or the weights do not fit the configuration.
    """
    variant = request.variant
    supplied = request.flag("final_ln_after_pool")
    folder: Path | None = None
    if request.random_seed is not None and request.source is None:
        document, where = {"model_cfg": dict(variant.architecture)}, request.name
    else:
        folder = locate(request, weights=OPEN_CLIP_WEIGHTS)
        if not folder.is_dir():
            raise DataError(
                f"'{folder.name}' is no folder", where=str(folder.parent), fix="name a folder in open_clip's layout"
            )
        path = folder / "open_clip_config.json"
        document, where = read_json_file(path, fix="name a folder in open_clip's layout"), str(path)
    config = read_open_clip_config(document, where=where, final_ln_after_pool=supplied)
    if folder is None or request.random_seed is not None:
        vit = seeded(lambda: OpenVisionViT(config), request.random_seed or 0)
    else:
        vit = OpenVisionViT(config)
        weights = find_file(folder, OPEN_CLIP_WEIGHTS)
        load_strict(vit, strip_visual_prefix(read_state(weights)), where=str(weights))
    vae = None
    if variant.frontend:
        vae = diffusers_frontend(request, latent_shift=bool(request.flag("latent_shift")))
    spec, normalisation = _preprocessing(document, request, config.image_size, behind_vae=vae is not None, where=where)
    vit = _resized(vit, request, 1 if vae is None else vae.downsampling)
    return openvision_encoder(request, vit, vae, normalisation=normalisation, input=spec)


def _preprocessing(
    document: Mapping[str, Any], request: LoadRequest, image_size: int, *, behind_vae: bool, where: str
) -> tuple[PreprocessSpec, Normalisation]:
    """Returns what `preprocess_cfg` says, and the variant's where it is silent, as in OpenVision 2's files.

    Trap: open_clip's own defaults are CLIP's, and OpenVision was not trained with them. Behind a VAE the sizes and the
    values of the file are not those of the pixels, which go into the VAE in [-1, 1].
    """
    default = request.variant.input
    assert default is not None, "a released OpenVision variant states how its pictures are prepared"
    values = HALF if behind_vae else request.variant.normalisation
    assert values is not None, "an OpenVision variant on pixels states its normalisation"
    stated = document.get("preprocess_cfg")
    if stated is None:
        return default, values
    if not isinstance(stated, Mapping):
        raise DataError("preprocess_cfg is no mapping", where=where)
    stated = {key: value for key, value in stated.items() if value is not None}
    if behind_vae:
        if {"mean", "std"} & set(stated):
            log.info("%s: mean and std of preprocess_cfg are not used, since its VAE reads [-1, 1]", request.name)
        stated = {key: value for key, value in stated.items() if key not in ("size", "mean", "std")}
    elif len({"mean", "std"} & set(stated)) == 1:
        raise DataError("preprocess_cfg gives one of mean and std without the other", where=where)
    processor = read_open_clip_preprocess(
        {
            "interpolation": default.resample,
            "resize_mode": "squash",
            "mean": list(values.mean),
            "std": list(values.std),
            **stated,
        },
        image_size,
        where=f"{where}, preprocess_cfg",
    )
    return processor.spec, processor.normalisation


def _resized(vit: OpenVisionViT, request: LoadRequest, downsampling: int) -> OpenVisionViT:
    """Returns the trunk for another input size with interpolated positions, where they were asked for by name."""
    how = request.options.get("positions", "stored")
    if how not in ("stored", "bicubic"):
        raise ConfigError(
            f"the option 'positions' cannot be '{how}'",
            where="--encoder",
            fix="use positions=stored or positions=bicubic",
        )
    if how == "stored":
        return vit
    if request.size is None:
        raise ConfigError("positions=bicubic needs a size", where="--encoder", fix="add size=PIXELS")
    if request.size == vit.config.image_size * downsampling:
        return vit
    cells, patch = request.size // downsampling, vit.config.patch_size
    if request.size % downsampling or cells % patch:
        raise ConfigError(
            f"{request.size} pixels are no whole number of {patch * downsampling}-pixel patches",
            where="--encoder …?size=",
            fix=f"use a multiple of {patch * downsampling}",
        )
    other = OpenVisionViT(replace(vit.config, image_size=cells))
    state = dict(vit.state_dict())
    state["positional_embedding"] = interpolate_positions(state["positional_embedding"], other.config.grid)
    other.load_state_dict(state)
    return other


def interpolate_positions(table: Tensor, grid: int) -> Tensor:
    """Resizes a position table [1 + n², C] to [1 + grid², C]: bicubic, antialiased, the class token's row untouched."""
    side = round((len(table) - 1) ** 0.5)
    maps = table[1:].float().T.reshape(1, -1, side, side)
    resized = F.interpolate(maps, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:1], resized[0].flatten(1).T.to(table.dtype)])


def untrained_trunk(seed: int) -> OpenVisionViT:
    """Returns the miniature trunk on pixels with seeded random weights: the control that every encoder must beat."""
    config = ViTConfig(image_size=64, patch_size=8, width=128, layers=4, head_width=32, embed_dim=128)
    return seeded(lambda: OpenVisionViT(config), seed)
