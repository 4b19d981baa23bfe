"""Weights that are spread over processes (FSDP2, `torch.distributed.fsdp.fully_shard`), and how they are whole again.

Contract: files hold whole tensors, so a run goes on with another number of processes, sharded or not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a part of a larger one (a DTensor)."""
    return hasattr(tensor, "full_tensor")  # the class itself takes a third of a second to import


def any_sharded(module: nn.Module) -> bool:
    """Whether a parameter of a module is."""
    return any(is_sharded(parameter) for parameter in module.parameters())


def whole(tensor: Tensor) -> Tensor:
    """Returns a tensor with all its parts, which all processes ask for together; one that has no parts as it is."""
    return cast(Any, tensor).full_tensor() if is_sharded(tensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """Returns this process's part, which shares memory; a tensor that has no parts as it is."""
    return cast(Any, tensor).to_local() if is_sharded(tensor) else tensor


def spread_as(value: Tensor, example: Tensor) -> Tensor:
    """Returns a whole tensor, equal on all processes, in the parts of another of its shape and on its device."""
    value = value.to(example.device)
    if not is_sharded(example):
        return value
    from torch.distributed.tensor import DTensor, Replicate

    mesh = cast(Any, example).device_mesh
    return DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False).redistribute(
        placements=cast(Any, example).placements
    )


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """Returns a module's state as whole copies on the CPU; of a sharded one all processes ask for it together."""
    return {key: cpu_copy(value) for key, value in module.state_dict().items()}


def cpu_copy(tensor: Tensor) -> Tensor:
    """Returns a whole copy on the CPU that later updates do not reach."""
    return whole(tensor.detach()).to("cpu", copy=True)


@contextlib.contextmanager
def loading_whole(module: nn.Module) -> Iterator[None]:
    """Lets `load_state_dict` put whole tensors, equal on all processes, into a sharded module."""
    hooks = [
        owner.register_load_state_dict_pre_hook(_spread)  # after the module's own hooks, which pad whole tensors
        for owner in module.modules()
        if any(is_sharded(parameter) for parameter in owner.parameters(recurse=False))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _spread(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Replaces whole tensors of a state dict by parts; those of another shape are left for the loader to refuse."""
    for name, parameter in module.named_parameters(recurse=False):
        value = state.get(prefix + name)
        if value is not None and is_sharded(parameter) and value.shape == parameter.shape:
            state[prefix + name] = spread_as(value, parameter)
