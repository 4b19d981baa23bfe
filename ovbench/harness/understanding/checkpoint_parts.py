"""What a checkpoint of any layout comes down to, and how a LLaVA is put together from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.files import read_json
from ovbench.encoders.base import Aspect, DType, Encoder, Tap
from ovbench.encoders.modeling.weights_file import check_finite
from ovbench.encoders.registry import load_encoder, parse_encoder, with_options
from ovbench.harness.understanding.language_model import (
    Precision,
    language_model_of,
    load_language_model,
    load_tokenizer,
    width_of,
)
from ovbench.harness.understanding.llava import Llava
from ovbench.harness.understanding.projector import build_projector, check_projector, projector_widths, stored_widths
from ovbench.harness.understanding.projector import stored_kind as kind_of
from ovbench.harness.understanding.templates import template
from ovbench.harness.understanding.towers import Tower, check_tower, check_width, keep_tower

Layout = Literal["ovbench", "llava", "transformers", "run"]
MAX_LENGTH = 2048  # positions after splicing: what LLaVA-1.5 is trained with


@dataclass(frozen=True, kw_only=True, slots=True)
class TextModel:
    """A language model inside a checkpoint."""

    config: Any  # of transformers
    state: Mapping[str, Tensor]  # by its own keys
    folder: Path  # with the tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """A checkpoint, read."""

    layout: Layout
    where: str  # the folder, for messages
    projector: Mapping[str, Tensor]  # by the module's own keys
    text: TextModel | None = None  # None: `language_model` names it
    language_model: str | None = None  # folder or hub id
    is_whole: bool = False  # that folder is a part of the checkpoint, and must fit it to the last key
    tower: Tower | None = None  # that the checkpoint holds
    encoder: str | None = None  # that it names
    tap: Tap | None = None
    aspect: Aspect | None = None
    template: str = "v1"
    stop: str | None = None
    max_length: int = MAX_LENGTH
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedLlava:
    """A trained model, and which encoder it looks through."""

    model: Llava
    encoder: str | None  # spec string; None: the checkpoint does not say
    tap: Tap | None  # what the projector reads; None: the encoder's default
    aspect: Aspect | None  # how pictures become squares; None: the encoder's default
    layout: Layout
    metadata: Mapping[str, Any] = field(default_factory=dict)
    named: str | None = None  # encoder that the checkpoint itself names
    language_model: str | None = None  # folder or hub id of one that is no part of the checkpoint

    @property
    def dim(self) -> int:
        """Width of the visual tokens that the projector reads."""
        return projector_widths(self.model.projector)[0]

    def load_encoder(self, *, device: str = "cpu", dtype: DType = "float32") -> Encoder:
        """Returns the encoder, with the checkpoint's aspect; read it at `tap`.

        Raises:
            ConfigError: The checkpoint does not say which it is.
            DataError: Its tokens are not as wide as the projector reads them.
        """
        if self.encoder is None:
            raise ConfigError(
                "the checkpoint does not say which encoder it looks through", where="--encoder", fix="name it"
            )
        encoder = load_encoder(spec_with_aspect(self.encoder, self.aspect), device=device, dtype=dtype)
        check_width(self.dim, encoder, where=self.encoder)
        return encoder


def spec_with_aspect(spec: str, aspect: Aspect | None) -> str:
    """Returns an encoder's spec with an aspect, where the spec does not ask for one itself."""
    parsed = parse_encoder(spec)
    if aspect is None or "aspect" in parsed.options:
        return parsed.canonical
    return with_options(parsed, aspect=aspect).canonical


def stated_ends(folder: Path) -> Any:
    """Returns the end ids of a folder's generation_config.json; None where it has none."""
    path = folder / "generation_config.json"
    return read_json(path).get("eos_token_id") if path.is_file() else None


def assemble(
    parts: Parts,
    *,
    encoder: str | None = None,
    language_model: str | None = None,
    form: str | None = None,
    device: str = "cpu",
    dtype: Precision = "float32",
    attn: str | None = None,
) -> LoadedLlava:
    """Returns the model of a checkpoint, in evaluation mode.

    Args:
        parts: The checkpoint.
        encoder: In place of the one that it names; must have the weights of the tower that it holds, if it does.
        language_model: Folder or hub id, where the checkpoint holds none.
        form: Template, in place of the checkpoint's.
        device: Torch device.
        dtype: Of the language model's weights; the projector's are float32.
        attn: Kernel of attention; None: see `load_language_model`.

    Raises:
        ConfigError: The language model is not known, or cannot be loaded.
        DataError: Something does not fit; names or numbers are in the message.
    """
    where = parts.where
    check_finite(parts.projector, where=where)
    dim, _ = stored_widths(parts.projector, where=where)
    if encoder is not None:
        encoder = parse_encoder(encoder).canonical
        if parts.tower is not None:
            check_tower(parts.tower, encoder, where=where)
    elif parts.tower is not None:
        encoder = keep_tower(parts.tower, spec=parts.encoder, where=where)
    else:
        encoder = parts.encoder
    outside: str | None = None
    if parts.text is not None:
        if language_model is not None:
            raise ConfigError(
                "the checkpoint holds its language model, and another was named",
                where="--llm",
                fix="leave it out",
            )
        tokenizer = load_tokenizer(str(parts.text.folder))
        _check_width(parts, int(parts.text.config.get_text_config().hidden_size), dim)
        model = language_model_of(
            parts.text.config, parts.text.state, where=where, device=device, dtype=dtype, attn=attn
        )
        if (ends := stated_ends(parts.text.folder)) is not None:
            model.generation_config.eos_token_id = ends  # type: ignore[union-attr]
    else:
        name = parts.language_model if parts.is_whole else language_model or parts.language_model
        if parts.is_whole and language_model is not None:
            raise ConfigError(
                "the checkpoint holds its language model, and another was named",
                where="--llm",
                fix="leave it out",
            )
        if not name:
            raise ConfigError(
                "the checkpoint holds a projector alone, and does not say which language model it was trained for",
                where=where,
                fix="name the folder or hub id: --llm",
            )
        outside = None if parts.is_whole else name
        model, tokenizer = load_language_model(name, device=device, dtype=dtype, attn=attn, strict=parts.is_whole)
        _check_width(parts, width_of(model), dim)
    projector = build_projector(kind_of(parts.projector, where=where), dim, width_of(model), seed=0)
    projector.load_state_dict({key: value.float() for key, value in parts.projector.items()})
    chosen = template(form or parts.template, stop=parts.stop or tokenizer.eos_token, tokenizer=tokenizer)
    llava = Llava(model, tokenizer, projector.to(device), chosen, max_length=parts.max_length)
    return LoadedLlava(
        model=llava.eval(),
        encoder=encoder,
        tap=parts.tap,
        aspect=parts.aspect,
        layout=parts.layout,
        metadata=parts.metadata,
        named=parts.encoder,
        language_model=outside,
    )


def _check_width(parts: Parts, width: int, dim: int) -> None:
    check_projector(parts.projector, dim, width, where=parts.where)


def check_target(folder: Path, *, own: str = "") -> None:
    """Refuses to write a checkpoint over a folder that holds something.

    Args:
        folder: The target.
        own: A file by which a folder is told to be an older checkpoint that may be replaced; empty: none may.

    Raises:
        ConfigError: It does, or is a file.
    """
    if folder.is_dir() and (not any(folder.iterdir()) or (own and (folder / own).is_file())):
        return
    if folder.exists():
        raise ConfigError(
            f"'{folder.name}' exists and is not empty", where=str(folder), fix="choose another folder, or remove it"
        )


def no_checkpoint(path: Path) -> DataError:
    """Returns the error for a path that holds no checkpoint of a known layout."""
    inside = ", ".join(sorted(item.name for item in path.iterdir())[:8]) if path.is_dir() else "it is no folder"
    return DataError(
        f"no checkpoint of a known layout ({inside or 'it is empty'})",
        where=str(path),
        fix="name a folder with ovbench_llava.json, with the original LLaVA's config.json, or of transformers' "
        "LlavaForConditionalGeneration; or a run folder",
    )
