"""Causal language models of transformers, from a folder, the hub, or tensors; and their tokenizers."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ovbench._base.errors import ConfigError, DataError, DependencyError
from ovbench._base.lazy import require
from ovbench.encoders.modeling.hf_load import quiet, summary
from ovbench.encoders.modeling.weights_file import check_finite, refuse_misfit
from ovbench.harness.understanding.sentencepiece_tokenizer import MODEL_FILE, convert
from ovbench.harness.understanding.templates import template

Precision = Literal["float32", "bfloat16", "float16", "stored"]
_DTYPES: Mapping[str, torch.dtype | None] = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "stored": None,
}  # fmt: skip
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")
_LAYOUT = "give a folder with config.json, model.safetensors and tokenizer.json"


def load_language_model(
    name: str,
    *,
    device: str = "cpu",
    dtype: Precision = "float32",
    revision: str | None = None,
    attn: str | None = None,
    strict: bool = False,
) -> tuple[nn.Module, Any]:
    """Returns a causal language model and its fast tokenizer; code of the folder or repository is never run.

    Args:
        name: A folder, or a hub id (then transformers' own offline settings hold).
        device: Torch device.
        dtype: Of the weights; `stored`: as they are in the file.
        revision: Commit, tag or branch of a hub id.
        attn: Kernel of attention, as transformers names it. None: `eager` on the CPU, where the fused kernel is slow in
            bfloat16, and `sdpa` elsewhere.
        strict: Refuse weights that the model does not know, too.

    Raises:
        ConfigError: Nothing can be loaded from there, or there is no usable tokenizer.
        DataError: The weights do not fit the configuration; keys are named.
        DependencyError: A package that the kernel or the tokenizer needs is not installed.
    """
    transformers = require("transformers", purpose="understanding")
    name = _checked_name(name, revision)
    tokenizer = load_tokenizer(name, revision=revision)
    with _refusing(name), quiet(transformers):
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            name,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are reported by name, and refused here
            dtype=_dtype(dtype) or "auto",
            attn_implementation=_kernel(attn, device),
            revision=revision or "main",
            trust_remote_code=False,
        )
    _refuse_report(report, where=name, strict=strict)
    _check_vocabulary(model, tokenizer, name)
    return model.to(device), tokenizer


def check_language_model(name: str, templates: Iterable[str]) -> None:
    """Finds what is wrong with a language model and the templates it will speak; its weights are not read.

    Args:
        name: A folder, or a hub id.
        templates: Names of templates.

    Raises:
        ConfigError: There is no causal language model, no weights, no usable tokenizer, or no such template.
    """
    transformers = require("transformers", purpose="understanding")
    name = _checked_name(name, None)
    tokenizer = load_tokenizer(name)
    for each in templates:
        template(each, stop=tokenizer.eos_token, tokenizer=tokenizer)
    with _refusing(name), quiet(transformers):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        whole = config.model_type.startswith("llava")
        raise ConfigError(
            f"'{name}' holds a model of the kind '{config.model_type}', which is no causal language model",
            where="language_model",
            fix="a whole LLaVA is given with --llava" if whole else _LAYOUT,
        )
    folder = Path(name).expanduser()
    if folder.is_dir() and not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        raise ConfigError(
            f"no language model can be loaded from '{name}': there are no weights", where="language_model", fix=_LAYOUT
        )


def load_tokenizer(name: str, *, revision: str | None = None) -> Any:
    """Returns the fast tokenizer of a folder or hub id; slow ones are converted where transformers can.

    Raises:
        ConfigError: There is none, it cannot be converted, or it has no end mark.
        DependencyError: The conversion needs a package that is not installed.
    """
    transformers = require("transformers", purpose="understanding")
    folder = Path(name)
    if folder.is_dir() and not any((folder / file).is_file() for file in _TOKENIZERS):
        # Trap: without its files, transformers makes an empty tokenizer for some architectures, and says nothing.
        raise ConfigError(
            f"no language model can be loaded from '{name}': there is no tokenizer",
            where="language_model",
            fix="put the model's tokenizer.json and tokenizer_config.json into the folder",
        )
    with _refusing(name), quiet(transformers):
        tokenizer = _converted(transformers, name, revision or "main")
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(
            f"the tokenizer of '{name}' has no fast form, and label masks are made of its character offsets",
            where="language_model",
            fix="put a tokenizer.json beside it, as `save_pretrained` of a fast tokenizer writes it",
        )
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"the tokenizer of '{name}' has no end mark, so that an answer could not end",
            where="language_model",
            fix="state 'eos_token' in tokenizer_config.json",
        )
    return tokenizer


def _converted(transformers: Any, name: str, revision: str) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except Exception:  # of converting, for which the library has no class of its own
        place = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
        own = [transformers.utils.cached_file(name, file, **place) for file in ("tokenizer.json", MODEL_FILE)]
        if own[0] is not None or own[1] is None:
            raise
        return convert(Path(own[1]).parent)


def language_model_of(
    config: Any,
    state: Mapping[str, Tensor],
    *,
    where: str,
    device: str = "cpu",
    dtype: Precision = "float32",
    attn: str | None = None,
) -> nn.Module:
    """Returns a causal language model that holds exactly these tensors.

    Args:
        config: Its transformers configuration.
        state: Tensors by its own keys.
        where: The folder, for messages.
        device: Torch device.
        dtype: Of the weights.
        attn: As for `load_language_model`.

    Raises:
        DataError: Keys are missing, unused or of another shape, or values are not finite.
        ConfigError: transformers has no causal language model of that configuration.
    """
    transformers = require("transformers", purpose="understanding")
    try:
        kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except KeyError:
        raise ConfigError(
            f"transformers has no causal language model for the architecture '{config.model_type}'", where=where
        ) from None
    check_finite(state, where=where)
    try:
        # Contract: the caller's generator is left alone, though the library draws what is missing.
        with torch.random.fork_rng(devices=[]), quiet(transformers):
            model, report = kind.from_pretrained(
                None,
                config=config,
                state_dict=dict(state),
                dtype=_dtype(dtype) or next(value.dtype for value in state.values() if value.is_floating_point()),
                attn_implementation=_kernel(attn, device),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are reported by name, and refused here
            )
    except Exception as error:  # the library's failures have no class of their own
        raise DataError(f"the language model cannot be loaded: {summary(error)}", where=where) from error
    _refuse_report(report, where=where, strict=True)
    return model.to(device)


def width_of(language_model: Any) -> int:
    """Returns the width of a language model's embeddings."""
    return int(language_model.get_input_embeddings().weight.shape[1])


def _dtype(name: str) -> torch.dtype | None:
    """Returns the torch type of a precision; None for `stored`.

    Raises:
        ConfigError: It is unknown.
    """
    if name not in _DTYPES:
        raise ConfigError(f"unknown dtype '{name}'", where="language_model", fix=f"use one of: {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _refuse_report(report: Mapping[str, Any], *, where: str, strict: bool) -> None:
    shapes = [f"{key} {list(found)} for {list(wanted)}" for key, found, wanted in report["mismatched_keys"]]
    faults = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(report["unexpected_keys"]) if strict else [],
        "wrong shape": sorted(shapes),
    }
    refuse_misfit(faults, where=where)


def _kernel(attn: str | None, device: str) -> str:
    return attn or ("eager" if device == "cpu" else "sdpa")


def _checked_name(name: str, revision: str | None) -> str:
    """Returns the name; a path that leads nowhere is told from a hub id, and needs no network to be refused."""
    path = Path(name).expanduser()
    looks_local = path.is_dir() or name.startswith(("/", ".", "~")) or not _HUB_ID.fullmatch(name)
    if not looks_local:
        return name
    if not path.is_dir():
        raise ConfigError(
            f"no language model can be loaded from '{name}': there is no such folder",
            where="language_model",
            fix=_LAYOUT,
        )
    if revision is not None:
        raise ConfigError(
            f"'{name}' is a folder, and folders have no revision", where="language_model", fix="leave the revision out"
        )
    if not (path / "config.json").is_file():
        raise ConfigError(
            f"no language model can be loaded from '{name}': there is no config.json",
            where="language_model",
            fix=_LAYOUT,
        )
    return str(path)


def _check_vocabulary(model: Any, tokenizer: Any, name: str) -> None:
    rows = int(model.get_input_embeddings().weight.shape[0])
    if tokenizer.vocab_size > rows:
        raise ConfigError(
            f"the tokenizer of '{name}' knows {tokenizer.vocab_size} tokens, and the model has {rows} embeddings",
            where="language_model",
            fix="put the model's own tokenizer into the folder",
        )


@contextlib.contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turns what transformers raises of a folder or hub id into an error for the user."""
    try:
        yield
    except ImportError as error:
        raise DependencyError(
            f"'{name}' needs a package that is not installed: {summary(error)}", where="language_model"
        ) from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ConfigError(
            f"no language model can be loaded from '{name}': {summary(error)}", where="language_model", fix=_LAYOUT
        ) from error
