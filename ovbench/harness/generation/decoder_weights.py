"""Weights of RAE's decoder on disk: the released file, a whole autoencoder or a training checkpoint, loaded strictly.

The reference loads with `strict=False`, which leaves a random decoder where a whole training checkpoint was named
(github.com/bytetriper/RAE, issue 54). Here every key is used and every parameter filled, or the file is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.modeling.frontend import freeze
from ovbench.encoders.modeling.sources import read_pickle
from ovbench.encoders.modeling.vit import load_strict
from ovbench.encoders.modeling.weights_file import read_tensors, refuse_misfit
from ovbench.harness.checkpoint import save_tensors
from ovbench.harness.generation.decoder import ViTDecoder
from ovbench.harness.generation.decoder_config import DECODERS, DecoderConfig, square_side
from ovbench.harness.generation.official_state import unwrapped

Weights = Literal["ema", "model"]
_FIX = "name a decoder's model.pt, or a checkpoint of RAE's stage 1"


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderState:
    """The tensors of a decoder under their official names, and where in the file they were."""

    tensors: dict[str, Tensor]
    origin: str  # `decoder`, `autoencoder`, or of a training checkpoint `ema` or `model`


def read_decoder_state(path: Path, *, weights: Weights = "ema") -> DecoderState:
    """Returns the decoder's tensors of a `.safetensors` file or of a pickle, whose code is never run.

    Accepted are the decoder alone, as the hub has it; the state of a whole autoencoder (`decoder.…`, `encoder.…`); and
    a training checkpoint {model, ema, optimizer, …} of one. Prefixes of wrappers are dropped.

    Args:
        path: The file.
        weights: Which weights of a training checkpoint: the moving average, or the last ones.

    Raises:
        DataError: The file is missing or damaged, or holds no decoder.
        ConfigError: It is a training checkpoint without the weights asked for.
    """
    if path.is_dir():
        raise DataError(
            f"'{path.name}' is a folder, not a decoder's file",
            where=str(path),
            fix="name its weights file; a folder of diffusers is read by diffusers_rae.import_folder",
        )
    document: Any = read_tensors(path)[0] if path.suffix == ".safetensors" else read_pickle(path)
    if not isinstance(document, Mapping):
        raise DataError(f"'{path.name}' holds a {type(document).__name__}, no weights", where=str(path), fix=_FIX)
    held = [name for name in ("ema", "model") if isinstance(document.get(name), Mapping)]
    origin = ""
    if held:
        if weights not in held:
            raise ConfigError(
                f"the training checkpoint '{path.name}' holds no '{weights}' weights, only '{held[0]}'",
                where=str(path),
                fix=f"ask for weights={held[0]!r}",
            )
        document, origin = document[weights], weights
    elif isinstance(document.get("state_dict"), Mapping):
        document = document["state_dict"]
    tensors = unwrapped(document, path, fix=_FIX)
    own = {key: value for key, value in tensors.items() if key.startswith("decoder.")}
    if own and "decoder_embed.weight" not in tensors:
        tensors = {key.removeprefix("decoder."): value for key, value in own.items()}
        origin = origin or "autoencoder"
    if "decoder_embed.weight" not in tensors:
        shown = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise DataError(f"'{path.name}' holds no decoder of RAE (it holds: {shown}, …)", where=str(path), fix=_FIX)
    if any(".attention.to_q." in key for key in tensors):
        raise DataError(
            f"'{path.name}' is in diffusers' layout",
            where=str(path),
            fix="read its folder, with config.json, by diffusers_rae.import_folder",
        )
    return DecoderState(tensors=tensors, origin=origin or "decoder")


def config_of(tensors: Mapping[str, Tensor], *, num_heads: int | None = None, where: str) -> DecoderConfig:
    """Returns the architecture that a decoder's tensors are of.

    The shapes say everything but the number of heads, which is that of the preset of the same width, depth and MLP.

    Args:
        tensors: By official names.
        num_heads: In place of the preset's.
        where: The file, for messages.

    Raises:
        DataError: Tensors are missing or have shapes of no decoder.
        ConfigError: No preset has this shape and no number of heads was given.
    """
    names = (
        "decoder_embed.weight",
        "decoder_pos_embed",
        "decoder_pred.weight",
        "decoder_layers.0.intermediate.dense.weight",
    )
    refuse_misfit({"missing": [name for name in names if name not in tensors]}, where=where)
    embed, positions, predict, mlp = (tensors[name] for name in names)
    if embed.ndim != 2 or positions.ndim != 3 or predict.ndim != 2 or mlp.ndim != 2:
        raise DataError("the tensors have shapes of no decoder of RAE", where=where, fix=_FIX)
    blocks = {key.split(".")[1] for key in tensors if key.startswith("decoder_layers.")}
    if predict.shape[0] % 3:
        raise DataError(f"a patch of {predict.shape[0]} values is none of RGB pictures", where=where, fix=_FIX)
    patch_px = square_side(predict.shape[0] // 3, where=f"{where}: decoder_pred.weight")
    shape = {"width": embed.shape[0], "depth": len(blocks), "mlp_width": mlp.shape[0]}
    if num_heads is None:
        found = [p for p in DECODERS.values() if all(getattr(p, name) == value for name, value in shape.items())]
        if not found:
            raise ConfigError(
                "the weights do not say how many attention heads they have, and no preset is of width "
                f"{shape['width']}, {shape['depth']} blocks and MLP {shape['mlp_width']}",
                where=where,
                fix="give num_heads",
            )
        num_heads = found[0].num_heads
    return DecoderConfig(
        latent_dim=embed.shape[1], num_patches=positions.shape[1] - 1, patch_px=patch_px, num_heads=num_heads, **shape
    )


def load_decoder(
    path: Path,
    config: DecoderConfig | None = None,
    *,
    weights: Weights = "ema",
    num_heads: int | None = None,
    frozen: bool = True,
) -> ViTDecoder:
    """Returns the decoder of a file, in float32 and with its own position table; see `read_decoder_state`.

    Args:
        path: The file.
        config: Architecture; None: what the shapes say.
        weights: Which weights of a training checkpoint.
        num_heads: Without `config`: heads, where no preset has the file's shape.
        frozen: In eval mode and without gradients; else as newly built, ready to be trained on.

    Raises:
        DataError: The file is missing or damaged, holds no decoder, or one of another architecture.
        ConfigError: See `read_decoder_state` and `config_of`.
    """
    state = read_decoder_state(path, weights=weights)
    chosen = config if config is not None else config_of(state.tensors, num_heads=num_heads, where=str(path))
    if num_heads is not None and num_heads != chosen.num_heads:
        chosen = replace(chosen, num_heads=num_heads)
    return decoder_of(state.tensors, chosen, where=str(path), frozen=frozen)


def decoder_of(tensors: Mapping[str, Tensor], config: DecoderConfig, *, where: str, frozen: bool = True) -> ViTDecoder:
    """Returns a decoder that holds the tensors, strictly.

    Raises:
        DataError: Tensors are missing, unused, of another shape or not finite; they are named.
    """
    with torch.random.fork_rng(devices=[]):  # the caller's generator is left alone by the initial weights
        decoder = ViTDecoder(config)
    load_strict(decoder, tensors, where=where)
    return freeze(decoder) if frozen else decoder


def save_decoder(path: Path, decoder: ViTDecoder, *, encoder: str = "") -> None:
    """Writes the decoder alone under its official names, as safetensors; `load_decoder` reads it back.

    Args:
        path: The file.
        decoder: The decoder.
        encoder: `latent_fingerprint` of what it was trained on; empty: not known.
    """
    save_tensors(path, decoder.state_dict(), {"encoder": encoder} if encoder else None)


def encoder_of(path: Path) -> str:
    """Returns the `latent_fingerprint` that `save_decoder` wrote; empty where the file does not say it.

    Raises:
        DataError: A safetensors file that cannot be read.
    """
    return read_tensors(path)[1].get("encoder", "") if path.suffix == ".safetensors" else ""
