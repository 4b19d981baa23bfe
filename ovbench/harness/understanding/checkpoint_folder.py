"""Checkpoints of trained models as folders: ovbench's own layout, and one loader for all layouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.files import atomic_dir, read_json, write_json, writing
from ovbench._base.lazy import require
from ovbench.encoders.base import Aspect, Tap
from ovbench.encoders.modeling.hf_load import quiet
from ovbench.harness.checkpoint import load_tensors, save_tensors
from ovbench.harness.sharding import whole_state
from ovbench.harness.understanding.checkpoint_parts import (
    LoadedLlava,
    Parts,
    assemble,
    check_target,
    no_checkpoint,
)
from ovbench.harness.understanding.language_model import Precision
from ovbench.harness.understanding.llava import PROJECTOR_PREFIX, Llava
from ovbench.harness.understanding.original_layout import is_original, read_original
from ovbench.harness.understanding.projector import projector_widths, stored_kind
from ovbench.harness.understanding.run_checkpoint import is_run, load_run
from ovbench.harness.understanding.towers import placed, take_along
from ovbench.harness.understanding.transformers_layout import is_transformers, read_transformers

__all__ = ["CONFIG", "LoadedLlava", "load_checkpoint", "save_checkpoint"]
CONFIG, PROJECTOR, LANGUAGE_MODEL = "ovbench_llava.json", "mm_projector.safetensors", "language_model"
_FORMAT = 1  # of the folder: raised when an older reader would misread it


def save_checkpoint(
    folder: Path,
    model: Llava,
    *,
    encoder: str,
    tap: Tap | None = None,
    aspect: Aspect | None = None,
    language_model: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes a model in ovbench's own layout; the folder appears whole or not at all.

    `ovbench_llava.json`, `mm_projector.safetensors` and, where the language model is a part of the checkpoint,
    `language_model/` as transformers writes it, with its tokenizer; `vision_tower/` where an older checkpoint held it.

    Args:
        folder: The target; an older checkpoint of this layout is replaced.
        model: The model.
        encoder: Spec string of the encoder that it looks through.
        tap: What its projector reads; None: the encoder's default.
        aspect: How pictures become squares; None: the encoder's default.
        language_model: Folder or hub id of a language model that was not trained, which is then named instead of
            written. None: it is written.
        metadata: Anything else that JSON can hold.
        state: Whole tensors on the CPU under the model's own keys, where its parameters are spread over processes; the
            process that writes calls this.

    Raises:
        ConfigError: The folder holds something else, or cannot be written.
    """
    check_target(folder, own=CONFIG)
    projector = _part(state, "projector.") or whole_state(model.projector)
    dim, width = projector_widths(model.projector)
    with atomic_dir(folder) as out, writing(folder):
        save_tensors(out / PROJECTOR, {f"{PROJECTOR_PREFIX}{key}": value for key, value in projector.items()})
        if language_model is None:
            _write_language_model(out / LANGUAGE_MODEL, model, _part(state, "language_model."))
        write_json(
            out / CONFIG,
            {
                "aspect": aspect,
                "encoder": take_along(encoder, out),
                "format": _FORMAT,
                "language_model": language_model,
                "max_length": model.max_length,
                "metadata": dict(metadata or {}),
                "projector": {"kind": stored_kind(projector, where=str(folder)), "reads": dim, "writes": width},
                "stop": model.form.stop,
                "tap": None if tap is None else asdict(tap),
                "template": model.form.name,
            },
        )


def load_checkpoint(
    path: Path,
    *,
    encoder: str | None = None,
    language_model: str | None = None,
    template: str | None = None,
    device: str = "cpu",
    dtype: Precision = "float32",
    attn: str | None = None,
) -> LoadedLlava:
    """Returns a trained model, ready to answer, from a folder of any layout.

    Known are: ovbench's own; the original LLaVA's, whole or with a projector alone (stage 1); that of transformers'
    `LlavaForConditionalGeneration`; and a run folder of ovbench, whose weights are in the cache.

    Args:
        path: The folder, or the file `mm_projector.bin`.
        encoder: Spec string, in place of the one that the checkpoint names.
        language_model: Folder or hub id, where the checkpoint holds a projector alone.
        template: In place of the checkpoint's.
        device: Torch device.
        dtype: Of the language model's weights.
        attn: Kernel of attention; None: see `load_language_model`.

    Raises:
        ConfigError: Something must be named that the checkpoint does not say.
        DataError: Files are missing or damaged, or keys, shapes or widths do not fit; they are named.
    """
    options: dict[str, Any] = {"device": device, "dtype": dtype, "attn": attn}
    if is_run(path):
        if language_model is not None:
            raise ConfigError(
                "a run's language model is the one that it was trained with", where="--llm", fix="leave it out"
            )
        return load_run(path, encoder=encoder, form=template, **options)
    return assemble(_read(path), encoder=encoder, language_model=language_model, form=template, **options)


def layout_of(path: Path) -> Literal["ovbench", "llava", "transformers", "run"]:
    """Returns the layout of a folder.

    Raises:
        DataError: It has none that is known.
    """
    if (path / CONFIG).is_file():
        return "ovbench"
    if is_run(path):
        return "run"
    if is_transformers(path):
        return "transformers"
    if is_original(path):
        return "llava"
    raise no_checkpoint(path)


def _read(path: Path) -> Parts:
    match layout_of(path):
        case "ovbench":
            return _read_own(path)
        case "transformers":
            return read_transformers(path)
        case _:
            return read_original(path)


def _read_own(folder: Path) -> Parts:
    where = str(folder / CONFIG)
    content = read_json(folder / CONFIG)
    try:
        if content["format"] > _FORMAT:
            raise DataError(
                f"the checkpoint has format {content['format']}, and this ovbench reads up to {_FORMAT}",
                where=where,
                fix="update ovbench",
            )
        inside = content["language_model"] is None
        parts = Parts(
            layout="ovbench",
            where=str(folder),
            projector=_without_prefix(load_tensors(folder / PROJECTOR), str(folder / PROJECTOR)),
            language_model=str(folder / LANGUAGE_MODEL) if inside else content["language_model"],
            is_whole=inside,
            encoder=placed(content["encoder"], folder),
            tap=None if content["tap"] is None else Tap(**content["tap"]),
            aspect=content["aspect"],
            template=content["template"],
            stop=content["stop"],
            max_length=int(content["max_length"]),
            metadata=content["metadata"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"'{CONFIG}' is not of a checkpoint: {type(error).__name__} {error}", where=where, fix="write it again"
        ) from error
    return parts


def _without_prefix(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    wrong = [key for key in tensors if not key.startswith(PROJECTOR_PREFIX)]
    if wrong:
        raise DataError(f"the projector's file holds other tensors: {', '.join(sorted(wrong)[:5])}", where=where)
    return {key.removeprefix(PROJECTOR_PREFIX): value for key, value in tensors.items()}


def _part(state: Mapping[str, Tensor] | None, prefix: str) -> dict[str, Tensor]:
    found = {} if state is None else state
    return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}


def _write_language_model(folder: Path, model: Llava, state: Mapping[str, Tensor]) -> None:
    """Writes the language model and its tokenizer in transformers' layout, sharded where it is large."""
    with quiet(require("transformers", purpose="understanding")):
        model.language_model.save_pretrained(folder, **({"state_dict": dict(state)} if state else {}))
        model.tokenizer.save_pretrained(folder)
