"""Weights folders in transformers' layout → its modules: every key used, no code run, nothing written to stderr."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovbench._base.errors import DataError
from ovbench._base.lazy import require
from ovbench.encoders.modeling.sources import find_file, read_json_file, read_state, seeded
from ovbench.encoders.modeling.weights_file import check_finite, refuse_misfit

_SHARDS = ".index.json"
_FILES = (
    "model.safetensors", f"model.safetensors{_SHARDS}", "pytorch_model.bin", f"pytorch_model.bin{_SHARDS}",
)  # fmt: skip
MOST_BLOCKS = 1000  # more is a damaged number, and takes minutes to find out otherwise
_LAYOUT = "name a folder in transformers' layout: config.json and weights"


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Keeps the library's progress bars and load reports off stderr, and puts its settings back afterwards."""
    hub_bars = require("huggingface_hub").utils
    settings = transformers.utils.logging
    level, bars, hidden = (
        settings.get_verbosity(), settings.is_progress_bar_enabled(), hub_bars.are_progress_bars_disabled(),
    )  # fmt: skip
    settings.set_verbosity(logging.CRITICAL)
    settings.disable_progress_bar()
    try:
        yield
    finally:
        settings.set_verbosity(level)
        if bars:
            settings.enable_progress_bar()  # also shows the hub's
        if hidden:
            hub_bars.disable_progress_bars()
        else:
            hub_bars.enable_progress_bars()


def read_fields(folder: Path) -> dict[str, Any]:
    """Returns a folder's config.json.

    Raises:
        DataError: It is missing or damaged, names no architecture, or asks for quantised weights.
    """
    if not folder.is_dir():
        raise DataError(f"'{folder.name}' is no folder", where=str(folder), fix=_LAYOUT)
    fields, where = read_json_file(folder / "config.json", fix=_LAYOUT), str(folder / "config.json")
    if not isinstance(fields.get("model_type"), str):
        raise DataError(f"'model_type' must be a text, got {fields.get('model_type')!r}", where=where, fix=_LAYOUT)
    if any("quantization_config" in part for part in fields.values() if isinstance(part, Mapping)) or (
        "quantization_config" in fields
    ):
        raise DataError("the weights are quantised", where=where, fix="name the weights as they were published first")
    return fields


def read_weights_folder(folder: Path) -> dict[str, Tensor]:
    """Returns the tensors of a folder, from one file or from its shards; code in a pickle is never run.

    Raises:
        DataError: Files are missing or damaged, or hold something else than named tensors.
    """
    path = find_file(folder, _FILES)
    if not path.name.endswith(_SHARDS):
        return read_state(path)
    parts = read_json_file(path).get("weight_map")
    names: list[Any] = list(parts.values()) if isinstance(parts, Mapping) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise DataError(
            "'weight_map' must name the shard of each tensor, in this folder", where=str(path), fix="fetch it again"
        )
    state: dict[str, Tensor] = {}
    for name in sorted(set(names)):
        state.update(read_state(folder / name))
    return state


def summary(error: Exception) -> str:
    """Returns an error of the library in one line."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if isinstance(error, KeyError):
        return f"unknown name {lines[0]}"
    return " ".join(lines[:2]) if lines else type(error).__name__


def build_empty(make: Callable[[], nn.Module], *, where: str) -> nn.Module:
    """Returns a module without memory, which shows in milliseconds whether a configuration can be built.

    Raises:
        DataError: It cannot.
    """
    try:
        with torch.device("meta"):
            return make()
    except Exception as error:  # the library checks its configurations with errors of its own
        raise DataError(
            f"no network can be built from the configuration: {summary(error)}", where=where, fix="correct config.json"
        ) from error


def build_random(make: Callable[[], nn.Module], seed: int, *, where: str) -> Any:
    """Returns a module with seeded, untrained weights.

    Raises:
        DataError: It does not fit into memory.
    """
    try:
        return seeded(make, seed).eval()
    except (RuntimeError, MemoryError) as error:
        raise DataError(f"the network cannot be built: {summary(error)}", where=where) from error


def fill(
    kind: type[Any],
    config: Any,
    state: Mapping[str, Tensor],
    *,
    where: str,
    part: str = "",
    must_be_used: Callable[[str], bool] = lambda _key: True,
    may_miss: tuple[str, ...] = (),
) -> tuple[Any, tuple[str, ...]]:
    """Returns a float32 model that holds the tensors, and which of the keys it may miss are missing.

    The library renames the keys of its older versions; afterwards every parameter must be filled, every key be used.

    Args:
        kind: Class of the model.
        config: Its configuration.
        state: Tensors by their published keys.
        where: The folder, for messages.
        part: Beginning of the keys that must be filled, with their dot; empty: all.
        must_be_used: Whether a key that the model does not know is a fault.
        may_miss: Beginnings of keys, behind `part`, that need not be there.

    Raises:
        DataError: Keys are missing, unused or of another shape; or values are not finite.
    """
    try:
        # Contract: the caller's generator is left alone, though the library draws what is missing.
        with torch.random.fork_rng(devices=[]):
            model, report = kind.from_pretrained(
                None,
                config=config,
                state_dict=dict(state),
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are reported by name, and refused here
            )
    except Exception as error:  # the library's failures have no class of their own
        raise DataError(f"the weights cannot be loaded: {summary(error)}", where=where) from error
    missing = sorted(key for key in report["missing_keys"] if key.startswith(part))
    excused = tuple(key for key in missing if may_miss and key.removeprefix(part).startswith(may_miss))
    shapes = sorted(
        f"{key} {list(found)} for {list(wanted)}"
        for key, found, wanted in report["mismatched_keys"]
        if key.startswith(part)
    )
    faults = {
        "missing": [key for key in missing if key not in excused],
        "unexpected": sorted(key for key in report["unexpected_keys"] if must_be_used(key)),
        "wrong shape": shapes,
    }
    refuse_misfit(faults, where=where)
    check_finite(model.get_submodule(part.removesuffix(".")).state_dict(), where=where)
    return model.eval(), excused
