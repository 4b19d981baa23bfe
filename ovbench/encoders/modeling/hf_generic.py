"""Any vision transformer of transformers' AutoModel: what its configuration does not say is found by a trial run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.lazy import require
from ovbench.encoders.base import LoadRequest
from ovbench.encoders.modeling.hf import ARCHITECTURES, check_grid, find_blocks
from ovbench.encoders.modeling.hf_inputs import preprocessing
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
from ovbench.encoders.modeling.tokens import Network, TokenEncoder, eps_of, keep_output, unchanged

ADAPTER = ("hf", 1)
_TOWERS = ("vision_model", "vision_tower", "visual")
_OWN_ADAPTER = "write an adapter for this network: docs/add-an-encoder.md"
_NOT_DECISIVE = {
    "_name_or_path", "architectures", "bos_token_id", "chunk_size_feed_forward", "dtype", "eos_token_id", "id2label",
    "initializer_factor", "initializer_range", "is_encoder_decoder", "label2id", "output_attentions",
    "output_hidden_states", "pad_token_id", "problem_type", "projection_dim", "return_dict", "torch_dtype",
    "transformers_version", "_attn_implementation", "tie_word_embeddings",
}  # fmt: skip


def _decisive_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what config.json says that can change a feature; defaults of a library version are not part of it."""
    vision = document.get("vision_config")
    own = vision if isinstance(vision, Mapping) else document
    return {key: value for key, value in own.items() if key not in _NOT_DECISIVE}


def load_hf(request: LoadRequest) -> TokenEncoder:
    """Builds a vision encoder that AutoModel knows.

    Class and register tokens are counted by a trial run, or given (`?prefix=N`); the final norm is the one that turns
    the last block's output into `last_hidden_state`.

    Raises:
        ConfigError: The tokens do not fit a grid in raster order, or no norm explains what the model publishes.
        DataError: Files are missing or damaged, or do not fit.
    """
    transformers = require("transformers", purpose="the encoder 'hf'")
    with quiet(transformers):
        return _load(transformers, request)


def _load(transformers: Any, request: LoadRequest) -> TokenEncoder:
    folder = locate(request)
    config = _config(transformers, folder)
    own = getattr(config, "vision_config", config)
    patch, native, depth = (_number(own, name, folder) for name in ("patch_size", "image_size", "num_hidden_layers"))
    empty = build_empty(lambda: transformers.AutoModel.from_config(config), where=str(folder / "config.json"))
    spec, normalisation = preprocessing(request, folder, default_px=native)
    grid = check_grid(spec, patch, native, request)
    tower = _tower(transformers, request, folder, empty, config)
    blocks = find_blocks(tower, depth)
    extra: dict[str, Any] = {}
    can_interpolate = "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters
    if spec.size != (native, native) and can_interpolate:
        extra["interpolate_pos_encoding"] = True

    def run(x: Tensor) -> Any:
        return getattr(tower(pixel_values=x, **extra), "pooler_output", None)

    trial = _trial(tower, blocks, spec.size, patch, extra, folder)
    num_prefix = _prefix(request, trial.last.shape[1], grid, str(own.model_type))
    _check_order(trial, num_prefix, grid, folder)
    publish = _final_norm(tower, trial, folder)
    return TokenEncoder.of(
        request,
        network=Network(
            model=tower,
            blocks=blocks,
            run=run,
            dim=trial.last.shape[-1],
            grid=grid,
            num_prefix=num_prefix,
            publish=publish,
            eps=eps_of(publish, *blocks[0].modules()),
            architecture={
                "class": type(tower).__name__,
                "positions": "stored" if spec.size == (native, native) else "interpolated",
                **_decisive_fields(read_fields(folder)),
            },
        ),
        input=spec,
        normalisation=normalisation,
        adapter=ADAPTER,
    )


def _config(transformers: Any, folder: Path) -> Any:
    fields, where = read_fields(folder), str(folder / "config.json")
    if "auto_map" in fields:
        raise DataError(
            "the model brings its own Python code, which ovbench does not run",
            where=where,
            fix="write an adapter that imports that code knowingly: docs/add-an-encoder.md",
        )
    for key, kind in ARCHITECTURES.items():
        if kind.shuffles and fields["model_type"] in kind.model_types:
            raise DataError(
                f"'{key}' drops and shuffles its tokens", where=where, fix=f"use --encoder mae:{folder}, which does not"
            )
    try:
        return transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the library's own kinds of failure, none of them its own class
        raise DataError(f"the configuration cannot be used: {summary(error)}", where=where, fix=_OWN_ADAPTER) from error


def _tower(transformers: Any, request: LoadRequest, folder: Path, empty: nn.Module, config: Any) -> Any:
    """Returns the image tower of a two-tower model, or the model."""
    name = next((name for name in _TOWERS if isinstance(getattr(empty, name, None), nn.Module)), "")
    if request.random_seed is not None:
        model = build_random(
            lambda: transformers.AutoModel.from_config(config), request.random_seed, where=str(folder / "config.json")
        )
        return getattr(model, name) if name else model
    part, base = f"{name}." if name else "", f"{getattr(empty, 'base_model_prefix', '')}."
    parts = (part,) if part else tuple(f"{child}." for child, _ in empty.named_children())
    model, without = fill(
        type(empty),
        config,
        read_weights_folder(folder),
        where=str(folder),
        part=part,
        must_be_used=lambda key: key.removeprefix(base).startswith(parts),  # a head for another task need not
        may_miss=("pooler.",),  # a ViT with a classifier has none; it reads the class token alone
    )
    tower = getattr(model, name) if name else model
    if without:
        tower.pooler = None
    return tower


def _number(config: Any, name: str, folder: Path) -> int:
    value = getattr(config, name, None)
    if isinstance(value, list | tuple) and len(set(value)) == 1:
        value = value[0]
    if not isinstance(value, int) or value < 1 or (name == "num_hidden_layers" and value > MOST_BLOCKS):
        raise DataError(
            f"the configuration gives no single {name} (it says {value!r})",
            where=str(folder / "config.json"),
            fix=_OWN_ADAPTER,
        )
    return value


@dataclass(frozen=True, slots=True)
class _Trial:
    last: Tensor  # h[L] of a noise image, [1, P + N, C]
    published: Tensor  # `last_hidden_state` of it
    moved: tuple[int, ...]  # where h[0] changes most when the first, one off the diagonal and the last patch do


def _places(rows: int, columns: int) -> tuple[tuple[int, int], ...]:
    return (0, 0), (0, columns - 1), (rows - 1, columns - 1)


@torch.no_grad()
def _trial(
    tower: Any,
    blocks: tuple[nn.Module, ...],
    size: tuple[int, int],
    patch: int,
    extra: dict[str, Any],
    folder: Path,
) -> _Trial:
    first: list[Tensor] = []
    last: list[Tensor] = []
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    batch = [image]
    for row, column in _places(size[0] // patch, size[1] // patch):
        changed = image.clone()
        changed[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] *= -1.0
        batch.append(changed)
    handles = [
        blocks[0].register_forward_pre_hook(lambda _module, args, _kwargs: first.append(args[0]), with_kwargs=True),
        keep_output(blocks[-1], last),
    ]
    try:
        with torch.random.fork_rng(devices=[]):
            out = tower(pixel_values=torch.cat(batch), **extra)
    except Exception as error:  # whatever a foreign network raises on an image it was not made for
        raise DataError(
            f"a trial run on {size[0]} x {size[1]} pixels failed: {summary(error)}",
            where=str(folder),
            fix="leave size out, or mend the size in the processor's JSON; else " + _OWN_ADAPTER,
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    published = getattr(out, "last_hidden_state", None)
    if not isinstance(published, Tensor) or len(first) != 1 or len(last) != 1 or last[0].shape != published.shape:
        raise DataError(
            "the network publishes no last_hidden_state of its last block", where=str(folder), fix=_OWN_ADAPTER
        )
    moved = (first[0][1:] - first[0][:1]).flatten(2).norm(dim=-1).argmax(dim=-1)
    return _Trial(last[0][:1], published[:1], tuple(int(index) for index in moved))


def _prefix(request: LoadRequest, length: int, grid: tuple[int, int], model_type: str) -> int:
    found = length - grid[0] * grid[1]
    text = request.options.get("prefix")
    if found < 0:
        raise ConfigError(
            f"the network returns {length} tokens, fewer than its {grid[0]} x {grid[1]} grid",
            where=f"--encoder hf ({model_type})",
            fix=f"it merges tokens: {_OWN_ADAPTER}",
        )
    if text is not None and (not text.isdecimal() or int(text) != found):
        raise ConfigError(
            f"prefix={text} was given, and the network returns {length} tokens for a {grid[0]} x {grid[1]} grid",
            where="--encoder hf?prefix=",
            fix=f"the rest is {found}",
        )
    return found


def _check_order(trial: _Trial, num_prefix: int, grid: tuple[int, int], folder: Path) -> None:
    """Refuses a network whose tokens are not class and register tokens first, then patches in raster order."""
    wanted = tuple(num_prefix + row * grid[1] + column for row, column in _places(*grid))
    if trial.moved != wanted:
        raise ConfigError(
            f"patches {', '.join(map(str, _places(*grid)))} are at the tokens {list(trial.moved)}, and behind "
            f"{num_prefix} class and register tokens they would be at {list(wanted)}",
            where=f"--encoder hf:{folder}",
            fix=_OWN_ADAPTER,
        )


def _final_norm(tower: nn.Module, trial: _Trial, folder: Path) -> Callable[[Tensor], Tensor]:
    if torch.allclose(trial.last, trial.published, atol=1e-5):
        return unchanged
    with torch.no_grad():
        for name, module in tower.named_modules():
            is_norm = isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("Norm")
            if is_norm and "." not in name.removeprefix("encoder."):
                found = module(trial.last)
                if torch.allclose(found, trial.published, atol=1e-5):
                    return module
    raise ConfigError(
        "no norm of the network turns its last block's output into last_hidden_state",
        where=f"--encoder hf:{folder}",
        fix=_OWN_ADAPTER,
    )
