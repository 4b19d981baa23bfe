"""Vision transformers of the transformers library, from folders in its layout: one table row per architecture.

The library's processors are never run: their JSON is read (`processor_json.py`), and pictures go through PIL.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ovbench._base.errors import ConfigError, DataError, OvbenchError
from ovbench._base.lazy import require
from ovbench.encoders.base import LoadRequest, Normalisation, PreprocessSpec
from ovbench.encoders.modeling.sources import check_finite, locate, read_json_file, seeded
from ovbench.encoders.modeling.tokens import Network, TokenEncoder
from ovbench.encoders.preprocess import with_aspect, with_size
from ovbench.encoders.processor_json import read_processor

log = logging.getLogger(__name__)
ADAPTER = ("transformers", 1)
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """What ovbench must know of one vision transformer of the library."""

    model_types: tuple[str, ...]  # accepted in config.json: the tower alone, or the two-tower model that holds it
    model: str  # class of the tower
    config: str  # its configuration's class
    final_norm: str | None  # module that makes the published tokens of h[L]; None: h[L] itself is published
    num_prefix: Callable[[Any], int]  # configuration → class and register tokens
    foreign: tuple[str, ...] = ()  # beginnings of keys of the other parts of a two-tower checkpoint
    interpolates: str = "argument"  # positions at another size: on request (argument) or always
    shuffles: bool = False  # MAE: tokens keep their order only if the noise says so


def _one(_config: Any) -> int:
    return 1


ARCHITECTURES: Mapping[str, Architecture] = {
    # CLIP publishes h[L]: `post_layernorm` is applied to the class token only.
    "clip": Architecture(
        model_types=("clip_vision_model", "clip"),
        model="CLIPVisionModel",
        config="CLIPVisionConfig",
        final_norm=None,
        num_prefix=_one,
        foreign=("text_model.", "text_projection.", "visual_projection.", "logit_scale"),
    ),
    "siglip": Architecture(
        model_types=("siglip_vision_model", "siglip"),
        model="SiglipVisionModel",
        config="SiglipVisionConfig",
        final_norm="post_layernorm",
        num_prefix=lambda _config: 0,
        foreign=("text_model.", "logit_scale", "logit_bias"),
    ),
    "dinov2": Architecture(
        model_types=("dinov2",),
        model="Dinov2Model",
        config="Dinov2Config",
        final_norm="layernorm",
        num_prefix=_one,
        interpolates="always",
    ),
    "dinov2_with_registers": Architecture(
        model_types=("dinov2_with_registers",),
        model="Dinov2WithRegistersModel",
        config="Dinov2WithRegistersConfig",
        final_norm="layernorm",
        num_prefix=lambda config: 1 + int(config.num_register_tokens),
        interpolates="always",
    ),
    "vit_mae": Architecture(
        model_types=("vit_mae",),
        model="ViTMAEModel",
        config="ViTMAEConfig",
        final_norm="layernorm",
        num_prefix=_one,
        foreign=("decoder.",),
        shuffles=True,
    ),
}


def load_transformers(request: LoadRequest, *names: str) -> TokenEncoder:
    """Builds an encoder of the transformers library.

    Args:
        request: What is asked for.
        names: Rows of `ARCHITECTURES` that the family accepts; the folder's `config.json` chooses.

    Raises:
        ConfigError: An option does not fit.
        DataError: Files are missing or damaged, or are of another architecture.
    """
    transformers = require("transformers", purpose=f"the encoder {request.name}")
    folder = None if request.random_seed is not None and request.source is None else locate(request)
    where = request.name if folder is None else str(folder)
    fields = dict(request.variant.architecture) if folder is None else _config_fields(folder)
    kind = _choose(fields, names, where)
    config = _config(transformers, kind, fields, where)
    if kind.shuffles:
        config.mask_ratio = 0.0
    if folder is None or request.random_seed is not None:
        model = seeded(lambda: getattr(transformers, kind.model)(config), request.random_seed or 0)
    else:
        model = _pretrained(getattr(transformers, kind.model), folder, config, kind)
    model.eval()
    spec, normalisation = preprocessing(request, folder, default_px=_side(config.image_size))
    patch = _side(config.patch_size)
    grid = _grid(spec, patch, request.name)
    native = spec.size == (_side(config.image_size),) * 2
    return TokenEncoder(
        name=request.name,
        network=Network(
            model=model,
            blocks=find_blocks(model, int(config.num_hidden_layers)),
            run=_runner(model, kind, grid, interpolate=not native and kind.interpolates == "argument"),
            dim=int(config.hidden_size),
            grid=grid,
            num_prefix=kind.num_prefix(config),
            publish=getattr(model, kind.final_norm) if kind.final_norm else _as_it_is,
            eps=float(config.layer_norm_eps),
            architecture={
                "class": kind.model,
                "positions": "stored" if native else "interpolated",
                **decisive_fields(config),
            },
        ),
        input=spec,
        normalisation=normalisation,
        llm_tap=request.llm_tap or request.variant.llm_tap,
        latent_tap=request.variant.latent_tap,
        adapter=ADAPTER,
        random_seed=request.random_seed,
        device=request.device,
        dtype=request.dtype,
    )


def _as_it_is(h: Tensor) -> Tensor:
    return h


def _config_fields(folder: Path) -> dict[str, Any]:
    return read_json_file(folder / "config.json", fix="name a folder in transformers' layout: config.json and weights")


def _choose(fields: Mapping[str, Any], names: tuple[str, ...], where: str) -> Architecture:
    found = str(fields.get("model_type", "none"))
    for name in names:
        if found in ARCHITECTURES[name].model_types:
            return ARCHITECTURES[name]
    fitting = [name for name, kind in ARCHITECTURES.items() if found in kind.model_types]
    accepted = ", ".join(kind for name in names for kind in ARCHITECTURES[name].model_types)
    raise DataError(
        f"the configuration is of the architecture '{found}', and this encoder takes: {accepted}",
        where=where,
        fix=f"use --encoder {fitting[0].split('_')[0]}:…" if fitting else "try the generic family: --encoder hf:…",
    )


def _config(transformers: Any, kind: Architecture, fields: Mapping[str, Any], where: str) -> Any:
    tower = fields.get("vision_config") if isinstance(fields.get("vision_config"), Mapping) else fields
    try:
        config = getattr(transformers, kind.config)(
            **{key: value for key, value in dict(tower or {}).items() if key not in ("model_type", "architectures")}
        )
        side, patch = _side(config.image_size), _side(config.patch_size)
        if min(side, patch, int(config.hidden_size), int(config.num_hidden_layers)) < 1 or side < patch:
            raise ValueError(f"image size {side}, patch size {patch}, width {config.hidden_size}")
    except Exception as error:  # the library checks its configurations with errors of its own
        raise DataError(f"the configuration cannot be used: {_summary(error)}", where=where) from error
    return config


def _summary(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__


def _side(value: Any) -> int:
    """Returns a side that a configuration gives as a number or as a pair of equal ones."""
    if isinstance(value, int):
        return value
    sides = set(value)
    if len(sides) != 1:
        raise ValueError(f"{list(value)} is no square")
    return int(sides.pop())


_NOT_DECISIVE = {
    "_name_or_path", "architectures", "bos_token_id", "chunk_size_feed_forward", "dtype", "eos_token_id", "id2label",
    "initializer_factor", "initializer_range", "is_encoder_decoder", "label2id", "output_attentions",
    "output_hidden_states", "pad_token_id", "problem_type", "projection_dim", "return_dict", "torch_dtype",
    "transformers_version", "_attn_implementation", "tie_word_embeddings",
}  # fmt: skip


def decisive_fields(config: Any) -> dict[str, Any]:
    """Returns what of a configuration can change a feature; the library's version is not part of it."""
    return {
        key: value
        for key, value in config.to_dict().items()
        if key not in _NOT_DECISIVE and isinstance(value, str | int | float | bool | list | type(None))
    }


def _pretrained(model: Any, folder: Path, config: Any, kind: Architecture) -> nn.Module:
    """Loads a folder strictly: every parameter of the tower is filled, every key of it used."""
    try:
        loaded, report = model.from_pretrained(
            str(folder), config=config, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except OvbenchError:
        raise
    except SafetensorError as error:
        raise DataError(f"the weights are damaged: {_summary(error)}", where=str(folder)) from error
    except Exception as error:
        raise DataError(
            f"the weights cannot be loaded: {_summary(error)}",
            where=str(folder),
            fix="check that the folder is complete, its weights safetensors or a plain dictionary of tensors",
        ) from error
    unexpected = [key for key in report["unexpected_keys"] if not key.startswith(kind.foreign)]
    faults = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(unexpected),
        "wrong shape": sorted(str(entry[0]) for entry in report["mismatched_keys"]),
    }
    text = "; ".join(f"{title}: {', '.join(keys[:5])}" for title, keys in faults.items() if keys)
    if text:
        raise DataError(
            f"the weights do not fit the architecture ({text})",
            where=str(folder),
            fix="check that the configuration and the weights are of the same model",
        )
    check_finite(loaded, where=str(folder))
    return loaded


def preprocessing(
    request: LoadRequest, folder: Path | None, *, default_px: int
) -> tuple[PreprocessSpec, Normalisation]:
    """Returns how pictures become the input: the folder's own JSON, or what the variant states.

    The variant's own weights are used as the variant says, and a folder that contradicts its mean or deviation is
    refused; other weights are used as their folder says.

    Raises:
        ConfigError: Nobody states it.
        DataError: The JSON cannot be used, or contradicts the variant.
    """
    variant = request.variant
    stated = variant.input is not None and variant.normalisation is not None
    has_file = folder is not None and any((folder / name).is_file() for name in PROCESSOR_FILES)
    if has_file:
        assert folder is not None
        processor = read_processor(folder)
        spec, normalisation = processor.spec, processor.normalisation
        if request.source is None and stated:
            assert variant.input is not None and variant.normalisation is not None  # noqa: PT018
            if not _close(normalisation, variant.normalisation):
                raise DataError(
                    f"the folder normalises with {normalisation}, and {request.name} with {variant.normalisation}",
                    where=str(folder),
                    fix="name the weights explicitly, if they are meant",
                )
            spec = variant.input
    elif stated:
        assert variant.input is not None and variant.normalisation is not None  # noqa: PT018
        spec, normalisation = variant.input, variant.normalisation
        if folder is not None:
            log.warning(
                "%s has no %s: pictures are prepared as for %s, at the network's own size",
                folder,
                PROCESSOR_FILES[0],
                request.name,
            )
            spec = with_size(spec, default_px)
    else:
        raise ConfigError(
            f"nothing says how pictures are prepared for '{request.name}'",
            where=str(folder or request.name),
            fix=f"put the model's {PROCESSOR_FILES[0]} beside its weights",
        )
    if request.size is not None:
        spec = with_size(spec, request.size)
    if request.aspect is not None:
        spec = with_aspect(spec, request.aspect, normalisation.mean)
    return spec, normalisation


def _close(first: Normalisation, second: Normalisation) -> bool:
    pairs = [*zip(first.mean, second.mean, strict=True), *zip(first.std, second.std, strict=True)]
    return all(abs(one - two) < 1e-4 for one, two in pairs)


def _grid(spec: PreprocessSpec, patch: int, name: str) -> tuple[int, int]:
    height, width = spec.size
    if min(height, width) < patch:
        raise ConfigError(f"{height} x {width} pixels hold no patch of {patch}", where=f"--encoder {name}?size=")
    return height // patch, width // patch


def find_blocks(model: nn.Module, depth: int) -> tuple[nn.Module, ...]:
    """Returns the transformer blocks: the one list of `depth` modules of one class that is not inside another.

    Raises:
        DataError: There is no such list, or more than one.
    """
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) == depth
        and len({type(block) for block in module}) == 1
        and any(isinstance(part, nn.LayerNorm) or type(part).__name__.endswith("Norm") for part in module[0].modules())
    }  # fmt: skip
    outer = [name for name in lists if not any(other != name and name.startswith(f"{other}.") for other in lists)]
    if len(outer) != 1:
        raise DataError(
            f"the network has {len(outer)} lists of {depth} blocks ({', '.join(outer) or 'none'}), not one",
            where=type(model).__name__,
        )
    return tuple(lists[outer[0]])


def _runner(
    model: nn.Module, kind: Architecture, grid: tuple[int, int], *, interpolate: bool
) -> Callable[[Tensor], Any]:
    extra: dict[str, Any] = {"interpolate_pos_encoding": True} if interpolate else {}

    def run(x: Tensor) -> Any:
        if kind.shuffles:
            # Trap: ViTMAE sorts its tokens by this noise, at random by default. Ascending numbers keep them in raster
            # order; float32, because half types cannot tell neighbouring numbers apart.
            count = grid[0] * grid[1]
            extra["noise"] = torch.arange(count, dtype=torch.float32, device=x.device).expand(len(x), count)
        return getattr(model(pixel_values=x, **extra), "pooler_output", None)

    return run
