"""Training state on disk: one safetensors file that appears whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from ovbench._base.files import atomic_write_bytes
from ovbench._base.fingerprint import fingerprint
from ovbench.encoders.modeling.weights_file import read_tensors
from ovbench.harness.sharding import cpu_copy, loading_whole, spread_as, whole_state


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """Everything that training needs to go on: tensors by name, and the number of finished steps."""

    tensors: dict[str, torch.Tensor]
    step: int


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file atomically; equal contents give equal bytes."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    atomic_write_bytes(path, _with_sorted_metadata(save(plain, metadata=dict(metadata or {}))))


def _with_sorted_metadata(data: bytes) -> bytes:
    """Returns a safetensors file whose metadata are in order of their names.

    Trap: the library writes them in the order of a hash map, which differs from call to call.
    """
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if len(header.get("__metadata__", ())) < 2:
        return data
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Reads a safetensors file.

    Raises:
        DataError: The file is missing, truncated or not safetensors.
    """
    return read_tensors(path)[0]


def collect(
    modules: Mapping[str, torch.nn.Module], optimizer: torch.optim.Optimizer, trained: Mapping[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """Returns module and optimiser tensors under flat names: `model/<module>/<key>` and `optim/<slot>/<parameter>`.

    They are whole copies on the CPU; where something is sharded, all processes call this together.
    """
    tensors: dict[str, torch.Tensor] = {}
    for prefix, module in modules.items():
        # Copies, because safetensors refuses tied tensors (an LM head that is the embedding).
        tensors |= {f"model/{prefix}/{key}": value for key, value in whole_state(module).items()}
    for name, parameter in trained.items():
        for slot, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optim/{slot}/{name}"] = cpu_copy(torch.as_tensor(value))
    return tensors


def restore(
    tensors: Mapping[str, torch.Tensor],
    modules: Mapping[str, torch.nn.Module],
    optimizer: torch.optim.Optimizer,
    trained: Mapping[str, torch.nn.Parameter],
) -> None:
    """Puts tensors made by `collect` back, strictly; sharded or not, and whether or not they were."""
    for prefix, module in modules.items():
        head = f"model/{prefix}/"
        with loading_whole(module):
            module.load_state_dict({key[len(head) :]: value for key, value in tensors.items() if key.startswith(head)})
    for name, parameter in trained.items():
        state = {
            key.split("/", 2)[1]: value.clone()
            for key, value in tensors.items()
            if key.startswith("optim/") and key.split("/", 2)[2] == name
        }
        if state:
            optimizer.state[parameter] = {
                slot: spread_as(value, parameter) if value.ndim else value for slot, value in state.items()
            }


def save_state(path: Path, state: TrainingState, *, recipe: object) -> None:
    """Writes a training state together with the fingerprint of the recipe that made it."""
    metadata = {"ovbench": json.dumps({"step": state.step, "recipe": fingerprint(recipe)})}
    save_tensors(path, state.tensors, metadata)


def load_state(path: Path, *, recipe: object) -> TrainingState | None:
    """Reads a training state; None when there is none, or when it belongs to another recipe.

    Raises:
        DataError: The file is damaged.
    """
    if not path.is_file():
        return None
    tensors, metadata = read_tensors(path)
    header = json.loads(metadata.get("ovbench", "{}"))
    if header.get("recipe") != fingerprint(recipe):
        return None
    return TrainingState(tensors=tensors, step=int(header["step"]))
