"""Writes a model in the layout of transformers' `LlavaForConditionalGeneration`, for the towers that it can hold."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError
from ovbench._base.files import atomic_dir, read_json, write_json, writing
from ovbench._base.lazy import require
from ovbench.encoders.base import Encoder, Tap
from ovbench.encoders.modeling.hf_load import quiet
from ovbench.harness.sharding import whole_state
from ovbench.harness.understanding.checkpoint_parts import check_target
from ovbench.harness.understanding.conversation import IMAGE_MARK
from ovbench.harness.understanding.llava import Llava
from ovbench.harness.understanding.projector import projector_widths, stored_kind
from ovbench.harness.understanding.templates import Template
from ovbench.harness.understanding.towers import check_width

_PAD = "<pad>"
_ROWS = 64  # a grown vocabulary is a multiple of it, as in the published checkpoints (32,064)
_SHARD = "5GB"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Vocabulary:
    """A tokenizer that knows the image mark, and how many embeddings it needs."""

    tokenizer: Any
    image_id: int
    rows: int


def write_transformers(folder: Path, model: Llava, *, encoder: Encoder, spec: str, tap: Tap) -> None:
    """Writes config, weights, tokenizer, processor and chat template that transformers loads to the last key.

    Args:
        folder: The target; must not hold anything.
        model: The model.
        encoder: What it looks through, with the aspect that pictures become squares by.
        spec: The encoder's spec string.
        tap: What the projector reads.

    Raises:
        ConfigError: The layout cannot hold the model: the reason is in the message.
        DataError: Encoder and projector do not fit.
    """
    transformers = require("transformers", purpose="exporting")
    hub = require("huggingface_hub", purpose="exporting")
    check_target(folder)
    check_width(projector_widths(model.projector)[0], encoder, where=spec)
    tower = _tower(transformers, encoder, spec)
    layer, strategy = _selection(transformers, tower, encoder, tap, spec)
    words = _vocabulary(model)
    state = _state(model, tower, words.rows, spec)
    with atomic_dir(folder) as out, writing(folder), quiet(transformers):
        text = copy.deepcopy(model.language_model.config)
        text.vocab_size = words.rows
        config = transformers.LlavaConfig(
            vision_config=tower.config.to_dict(),
            text_config=text.to_dict(),
            image_token_index=words.image_id,
            image_seq_length=encoder.info.grid[0] * encoder.info.grid[1]
            + (encoder.info.num_prefix if tap.prefix else 0),
            projector_hidden_act="gelu",
            vision_feature_layer=layer,
            vision_feature_select_strategy=strategy,
            tie_word_embeddings=bool(text.tie_word_embeddings),
        )
        config.architectures = ["LlavaForConditionalGeneration"]
        config.dtype = model.language_model.dtype
        config.save_pretrained(out)
        hub.save_torch_state_dict(state, out, max_shard_size=_SHARD)
        words.tokenizer.save_pretrained(out)
        transformers.GenerationConfig(
            eos_token_id=sorted(model.end_ids),
            bos_token_id=words.tokenizer.bos_token_id,
            pad_token_id=words.tokenizer.pad_token_id,
        ).save_pretrained(out)
        _add(out / "config.json", ovbench=_own(model, encoder, spec))
        write_json(out / "preprocessor_config.json", _image_processor(encoder))
        write_json(
            out / "processor_config.json",
            {
                "image_token": IMAGE_MARK,
                "num_additional_image_tokens": encoder.info.num_prefix,
                "patch_size": encoder.info.patch_px,
                "processor_class": "LlavaProcessor",
                "vision_feature_select_strategy": strategy,
            },
        )
        if model.form.form in ("rounds", "turns"):
            (out / "chat_template.jinja").write_text(_chat_template(model.form), encoding="utf-8")


def _tower(transformers: Any, encoder: Encoder, spec: str) -> Any:
    """Returns the encoder's network, if it is one that LlavaForConditionalGeneration can look through."""
    model: Any = getattr(encoder, "model", None)
    if not isinstance(model, transformers.CLIPVisionModel | transformers.SiglipVisionModel):
        raise ConfigError(
            f"transformers' layout holds CLIP and SigLIP towers of that library, and '{spec}' is a "
            f"{type(model).__name__}",
            where="--layout transformers",
            fix="use --layout ovbench or --layout llava",
        )
    side = model.config.image_size
    if encoder.info.input.size != (side, side):
        raise ConfigError(
            f"'{spec}' reads {encoder.info.input.size[0]} pixels and its network was made for {side}",
            where="--layout transformers",
            fix="use the encoder without size=",
        )
    return model


def _selection(transformers: Any, tower: Any, encoder: Encoder, tap: Tap, spec: str) -> tuple[int, str]:
    """Returns the layer and the strategy by which transformers takes the same tokens."""
    is_clip = isinstance(tower, transformers.CLIPVisionModel)
    if tap.norm == "layernorm" or (tap.layer == "final" and tap.norm == "native" and not is_clip):
        raise ConfigError(
            f"the projector reads normalised tokens of '{spec}' (layer {tap.layer}, norm {tap.norm}), and "
            "transformers' layout takes layers as they are",
            where="--layout transformers",
            fix="use --layout ovbench or --layout llava",
        )
    layer = -1 if tap.layer == "final" else int(tap.layer)
    return layer, "default" if encoder.info.num_prefix and not tap.prefix else "full"


def _vocabulary(model: Llava) -> _Vocabulary:
    """Returns the tokenizer with image and padding marks added, as the published checkpoints have them."""
    tokenizer = copy.deepcopy(model.tokenizer)
    known = tokenizer.get_vocab()
    added = [mark for mark in (IMAGE_MARK, *([] if tokenizer.pad_token else [_PAD])) if mark not in known]
    tokenizer.add_tokens(added, special_tokens=True)
    if not tokenizer.pad_token:
        tokenizer.pad_token = _PAD
    rows = int(model.language_model.get_input_embeddings().weight.shape[0])
    needed = max(tokenizer.get_vocab().values()) + 1
    image_id = int(tokenizer.convert_tokens_to_ids(IMAGE_MARK))
    return _Vocabulary(
        tokenizer=tokenizer, image_id=image_id, rows=rows if needed <= rows else -(-needed // _ROWS) * _ROWS
    )


def _state(model: Llava, tower: Any, rows: int, spec: str) -> dict[str, Tensor]:
    projector = whole_state(model.projector)
    if stored_kind(projector, where=spec) != "mlp2x_gelu":
        raise ConfigError(
            "transformers' layout holds a projector of two layers, and this one is linear",
            where="--layout transformers",
            fix="use --layout ovbench or --layout llava",
        )
    state: dict[str, Tensor] = {}
    tied = bool(model.language_model.config.tie_word_embeddings)
    for key, value in whole_state(model.language_model).items():
        if key == "lm_head.weight":
            if not tied:
                state[key] = _grown(value, rows)
        elif key.startswith("model."):
            inner = key.removeprefix("model.")
            grown = _grown(value, rows) if inner == "embed_tokens.weight" else value
            state[f"model.language_model.{inner}"] = grown
        else:
            raise ConfigError(
                f"transformers' layout has no place for '{key}' of a {type(model.language_model).__name__}",
                where="--layout transformers",
                fix="use --layout ovbench or --layout llava",
            )
    for key, value in projector.items():
        layer, _, kind = key.partition(".")
        state[f"model.multi_modal_projector.{'linear_1' if layer == '0' else 'linear_2'}.{kind}"] = value
    state |= {f"model.vision_tower.{key}": value for key, value in whole_state(tower).items()}
    return {key: value.contiguous() for key, value in state.items()}


def _grown(table: Tensor, rows: int) -> Tensor:
    """Returns a table with more rows, each the mean of the old ones: as a logit, never the largest."""
    if rows <= len(table):
        return table
    mean = table.float().mean(0, keepdim=True).to(table.dtype)
    return torch.cat([table, mean.expand(rows - len(table), -1)])


def _own(model: Llava, encoder: Encoder, spec: str) -> dict[str, Any]:
    """Returns what the layout cannot hold, and `read_transformers` takes up again."""
    return {
        "aspect": encoder.info.input.aspect,
        "encoder": spec,
        "max_length": model.max_length,
        "template": model.form.name,
    }


def _add(path: Path, **more: Mapping[str, Any]) -> None:
    write_json(path, {**read_json(path), **more})


def _image_processor(encoder: Encoder) -> dict[str, Any]:
    """Returns the image processor's JSON that does what the encoder's own preprocessing does."""
    spec = encoder.info.input
    (height, width), short = spec.size, spec.short_side or min(spec.size)
    common = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(encoder.info.mean),
        "image_std": list(encoder.info.std),
        "resample": {"bilinear": 2, "bicubic": 3}[spec.resample],
        "rescale_factor": 1 / 255,
    }
    if spec.aspect == "squash":
        return {
            **common,
            "do_center_crop": False,
            "image_processor_type": "SiglipImageProcessor",
            "size": {"height": height, "width": width},
        }
    return {
        **common,
        "crop_size": {"height": height, "width": width},
        "do_center_crop": True,
        "do_pad": spec.aspect == "pad",
        "image_processor_type": "LlavaImageProcessor",
        "size": {"shortest_edge": min(spec.size) if spec.aspect == "pad" else short},
    }


def _chat_template(form: Template) -> str:
    """Returns the template as Jinja, for messages whose content is a text, or a list of images and texts."""

    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"

    trim = "|trim" if form.trims else ""
    said = (
        "{%- set ns = namespace(text='') %}{%- if message['content'] is string %}"
        "{%- set ns.text = message['content'] %}{%- else %}{%- for part in message['content'] %}"
        "{%- if part['type'] == 'image' %}{%- set ns.text = '<image>\\n' + ns.text %}"
        "{%- else %}{%- set ns.text = ns.text + part['text'] %}{%- endif %}{%- endfor %}{%- endif %}"
    )
    return (
        f"{{{{- {quoted(form.system)} }}}}{{%- for message in messages %}}{said}{{%- if message['role'] == 'user' %}}"
        f"{{{{- {quoted(form.user)} + ns.text{trim} + {quoted(form.user_end)} }}}}{{%- else %}}"
        f"{{{{- {quoted(form.assistant + form.lead)} + ns.text{trim} + {quoted(form.stop + form.after)} }}}}"
        "{%- endif %}{%- endfor %}"
        f"{{%- if add_generation_prompt %}}{{{{- {quoted(form.assistant)} }}}}{{%- endif %}}"
    )
