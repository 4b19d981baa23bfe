"""Reads checkpoints of transformers' `LlavaForConditionalGeneration`, as its versions 4 and 5 write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.lazy import require
from ovbench.encoders.base import Aspect, Tap
from ovbench.encoders.modeling.hf_load import read_weights_folder, summary
from ovbench.encoders.modeling.sources import read_json_file
from ovbench.encoders.modeling.weights_file import refuse_misfit
from ovbench.harness.understanding.checkpoint_parts import MAX_LENGTH, Parts, TextModel
from ovbench.harness.understanding.towers import tower_of

_LINEAR = {"linear_1": "0", "linear_2": "2"}
_PARTS = re.compile(r"(?:model\.)?(language_model|multi_modal_projector|vision_tower)\.(.+)")
_OWN = "ovbench"  # key of config.json under which an export keeps what the layout cannot hold


def is_transformers(path: Path) -> bool:
    """Returns whether a folder is of that layout."""
    config = path / "config.json"
    if not config.is_file():
        return False
    fields = read_json_file(config)
    return fields.get("model_type") == "llava" and "vision_config" in fields and "text_config" in fields


def read_transformers(folder: Path) -> Parts:
    """Returns the parts of a checkpoint, with every key of its weights accounted for.

    Raises:
        ConfigError: It joins its parts in a way that ovbench does not; the setting is named.
        DataError: Files are missing or damaged, or keys belong to no part.
    """
    transformers = require("transformers", purpose="understanding")
    where = str(folder / "config.json")
    fields = read_json_file(folder / "config.json")
    try:
        config = transformers.LlavaConfig(**{key: value for key, value in fields.items() if key != "model_type"})
    except Exception as error:  # the library checks its configurations with errors of its own
        raise DataError(f"the configuration cannot be used: {summary(error)}", where=where) from error
    _refuse_other_forms(config, where)
    text, projector, tower = _sorted(read_weights_folder(folder), str(folder))
    own: Mapping[str, Any] = fields.get(_OWN) or {}
    processor = _processor(folder)
    pads = bool(processor.get("do_pad"))
    return Parts(
        layout="transformers",
        where=str(folder),
        projector=projector,
        text=TextModel(config=config.text_config, state=text, folder=folder),
        tower=tower_of(tower, fields=_tower_fields(fields), processor=_tower_processor(processor)),
        tap=_tap(config, where),
        aspect=_aspect(own, processor, pads=pads),
        template=own.get("template", "v1"),
        max_length=int(own.get("max_length", min(MAX_LENGTH, int(config.text_config.max_position_embeddings)))),
        metadata={"encoder": own.get("encoder")},
    )


def _aspect(own: Mapping[str, Any], processor: Mapping[str, Any], *, pads: bool) -> Aspect | None:
    if own.get("aspect"):
        return own["aspect"]
    return "pad" if pads else "crop" if processor.get("do_center_crop") else None


def _refuse_other_forms(config: Any, where: str) -> None:
    if config.projector_hidden_act != "gelu" or not config.multimodal_projector_bias:
        raise ConfigError(
            f"the projector has the activation '{config.projector_hidden_act}' and bias "
            f"{config.multimodal_projector_bias}; ovbench has mlp2x_gelu: exact GELU, biases",
            where=where,
        )
    if not isinstance(config.vision_feature_layer, int):
        raise ConfigError(
            f"the projector reads several layers of the tower ({config.vision_feature_layer}), and a tap is one",
            where=where,
        )


def _tap(config: Any, where: str) -> Tap:
    """Returns what the projector reads. `default` drops the first token, which must be the class token."""
    has_class_token = config.vision_config.model_type == "clip_vision_model"
    drops = config.vision_feature_select_strategy == "default"
    if drops and not has_class_token:
        raise ConfigError(
            f"'vision_feature_select_strategy' is 'default', which drops the first token, and a tower "
            f"'{config.vision_config.model_type}' has no class token: a patch would be lost",
            where=where,
            fix="correct it to 'full', if the projector was trained with all patches",
        )
    return Tap(layer=config.vision_feature_layer, prefix=has_class_token and not drops)


def _sorted(state: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Returns the tensors of language model, projector and tower, each under its own keys."""
    text: dict[str, Tensor] = {}
    projector: dict[str, Tensor] = {}
    tower: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, value in state.items():
        found = _PARTS.fullmatch(key)
        if key == "lm_head.weight":
            text[key] = value
        elif found is None:
            unknown.append(key)
        elif found[1] == "vision_tower":
            tower[found[2]] = value
        elif found[1] == "multi_modal_projector":
            layer, _, kind = found[2].partition(".")
            if layer in _LINEAR:
                projector[f"{_LINEAR[layer]}.{kind}"] = value
            else:
                unknown.append(key)
        elif found[2].startswith(("model.", "lm_head.")):  # version 4: a whole language model lies there
            text[found[2]] = value
        else:
            text[f"model.{found[2]}"] = value
    text = {key: value for key, value in text.items() if not key.endswith("rotary_emb.inv_freq")}
    refuse_misfit({"unexpected": sorted(unknown)}, where=where)
    return text, projector, tower


def _tower_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(fields["vision_config"])
    found.pop("torch_dtype", None)
    return {**found, "model_type": found.get("model_type", "clip_vision_model")}


def _processor(folder: Path) -> dict[str, Any]:
    """Returns the image processor's JSON, alone or inside that of the whole processor; empty where there is none."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            content = read_json_file(folder / name)
            found = content.get("image_processor", content)
            if isinstance(found, dict) and "image_mean" in found:
                return found
    return {}


def _tower_processor(processor: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the processor of the tower alone: without the padding, which is an aspect that LLaVA adds."""
    if not processor:
        return {}
    found = {key: value for key, value in processor.items() if key not in ("do_pad", "processor_class")}
    if found.get("image_processor_type", "").startswith("Llava"):
        found["image_processor_type"] = "CLIPImageProcessor"
    return found
