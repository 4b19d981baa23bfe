"""Vision transformers of the transformers library, from folders in its layout: one table row per architecture.

The library's processors are never run: their JSON is read (`processor_json.py`), and pictures go through PIL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.lazy import require
from ovbench.encoders.base import LoadRequest, PreprocessSpec
from ovbench.encoders.modeling.hf_inputs import is_published, preprocessing
from ovbench.encoders.modeling.hf_load import (
    MOST_BLOCKS,
    build_empty,
    build_random,
    fill,
    quiet,
    read_fields,
    read_weights_folder,
    summary,
)
from ovbench.encoders.modeling.sources import locate
from ovbench.encoders.modeling.tokens import Network, TokenEncoder, unchanged

ADAPTER = ("transformers", 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """What ovbench must know of one vision transformer of the library."""

    family: str  # of ovbench, that loads it
    tower: str  # model_type of the tower alone
    two_towers: str = ""  # model_type of the model that holds it, with its configuration under `vision_config`
    model: str  # class of the tower
    config: str  # its configuration's class
    final_norm: str | None  # module that makes the published tokens of h[L]; None: h[L] itself is published
    num_prefix: Callable[[Any], int]  # configuration → class and register tokens
    fields: tuple[str, ...]  # of the configuration, beside `_COMMON`: what can change a feature
    foreign: tuple[str, ...] = ()  # beginnings of keys of the checkpoint's other parts
    interpolates: str = "argument"  # positions at another size: on request (argument) or always
    shuffles: bool = False  # MAE: tokens keep their order only if the noise says so

    @property
    def model_types(self) -> tuple[str, ...]:
        """What config.json may say."""
        return (self.tower, self.two_towers) if self.two_towers else (self.tower,)


# Named one by one: a field that a later version of the library adds must not change the identity of old features.
_COMMON = (
    "hidden_act", "hidden_size", "image_size", "layer_norm_eps", "num_attention_heads", "num_channels",
    "num_hidden_layers", "patch_size",
)  # fmt: skip
_DINOV2 = ("mlp_ratio", "qkv_bias", "use_swiglu_ffn")


def _one(_config: Any) -> int:
    return 1


ARCHITECTURES: Mapping[str, Architecture] = {
    # CLIP publishes h[L]: `post_layernorm` is applied to the class token only.
    "clip": Architecture(
        family="clip",
        tower="clip_vision_model",
        two_towers="clip",
        model="CLIPVisionModel",
        config="CLIPVisionConfig",
        final_norm=None,
        num_prefix=_one,
        fields=("intermediate_size",),
        foreign=("text_model.", "text_projection.", "visual_projection.", "logit_scale"),
    ),
    "siglip": Architecture(
        family="siglip",
        tower="siglip_vision_model",
        two_towers="siglip",
        model="SiglipVisionModel",
        config="SiglipVisionConfig",
        final_norm="post_layernorm",
        num_prefix=lambda _config: 0,
        fields=("intermediate_size", "vision_use_head"),
        foreign=("text_model.", "logit_scale", "logit_bias"),
    ),
    "dinov2": Architecture(
        family="dinov2",
        tower="dinov2",
        model="Dinov2Model",
        config="Dinov2Config",
        final_norm="layernorm",
        num_prefix=_one,
        fields=_DINOV2,
        interpolates="always",
    ),
    "dinov2_with_registers": Architecture(
        family="dinov2",
        tower="dinov2_with_registers",
        model="Dinov2WithRegistersModel",
        config="Dinov2WithRegistersConfig",
        final_norm="layernorm",
        num_prefix=lambda config: 1 + int(config.num_register_tokens),
        fields=(*_DINOV2, "num_register_tokens"),
        interpolates="always",
    ),
    "vit_mae": Architecture(
        family="mae",
        tower="vit_mae",
        model="ViTMAEModel",
        config="ViTMAEConfig",
        final_norm="layernorm",
        num_prefix=_one,
        fields=("intermediate_size", "qkv_bias"),
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
    with quiet(transformers):
        return _load(transformers, request, names)


def _load(transformers: Any, request: LoadRequest, names: tuple[str, ...]) -> TokenEncoder:
    folder = None if request.random_seed is not None and request.source is None else locate(request)
    where = request.name if folder is None else str(folder / "config.json")
    fields = dict(request.variant.architecture) if folder is None else read_fields(folder)
    kind = choose_architecture(fields, names, where)
    config = tower_config(transformers, kind, fields, where)
    native, patch = _side(config.image_size), _side(config.patch_size)
    spec, normalisation = preprocessing(
        request, folder, default_px=native, published=request.source is None or is_published(config, request)
    )
    grid = check_grid(spec, patch, native, request)
    if kind.shuffles:
        config.mask_ratio = 0.0
    network: Any = getattr(transformers, kind.model)
    if folder is None or request.random_seed is not None:
        model = build_random(lambda: network(config), request.random_seed or 0, where=where)
    else:
        state = read_weights_folder(folder)
        own = {key: value for key, value in state.items() if not key.startswith(kind.foreign)}
        model, _ = fill(network, config, own, where=str(folder))
    is_native = spec.size == (native, native)
    return TokenEncoder.of(
        request,
        network=Network(
            model=model,
            blocks=find_blocks(model, int(config.num_hidden_layers)),
            run=_runner(model, kind, grid, interpolate=not is_native and kind.interpolates == "argument"),
            dim=int(config.hidden_size),
            grid=grid,
            num_prefix=kind.num_prefix(config),
            publish=getattr(model, kind.final_norm) if kind.final_norm else unchanged,
            eps=float(config.layer_norm_eps),
            architecture={
                "class": kind.model,
                "positions": "stored" if is_native else "interpolated",
                **{name: getattr(config, name) for name in (*_COMMON, *kind.fields)},
            },
        ),
        input=spec,
        normalisation=normalisation,
        adapter=ADAPTER,
    )


def choose_architecture(fields: Mapping[str, Any], names: tuple[str, ...], where: str) -> Architecture:
    """Returns the row of `ARCHITECTURES`, among `names`, that a config.json is of.

    Raises:
        DataError: It is of none of them.
    """
    found = str(fields.get("model_type", "none"))
    for name in names:
        if found in ARCHITECTURES[name].model_types:
            return ARCHITECTURES[name]
    fitting = [name for name, kind in ARCHITECTURES.items() if found in kind.model_types]
    accepted = ", ".join(kind for name in names for kind in ARCHITECTURES[name].model_types)
    raise DataError(
        f"the configuration is of the architecture '{found}', and this encoder takes: {accepted}",
        where=where,
        fix=f"use --encoder {ARCHITECTURES[fitting[0]].family}:…"
        if fitting
        else "try the generic family: --encoder hf:…",
    )


def tower_config(transformers: Any, kind: Architecture, fields: Mapping[str, Any], where: str) -> Any:
    """Returns the tower's configuration, of which a network can be built.

    Raises:
        DataError: The fields of config.json are of no such network.
    """
    if fields["model_type"] == kind.two_towers:
        fields = fields.get("vision_config") or {}
        if not isinstance(fields, Mapping) or not fields:
            raise DataError(f"'{kind.two_towers}' needs a 'vision_config'", where=where, fix="fetch config.json again")
    try:
        config = getattr(transformers, kind.config)(
            **{key: value for key, value in fields.items() if key not in ("model_type", "architectures", "auto_map")}
        )
        _check_numbers(config)
    except Exception as error:  # the library checks its configurations with errors of its own
        raise DataError(
            f"the configuration cannot be used: {summary(error)}", where=where, fix="correct config.json"
        ) from error
    build_empty(lambda: getattr(transformers, kind.model)(config), where=where)
    return config


def _check_numbers(config: Any) -> None:
    side, patch, width, heads = (
        _side(config.image_size), _side(config.patch_size), config.hidden_size, config.num_attention_heads,
    )  # fmt: skip
    if min(side, patch, width, heads, config.num_hidden_layers) < 1:
        raise ValueError("sizes and counts must be at least 1")
    if side < patch:
        raise ValueError(f"image_size {side} holds no patch of {patch}")
    if width % heads:
        raise ValueError(f"hidden_size {width} cannot be split into {heads} heads")
    if config.num_hidden_layers > MOST_BLOCKS:
        raise ValueError(f"num_hidden_layers is {config.num_hidden_layers}")
    if config.num_channels != 3:
        raise ValueError(f"num_channels is {config.num_channels}, and ovbench feeds RGB")


def _side(value: Any) -> int:
    """Returns a side that a configuration gives as a number or as a pair of equal ones."""
    if isinstance(value, int):
        return value
    sides = set(value)
    if len(sides) != 1:
        raise ValueError(f"{list(value)} is no square")
    return int(sides.pop())


def check_grid(spec: PreprocessSpec, patch: int, native: int, request: LoadRequest) -> tuple[int, int]:
    """Returns the token grid (rows, columns).

    A size that the weights were published with may leave a rest (SigLIP So400m reads 384 pixels in patches of 14, and
    its 6 last rows and columns are not seen); a size that was asked for may not.

    Raises:
        ConfigError: The size holds no patch, or is asked for and no multiple of it.
    """
    height, width = spec.size
    where = f"--encoder {request.name}" + ("?size=" if request.size is not None else "")
    below = max(height // patch, 1) * patch
    if min(height, width) < patch:
        raise ConfigError(
            f"{height} x {width} pixels hold no patch of {patch}", where=where, fix=f"use size={patch} or more"
        )
    if request.size not in (None, native) and height % patch:
        raise ConfigError(
            f"{height} pixels are no multiple of the patch of {patch}",
            where=where,
            fix=f"use size={below} or size={below + patch}",
        )
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
        return getattr(model(pixel_values=x, **extra), "pooler_output", None)

    def run_in_order(x: Tensor) -> Any:
        # Trap: ViTMAE sorts its tokens by this noise, at random by default. Ascending numbers keep them in raster
        # order; float32, because half types cannot tell neighbouring numbers apart.
        count = grid[0] * grid[1]
        noise = torch.arange(count, dtype=torch.float32, device=x.device).expand(len(x), count)
        return getattr(model(pixel_values=x, noise=noise, **extra), "pooler_output", None)

    return run_in_order if kind.shuffles else run
