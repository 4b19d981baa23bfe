"""CLIP's projected image embeddings as a backend: the space of CMMD, and of the Fréchet distance FD-CLIP-L14-336.

Jayasumana et al., Rethinking FID (arXiv:2401.09603), section 4: CLIP ViT-L/14 at 336 pixels. Reference code:
google-research/google-research `cmmd/` and its port sayakpaul/cmmd-pytorch, read at 49fb717.

Both read a picture file as the square in its centre, resized to 336 by PIL's bicubic kernel, which antialiases and
rounds to 8 bits (`io_util.py`); the port's second resize, bicubic without antialiasing (`embedding.py`), finds 336
pixels and changes nothing. So the default here is `square-pil-bicubic-u8`, which gives the printed scores, and
`torch-bicubic` is what `embed` alone does with pictures of another size: it does not clip, and it squashes what is no
square.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovbench._base.errors import DataError
from ovbench._base.fingerprint import file_sha256
from ovbench._base.lazy import require
from ovbench._base.names import unknown
from ovbench.encoders.base import LoadRequest, Normalisation, Variant
from ovbench.encoders.modeling.frontend import freeze
from ovbench.encoders.modeling.frozen import DTYPES, weights_digest
from ovbench.encoders.modeling.hf import ARCHITECTURES, choose_architecture, tower_config
from ovbench.encoders.modeling.hf_inputs import is_published, preprocessing
from ovbench.encoders.modeling.hf_load import build_random, fill, quiet, read_fields, read_weights_folder
from ovbench.encoders.modeling.sources import hub_folder, nothing_fetched
from ovbench.encoders.preprocess import OPENAI_CLIP
from ovbench.encoders.registry import parse_encoder
from ovbench.harness.metrics.extractor_base import CMMD_TITLE, Extractor, ExtractorInfo
from ovbench.harness.metrics.inception_weights import RANDOM, Precision
from ovbench.harness.metrics.resizing import RESIZES

LAYER = "image_embeds"
RESIZE = "square-pil-bicubic-u8"
WEIGHTS_FILE = "pytorch_model.bin"
WEIGHTS_SHA256 = "c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801"  # of the hub's commit in clip.py
_RESIZES = (RESIZE, "torch-bicubic")
_PROJECTION = "visual_projection.weight"
_OTHER_PARTS = ("text_model.", "text_projection.", "logit_scale")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tower:
    model: torch.nn.Module  # transformers' CLIPVisionModelWithProjection
    config: Any
    normalisation: Normalisation
    trained: bool
    published: bool


def load_clip_extractor(
    name: str, *, weights: str | None, device: torch.device, precision: Precision, resize: str
) -> Extractor:
    """Returns CLIP's vision tower with its projection; layer `image_embeds` [B, E], not scaled to length 1.

    `cmmd` scales the embeddings itself; a Fréchet distance takes them as they are.

    Args:
        name: Of the backend.
        weights: A folder in transformers' layout; None: the hub's cache, at the commit that ovbench pins; `random`:
            seeded, untrained weights of the published architecture.
        device: Where it runs.
        precision: `float32` for a reported number.
        resize: `square-pil-bicubic-u8` or `torch-bicubic`.

    Raises:
        ConfigError: Another resize.
        DataError: The weights are absent, damaged, of another architecture, or lack the projection.
    """
    if resize not in _RESIZES:
        raise unknown(f"resize of {name}", resize, _RESIZES, where="--resize")
    variant = parse_encoder("clip/l14-336").variant
    transformers = require("transformers", purpose=f"the extractor {name}")
    with quiet(transformers):
        tower = _untrained(transformers, variant) if weights == RANDOM else _trained(transformers, variant, weights)
    config, size_px, change = tower.config, int(tower.config.image_size), RESIZES[resize]
    digest = weights_digest(tower.model)
    model: Any = freeze(tower.model).to(device, dtype := DTYPES[precision])
    mean, std = (torch.tensor(part, device=device).view(1, 3, 1, 1) for part in tower.normalisation)

    def run(images_u8: Tensor) -> Mapping[str, Tensor]:
        x = (change(images_u8, size_px) / 255 - mean) / std
        return {LAYER: model(pixel_values=x.to(dtype)).image_embeds}

    network = f"clip, width {config.hidden_size}, {config.num_hidden_layers} blocks, {size_px} px"
    if not tower.trained:
        network += ", untrained"
    return Extractor(
        info=ExtractorInfo(
            name=name,
            network="clip-l14-336" if tower.published else network,
            trained=tower.trained,
            weights_sha256=digest,
            resize=resize,
            quantisation="rounded to 8 bits after the resize" if resize.endswith("-u8") else "none",
            normalisation=_describe(tower.normalisation),
            size_px=size_px,
            layers={LAYER: int(config.projection_dim)},
            pool=LAYER,
            precision=precision,
            title=CMMD_TITLE if tower.published else "FD-OtherCLIP" if tower.trained else "FD-UntrainedCLIP",
        ),
        device=device,
        run=run,
    )


def _describe(normalisation: Normalisation) -> str:
    if normalisation == OPENAI_CLIP:
        return "(x / 255 - CLIP mean) / CLIP std"
    mean, std = (", ".join(f"{value:g}" for value in part) for part in normalisation)
    return f"(x / 255 - [{mean}]) / [{std}]"


def _untrained(transformers: Any, variant: Variant) -> _Tower:
    config = tower_config(transformers, ARCHITECTURES["clip"], variant.architecture, variant.title)
    network = transformers.CLIPVisionModelWithProjection
    assert variant.normalisation is not None
    return _Tower(
        model=build_random(lambda: network(config), 0, where=variant.title),
        config=config,
        normalisation=variant.normalisation,
        trained=False,
        published=False,
    )


def _trained(transformers: Any, variant: Variant, weights: str | None) -> _Tower:
    folder = _cached(variant) if weights is None else Path(weights).expanduser()
    where = str(folder / "config.json")
    fields = read_fields(folder)
    kind = choose_architecture(fields, ("clip",), where)
    config = tower_config(transformers, kind, fields, where)
    if fields["model_type"] == kind.two_towers:  # a model of two towers states the width of the common space once
        config.projection_dim = int(fields.get("projection_dim") or config.projection_dim)
    request = LoadRequest(family="clip", variant=variant, source=None if weights is None else str(folder))
    own = is_published(config, request)
    _, normalisation = preprocessing(request, folder, default_px=int(config.image_size), published=own)
    state = {key: value for key, value in read_weights_folder(folder).items() if not key.startswith(_OTHER_PARTS)}
    if _PROJECTION not in state:
        raise DataError(
            f"the weights lack '{_PROJECTION}': they are of a vision tower without its projection",
            where=str(folder),
            fix="name the whole CLIP model, or one saved by transformers' CLIPVisionModelWithProjection",
        )
    model, _ = fill(transformers.CLIPVisionModelWithProjection, config, state, where=str(folder))
    stated = {key: value for key, value in variant.architecture.items() if key != "model_type"}
    same = all(getattr(config, key, None) == value for key, value in stated.items())
    published = same and (weights is None or _is_published_file(folder))
    if own and not published:
        _log.warning(
            "%s is not the published CLIP ViT-L/14-336 (%s, sha256 %s…): its scores carry another name",
            folder,
            WEIGHTS_FILE,
            WEIGHTS_SHA256[:12],
        )
    return _Tower(model=model, config=config, normalisation=normalisation, trained=True, published=published)


def _is_published_file(folder: Path) -> bool:
    # Trap: where a safetensors file lies beside it, that one is read.
    path = folder / WEIGHTS_FILE
    return path.is_file() and not any(folder.glob("model.safetensors*")) and file_sha256(path) == WEIGHTS_SHA256


def _cached(variant: Variant) -> Path:
    """Returns the folder in the hub's cache: a metric never fetches a network unasked."""
    try:
        with nothing_fetched():
            return hub_folder(variant.weights, variant.revision, spec="clip/l14-336:")
    except DataError as error:
        raise DataError(
            f"the weights of {variant.title} are not on this machine: {error.what}",
            where="the hub's cache",
            fix=f"put config.json, preprocessor_config.json and {WEIGHTS_FILE} of that commit into a folder and name "
            f"it: --weights FOLDER; or run: hf download {variant.weights} config.json preprocessor_config.json "
            f"{WEIGHTS_FILE} --revision {variant.revision}",
        ) from error
