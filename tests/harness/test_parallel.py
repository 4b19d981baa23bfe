"""The processes of a command: shares that come out even, and launches that cannot work are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ovbench._base.errors import ConfigError
from ovbench.harness.parallel import ALONE, Processes, open_processes


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of process 1 of 2, as a launcher sets it."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert open_processes("cpu") == Processes(rank=0, world_size=1, device=torch.device("cpu"))


def test_a_gpu_by_number_is_refused_under_a_launcher(launched: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'cuda:1' names one GPU for several processes") as caught:
        open_processes("cuda:1")
    assert caught.value.where == "--device"


def test_more_processes_than_gpus_are_refused(launched: pytest.MonkeyPatch) -> None:
    launched.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ConfigError, match="process 1 of this machine has no GPU: there are 1"):
        open_processes("cuda")


def test_shares_are_even_or_refused() -> None:
    assert Processes(world_size=4).share(64, "a batch") == 16
    with pytest.raises(ConfigError, match="a batch of 64 cannot be split over 3 processes") as caught:
        Processes(world_size=3).share(64, "a batch")
    assert caught.value.fix == "use a number of processes that divides 64"


def test_one_process_exchanges_nothing() -> None:
    module, value = nn.Linear(2, 2), torch.ones(2)
    assert ALONE.is_main
    assert not ALONE.several
    assert ALONE.data_parallel(module) is module
    assert ALONE.shard(module, [module]) is module
    assert type(module) is nn.Linear
    assert ALONE.mean(value) is value
    assert ALONE.broadcast("x") == "x"
    assert ALONE.gather("x") == ["x"]


@pytest.mark.parametrize("name", ["broadcast_buffers", "forward_sync_buffers"])
def test_buffers_are_not_broadcast_under_the_name_that_torch_knows(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """torch 2.13 has a new name for it, and warns of the old one."""
    found: dict[str, object] = {}

    class Old:
        def __init__(self, module, device_ids=None, broadcast_buffers=True, gradient_as_bucket_view=False) -> None:
            found.update(broadcast_buffers=broadcast_buffers)

    class New:
        def __init__(self, module, device_ids=None, forward_sync_buffers=None, gradient_as_bucket_view=False) -> None:
            found.update(forward_sync_buffers=forward_sync_buffers)

    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", Old if name == "broadcast_buffers" else New)
    Processes(world_size=2).data_parallel(nn.Linear(2, 2))
    assert found == {name: False}
