"""Plain vision transformers of timm: from a folder in its hub layout, a weights file and a name, or a name alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.lazy import require
from ovbench._base.names import unknown
from ovbench.encoders.base import LoadRequest
from ovbench.encoders.modeling.sources import find_file, locate, read_json_file, read_state, seeded
from ovbench.encoders.modeling.tokens import Network, TokenEncoder, eps_of
from ovbench.encoders.modeling.vit import load_strict
from ovbench.encoders.preprocess import as_asked, with_size
from ovbench.encoders.processor_json import read_timm_pretrained_cfg

ADAPTER = ("timm", 1)
# Arguments of timm.create_model that read files or ask the hub, or change what the network returns.
_NOT_ARCHITECTURE = {
    "cache_dir", "checkpoint_path", "exportable", "features_only", "no_jit", "pretrained", "pretrained_cfg",
    "pretrained_cfg_overlay", "pretrained_strict", "scriptable",
}  # fmt: skip
_FILES = ("model.safetensors", "pytorch_model.bin")


def load_timm(request: LoadRequest) -> TokenEncoder:
    """Builds a plain ViT of timm; the whole picture is shown (`crop_pct` is 1).

    Raises:
        ConfigError: No architecture is named, it is no plain ViT, or an option does not fit.
        DataError: Files are missing or damaged, or do not fit.
        DependencyError: timm is not installed.
    """
    timm = require("timm", extra="offline", purpose="the encoder 'timm'")
    name = request.options.get("model", "")
    arguments: dict[str, Any] = {}
    stated: dict[str, Any] = {}
    state: dict[str, Tensor] | None = None
    where = request.source or name
    if request.source is not None:
        place = weights = locate(request, weights=_FILES)
        if place.is_dir():
            where = str(place / "config.json")
            architecture, arguments, stated = _read_config(
                read_json_file(place / "config.json", fix="name a folder in timm's layout"), where
            )
            name = name or architecture
            weights = None if request.random_seed is not None else find_file(place, _FILES)
        if weights is not None and request.random_seed is None:
            state, where = read_state(weights), str(weights)
            if weights == place:  # a file alone: nothing else says how many classes it has
                arguments["num_classes"] = len(state["head.weight"]) if "head.weight" in state else 0
    if not name:
        raise ConfigError(
            "no architecture is named",
            where="--encoder timm",
            fix="name a folder with timm's config.json, timm:/path, or an architecture: timm:/file?model=NAME",
        )
    if state is None and request.random_seed is None:
        raise ConfigError(
            f"'{name}' needs weights",
            where="--encoder timm",
            fix=f"name them, timm:/path?model={name}, or ask for untrained ones: timm?model={name}&weights=random:0",
        )
    if not timm.is_model(name):
        raise unknown(
            "timm architecture", name, timm.list_models(), where="--encoder timm", listing="timm.list_models()"
        )
    model = _build(timm, name, arguments, request.random_seed)
    native = _input_side(model, name)
    stated = {"input_size": (3, native, native), **stated} if stated else _published(model)
    if state is not None:
        _check_activation(model, name, stated, where)
        load_strict(model, state, where=where)
    processor = read_timm_pretrained_cfg(stated, where=str(where))
    if request.size is not None:
        _resize(model, request.size, name)
    spec = as_asked(with_size(processor.spec, native), request, processor.mean)
    rows, columns = model.patch_embed.grid_size
    return TokenEncoder.of(
        request,
        name=f"timm/{name}",
        network=Network(
            model=model,
            blocks=tuple(model.blocks),
            run=lambda x: model.forward_head(model.forward_features(x), pre_logits=True),
            dim=int(model.embed_dim),
            grid=(int(rows), int(columns)),
            num_prefix=int(model.num_prefix_tokens),
            publish=model.norm,
            eps=eps_of(model.norm, getattr(model, "fc_norm", None), *model.blocks[0].modules()),
            architecture={"name": name, **arguments},
        ),
        input=spec,
        normalisation=processor.normalisation,
        adapter=ADAPTER,
    )


def _read_config(document: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Returns architecture, arguments and preprocessing of timm's config.json; older ones hold all in one mapping."""
    architecture = document.get("architecture")
    if not isinstance(architecture, str):
        raise DataError("this is no configuration of timm: it does not say 'architecture'", where=where)
    stated = document.get("pretrained_cfg", document)
    arguments = document.get("model_args") or {}
    if not isinstance(stated, Mapping) or not isinstance(arguments, Mapping):
        raise DataError("pretrained_cfg and model_args must be mappings", where=where)
    classes = document.get("num_classes", stated.get("num_classes"))
    return architecture, {**arguments, **({} if classes is None else {"num_classes": classes})}, dict(stated)


def _build(timm: Any, name: str, arguments: dict[str, Any], seed: int | None) -> Any:
    if refused := sorted(_NOT_ARCHITECTURE & set(arguments)):
        raise DataError(
            f"model_args names '{refused[0]}', which is no part of an architecture",
            where="--encoder timm",
            fix="take it out of config.json: the weights are read from the folder itself",
        )
    try:
        model = seeded(lambda: timm.create_model(name, pretrained=False, **arguments), seed or 0)
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"timm cannot build '{name}': {error}", where="--encoder timm") from error
    needed = ("blocks", "patch_embed", "norm", "num_prefix_tokens", "embed_dim", "forward_features", "forward_head")
    missing = [attribute for attribute in needed if not hasattr(model, attribute)]
    if missing or not hasattr(model.patch_embed, "grid_size"):
        raise ConfigError(
            f"'{name}' is no plain vision transformer (no {', '.join(missing) or 'patch grid'})",
            where="--encoder timm",
            fix="name a ViT, or write an adapter: docs/add-an-encoder.md",
        )
    return model.eval()


def _published(model: Any) -> dict[str, Any]:
    config = model.pretrained_cfg
    return config if isinstance(config, dict) else config.to_dict()


def _check_activation(model: Any, name: str, stated: dict[str, Any], where: str) -> None:
    """Refuses OpenAI's CLIP weights in a network with another activation than they were trained with (quick GELU)."""
    tag = str(stated.get("tag") or "")
    # Tags such as openai_ft_in1k are of weights that were trained further, with the exact GELU.
    if tag == "openai" and any(isinstance(module, nn.GELU) for module in model.modules()):
        better = name.replace("_clip_", "_clip_quickgelu_")
        raise DataError(
            f"'{name}' uses the exact GELU, and OpenAI's CLIP weights were trained with the quick one",
            where=where,
            fix=f"add ?model={better}",
        )


def _input_side(model: Any, name: str) -> int:
    size = model.patch_embed.img_size
    if size is None or size[0] != size[1]:
        shown = "a size of its own choice" if size is None else f"{size[0]} x {size[1]} pixels"
        raise ConfigError(
            f"'{name}' reads {shown}, which is no square",
            where="--encoder timm",
            fix="name a ViT of a fixed square size",
        )
    return int(size[0])


def _resize(model: Any, size: int, name: str) -> None:
    if size == _input_side(model, name):
        return
    if not hasattr(model, "set_input_size"):
        raise ConfigError(f"'{name}' cannot change its input size", where="--encoder timm?size=", fix="leave size out")
    patch = model.patch_embed.patch_size[0]
    if size % patch:
        raise ConfigError(
            f"{size} is no multiple of the patch size {patch}",
            where="--encoder timm?size=",
            fix=f"use {max(1, size // patch) * patch}",
        )
    model.set_input_size(img_size=size)
