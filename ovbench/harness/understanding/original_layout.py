"""The layout of the original LLaVA code (haotian-liu/LLaVA): a language model's folder with `model.mm_projector.*`.

After stage 1 there is `mm_projector.bin` alone beside the configuration. Pickles are read without running their code.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.files import atomic_dir, write_json, writing
from ovbench._base.lazy import require
from ovbench.encoders.base import Aspect, Tap
from ovbench.encoders.modeling.hf_load import quiet, read_weights_folder, summary
from ovbench.encoders.modeling.sources import TRANSFORMERS_WEIGHTS, read_json_file, read_state
from ovbench.harness.sharding import whole_state
from ovbench.harness.understanding.checkpoint_parts import MAX_LENGTH, Parts, TextModel, check_target
from ovbench.harness.understanding.llava import PROJECTOR_PREFIX, Llava
from ovbench.harness.understanding.projector import projector_widths, stored_kind
from ovbench.harness.understanding.towers import TOWER, name_of_tower, placed, spec_of_tower, take_along, tower_of

log = logging.getLogger(__name__)
PROJECTOR_FILE = "mm_projector.bin"
_TOWER = "model.vision_tower.vision_tower."
_MARK = "mm_projector."
# model_type of the original's classes → of the language model inside, and the template of its answers
_LANGUAGES = {
    "llava": ("llama", "v1"), "llava_llama": ("llama", "v1"), "llava_mistral": ("mistral", "chat"),
    "llava_qwen": ("qwen2", "qwen"), "llava_gemma": ("gemma", "chat"),
}  # fmt: skip
_NOT_OF_THE_LANGUAGE_MODEL = (
    "architectures", "auto_map", "dtype", "freeze_mm_mlp_adapter", "freeze_mm_vision_resampler", "image_aspect_ratio",
    "image_grid_pinpoints", "max_length", "model_type", "ovbench_aspect", "ovbench_encoder", "ovbench_tap",
    "ovbench_template", "tokenizer_model_max_length", "tokenizer_padding_side", "torch_dtype", "transformers_version",
    "tune_mm_mlp_adapter", "unfreeze_mm_vision_tower", "use_mm_proj",
)  # fmt: skip


def is_original(path: Path) -> bool:
    """Returns whether a path is a checkpoint of the original code."""
    if path.is_file():
        return path.name == PROJECTOR_FILE
    if (path / PROJECTOR_FILE).is_file() or (path / "non_lora_trainables.bin").is_file():
        return True
    config = path / "config.json"
    return config.is_file() and any(key.startswith("mm_") for key in read_json_file(config))


def read_original(path: Path) -> Parts:
    """Returns the parts of a checkpoint of the original code.

    Raises:
        ConfigError: It was trained with something that ovbench does not do; the setting is named.
        DataError: Files are missing or damaged.
    """
    folder = path.parent if path.is_file() else path
    where = str(folder)
    config_file = folder / "config.json"
    if (folder / "adapter_config.json").is_file() or (folder / "non_lora_trainables.bin").is_file():
        raise ConfigError(
            "the checkpoint is a LoRA: its language model is changed by an adapter",
            where=where,
            fix="merge it first (scripts/merge_lora_weights.py of the original code)",
        )
    fields = read_json_file(config_file) if config_file.is_file() else {}
    _refuse_other_recipes(fields, str(config_file))
    has_weights = not path.is_file() and any(any(folder.glob(pattern)) for pattern in TRANSFORMERS_WEIGHTS)
    if has_weights:
        state = read_weights_folder(folder)
        projector = _projector({key: value for key, value in state.items() if _MARK in key}, where)
        tower = {key.removeprefix(_TOWER): value for key, value in state.items() if key.startswith(_TOWER)}
        text = {
            key: value
            for key, value in state.items()
            # A buffer that old versions of transformers stored, and newer ones compute.
            if _MARK not in key and not key.startswith(_TOWER) and not key.endswith("rotary_emb.inv_freq")
        }
    else:
        if not (folder / PROJECTOR_FILE).is_file():
            raise DataError(
                f"neither weights ({', '.join(TRANSFORMERS_WEIGHTS)}) nor {PROJECTOR_FILE} are there", where=where
            )
        projector, tower, text = _projector(read_state(folder / PROJECTOR_FILE), where), {}, {}
    named = fields.get("mm_vision_tower") or fields.get("mm_hidden_vision_tower")
    stated = fields.get("ovbench_encoder")
    encoder = placed(stated, folder) if stated else None
    if encoder is None and named:
        encoder = _encoder_or_none(str(named), str(config_file))
    kind, form = _language(fields) if has_weights else (None, "plain")
    return Parts(
        layout="llava",
        where=where,
        projector=projector,
        text=TextModel(config=_text_config(kind, fields, str(config_file)), state=text, folder=folder)
        if kind
        else None,
        language_model=None if kind else fields.get("_name_or_path"),
        tower=tower_of(tower),
        encoder=encoder,
        tap=_tap(fields),
        aspect=cast(Aspect | None, fields.get("ovbench_aspect") or _ASPECTS[fields.get("image_aspect_ratio")]),
        template=fields.get("ovbench_template") or form,
        max_length=int(fields.get("tokenizer_model_max_length") or MAX_LENGTH),
        metadata={"mm_vision_tower": named},
    )


# `square` is the processor's own way, which is an encoder's default.
_ASPECTS: Mapping[Any, str | None] = {None: None, "square": None, "pad": "pad"}


def _encoder_or_none(name: str, where: str) -> str | None:
    """Returns the encoder of a tower's name; an unknown one must be named by whoever wants to look through it."""
    try:
        return spec_of_tower(name, where=where)
    except ConfigError as error:
        log.warning("%s; %s", error.what, error.fix)
        return None


def _refuse_other_recipes(fields: Mapping[str, Any], where: str) -> None:
    """Refuses settings under which the same weights would be asked in another way."""
    aspect = fields.get("image_aspect_ratio")
    if aspect not in _ASPECTS:
        raise ConfigError(
            f"the checkpoint cuts pictures by 'image_aspect_ratio': '{aspect}', which ovbench does not do",
            where=where,
            fix="use a checkpoint with 'pad' or 'square' (LLaVA-1.5)",
        )
    for key in ("mm_use_im_start_end", "mm_use_im_patch_token"):
        if fields.get(key):
            raise ConfigError(
                f"the checkpoint was trained with '{key}', whose extra tokens ovbench does not put around images",
                where=where,
            )
    if fields.get("mm_resampler_type"):
        raise ConfigError(f"the checkpoint has a resampler ('{fields['mm_resampler_type']}')", where=where)
    if fields.get("mm_patch_merge_type", "flat") != "flat":
        raise ConfigError(
            f"the checkpoint arranges patches by 'mm_patch_merge_type': '{fields['mm_patch_merge_type']}'", where=where
        )


def _projector(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Returns the projector under the module's own keys."""
    if not state:
        raise DataError(f"the weights hold no projector ('{PROJECTOR_PREFIX}*')", where=where)
    odd = sorted(key for key in state if _MARK not in key)
    if odd:
        raise DataError(f"the projector's file holds other tensors: {', '.join(odd[:5])}", where=where)
    found = {key.rpartition(_MARK)[2]: value for key, value in state.items()}
    stored_kind(found, where=where)
    return found


def _language(fields: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the architecture of the language model, and its template."""
    stated = str(fields.get("model_type"))
    kind, form = _LANGUAGES.get(stated, (stated.removeprefix("llava_"), "chat"))
    # Llama 3 is a Llama with a larger vocabulary, and another form of conversation.
    return kind, "llama_3" if kind == "llama" and int(fields.get("vocab_size", 0)) > 100_000 else form


def _text_config(kind: str, fields: Mapping[str, Any], where: str) -> Any:
    transformers = require("transformers", purpose="understanding")
    own = {
        key: value
        for key, value in fields.items()
        if key not in _NOT_OF_THE_LANGUAGE_MODEL and not key.startswith(("mm_", "_"))
    }
    if "rope_parameters" in own:  # of transformers 5; the older names stand beside it for the original code
        own.pop("rope_theta", None)
        own.pop("rope_scaling", None)
    try:
        return transformers.AutoConfig.for_model(kind, **own)
    except Exception as error:  # the library checks its configurations with errors of its own
        raise DataError(
            f"no language model '{kind}' can be made of the configuration: {summary(error)}", where=where
        ) from error


def _tap(fields: Mapping[str, Any]) -> Tap | None:
    """Returns what the projector reads; `patch` drops the prefix, `cls_patch` keeps it."""
    if fields.get("ovbench_tap"):
        return Tap(**fields["ovbench_tap"])
    if "mm_vision_select_layer" not in fields:
        return None
    prefix = fields.get("mm_vision_select_feature", "patch") == "cls_patch"
    return Tap(layer=int(fields["mm_vision_select_layer"]), prefix=prefix)


def write_original(
    folder: Path,
    model: Llava,
    *,
    encoder: str,
    tap: Tap,
    aspect: Aspect,
    language_model: str | None = None,
) -> None:
    """Writes a checkpoint that the original code reads, where the encoder is one that it has (CLIP by its hub id).

    Everything that the original's configuration cannot hold is written beside it, under `ovbench_*`, so that ovbench
    reads back exactly what it wrote.

    Args:
        folder: The target; must not hold anything.
        model: The model.
        encoder: Spec string of the encoder.
        tap: What the projector reads.
        aspect: How pictures become squares.
        language_model: Folder or hub id of an untrained language model: then the projector alone is written.

    Raises:
        ConfigError: The folder holds something, or cannot be written.
    """
    transformers = require("transformers", purpose="understanding")
    check_target(folder)
    projector = {f"{PROJECTOR_PREFIX}{key}": value for key, value in whole_state(model.projector).items()}
    kind = stored_kind(whole_state(model.projector), where=str(folder))
    with atomic_dir(folder) as out, writing(folder), quiet(transformers):
        text, spec = model.language_model, take_along(encoder, out)
        if language_model is None:
            text.save_pretrained(out, state_dict={**whole_state(text), **projector})
            model.tokenizer.save_pretrained(out)
        else:
            torch.save({key: value.clone() for key, value in projector.items()}, out / PROJECTOR_FILE)
        fields = text.config.to_dict()
        types = {inner: outer for outer, (inner, _) in _LANGUAGES.items() if outer != "llava"}
        outer = types.get(fields["model_type"], f"llava_{fields['model_type']}")
        fields |= {
            "_name_or_path": language_model,
            "architectures": [f"{''.join(word.capitalize() for word in outer.split('_'))}ForCausalLM"],
            "image_aspect_ratio": "pad" if aspect == "pad" else "square",
            "mm_hidden_size": projector_widths(model.projector)[0],
            "mm_projector_type": kind,
            "mm_use_im_patch_token": False,
            "mm_use_im_start_end": False,
            "mm_vision_select_feature": "cls_patch" if tap.prefix else "patch",
            "mm_vision_select_layer": -1 if tap.layer == "final" else tap.layer,
            "mm_vision_tower": name_of_tower(encoder)
            if spec == placed(spec, folder)
            else str(folder.resolve() / TOWER),
            "model_type": outer,
            "ovbench_aspect": aspect,
            "ovbench_encoder": spec,
            "ovbench_tap": asdict(tap),
            "ovbench_template": model.form.name,
            "tokenizer_model_max_length": model.max_length,
            "tokenizer_padding_side": "right",
            "use_mm_proj": True,
        }
        write_json(out / "config.json", {**fields, **_older_names(fields)})


def _older_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings under the names that transformers 4, which the original code uses, knows them by."""
    rope = dict(fields.get("rope_parameters") or {})
    found: dict[str, Any] = {"torch_dtype": fields.get("dtype")}
    if "rope_theta" in rope:
        found["rope_theta"] = rope.pop("rope_theta")
        if rope.get("rope_type", "default") != "default":
            found["rope_scaling"] = rope
    return found
