"""Weights in parts become whole again, and whole ones go back into parts; two real processes are elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import pytest
import torch
from torch import nn

from ovbench.encoders.modeling.sources import seeded
from ovbench.harness.checkpoint import collect, restore
from ovbench.harness.generation.blocks import SwiGLU
from ovbench.harness.sharding import any_sharded, cpu_copy, is_sharded, loading_whole, own_part, spread_as, whole


@pytest.fixture(scope="module", autouse=True)
def _group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A group of one process: all the machinery, and nobody to wait for."""
    path = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def plain() -> nn.Sequential:
    """A linear layer, and an MLP whose file has no padding: 5 of 8 wide."""
    return seeded(lambda: nn.Sequential(nn.Linear(3, 4), SwiGLU(4, 5, multiple=8)), 0)


def sharded() -> nn.Sequential:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    module = plain()
    fully_shard(module, mesh=init_device_mesh("cpu", (1,)))
    return module


def first_of(module: nn.Sequential) -> nn.Linear:
    return cast(nn.Linear, module[0])


def moved(module: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    module(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()
    return optimizer


def test_parts_are_told_from_whole_tensors() -> None:
    module = sharded()
    weight = first_of(module).weight
    assert is_sharded(weight)
    assert any_sharded(module)
    assert not any_sharded(plain())
    assert torch.equal(whole(weight), first_of(plain()).weight)
    assert whole(torch.ones(2)).tolist() == [1.0, 1.0]


def test_a_copy_does_not_follow_the_weights() -> None:
    for module in (plain(), sharded()):
        before = cpu_copy(first_of(module).bias)
        assert not is_sharded(before)
        with torch.no_grad():
            own_part(first_of(module).bias.data).add_(1.0)
        assert torch.equal(whole(first_of(module).bias.detach()), before + 1.0)


def test_whole_tensors_are_spread_as_another_one() -> None:
    parameter, value = first_of(sharded()).weight, torch.arange(12.0).reshape(4, 3)
    spread = spread_as(value, parameter)
    assert is_sharded(spread)
    assert torch.equal(whole(spread), value)
    assert spread_as(value, torch.ones(1)) is value


@pytest.mark.parametrize(("first", "second"), [(plain, sharded), (sharded, plain), (sharded, sharded)])
def test_a_checkpoint_is_the_same_sharded_or_not_and_goes_into_both(
    first: Callable[[], nn.Sequential], second: Callable[[], nn.Sequential]
) -> None:
    one = first()
    optimizer = moved(one)
    tensors = collect({"m": one}, optimizer, dict(one.named_parameters()))
    assert not any(is_sharded(tensor) for tensor in tensors.values())
    assert tensors["model/m/1.w12.weight"].shape == (10, 4)  # without the padding
    other = second()
    with torch.no_grad():
        for parameter in other.parameters():
            own_part(parameter.data).add_(7.0)
    target = torch.optim.AdamW(other.parameters(), lr=0.1)
    restore(tensors, {"m": other}, target, dict(other.named_parameters()))
    again = collect({"m": other}, target, dict(other.named_parameters()))
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def test_tensors_of_another_shape_are_refused_and_no_hook_is_left() -> None:
    module, state = sharded(), plain().state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"), loading_whole(module):
        module.load_state_dict({**state, "0.weight": torch.zeros(2, 3)})
    assert not module[0]._load_state_dict_pre_hooks
