"""Diffusion transformers built by name, and their weights: the official checkpoints, read strictly, and our own files.

An official checkpoint is a state dict, or a training checkpoint {model, ema, optimizer, …} of which `ema` counts
(github.com/bytetriper/RAE, src/utils/model_utils.py).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovbench._base.errors import DataError
from ovbench._base.seeding import torch_generator
from ovbench.encoders.modeling.sources import read_pickle, read_state
from ovbench.encoders.modeling.vit import load_strict
from ovbench.harness.checkpoint import save_tensors
from ovbench.harness.generation.config import DiTDHConfig, Stage2Config
from ovbench.harness.generation.dit import LightningDiT
from ovbench.harness.generation.head import DiTwDDTHead
from ovbench.harness.generation.network import Stage2Network
from ovbench.harness.generation.official_state import unwrapped
from ovbench.harness.parallel import ALONE, Processes
from ovbench.harness.sharding import any_sharded, whole_state

log = logging.getLogger(__name__)
_BLOCK = re.compile(r"^blocks\.(\d+)\.adaLN_modulation\.1\.weight$")
_FIX = "name a stage2_model.pt of RAE, or a checkpoint of its stage 2"


def build_network(config: Stage2Config, *, seed: int, swiglu_multiple: int = 1) -> Stage2Network:
    """Returns a network with new weights that depend on the seed alone.

    Args:
        config: Architecture.
        seed: Of the run.
        swiglu_multiple: See `blocks.SwiGLU`; 64 on GPUs, 1 elsewhere.
    """
    if config.output_width < config.in_channels:
        log.warning(
            "the last block is %d wide and the latents have %d channels: such a network cannot fit them "
            "(arXiv 2510.11690, section 4.1)",
            config.output_width,
            config.in_channels,
        )
    return _build(config, torch_generator(seed, "dit/weights"), swiglu_multiple)


def _build(config: Stage2Config, generator: torch.Generator | None, swiglu_multiple: int) -> Stage2Network:
    kind = DiTwDDTHead if isinstance(config, DiTDHConfig) else LightningDiT
    with torch.random.fork_rng(devices=[]):  # torch's modules draw once more when they are made
        return kind(config, generator=generator, swiglu_multiple=swiglu_multiple)  # pyright: ignore[reportArgumentType]


def load_network(path: Path, config: Stage2Config, *, swiglu_multiple: int = 1) -> Stage2Network:
    """Returns a network with the weights of a file, in eval mode, float32, without gradients.

    The position table, the time frequencies and the rotary tables are the file's: the reference trains two of them.

    Args:
        path: `.safetensors`, or a pickle of tensors, whose code is never run.
        config: Its architecture.
        swiglu_multiple: See `blocks.SwiGLU`.

    Raises:
        DataError: The file is missing or damaged, or holds no network or one of another architecture.
    """
    state = read_network_state(path)
    with torch.device("meta"):  # nothing is drawn and no memory taken: the state dict fills every tensor
        network = _build(config, None, swiglu_multiple)
    _refuse_other_architecture(network.state_dict(), state, path)
    network = network.to_empty(device="cpu")
    load_strict(network, state, where=str(path))
    return network.eval().requires_grad_(False)


def save_network(path: Path, network: Stage2Network, processes: Processes = ALONE) -> None:
    """Writes the weights alone under their official names, as safetensors; `load_network` reads them back.

    All processes call it together; the main one writes.
    """
    if processes.is_main or any_sharded(network):
        state = whole_state(network)
        if processes.is_main:
            save_tensors(path, state)


def read_network_state(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a file by their official names, of a training checkpoint those of `ema`.

    Raises:
        DataError: The file is missing or damaged, or holds no diffusion transformer.
    """
    document: object = read_state(path) if path.suffix == ".safetensors" or not path.is_file() else read_pickle(path)
    if not isinstance(document, Mapping):
        raise DataError(f"'{path.name}' holds a {type(document).__name__}, no weights", where=str(path), fix=_FIX)
    sections: list[Mapping[Any, Any]] = [
        section for name in ("ema", "state_dict") if isinstance(section := document.get(name), Mapping)
    ]
    tensors = unwrapped(sections[0] if sections else document, path, fix=_FIX)
    if "t_embedder.W" not in tensors:
        shown = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise DataError(
            f"'{path.name}' holds no diffusion transformer of RAE (it holds: {shown}, …)", where=str(path), fix=_FIX
        )
    return tensors


def _refuse_other_architecture(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    """Says in words what is different, before a list of tensors does.

    Raises:
        DataError: Something is.
    """
    ours, theirs = _sketch(wanted), _sketch(found)
    different = [
        f"{name} {theirs[name]} where the configuration has {value}"
        for name, value in ours.items()
        if theirs[name] != value
    ]
    if different:
        raise DataError(
            f"'{path.name}' is of another architecture: {'; '.join(different)}",
            where=str(path),
            fix="name the preset or configuration that the weights were trained with",
        )


def _sketch(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Returns what shapes say about an architecture, as text; what is not there is 'none'."""

    def size(key: str, dim: int) -> str:
        shape = state[key].shape if key in state else ()
        return str(shape[dim]) if len(shape) > dim else "none"

    widths = [  # of the blocks, in order
        state[key].shape[-1]
        for key in sorted((key for key in state if _BLOCK.match(key)), key=lambda key: int(key.split(".")[1]))
    ]
    narrow = state["s_embedder.proj.weight"].shape[0] if "s_embedder.proj.weight" in state else None
    runs = [widths.count(width) for width in dict.fromkeys(widths)]
    mlp = [name for name, key in (("SwiGLU", "w12"), ("GELU", "fc1")) if f"blocks.0.mlp.{key}.weight" in state]
    return {
        "network": "LightningDiT" if narrow is None else "DiT-DH",
        "width": " + ".join(str(width) for width in dict.fromkeys(widths)) or "none",
        "depth": " + ".join(map(str, runs)) or "none",
        "latent channels": size("x_embedder.proj.weight", 1),
        "patch": size("x_embedder.proj.weight", 2),
        "classes with the null label": size("y_embedder.embedding_table.weight", 0),
        "positions": size("pos_embed", 1),
        "MLP": " and ".join(mlp) or "none",
    }
